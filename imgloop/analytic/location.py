"""A Gaussian of known variance whose mean is refitted, with weights: what weighting and a verifier's bias do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from imgloop.analytic import theory
from imgloop.analytic.course import Course, compositions
from imgloop.analytic.system import ClosedForms, Quantity, System
from imgloop.contracts import Progress, no_progress
from imgloop.pool import Mix, Pool, TrainingSet


@dataclass(frozen=True)
class GaussianMean(System):
    """N(mu, 1), whose mean is the weighted mean of its training rows. The true law is N(0, 1)."""

    quantities: ClassVar[dict[str, Quantity]] = {
        "mean": Quantity("fitted mean"),
        "square": Quantity("risk: squared error of the mean", skewed=True),
    }
    weighted: ClassVar[bool] = True
    verified: ClassVar[bool] = True

    def draw(self, n, rng):
        return Pool(rng.standard_normal((n, self.replicates, 1)))

    def fit(self, data: TrainingSet, task=None, previous=None) -> Fitted:
        x = TrainingSet(data.pools, Mix(data.mix.origin, data.mix.row)).samples()[:, :, 0]
        return Fitted(np.average(x, axis=0, weights=data.mix.weight))

    def measure(self, f: Fitted) -> dict[str, np.ndarray]:
        return {"mean": f.mean, "square": f.mean**2}

    def theory(self, course: Course, real: np.ndarray) -> ClosedForms:
        if course.verifier is not None:
            return verified_mean(course, real[: course.n_initial, :, 0], real[:, :, 0])
        square = weighted_mean_square(course)
        return {"mean": None if square is None else np.zeros(course.generations), "square": square}


@dataclass(frozen=True)
class Fitted:
    """Means (R,), float64; samples have variance 1."""

    mean: np.ndarray
    absorbed: bool = False

    def sample(self, n: int, *, seed: int, y: np.ndarray | None = None, progress: Progress = no_progress) -> Pool:
        noise = np.random.default_rng(seed).standard_normal((n, len(self.mean)))
        return Pool((self.mean + noise)[:, :, None])


# -- Closed forms, derived in docs/theory.md --------------------------------------------------------------------------


def weighted_mean_square(course: Course) -> np.ndarray | None:
    """E mu_t², (G,), where real rows have the weight `real_weight`, for unit variance. With weights other than 1 for
    augment, fresh and replace with real data, whose mixes hold real rows and the newest pool; else None.

    Source: docs/theory.md, "Weighted real rows".
    """
    if course.real_weight is None:
        return theory.second_moments(course, 1.0, constant=True).mean_square
    if course.paradigm not in ("augment", "fresh", "replace"):
        return None
    square = np.zeros(course.generations)
    for t, mix in enumerate(compositions(course)):
        if t == 0:
            square[0] = 1 / mix.size
            continue
        r, s = mix.rows[0] + mix.fresh, mix.rows[-1]
        share = course.real_weight[t] * r / (course.real_weight[t] * r + s)  # of the weight
        both = 0.0 if course.paradigm == "fresh" else 1 / course.n_initial  # E of a real mean times mu_{t-1}
        own, old = (1 / r if r else 0.0), (square[t - 1] + 1 / s if s else 0.0)
        square[t] = share**2 * own + 2 * share * (1 - share) * both + (1 - share) ** 2 * old
    return square


def verified_mean(course: Course, initial: np.ndarray, real: np.ndarray) -> ClosedForms:
    """E mu_t and E mu_t² given the real rows, each (G, R), for replace without real data and accepted rows alone.

    initial: R, (N, R); real: all real rows (M, R), of which the verifier takes its reference. Rows of N(mu, 1) that are
    accepted with probability exp(-(x - c)² / (2 r²)) have the law N((r² mu + c) / (r² + 1), r² / (r² + 1)), so that
    E mu_t tends to c: to the verifier's bias. Source: docs/theory.md, "A verifier".
    """
    if not course.plain or course.verifier is None:
        return {"mean": None, "square": None}
    bias, radius = course.verifier
    scale = real.std(0)
    centre, shrink = real.mean(0) + bias * scale, (radius * scale) ** 2 / ((radius * scale) ** 2 + 1)
    mean, variance = np.empty((2, course.generations, initial.shape[1]))
    mean[0], variance[0] = initial.mean(0), 0.0
    for t in range(1, course.generations):
        mean[t] = centre + shrink * (mean[t - 1] - centre)
        variance[t] = shrink**2 * variance[t - 1] + shrink / course.drawn[t - 1]
    return {"mean": mean, "square": mean**2 + variance}
