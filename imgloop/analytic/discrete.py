"""A discrete distribution estimated again and again from its own draws: the Wright-Fisher process (section 4.4 and
Figure 4 of Schaeffer et al. 2025, after Shumailov et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import entr

from imgloop.analytic import theory
from imgloop.analytic.course import Course
from imgloop.analytic.system import ClosedForms, Quantity, System
from imgloop.config.fields import setting
from imgloop.contracts import Progress, no_progress
from imgloop.errors import UserError
from imgloop.pool import Pool, TrainingSet


@dataclass(frozen=True)
class Discrete(System):
    """`outcomes` K with true probabilities `p` (uniform by default); the fit is the observed shares."""

    outcomes: int = setting(10, low=2, why="since one outcome is collapsed from the start")
    p: list | None = None

    quantities: ClassVar[dict[str, Quantity]] = {
        "heterozygosity": Quantity("heterozygosity, 1 - sum p²"),
        "squared_error": Quantity("squared error of p"),
        "entropy": Quantity("entropy over the true entropy"),
        "survivors": Quantity("outcomes left"),
        "collapsed": Quantity("share totally collapsed", kind="share"),
    }

    def __post_init__(self):
        super().__post_init__()
        if self.p is not None:
            try:
                p = np.asarray(self.p, float)
            except (TypeError, ValueError):
                p = np.zeros(0)
            if p.ndim != 1 or len(p) < 2 or not (p >= 0).all() or abs(p.sum() - 1) > 1e-6 or (p == 1).any():
                raise UserError(
                    f"model.p={self.p}: give two or more probabilities below 1 that sum to 1, for example [0.7,0.3].",
                    "model.p",
                )
            if self.outcomes not in (len(p), type(self).outcomes):
                raise UserError(
                    f"model.outcomes={self.outcomes}, but model.p lists {len(p)}: leave one of them out.",
                    "model.outcomes",
                )
            object.__setattr__(self, "outcomes", len(p))

    @property
    def state(self) -> int:
        return self.outcomes

    @property
    def law(self) -> np.ndarray:
        return np.full(self.outcomes, 1 / self.outcomes) if self.p is None else np.asarray(self.p, float)

    def draw(self, n, rng):
        return draw_outcomes(np.broadcast_to(self.law, (self.replicates, self.outcomes)), n, rng)

    def fit(self, data: TrainingSet, task=None, previous=None) -> Fitted:
        x = data.samples()[:, :, 0]
        flat = x + np.arange(self.replicates) * self.outcomes
        counts = np.bincount(flat.ravel(), minlength=self.replicates * self.outcomes)
        return Fitted(counts.reshape(self.replicates, self.outcomes) / len(x))

    def measure(self, f: Fitted) -> dict[str, np.ndarray]:
        return {
            "heterozygosity": 1 - (f.p**2).sum(1),
            "squared_error": ((f.p - self.law) ** 2).sum(1),
            "entropy": entr(f.p).sum(1) / entr(self.law).sum(),
            "survivors": (f.p > 0).sum(1).astype(float),
            "collapsed": (f.p.max(1) == 1).astype(float),
        }

    def theory(self, course: Course, real: np.ndarray) -> ClosedForms:
        moments = theory.second_moments(course, float(1 - (self.law**2).sum()))
        left = theory.outcomes(course, self.law)
        return {
            "heterozygosity": moments.variance,
            "squared_error": moments.mean_square,
            **left._asdict(),
        }

    def comparable(self, course: Course, theory: ClosedForms) -> dict[str, np.ndarray]:
        """As long as dozens of replicates are expected not to be collapsed: their share is at least the heterozygosity.
        The number of outcomes left: also once dozens of outcomes are lost, or none can be."""
        heterozygosity, survivors = theory["heterozygosity"], theory["survivors"]
        assert heterozygosity is not None
        enough = self.replicates * heterozygosity >= 20
        generations = {"heterozygosity": enough, "squared_error": enough, "entropy": enough}
        if survivors is not None:
            lost = (self.law > 0).sum() - survivors
            generations["survivors"] = enough & ((self.replicates * lost >= 20) | (lost < 1e-12))
        return generations

    def timescale(self, course, values):
        return timescale(course, self.law, values["collapsed"])


def timescale(course: Course, law: np.ndarray, collapsed: np.ndarray) -> dict | None:
    """Generations from the true law until one outcome is left, generation 0 being the first: simulated, exact (up to
    2,000 draws), by the diffusion limit, and as the paper states it.

    `collapsed` (G, R) is 1 from the generation on that has one outcome left. None unless every replicate collapsed and
    every generation was fitted to the newest pool alone, at one size.
    """
    sizes = set(course.chained[: len(collapsed)].tolist())
    if not course.plain or len(sizes) > 1 or not collapsed[-1].all():
        return None
    draws, times = sizes.pop(), 1 + (1 - collapsed).sum(0)
    return {
        "draws": draws,
        "outcomes": int((law > 0).sum()),
        "uniform": bool(np.ptp(law[law > 0]) < 1e-9),
        "simulated": float(times.mean()),
        "sem": float(times.std(ddof=1) / np.sqrt(len(times))) if len(times) > 1 else None,
        "exact": theory.collapse_time(draws, law) if draws <= theory.WIDEST else None,
        "diffusion": theory.collapse_time_diffusion(draws, law),
        "paper": theory.collapse_time_paper(draws, law),
    }


@dataclass(frozen=True)
class Fitted:
    """Probabilities, float64 (R, K)."""

    p: np.ndarray

    @property
    def absorbed(self) -> bool:
        return bool((self.p.max(1) == 1).all())

    def sample(self, n: int, *, seed: int, y: np.ndarray | None = None, progress: Progress = no_progress) -> Pool:
        return draw_outcomes(self.p, n, np.random.default_rng(seed))


def draw_outcomes(p: np.ndarray, n: int, rng: np.random.Generator) -> Pool:
    """`n` outcomes for each row of p (R, K), int64 (n, R, 1), by inversion."""
    replicates, k = p.shape
    steps = np.cumsum(p, 1)
    steps /= steps[:, -1:]
    steps += np.arange(replicates)[:, None]  # one increasing sequence: a single search covers all replicates
    u = rng.random((n, replicates)) + np.arange(replicates)
    x = np.searchsorted(steps.ravel(), u, side="right") - np.arange(replicates) * k
    return Pool(np.minimum(x, k - 1)[:, :, None])
