"""Columns of other programs' tables under our names: as the user says, or as their usual names say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from imgloop.errors import UserError
from imgloop.measures import MEASURES

Frame = Any  # a pandas.DataFrame
USUAL = {  # names of columns that mean ours, as `plain` gives them
    "condition": ("method", "paradigm", "setting"),
    "seed": ("run", "run_id", "replicate"),
    "generation": ("gen", "iteration", "iter", "model_fitting_iteration"),
}
OURS = (*USUAL, "size", "protocol", *(m for m in MEASURES if m not in USUAL))


@dataclass(frozen=True)
class Columns:
    """What the user says of a table: our columns by theirs (condition by one or several), and the number of the
    generation that was trained on real data alone, None: 0."""

    given: dict[str, tuple[str, ...]] = field(default_factory=dict)
    first: int | None = None

    @classmethod
    def of(cls, texts: Sequence[str], first: int | None = None) -> Columns:
        """From OURS=THEIRS,...; several columns of a condition are joined by +. Raises UserError for another form, an
        unknown column of ours, and one that is given twice."""
        given: dict[str, tuple[str, ...]] = {}
        for word in (w for text in texts for w in re.split(r",(?=\s*\w+\s*=)", text)):
            ours, equals, theirs = (part.strip() for part in word.partition("="))
            if not equals or not theirs:
                raise UserError(f"--columns {word}: write OURS=THEIRS, for example condition=method,seed=run,fd=FID.")
            if ours not in OURS:
                raise UserError(f"--columns {word}: {ours} is no column of ours: choose from {', '.join(OURS)}.")
            if ours in given:
                raise UserError(f"--columns {word}: {ours} is {'+'.join(given[ours])} already; give it once.")
            given[ours] = tuple(theirs.split("+")) if ours == "condition" else (theirs,)
        if first is not None and first < 0:
            raise UserError(f"--first {first}: give a whole number of at least 0.")
        return cls(given, first)


@dataclass(frozen=True)
class Named:
    """A table under our names. theirs: the column that each of ours was, where it had another name; notes: what was
    assumed, in sentences."""

    frame: Frame
    theirs: dict[str, str]
    notes: tuple[str, ...] = ()

    def resolved(self, column: str | None) -> str | None:
        """The table's name of a column that the user names as the table did, or as ours; itself where it has none."""
        if column is None or column in self.frame:
            return column
        former = {name: ours for ours, name in self.theirs.items()}
        names = [former.get(c, c) for c in (*former, *self.frame) if plain(c) == plain(column)]
        return former.get(column) or (names[0] if len(set(names)) == 1 else column)


def plain(name: object) -> str:
    """A column's name without case, spaces and signs: "Model-Fitting Iteration" is model_fitting_iteration."""
    return re.sub(r"[^a-z0-9]+", "_", str(name).casefold()).strip("_")


def named(frame: Frame, columns: Columns | None = None) -> Named:
    """A table's columns under our names, with seeds as numbers and generations from 0.

    Case is ignored; usual names (USUAL) are known. Raises UserError for a column that is not there, that two of ours
    would be, or where two would be one of ours.
    """
    columns = columns or Columns()
    theirs = {ours: [_column(frame, name, ours) for name in names] for ours, names in columns.given.items()}
    used = [c for names in theirs.values() for c in names]
    if twice := next((c for c in used if used.count(c) > 1), None):
        both = [ours for ours, names in theirs.items() if twice in names]
        raise UserError(f"--columns: {twice} is given for {' and '.join(dict.fromkeys(both))}: give it for one.")
    for ours in (o for o in OURS if o not in theirs and o not in frame):
        found = [c for c in frame if plain(c) in (ours, *USUAL.get(ours, ())) and c not in used]
        if len(found) > 1:
            listed = " and ".join(map(str, found))
            raise UserError(f"The columns {listed} could each be the {ours}: choose one with --columns {ours}=NAME.")
        if found:
            theirs[ours] = found
    renamed = {ours: str(names[0]) for ours, names in theirs.items() if [ours] != names}
    drop = [c for c in frame if c in renamed and c not in used and c not in renamed.values()]
    parts = theirs.pop("condition", [])
    joined = _joined(frame, parts) if len(parts) > 1 else None
    table = frame.drop(columns=drop).rename(columns={names[0]: ours for ours, names in theirs.items()})
    if joined is not None:
        table, renamed["condition"] = table.assign(condition=joined), "+".join(map(str, parts))
    elif parts:
        table = table.rename(columns={parts[0]: "condition"})
    notes = [f"columns: {', '.join(f'{ours} is {name}' for ours, name in renamed.items())}."] if renamed else []
    table, note = _numbered(table)
    return Named(_from_zero(table, columns.first), renamed, (*notes, *filter(None, [note])))


def _column(frame: Frame, name: str, ours: str) -> Any:
    """The table's column of this name, case ignored; raises UserError where there is none, or several."""
    alike = [c for c in frame if c == name] or [c for c in frame if str(c).casefold() == name.casefold()]
    if len(alike) == 1:
        return alike[0]
    what = f"has several columns {name}" if alike else f"has no column {name}"
    raise UserError(f"--columns {ours}={name}: the table {what}; it has {', '.join(map(str, frame.columns))}.")


def _joined(frame: Frame, parts: Sequence[Any]) -> Any:
    """Conditions named by the values of several columns: replace,dimension=3."""
    names = frame[parts[0]].astype(str)
    for column in parts[1:]:
        key = re.sub(r"[^\w.]+", "_", str(column)).strip("_")
        values = frame[column]
        whole = values.dtype.kind == "f" and (values.dropna() % 1 == 0).all()
        names = names + f",{key}=" + (values.astype("Int64") if whole else values).astype(str)
    return names.where(frame[list(parts)].notna().all(axis=1))


def _numbered(table: Frame) -> tuple[Frame, str]:
    """Seeds that are names as numbers, and what that means for pairs of chain and control; other tables as they are."""
    if not {"seed", "condition"} <= set(table) or table["seed"].dtype.kind in "iufb" or table["seed"].isna().any():
        return table, ""
    import pandas as pd  # here, since it takes half a second to import

    numbers: Any = pd.to_numeric(table["seed"], errors="coerce")
    if numbers.notna().all():
        return table, ""
    names = table["seed"].astype(str)
    if (table.groupby(names)["condition"].nunique() > 1).any():
        return table.assign(seed=pd.factorize(names)[0]), "Runs are named: those of one name are one seed."
    codes = names.groupby(table["condition"]).transform(lambda run: pd.factorize(run)[0])
    note = "Runs are named, each in one condition: they are numbered in their order, and pairs of chain and control "
    return table.assign(seed=codes.astype(int)), note + "share no random numbers."


def _from_zero(table: Frame, first: int | None) -> Frame:
    """The table with `first` as generation 0, without those before it; raises UserError where the numbers cannot be
    those of generations from 0, and `first` is not given."""
    import pandas as pd  # here, since it takes half a second to import

    if "generation" not in table:
        return table
    numbers: Any = pd.to_numeric(table["generation"], errors="coerce")
    if first is None:
        if len(numbers) and numbers.notna().all() and numbers.min() > 0:
            raise UserError(
                f"The table has no generation 0: it begins with {numbers.min():g}; give --first {numbers.min():g} if "
                "that one was trained on real data alone."
            )
        return table
    if not (numbers == first).any():
        raise UserError(f"--first {first}: the table has no such generation; it has {numbers.min():g} and more.")
    return table[numbers >= first].assign(generation=(numbers - first)[numbers >= first])
