"""What every solvable system shares: the quantities it measures, the truth it is measured against, its samples' law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import ClassVar

import numpy as np

from imgloop.errors import UserError
from imgloop.pool import Pool


@dataclass(frozen=True)
class Quantity:
    """What a system measures of a fit, one number a replicate.

    kind: `mean` compares the mean over replicates with theory, `share` a frequency of zeros and ones, `bound` a
    frequency with an upper bound. `skewed`: its distribution over replicates has a long tail, so that the median is
    shown beside the mean. `log`: drawn on a logarithmic axis; `mark`: a level to draw, with its name.
    """

    label: str
    kind: str = "mean"
    skewed: bool = False
    log: bool = False
    mark: tuple[str, float] | None = None


@dataclass(frozen=True)
class System:
    """A model that can be solved, R replicates at once; a subclass adds its settings and the methods named here.

        draw(n, rng) -> Pool                        real data from the true law, float (n, R, d)
        fit(data, task, previous) -> fitted         its `sample(n, seed=...)` draws a Pool, `absorbed` tells whether
                                                    every replicate can draw one thing only
        measure(fitted) -> {quantity: (R,)}         against the truth
        theory(course, real) -> {quantity: (G,), or (G, R) given each replicate's real data, or None}

    `quantities` names what is measured. Raises UserError for settings at which the system does not exist.
    """

    replicates: int = 1000
    quantities: ClassVar[dict[str, Quantity]] = {}

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type == "int" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UserError(f"model.{f.name}={value}: give a whole number of at least 1.")
            if f.type == "float" and (isinstance(value, bool) or not isinstance(value, Real) or not np.isfinite(value)):
                raise UserError(f"model.{f.name}={value}: give a number.")

    @property
    def width(self) -> int:
        """Numbers in a row of a pool."""
        return 1

    @property
    def state(self) -> int:
        """Numbers that a fit holds for each replicate, besides its training set."""
        return 1

    def check(self, trained: Sequence[int], drawn: Sequence[int], real: int) -> None:
        """Raise UserError where the fit does not exist: rows that generations are fitted to, rows that they draw, and
        real rows."""

    def pictures(self, pool: Pool) -> np.ndarray | None:
        """Samples of the first replicate as images to look at, uint8 (N, C, H, W); None where they are none."""
        return None

    def comparable(self, course, theory) -> dict[str, np.ndarray]:
        """Generations, bool (G,), in which the mean of a quantity can be compared with theory, where not in all: after
        a while, rare replicates may carry it, of which there are too few."""
        return {}

    def timescale(self, course, values: dict[str, np.ndarray]) -> dict | None:
        """How long total collapse takes, simulated and expected, where chains were followed to it."""
        return None

    def images(self, x: np.ndarray, n_initial: int) -> tuple[System, Pool]:
        """The system whose truth is real images, uint8 (N, C, H, W), the first `n_initial` of which are R; and their
        pool. Only some have it."""
        raise NotImplementedError


def only_in(name: str, value: float, low: float, high: float = np.inf, why: str = "") -> None:
    """Raise UserError unless low < value < high."""
    if not low < value < high:
        span = f"between {low:g} and {high:g}" if high < 1e9 else f"above {low:g}"
        span += f" and below {high:g}" if 1e9 <= high < np.inf else ""
        raise UserError(f"model.{name}={value:g}: give a number {span}{why and ', ' + why}.")


@dataclass(frozen=True)
class Law:
    """Real data drawn anew from a system's true law, `n` rows for each replicate (conf/data/law.yaml)."""

    n: int = 100

    def __post_init__(self):
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            raise UserError(f"data.n={self.n}: a fit needs data; give a whole number of at least 1.")

    def pool(self, system: System, rng: np.random.Generator) -> Pool:
        return system.draw(self.n, rng)
