"""Scores for lost tails and hallucinations, with thresholds from held-out images that are used for nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from imgloop.errors import UserError
from imgloop.metrics.frechet import as_features
from imgloop.metrics.neighbours import nearest2

K = 5  # neighbours
# Smallest numbers of held-out samples for thresholds (the .9 quantile of fewer is too uncertain) and for distances.
LEAST_B, LEAST_A = 200, 50
# Shares of B beyond the two thresholds; smallest number of samples of B beyond the upper one.
TAIL, FAR, LEAST_RANK = 0.1, 0.001, 10

EMPTY_ZONE = "The real features have too few values: no held-out sample lies between the thresholds of the tail zone."


@dataclass(frozen=True)
class TailScores:
    """Tail scores of a generated set, each with its expected value for fresh real samples (the null).

    `tail_mass`: share of samples in the tail zone over `zone_rate`, the expected share of real samples; under the null
    its mean is 1 and its standard deviation `tail_mass_sd`, most of which is common to all sets that are compared with
    the same real samples. `off_support`: share beyond the upper threshold, under the null `null_rate`; `off_support_p`
    is its exact one-sided p-value. `ambiguity`, `ambiguity_p`: the same for samples between classes, None without
    centroids.
    """

    tail_mass: float
    tail_mass_sd: float
    zone_rate: float
    off_support: float
    off_support_p: float
    null_rate: float
    ambiguity: float | None
    ambiguity_p: float | None


@dataclass(frozen=True)
class RealTails:
    """Held-out features split at random into A, to which distances are measured, and B, which sets the thresholds.

    `a`, `b`: row indices of A and B; `features`: of A. `score2`: squared distance of each sample of B to its k-th
    nearest of A. `ratio`: `ambiguity_of` B; None without `centroids` (C, D). Arrays of reals are float64, features as
    given.
    """

    a: np.ndarray
    b: np.ndarray
    features: torch.Tensor
    score2: np.ndarray
    k: int = K
    centroids: np.ndarray | None = None
    ratio: np.ndarray | None = None

    @classmethod
    def of(cls, features, k: int = K, *, centroids=None, seed: int = 0) -> RealTails:
        """The real side of held-out `features` (N, D): max(200, N/2) rows form B, the others, at least 50, form A.

        `centroids` (C, D), C >= 2: see `class_centroids`. Raises UserError on too few samples or classes, wrong shapes,
        NaN or infinity.
        """
        x = as_features(features, "real", at_least=1)
        if reason := too_few(len(x)):
            raise UserError(reason)
        order = np.random.default_rng([seed, 0]).permutation(len(x))
        count = max(LEAST_B, len(x) // 2)
        b, a = np.sort(order[:count]), np.sort(order[count:])
        if not 1 <= k <= len(a):
            raise UserError(
                f"k is {k}; it can be from 1 to {len(a)}, the number of samples that distances are measured to."
            )
        score2 = nearest2(x[b], x[a], k)[0][:, -1]
        ratio = None
        if centroids is not None:
            centroids = as_features(centroids, "centroids'", at_least=2, width=x.shape[1]).double().numpy()
            ratio = ambiguity_of(x[b], centroids)
        return cls(a, b, x[a], score2, k, centroids, ratio)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything except the features, for the cache."""
        arrays = {"a": self.a, "b": self.b, "score2": self.score2, "k": np.array([self.k])}
        more = {"centroids": self.centroids, "ratio": self.ratio}
        return arrays | {name: array for name, array in more.items() if array is not None}

    @classmethod
    def from_arrays(cls, features, arrays: Mapping[str, np.ndarray]) -> RealTails:
        """Reads `to_arrays`, given the features that it was computed from."""
        a, b, score2 = (np.array(arrays[name]) for name in ("a", "b", "score2"))
        x = as_features(features, "real", at_least=len(a) + len(b))
        classes = {name: np.array(arrays[name]) for name in ("centroids", "ratio") if name in arrays}
        return cls(a, b, x[torch.from_numpy(a)], score2, int(arrays["k"][0]), **classes)

    @property
    def rank(self) -> int:
        """r: the upper threshold is the r-th largest score of B."""
        return max(LEAST_RANK, int(np.ceil(FAR * (len(self.b) + 1))))

    @property
    def null_rate(self) -> float:
        """Expected share of fresh real samples beyond the r-th largest of B: r / (n_B + 1), exactly."""
        return self.rank / (len(self.b) + 1)

    @property
    def thresholds2(self) -> tuple[float, float]:
        """Squared lower and upper threshold of the distance to the k-th nearest of A."""
        descending = np.sort(self.score2)[::-1]
        return float(descending[int(TAIL * (len(self.b) + 1)) - 1]), float(descending[self.rank - 1])

    @property
    def zone(self) -> int:
        """Number of samples of B in the tail zone; 0 only if features have few distinct values."""
        low, high = self.thresholds2
        return int(((self.score2 > low) & (self.score2 <= high)).sum())

    def scores(self, score2: np.ndarray, generated) -> TailScores:
        """The scores of `generated` features (M, D), whose squared distances to the k-th nearest of A are `score2`."""
        (low, high), m, n = self.thresholds2, len(score2), len(self.b)
        if not self.zone:
            raise UserError(EMPTY_ZONE)
        far, mass = int((score2 > high).sum()), int(((score2 > low) & (score2 <= high)).sum())
        ambiguous = None
        if self.ratio is not None and self.centroids is not None:
            threshold = np.sort(self.ratio)[-self.rank]
            ratio = ambiguity_of(as_features(generated, "generated", at_least=1), self.centroids)
            ambiguous = int((ratio > threshold).sum())
        rate = self.zone / (n + 1)
        variance = rate * (1 - rate) * (m + n + 1) / (m * (n + 2))  # of a beta-binomial share with these parameters
        return TailScores(
            tail_mass=mass / m / rate,
            tail_mass_sd=float(np.sqrt(variance) / rate),
            zone_rate=rate,
            off_support=far / m,
            off_support_p=self.p_value(far, m),
            null_rate=self.null_rate,
            ambiguity=None if ambiguous is None else ambiguous / m,
            ambiguity_p=None if ambiguous is None else self.p_value(ambiguous, m),
        )

    def p_value(self, count: int, m: int) -> float:
        """P(X >= count), where X of `m` fresh real samples lie beyond the r-th largest of B.

        X is beta-binomial(m, r, n_B + 1 - r), which includes the sampling error of the threshold.
        """
        from scipy.stats import betabinom

        terms = betabinom.pmf(np.arange(count, m + 1), m, self.rank, len(self.b) + 1 - self.rank)
        return float(min(1.0, terms.sum()))  # 1 - cdf would lose precision by cancellation


