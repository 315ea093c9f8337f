"""A plain table of chains, checked and split by condition and size; and which condition is the control of another."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from imgloop.collapse.subjects import RATIO_ROLES, Subjects
from imgloop.conditions import schedule_named
from imgloop.errors import UserError
from imgloop.paradigm import NAMES

Frame = Any  # a pandas.DataFrame; pandas is imported where it is needed
KEYS = ("condition", "seed", "generation")
MEASURES = Subjects.of().columns  # the columns that are read by default
SIZED = re.compile(r",(?:n_initial|data\.n)=([^,]*)")  # the number of real samples in a condition's name
# Settings of one paradigm, and of the number of samples drawn: a control has none of them.
MIXING_ONLY = (
    "real_fraction",
    "n_real",
    "n_synthetic",
    "budget",
    "edit_fraction",
    "real_weight",
    "n_samples",
    "curation",
    "correction",
)


@dataclass(frozen=True, eq=False)
class Condition:
    """The chains of one condition at one number of real samples (`size`, NaN where unknown).

    given: the condition's name in the table. name: the same, with the size where the table has several. base: without
    the size. frame: pandas table, indexed by seed and generation.
    """

    given: str
    name: str
    base: str
    size: float
    frame: Frame

    @cached_property
    def last(self) -> dict[int, int]:
        """Each seed's last generation."""
        return {int(s): int(g) for s, g in self.frame.reset_index().groupby("seed")["generation"].max().items()}

    def has(self, measure: str) -> bool:
        return measure in self.frame and bool(self.frame[measure].notna().any())

    def numeric(self, measure: str) -> bool:
        return measure in self.frame and self.frame[measure].dtype.kind in "iuf"

    @property
    def draws(self) -> Any:
        """Samples that each generation drew, a pandas series without those where it is unknown."""
        column = next((c for c in ("n_drawn", "n_pool") if self.has(c)), None)
        return (self.frame.iloc[:0, 0] if column is None else self.frame[column].dropna()).astype(float)

    @property
    def drawn(self) -> float:
        """Samples that its last generation drew, NaN where unknown."""
        return float(self.draws.groupby("seed").last().median())

    def series(self, measure: str, seeds: list[int], last: int) -> np.ndarray:
        """float64 (S, last + 1), NaN where a chain has no finite value."""
        wide = self.frame[measure].unstack("generation").reindex(index=seeds, columns=range(last + 1))
        values = wide.to_numpy(float)
        return np.where(np.isfinite(values), values, np.nan)

    def infinite(self, measure: str, seeds: list[int]) -> list[int]:
        """Those of `seeds` whose chains have an infinite value of the measure."""
        infinite = np.isinf(self.frame[measure].astype(float)).groupby("seed").any()
        return [s for s in seeds if infinite.get(s, False)]


def conditions(frame: Frame, measures: Sequence[str] = MEASURES) -> list[Condition]:
    """A table's conditions by name and size; raises UserError for a table that is not one of chains.

    Columns: condition, seed, generation, and any of `measures`; `size`, the number of real samples, where it varies
    within a condition (in imgloop's own tables it is n_train at generation 0).
    """
    frame = checked(frame, measures)
    result = []
    for name, part in frame.groupby("condition", sort=False):
        sizes: list[tuple[Any, Frame]] = [(np.nan, part)]
        if "size" in part:
            sizes = list(part.groupby("size", dropna=False, sort=True))
        elif "n_train" in part:
            first = part.loc[part["generation"] == 0, "n_train"].dropna().unique()
            sizes = [(first[0] if len(first) == 1 else np.nan, part)]
        for size, rows in sizes:
            label = f"{name},size={size:g}" if len(sizes) > 1 else str(name)
            indexed = rows.set_index(["seed", "generation"]).sort_index()
            check_once(indexed, label)
            size = size if np.isfinite(size) else named_size(str(name))
            base = SIZED.sub("", str(name)) if np.isfinite(size) else str(name)
            result.append(Condition(str(name), label, base, float(size), indexed))
    return result


def check_once(indexed: Frame, label: str) -> None:
    """Raise UserError for a condition's rows, indexed by seed and generation, of which two have one index."""
    if (repeated := indexed.index.duplicated()).any():
        seed, generation = indexed.index[repeated][0]
        raise UserError(
            f"The table has generation {generation} of {label}, seed {seed}, more than once: give one row for each "
            "condition, seed and generation."
        )


def named_size(name: str) -> float:
    """The number of real samples in a condition's name, the last if there are several; NaN if there is none."""
    try:
        size = float(SIZED.findall(name)[-1])
    except (IndexError, ValueError):
        return np.nan
    return size if np.isfinite(size) else np.nan


