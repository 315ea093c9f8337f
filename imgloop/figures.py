"""Pictures: sample grids, the evolution sheet, and curves over generations with bands over seeds."""

from __future__ import annotations

import hashlib
import io
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imgloop.conditions import paradigm, settings, short_names
from imgloop.errors import printable
from imgloop.pool import Pool

INK, PAPER, MUTED = "#1b1f24", "#ffffff", "#6a737d"
# Okabe & Ito's colours for our paradigms, five of Tol's for others: colour-blind readers can distinguish them. Line
# styles and markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
           "#999933", "#882255", "#332288", "#8C564B", "#777777")  # fmt: skip
OURS = ("accumulate", "replace", "augment", "edit", "fresh", "accumulate_subsample", "real_only")
SHADES = (0.0, 0.35, 0.6)  # of a colour: the part of grey in it
STYLES, MARKERS = ("-", "--", "-.", ":"), ("o", "s", "^", "D", "v", "P", "X", "*")
FORMS = len(STYLES) * len(MARKERS)
LETTERS, STRIP = 11, 14  # pixels: type size of class names, and the height of the strip below a sample that holds them
FRAMES = 60  # of an animation, at most
SHARP = 20  # pixels: the largest images of which an animation keeps every pixel
REFERENCE = {"color": MUTED, "linewidth": 1, "linestyle": (0, (2, 2))}


