"""Do the verdicts on the same samples depend on how they are measured?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from imgloop.collapse.definitions import SHORT, TITLES
from imgloop.collapse.show import MARKS, STYLES
from imgloop.collapse.verdicts import Profile
from imgloop.conditions import short_names
from imgloop.errors import UserError

DECIDED = {"detected", "excluded"}


@dataclass(frozen=True)
class Row:
    """The verdicts on one definition for one condition, by protocol."""

    condition: str
    definition: int
    verdicts: Mapping[str, str]

    def cells(self) -> dict[str, str | int | bool]:
        """The row as columns of a table: condition, definition, a column a protocol, and whether they differ."""
        return {"condition": self.condition, "definition": self.definition, **self.verdicts, "differ": self.differ}

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
    """The verdicts of profiles of one study by protocol; definitions that no protocol measures are left out. Raises
    UserError where there is no verdict at all."""
    first = next(iter(profiles.values()))
    found = [
        Row(condition, number, {name: p[condition][number].verdict for name, p in profiles.items()})
        for condition in first.conditions
        for number in first[condition]
    ]
    if not (judged := [row for row in found if row.judged]):
        seeds = max((v.seeds for c in first.conditions for v in first[c].values()), default=0)
        raise UserError(
            "The study has no verdict under any protocol: it takes a condition, the control and several seeds of both, "
            f"and there {'is' if seeds == 1 else 'are'} {seeds} with both."
        )
    return judged


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


def show(found: Sequence[Row], protocols: Sequence[str], console: Console) -> None:
    """Print the verdicts, a column a protocol, and what depends on it."""
    names, common = short_names(list(dict.fromkeys(row.condition for row in found)))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("condition", "definition", *protocols, ""):
        table.add_column(head)
    for row in found:
        cells = [Text(MARKS[v] + v, STYLES.get(v, "")) for v in (row.verdicts[p] for p in protocols)]
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
