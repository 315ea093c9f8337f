"""What all solvable systems share: their settings, the quantities they measure, and real data from their true law."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from imgloop.analytic.course import Course
from imgloop.config.fields import check_settings, setting
from imgloop.pool import Pool, TrainingSet

ClosedForms = Mapping[str, np.ndarray | None]  # by quantity; None where no closed form is known


@dataclass(frozen=True)
class Quantity:
    """What a system measures of a fit, one number per replicate.

    kind: `mean` compares the mean over replicates with theory, `share` a frequency of zeros and ones, `bound` a
    frequency with an upper bound. `skewed`: its distribution over replicates has a long tail, so that the median is
    shown beside the mean. `log`: plotted on a logarithmic axis; `mark`: a level to mark in the plot, with its name.
    """

    label: str
    kind: str = "mean"
    skewed: bool = False
    log: bool = False
    mark: tuple[str, float] | None = None


@dataclass(frozen=True)
class System:
    """A solvable model with R replicates, fitted all at once; a subclass adds settings and overrides `draw`, `fit`,
    `measure` and, where closed forms are known, `theory`.

    `quantities` names what is measured. `takes_images`: whether real images can be the true law (`images`).
    `weighted`: whether `fit` uses the weights of the mix. `verified`: whether `theory` covers curation=verifier. Raises
    UserError for settings at which the system does not exist.
    """

    replicates: int = setting(1000, low=1)
    quantities: ClassVar[dict[str, Quantity]] = {}
    takes_images: ClassVar[bool] = False
    weighted: ClassVar[bool] = False
    verified: ClassVar[bool] = False

    def __post_init__(self):
        check_settings(self, "model")

    def draw(self, n: int, rng: np.random.Generator) -> Pool:
        """`n` rows of real data from the true law for each replicate, float or int (n, R, d)."""
        raise NotImplementedError

    def fit(self, data: TrainingSet, task: Any = None, previous: Any = None) -> Any:
        """The fit of a generation to its training set; `previous` is the fit of the generation before, or None.

        The fit has `sample(n, *, seed, y=None, progress=...)`, which returns a Pool (n, R, d), and `absorbed`: whether
        no replicate can ever change again in a closed loop.
        """
        raise NotImplementedError

    def measure(self, f: Any) -> Mapping[str, np.ndarray]:
        """The value of each quantity for a fit, float (R,)."""
        raise NotImplementedError

    def theory(self, course: Course, real: np.ndarray) -> ClosedForms:
        """Expected values by quantity, float (G,), or (G, R) given each replicate's real data `real` (N, R, d)."""
        return {}

    @property
    def width(self) -> int:
        """Numbers in a row of a pool."""
        return 1

    @property
    def state(self) -> int:
        """Numbers that a fit holds for each replicate, besides its training set."""
        return 1

    @property
    def exchangeable(self) -> bool:
        """Whether the rows of a pool are alike in law, so that a random part of it is like a smaller pool."""
        return True

    def check(self, trained: Sequence[int], drawn: Sequence[int], real: int) -> None:
        """Raise UserError if a fit does not exist for these sizes: rows that each generation is fitted to, rows that
        each draws, and the number of real rows."""

    def pictures(self, pool: Pool) -> np.ndarray | None:
        """Samples of the first replicate as images for display, uint8 (N, C, H, W); None if they are not images."""
        return None

    def comparable(self, course: Course, theory: ClosedForms) -> Mapping[str, np.ndarray]:
        """Generations, bool (G,), in which the mean of a quantity can be compared with theory; quantities that are left
        out are comparable in all. Late means may depend on replicates too rare to be among those simulated."""
        return {}

    def timescale(self, course: Course, values: Mapping[str, np.ndarray]) -> dict | None:
        """Generations until total collapse, simulated and expected; None where the chain did not reach it."""
        return None

    def images(self, x: np.ndarray, n_initial: int) -> tuple[System, Pool]:
        """The system whose true law is that of real images, uint8 (N, C, H, W), whose first `n_initial` are R, and
        the pool of the images. Called only where `takes_images`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Law:
    """Real data drawn from a system's true law, `n` rows for each replicate (conf/data/law.yaml)."""

    n: int = setting(100, low=1, why="since a fit needs data")

    def __post_init__(self):
        check_settings(self, "data")

    def pool(self, system: System, rng: np.random.Generator) -> Pool:
        """The real data of a system, float or int (n, R, d)."""
        return system.draw(self.n, rng)
