"""The eight definitions of model collapse as rules: how a chain becomes one number, and what the number must pass.

A series is float (..., S, G + 1): a value a chain and generation 0..G. Every number is a difference between a chain and
the control chain of the same seed, fixed before anything is seen: the mean over the last generations, or the contrast
of definition 3; never a maximum over generations. Definitions: section 2 of Schaeffer et al. 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from imgloop.collapse import statistics
from imgloop.collapse.statistics import Moments
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
RATIOS = {4: "variance_ratio", 6: "mode_share_min", 7: "tail_mass"}  # whose log is tested
RATES = ("off_support", "ambiguity", "rule_violations")  # of definition 8: any of them
# A ratio below its floor counts as the floor, since 0 has no log: the effect of a total loss is a lower bound. A chain
# that lost all is so far from chains that lost much that their mean would have no significance: where it makes the test
# of detection sharper, it counts there as the largest loss of chains that kept something, of two thresholds at least.
FLOORS = {"variance_ratio": 1e-6, "mode_share_min": 1e-3, "tail_mass": 1e-2}
FARTHEST = 3  # times the generations that were run: an extrapolation beyond says nothing
LEAST_G = {3: 3}  # generations after 0 that a contrast needs; 1 elsewhere


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
        3: "growth of the risk over control, then C = (R_G - R_h) - q (R_h - R_0), which is 0 for logarithmic growth: "
        "detected where both are above 0, and C over the last two thirds; excluded where C is below 0",
        4: f"-log variance ratio over control, {late}: detected above, excluded below {at[4]:.3f} "
        f"({h.variance_kept:.0%} kept)",
        5: f"log(R_t / R_0) over control, mean over at least {h.sizes} sizes, {late}: detected above 0, excluded below "
        f"log {h.scaling_margin:g}, and not where a size is significantly above it",
        6: f"-log(smallest corrected mode share / its real share) over control, {late}: detected above, excluded below "
        f"{at[6]:.3f} ({h.mode_kept:.0%} kept)",
        7: f"-log tail mass over control, {late}: detected above, excluded below {at[7]:.3f} ({h.tail_kept:.0%} kept)",
        8: f"off-support, ambiguity or rule-violation rate over control, {late}: detected where any is above, excluded "
        f"where all are below {h.hallucinated:g}",
    }


def marks(h: Thresholds) -> dict[int, float]:
    """What numbers of definitions 4, 6, 7 and 8 are detected above and excluded below; others are detected above 0."""
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
    """What a change since generation 0 is made of, generation 0 and the last `window`: (..., G + 1) -> (..., 1 + W)."""
    return np.concatenate([x[..., :1], newest(x, window)], -1)


def contrast(x: np.ndarray, first: int = 0) -> np.ndarray:
    """C = (x_G - x_h) - q (x_h - x_first), h halfway from `first` to G: (..., S, G + 1) -> (..., S).

    q is the gain of the harmonic sum 1 + 1/2 + ... + 1/(t + 1) after h over that before, so that C is 0 for logarithmic
    growth, positive for faster and negative for slower. Only three generations are read.
    """
    last = x.shape[-1] - 1
    half = first + (last - first) // 2
    gain = 1 / np.arange(1, last + 2)  # from generation t - 1 to t the harmonic sum gains 1 / (t + 1)
    q = gain[half + 1 :].sum() / gain[first + 1 : half + 1].sum()
    after, before = x[..., last] - x[..., half], x[..., half] - x[..., first]
    found, scale = after - q * before, np.abs(after) + np.abs(q * before) + np.abs(x[..., [first, half, last]]).max(-1)
    return np.where(np.abs(found) <= statistics.ROUNDING * scale, 0.0, found)


def last_two_thirds(generations: int) -> int:
    """The generation at which the last two thirds of 0..G begin."""
    return -(-generations // 3)


def losses(x: np.ndarray, measure: str) -> np.ndarray:
    """-log of a ratio that is 1 where nothing is lost."""
    return -np.log(np.maximum(x, FLOORS[measure]))  # NaN stays NaN


def crossing(course: np.ndarray, threshold: float) -> float | None:
    """The generation from which a course (G + 1,) stays above a threshold, by linear interpolation; beyond G by the
    mean slope of its second half, an extrapolation, as far as FARTHEST times G. None where it does not. (The first
    crossing would be a maximum over generations: noise finds one.)"""
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
    """One number a chain, x (..., S), detected above `above` and excluded below `below` (a float, or (..., S) a chain);
    `below` None: it excludes nothing. `tested` (..., S): what the test of detection reads in place of x."""

    name: str
    x: np.ndarray
    above: float = 0.0
    below: float | np.ndarray | None = None
    tested: np.ndarray | None = None

    @property
    def test(self) -> np.ndarray:
        return self.x if self.tested is None else self.tested


@dataclass(frozen=True)
class Question:
    """A definition's numbers. `every`: all must be detected (their largest p counts); else any (Bonferroni), and then
    all must be excluded. Where `gate` (...) is False nothing is detected, where `bar` (...) is True nothing is
    excluded."""

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
    """Definition 2. Its margin is a share of each chain's own risk at generation 0: the bound carries its error."""
    treated, control = risk
    number = late(treated - control, h.window)
    start = np.where(np.isnan(number), np.nan, treated[..., 0])
    margin = np.where(Moments.of(start).mean[..., None] > 0, h.risk_margin * start, -np.inf)  # of a negative risk: none
    bar = passed(treated - control, Moments.of(margin).mean)
    return Question(2, (Number("risk over control", number, 0.0, margin),), bar=bar)


