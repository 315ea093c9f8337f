"""Generated images with rules, one or two shapes on grey: `judge` decides mode and validity of any image by them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgloop.config.fields import check_settings, setting
from imgloop.data.procedural import cached_pools, uniform
from imgloop.data.real import Facts, RealData
from imgloop.errors import UserError

FORMAT = 1  # increase it when equal settings draw different images: a test compares the first rows
KINDS = ("disc", "square", "triangle", "cross")
COLOURS = {  # RGB; the first three belong in the upper half of the image, the others in the lower half
    "red": (225, 45, 45),
    "yellow": (225, 210, 45),
    "magenta": (215, 60, 215),
    "green": (50, 195, 55),
    "cyan": (50, 210, 215),
    "blue": (65, 75, 235),
}
UPPER = ("red", "yellow", "magenta")
# Sixteen of the 24 pairs, the most frequent first; each kind and colour occurs in several. The other 8 are invalid.
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
# Lengths in 32nds of the image's side. An image has four cells of 16 x 16; a shape of half-width s keeps a distance of
# 1 from the edge of its cell, so that two shapes never touch.
HALF_WIDTH = (4.0, 6.0)
CELL, MARGIN = 16.0, 1.0
GREY = (30.0, 80.0)  # of the background
JITTER = 12.0  # of each channel of the colour
NUMBERS = 12  # random numbers per row


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


def _triangle(dx, dy, s):  # apex at the top, base 2 s wide, 2 s high
    return np.maximum((2 * np.abs(dx) - dy - s) / np.sqrt(np.float32(5)), dy - s)


def _cross(dx, dy, s):
    dx, dy = np.abs(dx), np.abs(dy)
    return np.maximum(np.minimum(dx, dy) - 0.36 * s, np.maximum(dx, dy) - s)


@dataclass(frozen=True)
class Scene:
    """The content of N images, lengths in 32nds of the side; the second shape (index 1) is drawn only where `two`."""

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
        return cls(mode.astype(np.int64), grey, colour, s, two, x, y)

    def draw(self, size: int) -> np.ndarray:
        """Images uint8 (N, 3, size, size)."""
        unit = size / 32
        kind = np.array([KINDS.index(kind) for _, kind in MODES])[self.mode]
        cover = coverage(kind, self.x[:, 0] * unit, self.y[:, 0] * unit, self.s * unit, size)
        two = self.two
        cover[two] += coverage(kind[two], self.x[two, 1] * unit, self.y[two, 1] * unit, self.s[two] * unit, size)
        grey = self.grey[:, None].astype(np.float32)
        contrast = self.colour.astype(np.float32) - grey
        return np.rint(grey[..., None, None] + cover[:, None] * contrast[..., None, None]).astype(np.uint8)


@dataclass(frozen=True)
class Shapes:
    """One or two shapes as uint8 (N, 3, size, size), labelled by mode (colour and kind): unlimited and checkable.

    The rules: a grey background; one shape or two, of one kind, colour and size, one of MODES; red, yellow and
    magenta in the upper half, green, cyan and blue in the lower, each within a quarter of the image. Row i of either
    part is a function of (seed, i). Settings as in conf/data/shapes.yaml; raises UserError for impossible ones.
    """

    size: int = setting(32, low=16, high=64, why="even")
    tail: float = setting(10, kind=float, low=1, why="the ratio of the most to the least frequent mode")
    n: int = setting(10_000, low=1)
    heldout: int = setting(2000, low=1)
    seed: int = setting(0, low=0)

    def __post_init__(self):
        check_settings(self, "data")
        if self.size % 2:
            raise UserError(f"data.size={self.size}: give an even number from 16 to 64.", "data.size")

    def rows(self, part: str, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows begin..end - 1 of "train" or "heldout": uint8 (N, 3, size, size) and modes int64 (N,)."""
        scene = Scene.of(uniform((self.seed, "shapes", part), begin, end, NUMBERS), self.tail)
        return scene.draw(self.size), scene.mode

    def load(self, cache: Path, progress: Callable[[int, int], None] | None = None) -> RealData:
        """Both parts, memory-mapped from a folder below `cache`; `progress(done, total)` is called while drawing."""
        key = ["shapes", FORMAT, self.size, self.tail, self.seed]
        shape = (3, self.size, self.size)
        train, heldout, measured = cached_pools(cache, key, self.rows, shape, CLASSES, self.n, self.heldout, progress)
        facts = Facts(
            label="shapes",
            source=f"drawn: one or two shapes by rules, {self.size}x{self.size}",
            seed=self.seed,
            rules="shapes",
            mode_frequencies=frequencies(self.tail).tolist(),
            **measured,
        )
        return RealData(train, heldout, CLASSES, facts)
