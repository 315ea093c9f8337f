"""The thresholds of the eight verdicts, with the defaults of conf/collapse/default.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Real

from imgloop.errors import UserError


@dataclass(frozen=True)
class Thresholds:
    """What a number must pass to be detected or excluded; conf/collapse/default.yaml says what each is.

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

    def __post_init__(self):
        for f in fields(self):
            value, whole = getattr(self, f.name), f.type == "int"
            low, high = {"chains": (2, None), "window": (1, None), "sizes": (3, None), "scaling_margin": (1, None)}.get(
                f.name, (0, None if f.name == "risk_margin" else 1)
            )
            number = isinstance(value, Real) and not isinstance(value, bool) and value == value
            inside = number and (value >= low if whole else value > low) and (high is None or value < high)
            if not inside or (whole and value != int(value)):
                kind = f"a whole number of at least {low}" if whole else f"a number above {low}"
                span = f"{kind} and below {high}" if high else kind
                raise UserError(f"collapse.{f.name}={value}: give {span}.")

    @classmethod
    def of(cls, values: Thresholds | Mapping | None = None) -> Thresholds:
        """Thresholds from a mapping of those that differ from conf/collapse/default.yaml; raises UserError for one that
        is none of them."""
        if isinstance(values, Thresholds):
            return values
        if values is not None and not isinstance(values, Mapping):
            raise UserError(f"thresholds are a mapping of names to numbers, not {type(values).__name__}.")
        given = dict(values or {})
        names = [f.name for f in fields(cls)]
        wrong = [k for k in given if k not in names]
        if wrong:
            raise UserError(f"collapse.{wrong[0]} is no threshold; they are {', '.join(names)}.")
        return cls(**given)

    def changes(self, other: Thresholds) -> list[str]:
        """What `other` has different, one line each."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{k} was {mine[k]:g} and is {theirs[k]:g}" for k in mine if mine[k] != theirs[k]]


@dataclass(frozen=True)
class Frozen:
    """The thresholds that a study began with; `written` is a time stamp, `ended` how many chains had a last generation
    by then (0 where they were fixed before any result)."""

    thresholds: Thresholds
    written: str
    ended: int
