"""How a classifier errs on held-out real data, and what its counts say once that is taken into account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imgloop.errors import UserError

STEPS, CLOSE = (
    20_000,
    1e-8,
)  # of the least-squares solver: the most, reached only by nearly singular errors; change of p

MORE = 2.0  # errors a class that were not seen


@dataclass(frozen=True)
class Confusion:
    """Rates at which true classes are read as others, one matrix a part of the label; parts are read independently.

    `rates`: each float64 (B, k, k), rows true and summing to 1, in B draws (1 for the estimate itself); `counts`: the
    integer matrices (k, k) that they were estimated of, or None. An ordinary label is one part; a mode of stacked
    digits three, whose product is the confusion of the 1,000 modes and is never formed.
    """

    rates: tuple[np.ndarray, ...]
    counts: tuple[np.ndarray, ...] | None = None

    @classmethod
    def perfect(cls, classes: int) -> Confusion:
        """Of a classifier that never errs."""
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
        """From one matrix of counts (k, k), or one for each part of the label; a class never seen is taken as right."""
        counts = [np.asarray(c) for c in ([counts] if np.ndim(counts[0]) == 1 else counts)]
        for c in counts:
            if c.ndim != 2 or c.shape[0] != c.shape[1] or c.dtype.kind not in "iu" or (c < 0).any():
                raise UserError(f"Confusions must be integers from 0 up, (K, K); got {c.dtype} {c.shape}.")
        filled = [c + np.diag(c.sum(1) == 0) for c in counts]
        return cls(tuple((c / c.sum(1, keepdims=True))[None] for c in filled), tuple(counts))

    def drawn(self, rng, draws: int, unseen: bool = False) -> Confusion:
        """`draws` rates that the counts leave possible: rows from Dirichlet laws (the Bayesian bootstrap, Rubin 1981).

        With `unseen` they leave errors possible that were not seen: as many as a class has on average, from one half to
        two, are shared evenly among its possible ones, and so at most double the errors where all are few.
        """
        if self.counts is None:
            return self
        drawn = []
        for c in self.counts:
            k = len(c)
            weight = c + np.diag(c.sum(1) == 0).astype(float)
            if unseen and k > 1:
                errors = max(0.5, min(MORE, (c.sum() - c.trace()) / k))
                weight += np.where(np.eye(k, dtype=bool), 0.5, errors / (k - 1))
            gamma = rng.standard_gamma(np.broadcast_to(weight, (draws, k, k)))  # 0 stays 0
            drawn.append(gamma / gamma.sum(2, keepdims=True))
        return Confusion(tuple(drawn))

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
        """The part of what is read as each mode that other modes made, (B, K), for true shares (B, K)."""
        return np.maximum(self.read(shares) - shares * self.correct, 0)

    def corrected(self, observed: np.ndarray) -> np.ndarray:
        """Shares p (B, K), from 0 up and of sum 1, that minimise |C'p - f|^2 for the `observed` shares f (B, K).

        By projected gradients with momentum (Beck and Teboulle 2009), restarted where they overshoot.
        """
        step = 1 / np.prod([r.sum(1).max() for r in self.rates])  # |C|_2^2 <= |C|_1 |C|_inf, whose rows sum to 1
        p = ahead = _onto_simplex(observed)
        t = 1.0
        for _ in range(STEPS):
            new = _onto_simplex(ahead - step * self.read(self.read(ahead) - observed, transposed=True))
            if np.abs(new - p).max() < CLOSE and np.abs(new - ahead).max() < CLOSE:
                return new
            faster = (1 + np.sqrt(1 + 4 * t * t)) / 2
            if ((ahead - new) * (new - p)).sum() > 0:
                t = faster = 1.0
            p, ahead, t = new, new + (t - 1) / faster * (new - p), faster
        return p


def _onto_simplex(v: np.ndarray) -> np.ndarray:
    """The nearest point of the simplex to each row of `v` (B, K) (Held, Wolfe and Crowder 1974)."""
    falling = -np.sort(-v, axis=1)
    excess = (falling.cumsum(1) - 1) / np.arange(1, v.shape[1] + 1)
    last = (falling > excess).sum(1) - 1
    return np.maximum(v - excess[np.arange(len(v)), last][:, None], 0)
