"""A figure of possible copies: samples beside their nearest training images."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imgloop.data.decode import reduced
from imgloop.figures import INK, MUTED, PAPER, png, tile
from imgloop.metrics.scoring import NEAR, Report

GAP, PIXELS = 12, 56  # pixels between groups; approximate width of an image
ACROSS = 6  # groups in a row
SEED = 0  # of the random samples


def figure(report: Report, pairs: int = 24) -> bytes:
    """PNG of the `pairs` samples that are relatively closest to a training image, and as many random other samples.

    Each group is a sample and, framed, its two nearest training images. The number below is the distance to the nearest
    one, divided by that image's distance to its nearest other training image: near 0 for a copy, about 1 for real
    images.
    """
    closer = report.nearest.closer
    order = np.random.default_rng(SEED).permutation(len(closer))  # breaks ties at random: folders are sorted by class
    closest = order[np.argsort(closer[order], kind="stable")[:pairs]]
    others = order[~np.isin(order, closest)][:pairs]
    parts = [("closest to the training images", closest)]
    if len(others):
        parts.append(("random others", others[np.argsort(closer[others], kind="stable")]))
    sheets = [(title, _groups(report, rows)) for title, rows in parts]
    font, small = ImageFont.load_default(16), ImageFont.load_default(12)
    head, title_height = 50, 34
    width = max(s.width for _, s in sheets) + 2 * GAP
    page = Image.new("RGB", (width, head + sum(s.height + title_height for _, s in sheets)), PAPER)
    draw, top = ImageDraw.Draw(page), head
    copies = report.scores["near_copies"]
    draw.text((GAP, 8), f"{report.name}: samples, each with its two nearest training images (framed)", INK, font)
    draw.text(
        (GAP, 30),
        f"below: distance over that of the training image to its nearest other; {copies:.1%} of {len(closer):,} "
        f"samples are below {NEAR} ({report.protocol['features']} features)",
        MUTED,
        small,
    )
    for title, sheet in sheets:
        draw.text((GAP, top + 8), title, INK, font)
        page.paste(sheet, (GAP, top + title_height))
        top += sheet.height + title_height
    return png(page)


def _groups(report: Report, rows: np.ndarray) -> Image.Image:
    """The groups of the samples `rows`, six side by side, each with its ratio below."""
    nearest, closer = report.nearest, report.nearest.closer
    cells = []
    for row in rows:
        sample = tile(_reduced(report.samples.x[row : row + 1]), 1, PIXELS)
        beside = tile(_reduced(report.train.x[nearest.index[row]]), nearest.index.shape[1], PIXELS)
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


def _reduced(x: np.ndarray) -> np.ndarray:
    """Images uint8 (N, C, S, S); large ones are reduced to PIXELS."""
    x = np.asarray(x)
    if x.shape[-1] < 2 * PIXELS:
        return x
    return np.stack([reduced(np.broadcast_to(image, (3, *image.shape[1:])), PIXELS, len(image)) for image in x])
