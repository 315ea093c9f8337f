"""What each generation of a self-consuming loop is fitted to: the part of its mixing rule that the closed forms use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from imgloop.errors import UserError

PerGeneration = tuple[float, ...] | None  # entry t is of generation t, entry 0 unused; None: the rule's default
# Paradigms with closed forms.
PARADIGMS = ("replace", "accumulate", "accumulate_subsample", "stratified", "augment", "fresh", "edit", "real_only")


@dataclass(frozen=True)
class Course:
    """A chain as the closed forms see it: mixing rule, size `n_initial` of R, and rows `drawn` by each generation, of
    those that are released. verifier: bias and radius of curation=verifier."""

    paradigm: str
    n_initial: int
    drawn: tuple[int, ...]
    real_fraction: PerGeneration = None
    budget: PerGeneration = None
    n_real: PerGeneration = None
    n_synthetic: PerGeneration = None
    edit_fraction: PerGeneration = None
    real_weight: PerGeneration = None
    verifier: tuple[float, float] | None = None

    @property
    def generations(self) -> int:
        return len(self.drawn)

    @property
    def plain(self) -> bool:
        """Whether every generation is fitted to the whole newest pool and nothing else."""
        return self.paradigm == "replace" and not any((self.real_fraction or ())[1:])

    @property
    def chained(self) -> np.ndarray:
        """Sizes (G,) of R and of the pools 0..G-2: rows that are new at each generation; all its rows if `plain`."""
        return np.array([self.n_initial, *self.drawn[:-1]])

    def at(self, setting: str, t: int, default: float) -> float:
        """A setting of the rule at generation t, or `default` where it is not set."""
        values = getattr(self, setting)
        return default if values is None else values[t]


@dataclass(frozen=True)
class Composition:
    """The rows of one mix by block: R first, then pools 0..t-1.

    `rows` (t+1,) of each block are candidates: each is in the mix with probability `share`, each two with `pair_share`.
    `fresh`: number of new real rows. `kept`: probability that a row of a later mix is in this one, or one a block.
    """

    rows: np.ndarray
    fresh: int = 0
    share: float = 1.0
    pair_share: float = 1.0
    kept: float | np.ndarray = 1.0

    @property
    def size(self) -> int:
        """Rows of the mix."""
        return round(self.share * self.rows.sum()) + self.fresh


def edit_windows(course: Course) -> list[np.ndarray]:
    """Positions, int (k_t,), that each generation t overwrites in the data set of n_initial rows; none at t = 0.

    Windows of k_t = floor(edit_fraction n) positions follow one another and wrap around at the end of the data set.
    """
    n, first, windows = course.n_initial, 0, [np.arange(0)]
    for t in range(1, course.generations):
        k = int(course.at("edit_fraction", t, 0.1) * n + 1e-9)
        windows.append(np.arange(first, first + k) % n)
        first += k
    return windows


def compositions(course: Course) -> Iterator[Composition]:
    """The mix of each generation in turn; raises UserError if a mix takes more rows than a block has, or none."""
    sizes = np.array([course.n_initial, *course.drawn])
    origin = np.zeros(course.n_initial, int)  # under edit, the block of each position: 0 is R, t is pool t-1
    windows = edit_windows(course) if course.paradigm == "edit" else []
    for t in range(course.generations):
        available = sizes[: t + 1]
        mix = composition(course, t, available)
        if windows:
            origin[windows[t]] = t
            mix = Composition(np.bincount(origin, minlength=t + 1))
        too_short = windows and windows[t].max(initial=-1) >= available[-1]
        if too_short or (mix.rows > available).any() or mix.share > 1 or mix.size < 1:
            raise UserError(
                f"Generation {t} of paradigm={course.paradigm} asks for more rows than there are, or for none "
                f"(n_initial={course.n_initial}, newest pool {available[-1]}): change the settings of the paradigm, or "
                "raise n_initial or n_samples."
            )
        yield mix


def composition(course: Course, t: int, available: np.ndarray) -> Composition:
    """The mix of generation t, given the numbers of rows `available` (t+1,) in R and in each pool so far; for `edit`,
    the mix of generation 0."""
    rows, n = np.zeros(t + 1, int), course.n_initial
    match course.paradigm if t else "real_only":
        case "real_only" | "edit":
            rows[0] = n
            return Composition(rows)
        case "replace":
            rows[0] = round(course.at("real_fraction", t, 0) * available[-1])
            rows[-1] = available[-1] - rows[0]
            return Composition(rows, kept=rows[0] / n)
        case "accumulate":
            return Composition(available)
        case "accumulate_subsample":
            b, m = int(course.at("budget", t, n)), available.sum()
            return Composition(available, share=b / m, pair_share=b * (b - 1) / (m * (m - 1)), kept=b / m)
        case "stratified":
            share = int(course.at("budget", t, n)) // (t + 1)
            return Composition(np.full(t + 1, share), kept=share / available)
        case "augment" | "fresh":
            rows[-1] = course.at("n_synthetic", t, available[-1])
            if course.paradigm == "fresh":
                return Composition(rows, fresh=int(course.at("n_real", t, n)))
            rows[0] = n
            return Composition(rows)
        case unknown:
            raise UserError(
                f"paradigm={unknown} has no closed form: choose one of the rules in docs/theory.md.", "paradigm"
            )
