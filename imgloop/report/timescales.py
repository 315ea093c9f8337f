"""How fast a measure moves: when its mean over chains has doubled or halved since generation 0, and stays so."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from imgloop.collapse.definitions import crossing
from imgloop.collapse.statistics import interval
from imgloop.report.panels import MEASURES
from imgloop.report.sizes import largest
from imgloop.report.text import figure, plural
from imgloop.study.study import Study

LEVELS = {"doubled": 2.0, "halved": 0.5}  # of the value at generation 0
NOUNS = {"doubled": "doubling", "halved": "halving"}
DOUBLES = ("fd", "kd", "risk", "tail_risk", "excess", "mode_kl", "off_support", "ambiguity", "rule_violations")
HALVES = (
    *("precision", "recall", "density", "coverage", "variance_ratio", "effective_rank", "vendi"),
    *("modes_covered", "mode_share_min", "tail_mass", "authenticity"),
)


@dataclass(frozen=True)
class Timescale:
    """When a measure's mean over `chains` has doubled or halved (`change`) and stays so through generation `last`.

    at: in generations, interpolated; beyond `last` extrapolated (collapse.definitions.crossing); infinite where it
    does not. low, high: the earliest and latest of its chains, infinite where one does not within
    `last`, NaN where chains are not told apart. significant: whether the value at `last` differs from that at
    generation 0 in this direction (paired t over chains, 95 %); None of one chain, which cannot tell.
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
        """Whether it happened within the generations that were run, and is more than noise as far as one can tell."""
        return self.at <= self.last and self.significant is not False

    @property
    def said(self) -> str:
        noun = NOUNS[self.change]
        if self.seen:
            high = figure(self.high) if np.isfinite(self.high) else f"> {self.last}"
            span = f" [{figure(self.low)}, {high}]" if self.chains > 1 and not np.isnan(self.low) else ""
            return f"{figure(self.at)}{span}" + " (1 chain: not tested)" * (self.significant is None)
        if self.at <= self.last:
            return f"no {noun} told from noise within {plural(self.last, 'generation')}"
        about = f"; extrapolated, about {figure(float(f'{self.at:.2g}'))}" if self.extrapolated else ""
        return f"no {noun} seen within {plural(self.last, 'generation')}{about}"


def timescales(study: Study, names: Mapping[str, str]) -> list[Timescale]:
    """Every measure's timescale by condition, in the order of the panels; measures of no direction have none."""
    changes = dict.fromkeys(DOUBLES, "doubled") | dict.fromkeys(HALVES, "halved")
    labels = {m: label for m, (label, _) in MEASURES.items() if m in changes}
    if study.solvable:
        changes, labels = _quantities(study)
    found = {}
    for condition in names:
        courses = _replicates(study, condition, labels) if study.solvable else _chains(study, condition, labels)
        for measure, x in courses:
            told = timed(x, changes[measure], spans=not study.solvable)
            if told:
                found[measure, condition] = Timescale(condition, measure, labels[measure], changes[measure], **told)
    return [found[m, c] for m in labels for c in names if (m, c) in found]


def timed(x: np.ndarray, change: str, spans: bool = True) -> dict | None:
    """What courses (S, G + 1) say of a change: the fields of a Timescale; None where there is nothing to tell (no
    chain, one generation, a mean that does not start above 0)."""
    if not len(x) or x.shape[1] < 2 or not x[:, 0].mean() > 0:
        return None
    sign, level, last = (1 if change == "doubled" else -1), LEVELS[change], x.shape[1] - 1
    mean = sign * x.mean(0) / x[:, 0].mean()
    at = crossing(mean, sign * level)
    if at is None or (at > last and (mean >= sign * level).any()):  # one that has come back is not extrapolated
        at = np.inf
    significant = None if len(x) < 2 else bool(interval(sign * (x[:, -1] - x[:, 0]))[1] > 0)
    own = [crossing(sign * course / course[0], sign * level) for course in x if spans and course[0] > 0]
    own = [np.inf if t is None or t > last else t for t in own]
    low, high = (float(min(own)), float(max(own))) if own else (np.nan, np.nan)
    return {"at": float(at), "low": low, "high": high, "chains": len(x), "last": last, "significant": significant}


def _chains(study: Study, condition: str, measures) -> Iterator[tuple[str, np.ndarray]]:
    """(measure, courses (S, G + 1)) of a condition's chains from generation 0 to the one at which most of them end;
    without chains that end earlier, start later or have a gap."""
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
    """(quantity, courses (S, G + 1)) of a solvable system's replicates, of all seeds; those of a chain that was
    absorbed stay as they are. Quantities that some replicate has no value of are left out."""
    from imgloop.study import solved as results

    chains = [study.chain(condition, seed) for seed in study.seeds(condition)]
    values, absorbed = [results.replicates(c) for c in chains], [results.record(c)["absorbed"] for c in chains]
    for quantity in (q for q in quantities if all(q in v for v in values)):
        parts = [np.asarray(v[quantity], float) for v in values]
        last = max(map(len, parts)) - 1
        kept = [p[np.minimum(np.arange(last + 1), len(p) - 1)] for p, a in zip(parts, absorbed) if a or len(p) > last]
        x = np.concatenate(kept, 1).T
        if np.isfinite(x).all():
            yield quantity, x


def _quantities(study: Study) -> tuple[dict[str, str], dict[str, str]]:
    """A solvable system's quantities: doubled where they rise in most conditions, else halved; and their labels."""
    from imgloop.study import solved as results

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
