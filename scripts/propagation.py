"""python scripts/propagation.py [--store outputs] [--write]: the matrix of docs/propagation.md.

Reads the raw tables of docs/studies with the thresholds that their studies began with, and prints the
verdicts, a row a condition and a column a definition, and what would settle those that are undetermined. --store: first
copies tables and thresholds of the studies in a folder to docs/studies. --write: into docs/propagation.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from markdown_table import table

from imgloop import store
from imgloop.collapse import power
from imgloop.collapse.definitions import SHORT, TITLES
from imgloop.collapse.pilot import pilot
from imgloop.collapse.profile import collapse_profile
from imgloop.collapse.tables import SIZED
from imgloop.collapse.verdicts import DETECTED, EXCLUDED, UNDETERMINED, Profile, Verdict
from imgloop.display import duration
from imgloop.errors import UserError
from imgloop.study.frozen import FILE, read
from imgloop.study.progress import incomplete, progress
from imgloop.study.tables import csv_text, load_study

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, RAW = DOCS / "propagation.md", DOCS / "studies"
START, END = "<!-- matrix -->", "<!-- /matrix -->"
BLOCKS = {  # study: data, sizes and model
    "propagation": ("digits", "fixed", "diffusion"),
    "scaling-law": ("digits", "fixed, five sizes of R", "diffusion"),
    "propagation-gan": ("digits", "fixed", "GAN"),
    "propagation-realistic": ("digits", "realistic", "diffusion"),
    "propagation-realistic-gan": ("digits", "realistic", "GAN"),
}
MARKS = {DETECTED: "**yes**", EXCLUDED: "no", UNDETERMINED: "?"}
SEEDS = (8, 12, 16, 24, 32, 48, 64)  # that are tried to settle a verdict
WANTED = 0.8  # probability of a verdict
SIMULATED = 1_000  # studies for each number of seeds


@dataclass(frozen=True)
class Block:
    """The study of one set of data, sizes and model, from its raw table."""

    name: str

    @property
    def label(self) -> str:
        return ", ".join(BLOCKS[self.name])

    @cached_property
    def frame(self) -> Any:
        return pd.read_csv(RAW / f"{self.name}.csv")

    @cached_property
    def profile(self) -> Profile:
        stored = read(RAW / f"{self.name}.json")
        return collapse_profile(self.frame, thresholds=stored.thresholds, frozen=stored)

    @property
    def chain_seconds(self) -> float:
        """Mean seconds of one chain."""
        columns = [c for c in self.frame if str(c).startswith("seconds")]
        return float(self.frame.groupby(["condition", "seed"])[columns].sum().sum(axis=1).mean())

    def named(self, condition: str) -> list[str]:
        """The study, and the condition without its number of real images."""
        return [self.label, SIZED.sub("", condition)]

    def rows(self) -> Iterator[list[str]]:
        """Condition, seeds, and for each definition the verdict with its effect and interval."""
        for condition in self.profile.conditions:
            verdicts = self.profile[condition]
            seeds = max(v.seeds for v in verdicts.values())
            cells = [f"{MARKS[v.verdict]} {brief(v)}" if v.verdict in MARKS else "-" for v in verdicts.values()]
            yield [*self.named(condition), f"{seeds}", *cells]

    def effects(self) -> Iterator[list[str]]:
        """Of each verdict: condition, definition, verdict, and effect with its interval in the measure's units."""
        for condition in self.profile.conditions:
            for number, v in self.profile[condition].items():
                if v.verdict in MARKS:
                    text = v.reading or f"{v.effect:+.2g} ({v.low:+.2g} to {v.high:+.2g})"
                    yield [*self.named(condition), f"{number} {TITLES[number]}", v.verdict, v.number, text]

    def laws(self) -> Iterator[list[str]]:
        """Of each scaling law (definition 5): condition, N_eff / N at each size with its interval, and what changed."""
        for condition, law in self.profile.laws.items():
            rows = law.to_frame().itertuples()
            cells = [f"{r.effective:.2f} ({r.low:.2f} to {r.high:.2f}){'*' * r.extrapolated}" for r in rows]
            parts = [f"{p.estimate:.3g} ({p.low:.3g} to {p.high:.3g})" for p in law.parts]
            yield [*self.named(condition), *cells, *parts]

    def open(self) -> Iterator[list[str]]:
        """Of each undetermined verdict: condition, definition, and the seeds and time that would settle it, if its
        effect and spread are those of this study."""
        for condition in self.profile.conditions:
            for number, v in self.profile[condition].items():
                if v.verdict == UNDETERMINED:
                    yield [*self.named(condition), f"{number} {TITLES[number]}", *self.settled(condition, number)]

    def settled(self, condition: str, number: int) -> tuple[str, str]:
        """The seeds, and the time on one core for as many chains of the condition and its control."""
        try:
            seen = pilot(self.frame, number, condition, thresholds=self.profile.thresholds)
        except UserError as e:
            return str(e), ""
        plan = power.Plan(number, seen.effect, at=seen.at, spread=seen.spread)
        for seeds in SEEDS:
            outcome = power.power(plan, seeds, seen.at, SIMULATED)
            for verdict, share in ((DETECTED, outcome.detected), (EXCLUDED, outcome.excluded)):
                if share >= WANTED:
                    return f"{seeds} seeds ({verdict} in {share:.0%})", duration(2 * seeds * self.chain_seconds)
        return f"more than {SEEDS[-1]} seeds", f"more than {duration(2 * SEEDS[-1] * self.chain_seconds)}"


