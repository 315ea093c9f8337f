"""Drawn images that keep rules: one or two shapes on grey, so that `judge` can decide mode and validity of any image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgloop.data.drawn import drawn
from imgloop.data.real import RealData, check_integer
from imgloop.errors import UserError
from imgloop.store import seed_of

FORMAT = 1  # raise it when equal settings draw other images: a test holds the hash of the first rows
KINDS = ("disc", "square", "triangle", "cross")
COLOURS = {  # RGB; the first three are drawn in the upper half of the image, the others in the lower half
    "red": (225, 50, 50),
    "yellow": (225, 205, 50),
    "magenta": (215, 70, 205),
    "green": (50, 190, 70),
    "cyan": (60, 200, 215),
    "blue": (70, 90, 230),
}
UPPER = ("red", "yellow", "magenta")
# Sixteen of the 24 pairs, the most frequent first; every kind and colour occurs in several, and none of the others may.
MODES = (
    ("red", "disc"),
    ("green", "triangle"),
    ("blue", "square"),
    ("magenta", "cross"),
    ("yellow", "square"),
    ("cyan", "disc"),
    ("red", "triangle"),
    ("green", "cross"),
    ("cyan", "square"),
    ("magenta", "disc"),
    ("blue", "triangle"),
    ("yellow", "cross"),
    ("green", "disc"),
    ("red", "square"),
    ("cyan", "cross"),
    ("magenta", "triangle"),
)
CLASSES = tuple(f"{colour} {kind}" for colour, kind in MODES)
# Lengths in 32nds of the image's side. An image has four cells of 16 x 16; a shape of half-width s keeps 1 from the
# edge of its cell, so that two never touch.
HALF_WIDTH = (4.0, 6.0)
CELL, MARGIN = 16.0, 1.0
GREY = (30.0, 80.0)  # of the background
JITTER = 12.0  # of each channel of the colour
BLOCK = 1024  # rows drawn from one stream of random numbers
NUMBERS = 12  # random numbers a row


def frequencies(tail: float) -> np.ndarray:
    """Probabilities of the modes (16,): geometric, the first `tail` times as frequent as the last."""
    p = float(tail) ** (-np.arange(len(MODES)) / (len(MODES) - 1))
    return p / p.sum()


def coverage(kind: np.ndarray, x: np.ndarray, y: np.ndarray, s: np.ndarray, size: int) -> np.ndarray:
    """Share of each pixel that a shape covers, fp32 (N, size, size).

    `kind` int (N,) indexes KINDS; centre `x`, `y` and half-width `s` (N,) in pixels, from the upper left corner.
    """
    grid = np.arange(size, dtype=np.float32) + 0.5
    dx = (grid - x[:, None]).astype(np.float32)[:, None, :]
    dy = (grid - y[:, None]).astype(np.float32)[:, :, None]
    s = s.astype(np.float32)[:, None, None]
    out = np.empty((len(kind), size, size), np.float32)
    for k, distance in enumerate((_disc, _square, _triangle, _cross)):
        here = kind == k
        if here.any():
            out[here] = np.clip(0.5 - distance(dx[here], dy[here], s[here]), 0, 1)
    return out


# Signed distance to the outline in pixels, negative inside: half a pixel on either side is the antialiased edge.


def _disc(dx, dy, s):
    return np.sqrt(dx * dx + dy * dy) - s


def _square(dx, dy, s):
    return np.maximum(np.abs(dx), np.abs(dy)) - 0.9 * s


def _triangle(dx, dy, s):  # apex above, base 2 s wide, 2 s high
    return np.maximum((2 * np.abs(dx) - dy - s) / np.sqrt(np.float32(5)), dy - s)


def _cross(dx, dy, s):
    dx, dy = np.abs(dx), np.abs(dy)
    return np.maximum(np.minimum(dx, dy) - 0.36 * s, np.maximum(dx, dy) - s)


@dataclass(frozen=True)
class Scene:
    """What the law draws for N images, in 32nds of the side; the second shape (index 1) counts where `two`."""

    mode: np.ndarray  # (N,)
    grey: np.ndarray  # (N,)
    colour: np.ndarray  # (N, 3)
    s: np.ndarray  # (N,) half-width
    two: np.ndarray  # (N,) bool
    x: np.ndarray  # (N, 2) centres
    y: np.ndarray  # (N, 2)

    @classmethod
    def of(cls, u: np.ndarray, tail: float) -> Scene:
        """Scenes from uniform numbers `u` (N, NUMBERS)."""
        mode = np.searchsorted(np.cumsum(frequencies(tail))[:-1], u[:, 0], side="right")
        names = np.array([list(COLOURS).index(colour) for colour, _ in MODES])[mode]
        colour = np.array(list(COLOURS.values()))[names] + JITTER * (2 * u[:, 1:4] - 1)
        grey = GREY[0] + (GREY[1] - GREY[0]) * u[:, 4]
        s = HALF_WIDTH[0] + (HALF_WIDTH[1] - HALF_WIDTH[0]) * u[:, 5]
        two, side = u[:, 6] < 0.5, u[:, 7] < 0.5
        room = (CELL / 2 - MARGIN - s)[:, None]
        column = np.stack([np.where(two, 0, side), np.ones(len(u))], 1)
        row = (names >= len(UPPER))[:, None]
        x = CELL * (column + 0.5) + room * (2 * u[:, 8:10] - 1)
        y = CELL * (row + 0.5) + room * (2 * u[:, 10:12] - 1)
        return cls(mode, grey, colour, s, two, x, y)

    def draw(self, size: int) -> np.ndarray:
        """Images uint8 (N, 3, size, size)."""
        unit = size / 32
        kind = np.array([KINDS.index(kind) for _, kind in MODES])[self.mode]
        cover = coverage(kind, self.x[:, 0] * unit, self.y[:, 0] * unit, self.s * unit, size)
        two = self.two
        cover[two] += coverage(kind[two], self.x[two, 1] * unit, self.y[two, 1] * unit, self.s[two] * unit, size)
        grey, colour = self.grey[:, None, None, None], self.colour[:, :, None, None]
        return np.rint(grey + cover[:, None] * (colour - grey)).astype(np.uint8)


def rows(seed: int, part: str, begin: int, end: int, size: int, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows begin..end - 1 of a part ("train" or "heldout"): uint8 (N, 3, size, size) and modes int64 (N,).

    Row i is a function of (seed, part, i, size, tail) alone.
    """
    blocks = range(begin // BLOCK, -(-end // BLOCK))
    u = np.concatenate(
        [np.random.default_rng(seed_of(seed, "shapes", part, b)).random((BLOCK, NUMBERS)) for b in blocks]
    )
    scene = Scene.of(u[begin - blocks.start * BLOCK :][: end - begin], tail)
    return scene.draw(size), scene.mode.astype(np.int64)
