"""Scores made for lost tails and hallucinations, with thresholds from held-out images that nothing else has touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from imgloop.errors import UserError
from imgloop.metrics.frechet import as_features
from imgloop.metrics.neighbours import nearest2

K = 5  # neighbours
LEAST_B, LEAST_A = 200, 50  # held-out samples for thresholds (the .9 quantile of fewer is too uncertain) and distances
TAIL, FAR, LEAST_RANK = 0.1, 0.001, 10  # shares of B beyond the two thresholds; samples of B beyond the upper at least

EMPTY_ZONE = "The real features take too few values: no held-out sample lies between the thresholds of the tail zone."


@dataclass(frozen=True)
class TailScores:
    """What the tails of a generated set hold; each rate with what it reads where nothing differs.

    `tail_mass`: share of samples in the tail zone over `zone_rate`, that of fresh real ones; 1 is expected there, with
    standard deviation `tail_mass_sd`, most of which all sets share that are held against the same real samples.
    `off_support`: share beyond the upper threshold; `null_rate` is expected of real samples, and `off_support_p` is the
    exact one-sided p-value. `ambiguity`, `ambiguity_p`: the same of samples between classes, None without centroids.
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
    """Held-out features split at random in A, to which distances are measured, and B, which gives the thresholds.

    `a`, `b`: rows of either; `features` of A. `score2`: squared distance of each of B to its k-th nearest of A.
    `ratio`: of B, see `ambiguity_of`; None without `centroids` (C, D). All float64 but for the features.
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
        """The real side of held-out `features` (N, D): max(200, N/2) of them go to B, the rest, 50 at least, to A.

        `centroids` (C, D), C of 2 or more, are those of `class_centroids`. Raises UserError on too few samples or
        classes, wrong shapes, NaN or infinity.
        """
        x = as_features(features, "real", at_least=1)
        if reason := too_few(len(x)):
            raise UserError(reason)
        order = np.random.default_rng([seed, 0]).permutation(len(x))
        count = max(LEAST_B, len(x) // 2)
        b, a = np.sort(order[:count]), np.sort(order[count:])
        if not 1 <= k <= len(a):
            raise UserError(f"k is {k}; it can be from 1 to the {len(a)} samples that distances are measured to.")
        score2 = nearest2(x[b], x[a], k)[0][:, -1]
        ratio = None
        if centroids is not None:
            centroids = as_features(centroids, "centroids'", at_least=2, width=x.shape[1]).double().numpy()
            ratio = ambiguity_of(x[b], centroids)
        return cls(a, b, x[a], score2, k, centroids, ratio)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything but the features, to be cached."""
        arrays = {"a": self.a, "b": self.b, "score2": self.score2, "k": np.array([self.k])}
        return arrays if self.centroids is None else {**arrays, "centroids": self.centroids, "ratio": self.ratio}

    @classmethod
    def from_arrays(cls, features, arrays: Mapping[str, np.ndarray]) -> RealTails:
        """Undoes `to_arrays`, with the features that it was made of."""
        a, b, score2 = (np.array(arrays[name]) for name in ("a", "b", "score2"))
        x = as_features(features, "real", at_least=len(a) + len(b))
        more = {name: np.array(arrays[name]) for name in ("centroids", "ratio") if name in arrays}
        return cls(a, b, x[torch.from_numpy(a)], score2, int(arrays["k"][0]), **more)

    @property
    def rank(self) -> int:
        """r: the upper threshold is the r-th largest score of B."""
        return max(LEAST_RANK, int(np.ceil(FAR * (len(self.b) + 1))))

    @property
    def null_rate(self) -> float:
        """Share of fresh real samples beyond the r-th largest of B, on average over B: r / (n_B + 1), exactly."""
        return self.rank / (len(self.b) + 1)

    @property
    def thresholds2(self) -> tuple[float, float]:
        """Squared lower and upper threshold of the distance to the k-th nearest of A."""
        falling = np.sort(self.score2)[::-1]
        return float(falling[int(TAIL * (len(self.b) + 1)) - 1]), float(falling[self.rank - 1])

    @property
    def zone(self) -> int:
        """Samples of B in the tail zone; 0 only where features take few values."""
        low, high = self.thresholds2
        return int(((self.score2 > low) & (self.score2 <= high)).sum())

    def scores(self, score2: np.ndarray, generated) -> TailScores:
        """The scores of `generated` features (M, D), whose squared distances to the k-th nearest of A are `score2`."""
        (low, high), m, n = self.thresholds2, len(score2), len(self.b)
        if not self.zone:
            raise UserError(EMPTY_ZONE)
        far, mass = int((score2 > high).sum()), int(((score2 > low) & (score2 <= high)).sum())
        ambiguous = None
        if self.ratio is not None:
            edge = np.sort(self.ratio)[-self.rank]
            ambiguous = int(
                (ambiguity_of(as_features(generated, "generated", at_least=1), self.centroids) > edge).sum()
            )
        rate = self.zone / (n + 1)
        spread = rate * (1 - rate) * (m + n + 1) / (m * (n + 2))  # of a beta-binomial share with these parameters
        return TailScores(
            tail_mass=mass / m / rate,
            tail_mass_sd=float(np.sqrt(spread) / rate),
            zone_rate=rate,
            off_support=far / m,
            off_support_p=self.p_value(far, m),
            null_rate=self.null_rate,
            ambiguity=None if ambiguous is None else ambiguous / m,
            ambiguity_p=None if ambiguous is None else self.p_value(ambiguous, m),
        )

    def p_value(self, count: int, m: int) -> float:
        """P(X >= count), X the number of `m` fresh real samples beyond the r-th largest of B.

        X is beta-binomial(m, r, n_B + 1 - r), which carries the threshold's own sampling error.
        """
        from scipy.stats import betabinom

        terms = betabinom.pmf(np.arange(count, m + 1), m, self.rank, len(self.b) + 1 - self.rank)
        return float(min(1.0, terms.sum()))  # 1 - cdf would cancel


