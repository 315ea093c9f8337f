"""Panels and stacked bars as inline SVG; colours are CSS variables of the page, for light and dark mode and print."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from markupsafe import escape as escaped

from imgloop.errors import printable
from imgloop.figures import Look
from imgloop.report.panels import Line, Panel
from imgloop.report.text import figure

WIDTH, HEIGHT = 360, 244
LEFT, RIGHT, TOP, BOTTOM = 42, 12, 22, 38
DASHES = ("", "7 3", "8 3 2 3", "2 3")  # in the order of figures.STYLES
MARKERS = (  # in the order of figures.MARKERS, after the circle: outlines or strokes, in units of its radius
    [[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]],
    [[(0, -1.2), (1.1, 0.8), (-1.1, 0.8)]],
    [[(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)]],
    [[(0, 1.2), (1.1, -0.8), (-1.1, -0.8)]],
    [[(-1, 0), (1, 0)], [(0, -1), (0, 1)]],
    [[(-1, -1), (1, 1)], [(-1, 1), (1, -1)]],
    [[(-1, 0), (1, 0)], [(-0.6, -1), (0.6, 1)], [(-0.6, 1), (0.6, -1)]],
)
SHARES = (360, 210)  # of a stacked bar chart


def escape(text: object) -> Markup:
    """Text from a study as it may stand in the page."""
    return escaped(printable(str(text)))


def marker(shape: int, x: float, y: float, r: float = 3.2) -> str:
    """One of eight markers as an SVG path."""
    if shape % 8 == 0:
        return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"
    parts = MARKERS[shape % 8 - 1]
    ends = "z" if len(parts[0]) > 2 else ""
    return "".join("M" + "L".join(f"{x + r * h:.1f} {y + r * v:.1f}" for h, v in part) + ends for part in parts)


def look(of: Look) -> tuple[str, str, int]:
    """CSS classes, dash pattern and marker of a condition."""
    return f"c{of.colour}" + f" s{of.shade}" * (of.shade > 0), DASHES[of.style], of.marker


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers on an axis."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; with few of them also 2 and 5 times them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    decades = [10.0**p for p in powers if low <= 10.0**p <= high]
    if len(decades) > 6:
        return decades[:: -(-len(decades) // 6)]
    if len(decades) > 2:
        return decades
    found = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    return found or [low, high]


def panel(p: Panel, number: int) -> Markup:
    """A panel as inline SVG; each point has its value as a tooltip."""
    low, high = p.limits
    xs = np.concatenate([line.x for line in p.lines] + [[0.0]])
    first, last = float(xs.min()), max(float(xs.max()), float(xs.min()) + 1)

    def across(x: float) -> float:
        return LEFT + (x - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        share = math.log(y / low) / math.log(high / low) if p.log else (y - low) / (high - low)
        return HEIGHT - BOTTOM - min(max(share, -0.02), 1.02) * (HEIGHT - TOP - BOTTOM)

    drawable = (lambda y: np.isfinite(y) and y > 0) if p.log else np.isfinite
    out = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="p{number}t p{number}d">',
        f'<title id="p{number}t">{escape(p.summary)}</title>'
        f'<desc id="p{number}d">{escape(p.info.label)} over generations; {escape(p.band)}.</desc>',
    ]
    for y in log_ticks(low, high) if p.log else ticks(low, high):
        at = down(y)
        out.append(f'<path class="rule" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        out.append(f'<text class="tick" x="{LEFT - 5}" y="{at + 3.5:.1f}" text-anchor="end">{figure(float(y))}</text>')
    for x in [t for t in ticks(first, last, 6) if t == int(t)]:
        out.append(
            f'<text class="tick" x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{int(x)}</text>'
        )
    out.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    out.append(f'<text class="label" x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">generation</text>')
    unit = p.info.unit + (" (log)" if p.log else "")
    out.append(f'<text class="label" x="2" y="10">{escape(unit)}</text>')
    if p.reference and drawable(p.reference[1]):
        at = down(p.reference[1])
        out.append(f'<path class="reference" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        out.append(  # its name stands below the axis, where no curve is
            f'<path class="reference" d="M2 {HEIGHT - 9.5}H20"/>'
            f'<text class="note" x="24" y="{HEIGHT - 6}">{escape(p.reference[0])}</text>'
        )
    for line in p.lines:
        out += _line(line, across, down, drawable, p)
    return Markup("".join(out) + "</svg>")


def _line(line: Line, across, down, drawable, p: Panel) -> list[str]:
    name, dash, shape = look(line.look)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    out = [f'<g class="{name}">']
    known = [i for i in range(len(line.x)) if drawable(line.mean[i])]
    low, high = p.edges(line)
    banded = [i for i in known if drawable(low[i]) and drawable(high[i])]
    if len(banded) > 1 and line.theory is None:
        edge = [f"{across(line.x[i]):.1f} {down(high[i]):.1f}" for i in banded]
        edge += [f"{across(line.x[i]):.1f} {down(low[i]):.1f}" for i in reversed(banded)]
        out.append(f'<path class="band" d="M{"L".join(edge)}z"/>')
    course = line.mean if line.theory is None else line.theory
    path = [f"{across(x):.1f} {down(y):.1f}" for x, y in zip(line.x, course) if drawable(y)]
    if len(path) > 1:
        style = ' stroke-dasharray="1 3"' if p.bound and line.theory is not None else dashed
        out.append(f'<path class="line" d="M{"L".join(path)}"{style}/>')
    for i in known[:: max(1, len(known) // 20)]:
        x, y = across(line.x[i]), down(line.mean[i])
        if line.theory is not None and i in banded:
            out.append(f'<path class="error" d="M{x:.1f} {down(low[i]):.1f}V{down(high[i]):.1f}"/>')
        out.append(f'<path class="point" d="{marker(shape, x, y)}"><title>{escape(line.point(i))}</title></path>')
        if line.median is not None and drawable(line.median[i]):
            out.append(f'<path class="hollow" d="{marker(shape, x, down(line.median[i]))}"/>')
    return [*out, "</g>"]


def key(of: Look) -> Markup:
    """A condition's line and marker, for the legend."""
    name, dash, shape = look(of)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return Markup(
        f'<svg class="key" viewBox="0 0 40 12" aria-hidden="true"><g class="{name}"><path class="line" d="M1 6H39"'
        f'{dashed}/><path class="point" d="{marker(shape, 20, 6)}"/></g></svg>'
    )


