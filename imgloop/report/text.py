"""Numbers and lists for readers, with three significant digits."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np

MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
POWERS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def digits(x) -> tuple[str, str]:
    """A number as ASCII digits (at most three significant) and the power of ten to multiply by ("" for none).

    Integers are exact; missing values give "", infinite ones "inf".
    """
    if x is None or (isinstance(x, float) and np.isnan(x)):
        return "", ""
    if isinstance(x, Integral):
        return f"{int(x):,}", ""
    if np.isinf(x):
        return str(float(x)), ""
    mantissa, power = f"{x:.2e}".split("e")
    if x != 0 and not -4 <= int(power) < 6:
        return f"{float(mantissa):g}", str(int(power))
    return f"{float(f'{x:.3g}'):,.10g}", ""


def figure(x) -> str:
    """A number as printed on the page."""
    text, power = digits(x)
    times = f" {TIMES} 10{power.translate(POWERS)}" if power else ""
    return (text.replace("inf", "∞") + times).replace("-", MINUS)


def spread(mean: float, deviation: float | None) -> str:
    """A mean with its deviation, where that is known."""
    known = deviation is not None and np.isfinite(deviation)
    return f"{figure(float(mean))} ± {figure(float(f'{deviation:.2g}'))}" if known else figure(float(mean))


def listed(items: Sequence[object], most: int = 12) -> str:
    """Items separated by commas; those beyond `most` are counted."""
    return ", ".join(map(str, items[:most])) + (f" and {len(items) - most} more" if len(items) > most else "")


def ranges(numbers: Sequence[int]) -> str:
    """Integers as ranges: 0, 1, 2, 5 -> 0-2, 5."""
    spans: list[list[int]] = []
    for n in sorted(set(numbers)):
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def plural(n: int, word: str) -> str:
    return f"{n:,} {word}{'s' * (n != 1)}"
