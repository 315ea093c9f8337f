"""Of a table in which a condition was run at several numbers of real samples, the chains at the largest: those that are
judged, and so those that are drawn."""

from __future__ import annotations

from collections.abc import Mapping

from imgloop.report.text import figure, listed


def largest(frame):
    """The rows at each condition's largest `size`; all rows of a condition whose size is unknown, or of a table without
    that column."""
    if "size" not in frame:
        return frame
    most = frame.groupby("condition")["size"].transform("max")
    return frame[(frame["size"] == most) | most.isna()]


def several(frame) -> dict[str, list[int]]:
    """The sizes of each condition, ascending, where some condition has several; else nothing."""
    if "size" not in frame:
        return {}
    found = {str(c): sorted(map(int, part["size"].dropna().unique())) for c, part in frame.groupby("condition")}
    return {c: sizes for c, sizes in found.items() if sizes} if any(len(s) > 1 for s in found.values()) else {}


def said(frame, names: Mapping[str, str]) -> str:
    """Which of several sizes is drawn; nothing where no condition has several."""
    found = several(frame)
    if not found:
        return ""
    every = listed([figure(n) for n in sorted({n for sizes in found.values() for n in sizes})])
    most = {c: sizes[-1] for c, sizes in found.items()}
    if len(set(most.values())) == 1:
        return f"at {figure(next(iter(most.values())))} real samples, as the verdicts, of {every}"
    each = listed([f"{names.get(c, c)} {figure(n)}" for c, n in most.items()])
    return f"at each condition's largest number of real samples ({each}), of {every}"
