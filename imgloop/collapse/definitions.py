"""The eight definitions of model collapse as rules: the number that a chain gives, and the thresholds for it.

A series is float (..., S, G + 1): one value for each chain and generation 0..G. Every number is a difference between a
chain and the control chain of the same seed, and is fixed in advance: the mean over the last generations, or the
contrast of definition 3; never a maximum over generations. Definitions: section 2 of Schaeffer et al. 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from imgloop.collapse import statistics
from imgloop.collapse.statistics import Moments
from imgloop.collapse.subjects import FLOOR, RATIO_ROLES, ROLE_OF
from imgloop.measures import MEASURES, MeasureInfo, of_role
from imgloop.thresholds import Thresholds

SHORT = {
    1: "catastrophic risk",
    2: "any increase of risk",
    3: "diverging risk",
    4: "collapsing variance",
    5: "scaling law",
    6: "modes",
    7: "tails",
    8: "hallucination",
}
TITLES = {
    1: "catastrophic increase of population risk",
    2: "any increase of population risk",
    3: "asymptotically diverging population risk",
    4: "collapsing variance",
    5: "change in scaling law",
    6: "disappearance or entanglement of modes",
    7: "disappearance of real tails",
    8: "appearance of hallucinated data",
}
# Our measures of definitions 4, 6 and 7, whose logarithm is tested, and of definition 8.
RATIOS = {k: of_role(role)[0] for k, role in ROLE_OF.items() if role in RATIO_ROLES}
RATES = of_role("hallucination")
# A ratio below its floor counts as the floor, since 0 has no logarithm: the effect of a total loss is a lower bound. A
# chain that lost everything lies so far from the others that their mean would not be significant. Where it makes the
# test of detection sharper, it counts there as the largest loss of the other chains, and as two thresholds at least.
FLOORS = {name: cast(float, MEASURES[name].floor) for name in RATIOS.values()}
FARTHEST = 3  # limit of extrapolation, in multiples of the last generation
LEAST_G = {3: 3}  # smallest number of generations after 0; 1 for the other definitions


def rules(thresholds: Thresholds | None = None) -> dict[int, str]:
    """Each definition's rule in words, with its thresholds."""
    h = thresholds or Thresholds()
    at = marks(h)
    late = f"mean of the last {h.window} generations"
    return {
        1: "risk at G minus that of a real-only model trained on a quarter of the data: detected above 0, excluded "
        "below 0",
        2: f"risk over control, {late}: detected above 0, excluded below {h.risk_margin:.0%} of the risk at "
        "generation 0",
        3: "growth of the risk over control, and C = (R_G - R_h) - q (R_h - R_0), which is 0 for logarithmic growth: "
        "detected where both are above 0, and C over the last two thirds is too; excluded where C is below 0",
        4: f"-log variance ratio over control, {late}: detected above, excluded below {at[4]:.3f} "
        f"({h.variance_kept:.0%} kept)",
        5: f"log(R_t / R_0) over control, mean over at least {h.sizes} sizes, {late}: detected above 0, excluded below "
        f"log {h.scaling_margin:g}, unless one size is significantly above it",
        6: f"-log(smallest corrected mode share / its real share) over control, {late}: detected above, excluded below "
        f"{at[6]:.3f} ({h.mode_kept:.0%} kept)",
        7: f"-log tail mass over control, {late}: detected above, excluded below {at[7]:.3f} ({h.tail_kept:.0%} kept)",
        8: f"each rate of hallucination over control, {late}: detected where any is above, excluded where all are "
        f"below {h.hallucinated:g}",
    }


def marks(h: Thresholds) -> dict[int, float]:
    """The threshold of definitions 4, 6, 7 and 8 for detection (above) and exclusion (below); others: 0."""
    kept = {4: h.variance_kept, 6: h.mode_kept, 7: h.tail_kept}
    return {k: float(-np.log(share)) for k, share in kept.items()} | {8: h.hallucinated}


# -- A chain as a number ----------------------------------------------------------------------------------------------


def newest(x: np.ndarray, window: int) -> np.ndarray:
    """The last `window` generations, never generation 0: (..., G + 1) -> (..., W)."""
    return x[..., -min(window, x.shape[-1] - 1) :]


