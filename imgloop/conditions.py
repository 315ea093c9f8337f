"""Names of conditions: their parts, and the short names that readers see and type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from imgloop.errors import UserError, printable

SCHEDULE = ("start", "factor", "max", "min")  # the keys of a geometric schedule, config/schedule.py


def schedule_name(schedule: Mapping[str, float]) -> str:
    """A geometric schedule in a condition's name: 0.4x0.5min0.1 is {start: 0.4, factor: 0.5, min: 0.1}."""
    limits = "".join(f"{k}{schedule[k]}" for k in ("max", "min") if k in schedule)
    return f"{schedule['start']}x{schedule.get('factor', 1)}{limits}"


def schedule_named(text: str) -> dict[str, str] | None:
    """The schedule of a `schedule_name`, values as text; None for another text."""
    number = r"([\d.e+-]+?)"
    found = re.fullmatch(f"{number}x{number}(?:max{number})?(?:min{number})?", text)
    return found and {k: v for k, v in zip(SCHEDULE, found.groups()) if v is not None}


def settings(condition: str) -> list[str]:
    """A condition's name in parts, paradigm first; lists such as model.widths=8,16 stay whole."""
    return re.split(r",(?=[^,=]*=)", condition)


def paradigm(condition: str) -> str:
    return settings(condition)[0]


def short_names(conditions: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Names to print for conditions, without the settings that all of them share; and those settings. Control
    characters, which a folder of anybody's may have in its name, are spelt out."""
    parts = {c: settings(printable(c)) for c in conditions}
    common = [p for p in next(iter(parts.values()), [])[1:] if all(p in others for others in parts.values())]
    names = {c: ",".join(p for i, p in enumerate(ps) if i == 0 or p not in common) for c, ps in parts.items()}
    return (names, common) if len(set(names.values())) == len(names) else ({c: printable(c) for c in conditions}, [])


def resolved(name: str, conditions: Iterable[str]) -> str:
    """The condition with this name, long or short; raises UserError if there is none."""
    names, _ = short_names(list(dict.fromkeys(conditions)))
    if name in names:
        return name
    match = [c for c, short in names.items() if short == name]
    if not match:
        raise UserError(f"There is no condition {name}: choose from {', '.join(names.values())}.")
    return match[0]
