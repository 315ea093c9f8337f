"""The profile and the list of studies in a terminal."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from imgloop.collapse.definitions import SHORT
from imgloop.conditions import short_names
from imgloop.errors import UserError, printable
from imgloop.measures import MEASURES
from imgloop.report.page import MARKS, Report
from imgloop.report.progress import readable, size
from imgloop.report.text import figure, plural
from imgloop.study import tables
from imgloop.study.imported import is_imported
from imgloop.study.progress import Progress, ago, progress, write_states

STYLES = {"detected": "bold red", "excluded": "green", "undetermined": "yellow"}
STATES = {"damaged": "bold red", "failed": "bold red", "running": "bold"}
ACROSS, WIDTH = 4, 22  # conditions side by side, and characters that each needs at least


def profile(r: Report, console: Console) -> None:
    """Print warnings, then the verdicts, one definition a row."""
    for warning in r.warnings:
        console.print(Text(warning, "bold"))
    if r.profile is None:
        console.print(Text(r.reason))
        return
    if r.incomplete:
        console.print(Text(r.incomplete, "yellow"))
    if r.unjudged:
        console.print("1 seed: no verdicts")
    if r.common:
        console.print(Text(f"All conditions have {'; '.join(r.common)}."))
    across = min(max(1, (console.width - WIDTH) // WIDTH), ACROSS)
    for first in range(0, len(r.profile.conditions), across):
        shown = r.profile.conditions[first : first + across]
        table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
        table.add_column(r.profile.against)
        for condition in shown:
            head = Text(r.names.get(condition, condition)).append(f"\n{r.compared(condition)}", "not bold dim")
            table.add_column(head, overflow="fold")
        for k, title in SHORT.items():
            cells = []
            for condition in shown:
                v = r.profile[condition][k]
                verdict = f"{MARKS[v.verdict]} {v.verdict}{', exact' if v.exact else ''}"
                text = Text(verdict, STYLES.get(v.verdict, "dim"))
                cells.append(text.append(f"  {v.reading or figure(v.effect)}", "default"))
            table.add_row(f"{k}. {title}", *cells)
        console.print(table)


def listing(path: Path, console: Console) -> None:
    """Print the studies in a folder, or one study, with their chains; raises UserError if there are none."""
    found = studies(path)
    if not found:
        raise UserError(f"{path} contains no study: give the folder that out= names (outputs), or a study's folder.")
    for folder, chains in found:
        if os.access(folder, os.W_OK):
            write_states(folder)
        done = sum(p.ended for p in chains)
        names, common = short_names(list(dict.fromkeys(p.chain.parent.name for p in chains)))
        summary = f"  {done} of {plural(len(chains), 'chain')} finished, {readable(size([folder]))}, "
        summary += f"last change {ago(max(p.changed for p in chains))}" + f"; all with {'; '.join(common)}" * bool(
            common
        )
        imported = ", imported" if is_imported(folder) else ""
        console.print(Text(f"{folder.name}{imported}", "bold").append(summary, "default"))
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for name in ("  condition", "seed", "generations", "state", "latest measures", "size"):
            table.add_column(name, justify="right" if name in ("seed", "size") else "left", overflow="fold")
        for p in chains:
            table.add_row(
                Text(f"  {names[p.chain.parent.name]}"),
                p.chain.name.removeprefix("seed"),
                f"{p.done} of {p.planned if p.planned is not None else '?'}",
                Text(
                    p.state,
                    "bold red" if p.state in ("damaged", "failed") else "bold" if p.state == "running" else "default",
                ),
                Text(measures(p)),
                readable(size([p.chain])),
            )
        console.print(table)
        for p in chains:
            if p.fault or (p.failed and p.state == "failed"):
                why = printable(p.fault or p.failed)
                console.print(Text(f"  {names[p.chain.parent.name]}/{p.chain.name}: {why}", "red"))
        console.print()


def studies(path: Path) -> list[tuple[Path, list[Progress]]]:
    """The studies in a folder, or the study that it is, each with the progress of its chains."""
    if not path.is_dir():
        raise UserError(f"{path} does not exist: give the folder that out= names (outputs), or a study's folder.")
    folders = [path, *sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))]
    return [(p, chains) for p in folders if (chains := progress(p))]


def measures(p: Progress) -> str:
    """A chain's last row in a few numbers, or why it cannot be read."""
    if p.fault or not p.done:
        return ""
    try:
        row = tables.table(p.chain).iloc[-1]
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as e:
        return str(e)
    names = [m for m, info in MEASURES.items() if info.headline and m in row]
    names = names or [c for c in row.index if f"{c}_sem" in row.index][:3]
    return " · ".join(f"{c} {figure(float(row[c]))}" for c in names if row[c] == row[c])