@dataclass(frozen=True)
class Look:
    """How a condition is drawn: indices of its colour and shade, and its form, a line style with a marker."""

    colour: int = 0
    shade: int = 0
    form: int = 0

    @property
    def style(self) -> int:
        return self.form % len(STYLES)

    @property
    def marker(self) -> int:
        return (self.form + self.form // len(MARKERS)) % len(MARKERS)


def looks(conditions: Sequence[str]) -> dict[str, Look]:
    """The look of each condition: colour and form of its paradigm, whatever stands beside it.

    Of several conditions of one paradigm, that with the fewest settings has the paradigm's form, and the others forms
    with further markers and shades of the same colour. A user's paradigm has the colour and form that a hash of its
    name selects, or the next that no other has. Beyond 32 conditions, forms repeat.
    """
    by_paradigm: dict[str, list[str]] = {}
    for condition in sorted(set(conditions), key=lambda c: (len(settings(c)), c)):
        by_paradigm.setdefault(paradigm(condition), []).append(condition)
    colours: dict[str, int] = {}
    found: dict[str, Look] = {}
    forms = set(range(len(OURS)))

    def free(start: int, taken: set[int], numbers: range) -> int:
        turned = (numbers[(start + k) % len(numbers)] for k in range(len(numbers)))
        return next((n for n in turned if n not in taken), numbers[start % len(numbers)])

    for name in sorted(by_paradigm, key=lambda p: (p not in OURS, p)):
        if name in OURS:
            colours[name] = form = OURS.index(name)
        else:
            start = int(hashlib.sha256(name.encode()).hexdigest(), 16)
            colours[name] = free(start, set(colours.values()), range(len(OURS), len(COLOURS)))
            form = free(start, forms, range(FORMS))
        forms.add(form)
        found[by_paradigm[name][0]] = Look(colours[name], 0, form)
    for name, group in sorted(by_paradigm.items()):
        markers = {found[group[0]].marker}
        for k, condition in enumerate(group[1:], 1):
            alike = {n for n in range(FORMS) if Look(form=n).marker in markers}
            avoided = alike | forms if len(alike | forms) < FORMS else forms
            form = free(found[group[0]].form + k, avoided, range(FORMS))
            found[condition] = Look(colours[name], k % len(SHADES), form)
            forms.add(form)
            markers.add(found[condition].marker)
    return {c: found[c] for c in conditions}


def drawn(look: Look) -> dict[str, Any]:
    """matplotlib's colour, line style and marker of a look."""
    from matplotlib.colors import to_hex, to_rgb

    grey = SHADES[look.shade]
    mixed = (1 - grey) * np.array(to_rgb(COLOURS[look.colour])) + grey * np.array(to_rgb(MUTED))
    return {"color": to_hex(mixed.tolist()), "linestyle": STYLES[look.style], "marker": MARKERS[look.marker]}


def class_labels(y: np.ndarray | None, classes: Sequence[str] | None, width: int) -> list[str] | None:
    """What is written below each sample: its class name, cut to `width` pixels; None for samples without classes.

    y: int64 (N,). The numbers of the classes stand for names that are unknown (None), that the font lacks (outside
    Latin-1), or that are not told apart once they are cut.
    """
    if y is None:
        return None
    if classes is not None and all(0 <= label < len(classes) for label in np.unique(y)):
        names = [printable(c) for c in classes]
        short = [_cut(n, width) for n in names]
        if len(set(short)) == len(set(names)) and all(n.isprintable() and max(n, default="") <= "\xff" for n in names):
            return [short[label] for label in y]
    return [str(label) for label in y]


def _cut(name: str, width: int) -> str:
    """A name, or its beginning and two dots, that is at most `width` pixels wide."""
    font = ImageFont.load_default(LETTERS)
    if font.getlength(name) <= width:
        return name
    most = next((n for n in range(min(len(name) - 1, width), 0, -1) if font.getlength(f"{name[:n]}..") <= width), 1)
    return f"{name[:most]}.."


def tile(
    x: np.ndarray,
    columns: int,
    pixels: int = 48,
    y: np.ndarray | None = None,
    classes: Sequence[str] | None = None,
) -> Image.Image:
    """A sheet of images uint8 (N, C, H, W) in `columns`, enlarged by a whole factor (nearest) to about `pixels`.

    y: labels int64 (N,); then the class of each image stands below it.
    """
    n, channels, height, width = x.shape
    scale, rows, gap = max(1, round(pixels / height)), -(-n // columns), 2
    labels = class_labels(y, classes, width * scale)
    cell_h, cell_w = height * scale + gap + (STRIP if labels else 0), width * scale + gap
    sheet = Image.new("RGB", (columns * cell_w + gap, rows * cell_h + gap), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LETTERS)
    for i, image in enumerate(x):
        left, top = gap + i % columns * cell_w, gap + i // columns * cell_h
        picture = np.repeat(np.repeat(np.moveaxis(np.asarray(image), 0, -1), scale, 0), scale, 1)
        picture = np.repeat(picture, 3, 2) if channels == 1 else picture[..., :3]
        sheet.paste(Image.fromarray(picture), (left, top))
        if labels:
            place = (left + width * scale / 2, top + height * scale + STRIP / 2 - 1)
            draw.text(place, labels[i], INK, font, anchor="mm")
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


def grid(
    real: Pool, generated: Pool, title: str, classes: Sequence[str] | None = None, columns: int = 8, rows: int = 8
) -> bytes:
    """PNG: the first real training images beside the first generated ones, each with its class below if it has one.

    Pools of images uint8 (N, C, H, W); `classes` are the names of the labels.
    """
    n = columns * rows
    sheets = [
        (caption, tile(pool.x[:n], columns, y=None if pool.y is None else pool.y[:n], classes=classes))
        for caption, pool in (("real", real), (title, generated))
    ]
    return png(captioned(sheets))


def evolution(
    generations: Sequence[tuple[int, Pool]],
    title: str,
    classes: Sequence[str] | None = None,
    columns: str = "one column per latent",
) -> bytes:
    """PNG: one row per generation, one column per latent, so that the same latents can be followed.

    generations: (number, images uint8 (N, C, H, W)); of samples with labels, the class stands below each. columns: what
    the columns are in words.
    """
    font, left, top = ImageFont.load_default(14), 64, 30
    sheets = [(t, tile(pool.x, len(pool), y=pool.y, classes=classes)) for t, pool in generations]
    page = Image.new("RGB", (left + sheets[0][1].width + 12, top + sum(s.height for _, s in sheets) + 8), PAPER)
    draw, down = ImageDraw.Draw(page), top
    draw.text((left, 7), f"{printable(title)}: {columns}, one row per generation", INK, font)
    for t, sheet in sheets:
        draw.text((12, down + sheet.height / 2 - 8), f"gen {t}", MUTED, font)
        page.paste(sheet, (left, down))
        down += sheet.height
    return png(page)


def animation(
    generations: Sequence[tuple[int, Pool]], classes: Sequence[str] | None = None, most: int = FRAMES
) -> bytes:
    """WebP: the samples of the same latents in four columns, one frame per generation with its number above, repeated
    without end; of more than `most` generations, `most` at equal distances.

    generations: (number, images uint8 (N, C, H, W)), all of one shape. Images of up to SHARP pixels are stored without
    loss, larger ones as photographs are.
    """
    last = generations[-1][0]
    if len(generations) > most:
        generations = [generations[round(k)] for k in np.linspace(0, len(generations) - 1, most)]
    font, top = ImageFont.load_default(14), 24
    sheets = [(f"generation {t} of {last}", tile(p.x, min(4, len(p)), y=p.y, classes=classes)) for t, p in generations]
    width = max(max(s.width, int(font.getlength(text)) + 8) for text, s in sheets)
    frames = []
    for text, samples in sheets:
        frame = Image.new("RGB", (width, top + max(s.height for _, s in sheets)), PAPER)
        ImageDraw.Draw(frame).text((2, 3), text, INK, font)
        frame.paste(samples, (0, top))
        frames.append(frame)
    shown = [int(np.clip(12_000 / len(frames), 250, 800))] * len(frames)  # milliseconds
    shown[-1] = max(shown[-1], 1600)
    sharp = generations[0][1].x.shape[2] <= SHARP
    out = io.BytesIO()
    how = {"duration": shown, "loop": 0, "lossless": sharp, "quality": 75, "method": 4}
    frames[0].save(out, "webp", save_all=True, append_images=frames[1:], **how)
    return out.getvalue()


def sheet(count: int, title: str, labels: Sequence[str]):
    """A matplotlib figure with `count` panels below a title, and space for a legend of `labels`: (figure, axes)."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    title = printable(title)
    columns = min(4, count) or 1
    rows = -(-count // columns) or 1
    width = 3.5 * columns
    lines = textwrap.wrap(title, int(11.5 * width), max_lines=3, placeholder=" ...")
    head = 0.65 + 0.18 * (len(lines) - 1)
    legend = 0.22 * -(-len(labels) // across(labels, width)) if len(labels) > 1 else 0.0
    height = 2.7 * rows + head - 0.15 + legend  # inches; set by hand: a layout engine would draw three times
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(0.6 / width, (0.5 + legend) / height, 1 - 0.1 / width, 1 - head / height, 0.24, 0.45)
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axis in axes[count:]:
        axis.set_visible(False)
    figure.text(0.1 / width, 1 - 0.1 / height, "\n".join(lines), fontsize=11, va="top")
    return figure, axes[:count]


def across(labels: Sequence[str], width: float) -> int:
    """The number of columns in a legend `width` inches wide, 1 to 4."""
    return int(np.clip(width * 11 / (max(map(len, labels)) + 8), 1, 4))


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


def handles(figure) -> tuple[list[Any], list[str]]:
    """Handles and labels for one legend of the panels that have none of their own, each label once."""
    found: dict[str, Any] = {}
    for axis in (a for a in figure.axes if a.get_legend() is None):
        for handle, label in zip(*axis.get_legend_handles_labels()):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def finished(figure) -> bytes:
    """The figure as PNG, with a legend below if it has several labels."""
    lines, labels = handles(figure)
    if len(labels) > 1:
        columns = across(labels, figure.get_figwidth())
        figure.legend(lines, labels, loc="lower left", ncols=columns, fontsize=8, frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130)
    return out.getvalue()


def curves(frame, title: str, reference: Mapping[str, float] | None, panels: Sequence[tuple[str, str, str]]) -> bytes:
    """PNG: each measure over generations, a line a condition (mean over seeds) with a band of one standard deviation.

    `frame` has columns condition, seed, generation and measures; `reference` gives real-against-real values by measure;
    `panels` are (name, label, unit) of the measures to draw, those that `frame` has. The legend has short names.
    """
    panels = [p for p in panels if p[0] in frame and frame[p[0]].notna().any()]
    names, _ = short_names(list(dict.fromkeys(frame["condition"])))
    styles = {c: drawn(look) for c, look in looks(list(names)).items()}
    levels = {p[0]: value for p in panels if (value := (reference or {}).get(p[0])) is not None}
    figure, axes = sheet(len(panels), title, [*names.values(), *["real against real"] * bool(levels)])
    for axis, (measure, label, note) in zip(axes, panels):
        for condition, name in names.items():
            part = frame[(frame["condition"] == condition) & frame[measure].notna()].groupby("generation")[measure]
            mean, sd = part.mean(), part.std(ddof=1)
            axis.plot(mean.index, mean, **styles[condition], markersize=4, linewidth=1.6, label=name)
            if sd.notna().any():
                band = styles[condition]["color"]
                axis.fill_between(mean.index, mean - sd, mean + sd, color=band, alpha=0.15, linewidth=0)
        if measure in levels:
            axis.axhline(levels[measure], **REFERENCE, label="real against real")
        dressed(axis, label, note)
        low, high = axis.get_ylim()
        axis.set_ylim(min(low, 0), high + 0.06 * (high - min(low, 0)))  # from zero, so that small changes look small
    return finished(figure)
