"""The errors of a classifier on held-out real data, and class shares corrected for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imgloop.errors import UserError

STEPS = 20_000  # of the least-squares solver at most; only nearly singular confusions need as many
CLOSE = 1e-8  # change of p at which the solver stops
MORE = 2.0  # unseen errors a class, at most


@dataclass(frozen=True)
class Confusion:
    """Confusion rates of true and predicted classes, one matrix per part of the label; parts are read independently.

    `rates`: each float64 (B, k, k), rows are true classes and sum to 1, B draws (1 for the estimate itself); `counts`:
    the integer matrices (k, k) that they were estimated from, or None. An ordinary label has one part; a mode of
    stacked digits has three, whose Kronecker product, the confusion of the 1,000 modes, is never formed.
    """

    rates: tuple[np.ndarray, ...]
    counts: tuple[np.ndarray, ...] | None = None

    @classmethod
    def perfect(cls, classes: int) -> Confusion:
        """The confusion of a classifier without errors."""
        return cls((np.eye(classes)[None],))

    @classmethod
    def of(cls, true: Sequence, predicted: Sequence, classes: Sequence[int]) -> Confusion:
        """From integer labels (N,), true and predicted, and the number of classes, for each part of the label."""
        counts = []
        for t, p, k in zip(true, predicted, classes, strict=True):
            t, p = np.asarray(t), np.asarray(p)
            if t.shape != p.shape or t.ndim != 1 or min(t.min(), p.min()) < 0 or max(t.max(), p.max()) >= k:
                raise UserError(f"True and predicted labels must be one row each of integers from 0 to {k - 1}.")
            counts.append(np.bincount(k * t + p, minlength=k * k).reshape(k, k))
        return cls.of_counts(counts)

    @classmethod
    def of_counts(cls, counts) -> Confusion:
        """From one matrix of counts (k, k), or one for each part of the label; a class without samples counts as always
        right."""
        counts = [np.asarray(c) for c in ([counts] if np.ndim(counts[0]) == 1 else counts)]
        for c in counts:
            if c.ndim != 2 or c.shape[0] != c.shape[1] or c.dtype.kind not in "iu" or (c < 0).any():
                raise UserError(f"Confusion counts must be integers (K, K) of at least 0; got {c.dtype} {c.shape}.")
        filled = [c + np.diag(c.sum(1) == 0) for c in counts]
        return cls(tuple((c / c.sum(1, keepdims=True))[None] for c in filled), tuple(counts))

    def drawn(self, rng, draws: int, unseen: bool = False) -> Confusion:
        """`draws` rates from the posterior given the counts: rows are Dirichlet (the Bayesian bootstrap, Rubin 1981).

        `unseen` adds errors that were not observed: the mean number of errors per class, between 1/2 and 2, is spread
        evenly over the wrong classes of each row.
        """
        if self.counts is None:
            return self
        rates = []
        for c in self.counts:
            k = len(c)
            weight = c + np.diag(c.sum(1) == 0).astype(float)
            if unseen and k > 1:
                errors = max(0.5, min(MORE, (c.sum() - c.trace()) / k))
                weight += np.where(np.eye(k, dtype=bool), 0.5, errors / (k - 1))
            gamma = rng.standard_gamma(np.broadcast_to(weight, (draws, k, k)))  # 0 stays 0
            rates.append(gamma / gamma.sum(2, keepdims=True))
        return Confusion(tuple(rates))

    @property
    def cells(self) -> int:
        """Rates in one draw."""
        return sum(r.shape[1] ** 2 for r in self.rates)

    @property
    def modes(self) -> int:
        return int(np.prod([r.shape[1] for r in self.rates]))

    @property
    def correct(self) -> np.ndarray:
        """Rate at which each mode is read as itself, (B, K)."""
        out = np.ones((len(self.rates[0]), 1))
        for r in self.rates:
            out = (out[:, :, None] * r.diagonal(axis1=1, axis2=2)[:, None]).reshape(len(out), -1)
        return out

    def read(self, shares: np.ndarray, transposed: bool = False) -> np.ndarray:
        """Shares (B, K) of the modes as the classifier reads them: C'p; C r where `transposed`."""
        sizes = [r.shape[1] for r in self.rates]
        out = shares.reshape(len(shares), *sizes)
        for axis, r in enumerate(self.rates, 1):
            last = np.moveaxis(out, axis, -1)
            rows = last.reshape(len(last), -1, last.shape[-1]) @ (r.swapaxes(1, 2) if transposed else r)
            out = np.moveaxis(rows.reshape(*last.shape), -1, axis)
        return out.reshape(len(out), -1)

    def confused(self, shares: np.ndarray) -> np.ndarray:
        """Share of samples that are read as each mode but belong to others, (B, K), for true shares (B, K)."""
        return np.maximum(self.read(shares) - shares * self.correct, 0)

    def corrected(self, observed: np.ndarray) -> np.ndarray:
        """Shares p (B, K) on the simplex that minimise |C'p - f|^2 for the `observed` shares f (B, K).

        Projected gradient descent with momentum (Beck and Teboulle 2009), restarted when it overshoots.
        """
        step = 1 / np.prod([r.sum(1).max() for r in self.rates])  # |C|_2^2 <= |C|_1 |C|_inf, and |C|_inf = 1
        p = ahead = _onto_simplex(observed)
        t = 1.0
        for _ in range(STEPS):
            new = _onto_simplex(ahead - step * self.read(self.read(ahead) - observed, transposed=True))
            if np.abs(new - p).max() < CLOSE and np.abs(new - ahead).max() < CLOSE:
                return new
            t_next = (1 + np.sqrt(1 + 4 * t * t)) / 2
            if ((ahead - new) * (new - p)).sum() > 0:
                t = t_next = 1.0
            p, ahead, t = new, new + (t - 1) / t_next * (new - p), t_next
        return p


def _onto_simplex(v: np.ndarray) -> np.ndarray:
    """The point of the simplex nearest to each row of `v` (B, K) (Held, Wolfe and Crowder 1974)."""
    descending = -np.sort(-v, axis=1)
    excess = (descending.cumsum(1) - 1) / np.arange(1, v.shape[1] + 1)
    last = (descending > excess).sum(1) - 1
    return np.maximum(v - excess[np.arange(len(v)), last][:, None], 0)
