"""The figure that shows copying: samples beside the training images that are nearest to them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imgloop.figures import INK, MUTED, PAPER, png, tile
from imgloop.metrics.scoring import Report

GAP, PIXELS = 12, 56  # between groups; of an image, about
ACROSS = 6  # groups in a row
SEED = 0  # of the samples taken at random


def figure(report: Report, pairs: int = 24) -> bytes:
    """PNG: the `pairs` samples that are closest to a training image for where they lie, and as many at random.

    Each group is a sample and, framed, its two nearest training images; below it the distance to the nearest over that
    image's own distance to its nearest other training image: near 0 is a copy, about 1 is what real images have.
    """
    closer = report.nearest.closer
    some = np.random.default_rng(SEED).permutation(len(closer))[:pairs]
    parts = [
        ("closest to the training images", np.argsort(closer, kind="stable")[:pairs]),
        ("at random", some[np.argsort(closer[some], kind="stable")]),
    ]
    sheets = [(title, _groups(report, rows)) for title, rows in parts]
    font, small = ImageFont.load_default(16), ImageFont.load_default(12)
    head, title_height = 50, 34
    width = max(s.width for _, s in sheets) + 2 * GAP
    page = Image.new("RGB", (width, head + sum(s.height + title_height for _, s in sheets)), PAPER)
    draw, down = ImageDraw.Draw(page), head
    below = float((closer < 0.5).mean())
    draw.text((GAP, 8), f"{report.name}: samples, each with its two nearest training images (framed)", INK, font)
    draw.text(
        (GAP, 30),
        f"below: distance over the training image's own to its nearest other; {below:.1%} of {len(closer):,} samples "
        f"are under 0.5 ({report.protocol['features']} features)",
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
        sample = tile(np.asarray(report.samples.x[row : row + 1]), 1, PIXELS)
        beside = tile(np.asarray(report.train.x)[nearest.index[row]], nearest.index.shape[1], PIXELS)
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