def checked(frame: Frame, measures: Sequence[str] = MEASURES) -> Frame:
    """The table with whole-number seeds and generations and float measures; raises UserError where that fails."""
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise UserError(
            f"collapse_profile takes a pandas table, not {type(frame).__name__}: imgloop.load_study(PATH) reads a "
            "study, pandas.read_csv a file."
        )
    table: Frame = frame
    present = _check_columns(table, measures)
    if table.empty:
        raise UserError("The table has no rows: give one for each condition, seed and generation.")
    if table[list(KEYS)].isna().any().any():
        raise UserError("The table has rows without a condition, seed or generation: fill or drop them.")
    table = table.copy()
    for column in [*KEYS[1:], *present, *(c for c in ("size", "n_train") if c in table)]:
        try:
            if table[column].dtype.kind in "Mmc":
                raise TypeError(f"its type is {table[column].dtype}")
            numbers: Frame = pd.to_numeric(table[column])
            table[column] = numbers.astype(float) if column not in KEYS else numbers
        except (ValueError, TypeError) as e:
            raise UserError(
                f"Column {column} contains non-numeric values ({e}): give numbers, empty where missing."
            ) from e
    for column in KEYS[1:]:
        if table[column].dtype.kind in "iu" and table[column].min() >= 0:
            continue  # no conversion to float, which would round large integers
        values = table[column].to_numpy(float)
        if not np.isfinite(values).all() or (values % 1).any() or (column == "generation" and (values < 0).any()):
            wrong = values[(values % 1 != 0) | (values < 0)][:1]
            raise UserError(f"Column {column} contains {wrong}: give whole numbers.")
        table[column] = values.astype(int)
    if (table["generation"] > 0).all():
        raise UserError(
            "The table has no generation 0, the model trained on real data alone: number generations from 0."
        )
    if "size" in table and not (table["size"].isna() | ((table["size"] > 0) & np.isfinite(table["size"]))).all():
        raise UserError("Column size must hold numbers of real samples: give numbers above 0, empty where unknown.")
    numbered = sorted(table["generation"].unique())
    if numbered != list(range(len(numbered))):
        first = ", ".join(map(str, numbered[:4])) + (", ..." if len(numbered) > 4 else "")
        raise UserError(f"The table has generations {first}: number them 0, 1, 2, ... without gaps.")
    table["condition"] = table["condition"].astype(str)
    return table


def _check_columns(table: Frame, measures: Sequence[str]) -> list[str]:
    """The measures that the table has; raises UserError where a key, every measure, or one protocol is missing."""
    missing = [c for c in KEYS if c not in table]
    present = [c for c in measures if c in table]
    if missing or not present:
        wanted = f"no column {' or '.join(missing)}" if missing else "no measure"
        indexed = "; its index has some of them: frame.reset_index()" if set(missing) & set(table.index.names) else ""
        system = "" if missing else "; to profile a solvable system give its folder, python -m imgloop.collapse STUDY"
        raise UserError(
            f"The table has {wanted}: it needs {', '.join(KEYS)} and at least one of {', '.join(measures)}; it has "
            f"{', '.join(map(str, table.columns)) or 'no columns'}{indexed}{system}."
        )
    if "protocol" in table:
        protocols = table[["protocol", "condition"]].dropna().drop_duplicates("protocol").to_numpy()
        if len(protocols) > 1:
            names = ", ".join(f"{protocol} ({condition})" for protocol, condition in protocols)
            raise UserError(
                f"The table mixes different protocols, {names}, whose numbers cannot be compared: measure every chain "
                "with one protocol (python -m imgloop.measure)."
            )
    return present


def implausible(known: list[Condition], subjects: Subjects) -> list[str]:
    """One sentence for each measure with impossible values: noise can go slightly below 0, percentages go above 1."""
    notes = []
    rates = subjects.candidates("hallucination")
    for measure in (*rates, *(m for role in RATIO_ROLES for m in subjects.candidates(role))):
        values = np.concatenate([c.frame[measure].to_numpy(float) for c in known if c.has(measure)] or [np.zeros(0)])
        values = values[np.isfinite(values)]
        if measure in rates and (values > 1).any():
            notes.append(f"{measure} goes up to {values.max():.3g}: rates are shares from 0 to 1, not percent.")
        elif (values < 0).any():
            notes.append(f"{measure} goes down to {values.min():.3g}: shares and ratios are at least 0.")
    return notes


# -- Controls ---------------------------------------------------------------------------------------------------------