def too_few(n: int) -> str | None:
    """Why `n` held-out samples do not carry tail scores, in a sentence; None where they do."""
    if n >= LEAST_A + LEAST_B:
        return None
    return (
        f"{n} held-out samples are too few for tail scores, which need {LEAST_B} for thresholds and {LEAST_A} to "
        f"measure distances to: add real images, or hold out more of them (data.heldout)."
    )


def tail_scores(real, generated, k: int = K, *, centroids=None, seed: int = 0) -> TailScores:
    """Tail mass, off-support rate and ambiguity of `generated` (M, D) against held-out `real` (N, D), or a `RealTails`.

    The score of a sample is its distance to the `k`-th nearest of A, one part of the real samples. B, the others, gives
    a lower threshold, its .9 quantile, and an upper one, its r-th largest score, r = max(10, .1 % of B): the tail zone
    lies between them, and what is beyond the upper one is off the support. `real` must not be what the generator was
    trained on: copies of such samples would be near by themselves. The zone holds what is rare among all samples: where
    modes differ in width it is mostly the widest one's, and the loss of the others' tails hardly moves it. Ambiguity is
    the distance to the nearest over the second-nearest of the class `centroids`, held against its own r-th largest of
    B. Raises UserError where `real` has under 250 samples, and on different widths, wrong shape, NaN or infinity.
    Source: the order-statistic null is that of conformal p-values, Vovk et al. 2005; Bates et al. 2023.
    """
    tails = real if isinstance(real, RealTails) else RealTails.of(real, k, centroids=centroids, seed=seed)
    y = as_features(generated, "generated", at_least=1, width=tails.features.shape[1])
    return tails.scores(nearest2(y, tails.features, tails.k)[0][:, -1], y)


def class_centroids(features, labels) -> np.ndarray:
    """Mean features of each class that occurs in `labels` (N,), by ascending label, float64 (C, D)."""
    x, labels = as_features(features, "real", at_least=1), np.asarray(labels)
    if labels.shape != (len(x),):
        raise UserError(f"There are {len(x)} real features and labels of shape {labels.shape}; expected one a sample.")
    return np.stack([x[torch.from_numpy(labels == c)].double().mean(0).numpy() for c in np.unique(labels)])


def ambiguity_of(features: torch.Tensor, centroids: np.ndarray) -> np.ndarray:
    """Distance to the nearest over that to the second-nearest centroid, of features (N, D), float64 (N,) in [0, 1]."""
    nearest = np.sqrt(nearest2(features, torch.from_numpy(centroids), 2)[0])
    return np.divide(nearest[:, 0], nearest[:, 1], out=np.ones(len(nearest)), where=nearest[:, 1] > 0)
