"""Each measure of a study as a panel: one line a condition over generations, with bands over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from imgloop.errors import UserError
from imgloop.figures import Look, looks
from imgloop.measures import MEASURES, MeasureInfo
from imgloop.report import sizes
from imgloop.report.text import figure, spread
from imgloop.study import solved
from imgloop.study.study import Study

PER_PANEL = 8  # conditions in one panel: more lines cannot be distinguished; the rest go to further panels
SIGNED = ("log_variance", "centre")  # quantities of solvable systems that can be negative
KEY = ("fd", "risk", "variance_ratio", "recall")  # the curves that a page shows first, where it has them
FIRST = 4  # curves that it shows first
ORDER = ("score", "system", "table", "size", "time")  # of the panels, by kind of measure


@dataclass(frozen=True)
class Line:
    """One condition in a panel, arrays (G,): mean over seeds and the band's edges (NaN where there is none).

    look: colour, dash and marker of the condition. theory: drawn as the line, with the means as
    points. median: drawn as hollow points.
    """

    condition: str
    name: str
    look: Look
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: np.ndarray
    theory: np.ndarray | None = None
    median: np.ndarray | None = None

    def point(self, i: int) -> str:
        """Point `i` in words, for its tooltip."""
        half = (self.high[i] - self.low[i]) / 2
        n = int(self.seeds[i])
        return f"{self.name}, generation {self.x[i]:g}: {spread(self.mean[i], half)} ({n} seed{'s' * (n != 1)})"


@dataclass(frozen=True)
class Panel:
    """A measure over generations.

    band: what the bands show, in words. reference: (name, level) of a horizontal line. bound: theory is an upper bound.
    span: limits of the vertical axis, where several panels share it.
    """

    info: MeasureInfo
    lines: tuple[Line, ...]
    band: str = ""
    log: bool = False
    reference: tuple[str, float] | None = None
    bound: bool = False
    span: tuple[float, float] | None = None

    @property
    def summary(self) -> str:
        """The panel in one sentence: the label and the changes."""
        return f"{self.info.label}: {', '.join(self.changes)}" if self.changes else self.info.label

    @property
    def changes(self) -> list[str]:
        """Each condition's first and last value; of more than four conditions, the two extreme ones."""
        changes = []
        for line in self.lines:
            known = np.flatnonzero(np.isfinite(line.mean))
            if len(known) > 1:
                changes.append((line, line.mean[known[0]], line.mean[known[-1]]))
        if len(changes) > 4:
            changes.sort(key=lambda change: change[2] - change[1])
            changes = [changes[0], changes[-1]]
        return [f"{line.name} {self.value(a)} → {self.value(b)}" for line, a, b in changes]

    def value(self, x: float) -> str:
        """A mean as text: three digits; whole means of counts are exact."""
        return figure(int(x)) if self.info.whole and float(x).is_integer() else figure(float(x))

    def edges(self, line: Line) -> tuple[np.ndarray, np.ndarray]:
        """A line's band as drawn, (G,) each: cut at 0 if the measure cannot be negative, and at a log axis' end."""
        signed = self.info.low is None or any((other.mean < 0).any() for other in self.lines)
        least = self.limits[0] if self.log else -np.inf if signed else 0.0
        return np.maximum(line.low, least), line.high

    @property
    def limits(self) -> tuple[float, float]:
        """Limits of the vertical axis: from 0, unless it is logarithmic or values are negative."""
        if self.span:
            return self.span
        bands = [(line.low, line.high) if self.log else self.edges(line) for line in self.lines]
        lines = [a for line, band in zip(self.lines, bands) for a in (line.mean, *band, line.theory, line.median)]
        values = np.concatenate([a[np.isfinite(a)] for a in lines if a is not None] + [[]])
        if self.reference:
            values = np.append(values, self.reference[1])
        if self.log:
            values = values[values > 0]
            low, high = (values.min(), values.max()) if len(values) else (0.1, 1.0)
            return low / 1.2, high * 1.2
        low, high = (min(float(values.min()), 0.0), max(float(values.max()), 0.0)) if len(values) else (0.0, 1.0)
        if self.info.full_axis:
            return 0.0, 1.0
        if high == low:
            high = low + 1.0
        return low - 0.06 * (high - low) * (low < 0), high + 0.06 * (high - low)


def split(whole: Sequence[Panel], control: str | None = None) -> list[Panel]:
    """Panels of at most PER_PANEL lines each; parts of one panel share its axis and the `control`'s line."""
    parts = []
    for p in whole:
        if len(p.lines) <= PER_PANEL:
            parts.append(p)
            continue
        shared = tuple(line for line in p.lines if line.condition == control)
        others = [line for line in p.lines if line.condition != control]
        step = PER_PANEL - len(shared)
        for k, first in enumerate(range(0, len(others), step), 1):
            info = replace(p.info, label=f"{p.info.label} ({k})")
            parts.append(replace(p, info=info, lines=(*others[first : first + step], *shared), span=p.limits))
    return parts


