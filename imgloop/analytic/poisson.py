"""A Poisson rate re-estimated from its own draws (Suresh et al. 2024; section 4.4 of Schaeffer et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from imgloop.analytic import theory
from imgloop.analytic.system import Quantity, System, only_in
from imgloop.pool import Pool, TrainingSet


@dataclass(frozen=True)
class Poisson(System):
    """Counts of true mean `rate`; the fit is the mean of the counts."""

    rate: float = 1.0

    quantities: ClassVar[dict[str, Quantity]] = {
        "rate": Quantity("rate", skewed=True),
        "squared_error": Quantity("squared error of the rate", skewed=True),
        "alive": Quantity("share with a rate above 0", kind="share"),
    }

    def __post_init__(self):
        super().__post_init__()
        only_in("rate", self.rate, 0, 1e9, "since a rate of 0 is collapsed from the start")

    def draw(self, n, rng):
        return Pool(rng.poisson(self.rate, (n, self.replicates, 1)))

    def fit(self, data: TrainingSet, task=None, previous=None) -> Fitted:
        return Fitted(data.samples().mean(0)[:, 0])

    def measure(self, f: Fitted):
        return {
            "rate": f.rate,
            "squared_error": (f.rate - self.rate) ** 2,
            "alive": (f.rate > 0).astype(float),
        }

    def theory(self, course, real):
        return {
            "rate": np.full(course.generations, self.rate),
            "squared_error": theory.second_moments(course, self.rate, constant=True).mean_square,
            "alive": theory.poisson_survival(course, self.rate),
        }

    def comparable(self, course, theory):
        """As long as dozens of replicates are alive, where it is known how many."""
        alive = theory["alive"]
        return dict.fromkeys(("rate", "squared_error"), np.isnan(alive) | (self.replicates * alive >= 50))


@dataclass(frozen=True)
class Fitted:
    """Rates (R,)."""

    rate: np.ndarray

    @property
    def absorbed(self) -> bool:
        return not self.rate.any()

    def sample(self, n, *, seed, progress=None) -> Pool:
        return Pool(np.random.default_rng(seed).poisson(self.rate, (n, len(self.rate)))[:, :, None])
