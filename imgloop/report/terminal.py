"""The profile and the list of studies in a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from imgloop.collapse.definitions import SHORT
from imgloop.errors import UserError
from imgloop.report.page import MARKS, Report
from imgloop.report.progress import Progress, ago, progress, size, weight
from imgloop.report.text import figure, plural, short_names
from imgloop.study import tables as study

STYLES = {"detected": "bold red", "excluded": "green", "undetermined": "yellow"}
ACROSS = 4  # conditions side by side
HEADLINE = ("fd", "precision", "recall", "variance_ratio", "risk")


def profile(r: Report, console: Console) -> None:
    """The verdicts, a definition a row."""
    if isinstance(r.profile, str):
        console.print(Text(r.profile))
        return
    if r.unjudged:
        console.print("1 seed: no verdicts")
    for first in range(0, len(r.profile.conditions), ACROSS):
        shown = r.profile.conditions[first : first + ACROSS]
        table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
        table.add_column(f"over {r.profile.control}")
        for condition in shown:
            head = Text(r.names.get(condition, condition)).append(f"\n{r.compared(condition)}", "not bold dim")
            table.add_column(head, overflow="fold")
        for k, title in SHORT.items():
            cells = []
            for condition in shown:
                v = r.profile[condition][k]
                said = v.verdict + (", exact" if v.exact else "")
                text = Text(f"{MARKS[v.verdict]} {said}", STYLES.get(v.verdict, "dim"))
                cells.append(text.append(f"  {v.reading or figure(v.effect)}", "default"))
            table.add_row(f"{k}. {title}", *cells)
        console.print(table)


def listing(path: Path, console: Console) -> None:
    """Studies in a folder, or one study, with their chains; raises UserError where there are none."""
    found = studies(path)
    if not found:
        raise UserError(f"{path} holds no study: give the folder that out= names (outputs), or a study's.")
    for folder, chains in found:
        done = sum(p.ended for p in chains)
        head = Text(f"{folder.name}", "bold")
        told = f"  {done} of {plural(len(chains), 'chain')} finished, {weight(size([folder]))}, "
        names, common = short_names(list(dict.fromkeys(p.chain.parent.name for p in chains)))
        told += f"last change {ago(max(p.changed for p in chains))}" + f"; all with {', '.join(common)}" * bool(common)
        console.print(head.append(told, "default"))
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for name in ("  condition", "seed", "generations", "state", "last measures", "size"):
            table.add_column(name, justify="right" if name in ("seed", "size") else "left", overflow="fold")
        for p in chains:
            table.add_row(
                Text(f"  {names[p.chain.parent.name]}"),
                p.chain.name.removeprefix("seed"),
                f"{p.done} of {p.planned if p.planned is not None else '?'}",
                Text(p.said, "bold red" if p.fault else "bold" if p.said == "running" else "default"),
                Text(measures(p)),
                weight(size([p.chain])),
            )
        console.print(table)
        for p in chains:
            if p.fault:
                console.print(Text(f"  {p.fault}", "red"))
        console.print()


def studies(path: Path) -> list[tuple[Path, list[Progress]]]:
    """The studies in a folder, or the one that it is, each with where its chains stand."""
    if not path.is_dir():
        raise UserError(f"{path} does not exist: give the folder that out= names (outputs), or a study's.")
    folders = [path, *sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))]
    found = [(p, progress(p)) for p in folders]
    return [(p, chains) for p, chains in found if chains]


def measures(p: Progress) -> str:
    """A chain's last row in a few numbers; why not, where it cannot be read."""
    if p.fault or not p.done:
        return ""
    try:
        row = study.table(p.chain).iloc[-1]
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as e:
        return str(e)
    names = [c for c in HEADLINE if c in row] or [c for c in row.index if f"{c}_sem" in row.index][:3]
    return " · ".join(f"{c} {figure(float(row[c]))}" for c in names if row[c] == row[c])
