"""The page's figures as vector PDF files for papers, with text as text."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from imgloop.figures import INK, MUTED, PAPER, look
from imgloop.report.panels import Line, Panel
from imgloop.report.sheets import Evolution

RC: Any = {"pdf.fonttype": 42, "font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
# Without dates, equal figures are equal files.
METADATA = {"Creator": "imgloop", "Producer": None, "CreationDate": None}


def figures(
    panels: Sequence[Panel], evolution: Evolution | str, bars: Sequence[tuple[str, list]]
) -> Iterator[tuple[str, bytes]]:
    """(file name, PDF) of each panel, the training sets, and samples of the first, middle and last generation."""
    import matplotlib

    logging.getLogger("fontTools").setLevel(logging.WARNING)  # logs each table of each font
    counts: dict[str, int] = {}
    with matplotlib.rc_context(RC):
        for p in panels:
            name = p.info.name
            counts[name] = counts.get(name, 0) + 1
            stem = name if counts[name] == 1 else f"{name}-{counts[name]}"
            yield f"{stem}.pdf", curve(p)
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
    from matplotlib.ticker import MaxNLocator

    figure = _page(3.4, 2.5 + 0.16 * (len(p.lines) > 1) * -(-len(p.lines) // 2))
    axis = figure.subplots()
    for line in p.lines:
        _draw(axis, line, p)
    if p.reference:
        axis.axhline(p.reference[1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        place: Any = {
            "xycoords": ("axes fraction", "data"),
            "ha": "right",
            "va": "bottom",
            "fontsize": 6,
            "color": MUTED,
        }
        axis.annotate(plain(p.reference[0]), (1, p.reference[1]), **place)
    if p.log:
        axis.set_yscale("log")
    axis.set_ylim(*p.limits)
    axis.set_title(plain(p.info.label), fontsize=8, loc="left", pad=13)
    above: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": 6.5, "color": MUTED}
    axis.annotate(plain(p.info.unit), (0, 1), (0, 4), **above)
    axis.set_xlabel("generation")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(p.lines) > 1:
        figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=6.5)
    return _saved(figure)


def _draw(axis, line: Line, p: Panel) -> None:
    style = look(line.index)
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
    figure = _page(min(2.3 * len(bars), 9.2), 2.2 * -(-len(bars) // 4))
    axes = np.atleast_1d(figure.subplots(-(-len(bars) // 4), min(len(bars), 4), squeeze=False)).ravel()
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
                    axis.text(t, centre, origin, ha="center", va="center", fontsize=6, color=PAPER if dark else INK)
                base += part
        axis.set_title(plain(name), fontsize=7, loc="left")
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
    figure = _page(1.35 * columns, 1.5 * len(shown))
    axes = figure.subplots(len(shown), columns, squeeze=False)
    for i, (row, (t, sheets)) in enumerate(zip(axes, shown)):
        real = [("real, held out", evolution.real[-1] if i == 0 else None)] if evolution.real else []
        for axis, (name, sheet) in zip(row, [*real, *sheets]):
            axis.set_axis_off()
            if sheet is not None:
                picture = Image.open(io.BytesIO(base64.b64decode(sheet.uri.split(",", 1)[1])))
                axis.imshow(np.asarray(picture.convert("RGBA")), interpolation="none")
                title = name if name.startswith("real, held") else f"{name}, generation {t}"
                axis.set_title(plain(title), fontsize=5)
    return _saved(figure)