def divergence(risk: Pair, h: Thresholds) -> Question:
    """Definition 3: growth, then the contrast. Detected also needs the contrast of the last two thirds positive.
    Excluded is not what began with a jump and goes on: where that contrast and the growth in the second half of
    these are both significantly positive."""
    d, last = risk[0] - risk[1], risk[0].shape[-1] - 1
    growth, first = late(d, h.window) - d[..., 0], last_two_thirds(last)
    recent, gain = contrast(d, first), d[..., last] - d[..., first + (last - first) // 2]
    numbers = Number("C", contrast(d), 0.0, 0.0), Number("growth over control", growth)
    going_on = (statistics.greater(recent) <= h.exclusion) & (statistics.greater(gain) <= h.exclusion)
    return Question(3, numbers, every=True, gate=Moments.of(recent).mean > 0, bar=going_on)


def loss(definition: int, ratio: Pair, h: Thresholds) -> Question:
    """Definitions 4, 6 and 7: a ratio that falls."""
    measure = RATIOS[definition]
    margin = marks(h)[definition]
    series = losses(ratio[0], measure) - losses(ratio[1], measure)
    gone, theirs = (newest(r < FLOORS[measure], h.window).any(-1) for r in ratio)
    x = late(series, h.window)
    others = np.where(gone | np.isnan(x), -np.inf, x).max(-1, keepdims=True)
    capped = np.where(gone & ~theirs, np.minimum(x, np.maximum(others, 2 * margin)), x)
    sharper = statistics.greater(capped, margin) < statistics.greater(x, margin)
    number = Number(f"-log {measure} over control", x, margin, margin, np.where(sharper[..., None], capped, x))
    return Question(definition, (number,), bar=passed(series, margin) | theirs.any(-1))


def scaling(risk: Pair, h: Thresholds) -> Question:
    """Definition 5, from risks (..., S, N, G + 1) at N sizes; risks that are not positive have no log (NaN)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = [np.where(r > 0, np.log(r), np.nan) for r in risk]
    change = [late(r, h.window) - r[..., 0] for r in logs]
    change, margin = change[0] - change[1], np.log(h.scaling_margin)
    beyond = statistics.greater(np.moveaxis(change, -1, 0), margin) <= h.exclusion  # (N, ...): a mean can hide a slope
    return Question(5, (Number("log(R_t / R_0) over control", change.mean(-1), 0.0, margin),), bar=beyond.any(0))


def hallucination(rates: Mapping[str, Pair], h: Thresholds) -> Question:
    """Definition 8, from one or several of RATES."""
    return Question(
        8,
        tuple(
            Number(f"{name} over control", late(r[0] - r[1], h.window), h.hallucinated, h.hallucinated)
            for name, r in rates.items()
        ),
        bar=np.logical_or.reduce([passed(r[0] - r[1], h.hallucinated) for r in rates.values()]),
    )


def passed(series: np.ndarray, margin) -> np.ndarray:
    """Whether the mean over chains has passed the margin at generation G, of a series over control (..., S, G + 1):
    then nothing is excluded, even where the mean of the last generations has not."""
    return Moments.of(series[..., -1]).mean > margin


# -- Verdicts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """What the numbers of one definition say, each (...). `lead`: the number that decides, an index; `chains` that it
    has; effect and 95 % interval of it; `bound` its one-sided bound against `margin`; p of the t-test alone, after
    Holm, and the step-down sign-flip p."""

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
    """The verdicts on one profile's questions, together: Holm and the sign flips run over all of them.

    Numbers of fewer than h.chains chains are not tested (p NaN). Without `exact` the sign flips are left out (NaN).
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
                found = statistics.sign_flip_p(np.where(np.isnan(p)[..., None], np.nan, t), chains)
                p_exact = np.fmax(p_exact, found)
        return [
            Judged(**t, p_holm=p_holm[..., i], p_exact=p_exact[..., i], detected=p_holm[..., i] <= h.alpha)
            for i, t in enumerate(tested)
        ]


def _tested(q: Question, h: Thresholds) -> dict[str, np.ndarray]:
    """One definition before its neighbours are known."""
    found = [Moments.of(n.x) for n in q.numbers]
    p = np.stack(
        [np.where(m.n >= h.chains, statistics.greater(n.test, n.above), np.nan) for n, m in zip(q.numbers, found)]
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
    for n, m in zip(q.numbers, found):
        if n.below is None:
            continue
        below = np.asarray(n.below, float)
        over = n.x - below if below.ndim else n.x  # a margin that each chain has of its own carries its error
        centre = Moments.of(np.broadcast_to(below, n.x.shape)).mean if below.ndim else below
        held = Moments.of(over)
        bound = held.bound(1 - h.exclusion) + (centre if below.ndim else 0.0)
        margins.append(np.broadcast_to(centre, m.mean.shape))
        bounds.append(bound)
        unmeasured = (m.n == 0) & (measured > 0) & (not q.every)  # another number of the definition speaks for it
        outside.append(np.where(held.n >= h.chains, bound < centre, unmeasured))
    pick = [np.stack(np.broadcast_arrays(*values)) for values in (bounds, margins)]
    of_lead = {"chains": np.stack([m.n for m in found]), "effect": np.stack([m.mean for m in found])}
    of_lead |= {side: np.stack([m.bound(0.975, s) for m in found]) for side, s in (("low", -1), ("high", 1))}
    return {
        "lead": lead,
        **{k: np.take_along_axis(v, lead[None], 0)[0] for k, v in of_lead.items()},
        **{k: np.take_along_axis(v, lead[None], 0)[0] for k, v in zip(("bound", "margin"), pick)},
        "p": combined,
        "excluded": np.logical_and.reduce(outside) & ~np.isnan(combined) & (True if q.bar is None else ~q.bar),
    }


def _flipped(q: Question, flips: np.ndarray, part: int) -> np.ndarray:
    """The definition's statistic under each sign pattern, (..., F). Where every number must be detected, that of number
    `part`: each is tested with its own signs, since one that is large and real would shrink the others' reference."""
    t = np.stack([statistics.flipped_t(n.test - n.above, flips) for n in q.numbers])
    combined = t[min(part, len(t) - 1)] if q.every else np.where(np.isnan(t), -np.inf, t).max(0)
    if q.gate is not None:
        combined[..., 0] = np.where(q.gate, combined[..., 0], -np.inf)
    return combined
