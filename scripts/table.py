"""python scripts/table.py STUDY [MEASURE ...]: a study's measures by condition and generation, as Markdown."""

from __future__ import annotations

import argparse
import sys

import imgloop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study")
    parser.add_argument("measure", nargs="*", default=["fd"], help="columns of metrics.csv")
    a = parser.parse_args()
    try:
        frame = imgloop.load_study(a.study)
    except imgloop.UserError as e:
        sys.exit(f"table: {e}")
    unknown = [m for m in a.measure if m not in frame]
    if unknown:
        sys.exit(f"table: {unknown[0]} is not measured in {a.study}; choose from {', '.join(frame.columns[3:])}.")
    generations = sorted(frame["generation"].unique())
    for measure in a.measure:
        print(f"| {measure} | " + " | ".join(f"generation {t}" for t in generations) + " |")
        print("|---" * (len(generations) + 1) + "|")
        for condition, part in frame.groupby("condition"):
            by = part.groupby("generation")[measure]
            mean, sd = by.mean(), by.std(ddof=1)
            cells = [f"{mean[t]:.3g} ± {sd[t]:.2g}" if sd.notna()[t] else f"{mean[t]:.3g}" for t in mean.index]
            print(f"| {condition} | " + " | ".join(cells) + " |")
        print()


if __name__ == "__main__":
    main()