def late(x: np.ndarray, window: int = 3) -> np.ndarray:
    """Mean of the last `window` generations, never of generation 0: (..., S, G + 1) -> (..., S)."""
    return newest(x, window).mean(-1)


def read(x: np.ndarray, window: int) -> np.ndarray:
    """Generation 0 and the last `window`, which a change since generation 0 needs: (..., G + 1) -> (..., 1 + W)."""
    return np.concatenate([x[..., :1], newest(x, window)], -1)


def contrast(x: np.ndarray, first: int = 0) -> np.ndarray:
    """C = (x_G - x_h) - q (x_h - x_first), h halfway from `first` to G: (..., S, G + 1) -> (..., S).

    q is the gain of the harmonic sum 1 + 1/2 + ... + 1/(t + 1) after h, divided by its gain before h: C is 0 for
    logarithmic growth, positive for faster and negative for slower growth. Only three generations enter.
    """
    last = x.shape[-1] - 1
    half = first + (last - first) // 2
    gain = 1 / np.arange(1, last + 2)  # gain of the harmonic sum from generation t - 1 to t: 1 / (t + 1)
    q = gain[half + 1 :].sum() / gain[first + 1 : half + 1].sum()
    after, before = x[..., last] - x[..., half], x[..., half] - x[..., first]
    c, scale = after - q * before, np.abs(after) + np.abs(q * before) + np.abs(x[..., [first, half, last]]).max(-1)
    return np.where(np.abs(c) <= statistics.ROUNDING * scale, 0.0, c)


