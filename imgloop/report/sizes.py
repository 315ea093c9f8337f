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


def said(frame, names: Mapping[str, str]) -> str:
    """Which of several sizes is drawn; nothing where no condition has several."""
    if "size" not in frame:
        return ""
    found = {c: sorted(part["size"].dropna().unique()) for c, part in frame.groupby("condition") if c in names}
    if all(len(sizes) < 2 for sizes in found.values()):
        return ""
    most = {c: sizes[-1] for c, sizes in found.items() if sizes}
    shown = sorted(set(most.values()))
    each = f" ({listed([f'{names[c]} {figure(int(n))}' for c, n in most.items()])})" if len(shown) > 1 else ""
    which = "each condition's largest number of" if each else f"{figure(int(shown[0]))}"
    every = listed([figure(int(n)) for n in sorted({n for sizes in found.values() for n in sizes})])
    return f"at {which} real samples{each}, as the verdicts, of {every}"
