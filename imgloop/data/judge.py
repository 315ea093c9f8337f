"""The rules of `shapes`: which mode an image shows, and whether it keeps every rule, for any uint8 image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imgloop.data.shapes import CELL, COLOURS, GREY, HALF_WIDTH, KINDS, MODES, UPPER, coverage

# Tolerances: grey levels, 32nds of the side, shares. What they admit is measured in tests/test_sources.py.
GREY_OFF = 15.0  # background outside of its range, or coloured
COLOUR_OFF = 40.0  # a channel of the colour from the palette's
SIZE_OFF = 0.5  # half-width outside of its range, and between two shapes
EDGE_OFF = 0.5  # over the edge of the cell that a shape keeps 1 from
DIFFERENT = 48.0  # from the ideal drawing, mean of 3 x 3 pixels, in any channel
KIND_RATIO = 0.5  # squared distance to the nearest kind over that to the second nearest
RULES = ("background", "number", "colour", "kind", "pair", "half", "size", "place", "drawing")
AREA = np.array([np.pi, 3.24, 2.0, 2.3616], np.float32)  # of each kind, over the square of the half-width
CENTROID = np.array([0, 0, 1 / 3, 0], np.float32)  # below the centre, over the half-width
CHUNK = 512  # images at once


@dataclass(frozen=True)
class Judgement:
    """`mode` int64 (N,): the mode whose kind and colour an image shows, -1 for none. `valid` bool (N,): it keeps every
    rule, and then it has a mode. `broken` int64 (N,): the first of RULES that it breaks, -1 for none."""

    mode: np.ndarray
    valid: np.ndarray
    broken: np.ndarray


def _box(a: np.ndarray) -> np.ndarray:
    """Means of 3 x 3 pixels over the last two axes, edges repeated."""
    for axis in (-1, -2):
        first = np.take(a, [0], axis)
        last = np.take(a, [-1], axis)
        padded = np.concatenate([first, a, last], axis)
        n = a.shape[axis]
        cut = [slice(None)] * a.ndim
        parts = []
        for k in range(3):
            cut[axis] = slice(k, k + n)
            parts.append(padded[tuple(cut)])
        a = (parts[0] + parts[1] + parts[2]) / 3
    return a


def _judge(x, debug=False):
    n, _, size, _ = x.shape
    unit, half = size / 32, size // 2
    f = x.astype(np.float32)
    ground = np.median(f.reshape(n, 3, -1), axis=2)  # shapes cover at most a third
    diff = f - ground[:, :, None, None]
    smooth = _box(diff)
    strength = np.sqrt(np.square(smooth).sum(1))  # (n, H, W)
    weight = np.where(strength > 40, strength, 0) ** 4
    colour = np.einsum("nhw,nchw->nc", weight, diff) / np.maximum(weight.sum((1, 2)), 1e-9)[:, None]

    # cells (n, 4, half, half)
    def cells(a):
        return a.reshape(*a.shape[:-2], 2, half, 2, half).swapaxes(-3, -2).reshape(*a.shape[:-2], 4, half, half)

    def joined(a):
        return a.reshape(*a.shape[:-3], 2, 2, half, half).swapaxes(-3, -2).reshape(*a.shape[:-3], size, size)

    grid = np.arange(half, dtype=np.float32) + 0.5
    for _ in range(2):
        norm = np.maximum(np.square(colour).sum(1), 1.0)
        cover = np.einsum("nc,nchw->nhw", colour, diff) / norm[:, None, None]
        soft = _box(cover)
        wide = _box((soft > 0.3).astype(np.float32)) > 0
        c = cells(np.where(wide, cover, 0))
        area = c.sum((-1, -2))
        occupied = area > 8 * unit**2
        i, q = np.nonzero(occupied)
        a = np.maximum(area[i, q], 1e-6)
        cx = np.einsum("mhw,w->m", c[i, q], grid) / a
        cy = np.einsum("mhw,h->m", c[i, q], grid) / a
        s = np.sqrt(a / AREA[:, None])  # (4, m)
        target = _box(cells(cover)[i, q])
        shapes = np.stack([coverage(np.full(len(i), k), cx, cy - CENTROID[k] * s[k], s[k], half) for k in range(4)])
        error = np.square(_box(shapes) - target).sum((-1, -2))  # (4, m)
        best = error.argmin(0)
        m = np.arange(len(i))
        template = np.zeros((n, 4, half, half), np.float32)
        template[i, q] = shapes[best, m]
        template = joined(template)
        colour = np.einsum("nhw,nchw->nc", template, diff) / np.maximum(np.square(template).sum((1, 2)), 1)[:, None]
    residual = np.abs(_box(diff - template[:, None] * colour[:, :, None, None])).max((1, 2, 3))
    two = np.sort(error, 0)
    ratio = two[0] / np.maximum(two[1], 1e-9)
    s = s[best, m] / unit
    cy = cy / unit - CENTROID[best] * s
    cx = cx / unit
    if debug:
        return dict(
            ground=ground,
            colour=colour + ground,
            residual=residual,
            ratio=ratio,
            s=s,
            cx=cx,
            cy=cy,
            best=best,
            i=i,
            q=q,
            two=two,
        )
