"""A Poisson rate estimated again and again from its own draws (Suresh et al. 2024; section 4.4 of Schaeffer et al.
2025)."""

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
class Poisson(System):
    """Counts of true mean `rate`; the fit is the mean of the counts."""

    rate: float = setting(1.0, above=0, below=1e9, why="since a rate of 0 is collapsed from the start")

    quantities: ClassVar[dict[str, Quantity]] = {
        "rate": Quantity("rate", skewed=True),
        "squared_error": Quantity("squared error of the rate", skewed=True),
        "alive": Quantity("share with a rate above 0", kind="share"),
    }

    def draw(self, n, rng):
        return Pool(rng.poisson(self.rate, (n, self.replicates, 1)))

    def fit(self, data: TrainingSet, task=None, previous=None) -> Fitted:
        return Fitted(data.samples().mean(0)[:, 0])

    def measure(self, f: Fitted) -> dict[str, np.ndarray]:
        return {
            "rate": f.rate,
            "squared_error": (f.rate - self.rate) ** 2,
            "alive": (f.rate > 0).astype(float),
        }

    def theory(self, course: Course, real: np.ndarray) -> ClosedForms:
        return {
            "rate": np.full(course.generations, self.rate),
            "squared_error": theory.second_moments(course, self.rate, constant=True).mean_square,
            "alive": theory.poisson_survival(course, self.rate),
        }

    def comparable(self, course: Course, theory: ClosedForms) -> dict[str, np.ndarray]:
        """As long as dozens of replicates are expected to be alive, where their number is known."""
        alive = theory["alive"]
        assert alive is not None
        enough = np.isnan(alive) | (self.replicates * alive >= 50)
        return {"rate": enough, "squared_error": enough}


@dataclass(frozen=True)
class Fitted:
    """Rates, float64 (R,)."""

    rate: np.ndarray

    @property
    def absorbed(self) -> bool:
        return not self.rate.any()

    def sample(self, n: int, *, seed: int, y: np.ndarray | None = None, progress: Progress = no_progress) -> Pool:
        return Pool(np.random.default_rng(seed).poisson(self.rate, (n, len(self.rate)))[:, :, None])
