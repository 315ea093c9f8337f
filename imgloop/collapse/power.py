"""How many seeds and generations a definition needs: verdicts on simulated chains whose errors accumulate.

A simulated series of paired differences is a signal of a given shape plus noise: a random walk along the chain (errors
that are passed on to the next generation), and an independent error at each generation. It is zero at generation 0,
which a chain shares with its control.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from imgloop.collapse import definitions, statistics
from imgloop.collapse.definitions import Number, Question
from imgloop.errors import UserError
from imgloop.thresholds import Thresholds

SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # signals over generations t = 0..G, 0 at t = 0
    "constant": lambda t: (t > 0) * 1.0,
    "linear": lambda t: t * 1.0,
    "quadratic": lambda t: t**2.0,
    "logarithmic": lambda t: np.cumsum(1.0 / (t + 1)) - 1,
    "natural_log": lambda t: np.log1p(t),
    "square_root": lambda t: np.sqrt(t),
    "fourth_root": lambda t: t**0.25,
    "inverse_square": lambda t: np.cumsum(1.0 / (t + 1) ** 2) - 1,  # as regression under accumulate
    "plateau": lambda t: np.minimum(t / 5, 1.0),  # rises to generation 5, then stays
}
# Differences between the errors of two chains.
NOISES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "lognormal": lambda rng, shape: (
        (np.exp(rng.standard_normal(shape)) - np.exp(rng.standard_normal(shape))) / np.sqrt(2 * (np.e - 1) * np.e)
    ),
    "t3": lambda rng, shape: (rng.standard_t(3, shape) - rng.standard_t(3, shape)) / np.sqrt(6),
}


# Definitions whose margin of exclusion cannot be expressed in standard deviations.
MARGINLESS = {
    2: "exclusions are counted for a margin of 0; the rule's margin is {risk_margin:.0%} of the risk at generation 0, "
    "which excludes more often",
    5: "exclusions are counted for a margin of 0; the rule's margin is ln {scaling_margin:g}, which excludes more "
    "often",
}


@dataclass(frozen=True)
class Plan:
    """A simulated study of one definition.

    effect: mean of the paired number over its threshold at generation `at`, in standard deviations between chains, as
    a pilot of `at` generations estimates it. shape: of the signal over generations (SHAPES). accumulated: share of the
    noise variance at `at` that is a random walk. noise: its distribution (NOISES). measured: number of definitions that
    Holm corrects for. spread: that standard deviation in the number's own units, needed by the definitions whose
    threshold is above 0 (4, 6, 7, 8).

    Raises UserError for a value outside its range.
    """

    definition: int = 2
    effect: float = 2.0
    shape: str = "linear"
    at: int = 4
    accumulated: float = 0.5
    noise: str = "normal"
    measured: int = 8
    spread: float | None = None

    def __post_init__(self):
        for name, allowed in (("definition", list(definitions.TITLES)), ("shape", SHAPES), ("noise", NOISES)):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}={getattr(self, name)}: choose one of {', '.join(map(str, allowed))}.", name)
        least = definitions.LEAST_G.get(self.definition, 1)
        if not np.isfinite(self.effect):
            raise UserError(f"effect={self.effect}: give a finite number of standard deviations.", "effect")
        for name, low, high in (("at", 1, 10**4), ("accumulated", 0, 1), ("measured", 1, 100)):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name}={getattr(self, name)}: give a number from {low} to {high}.", name)
        if self.spread is not None and not 0 < self.spread < np.inf:
            raise UserError(f"spread={self.spread}: give a number above 0.", "spread")
        if self.at < least:
            raise UserError(f"at={self.at}: definition {self.definition} needs at least {least} generations.", "at")


@dataclass(frozen=True)
class Outcome:
    """Shares of simulated studies in which the definition was detected and excluded, with their standard errors."""

    seeds: int
    generations: int
    detected: float
    excluded: float
    studies: int

    @property
    def sem(self) -> tuple[float, float]:
        detected, excluded = (float(np.sqrt(p * (1 - p) / self.studies)) for p in (self.detected, self.excluded))
        return detected, excluded


def courses(
    plan: Plan, seeds: int, generations: int, studies: int, rng: np.random.Generator, h: Thresholds
) -> tuple[np.ndarray, float]:
    """Simulated paired differences, float (studies, seeds, generations + 1), in arbitrary units, and the threshold of
    detection in these units. Raises UserError if plan.spread is needed and missing."""
    errors = noise(plan, 2_000, 1, plan.at, np.random.default_rng(0))
    window = 1 if plan.definition == 1 else h.window  # definition 1 reads the last generation alone
    sd = float(definitions.late(errors, window).std())
    mark = definitions.marks(h).get(plan.definition, 0.0)
    threshold = 0.0
    if mark:
        if plan.spread is None:
            raise UserError(
                f"Definition {plan.definition} has a threshold of {mark:.3g}: give the standard deviation between "
                "chains of the pilot's number, in the number's own units (--spread).",
                "spread",
            )
        threshold = sd * mark / plan.spread
    unit = float(definitions.late(SHAPES[plan.shape](np.arange(plan.at + 1)), window))
    signal = (threshold + plan.effect * sd) * SHAPES[plan.shape](np.arange(generations + 1)) / unit
    return signal + noise(plan, studies, seeds, generations, rng), threshold


def noise(plan: Plan, studies: int, seeds: int, generations: int, rng: np.random.Generator) -> np.ndarray:
    """Errors, float (studies, seeds, generations + 1), with variance 1 at generation plan.at and 0 at generation 0."""
    shape, draw = (studies, seeds, generations), NOISES[plan.noise]
    walk = np.cumsum(draw(rng, shape), -1) * np.sqrt(plan.accumulated / plan.at)
    own = draw(rng, shape) * np.sqrt(1 - plan.accumulated)
    return np.concatenate([np.zeros((studies, seeds, 1)), walk + own], -1)


def power(
    plan: Plan, seeds: int, generations: int, studies: int = 2_000, seed: int = 0, thresholds: Thresholds | None = None
) -> Outcome:
    """How often a plan is detected and excluded with this number of seeds and of generations after 0.

    The other measured definitions have no effect: their p values are uniform. The margins of definitions 2 and 5 cannot
    be expressed in standard deviations, and are 0 here (MARGINLESS). Raises UserError for fewer seeds or generations
    than the rules need.
    """
    h = thresholds or Thresholds.of()
    if seeds < h.chains:
        raise UserError(f"seeds={seeds}: with fewer than {h.chains} there is no verdict.", "seeds")
    if generations < (least := definitions.LEAST_G.get(plan.definition, 1)):
        raise UserError(
            f"generations={generations}: definition {plan.definition} needs {least} after generation 0.", "generations"
        )
    rng = np.random.default_rng([seed, seeds, generations])
    d, threshold = courses(plan, seeds, generations, studies, rng, h)
    if plan.definition == 3:
        question = definitions.divergence((d, np.zeros_like(d)), h)
    else:
        at = d[..., -1] if plan.definition == 1 else definitions.late(d, h.window)
        bar = definitions.passed(d, threshold) if plan.definition in (2, *definitions.marks(h)) else None
        question = Question(plan.definition, (Number("number", at, threshold, threshold),), bar=bar)
    (judged,) = definitions.judge([question], h, exact=False)
    others = rng.random((studies, plan.measured - 1))
    p = statistics.holm(np.concatenate([judged.p[:, None], others], -1))[:, 0]
    detected = p <= h.alpha
    return Outcome(seeds, generations, float(detected.mean()), float((judged.excluded & ~detected).mean()), studies)


def needed(outcomes: list[Outcome], wanted: float) -> list[str]:
    """The smallest number of seeds that reaches the wanted probability of a verdict, one line for each number of
    generations."""
    lines = []
    for g in sorted({o.generations for o in outcomes}):
        mine = sorted((o for o in outcomes if o.generations == g), key=lambda o: o.seeds)
        verdict = max(("detected", "excluded"), key=lambda v: getattr(mine[-1], v))
        enough = next((o for o in mine if getattr(o, verdict) >= wanted), None)
        if enough:
            lines.append(f"{g} generations: {enough.seeds} seeds ({verdict} in {getattr(enough, verdict):.0%})")
        else:
            best = getattr(mine[-1], verdict)
            lines.append(f"{g} generations: more than {mine[-1].seeds} seeds ({verdict} in {best:.0%} with these)")
    return lines


def t_power(effect: float, seeds: int, level: float) -> float:
    """The power of a one-sided t-test (noncentral t); `power` equals it for one definition and normal noise."""
    df = seeds - 1
    return float(stats.nct.sf(stats.t.isf(level, df), df, effect * np.sqrt(seeds)))
