"""Every measure of a study as a panel: its lines over generations, with bands over seeds, and what is seen in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from imgloop.measures import SCORES
from imgloop.report import sizes
from imgloop.report.text import figure, spread
from imgloop.study.study import Study

MEASURES = {  # column: title, unit of its axis
    "fd": ("Frechet distance to held-out images", "squared feature units; lower is closer"),
    "kd": ("Kernel distance to held-out images", "squared kernel units; lower is closer"),
    "risk": ("Held-out risk", "denoising loss on real images; lower is better"),
    "tail_risk": ("Risk on rare real images", "denoising loss; lower is better"),
    "excess": ("Excess risk", "over the best fit; lower is better"),
    "precision": ("Precision", "share of samples among real images"),
    "recall": ("Recall", "share of real images among samples"),
    "density": ("Density", "1 expected of real images"),
    "coverage": ("Coverage", "share of real images with a sample near"),
    "variance_ratio": ("Variance ratio", "generated over real; 1 is equal"),
    "effective_rank": ("Effective rank", "directions of feature variance"),
    "vendi": ("Vendi score", "effective number of distinct samples"),
    "modes_covered": ("Modes covered", "classes that are not lost"),
    "modes_present": ("Modes present", "classes beyond what confusions explain"),
    "mode_kl": ("Class mix, divergence from the real one", "nats; 0 is equal"),
    "mode_share_min": ("Smallest mode share", "over its real share; 1 is equal"),
    "tail_mass": ("Tail mass", "mass in the real tail over the real one; 1 is equal"),
    "off_support": ("Off-support rate", "share of samples beyond real images"),
    "ambiguity": ("Ambiguity rate", "share of samples between classes"),
    "authenticity": ("Authenticity", "share of samples that are no copies"),
    "rule_violations": ("Rule violations", "share of samples that break a rule"),
    "n_train": ("Training set", "images a generation"),
    "real_share": ("Real share of the training set", "share of images"),
    "seconds_train": ("Training time", "seconds a generation"),
}
PER_PANEL = 8  # conditions beyond this many make lines that cannot be told apart: they go to further panels
COUNTS = ("n_train", "modes_covered", "modes_present")  # whole numbers, told as such where their mean is one
SIGNED = ("kd", "risk", "tail_risk", "log_variance", "centre")  # estimates and logs, which may lie below 0
FULL = ("precision", "recall", "coverage", "authenticity", "real_share")  # shares drawn from 0 to 1


@dataclass(frozen=True)
class Line:
    """One condition in a panel, (G,) each: mean over its seeds, the band's edges (NaN without one), theory (a line to
    compare points with) and medians where there are any."""

    condition: str
    name: str
    index: int  # of the condition in the study, which gives it its look
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: np.ndarray
    theory: np.ndarray | None = None
    median: np.ndarray | None = None

    def said(self, i: int) -> str:
        """A point in words."""
        half = (self.high[i] - self.low[i]) / 2
        n = int(self.seeds[i])
        return f"{self.name}, generation {self.x[i]:g}: {spread(self.mean[i], half)} ({n} seed{'s' * (n != 1)})"


@dataclass(frozen=True)
class Panel:
    """A measure over generations. `seen`: what its lines do, in words; `band`: what the bands are; `reference`: a level
    to compare with, and its name."""

    measure: str
    label: str
    unit: str
    lines: tuple[Line, ...]
    band: str
    log: bool = False
    reference: tuple[str, float] | None = None
    bound: bool = False  # theory is an upper bound
    span: tuple[float, float] | None = None  # of the vertical axis, where other panels share it

    @property
    def seen(self) -> str:
        """The panel in a sentence: the measure, and what its lines do."""
        return f"{self.label}: {', '.join(self.moved)}" if self.moved else self.label

    @property
    def moved(self) -> list[str]:
        """How far each condition went from its first generation to its last; of many, those that went farthest."""
        moved = []
        for line in self.lines:
            known = np.flatnonzero(np.isfinite(line.mean))
            if len(known) > 1:
                moved.append((line, line.mean[known[0]], line.mean[known[-1]]))
        if len(moved) > 4:
            moved.sort(key=lambda m: m[2] - m[1])
            moved = [moved[0], moved[-1]]
        return [f"{line.name} {self.value(a)} → {self.value(b)}" for line, a, b in moved]

    def value(self, x: float) -> str:
        """A mean as it is told: three digits, of counts every digit where it is whole."""
        whole = self.measure in COUNTS and float(x).is_integer()
        return figure(int(x)) if whole else figure(float(x))

    def edges(self, line: Line) -> tuple[np.ndarray, np.ndarray]:
        """A line's band as it is drawn, (G,) each: to 0 where the measure cannot be less, on a logarithmic axis to its
        end."""
        below = self.measure in SIGNED or any((other.mean < 0).any() for other in self.lines)
        least = self.limits[0] if self.log else -np.inf if below else 0.0
        return np.maximum(line.low, least), line.high

    @property
    def limits(self) -> tuple[float, float]:
        """The vertical axis' span: from 0, unless it is logarithmic or values are negative."""
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
        if self.measure in FULL:
            return 0.0, 1.0
        if high == low:
            high = low + 1.0
        return low - 0.06 * (high - low) * (low < 0), high + 0.06 * (high - low)


