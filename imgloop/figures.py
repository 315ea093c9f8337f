"""Pictures: sample grids, the evolution sheet, and curves over generations with bands over seeds."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, PAPER, MUTED = "#1b1f24", "#ffffff", "#6a737d"
# Okabe & Ito's colours, which colour-blind readers can distinguish; line styles and markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
STYLES, MARKERS = ("-", "--", "-.", ":"), ("o", "s", "^", "D", "v", "P", "X", "*")


def tile(x: np.ndarray, columns: int, pixels: int = 48) -> Image.Image:
    """A sheet of images uint8 (N, C, H, W) in `columns`, enlarged by a whole factor (nearest) to about `pixels`."""
    n, channels, height, width = x.shape
    scale, rows, gap = max(1, round(pixels / height)), -(-n // columns), 2
    cell_h, cell_w = height * scale + gap, width * scale + gap
    sheet = Image.new("RGB", (columns * cell_w + gap, rows * cell_h + gap), PAPER)
    for i, image in enumerate(x):
        picture = np.repeat(np.repeat(np.moveaxis(np.asarray(image), 0, -1), scale, 0), scale, 1)
        picture = np.repeat(picture, 3, 2) if channels == 1 else picture[..., :3]
        sheet.paste(Image.fromarray(picture), (gap + i % columns * cell_w, gap + i // columns * cell_h))
    return sheet


def captioned(sheets: Sequence[tuple[str, Image.Image]], space: int = 24) -> Image.Image:
    """Sheets side by side, each with a caption above it."""
    font, top = ImageFont.load_default(16), 28
    page = Image.new(
        "RGB",
        (sum(s.width for _, s in sheets) + space * (len(sheets) + 1), max(s.height for _, s in sheets) + top + space),
        PAPER,
    )
    draw, left = ImageDraw.Draw(page), space
    for caption, sheet in sheets:
        draw.text((left, 6), caption, INK, font)
        page.paste(sheet, (left, top))
        left += sheet.width + space
    return page


def png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "png")
    return out.getvalue()


def grid(real: np.ndarray, generated: np.ndarray, title: str, columns: int = 8, rows: int = 8) -> bytes:
    """PNG: the first real training images beside the first generated ones."""
    n = columns * rows
    return png(captioned([("real", tile(real[:n], columns)), (title, tile(generated[:n], columns))]))


def evolution(generations: Sequence[tuple[int, np.ndarray]], title: str) -> bytes:
    """PNG: one row per generation, one column per latent, so that the same latents can be followed."""
    font, left, top = ImageFont.load_default(14), 64, 30
    sheets = [(t, tile(x, len(x))) for t, x in generations]
    page = Image.new("RGB", (left + sheets[0][1].width + 12, top + sum(s.height for _, s in sheets) + 8), PAPER)
    draw, down = ImageDraw.Draw(page), top
    draw.text((left, 7), f"{title}: one column per latent, one row per generation", INK, font)
    for t, sheet in sheets:
        draw.text((12, down + sheet.height / 2 - 8), f"gen {t}", MUTED, font)
        page.paste(sheet, (left, down))
        down += sheet.height
    return png(page)


def sheet(count: int, title: str, conditions: Sequence[str]):
    """A matplotlib figure with `count` panels below a title, and space for a legend of `conditions`: (figure, axes)."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    columns = min(4, count) or 1
    rows = -(-count // columns) or 1
    width = 3.5 * columns
    legend = 0.22 * -(-len(conditions) // across(conditions, width)) if len(conditions) > 1 else 0.0
    height = 2.7 * rows + 0.5 + legend  # inches; set by hand: a layout engine would draw three times
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(0.6 / width, (0.5 + legend) / height, 1 - 0.1 / width, 1 - 0.65 / height, 0.24, 0.45)
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axis in axes[count:]:
        axis.set_visible(False)
    fitting = textwrap.shorten(title, int(12.5 * width), placeholder=" ...")
    figure.text(0.1 / width, 1 - 0.1 / height, fitting, fontsize=11, va="top")
    return figure, axes[:count]


def across(conditions: Sequence[str], width: float) -> int:
    """The number of columns in a legend `width` inches wide, 1 to 4."""
    return int(np.clip(width * 11 / (max(map(len, conditions)) + 8), 1, 4))


def dressed(axis, label: str, note: str, across: str = "generation") -> None:
    """Set title, axis labels and ticks of a panel, and remove its box."""
    from matplotlib.ticker import MaxNLocator

    axis.set_title(label, fontsize=10, loc="left")
    axis.set_xlabel(across, fontsize=8)
    axis.set_ylabel(note, fontsize=7, color=MUTED)
    axis.tick_params(labelsize=8)
    if axis.get_xscale() == "linear":
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.spines[["top", "right"]].set_visible(False)


def finished(figure, conditions: Sequence[str]) -> bytes:
    """The figure as PNG, with a legend if there are several conditions."""
    axes = [a for a in figure.axes if a.get_visible()]
    if len(conditions) > 1 and axes:
        handles = axes[0].get_legend_handles_labels()
        columns = across(conditions, figure.get_figwidth())
        figure.legend(*handles, loc="lower left", ncols=columns, fontsize=8, frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130)
    return out.getvalue()


def look(i: int) -> dict[str, Any]:
    """Colour, line style and marker of condition `i`, each different from those of its neighbours."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i % 4], "marker": MARKERS[(i + i // 8) % 8]}


def curves(frame, title: str, reference: Mapping[str, float] | None, panels: Sequence[tuple[str, str, str]]) -> bytes:
    """PNG: each measure over generations, a line a condition (mean over seeds) with a band of one standard deviation.

    `frame` has columns condition, seed, generation and measures; `reference` gives real-against-real values by measure;
    `panels` are (name, label, unit) of the measures to draw, those that `frame` has.
    """
    panels = [p for p in panels if p[0] in frame and frame[p[0]].notna().any()]
    conditions = list(dict.fromkeys(frame["condition"]))
    figure, axes = sheet(len(panels), title, conditions)
    for axis, (name, label, note) in zip(axes, panels):
        for i, condition in enumerate(conditions):
            part = frame[(frame["condition"] == condition) & frame[name].notna()].groupby("generation")[name]
            mean, sd = part.mean(), part.std(ddof=1)
            axis.plot(mean.index, mean, **look(i), markersize=4, linewidth=1.6, label=condition)
            if sd.notna().any():
                band = look(i)["color"]
                axis.fill_between(mean.index, mean - sd, mean + sd, color=band, alpha=0.15, linewidth=0)
        if reference and reference.get(name) is not None:
            axis.axhline(reference[name], color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
            axis.annotate(
                "real against real",
                (1, reference[name]),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=7,
                color=MUTED,
            )
        dressed(axis, label, note)
        low, high = axis.get_ylim()
        axis.set_ylim(min(low, 0), high + 0.06 * (high - min(low, 0)))  # from zero, so that small changes look small
    return finished(figure, conditions)