def last_two_thirds(generations: int) -> int:
    """The first generation of the last two thirds of 0..G."""
    return -(-generations // 3)


def losses(x: np.ndarray, floor: float) -> np.ndarray:
    """-log of a ratio that is 1 where nothing is lost; values below `floor` count as the floor."""
    return -np.log(np.maximum(x, floor))  # NaN stays NaN


def crossing(course: np.ndarray, threshold: float) -> float | None:
    """The generation from which a course (G + 1,) stays above a threshold, by linear interpolation; None if never.

    Beyond G it is extrapolated by the mean slope of the second half, up to FARTHEST times G. (The first crossing would
    depend on a maximum over generations, and noise alone can cause one.)
    """
    if not np.isfinite(course).all():
        return None
    last, below = len(course) - 1, np.flatnonzero(course < threshold)
    if not len(below):
        return 0.0
    if (t := int(below[-1])) < last:
        return t + (threshold - course[t]) / (course[t + 1] - course[t])
    slope = (course[-1] - course[last // 2]) / (last - last // 2) if last else 0.0
    at = last + (threshold - course[-1]) / slope if slope > 0 else np.inf
    return at if at <= FARTHEST * max(last, 1) else None


# -- Questions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """One number for each chain, x (..., S): detected above `above`, excluded below `below`.

    below: a float, or (..., S), one for each chain; None: this number excludes nothing. tested (..., S): replaces x in
    the test of detection. measure: the column that the number comes from, "" for the risk.
    """

    name: str
    x: np.ndarray
    above: float = 0.0
    below: float | np.ndarray | None = None
    tested: np.ndarray | None = None
    measure: str = ""

    @property
    def test(self) -> np.ndarray:
        return self.x if self.tested is None else self.tested


@dataclass(frozen=True)
class Question:
    """The numbers of one definition and how their tests are combined.

    every: the definition is detected where all numbers are (their largest p counts); otherwise where any number is
    (Bonferroni), and it is then excluded where all are. gate (...): False prevents a detection. bar (...): True
    prevents an exclusion.
    """

    definition: int
    numbers: tuple[Number, ...]
    every: bool = False
    gate: np.ndarray | None = None
    bar: np.ndarray | None = None


Pair = tuple[np.ndarray, np.ndarray]  # series of the chains and of their controls


def catastrophic(risk: np.ndarray, quarter: np.ndarray) -> Question:
    """Definition 1, from risks at G (..., S)."""
    return Question(1, (Number("risk at G over a quarter of the data", risk - quarter, 0.0, 0.0),))


def increase(risk: Pair, h: Thresholds) -> Question:
    """Definition 2. The margin is a share of each chain's own risk at generation 0: the bound includes its error."""
    treated, control = risk
    number = late(treated - control, h.window)
    start = np.where(np.isnan(number), np.nan, treated[..., 0])
    margin = np.where(Moments.of(start).mean[..., None] > 0, h.risk_margin * start, -np.inf)  # none for a negative risk
    bar = passed(treated - control, Moments.of(margin).mean)
    return Question(2, (Number("risk over control", number, 0.0, margin),), bar=bar)


def divergence(risk: Pair, h: Thresholds) -> Question:
    """Definition 3: the contrast C and the growth. A detection also needs a positive contrast of the last two thirds.

    A course that starts with a jump and goes on growing is not excluded: one whose contrast of the last two thirds and
    growth in their second half are both significantly positive.
    """
    d, last = risk[0] - risk[1], risk[0].shape[-1] - 1
    growth, first = late(d, h.window) - d[..., 0], last_two_thirds(last)
    recent, gain = contrast(d, first), d[..., last] - d[..., first + (last - first) // 2]
    numbers = Number("C", contrast(d), 0.0, 0.0), Number("growth over control", growth)
    still_growing = (statistics.greater(recent) <= h.exclusion) & (statistics.greater(gain) <= h.exclusion)
    return Question(3, numbers, every=True, gate=Moments.of(recent).mean > 0, bar=still_growing)


def loss(definition: int, ratio: Pair, h: Thresholds, measure: MeasureInfo | None = None) -> Question:
    """Definitions 4, 6 and 7: a ratio that falls; `measure`, by default ours, gives its name and floor."""
    info = MEASURES[RATIOS[definition]] if measure is None else measure
    floor = FLOOR if info.floor is None else info.floor
    margin = marks(h)[definition]
    series = losses(ratio[0], floor) - losses(ratio[1], floor)
    lost, control_lost = (newest(r < floor, h.window).any(-1) for r in ratio)
    x = late(series, h.window)
    others = np.where(lost | np.isnan(x), -np.inf, x).max(-1, keepdims=True)
    capped = np.where(lost & ~control_lost, np.minimum(x, np.maximum(others, 2 * margin)), x)
    sharper = statistics.greater(capped, margin) < statistics.greater(x, margin)
    tested = np.where(sharper[..., None], capped, x)
    number = Number(f"-log {info.name} over control", x, margin, margin, tested, info.name)
    return Question(definition, (number,), bar=passed(series, margin) | control_lost.any(-1))


def scaling(risk: Pair, h: Thresholds) -> Question:
    """Definition 5, from risks (..., S, N, G + 1) at N sizes; risks that are not positive give NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = [np.where(r > 0, np.log(r), np.nan) for r in risk]
    changes = [late(r, h.window) - r[..., 0] for r in logs]
    change, margin = changes[0] - changes[1], np.log(h.scaling_margin)
    # Each size is tested as well, since the mean over sizes can hide a slope: (N, ...).
    beyond = statistics.greater(np.moveaxis(change, -1, 0), margin) <= h.exclusion
    number = Number("log(R_t / R_0) over control", change.mean(-1), 0.0, margin)
    return Question(5, (number,), bar=np.asarray(beyond.any(0)))


def hallucination(rates: Mapping[str, Pair], h: Thresholds) -> Question:
    """Definition 8, from one rate or several."""
    numbers = [
        Number(f"{name} over control", late(r[0] - r[1], h.window), h.hallucinated, h.hallucinated, measure=name)
        for name, r in rates.items()
    ]
    bar = np.logical_or.reduce([passed(r[0] - r[1], h.hallucinated) for r in rates.values()])
    return Question(8, tuple(numbers), bar=bar)


def passed(series: np.ndarray, margin) -> np.ndarray:
    """Whether the mean over chains is beyond the margin at generation G, for a series over control (..., S, G + 1).

    Then nothing is excluded, even where the mean over the last generations is below the margin.
    """
    return Moments.of(series[..., -1]).mean > margin


# -- Verdicts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """The tests of one definition, each (...).

    lead: index of the deciding number. chains, effect, low, high: its number of chains, mean and 95 % interval. bound:
    its one-sided bound, to be compared with `margin`. p, p_holm, p_exact: of the t-test alone, after Holm, and of the
    step-down sign flips.
    """

    lead: np.ndarray
    chains: np.ndarray
    effect: np.ndarray
    low: np.ndarray
    high: np.ndarray
    bound: np.ndarray
    margin: np.ndarray
    p: np.ndarray
    p_holm: np.ndarray
    p_exact: np.ndarray
    detected: np.ndarray
    excluded: np.ndarray


def judge(questions: list[Question], h: Thresholds, exact: bool = True) -> list[Judged]:
    """Test the questions of one profile together: Holm's correction and the sign flips cover all of them.

    Numbers with fewer than h.chains chains are not tested (p NaN). Without `exact` there are no sign flips (NaN).
    """
    with np.errstate(invalid="ignore"):
        tested = [_tested(q, h) for q in questions]
        p = np.stack([t["p"] for t in tested], -1)
        p_holm = statistics.holm(p)
        p_exact = np.full(p.shape, np.nan)
        if exact:
            chains = np.stack([t["chains"] for t in tested], -1)
            flips = statistics.signs(questions[0].numbers[0].x.shape[-1])
            for part in range(max(len(q.numbers) if q.every else 1 for q in questions)):
                t = np.stack([_flipped(q, flips, part) for q in questions], -2)
                p_part = statistics.sign_flip_p(np.where(np.isnan(p)[..., None], np.nan, t), chains)
                p_exact = np.fmax(p_exact, p_part)
        return [
            Judged(**t, p_holm=p_holm[..., i], p_exact=p_exact[..., i], detected=p_holm[..., i] <= h.alpha)
            for i, t in enumerate(tested)
        ]


def _tested(q: Question, h: Thresholds) -> dict[str, np.ndarray]:
    """The tests of one definition alone, before Holm's correction."""
    moments = [Moments.of(n.x) for n in q.numbers]
    p = np.stack(
        [np.where(m.n >= h.chains, statistics.greater(n.test, n.above), np.nan) for n, m in zip(q.numbers, moments)]
    )
    measured = (~np.isnan(p)).sum(0)
    if q.every:
        lead, combined = np.zeros(p.shape[1:], int), np.where(measured == len(p), p.max(0), np.nan)
    else:
        lead = np.where(np.isnan(p), np.inf, p).argmin(0)
        combined = np.minimum(np.take_along_axis(p, lead[None], 0)[0] * np.maximum(measured, 1), 1.0)
    if q.gate is not None:
        combined = np.where(q.gate | np.isnan(combined), combined, 1.0)
    outside, bounds, margins = [], [], []
    for n, m in zip(q.numbers, moments):
        if n.below is None:
            continue
        below = np.asarray(n.below, float)
        over = n.x - below if below.ndim else n.x  # a margin for each chain adds its error to the bound
        centre = Moments.of(np.broadcast_to(below, n.x.shape)).mean if below.ndim else below
        excess = Moments.of(over)
        bound = excess.bound(1 - h.exclusion) + (centre if below.ndim else 0.0)
        margins.append(np.broadcast_to(centre, m.mean.shape))
        bounds.append(bound)
        unmeasured = (m.n == 0) & (measured > 0) & (not q.every)  # another number of the definition has chains
        outside.append(np.where(excess.n >= h.chains, bound < centre, unmeasured))
    pick = [np.stack(np.broadcast_arrays(*values)) for values in (bounds, margins)]
    of_lead = {"chains": np.stack([m.n for m in moments]), "effect": np.stack([m.mean for m in moments])}
    of_lead |= {side: np.stack([m.bound(0.975, s) for m in moments]) for side, s in (("low", -1), ("high", 1))}
    return {
        "lead": lead,
        **{k: np.take_along_axis(v, lead[None], 0)[0] for k, v in of_lead.items()},
        **{k: np.take_along_axis(v, lead[None], 0)[0] for k, v in zip(("bound", "margin"), pick)},
        "p": combined,
        "excluded": np.logical_and.reduce(outside) & ~np.isnan(combined) & (True if q.bar is None else ~q.bar),
    }


def _flipped(q: Question, flips: np.ndarray, part: int) -> np.ndarray:
    """The definition's statistic under each sign pattern, (..., F).

    Where every number must be detected, it is the statistic of number `part`: each is tested with its own signs, since
    a large true effect in one number would shrink the reference distribution of the others.
    """
    t = np.stack([statistics.flipped_t(n.test - n.above, flips) for n in q.numbers])
    combined = t[min(part, len(t) - 1)] if q.every else np.where(np.isnan(t), -np.inf, t).max(0)
    if q.gate is not None:
        combined[..., 0] = np.where(q.gate, combined[..., 0], -np.inf)
    return combined
