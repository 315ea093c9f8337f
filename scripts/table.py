"""Markdown tables: `python scripts/table.py STUDY [MEASURE ...]` prints a study's measures by condition and generation;
`python scripts/table.py measures` writes the list of all measures into docs/metrics.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from markdown_table import table

import imgloop
from imgloop import figures
from imgloop.measures import MEASURES
from imgloop.study.trained import panels

DOCS = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"
START, END = "<!-- measures -->", "<!-- /measures -->"  # lines before and after the list in docs/metrics.md


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", help="folder of a study, its CSV table, or `measures`")
    parser.add_argument("measure", nargs="*", default=["fd"], help="columns of metrics.csv")
    parser.add_argument("--curves", type=Path, metavar="FILE", help="also draw all curves as PNG")
    a = parser.parse_args()
    if a.study == "measures":
        text = DOCS.read_text()
        before, after = text.split(START)[0], text.split(END)[1]
        DOCS.write_text(f"{before}{START}\n{measures()}\n{END}{after}")
        return
    try:
        frame = imgloop.Study(a.study).table
    except imgloop.UserError as e:
        sys.exit(f"table: {e}")
    if a.curves:
        title = f"{Path(a.study).stem}: mean over seeds, band of one standard deviation"
        a.curves.write_bytes(figures.curves(frame, title, None, panels(MEASURES)))
    unknown = [m for m in a.measure if m not in frame]
    if unknown:
        sys.exit(f"table: {unknown[0]} is not measured in {a.study}; choose from {', '.join(frame.columns[3:])}.")
    generations = sorted(frame["generation"].unique())
    for measure in a.measure:
        rows = []
        for condition, part in frame.groupby("condition"):
            by = part.groupby("generation")[measure]
            mean, sd = by.mean(), by.std(ddof=1)
            cells = [f"{mean[t]:.3g} ± {sd[t]:.2g}" if sd.notna()[t] else f"{mean[t]:.3g}" for t in mean.index]
            rows.append([condition, *cells])
        print("\n".join(table([measure, *(f"generation {t}" for t in generations)], rows)), end="\n\n")


def measures() -> str:
    """The Markdown table of all measures, from imgloop/measures.py."""
    head = ("measure", "meaning", "unit", "range", "when a generator collapses", "of a perfect generator")
    rows = [
        (f"`{name}`", info.label, info.unit, info.limits, info.collapse or "", info.perfect)
        for name, info in MEASURES.items()
    ]
    return "\n".join(table(head, rows))


def listed(text: str) -> str:
    """The table between the two marker comments of a Markdown text."""
    return text.split(START)[1].split(END)[0].strip("\n")


if __name__ == "__main__":
    main()
