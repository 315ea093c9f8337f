"""python -m imgloop.collapse protocols STUDY: do the verdicts on the same samples depend on how they are measured?"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from imgloop import store
from imgloop.collapse.definitions import SHORT, TITLES
from imgloop.collapse.profile import Profile, collapse_profile
from imgloop.collapse.show import MARKS, STYLES
from imgloop.conditions import short_names
from imgloop.errors import UserError
from imgloop.study.frozen import frozen
from imgloop.study.study import Study
from imgloop.study.tables import chains, csv_text, is_solved, measures, protocols

DECIDED = {"detected", "excluded"}


@dataclass(frozen=True)
class Row:
    """The verdicts on one definition for one condition, by protocol."""

    condition: str
    definition: int
    verdicts: Mapping[str, str]

    @property
    def judged(self) -> set[str]:
        """The different verdicts among protocols that have one."""
        return set(self.verdicts.values()) & {*DECIDED, "undetermined"}

    @property
    def contradict(self) -> bool:
        """Whether one protocol detects what another excludes."""
        return self.judged >= DECIDED

    @property
    def differ(self) -> bool:
        return len(self.judged) > 1


def rows(profiles: Mapping[str, Profile]) -> list[Row]:
    """The verdicts of profiles of one study by protocol; definitions that no protocol measures are left out."""
    first = next(iter(profiles.values()))
    found = [
        Row(condition, number, {name: p[condition][number].verdict for name, p in profiles.items()})
        for condition in first.conditions
        for number in first[condition]
    ]
    return [row for row in found if row.judged]


def warnings(found: Sequence[Row], names: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each verdict that depends on the protocol, contradictions first."""
    for row in sorted((r for r in found if r.differ), key=lambda r: not r.contradict):
        by_verdict: dict[str, list[str]] = {}
        for name, verdict in row.verdicts.items():
            if verdict in row.judged:
                by_verdict.setdefault(verdict, []).append(name)
        told = "; ".join(f"{verdict} by {', '.join(by)}" for verdict, by in by_verdict.items())
        kind = "contradiction" if row.contradict else "not the same"
        yield f"{names[row.condition]}, {row.definition} {TITLES[row.definition]}: {kind}: {told}"


def run(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m imgloop.collapse protocols",
        description="The verdicts of a study under each protocol (features) by which all its chains were measured, and "
        "a warning where they differ. The samples are the same.",
    )
    parser.add_argument("path", metavar="STUDY", type=Path)
    parser.add_argument("--control", default="real_only", help="the condition to compare with (real_only)")
    parser.add_argument(
        "--features", metavar="A,B", help="measure by these features first, where that was not done: pixels,random"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the verdicts as a table")
    a = parser.parse_args(arguments)
    if not a.path.is_dir():
        raise UserError(f"{a.path} is no folder: give a study's folder, such as outputs/digits-diffusion.")
    if a.features:
        from imgloop.measure import measure  # imports torch

        for features in dict.fromkeys(a.features.split(",")):
            measure(a.path, [f"features={features}"])
    profiles = profiled(a.path, a.control)
    found = rows(profiles)
    if a.csv:
        write(a.csv, found)
    console = Console(highlight=False)
    show(found, list(profiles), console if console.is_terminal else Console(width=120, highlight=False))


def profiled(path: Path, control: str) -> dict[str, Profile]:
    """The profile of a study by protocol; raises UserError for a study that has fewer than two in all its chains."""
    folders = chains(path)
    if folders and all(map(is_solved, folders)):
        raise UserError(f"{path} holds solvable systems, whose quantities have no protocol.")
    have = [protocols(c) for c in folders]
    common = [p for p in have[0] if all(p in h for h in have)] if have else []
    if len(common) < 2:
        raise UserError(
            f"{path} was measured by {' and '.join(common) or 'no protocol'} in all its chains, and a comparison needs "
            "two: measure it by others with --features pixels,random."
        )
    stored = frozen(path)
    given: Any = {"thresholds": stored.thresholds} if stored else {}
    return {
        p: collapse_profile(
            Study(path, protocol=p).table, control, frozen=stored, measures=measures(folders, p), **given
        )
        for p in common
    }


def write(path: Path, found: Sequence[Row]) -> None:
    """Write the verdicts as a CSV table: condition, definition, a column a protocol, and whether they differ."""
    import pandas as pd

    table = [{"condition": r.condition, "definition": r.definition, **r.verdicts, "differ": r.differ} for r in found]
    store.write_text(path, csv_text(pd.DataFrame(table)))


def show(found: Sequence[Row], names_of: Sequence[str], console: Console) -> None:
    """Print the verdicts, a column a protocol, and what depends on it."""
    names, common = short_names(list(dict.fromkeys(row.condition for row in found)))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("condition", "definition", *names_of, ""):
        table.add_column(head)
    for row in found:
        cells = [Text(MARKS[v] + v, STYLES.get(v, "")) for v in (row.verdicts[p] for p in names_of)]
        note = "contradiction" if row.contradict else "differ" if row.differ else ""
        table.add_row(names[row.condition], f"{row.definition} {SHORT[row.definition]}", *cells, Text(note, "bold"))
    console.print(table)
    if common:
        console.print(Text(f"all with {', '.join(common)}"))
    told = list(warnings(found, names))
    console.print()
    count = f"{len(told)} of {len(found)} verdicts depend on the protocol" + (":" if told else ".")
    console.print(Text(f"Warning: {count}" if told else count))
    for text in told:
        console.print(Text(f"  {text}"))
