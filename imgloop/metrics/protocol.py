"""Which numbers may stand side by side: those of one protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imgloop.errors import UserError


def require_one(protocols: Mapping[str, Mapping[str, Any]], what: str = "table") -> None:
    """Raise UserError, naming what differs, unless all `protocols` (by the name of what they measured) are equal."""
    named = iter(protocols.items())
    first, expected = next(named, ("", {}))
    for name, found in named:
        differ = [k for k in [*expected, *(k for k in found if k not in expected)] if expected.get(k) != found.get(k)]
        if differ:
            told = ", ".join(f"{k} ({expected.get(k)} of {first}, {found.get(k)} of {name})" for k in differ[:3])
            more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
            raise UserError(
                f"Numbers of different protocols do not belong in one {what}: they differ in {told}{more}. "
                "Measure all with the same features, reference and number of samples."
            )