def shares(name: str, bars: Sequence[tuple[int, int, dict[str, float]]], number: int) -> Markup:
    """Stacked bars of one condition: (generation, rows of its training set, share by origin). Origins are `real`, a
    generation (its samples), or `drawn` (samples of any generation)."""
    width, height = SHARES
    left, top, bottom = 42, 30, 36
    step = (width - left - 6) / max(len(bars), 1)
    wide, tall = step * 0.84, height - top - bottom
    newest = max((int(o) for _, _, share in bars for o in share if o.isdigit()), default=0)
    description = "; ".join(f"generation {t}: {_parts(share)}" for t, _, share in bars)
    out = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="s{number}t s{number}d">'
        f'<title id="s{number}t">{escape(name)}: training sets</title>'
        f'<desc id="s{number}d">{escape(description)}</desc>'
    ]
    for y in (0, 50, 100):
        at = height - bottom - y / 100 * tall
        out.append(f'<text class="tick" x="{left - 4}" y="{at + 3.5:.1f}" text-anchor="end">{y} %</text>')
    for i, (t, rows, share) in enumerate(bars):
        x, base = left + i * step + step * 0.08, height - bottom
        for text, part in share.items():
            high = part * tall
            shade = 0.25 + 0.7 * (int(text) + 1) / (newest + 1) if text.isdigit() else 1.0 if text == "real" else 0.5
            tooltip = f"generation {t}: {_parts({text: part})} of {rows:,}"
            out.append(
                f'<rect class="{"real" if text == "real" else "drawn"}" x="{x:.1f}" y="{base - high:.2f}" '
                f'width="{wide:.1f}" height="{high:.2f}" fill-opacity="{shade:.2f}">'
                f"<title>{escape(tooltip)}</title></rect>"
            )
            if high > 11 and wide > 5.5 * len(text) + 2:
                out.append(
                    f'<text class="inside{" on-dark" if shade > 0.6 else ""}" x="{x + wide / 2:.1f}" '
                    f'y="{base - high / 2 + 3.5:.1f}" text-anchor="middle">{escape(text)}</text>'
                )
            base -= high
        if i % -(-len(bars) // 12) == 0:
            at = f'x="{x + wide / 2:.1f}" y="{height - bottom + 13}"'
            out.append(f'<text class="tick" {at} text-anchor="middle">{t}</text>')
        if len(bars) <= 5 or i in (0, len(bars) - 1):
            anchor = "middle" if len(bars) <= 5 else "start" if i == 0 else "end"
            at = x + wide / 2 if len(bars) <= 5 else x + wide * (i > 0)
            out.append(f'<text class="tick" x="{at:.1f}" y="{top - 5}" text-anchor="{anchor}">{rows:,}</text>')
    out.append(
        f'<text class="label" x="{(left + width) / 2}" y="{height - 5}" text-anchor="middle">generation</text>'
        f'<text class="label" x="{left}" y="10">training set: rows and share by origin</text>'
    )
    return Markup("".join(out) + "</svg>")


def _parts(share: dict[str, float]) -> str:
    names = {"real": "real", "drawn": "samples of earlier generations"}
    return ", ".join(f"{figure(100 * s)} % {names.get(o, f'samples of generation {o}')}" for o, s in share.items())
