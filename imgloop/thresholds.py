"""The thresholds of the eight verdicts, with the defaults of conf/collapse/default.yaml."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any

from imgloop.errors import UserError

# Lower and upper limits; a whole number may equal its lower limit. Those not named here: 0 and 1.
LIMITS: dict[str, tuple[float, float | None]] = {
    "chains": (2, None),
    "window": (1, None),
    "sizes": (3, None),
    "scaling_margin": (1, None),
    "risk_margin": (0, None),
}


@dataclass(frozen=True)
class Thresholds:
    """The values above or below which a definition is detected or excluded; conf/collapse/default.yaml explains each.

    Raises UserError for a value outside its range.
    """

    alpha: float = 0.05
    exclusion: float = 0.05
    chains: int = 4
    window: int = 3
    risk_margin: float = 0.10
    variance_kept: float = 0.5
    scaling_margin: float = 1.1
    sizes: int = 5
    mode_kept: float = 0.1
    tail_kept: float = 0.8
    hallucinated: float = 0.009
    start_variance: float = 0.5
    start_off_support: float = 0.5

    def __post_init__(self):
        for f in fields(self):
            value, whole = getattr(self, f.name), f.type == "int"
            number: Any = value if isinstance(value, Real) and not isinstance(value, bool) else math.nan
            low, high = LIMITS.get(f.name, (0, 1))
            inside = (number >= low if whole else number > low) and (high is None or number < high)
            if not inside or (whole and number % 1):
                kind = f"a whole number of at least {low}" if whole else f"a number above {low}"
                allowed = f"{kind} and below {high}" if high else kind
                raise UserError(f"collapse.{f.name}={value}: give {allowed}.", f"collapse.{f.name}")

    @classmethod
    def of(cls, values: Thresholds | Mapping | None = None) -> Thresholds:
        """Thresholds from a mapping of those that differ from the defaults; raises UserError for an unknown name."""
        if isinstance(values, Thresholds):
            return values
        if values is not None and not isinstance(values, Mapping):
            raise UserError(f"Thresholds are {type(values).__name__}: give a mapping of names to numbers.", "collapse")
        given = dict(values or {})
        names = [f.name for f in fields(cls)]
        unknown = [k for k in given if k not in names]
        if unknown:
            name = f"collapse.{unknown[0]}"
            raise UserError(f"{name} is not a threshold: choose from {', '.join(names)}.", name)
        return cls(**given)

    def changes(self, other: Thresholds) -> list[str]:
        """The thresholds that differ in `other`, one line each."""
        before, after = asdict(self), asdict(other)
        return [f"{k} was {before[k]:g} and is {after[k]:g}" for k in before if before[k] != after[k]]


def unlike_data(scores: Mapping[str, float | None], h: Thresholds) -> str:
    """Why generation 0 is not a model of the data, by its scores; "" where it may be one, or nothing was measured.

    A loop whose first generator is far from the data shows a weak model, and little of what the loop does to it.
    """
    off, variance = scores.get("off_support"), scores.get("variance_ratio")
    if off is not None and off > h.start_off_support:
        return f"{off:.0%} of its samples are off the support of the real images (at most {h.start_off_support:.0%})"
    if variance is not None and not h.start_variance <= variance <= 1 / h.start_variance:
        return f"its variance is {variance:.2f} of the real (from {h.start_variance:g} to {1 / h.start_variance:g})"
    return ""


@dataclass(frozen=True)
class Frozen:
    """The thresholds that a study began with. written: time stamp. ended: the number of chains that had ended by then
    (0: the thresholds were fixed before any result)."""

    thresholds: Thresholds
    written: str
    ended: int
