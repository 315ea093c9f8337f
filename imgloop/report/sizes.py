"""Selects the chains with the most real samples where a condition was run at several sizes, as the verdicts do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imgloop.report.text import figure, listed


def largest(frame) -> Any:
    """The rows of a pandas table at each condition's largest `size`; all rows where the size is unknown."""
    if "size" not in frame:
        return frame
    most = frame.groupby("condition")["size"].transform("max")
    return frame[(frame["size"] == most) | most.isna()]


def several(frame) -> dict[str, list[int]]:
    """Sizes by condition, ascending; empty unless some condition has several."""
    if "size" not in frame:
        return {}
    sizes = {str(c): sorted(map(int, part["size"].dropna().unique())) for c, part in frame.groupby("condition")}
    return {c: s for c, s in sizes.items() if s} if any(len(s) > 1 for s in sizes.values()) else {}


def note(frame, names: Mapping[str, str]) -> str:
    """Which of several sizes is plotted; "" unless some condition has several."""
    sizes = several(frame)
    if not sizes:
        return ""
    every = listed([figure(n) for n in sorted({n for s in sizes.values() for n in s})])
    most = {c: s[-1] for c, s in sizes.items()}
    if len(set(most.values())) == 1:
        return f"at {figure(next(iter(most.values())))} real samples, as in the verdicts (sizes run: {every})"
    each = listed([f"{names.get(c, c)} {figure(n)}" for c, n in most.items()])
    return f"at each condition's largest number of real samples ({each}; sizes run: {every})"