def split(found: Sequence[Panel], control: str | None = None) -> list[Panel]:
    """Panels of at most PER_PANEL lines each, since more cannot be told apart; those of one measure have the same axis
    and the `control` in each."""
    parts = []
    for p in found:
        if len(p.lines) <= PER_PANEL:
            parts.append(p)
            continue
        beside = tuple(line for line in p.lines if line.condition == control)
        others = [line for line in p.lines if line.condition != control]
        step = PER_PANEL - len(beside)
        for k, first in enumerate(range(0, len(others), step), 1):
            lines = (*others[first : first + step], *beside)
            parts.append(replace(p, lines=lines, label=f"{p.label} ({k})", span=p.limits))
    return parts


def panels(study: Study, names: Mapping[str, str], reference: Mapping[str, float] | None = None) -> list[Panel]:
    """The panels of a study; `names` of conditions to print, `reference` real-against-real values by measure."""
    return _solvable(study, names) if study.solvable else _trained(study, names, reference or {})


def _trained(study: Study, names: Mapping[str, str], reference: Mapping[str, float]) -> list[Panel]:
    frame, found = sizes.largest(study.table), []
    several = frame.groupby("condition")["seed"].nunique().max() > 1
    band = "mean over seeds, band of one standard deviation" if several else "one seed, no band"
    band = "; ".join(filter(None, (band, sizes.said(study.table, names))))
    for measure, (label, unit) in MEASURES.items():
        if measure not in frame or not frame[measure].notna().any():
            continue
        if study.is_csv:  # whose measures are somebody else's: what a column's name says, and no more
            label, unit = label.removesuffix(" to held-out images"), f"column {measure}"
        lines = []
        for i, condition in enumerate(names):
            part = frame[(frame["condition"] == condition) & frame[measure].notna()]
            by = part.groupby("generation")[measure]
            mean, sd = by.mean().to_numpy(float), by.std(ddof=1).to_numpy(float)
            if len(mean):
                x, n = np.array(sorted(by.groups), float), by.size().to_numpy()
                lines.append(Line(condition, names[condition], i, x, mean, mean - sd, mean + sd, n))
        level = reference.get(measure) if measure in SCORES else None
        beside = ("real against real", float(level)) if isinstance(level, int | float) else None
        found.append(Panel(measure, label, unit, tuple(lines), band, reference=beside))
    return found


def _solvable(study: Study, names: Mapping[str, str]) -> list[Panel]:
    from imgloop.study import solved as results
    from imgloop.study.tables import load_study

    quantities = {}
    for chain in study.chains:
        quantities |= results.record(chain)["quantities"]
    pooled = study.table if study.single or study.damaged else results.carried(load_study(study.path), study.chains)
    frame, found = results.pooled(pooled), []
    for measure, q in quantities.items():
        lines = []
        for i, condition in enumerate(names):
            part = frame[(frame["condition"] == condition)]
            if measure not in part or not part[measure].notna().any():
                continue
            part = part[part[measure].notna()]
            mean, sem = part[measure].to_numpy(float), part[f"{measure}_sem"].to_numpy(float)
            exact = part.get(f"{measure}_bound" if q["kind"] == "bound" else f"{measure}_theory")
            lines.append(
                Line(
                    condition,
                    names[condition],
                    i,
                    part["generation"].to_numpy(float),
                    mean,
                    mean - 2 * sem,
                    mean + 2 * sem,
                    part["seeds"].to_numpy(),
                    None if exact is None or exact.isna().all() else exact.to_numpy(float),
                    part[f"{measure}_median"].to_numpy(float) if q["skewed"] else None,
                )
            )
        mark = q["mark"] and (str(q["mark"][0]), float(q["mark"][1]))
        log = bool(q["log"])
        band = "points: mean over replicates with two standard errors; line: theory"
        band += "; hollow: median" * bool(q["skewed"]) + "; dotted: upper bound" * (q["kind"] == "bound")
        label, unit = str(q["label"]), f"{measure}, mean over replicates"
        label, bound = label[:1].upper() + label[1:], q["kind"] == "bound"
        found.append(Panel(measure, label, unit, tuple(lines), band, log, mark or None, bound))
    return [p for p in found if p.lines]
