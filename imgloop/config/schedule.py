"""A setting that may change over generations: a number, a list, or a geometric schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real

from imgloop.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """A number for each generation t: start * factor^t, at most max; or the entries of a list.

    Written `2000`, `{start: 500, factor: 2, max: 4000}` or `[500, 1000, 2000]`. Every value lies in [low, high], and is
    rounded down to an integer where `whole`. A list has no value beyond its end: UserError.
    """

    name: str
    start: float = 0.0
    factor: float = 1.0
    max: float = math.inf
    values: tuple[float, ...] | None = None
    low: float | None = None
    high: float | None = None
    whole: bool = True

    @classmethod
    def of(cls, name: str, value, low: float | None = None, high: float | None = None, whole: bool = True) -> Schedule:
        """Read a number, mapping, list or Schedule; raises UserError, naming `name`, where a value is not allowed."""
        limits = {"low": low, "high": high, "whole": whole}
        if isinstance(value, Schedule):
            schedule = replace(value, name=name, **limits)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if not value:
                raise UserError(f"{name}=[] is empty: give one value a generation.")
            schedule = cls(name, values=tuple(value), **limits)
        elif isinstance(value, Mapping):
            if set(value) - {"start", "factor", "max"} or "start" not in value:
                raise UserError(
                    f"{name} as a schedule takes start, factor and max, start being required; got "
                    f"{', '.join(map(str, value)) or 'nothing'}."
                )
            schedule = cls(name, **value, **limits)
        else:
            schedule = cls(name, start=value, **limits)
        for key in ("factor", "max"):
            number = getattr(schedule, key)
            if not is_number(number) or not number > 0 or (key == "factor" and not math.isfinite(number)):
                raise UserError(f"{name}.{key}={number}: give a number above 0.")
        for v in schedule.values or (schedule.start,):
            schedule.checked(v)
        if schedule.values is None:
            schedule.checked(schedule(0))
        return schedule

    def checked(self, value) -> float:
        """`value` as int or float; raises UserError where it is not a number, or out of bounds."""
        low, high = self.low, self.high
        allowed = is_number(value) and math.isfinite(value) and not (self.whole and value != int(value))
        if not allowed or (low is not None and value < low) or (high is not None and value > high):
            kind = "a whole number" if self.whole else "a number"
            span = "" if low is None else f" of at least {low:g}" if high is None else f" from {low:g} to {high:g}"
            raise UserError(f"{self.name}={value}: give {kind}{span}, a list of them, or {{start: , factor: , max: }}.")
        return int(value) if self.whole else float(value)

    def __call__(self, t: int) -> float:
        """The value at generation t, an int where the schedule is whole."""
        if self.values is not None:
            if t >= len(self.values):
                raise UserError(
                    f"{self.name} lists {len(self.values)} values, but generation {t} needs one: give one a generation."
                )
            return self.checked(self.values[t])
        try:
            value = min(self.start * float(self.factor) ** t, self.max)
        except OverflowError:
            value = self.max
        if self.whole and math.isfinite(value):
            value = math.floor(value * (1 + 1e-12) + 1e-9)  # 1.4^5 and the like fall short of their decimal value
        return self.checked(value)


def is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
