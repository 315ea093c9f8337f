"""What each generation of a self-consuming loop is fitted to: its mixing rule, as the closed forms know it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from imgloop.errors import UserError

Knob = tuple[float, ...] | None  # by generation, entry 0 unused; None is the rule's own default
PARADIGMS = ("replace", "accumulate", "accumulate_subsample", "augment", "fresh", "edit", "real_only")  # solved here


@dataclass(frozen=True)
class Course:
    """All that the closed forms know of a chain: its mixing rule, |R|, and how many rows each generation draws."""

    paradigm: str
    n_initial: int
    drawn: tuple[int, ...]
    real_fraction: Knob = None
    budget: Knob = None
    n_real: Knob = None
    n_synthetic: Knob = None
    edit_fraction: Knob = None

    @property
    def generations(self) -> int:
        return len(self.drawn)

    @property
    def plain(self) -> bool:
        """Every generation is fitted to the newest pool alone, whole."""
        return self.paradigm == "replace" and not any((self.real_fraction or ())[1:])

    @property
    def chained(self) -> np.ndarray:
        """Rows (G,) that each generation is the first to use: R, then the newest pool; all of them where `plain`."""
        return np.array([self.n_initial, *self.drawn[:-1]])

    def at(self, knob: str, t: int, default: float) -> float:
        values = getattr(self, knob)
        return default if values is None else values[t]


@dataclass(frozen=True)
class Composition:
    """What one mix holds, by block: R first, then pools 0..t-1.

    `rows` (t+1,) of each block may be drawn, each with probability `share` and each two with `pair_share`; `fresh` real
    rows are new. A row that a later mix holds is in this one with probability `kept`.
    """

    rows: np.ndarray
    fresh: int = 0
    share: float = 1.0
    pair_share: float = 1.0
    kept: float = 1.0

    @property
    def size(self) -> int:
        return round(self.share * self.rows.sum()) + self.fresh


def edit_windows(course: Course) -> list[np.ndarray]:
    """The places, int (k_t,), that generation t overwrites in the data set of n_initial rows; none at t = 0.

    Windows of k_t = floor(edit_fraction n) places follow one another round the data set.
    """
    n, first, windows = course.n_initial, 0, [np.arange(0)]
    for t in range(1, course.generations):
        k = int(course.at("edit_fraction", t, 0.1) * n + 1e-9)
        windows.append(np.arange(first, first + k) % n)
        first += k
    return windows


def compositions(course: Course) -> Iterator[Composition]:
    """The mix of each generation in turn; raises UserError where a block has fewer rows than its mix takes."""
    sizes = np.array([course.n_initial, *course.drawn])
    origin = np.zeros(course.n_initial, int)  # of each place under edit: block 0 is R, block t pool t-1
    windows = edit_windows(course) if course.paradigm == "edit" else []
    for t in range(course.generations):
        have = sizes[: t + 1]
        mix = composition(course, t, have)
        if windows:
            origin[windows[t]] = t
            mix = Composition(np.bincount(origin, minlength=t + 1))
        lacking = windows and windows[t].max(initial=-1) >= have[-1]
        if lacking or (mix.rows > have).any() or mix.share > 1 or mix.size < 1:
            raise UserError(
                f"Generation {t} of paradigm={course.paradigm} asks for more rows than there are, or for none "
                f"(n_initial={course.n_initial}, newest pool {have[-1]}): change the rule's knobs, or raise n_initial "
                "or n_samples."
            )
        yield mix


def composition(course: Course, t: int, have: np.ndarray) -> Composition:
    """The mix of generation t, given the rows (t+1,) of R and of each pool so far; of `edit`, generation 0's alone."""
    rows, n = np.zeros(t + 1, int), course.n_initial
    match course.paradigm if t else "real_only":
        case "real_only" | "edit":
            rows[0] = n
            return Composition(rows)
        case "replace":
            rows[0] = round(course.at("real_fraction", t, 0) * have[-1])
            rows[-1] = have[-1] - rows[0]
            return Composition(rows, kept=rows[0] / n)
        case "accumulate":
            return Composition(have)
        case "accumulate_subsample":
            b, m = int(course.at("budget", t, n)), have.sum()
            return Composition(have, share=b / m, pair_share=b * (b - 1) / (m * (m - 1)), kept=b / m)
        case "augment" | "fresh":
            rows[-1] = course.at("n_synthetic", t, have[-1])
            if course.paradigm == "fresh":
                return Composition(rows, fresh=int(course.at("n_real", t, n)))
            rows[0] = n
            return Composition(rows)
        case unknown:
            raise UserError(f"paradigm={unknown} has no known composition: choose one of the rules in docs/theory.md.")
