"""The figure that shows copying: samples beside the training images that are nearest to them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imgloop.data.decode import reduced
from imgloop.figures import INK, MUTED, PAPER, png, tile
from imgloop.metrics.scoring import NEAR, Report

GAP, PIXELS = 12, 56  # between groups; of an image, about
ACROSS = 6  # groups in a row
SEED = 0  # of the samples taken at random


def figure(report: Report, pairs: int = 24) -> bytes:
    """PNG: the `pairs` samples that are closest to a training image for where they lie, and as many of the others, at
    random.

    Each group is a sample and, framed, its two nearest training images; below it the distance to the nearest over that
    image's own distance to its nearest other training image: near 0 is a copy, about 1 is what real images have.
    """
    closer = report.nearest.closer
    drawn = np.random.default_rng(SEED).permutation(len(closer))  # a folder is sorted by class: so are equal ones
    closest = drawn[np.argsort(closer[drawn], kind="stable")[:pairs]]
    some = drawn[~np.isin(drawn, closest)][:pairs]
    parts = [("closest to the training images", closest)]
    if len(some):
        parts.append(("of the others, at random", some[np.argsort(closer[some], kind="stable")]))
    sheets = [(title, _groups(report, rows)) for title, rows in parts]
    font, small = ImageFont.load_default(16), ImageFont.load_default(12)
    head, title_height = 50, 34
    width = max(s.width for _, s in sheets) + 2 * GAP
    page = Image.new("RGB", (width, head + sum(s.height + title_height for _, s in sheets)), PAPER)
    draw, down = ImageDraw.Draw(page), head
    below = report.scores["near_copies"]
    draw.text((GAP, 8), f"{report.name}: samples, each with its two nearest training images (framed)", INK, font)
    draw.text(
        (GAP, 30),
        f"below: distance over the training image's own to its nearest other; {below:.1%} of {len(closer):,} samples "
        f"are under {NEAR} ({report.protocol['features']} features)",
        MUTED,
        small,
    )
    for title, sheet in sheets:
        draw.text((GAP, down + 8), title, INK, font)
        page.paste(sheet, (GAP, down + title_height))
        down += sheet.height + title_height
    return png(page)


def _groups(report: Report, rows: np.ndarray) -> Image.Image:
    """The groups of samples `rows`, six in a row, each with its ratio below."""
    nearest, closer = report.nearest, report.nearest.closer
    cells = []
    for row in rows:
        sample = tile(_shown(report.samples.x[row : row + 1]), 1, PIXELS)
        beside = tile(_shown(report.train.x[nearest.index[row]]), nearest.index.shape[1], PIXELS)
        cell = Image.new("RGB", (sample.width + beside.width + 8, beside.height + 18), PAPER)
        cell.paste(sample, (0, 2))
        cell.paste(beside, (sample.width + 4, 2))
        draw = ImageDraw.Draw(cell)
        draw.rectangle((sample.width + 3, 1, sample.width + 4 + beside.width, beside.height + 2), outline=MUTED)
        draw.text((2, beside.height + 3), f"{closer[row]:.2f}", MUTED, ImageFont.load_default(12))
        cells.append(cell)
    w, h = cells[0].width + GAP, cells[0].height + 4
    sheet = Image.new("RGB", (w * min(ACROSS, len(cells)), h * -(-len(cells) // ACROSS)), PAPER)
    for i, cell in enumerate(cells):
        sheet.paste(cell, (i % ACROSS * w, i // ACROSS * h))
    return sheet


def _shown(x: np.ndarray) -> np.ndarray:
    """Images uint8 (N, C, S, S), large ones reduced to what the figure has room for."""
    x = np.asarray(x)
    if x.shape[-1] < 2 * PIXELS:
        return x
    return np.stack([reduced(np.broadcast_to(image, (3, *image.shape[1:])), PIXELS, len(image)) for image in x])
