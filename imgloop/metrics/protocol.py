"""Only numbers of one protocol may be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imgloop.errors import UserError


def require_one(protocols: Mapping[str, Mapping[str, Any]], what: str = "table") -> None:
    """Raise UserError, naming the differences, unless all `protocols` (by the name of the measured set) are equal."""
    items = iter(protocols.items())
    first, expected = next(items, ("", {}))
    for name, protocol in items:
        keys = [*expected, *(k for k in protocol if k not in expected)]
        differ = [k for k in keys if expected.get(k) != protocol.get(k)]
        if differ:
            listed = ", ".join(f"{k} ({expected.get(k)} of {first}, {protocol.get(k)} of {name})" for k in differ[:3])
            more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
            raise UserError(
                f"Numbers of different protocols do not belong in one {what}: they differ in {listed}{more}. "
                "Measure all with the same features, reference and number of samples."
            )
