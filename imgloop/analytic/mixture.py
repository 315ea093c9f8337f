"""A symmetric mixture of two Gaussians refitted to its own samples (Suresh et al. 2024; section 4.4 of Schaeffer et
al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from imgloop.analytic import theory
from imgloop.analytic.gaussian import Gaussian
from imgloop.analytic.system import Quantity, System, only_in
from imgloop.pool import Pool, TrainingSet


@dataclass(frozen=True)
class Mixture(System):
    """Half N(-separation, 1), half N(separation, 1).

    The fit is the approximate joint maximum likelihood that takes each sample's sign for its component: centre =
    mean |x|, sd² = mean x² - centre². It is exact where the components do not overlap.
    """

    separation: float = 3.0
    threshold: float = 0.5

    quantities: ClassVar[dict[str, Quantity]] = {
        "wide": Quantity("share wider than the threshold", kind="bound"),
        "sd": Quantity("standard deviation of a component"),
        "centre": Quantity("centre of a component"),
        "ambiguous": Quantity("share nearer the other mode"),
    }
    check = Gaussian.check

    def __post_init__(self):
        super().__post_init__()
        only_in("separation", self.separation, 0)
        only_in("threshold", self.threshold, 0)

    def draw(self, n, rng):
        one = np.ones(self.replicates)
        return Fitted(self.separation * one, one).drawn(n, rng)

    def fit(self, data: TrainingSet, task=None, previous=None) -> Fitted:
        size = np.abs(data.samples()[:, :, 0])
        return Fitted(size.mean(0), size.std(0))

    def measure(self, f: Fitted):
        from scipy.special import ndtr

        with np.errstate(divide="ignore"):
            overlap = ndtr(-f.centre / np.where(f.sd > 0, f.sd, 1e-300))
        return {
            "wide": (f.sd > self.threshold).astype(float),
            "sd": f.sd,
            "centre": f.centre,
            "ambiguous": overlap,
        }

    def theory(self, course, real):
        return {"wide": theory.mixture_bound(1.0, self.threshold, course)}


@dataclass(frozen=True)
class Fitted:
    """Centres and standard deviations (R,) of the components."""

    centre: np.ndarray
    sd: np.ndarray

    @property
    def absorbed(self) -> bool:
        return not self.sd.any()

    def drawn(self, n: int, rng: np.random.Generator) -> Pool:
        shape = (n, len(self.sd))
        x = self.centre + self.sd * rng.standard_normal(shape)
        return Pool(np.where(rng.random(shape) < 0.5, x, -x)[:, :, None])

    def sample(self, n, *, seed, progress=None) -> Pool:
        return self.drawn(n, np.random.default_rng(seed))
