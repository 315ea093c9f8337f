"""A coin's probability estimated again and again from its own tosses (Suresh et al. 2024; section 4.4 of Schaeffer et
al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from imgloop.analytic import theory
from imgloop.analytic.course import Course
from imgloop.analytic.discrete import timescale
from imgloop.analytic.system import ClosedForms, Quantity, System
from imgloop.config.fields import setting
from imgloop.contracts import Progress, no_progress
from imgloop.pool import Pool, TrainingSet


@dataclass(frozen=True)
class Bernoulli(System):
    """Tosses of true probability `p`; the fit is the share of ones."""

    p: float = setting(0.5, above=0, below=1, why="since 0 and 1 are collapsed from the start")

    quantities: ClassVar[dict[str, Quantity]] = {
        "p": Quantity("probability"),
        "variance": Quantity("p (1 - p)"),
        "collapsed": Quantity("share collapsed to 0 or 1", kind="share"),
        "alive": Quantity("share not collapsed", kind="bound"),
    }

    def draw(self, n, rng):
        return tosses(np.full(self.replicates, self.p), n, rng)

    def fit(self, data: TrainingSet, task=None, previous=None) -> Fitted:
        return Fitted(data.samples().mean(0)[:, 0])

    def measure(self, f: Fitted) -> dict[str, np.ndarray]:
        alive = ((f.p > 0) & (f.p < 1)).astype(float)
        return {"p": f.p, "variance": f.p * (1 - f.p), "collapsed": 1 - alive, "alive": alive}

    def theory(self, course: Course, real: np.ndarray) -> ClosedForms:
        law = np.array([1 - self.p, self.p])
        return {
            "p": np.full(course.generations, self.p),
            "variance": theory.second_moments(course, self.p * (1 - self.p)).variance,
            "collapsed": theory.outcomes(course, law).collapsed,
            "alive": theory.bernoulli_bound(course, self.p),
        }

    def comparable(self, course: Course, theory: ClosedForms) -> dict[str, np.ndarray]:
        """As long as dozens of replicates are expected not to be collapsed: their expected share is at least four times
        p (1 - p)."""
        variance = theory["variance"]
        assert variance is not None
        return {"variance": self.replicates * variance >= 10}

    def timescale(self, course, values):
        return timescale(course, np.array([1 - self.p, self.p]), values["collapsed"])


@dataclass(frozen=True)
class Fitted:
    """Probabilities, float64 (R,)."""

    p: np.ndarray

    @property
    def absorbed(self) -> bool:
        return not (self.p * (1 - self.p)).any()

    def sample(self, n: int, *, seed: int, y: np.ndarray | None = None, progress: Progress = no_progress) -> Pool:
        return tosses(self.p, n, np.random.default_rng(seed))


def tosses(p: np.ndarray, n: int, rng: np.random.Generator) -> Pool:
    """`n` tosses for each probability (R,), int8 (n, R, 1)."""
    return Pool((rng.random((n, len(p))) < p).astype(np.int8)[:, :, None])