def too_few(n: int) -> str | None:
    """Why `n` held-out samples are too few for tail scores, in a sentence; None if they are enough."""
    if n >= LEAST_A + LEAST_B:
        return None
    return (
        f"{n} held-out samples are too few for tail scores, which need {LEAST_B} for thresholds and {LEAST_A} to "
        "measure distances to: add real images, or hold out more of them (data.heldout)."
    )


def tail_scores(real, generated, k: int = K, *, centroids=None, seed: int = 0) -> TailScores:
    """Tail mass, off-support rate and ambiguity of `generated` (M, D) against held-out `real` (N, D), or a `RealTails`.

    The score of a sample is its distance to the `k`-th nearest of A, one part of the real samples. The other part, B,
    sets a lower threshold, its .9 quantile, and an upper one, its r-th largest score, r = max(10, .1 % of B): the tail
    zone lies between them, and samples beyond the upper one are off the support. `real` must not contain training
    images of the generator, since copies of these would be near. The zone contains samples that are rare among all: if
    modes differ in width, it mostly belongs to the widest, and lost tails of the others hardly change it. Ambiguity is
    the ratio of the distances to the nearest and the second-nearest of the class `centroids`; its threshold is the r-th
    largest ratio in B. Raises UserError if `real` has fewer than 250 samples, and on different widths, wrong shape, NaN
    or infinity. Source: the null is that of conformal p-values, Vovk et al. 2005; Bates et al. 2023.
    """
    tails = real if isinstance(real, RealTails) else RealTails.of(real, k, centroids=centroids, seed=seed)
    y = as_features(generated, "generated", at_least=1, width=tails.features.shape[1])
    return tails.scores(nearest2(y, tails.features, tails.k)[0][:, -1], y)


def class_centroids(features, labels) -> np.ndarray:
    """Mean features of each class that occurs in `labels` (N,), by ascending label, float64 (C, D)."""
    x, labels = as_features(features, "real", at_least=1), np.asarray(labels)
    if labels.shape != (len(x),):
        raise UserError(
            f"There are {len(x)} real features and labels of shape {labels.shape}; expected one per sample."
        )
    return np.stack([x[torch.from_numpy(labels == c)].double().mean(0).numpy() for c in np.unique(labels)])


def ambiguity_of(features: torch.Tensor, centroids: np.ndarray) -> np.ndarray:
    """Distance to the nearest over distance to the second-nearest centroid, for features (N, D), float64 (N,) in
    [0, 1]."""
    nearest = np.sqrt(nearest2(features, torch.from_numpy(centroids), 2)[0])
    return np.divide(nearest[:, 0], nearest[:, 1], out=np.ones(len(nearest)), where=nearest[:, 1] > 0)