def settings(base: str) -> tuple[str, frozenset[str]]:
    """A condition's paradigm, and those of its settings that a control must share."""
    paradigm, values = parts(base)
    return paradigm, frozenset(
        f"{key}={value}" for key, value in values.items() if key.split(".")[0] not in MIXING_ONLY
    )


def parts(name: str) -> tuple[str, dict[str, str]]:
    """The paradigm and settings in a condition's name (items of a list are separated by commas); for a name that is
    not of this form, the whole name and no settings."""
    paradigm, *rest = name.split(",")
    values: dict[str, str] = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if equals:
            values[key] = value
        elif values:  # an item of a list
            values[next(reversed(values))] += f",{part}"
        else:
            return name, {}
    return paradigm, values


def overrides(name: str, **more) -> str | None:
    """Command-line overrides for a condition of this name with more settings (`n_initial`); None if the name is not
    one of a paradigm of ours, or is shortened (ends in a hash)."""
    paradigm, values = parts(name)
    if paradigm not in NAMES or re.search(r"-[0-9a-f]{6,8}(,|$)", name):
        return None
    words = [f"paradigm={paradigm}"]
    for key, value in (values | more).items():
        if schedule := schedule_named(str(value)):
            value = "{" + ",".join(f"{k}:{v}" for k, v in schedule.items()) + "}"
        words.append(shlex.quote(f"{key}=[{value}]" if "," in str(value) and not schedule else f"{key}={value}"))
    return " ".join(words)


def same_size(a: float, b: float) -> bool:
    return bool((np.isnan(a) and np.isnan(b)) or a == b)


def control_of(condition: Condition, known: list[Condition], control: str) -> tuple[Condition | None, str]:
    """The control of a condition, which was trained on as many real samples with the same settings, and a remark; or
    None and why there is no control."""
    named = control != settings(control)[0]  # the user names one condition, with its settings

    def fits(c: Condition) -> bool:  # a name also stands for a condition of unknown size
        unknown = np.isnan(c.size) or (named and np.isnan(condition.size))
        return same_size(c.size, condition.size) or bool(control == c.given and unknown)

    exact = [c for c in known if control in (c.base, c.name, c.given) and fits(c)]
    own = settings(condition.base)[1]
    alike = [
        c
        for c in known
        if settings(c.base) == (settings(control)[0], own) and same_size(c.size, condition.size) and c is not condition
    ]
    if alike and not (named and exact):
        several = [c.name for c in alike]
        if len(several) > 1 and control not in several:
            return None, f"{' and '.join(several)} could each be its control: name one with control= (--control)"
        return next((c for c in alike if c.name == control), alike[0]), ""
    if exact:
        differing = sorted(own ^ settings(exact[0].base)[1])
        trained = [s for s in differing if s.split("=")[0].split(".")[0] in ("data", "model")]
        if not trained or named:
            remarks = [f"they differ in {', '.join(differing)}"] if differing else []
            if not same_size(exact[0].size, condition.size):
                remarks.append("the number of real samples of one of them is unknown")
            return exact[0], f"{exact[0].name} is its control, although {' and '.join(remarks)}" if remarks else ""
        name = ",".join([settings(control)[0], *sorted(own)])
        words = overrides(name)
        return None, f"no control with {', '.join(trained)}: run {words if words else name}"
    size = "" if np.isnan(condition.size) else f" trained on {condition.size:g} real samples"
    return None, f"no chain of {control}{size}"


def quarter_of(control: Condition, known: list[Condition], quarter: str | None) -> tuple[Condition | None, str]:
    """The real-only condition that was trained on a quarter of the control's real samples; or None and why there is
    none."""
    if quarter is not None:
        named = [c for c in known if c.name == quarter]
        if not named:
            raise UserError(f"quarter={quarter}: there is no such condition; the table has {listed(known)}.", "quarter")
        return named[0], ""
    if np.isnan(control.size):
        return None, "no real-only model trained on a quarter of the data: name its condition with quarter= (--quarter)"
    near = [c for c in known if settings(c.base) == settings(control.base) and abs(4 * c.size - control.size) < 4]
    near.sort(key=lambda c: (c.drawn != control.drawn, c.base != control.base))
    if not near:
        own = parts(control.given)[1]
        knob = "data.n" if "data.n" in own and "n_initial" not in own else "n_initial"
        words = overrides(control.given, **{knob: int(control.size // 4)})
        run = f": run {words}, with the same data, model and seeds" if words else ""
        return None, f"no {control.base} trained on a quarter of the {control.size:g} real samples{run}"
    return near[0], ""


def listed(known: list[Condition], most: int = 12) -> str:
    names = list(dict.fromkeys(c.name for c in known))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
