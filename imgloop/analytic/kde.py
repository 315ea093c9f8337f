"""A kernel density estimate of fixed bandwidth, refitted to its own samples (Kazdan et al. 2024; section 4.4 of
Schaeffer et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from imgloop.analytic import theory
from imgloop.analytic.system import Quantity, System, only_in
from imgloop.pool import Pool, TrainingSet


@dataclass(frozen=True)
class KernelDensity(System):
    """Gaussian kernels of `bandwidth` h on every training sample; the true law is N(0, 1)."""

    bandwidth: float = 0.3

    quantities: ClassVar[dict[str, Quantity]] = {
        "variance": Quantity("variance of the training set"),
        "mean_part": Quantity("squared error of the mean", skewed=True),
        "density_variance": Quantity("variance of the fitted density"),
    }

    def __post_init__(self):
        super().__post_init__()
        only_in("bandwidth", self.bandwidth, 0, 1e100, "since without width there is no density")

    def draw(self, n, rng):
        return Pool(rng.standard_normal((n, self.replicates, 1)))

    def fit(self, data: TrainingSet, task=None, previous=None) -> Fitted:
        return Fitted(data.samples()[:, :, 0], self.bandwidth)

    def measure(self, f: Fitted):
        variance = f.points.var(0)
        return {
            "variance": variance,
            "mean_part": f.points.mean(0) ** 2,
            "density_variance": variance + self.bandwidth**2,
        }

    def theory(self, course, real):
        moments = theory.second_moments(course, 1.0, kernel=self.bandwidth**2)
        return {
            "variance": moments.variance,
            "mean_part": moments.mean_square,
            "density_variance": moments.variance + self.bandwidth**2,
        }


@dataclass(frozen=True)
class Fitted:
    """Kernel centres (n, R) and their bandwidth; never absorbed, since each draw adds noise."""

    points: np.ndarray
    bandwidth: float
    absorbed: ClassVar[bool] = False

    def sample(self, n, *, seed, progress=None) -> Pool:
        rng = np.random.default_rng(seed)
        shape = (n, self.points.shape[1])
        centres = np.take_along_axis(self.points, rng.integers(len(self.points), size=shape), 0)
        return Pool((centres + self.bandwidth * rng.standard_normal(shape))[:, :, None])
