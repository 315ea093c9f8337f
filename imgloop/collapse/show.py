"""The profile as text: tables that are complete without colour."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from imgloop.collapse.definitions import SHORT
from imgloop.conditions import short_names

MARKS = {"detected": "● ", "excluded": "○ ", "undetermined": "? ", "not measured": "- ", "no verdict": "- "}
STYLES = {"detected": "bold red", "excluded": "green", "undetermined": "yellow"}


def console() -> Console:
    """The terminal, or 120 characters a line where the output is none."""
    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(width=120, highlight=False)


def page(profile, console: Console) -> None:
    """Print a profile: for each condition a table and remarks, then what all conditions share, and the rules."""
    names, common = short_names(profile.conditions)
    remarks = {condition: remarks_on(profile, condition) for condition in names}
    shared = [text for text in remarks[profile.conditions[0]] if all(text in texts for texts in remarks.values())]
    shared = shared if len(names) > 1 else []
    for condition, name in names.items():
        verdicts = list(profile[condition].values())
        seeds, last = max(v.seeds for v in verdicts), verdicts[0].generations
        chains = f"{seeds:,} chain{'s' * (seeds != 1)}"
        console.print(Text(f"{name} {profile.against}: {chains}, generations 0..{last}", "bold"))
        single = seeds == 1 and all(v.verdict in ("no verdict", "not measured") for v in verdicts)
        if single:
            console.print("1 seed: no verdicts")
        console.print(table(verdicts, single))
        for text in remarks[condition]:
            if text not in shared:
                console.print(Text(f"  {text}"), soft_wrap=False)
        if condition in profile.laws:
            console.print(effective(profile.laws[condition]))
        console.print()
    if shared or common:
        console.print(
            Text({1: "Settings", 2: "Both conditions"}.get(len(names), f"All {len(names)} conditions"), "bold")
        )
        for text in [*(["; ".join(common)] if common else []), *shared]:
            console.print(Text(f"  {text}"))
        console.print()
    first = next(iter(profile[profile.conditions[0]].values()))
    console.print(Text("Rules", "bold"))
    for v in profile[first.condition].values():
        console.print(Text(f"  {v.definition}  {v.title}: {v.rule}"))
    for text in profile.notes.get("", ()):
        console.print(Text(f"  {text}"))


def remarks_on(profile, condition: str) -> list[str]:
    """Remarks on the verdicts of one condition, then its notes."""
    verdicts = list(profile[condition].values())
    absent = [v for v in verdicts if v.verdict == "not measured"]
    remarks = [f"{v.definition}: {v.reason}" for v in verdicts if v.reason and v not in absent]
    for reason in dict.fromkeys(v.reason for v in absent):
        which = ", ".join(str(v.definition) for v in absent if v.reason == reason)
        remarks.append(f"{which}: not measured: {reason}")
    common = set.intersection(*(set(v.left_out) for v in verdicts))
    remarks += [f"left out: {text}" for text in verdicts[0].left_out if text in common]
    remarks += [f"{v.definition}: left out: {t}" for v in verdicts for t in v.left_out if t not in common]
    return [*remarks, *profile.notes.get(condition, ())]


def table(verdicts, single: bool = False) -> Table:
    """The verdicts of one condition; for a single seed, which has none, the effects alone."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "definition", "effect"):
        result.add_column(name, justify="right" if name == "" else "left")
    if not single:
        for name in ("95 % interval", "p (Holm)", "p (signs)", "chains"):
            result.add_column(name, justify="right", no_wrap=True)
        result.add_column("verdict", no_wrap=True)
    result.add_column("in its own units")
    for v in verdicts:
        cells: list[str | Text] = [str(v.definition), SHORT[v.definition], number(v.effect)]
        if not single:
            interval = "" if np.isnan(v.low) else f"[{number(v.low)}, {number(v.high)}]"
            label = MARKS[v.verdict] + v.verdict + (", exact" if v.exact else "")
            cells += [interval, chance(v.p_holm), chance(v.p_exact), f"{v.seeds:,}" if v.seeds else ""]
            cells.append(Text(label, STYLES.get(v.verdict, "")))
        reading = v.reading or ("not measured" if single and v.verdict == "not measured" else "")
        result.add_row(*cells, Text(reading))
    return result


def effective(law) -> Table:
    """N_eff / N by size."""
    result = Table(box=None, pad_edge=False, header_style="bold", title="N_eff / N", title_justify="left")
    for name in ("real samples", "N_eff / N", "95 % interval", ""):
        result.add_column(name, justify="left" if name == "" else "right")
    for row in law.to_frame().itertuples():
        interval = "" if np.isnan(row.low) else f"[{number(row.low)}, {number(row.high)}]"
        result.add_row(f"{row.size:g}", number(row.effective), interval, "extrapolated" if row.extrapolated else "")
    return result


def number(x: float) -> str:
    return "" if np.isnan(x) else f"{x:.3g}"


def chance(p: float) -> str:
    return "" if np.isnan(p) else "<.0001" if p < 1e-4 else f"{p:.4f}".lstrip("0")
