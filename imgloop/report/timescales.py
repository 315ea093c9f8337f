"""How fast a measure changes: when its mean over chains has doubled or halved since generation 0 and stays there."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from imgloop.collapse.definitions import crossing
from imgloop.collapse.statistics import interval
from imgloop.report.panels import displayed
from imgloop.report.sizes import largest
from imgloop.report.text import figure, plural
from imgloop.study import solved
from imgloop.study.study import Study

LEVELS = {"doubled": 2.0, "halved": 0.5}  # times the value at generation 0
NOUNS = {"doubled": "doubling", "halved": "halving"}
CHANGES = {"rises": "doubled", "falls": "halved"}  # by MeasureInfo.collapse


@dataclass(frozen=True)
class Timescale:
    """When a measure's mean over `chains` has doubled or halved (`change`) and stays there through generation `last`.

    at: in generations, interpolated; beyond `last` extrapolated (collapse.definitions.crossing); infinite if never.
    low, high: the earliest and latest single chain, infinite for a chain that does not reach the level within `last`;
    NaN for replicates. significant: whether the value at `last` differs from that at generation 0 in this direction
    (paired t over chains, 95 %); None for one chain.
    """

    condition: str
    measure: str
    label: str
    change: str
    at: float
    low: float
    high: float
    chains: int
    last: int
    significant: bool | None

    @property
    def extrapolated(self) -> bool:
        return bool(self.significant and self.last < self.at < np.inf)

    @property
    def seen(self) -> bool:
        """Whether the change lies within the generations that were run and is not rejected as noise."""
        return self.at <= self.last and self.significant is not False

    @property
    def text(self) -> str:
        noun, within = NOUNS[self.change], f"within {plural(self.last, 'generation')}"
        if self.seen:
            high = figure(self.high) if np.isfinite(self.high) else f"> {self.last}"
            span = f" [{figure(self.low)}, {high}]" if self.chains > 1 and not np.isnan(self.low) else ""
            return f"{figure(self.at)}{span}" + " (1 chain: not tested)" * (self.significant is None)
        if self.at <= self.last:
            return f"no {noun} beyond noise {within}"
        about = f"; extrapolated: about {figure(float(f'{self.at:.2g}'))}" if self.extrapolated else ""
        return f"no {noun} {within}{about}"


def timescales(study: Study, names: Mapping[str, str]) -> list[Timescale]:
    """The timescale of each measure and condition, in the order of the panels; measures without a direction have
    none."""
    directed = [info for info in displayed(study) if info.collapse] if not study.solvable else []
    changes, labels = {i.name: CHANGES[str(i.collapse)] for i in directed}, {i.name: i.label for i in directed}
    if study.solvable:
        changes, labels = _quantities(study)
    found = {}
    for condition in names:
        courses = _replicates(study, condition, labels) if study.solvable else _chains(study, condition, labels)
        for measure, x in courses:
            fields = timed(x, changes[measure], spans=not study.solvable)
            if fields:
                found[measure, condition] = Timescale(condition, measure, labels[measure], changes[measure], **fields)
    return [found[m, c] for m in labels for c in names if (m, c) in found]


def timed(x: np.ndarray, change: str, spans: bool = True) -> dict[str, Any] | None:
    """The fields of a Timescale for courses (S, G + 1); None without chains, with one generation, or where the mean
    does not start above 0. `spans`: also time each chain by itself."""
    if not len(x) or x.shape[1] < 2 or not x[:, 0].mean() > 0:
        return None
    sign, level, last = (1 if change == "doubled" else -1), LEVELS[change], x.shape[1] - 1
    mean = sign * x.mean(0) / x[:, 0].mean()
    at = crossing(mean, sign * level)
    if at is None or (at > last and (mean >= sign * level).any()):  # after a return: not extrapolated
        at = np.inf
    significant = None if len(x) < 2 else bool(interval(sign * (x[:, -1] - x[:, 0]))[1] > 0)
    own = [crossing(sign * course / course[0], sign * level) for course in x if spans and course[0] > 0]
    own = [np.inf if t is None or t > last else t for t in own]
    low, high = (float(min(own)), float(max(own))) if own else (np.nan, np.nan)
    return {"at": float(at), "low": low, "high": high, "chains": len(x), "last": last, "significant": significant}


def _chains(study: Study, condition: str, measures) -> Iterator[tuple[str, np.ndarray]]:
    """(measure, courses (S, G + 1)) of a condition's chains, G being where most of them end; chains that end earlier,
    start later or have a gap are left out."""
    frame = largest(study.table)
    frame = frame[frame["condition"] == condition]
    frame = frame[~frame.duplicated(["seed", "generation"], keep=False)]
    for measure in (m for m in measures if m in frame and frame[m].notna().any()):
        wide = frame[frame[measure].notna()].pivot(index="seed", columns="generation", values=measure)
        ends = [int(row.last_valid_index()) for _, row in wide.iterrows()]
        last = min(statistics.multimode(ends))
        x = wide.reindex(columns=range(last + 1)).to_numpy(float)
        yield measure, x[np.isfinite(x).all(1)]


def _replicates(study: Study, condition: str, quantities) -> Iterator[tuple[str, np.ndarray]]:
    """(quantity, courses (S, G + 1)) of a solvable system's replicates, of all seeds; absorbed chains keep their last
    value. Quantities that lack a value in some replicate are left out."""
    chains = [study.chain(condition, seed) for seed in study.seeds(condition)]
    values, absorbed = [solved.replicates(c) for c in chains], [solved.record(c)["absorbed"] for c in chains]
    for quantity in (q for q in quantities if all(q in v for v in values)):
        parts = [np.asarray(v[quantity], float) for v in values]
        last = max(map(len, parts)) - 1
        whole = [p[np.minimum(np.arange(last + 1), len(p) - 1)] for p, a in zip(parts, absorbed) if a or len(p) > last]
        x = np.concatenate(whole, 1).T
        if np.isfinite(x).all():
            yield quantity, x


def _quantities(study: Study) -> tuple[dict[str, str], dict[str, str]]:
    """A solvable system's quantities (doubled if they rise in most conditions, else halved) and their labels."""
    quantities: dict[str, Any] = {}
    for chain in study.chains:
        quantities |= solved.record(chain)["quantities"]
    changes, labels = {}, {}
    table: Any = study.table
    for name, quantity in quantities.items():
        if name not in table or quantity["kind"] != "mean":
            continue
        part = table[table[name].notna()].sort_values("generation").groupby(["condition", "seed"])[name]
        rising = (part.last() > part.first()).mean() >= 0.5
        changes[name] = "doubled" if rising else "halved"
        labels[name] = str(quantity["label"])[:1].upper() + str(quantity["label"])[1:]
    return changes, labels