def first(whole: Sequence[Panel], measures: Sequence[str] = ()) -> list[Panel]:
    """The panels to show first, in this order: those of `measures`, by default of KEY, and further ones up to FIRST.

    Raises UserError for a measure without a panel.
    """
    have = list(dict.fromkeys(p.info.name for p in whole))
    if missing := [m for m in measures if m not in have]:
        raise UserError(
            f"--measures {','.join(missing)}: the study has no such curve; choose from {', '.join(have)}.", "measures"
        )
    names = list(measures) or [*(m for m in KEY if m in have), *(m for m in have if m not in KEY)][:FIRST]
    return [p for m in dict.fromkeys(names) for p in whole if p.info.name == m]


def scheduled(study: Study) -> bool:
    """Whether images seen, samples drawn or the share released change over the generations of a condition."""
    frame: Any = study.table
    if not {"train_images", "n_drawn", "n_pool"} <= set(frame):
        return False
    released = (frame["n_pool"] / frame["n_drawn"]).round(2)  # a share of few samples is not met exactly
    values = frame[["condition", "train_images", "n_drawn"]].assign(released=released)
    return bool((values.groupby("condition").nunique() > 1).any(axis=None))


def displayed(study: Study) -> list[MeasureInfo]:
    """The measures of a study that have a panel, in the order of the page; users' measures included."""
    frame: Any = study.table
    names = {"n_train", "real_share", "seconds_train"}
    if {"n_drawn", "n_pool"} <= set(frame):
        counts = frame[["n_drawn", "n_pool"]].dropna()
        if (counts["n_drawn"] != counts["n_pool"]).any():  # only some samples were released to later generations
            names |= {"n_drawn", "n_pool"}
    if scheduled(study):
        names.add("train_images")

    def shown(info: MeasureInfo) -> bool:
        value = info.name.removesuffix("_sem")
        error = value != info.name and value in study.measures  # shown by no panel of its own
        wanted = info.name in names or (info.kind in ("score", "system", "table") and not error)
        return wanted and info.name in frame and frame[info.name].notna().any()

    return sorted(filter(shown, study.measures.values()), key=lambda i: (ORDER.index(i.kind), i.name not in MEASURES))


def panels(study: Study, names: Mapping[str, str], reference: Mapping[str, float] | None = None) -> list[Panel]:
    """The panels of a study; `names` of conditions to print, `reference` real-against-real values by measure."""
    return _solvable(study, names) if study.solvable else _trained(study, names, reference or {})


def _trained(study: Study, names: Mapping[str, str], reference: Mapping[str, float]) -> list[Panel]:
    frame, styles, found = sizes.largest(study.table), looks(list(names)), []
    several = frame.groupby("condition")["seed"].nunique().max() > 1
    band = "mean over seeds, band of one standard deviation" if several else "one seed, no band"
    band = "; ".join(filter(None, (band, sizes.note(study.table, names))))
    for info in displayed(study):
        measure = info.name
        if study.is_csv:  # another program's column: its name says all that is known of it
            info = replace(info, label=info.label.removesuffix(" to held-out images"), unit=f"column {measure}")
        lines = []
        for condition, name in names.items():
            part = frame[(frame["condition"] == condition) & frame[measure].notna()]
            by = part.groupby("generation")[measure]
            mean, sd = by.mean().to_numpy(float), by.std(ddof=1).to_numpy(float)
            if len(mean):
                x, n = np.array(sorted(by.groups), float), by.size().to_numpy()
                lines.append(Line(condition, name, styles[condition], x, mean, mean - sd, mean + sd, n))
        level = reference.get(measure) if info.kind == "score" else None
        mark = ("real against real", float(level)) if isinstance(level, int | float) else None
        found.append(Panel(info, tuple(lines), band, reference=mark))
    return found


def _solvable(study: Study, names: Mapping[str, str]) -> list[Panel]:
    quantities: dict[str, Any] = {}
    for chain in study.chains:
        quantities |= solved.record(chain)["quantities"]
    whole = not (study.single or study.damaged)
    frame: Any = solved.pooled(solved.carried(study.table, study.chains) if whole else study.table)
    styles, found = looks(list(names)), []
    for measure, q in quantities.items():
        bound, lines = q["kind"] == "bound", []
        for condition, name in names.items():
            part = frame[(frame["condition"] == condition)]
            if measure not in part or not part[measure].notna().any():
                continue
            part = part[part[measure].notna()]
            mean, sem = part[measure].to_numpy(float), part[f"{measure}_sem"].to_numpy(float)
            exact = part.get(f"{measure}_bound" if bound else f"{measure}_theory")
            theory = None if exact is None or exact.isna().all() else exact.to_numpy(float)
            median = part[f"{measure}_median"].to_numpy(float) if q["skewed"] else None
            x, n = part["generation"].to_numpy(float), part["seeds"].to_numpy()
            low, high = mean - 2 * sem, mean + 2 * sem
            lines.append(Line(condition, name, styles[condition], x, mean, low, high, n, theory, median))
        band = "points: mean over replicates with two standard errors; line: theory"
        band += "; hollow: median" * bool(q["skewed"]) + "; dotted: upper bound" * bound
        info = MEASURES.get(measure) or MeasureInfo(measure, "", low=None if measure in SIGNED else 0.0)
        label, unit = str(q["label"]), f"{measure}, mean over replicates"
        info = replace(info, label=label[:1].upper() + label[1:], unit=unit)
        mark = (str(q["mark"][0]), float(q["mark"][1])) if q["mark"] else None
        found.append(Panel(info, tuple(lines), band, bool(q["log"]), mark, bound))
    return [p for p in found if p.lines]
