"""A setting that may change over generations: a number, a list, or a geometric schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import Any, cast

from imgloop.conditions import SCHEDULE
from imgloop.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """A number for each generation t: start * factor^t, at most max and at least min; or the entries of a list.

    Written `2000`, `{start: 500, factor: 2, max: 4000}`, `{start: 0.5, factor: 0.5, min: 0.1}` or `[500, 1000, 2000]`.
    Every value lies in [low, high], exceeds `above`, and is rounded down to an integer where `whole`. A list has no
    value beyond its end: UserError.
    """

    name: str
    start: float = 0.0
    factor: float = 1.0
    max: float = math.inf
    min: float = -math.inf
    values: tuple[float, ...] | None = None
    low: float | None = None
    high: float | None = None
    whole: bool = True
    above: float | None = None

    @classmethod
    def of(
        cls,
        name: str,
        value: Any,
        low: float | None = None,
        high: float | None = None,
        whole: bool = True,
        above: float | None = None,
    ) -> Schedule:
        """Read a number, mapping, list or Schedule; raises UserError, naming `name`, where a value is not allowed."""
        limits: dict[str, Any] = {"low": low, "high": high, "whole": whole, "above": above}
        if isinstance(value, Schedule):
            schedule = replace(value, name=name, **limits)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if not value:
                raise UserError(f"{name}=[] is empty: give one value a generation.", name)
            schedule = cls(name, values=tuple(value), **limits)
        elif isinstance(value, Mapping):
            if set(value) - set(SCHEDULE) or "start" not in value:
                raise UserError(
                    f"{name}: a schedule has start (required), factor, max and min; got "
                    f"{', '.join(map(str, value)) or 'nothing'}.",
                    name,
                )
            schedule = cls(name, **value, **limits)
        else:
            schedule = cls(name, start=cast(float, value), **limits)
        for key in ("factor", "max"):
            number = getattr(schedule, key)
            if not is_number(number) or not number > 0 or (key == "factor" and not math.isfinite(number)):
                raise UserError(f"{name}.{key}={number}: give a number above 0.", name)
        if not is_number(schedule.min) or not schedule.min <= schedule.max:
            most = "" if schedule.max == math.inf else f" of at most max={schedule.max:g}"
            raise UserError(f"{name}.min={schedule.min}: give a number{most}.", name)
        for v in schedule.values or (schedule.start,):
            schedule.checked(v)
        if schedule.values is None:
            schedule(0)
        return schedule

    def checked(self, value: Any, t: int | None = None) -> float:
        """`value` as int or float; raises UserError where it is not a number, or out of bounds. t: the generation at
        which a geometric schedule reaches it."""
        low, high = self.low, self.high
        allowed = is_number(value) and math.isfinite(value) and not (self.whole and value != int(value))
        too_low = allowed and self.above is not None and not value > self.above
        if not allowed or too_low or (low is not None and value < low) or (high is not None and value > high):
            kind = "a whole number" if self.whole else "a number"
            span = "" if low is None else f" of at least {low:g}" if high is None else f" from {low:g} to {high:g}"
            if self.above is not None:
                span = f" above {self.above:g}" + ("" if high is None else f" and at most {high:g}")
            if t and self.values is None and self.factor != 1:
                raise UserError(
                    f"{self.name} is {value:g} at generation {t}, from start={self.start:g} and "
                    f"factor={self.factor:g}; it must be {kind}{span}: change factor, set "
                    f"{'max' if self.factor > 1 else 'min'}, or give a list.",
                    self.name,
                )
            raise UserError(
                f"{self.name}={value}: give {kind}{span}, a list of such numbers, or a schedule "
                "{start: , factor: , max: , min: }.",
                self.name,
            )
        return int(value) if self.whole else float(value)

    def always(self, value: float, first: int = 0) -> bool:
        """Whether this is `value` in every generation from `first` on."""
        if self.values is not None:
            return set(self.values[first:]) == {value}
        if self(first) != value:
            return False
        tends_to = 0 if self.factor < 1 or self.start == 0 else math.inf
        return self.factor == 1 or self.limited(tends_to) == value

    def limited(self, value: float) -> float:
        return max(min(value, self.max), self.min)

    def __call__(self, t: int) -> float:
        """The value at generation t, an int where the schedule is whole."""
        if self.values is not None:
            if t >= len(self.values):
                raise UserError(
                    f"{self.name} lists {len(self.values)} values, but generation {t} needs one: give one value a "
                    "generation.",
                    self.name,
                )
            return self.checked(self.values[t])
        try:
            value = self.limited(self.start * float(self.factor) ** t)
        except OverflowError:
            value = self.max
        if self.whole and math.isfinite(value):
            # Floating-point powers such as 1.4^5 can fall just below their decimal value.
            value = math.floor(value * (1 + 1e-12) + 1e-9)
        return self.checked(value, t)


# A setting of a part: what Schedule.of reads, or None for the part's own default.
Knob = float | Sequence[float] | Mapping[str, float] | Schedule | None


def knob(
    default: Knob = None,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    whole: bool = True,
    kw_only: bool = False,
) -> Any:
    """A dataclass field for a setting that may change over generations; None, the default, leaves it to the part.

    Values lie in [low, high] and exceed `above`; `whole`: they are whole numbers.
    """
    limits = {"low": low, "high": high, "above": above, "whole": whole}
    return field(default=default, kw_only=kw_only, metadata={"knob": limits})


def read_knobs(part: Any, name: Callable[[str], str]) -> None:
    """Replace each `knob` of a frozen dataclass instance by its Schedule; raises UserError at a value not allowed.

    `name`: from a field's name to the setting's, such as paradigm.window.
    """
    for f in fields(part):
        value = getattr(part, f.name)
        if "knob" in f.metadata and value is not None:
            schedule = Schedule.of(name(f.name), value, **f.metadata["knob"])
            object.__setattr__(part, f.name, schedule)


def value_at(value: Knob, t: int, default: float = 0) -> float:
    """The number that a checked `knob` stands for at generation t, `default` where it is None."""
    if value is None:
        return default
    assert isinstance(value, Schedule)  # by read_knobs
    return value(t)


def check_schedules(part: Any, generations: range) -> None:
    """Raise UserError for a schedule among the attributes of a part that has no value allowed for one of the
    generations."""
    for schedule in getattr(part, "__dict__", {}).values():
        if isinstance(schedule, Schedule):
            for t in generations:
                schedule(t)


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
