"""A kernel density estimate of fixed bandwidth, refitted to its own samples (Kazdan et al. 2024; section 4.4 of
Schaeffer et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from imgloop.analytic import theory
from imgloop.analytic.course import Course
from imgloop.analytic.system import ClosedForms, Quantity, System
from imgloop.config.fields import setting
from imgloop.contracts import Progress, no_progress
from imgloop.pool import Pool, TrainingSet


@dataclass(frozen=True)
class KernelDensity(System):
    """Gaussian kernels of `bandwidth` h on every training sample; the true law is N(0, 1)."""

    bandwidth: float = setting(0.3, above=0, below=1e100, why="since a kernel of width 0 is no density")

    quantities: ClassVar[dict[str, Quantity]] = {
        "variance": Quantity("variance of the training set"),
        "mean_part": Quantity("squared error of the mean", skewed=True),
        "density_variance": Quantity("variance of the fitted density"),
    }

    def draw(self, n, rng):
        return Pool(rng.standard_normal((n, self.replicates, 1)))

    def fit(self, data: TrainingSet, task=None, previous=None) -> Fitted:
        return Fitted(data.samples()[:, :, 0], self.bandwidth)

    def measure(self, f: Fitted) -> dict[str, np.ndarray]:
        variance = f.points.var(0)
        return {
            "variance": variance,
            "mean_part": f.points.mean(0) ** 2,
            "density_variance": variance + self.bandwidth**2,
        }

    def theory(self, course: Course, real: np.ndarray) -> ClosedForms:
        moments = theory.second_moments(course, 1.0, kernel=self.bandwidth**2)
        assert moments.variance is not None, "R is random here, so both moments are known"
        return {
            "variance": moments.variance,
            "mean_part": moments.mean_square,
            "density_variance": moments.variance + self.bandwidth**2,
        }


@dataclass(frozen=True)
class Fitted:
    """Kernel centres, float64 (n, R), and their bandwidth; never absorbed, since each draw adds noise."""

    points: np.ndarray
    bandwidth: float
    absorbed: ClassVar[bool] = False

    def sample(self, n: int, *, seed: int, y: np.ndarray | None = None, progress: Progress = no_progress) -> Pool:
        rng = np.random.default_rng(seed)
        shape = (n, self.points.shape[1])
        centres = np.take_along_axis(self.points, rng.integers(len(self.points), size=shape), 0)
        return Pool((centres + self.bandwidth * rng.standard_normal(shape))[:, :, None])
