"""A discrete distribution re-estimated from its own draws: the Wright-Fisher process (section 4.4 and Figure 4 of
Schaeffer et al. 2025, after Shumailov et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import entr

from imgloop.analytic import theory
from imgloop.analytic.course import Course
from imgloop.analytic.system import Quantity, System
from imgloop.errors import UserError
from imgloop.pool import Pool, TrainingSet


@dataclass(frozen=True)
class Discrete(System):
    """`outcomes` K of true probabilities `p` (uniform by default); the fit is the empirical proportions."""

    outcomes: int = 10
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
                    f"model.p={self.p}: give two or more probabilities below 1 that sum to 1, for example [0.7,0.3]."
                )
            if self.outcomes not in (len(p), type(self).outcomes):
                raise UserError(f"model.outcomes={self.outcomes}, but model.p lists {len(p)}: leave one of them out.")
            object.__setattr__(self, "outcomes", len(p))
        if self.outcomes < 2:
            raise UserError("model.outcomes=1: one outcome is collapsed from the start; give 2 or more.")

    @property
    def state(self) -> int:
        return self.outcomes

    @property
    def law(self) -> np.ndarray:
        return np.full(self.outcomes, 1 / self.outcomes) if self.p is None else np.asarray(self.p, float)

    def draw(self, n, rng):
        return drawn(np.broadcast_to(self.law, (self.replicates, self.outcomes)), n, rng)

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

    def theory(self, course, real):
        moments = theory.second_moments(course, float(1 - (self.law**2).sum()))
        outcomes = theory.outcomes(course, self.law)
        return {
            "heterozygosity": moments.variance,
            "squared_error": moments.mean_square,
            **outcomes._asdict(),
        }

    def comparable(self, course, theory):
        """As long as dozens of replicates are not collapsed: their share is no less than the heterozygosity. Outcomes
        left, once dozens are lost as well, or where none can be."""
        found = dict.fromkeys(
            ("heterozygosity", "squared_error", "entropy"), self.replicates * theory["heterozygosity"] >= 20
        )
        if theory["survivors"] is not None:
            lost = (self.law > 0).sum() - theory["survivors"]
            found["survivors"] = found["entropy"] & ((self.replicates * lost >= 20) | (lost < 1e-12))
        return found

    def timescale(self, course, values):
        return timescale(course, self.law, values["collapsed"])


def timescale(course: Course, law: np.ndarray, collapsed: np.ndarray) -> dict | None:
    """Generations until one outcome is left, counted from the true law (its first draw is 1): simulated, exact (up to
    2,000 draws), by diffusion, and as the paper states it; `collapsed` (G, R) is 1 from then on."""
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
    """Probabilities (R, K)."""

    p: np.ndarray

    @property
    def absorbed(self) -> bool:
        return bool((self.p.max(1) == 1).all())

    def sample(self, n, *, seed, progress=None) -> Pool:
        return drawn(self.p, n, np.random.default_rng(seed))


def drawn(p: np.ndarray, n: int, rng: np.random.Generator) -> Pool:
    """`n` outcomes for each row of p (R, K), int64 (n, R, 1), by inversion."""
    replicates, outcomes = p.shape
    steps = np.cumsum(p, 1)
    steps /= steps[:, -1:]
    steps += np.arange(replicates)[:, None]  # one increasing sequence, so that one search serves all replicates
    u = rng.random((n, replicates)) + np.arange(replicates)
    x = np.searchsorted(steps.ravel(), u, side="right") - np.arange(replicates) * outcomes
    return Pool(np.minimum(x, outcomes - 1)[:, :, None])
