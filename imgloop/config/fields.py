"""Settings of a part, declared at the dataclass field that holds them: kind, bounds, choices; one check for all."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from imgloop.errors import UserError


@dataclass(frozen=True)
class Allowed:
    """What a setting may be. kind: int, float, bool, str or Path. low and high are allowed, above and below not."""

    kind: type
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] | None = None
    optional: bool = False
    why: str = ""

    def holds(self, value: Any) -> bool:
        """Whether a value is allowed."""
        if value is None:
            return self.optional
        if self.choices is not None:
            return any(type(value) is type(choice) and value == choice for choice in self.choices)
        if self.kind is Path:
            return isinstance(value, str | os.PathLike) and bool(str(value))
        if self.kind in (bool, str):
            return isinstance(value, self.kind)
        if isinstance(value, bool) or not isinstance(value, Integral if self.kind is int else Real):
            return False
        number: Any = value
        return (
            math.isfinite(number)
            and (self.low is None or number >= self.low)
            and (self.high is None or number <= self.high)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    @property
    def text(self) -> str:
        """What is allowed, as the end of "give ...": a whole number of at least 1."""
        if self.choices is not None:
            words = ("null" if c is None else str(c).lower() if isinstance(c, bool) else str(c) for c in self.choices)
            return "one of " + ", ".join(words)
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return "text"
        if self.kind is Path:
            return "a path"
        noun = "a whole number" if self.kind is int else "a number"
        parts = []
        if self.low is not None and self.high is not None:
            parts.append(f"from {self.low:g} to {self.high:g}")
        else:
            parts += [f"of at least {self.low:g}"] if self.low is not None else []
            parts += [f"of at most {self.high:g}"] if self.high is not None else []
        parts += [f"above {self.above:g}"] if self.above is not None else []
        parts += [f"below {self.below:g}"] if self.below is not None else []
        return f"{noun} {' and '.join(parts)}".strip()


def setting(
    default: Any,
    *,
    kind: type | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[Any] | None = None,
    optional: bool | None = None,
    why: str = "",
) -> Any:
    """A dataclass field with a default and what it may be set to.

    kind: by default the type of the default; a default of dataclasses.MISSING, a required setting, needs it.
    optional: whether null is allowed, by default where the default is None.
    why: a reason that ends the message about a wrong value.
    """
    kind = type(default) if kind is None else kind
    optional = default is None if optional is None else optional
    allowed = Allowed(kind, low, high, above, below, None if choices is None else tuple(choices), optional, why)
    return field(default=default, metadata={"allowed": allowed})


def check_settings(part: Any, group: str) -> None:
    """Check every declared field of a part (a dataclass instance); raises UserError, naming GROUP.FIELD, at the first
    that is wrong. Fields without a declaration are left to the part."""
    for f in fields(part):
        allowed: Allowed | None = f.metadata.get("allowed")
        value = getattr(part, f.name)
        if allowed is not None and not allowed.holds(value):
            null = ", or null for the default" if allowed.optional and allowed.choices is None else ""
            because = f", {allowed.why}" if allowed.why else ""
            name = f"{group}.{f.name}" if group else f.name
            shown = repr(value) if isinstance(value, str) and allowed.kind not in (str, Path) else value
            raise UserError(f"{name}={shown}: give {allowed.text}{null}{because}.", name)
