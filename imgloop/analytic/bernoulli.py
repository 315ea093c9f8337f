"""A coin's probability re-estimated from its own tosses (Suresh et al. 2024; section 4.4 of Schaeffer et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from imgloop.analytic import theory
from imgloop.analytic.discrete import timescale
from imgloop.analytic.system import Quantity, System, only_in
from imgloop.pool import Pool, TrainingSet


@dataclass(frozen=True)
class Bernoulli(System):
    """Tosses of true probability `p`; the fit is the share of ones."""

    p: float = 0.5

    quantities: ClassVar[dict[str, Quantity]] = {
        "p": Quantity("probability"),
        "variance": Quantity("p (1 - p)"),
        "collapsed": Quantity("share collapsed to 0 or 1", kind="share"),
        "alive": Quantity("share not collapsed", kind="bound"),
    }

    def __post_init__(self):
        super().__post_init__()
        only_in("p", self.p, 0, 1, "since 0 and 1 are collapsed from the start")

    def draw(self, n, rng):
        return tossed(np.full(self.replicates, self.p), n, rng)

    def fit(self, data: TrainingSet, task=None, previous=None) -> Fitted:
        return Fitted(data.samples().mean(0)[:, 0])

    def measure(self, f: Fitted):
        alive = ((f.p > 0) & (f.p < 1)).astype(float)
        return {"p": f.p, "variance": f.p * (1 - f.p), "collapsed": 1 - alive, "alive": alive}

    def theory(self, course, real):
        law = np.array([1 - self.p, self.p])
        return {
            "p": np.full(course.generations, self.p),
            "variance": theory.second_moments(course, self.p * (1 - self.p)).variance,
            "collapsed": theory.outcomes(course, law).collapsed,
            "alive": theory.bernoulli_bound(course, self.p),
        }

    def comparable(self, course, theory):
        """As long as dozens of replicates are not collapsed: their share is no less than four times p (1 - p)."""
        return {"variance": self.replicates * theory["variance"] >= 10}

    def timescale(self, course, values):
        return timescale(course, np.array([1 - self.p, self.p]), values["collapsed"])


@dataclass(frozen=True)
class Fitted:
    """Probabilities (R,)."""

    p: np.ndarray

    @property
    def absorbed(self) -> bool:
        return not (self.p * (1 - self.p)).any()

    def sample(self, n, *, seed, progress=None) -> Pool:
        return tossed(self.p, n, np.random.default_rng(seed))


def tossed(p: np.ndarray, n: int, rng: np.random.Generator) -> Pool:
    """`n` tosses for each probability (R,), int8 (n, R, 1)."""
    return Pool((rng.random((n, len(p))) < p).astype(np.int8)[:, :, None])
