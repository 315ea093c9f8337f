"""The page's figures as vector PDF files for papers, with text as text."""

from __future__ import annotations

import base64
import io
import logging
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from imgloop.figures import INK, MUTED, PAPER, REFERENCE, drawn, handles
from imgloop.report.panels import Line, Panel
from imgloop.report.sheets import Evolution, Sheet

COLUMN, TEXT = 3.4, 7.0  # inches: the width of a column, and of a page with two
SMALL = 6.5  # points: the smallest type
BRIEF = 3  # letters of the class names that find room below samples
RC: Any = {"pdf.fonttype": 42, "font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
# Without dates, equal figures are equal files.
METADATA = {"Creator": "imgloop", "Producer": None, "CreationDate": None}


def figures(
    panels: Sequence[Panel], key: Sequence[Panel], evolution: Evolution | str, bars: Sequence[tuple[str, list]]
) -> Iterator[tuple[str, bytes]]:
    """(file name, PDF) of each panel, of the `key` ones together, of the training sets, and of samples of the first,
    middle and last generation."""
    import matplotlib

    logging.getLogger("fontTools").setLevel(logging.WARNING)  # logs each table of each font
    counts: dict[str, int] = {}
    with matplotlib.rc_context(RC):
        for p in panels:
            name = p.info.name
            counts[name] = counts.get(name, 0) + 1
            stem = name if counts[name] == 1 else f"{name}-{counts[name]}"
            yield f"{stem}.pdf", curve(p)
        if key:
            yield "comparison.pdf", comparison(key)
        if bars:
            yield "training.pdf", training(bars)
        if not isinstance(evolution, str):
            yield "samples.pdf", samples(evolution)


def plain(text: str) -> str:
    """Text without the signs that matplotlib takes for formulas."""
    return text.replace("$", r"\$")


def _page(width: float, height: float):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _saved(figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="pdf", metadata=METADATA)
    return out.getvalue()


def curve(p: Panel) -> bytes:
    """One panel, a column wide, with its legend below."""
    rows = len(p.lines) + bool(p.reference)
    figure = _page(COLUMN, 2.5 + 0.16 * (rows > 1) * -(-rows // 2))
    axis = figure.subplots()
    _panel(axis, p)
    axis.set_title(plain(p.info.label), fontsize=8, loc="left", pad=13)
    above: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": SMALL, "color": MUTED}
    axis.annotate(plain(p.info.unit), (0, 1), (0, 4), **above)
    axis.set_xlabel("generation")
    _legend(figure)
    return _saved(figure)


def comparison(panels: Sequence[Panel]) -> bytes:
    """Several panels in one figure a column wide, two in a row, with one legend below."""
    rows = -(-len(panels) // 2)
    names = {line.name for p in panels for line in p.lines} | {p.reference[0] for p in panels if p.reference}
    figure = _page(COLUMN, 1.55 * rows + 0.16 * (len(names) > 1) * -(-len(names) // 2))
    axes = np.atleast_1d(figure.subplots(rows, min(len(panels), 2), squeeze=False)).ravel()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for i, (axis, p) in enumerate(zip(axes, panels)):
        _panel(axis, p)
        axis.set_title(plain(textwrap.fill(p.info.label, 26, break_on_hyphens=False)), fontsize=7, loc="left")
        axis.tick_params(labelsize=SMALL)
        if i >= len(panels) - 2:
            axis.set_xlabel("generation", fontsize=7)
    _legend(figure)
    return _saved(figure)


def _panel(axis, p: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    for line in p.lines:
        _draw(axis, line, p)
    if p.reference:
        axis.axhline(p.reference[1], **REFERENCE, label=plain(p.reference[0]))
    if p.log:
        axis.set_yscale("log")
    axis.set_ylim(*p.limits)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _legend(figure) -> None:
    lines, labels = handles(figure)
    if len(labels) > 1:
        columns = 1 if max(map(len, labels)) > 30 else 2
        figure.legend(lines, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=SMALL)


def _draw(axis, line: Line, p: Panel) -> None:
    style = drawn(line.look)
    name = plain(line.name)
    if line.theory is None:
        axis.plot(line.x, line.mean, **style, markersize=3, linewidth=1.2, label=name)
        axis.fill_between(line.x, *p.edges(line), color=style["color"], alpha=0.15, linewidth=0)
        return
    few = slice(None, None, max(1, len(line.x) // 20))
    point = {"color": style["color"], "marker": style["marker"], "linestyle": "none", "markersize": 3}
    low, high = p.edges(line)
    error = np.stack([line.mean - low, high - line.mean])[:, few]
    axis.errorbar(line.x[few], line.mean[few], error, **point, elinewidth=0.8, label=name)
    axis.plot(line.x, line.theory, color=style["color"], linewidth=1, linestyle=":" if p.bound else style["linestyle"])
    if line.median is not None:
        axis.plot(line.x[few], line.median[few], **point, markerfacecolor="none", markeredgewidth=0.6)


def training(bars: Sequence[tuple[str, list[tuple[int, int, Mapping[str, float]]]]]) -> bytes:
    """Stacked shares of each condition's training sets by origin."""
    across = min(len(bars), 2 if len(bars) <= 4 else 4)
    figure = _page(COLUMN if across <= 2 else TEXT, 1.7 * -(-len(bars) // across))
    axes = np.atleast_1d(figure.subplots(-(-len(bars) // across), across, squeeze=False)).ravel()
    for axis in axes[len(bars) :]:
        axis.set_visible(False)
    for axis, (name, rows) in zip(axes, bars):
        newest = max((int(o) for _, _, share in rows for o in share if o.isdigit()), default=0)
        for t, _, share in rows:
            base = 0.0
            for origin, part in share.items():
                tone = 0.25 + 0.7 * (int(origin) + 1) / (newest + 1) if origin.isdigit() else 0.5
                colour = INK if origin == "real" else (0.0, 0.447, 0.698, tone)
                axis.bar(t, 100 * part, 0.84, 100 * base, color=colour, edgecolor=PAPER, linewidth=0.4)
                if part > 0.12 and len(rows) <= 8:
                    dark = origin == "real" or tone > 0.6
                    centre = 100 * (base + part / 2)
                    axis.text(t, centre, origin, ha="center", va="center", fontsize=SMALL, color=PAPER if dark else INK)
                base += part
        axis.set_title(plain(textwrap.fill(name, 28)), fontsize=7, loc="left")
        axis.tick_params(labelsize=SMALL)
        axis.set_xlabel("generation", fontsize=7)
        axis.set_ylabel("rows by origin, %", fontsize=7)
        axis.set_xticks([rows[0][0], rows[-1][0]] if len(rows) > 10 else [t for t, _, _ in rows])
    return _saved(figure)


def samples(evolution: Evolution) -> bytes:
    """Sheets of real images and of the first, middle and last generation, conditions side by side."""
    from PIL import Image

    last = len(evolution.generations) - 1
    shown = [evolution.generations[i] for i in sorted({0, last // 2, last})]
    columns = len(shown[0][1]) + bool(evolution.real)
    width = COLUMN if columns <= 3 else TEXT
    figure = _page(width, (min(width / columns, 1.4) + 0.3) * len(shown))
    axes = figure.subplots(len(shown), columns, squeeze=False)
    for i, (row, (t, sheets)) in enumerate(zip(axes, shown)):
        real = [("real, held out", evolution.real[-1] if i == 0 else None)] if evolution.real else []
        for axis, (name, sheet) in zip(row, [*real, *sheets]):
            axis.set_axis_off()
            if sheet is not None:
                picture = Image.open(io.BytesIO(base64.b64decode(sheet.uri.split(",", 1)[1])))
                axis.imshow(np.asarray(picture.convert("RGBA")), interpolation="none")
                _labels(axis, sheet, picture.size)
                title = name if name.startswith("real, held") else f"{name}\ngeneration {t}"
                axis.set_title(plain(title), fontsize=SMALL)
    return _saved(figure)


def _labels(axis, sheet: Sheet, size: tuple[int, int]) -> None:
    """Write the classes below the images of a sheet of `size` pixels, if all of them are short enough."""
    if not 0 < max(map(len, sheet.labels), default=0) <= BRIEF:
        return
    across, down = size[0] / sheet.columns, size[1] / -(-len(sheet.labels) // sheet.columns)
    for i, label in enumerate(sheet.labels):
        left, bottom = (i % sheet.columns + 0.5) * across - 0.5, (i // sheet.columns + 1) * down - 0.7
        axis.text(left, bottom, plain(label), ha="center", va="baseline", fontsize=SMALL, color=INK)
