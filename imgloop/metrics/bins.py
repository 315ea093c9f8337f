"""Modes of data without labels: k-means bins of real features, and in which of them generated samples are too few."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from imgloop.errors import UserError
from imgloop.metrics.frechet import as_features
from imgloop.metrics.neighbours import nearest2

MOST, EACH = 100, 20  # bins, and real samples that a bin is to count on average
FITTED, ROUNDS = 10_000, 30  # training samples at most, and rounds, of k-means
DRAWS = 200  # of both sides where nothing differs


@dataclass(frozen=True)
class BinScores:
    """Of `bins` in all, how many hold a share of samples `different` from the real one, and `fewer` than that;
    `covered` are those that hold any, and not fewer, and `covered_null` how many hold any where nothing differs.

    `kl`: KL(generated || real) of the bins' shares in nats, minus its expectation where nothing differs. `smallest`:
    the least ratio of a bin's share to its real one, and `smallest_null` what it is on average where nothing differs.
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

        Two sets, so that neither of the compared counts is of samples that placed the centres. `bins`: by default as
        many as leave 20 real samples a bin on average, 100 at most; a bin that no real sample falls into is joined to
        its nearest neighbour. Raises UserError on too few samples, different widths, wrong shape, NaN or infinity.
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
        """To be cached; `from_arrays` undoes it."""
        return {"centres": self.centres, "counts": self.counts}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> RealBins:
        return cls(np.array(arrays["centres"]), np.array(arrays["counts"]))


def bin_scores(real: RealBins, generated, *, alpha: float = 0.05) -> BinScores:
    """In which bins of `real` the share of `generated` features (M, D) differs from the real share.

    Fisher's exact test of two proportions in each bin, by Benjamini and Hochberg over the bins at a false-discovery
    rate of `alpha`. Raises UserError on different widths, wrong shape, NaN or infinity.
    Source: Richardson and Weiss 2018, section 3 (the number of statistically different bins).
    """
    from scipy.stats import false_discovery_control, fisher_exact

    y = as_features(generated, "generated", at_least=1, width=real.centres.shape[1])
    c, k = real.counts, len(real.counts)
    g, n, m = np.bincount(_bin(y, real.centres), minlength=k), int(real.counts.sum()), len(y)
    chance = [fisher_exact([[a, n - a], [b, m - b]])[1] for a, b in zip(c, g)]
    different = false_discovery_control(np.minimum(chance, 1.0)) <= alpha
    p, q = g / m, c / n
    hit = p > 0
    kl = float(np.sum(p[hit] * np.log(p[hit] / q[hit]))) - (k - 1) / 2 * (1 / m + 1 / n)
    fewer = different & (p < q)
    rng = np.random.default_rng(0)
    real_again, drawn = (rng.multinomial(size, q, size=DRAWS) / size for size in (n, m))
    null = np.divide(drawn, real_again, out=np.full_like(drawn, np.inf), where=real_again > 0).min(1).mean()
    return BinScores(
        k,
        different=int(different.sum()),
        fewer=int(fewer.sum()),
        covered=int((hit & ~fewer).sum()),
        covered_null=float((drawn > 0).sum(1).mean()),
        kl=kl,
        smallest=float((p / q).min()),
        smallest_null=float(null),
    )


def _first_centres(x: torch.Tensor, bins: int, rng) -> np.ndarray:
    """Rows of `x` (N, D), each drawn by its squared distance to those before it (Arthur and Vassilvitskii 2007)."""
    rows, left = [int(rng.integers(len(x)))], np.full(len(x), np.inf)
    while len(rows) < bins:
        left = np.minimum(left, nearest2(x, x[rows[-1:]], 1)[0][:, 0])
        if not left.any():  # fewer different rows than bins
            break
        rows.append(int(rng.choice(len(x), p=left / left.sum())))
    return x[rows].double().numpy()


def _bin(x: torch.Tensor, centres: np.ndarray) -> np.ndarray:
    return nearest2(x, torch.from_numpy(centres), 1)[1][:, 0]
