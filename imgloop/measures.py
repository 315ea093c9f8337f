"""The one list of measures: tables, plots, report, profile, documentation and commands read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

Kind = Literal["size", "score", "time", "system", "command", "table"]
Role = Literal["risk", "variance", "mode", "tail", "hallucination"]
ROLES: tuple[Role, ...] = ("risk", "variance", "mode", "tail", "hallucination")


@dataclass(frozen=True)
class MeasureInfo:
    """What is known of a measure besides its values.

    name: the column in metrics.csv. label: the title of its panel. unit: the unit and meaning of its axis.
    kind: `size` and `time` are bookkeeping, `score` is measured of samples, `system` belongs to solvable systems,
    `command` is computed by `python -m imgloop.metrics` alone, `table` is read from other programs' tables alone.
    collapse: whether the value rises or falls when a generator collapses; None if neither.
    low, high: the range of possible values; None is unbounded. full_axis: plots span low to high.
    perfect: what a perfect generator reads, in words. whole: values are counts.
    role: the definition of collapse that the measure can be the subject of (risk: 1, 2, 3, 5; variance: 4; mode: 6;
    tail: 7; hallucination: 8). floor: the smallest value whose logarithm is taken, for ratios (roles variance, mode,
    tail). p_value: the note of a score file that holds its p-value.
    compared: in comparison.csv. plotted: in curves.png and comparison.png. headline: in lines printed after a run.
    """

    name: str
    label: str
    unit: str = ""
    kind: Kind = "score"
    collapse: Literal["rises", "falls"] | None = None
    low: float | None = 0.0
    high: float | None = None
    full_axis: bool = False
    perfect: str = ""
    whole: bool = False
    role: Role | None = None
    floor: float | None = None
    p_value: str | None = None
    compared: bool = False
    plotted: bool = False
    headline: bool = False

    @property
    def limits(self) -> str:
        """The range of possible values in words."""
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        return "any" if self.low is None else f"from {self.low:g}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values, to be stored with scores; `from_dict` undoes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MeasureInfo:
        """The info that `to_dict` gave; unknown keys are left out, so that later versions can be read."""
        names = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in values.items() if k in names})


def _list(*infos: MeasureInfo) -> dict[str, MeasureInfo]:
    return {info.name: info for info in infos}


M = MeasureInfo
MEASURES: dict[str, MeasureInfo] = _list(  # in the order of metrics.csv
    M("generation", "Generation", kind="size", whole=True),
    M("n_train", "Training set", "images a generation", kind="size", whole=True),
    M("train_images", "Training images seen", "images a generation, repeats counted", kind="size", whole=True),
    M("n_drawn", "Samples drawn", "samples a generation", kind="size", whole=True),
    M("n_pool", "Samples released", "samples a generation", kind="size", whole=True),
    M("real_share", "Real share of the training set", "share of images", kind="size", high=1.0, full_axis=True,
      plotted=True),
    M("fd", "Frechet distance to held-out images", "squared feature units; lower is closer", collapse="rises",
      perfect="about that of as many real images (`reference.json`)", role="risk", compared=True, plotted=True,
      headline=True),
    M("kd", "Kernel distance to held-out images", "squared kernel units; lower is closer", collapse="rises", low=None,
      perfect="0 on average, below it half of the time", role="risk", compared=True, plotted=True),
    M("kd_sem", "Standard error of the kernel distance", "squared kernel units"),
    M("precision", "Precision", "share of samples among real images", collapse="falls", high=1.0, full_axis=True,
      perfect="that of halves of the held-out images", compared=True, plotted=True, headline=True),
    M("recall", "Recall", "share of real images among samples", collapse="falls", high=1.0, full_axis=True,
      perfect="that of halves of the held-out images", compared=True, plotted=True, headline=True),
    M("density", "Density", "1 expected of real images", collapse="falls", perfect="1"),
    M("coverage", "Coverage", "share of real images with a sample near", collapse="falls", high=1.0, full_axis=True,
      perfect="1 - prod (N-j)/(N+M-j), j = 1..k"),
    M("modes_covered", "Modes covered", "classes that are not lost", collapse="falls", whole=True,
      perfect="all classes", compared=True, headline=True),
    M("modes_present", "Modes present", "classes beyond what confusions explain", whole=True),
    M("mode_kl", "Class mix, divergence from the real one", "nats; 0 is equal", collapse="rises", low=None,
      perfect="0 on average", compared=True, plotted=True),
    M("mode_share_min", "Smallest mode share", "over its real share; 1 is equal", collapse="falls",
      perfect="under 1, simulated for the number of samples", role="mode", floor=1e-3),
    M("variance_ratio", "Variance ratio", "generated over real; 1 is equal", collapse="falls", perfect="1",
      role="variance", floor=1e-6, compared=True, plotted=True, headline=True),
    M("effective_rank", "Effective rank", "directions of feature variance", collapse="falls"),
    M("vendi", "Vendi score", "effective number of distinct samples", collapse="falls",
      perfect="that of as many held-out images"),
    M("tail_mass", "Tail mass", "mass in the real tail over the real one; 1 is equal", collapse="falls", perfect="1",
      role="tail", floor=1e-2, compared=True, plotted=True),
    M("off_support", "Off-support rate", "share of samples beyond real images", collapse="rises", high=1.0,
      perfect="r / (n_B + 1), exactly", role="hallucination", p_value="off_support_p", compared=True, plotted=True),
    M("ambiguity", "Ambiguity rate", "share of samples between classes", collapse="rises", high=1.0,
      perfect="r / (n_B + 1), exactly", role="hallucination", p_value="ambiguity_p"),
    M("authenticity", "Authenticity", "share of samples that are not copies", collapse="falls", high=1.0,
      full_axis=True, perfect="that of held-out images", compared=True, plotted=True),
    M("generalisation", "Generalisation score", "mean feature distance to own training set",
      collapse="falls", perfect="that of held-out images for the same training set", compared=True, plotted=True),
    M("mix_entropy", "Entropy of the training set", "nats, by neighbours in feature space", collapse="falls",
      low=None, perfect="that of as many real images", compared=True, plotted=True),
    M("rule_violations", "Rule violations", "share of samples that break a rule of the data", collapse="rises",
      high=1.0, perfect="0", role="hallucination", compared=True, plotted=True, headline=True),
    M("risk", "Held-out risk", "denoising loss on real images; lower is better", collapse="rises", low=None,
      role="risk", compared=True, plotted=True, headline=True),
    M("tail_risk", "Risk on rare real images", "denoising loss; lower is better", collapse="rises", low=None,
      compared=True),
    M("excess", "Excess risk", "over the best fit; lower is better", kind="system", collapse="rises", role="risk"),
    M("fid", "FID", "as the table has it; lower is closer", kind="table", collapse="rises", role="risk"),
    M("fd_infinity", "Frechet distance, extrapolated to infinitely many samples", "squared feature units",
      kind="command", low=None),
    M("near_copies", "Near copies", "share of samples nearly equal to a training image", kind="command", high=1.0,
      perfect="that of fresh real images"),
    M("seconds_train", "Training time", "seconds a generation", kind="time"),
    M("seconds_sample", "Sampling time", "seconds a generation", kind="time"),
    M("seconds_measure", "Measuring time", "seconds a generation", kind="time"),
)  # fmt: skip
del M


def names(*kinds: Kind, among: Mapping[str, MeasureInfo] | None = None) -> tuple[str, ...]:
    """Names of the measures of these kinds, in the order of the list."""
    return tuple(n for n, info in (among or MEASURES).items() if info.kind in kinds)


SIZES, SCORES, TIMES = names("size"), names("score"), names("time")
COLUMNS = (*SIZES, *SCORES, *TIMES, "protocol")  # of metrics.csv


def of_role(role: Role, among: Mapping[str, MeasureInfo] | None = None) -> tuple[str, ...]:
    """Names of the measures with a role, in the order of preference: for risk, a loss comes before a distance."""
    preferred = {"risk": 0, "excess": 1, "fd": 2, "fid": 3, "kd": 4}
    found = [n for n, info in (among or MEASURES).items() if info.role == role]
    return tuple(sorted(found, key=lambda n: preferred.get(n, 5)))


def with_user_measures(stored: Iterable[Mapping[str, Any]]) -> dict[str, MeasureInfo]:
    """The list extended by users' measures, from what score files store of them (MeasureInfo.to_dict)."""
    found = dict(MEASURES)
    for values in stored:
        info = MeasureInfo.from_dict(values)
        found.setdefault(info.name, info)
    return found
