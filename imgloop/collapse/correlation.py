"""Do two measures move together over generations? Correlations within chains, with intervals over chains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from imgloop.collapse import tables
from imgloop.collapse.statistics import Moments
from imgloop.conditions import short_names
from imgloop.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame

LEVEL = 0.95  # of the intervals
LEAST = 3  # points of a correlation
NEARLY = 1 - 1e-6  # of a correlation: beyond it Fisher's transform is taken of this
ALL = "all conditions"


@dataclass(frozen=True)
class Interval:
    """A correlation over chains: `r`, the mean of Fisher's transform over `n` units, transformed back, and its t
    interval from `low` to `high`, NaN for one unit."""

    n: int
    r: float
    low: float
    high: float

    @classmethod
    def of(cls, r: Sequence[float]) -> Interval:
        """Of the correlations of independent units; NaN marks a unit that has none."""
        z = Moments.of(np.arctanh(np.clip(np.asarray(r, float), -NEARLY, NEARLY)))
        if z.n == 0:
            return cls(0, np.nan, np.nan, np.nan)
        low, high = (float(np.tanh(z.bound((1 + LEVEL) / 2, side))) for side in (-1, 1))
        return cls(int(z.n), float(np.tanh(z.mean)), low, high)

    def __str__(self) -> str:
        if self.n == 0:
            return "-"
        return f"{self.r:+.2f}" + ("" if np.isnan(self.low) else f" ({self.low:+.2f} to {self.high:+.2f})")


@dataclass(frozen=True)
class Row:
    """How two measures correlate in the chains of a condition: `levels` over generations, and `changes` from each
    generation to the next, which a trend that both share does not raise."""

    condition: str
    levels: Interval
    changes: Interval
    total: bool = False  # over all conditions

    def cells(self) -> dict[str, str | int | float]:
        """The row as columns of a table."""
        each = {"": self.levels, "_of_changes": self.changes}
        found: dict[str, str | int | float] = {"condition": self.condition, "chains": self.levels.n}
        return found | {f"{name}{of}": getattr(i, name) for of, i in each.items() for name in ("r", "low", "high")}


def correlations(frame: DataFrame, a: str, b: str) -> list[Row]:
    """Pearson's r of two columns within each chain, by condition, and over all conditions.

    frame: columns condition, seed, generation, and the two. Chains with fewer than three generations that have both
    numbers, or where one of them does not change, are left out. The interval is that of the mean of Fisher's transform
    over chains; over all conditions it is over seeds, since chains of one seed share random numbers. A change is that
    between two generations that follow each other; values that are not finite count as missing. Raises UserError for a
    table that is not one of chains, a column that is missing or empty, and where no chain has a correlation.
    """
    if a == b:
        raise UserError(f"{a} is compared with itself: give two columns.")
    known = numeric(frame)
    for name in (a, b):
        if name not in known and len(frame):
            raise UserError(f"The table has no numbers in a column {name}; it has {', '.join(known) or 'none'}.")
    frame = tables.checked(frame, (a, b))
    for condition, part in frame.groupby("condition"):
        tables.check_once(part.set_index(["seed", "generation"]), str(condition))
    chains = series(frame, a, b)
    levels, changes = ({key: of(*values) for key, values in chains.items()} for of in (pearson, of_changes))
    if not any(np.isfinite(r) for r in levels.values()):
        raise UserError(
            f"No chain has {LEAST} generations with {a} and {b} in which both change: a correlation over generations "
            "needs them."
        )
    names = list(dict.fromkeys(condition for condition, _ in levels))

    def of_condition(name: str, each: dict[tuple[str, int], float]) -> Interval:
        return Interval.of([r for (condition, _), r in each.items() if condition == name])

    rows = [Row(name, of_condition(name, levels), of_condition(name, changes)) for name in names]
    if len(names) > 1:
        rows.append(Row(ALL, Interval.of(by_seed(levels)), Interval.of(by_seed(changes)), total=True))
    return rows


def series(frame: DataFrame, a: str, b: str) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]:
    """The values of two columns at every generation, two arrays (T,) for each condition and seed, NaN where one is
    missing or not finite."""
    wide = frame.set_index(["condition", "seed", "generation"])[[a, b]].unstack("generation")
    x, y = (np.where(np.isfinite(wide[name]), wide[name], np.nan) for name in (a, b))
    rows = {key: i for i, key in enumerate(wide.index)}
    return {key: (x[rows[key]], y[rows[key]]) for key in zip(frame["condition"], frame["seed"])}


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of (n,) numbers, of those that both have; NaN for fewer than three, or where one of the two
    does not change."""
    known = ~np.isnan(x + y)
    x, y = x[known], y[known]
    if len(x) < LEAST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return float(np.corrcoef(x, y)[0, 1])


def of_changes(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of the changes from each number to the next."""
    return pearson(np.diff(x), np.diff(y))


def by_seed(each: dict[tuple[str, int], float]) -> list[float]:
    """For each seed, the mean over conditions of Fisher's transform, transformed back."""
    seeds = dict.fromkeys(seed for _, seed in each)
    transformed = {k: np.arctanh(np.clip(r, -NEARLY, NEARLY)) for k, r in each.items() if np.isfinite(r)}
    values = [[z for (_, s), z in transformed.items() if s == seed] for seed in seeds]
    return [float(np.tanh(np.mean(v))) if v else np.nan for v in values]


def numeric(frame: DataFrame) -> list[str]:
    """The columns of numbers that are measures."""
    counts = frame.select_dtypes("number").count()
    return [str(c) for c, n in counts.items() if n and c not in ("seed", "generation")]


def show(rows: Sequence[Row], a: str, b: str, console: Console) -> None:
    """Print the correlations, a row a condition."""
    names, common = short_names([row.condition for row in rows if not row.total])
    console.print(Text(f"{a} and {b}: Pearson's r within chains, mean over chains ({LEVEL:.0%} interval)", "bold"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("condition", "chains", "over generations", "of changes"):
        table.add_column(head, justify="right" if head == "chains" else "left")
    for row in rows:
        name, count = row.condition if row.total else names[row.condition], row.levels.n
        units = f"{count} seed{'s' * (count != 1)}" if row.total else f"{count}"
        table.add_row(name, units, f"{row.levels}", f"{row.changes}")
    console.print(table)
    if common:
        console.print(Text(f"all with {', '.join(common)}"))
    console.print(
        Text(
            "Two measures that both drift correlate over generations even if they are unrelated; the correlation of "
            "their changes does not rise by a common drift."
        )
    )
