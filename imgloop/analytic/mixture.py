"""A symmetric mixture of two Gaussians refitted to its own samples (Suresh et al. 2024; section 4.4 of Schaeffer et
al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from imgloop.analytic import theory
from imgloop.analytic.course import Course
from imgloop.analytic.gaussian import Gaussian
from imgloop.analytic.system import ClosedForms, Quantity, System
from imgloop.config.fields import setting
from imgloop.contracts import Progress, no_progress
from imgloop.pool import Pool, TrainingSet


@dataclass(frozen=True)
class Mixture(System):
    """Half N(-separation, 1), half N(separation, 1).

    The fit is the approximate joint maximum likelihood that takes each sample's sign as its component: centre =
    mean |x|, sd² = mean x² - centre². It is exact where the components do not overlap.
    """

    separation: float = setting(3.0, above=0)
    threshold: float = setting(0.5, above=0)

    quantities: ClassVar[dict[str, Quantity]] = {
        "wide": Quantity("share wider than the threshold", kind="bound"),
        "sd": Quantity("standard deviation of a component"),
        "centre": Quantity("centre of a component"),
        "ambiguous": Quantity("share nearer the other mode"),
    }
    check = Gaussian.check

    def draw(self, n, rng):
        one = np.ones(self.replicates)
        return Fitted(self.separation * one, one).draw(n, rng)

    def fit(self, data: TrainingSet, task=None, previous=None) -> Fitted:
        size = np.abs(data.samples()[:, :, 0])
        return Fitted(size.mean(0), size.std(0))

    def measure(self, f: Fitted) -> dict[str, np.ndarray]:
        from scipy.special import ndtr

        with np.errstate(divide="ignore"):
            overlap = ndtr(-f.centre / np.where(f.sd > 0, f.sd, 1e-300))
        return {
            "wide": (f.sd > self.threshold).astype(float),
            "sd": f.sd,
            "centre": f.centre,
            "ambiguous": overlap,
        }

    def theory(self, course: Course, real: np.ndarray) -> ClosedForms:
        return {"wide": theory.mixture_bound(1.0, self.threshold, course)}


@dataclass(frozen=True)
class Fitted:
    """Centres and standard deviations of the components, float64 (R,)."""

    centre: np.ndarray
    sd: np.ndarray

    @property
    def absorbed(self) -> bool:
        return not self.sd.any()

    def draw(self, n: int, rng: np.random.Generator) -> Pool:
        shape = (n, len(self.sd))
        x = self.centre + self.sd * rng.standard_normal(shape)
        return Pool(np.where(rng.random(shape) < 0.5, x, -x)[:, :, None])

    def sample(self, n: int, *, seed: int, y: np.ndarray | None = None, progress: Progress = no_progress) -> Pool:
        return self.draw(n, np.random.default_rng(seed))