def brief(v: Verdict) -> str:
    """A verdict's effect in a few characters, such as +41%."""
    if not v.reading:
        return f"{v.effect:+.2g}"
    return v.reading.split(" of ")[0].split(",")[0].replace(" percentage points", " pp").removeprefix("C ")


def stored(out: Path) -> Iterator[str]:
    """Copy tables and thresholds of the studies in a folder, and say so. Raises UserError for a study that is not
    finished or has no control, before anything of it is copied, and where there is none."""
    there = [name for name in BLOCKS if (out / name / FILE).exists()]
    if not there:
        raise UserError(f"{out} has none of the studies {', '.join(BLOCKS)}: run one, or name their folder by --store.")
    for name in there:
        if note := incomplete(progress(out / name)):
            raise UserError(f"{out / name}: {note}. Run it to its end.")
        frame, frozen = load_study(out / name), read(out / name / FILE)
        collapse_profile(frame, thresholds=frozen.thresholds, frozen=frozen)
        store.write_text(RAW / f"{name}.csv", csv_text(frame))
        (RAW / f"{name}.json").write_bytes((out / name / FILE).read_bytes())
        yield f"{name}: docs/studies/{name}.csv"


def page() -> Iterator[str]:
    """The matrix, the effects, and what is open, in Markdown."""
    blocks = [Block(name) for name in BLOCKS if (RAW / f"{name}.csv").exists()]
    if not blocks:
        yield "None of these studies has been run to its end yet."
        return
    yield from table(
        ["study", "paradigm", "seeds", *(f"{k} {SHORT[k]}" for k in TITLES)], (r for b in blocks for r in b.rows())
    )
    yield from ("", f"*Not run yet: {'; '.join(b) or 'none'}.*" if (b := missing(blocks)) else "", "")
    for block in (b for b in blocks if b.profile.laws):
        sizes = next(iter(block.profile.laws.values())).sizes
        yield from ("**Definition 5: N_eff / N**, by the number N of real images", "")
        heads = ["study", "paradigm", *(f"{n:,g}" for n in sizes), "5a constant, factor", "5b slope", "5c floor"]
        yield from table(heads, block.laws())
        yield from ("", "\\*: outside the sizes that were run.", "")
    yield from ("**What would settle what is undetermined**", "")
    yield from table(
        ["study", "paradigm", "definition", f"seeds for a verdict in {WANTED:.0%}", "time on one core"],
        (r for b in blocks for r in b.open()),
    )


def missing(blocks: list[Block]) -> list[str]:
    known = {b.name for b in blocks}
    return [", ".join(label) for name, label in BLOCKS.items() if name not in known]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, metavar="OUT", help="first copy the tables of the studies in this folder")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/propagation.md")
    parser.add_argument("--effects", action="store_true", help="also print each verdict with its effect")
    a = parser.parse_args(arguments)
    try:
        for line in stored(a.store) if a.store else ():
            print(line, file=sys.stderr)
        text = "\n".join(page())
    except UserError as e:
        sys.exit(f"propagation: {e}")
    print(text)
    if a.effects:
        for name in BLOCKS:
            if (RAW / f"{name}.csv").exists():
                print("\n".join(table(["study", "paradigm", "definition", "verdict", "number", "effect"],
                                      Block(name).effects())))  # fmt: skip
    if a.write:
        before, after = PAGE.read_text().split(START)[0], PAGE.read_text().split(END)[1]
        PAGE.write_text(f"{before}{START}\n{text}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
