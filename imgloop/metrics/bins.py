"""Modes of data without labels: k-means bins of real features, and which of them hold too few generated samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from imgloop.errors import UserError
from imgloop.metrics.frechet import as_features
from imgloop.metrics.neighbours import nearest2

MOST, EACH = 100, 20  # largest number of bins; real samples a bin on average
FITTED, ROUNDS = 10_000, 30  # of k-means: largest number of training samples; iterations
DRAWS = 200  # simulated pairs of sets of one distribution


@dataclass(frozen=True)
class BinScores:
    """Of `bins` in all: bins whose share of samples is `different` from the real share, and smaller (`fewer`); bins
    `covered`, which hold samples and not fewer. Null means that both sides have one distribution.

    `covered_null`: expected number of bins that hold samples under the null. `kl`: KL(generated || real) of the bins'
    shares in nats, minus its expectation under the null. `smallest`: smallest ratio of a bin's share to its real share;
    `smallest_null`: its expectation under the null.
    """

    bins: int
    different: int
    fewer: int
    covered: int
    covered_null: float
    kl: float
    smallest: float
    smallest_null: float


@dataclass(frozen=True)
class RealBins:
    """Centres (K, D) of the bins, float64, and the real samples in each, int64 (K,)."""

    centres: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, train, real, bins: int | None = None, *, seed: int = 0) -> RealBins:
        """Bins by k-means of `train` features (T, D), counted on other real ones, `real` (N, D).

        The sets differ, so that neither of the compared counts is of samples that placed the centres. `bins`: by
        default as many as give 20 real samples a bin on average, 100 at most; a bin without real samples is removed.
        Raises UserError on too few samples, different widths, wrong shape, NaN or infinity.
        """
        from scipy.cluster.vq import kmeans2

        x = as_features(real, "real", at_least=2 * EACH)
        fit = as_features(train, "training", at_least=2, width=x.shape[1])
        bins = min(MOST, len(x) // EACH, len(fit)) if bins is None else bins
        if not 2 <= bins <= min(len(x), len(fit)):
            raise UserError(f"bins is {bins}; with {len(x)} real samples it can be 2 to {min(len(x), len(fit))}.")
        rng = np.random.default_rng([seed, 0])
        fit = fit[np.sort(rng.permutation(len(fit))[:FITTED])]
        centres, _ = kmeans2(fit.double().numpy(), _first_centres(fit, bins, rng), ROUNDS, minit="matrix")
        counts = np.bincount(_bin(x, centres), minlength=len(centres))
        while (counts == 0).any():
            centres = centres[counts > 0]
            counts = np.bincount(_bin(x, centres), minlength=len(centres))
        return cls(centres, counts)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays for the cache; `from_arrays` reads them."""
        return {"centres": self.centres, "counts": self.counts}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> RealBins:
        return cls(np.array(arrays["centres"]), np.array(arrays["counts"]))


def bin_scores(real: RealBins, generated, *, alpha: float = 0.05) -> BinScores:
    """In which bins of `real` the share of `generated` features (M, D) differs from the real share.

    Fisher's exact test of two proportions in each bin, with the procedure of Benjamini and Hochberg at a
    false-discovery rate of `alpha`. Raises UserError on different widths, wrong shape, NaN or infinity.
    Source: Richardson and Weiss 2018, section 3 (the number of statistically different bins).
    """
    from scipy.stats import false_discovery_control, fisher_exact

    y = as_features(generated, "generated", at_least=1, width=real.centres.shape[1])
    c, k = real.counts, len(real.counts)
    g, n, m = np.bincount(_bin(y, real.centres), minlength=k), int(real.counts.sum()), len(y)
    tests: list[Any] = [fisher_exact([[a, n - a], [b, m - b]]) for a, b in zip(c, g)]
    p_values = np.array([test.pvalue for test in tests], float)
    different = false_discovery_control(np.minimum(p_values, 1.0)) <= alpha
    p, q = g / m, c / n
    hit = p > 0
    kl = float(np.sum(p[hit] * np.log(p[hit] / q[hit]))) - (k - 1) / 2 * (1 / m + 1 / n)
    fewer = different & (p < q)
    rng = np.random.default_rng(0)
    real_null, generated_null = (rng.multinomial(size, q, size=DRAWS) / size for size in (n, m))
    ratios = np.divide(generated_null, real_null, out=np.full_like(generated_null, np.inf), where=real_null > 0)
    return BinScores(
        k,
        different=int(different.sum()),
        fewer=int(fewer.sum()),
        covered=int((hit & ~fewer).sum()),
        covered_null=float((generated_null > 0).sum(1).mean()),
        kl=kl,
        smallest=float((p / q).min()),
        smallest_null=float(ratios.min(1).mean()),
    )


def _first_centres(x: torch.Tensor, bins: int, rng) -> np.ndarray:
    """k-means++: rows of `x` (N, D), each drawn in proportion to its squared distance to the nearest row drawn before
    (Arthur and Vassilvitskii 2007)."""
    rows, distances2 = [int(rng.integers(len(x)))], np.full(len(x), np.inf)
    while len(rows) < bins:
        distances2 = np.minimum(distances2, nearest2(x, x[rows[-1:]], 1)[0][:, 0])
        if not distances2.any():  # fewer different rows than bins
            break
        rows.append(int(rng.choice(len(x), p=distances2 / distances2.sum())))
    return x[rows].double().numpy()


def _bin(x: torch.Tensor, centres: np.ndarray) -> np.ndarray:
    return nearest2(x, torch.from_numpy(centres), 1)[1][:, 0]
