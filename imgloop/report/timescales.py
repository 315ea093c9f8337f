"""How fast a measure moves: the generation at which it has doubled or halved since generation 0, a number a chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from imgloop.collapse.definitions import FARTHEST, crossing
from imgloop.report.panels import MEASURES
from imgloop.report.text import figure
from imgloop.studies import Study

DOUBLES = ("fd", "kd", "risk", "tail_risk", "excess", "mode_kl", "off_support", "ambiguity", "rule_violations")
HALVES = (
    *("precision", "recall", "density", "coverage", "variance_ratio", "effective_rank", "vendi"),
    *("modes_covered", "mode_share_min", "tail_mass", "authenticity"),
)


@dataclass(frozen=True)
class Timescale:
    """Generations until a measure has doubled or halved (`change`): median over chains, smallest and largest;
    infinite where a chain does not within FARTHEST times the generations that were run. `extrapolated`: the median
    lies beyond the `last` generation."""

    condition: str
    measure: str
    label: str
    change: str
    median: float
    low: float
    high: float
    chains: int
    last: int

    @property
    def extrapolated(self) -> bool:
        return bool(np.isfinite(self.median) and self.median > self.last)

    @property
    def said(self) -> str:
        if not np.isfinite(self.median):
            return f"> {FARTHEST * max(self.last, 1)}"
        if self.extrapolated:
            return f"about {figure(float(f'{self.median:.2g}'))}, extrapolated"
        high = figure(self.high) if self.high <= self.last else f"> {self.last}"
        span = f" [{figure(self.low)}, {high}]" if self.chains > 1 else ""
        return f"{figure(self.median)}{span}"


def timescales(study: Study, names: Mapping[str, str]) -> list[Timescale]:
    """Every measure's timescale by condition, in the order of the panels; measures of no direction have none."""
    frame, found = study.table, []
    changes = {m: "doubled" for m in DOUBLES} | {m: "halved" for m in HALVES}
    labels = {m: MEASURES[m][0] if m in MEASURES else m for m in changes}
    if study.solvable:
        changes, labels = _quantities(study)
    for measure in [m for m in (labels if study.solvable else [*MEASURES, "mode_share_min"]) if m in changes]:
        if measure not in frame or any(t.measure == measure for t in found):
            continue
        for condition in names:
            part = frame[(frame["condition"] == condition) & frame[measure].notna()]
            times = [time_of(course, changes[measure]) for course in _courses(part, measure)]
            times = [t for t in times if t is not None]
            if times:
                last = int(part["generation"].max())
                kept = np.array(times)
                middle = float(np.sort(kept)[(len(kept) - 1) // 2 : len(kept) // 2 + 1].mean())
                spans = float(kept.min()), float(kept.max())
                found.append(
                    Timescale(condition, measure, labels[measure], changes[measure], middle, *spans, len(kept), last)
                )
    return found


def _courses(part, measure: str) -> list[np.ndarray]:
    """A chain's values from generation 0 to its last, without those that start later or have a gap."""
    found = []
    for _, rows in part.groupby("seed"):
        rows = rows.sort_values("generation")
        if list(rows["generation"]) == list(range(len(rows))):
            found.append(rows[measure].to_numpy(float))
    return found


def time_of(course: np.ndarray, change: str) -> float | None:
    """When a course (G + 1,) first passes twice or half of its first value, interpolated; beyond G by its mean slope,
    infinite where that leads away; None where there is nothing to tell (one generation, no positive start)."""
    if len(course) < 2 or not np.isfinite(course).all() or course[0] <= 0:
        return None
    ratio = course / course[0]
    at = crossing(ratio, 2.0) if change == "doubled" else crossing(-ratio, -0.5)
    return np.inf if at is None else float(at)


def _quantities(study: Study) -> tuple[dict[str, str], dict[str, str]]:
    """A solvable system's quantities: doubled where they rise in most conditions, else halved; and their labels."""
    from imgloop.analytic import results

    told = {}
    for chain in study.chains:
        told |= results.record(chain)["quantities"]
    changes, labels = {}, {}
    for name, quantity in told.items():
        if name not in study.table or quantity["kind"] != "mean":
            continue
        part = study.table[study.table[name].notna()].sort_values("generation").groupby(["condition", "seed"])[name]
        rising = (part.last() > part.first()).mean() >= 0.5
        changes[name] = "doubled" if rising else "halved"
        labels[name] = str(quantity["label"])[:1].upper() + str(quantity["label"])[1:]
    return changes, labels
