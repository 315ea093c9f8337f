"""The judge of `shapes`: the mode that any uint8 image shows, and whether it satisfies every rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imgloop.data.shapes import CELL, COLOURS, GREY, HALF_WIDTH, KINDS, MARGIN, MODES, UPPER, coverage

# An image is valid if some image of the true distribution is within these tolerances, which allow for blur, noise and
# small errors of a generator. Lengths are in 32nds of the side, colours in grey levels; tests/test_sources.py measures
# which images they accept.
GREY_OFF = 15.0  # of the background from its range, or of a channel from the mean of the three
STRENGTH = (0.75, 1.25)  # contrast of the shapes with the background, over that of the palette's colour
HUE_OFF = 32.0  # of a channel of the colour from the palette's, at equal contrast
KIND_SURE = 0.4  # 1: exactly this kind, 0: half-way to another kind, by squared distances
FIT_OFF = (0.02, 0.5)  # squared distance to the kind's shape over the area; the second as a share of the part of noise
SIZE_OFF = 0.6  # of the half-width from its range, and between the two shapes
PLACE_OFF = 0.8  # over the margin of the cell
NOISE_MOST = 25.0  # standard deviation of white noise
DRAWING_OFF = (30.0, 1.2)  # from the fit, mean of 3 x 3 pixels, any channel: the first + the second x the noise
RULES = ("background", "number", "colour", "kind", "pair", "half", "size", "place", "noise", "drawing")

AREA = np.array([np.pi, 3.24, 2.0, 2.3616], np.float32)[:, None]  # of each kind, over half-width squared
CENTROID = np.array([0, 0, 1 / 3, 0], np.float32)[:, None]  # below the centre, over half-width
SIZES = range(16, 65, 2)
PIXELS = 1 << 18  # per batch
ROUNDS = 3  # of alternating fits of colour, positions and sizes
PAIRS = np.full((len(COLOURS), len(KINDS)), -1)
for _mode, (_colour, _kind) in enumerate(MODES):
    PAIRS[list(COLOURS).index(_colour), KINDS.index(_kind)] = _mode


@dataclass(frozen=True)
class Judgement:
    """The result of `judge` for N images.

    `mode` int64 (N,): the mode whose kind and colour the image shows, -1 for none. `valid` bool (N,): it satisfies
    every rule, and has a mode. `broken` int64 (N,): the first of RULES that it breaks, -1 for none.
    """

    mode: np.ndarray
    valid: np.ndarray
    broken: np.ndarray


def judge(x: np.ndarray) -> Judgement:
    """Judge images uint8 (N, 3, S, S), S an even number from 16 to 64, of any content. Raises ValueError for others.

    Colour, positions, sizes and kinds are fitted, the image drawn from these is compared with the given one, and the
    rules are checked on the fit; the thresholds are the constants above.
    """
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[1] != 3 or x.shape[2] != x.shape[3] or x.shape[2] not in SIZES:
        raise ValueError(f"images of shapes are uint8 (N, 3, S, S), S even from 16 to 64, not {x.dtype} {x.shape}")
    step = max(1, PIXELS // x.shape[2] ** 2)
    results = [_judge(x[i : i + step].astype(np.float32)) for i in range(0, len(x), step)]
    mode, broken = np.concatenate([np.empty((2, 0), np.int64), *results], 1)
    return Judgement(mode, broken < 0, broken)


@dataclass(frozen=True)
class _Fit:
    """The drawing nearest to each of N images, with M shapes in cells; `left` is the residual."""

    grey: np.ndarray  # (N, 3) of the background
    colour: np.ndarray  # (N, 3) of the shapes, over the background
    image: np.ndarray  # (M,)
    cell: np.ndarray  # (M,) upper left, upper right, lower left, lower right
    kind: np.ndarray  # (M,)
    x: np.ndarray  # (M,) centre within the cell, as `y` and half-width `s` in 32nds of the side
    y: np.ndarray
    s: np.ndarray
    error: np.ndarray  # (M,) squared distance of the coverage to the kind's shape, over the area
    noise: np.ndarray  # (M,) the part of that which the image's white noise causes
    sure: np.ndarray  # (M,) 1: exactly this kind, 0: half-way to another kind
    left: np.ndarray  # (N,) largest |image - drawing|, means of 3 x 3 pixels, any channel
    grain: np.ndarray  # (N,) standard deviation of the image's white noise

    def worst(self, value: np.ndarray) -> np.ndarray:
        """The largest `value` (M,) of each image's shapes, (N,); -inf for an image without shapes."""
        out = np.full(len(self.grey), -np.inf)
        np.maximum.at(out, self.image, value)
        return out


def _judge(x: np.ndarray) -> np.ndarray:
    """Mode and broken rule, int64 (2, N), of images fp32 (N, 3, S, S)."""
    fit = _fitted(x)
    worst, each = fit.worst, np.arange(len(x))
    palette = np.array(list(COLOURS.values()), np.float32) - fit.grey[:, None]  # (N, 6, 3)
    contrast = np.einsum("nc,nkc->nk", fit.colour, palette) / np.square(palette).sum(2)
    off = np.abs(fit.colour[:, None] - contrast[:, :, None] * palette).max(2)
    name = np.where(contrast > 0, off, np.inf).argmin(1)
    off, contrast = off[each, name], contrast[each, name]
    count = np.bincount(fit.image, minlength=len(x))
    kind = np.maximum(worst(fit.kind), 0).astype(int)
    pair = np.where(count > 0, PAIRS[name, kind], -1)
    mean, half_range = fit.grey.mean(1), np.ptp(GREY) / 2
    edge = CELL / 2 - MARGIN
    breaks = [
        (np.abs(fit.grey - mean[:, None]).max(1) > GREY_OFF) | (np.abs(mean - np.mean(GREY)) > half_range + GREY_OFF),
        (count < 1) | (count > 2),
        (off > HUE_OFF) | (contrast < STRENGTH[0]) | (contrast > STRENGTH[1]),
        (worst(fit.kind) + worst(-fit.kind) != 0)
        | (worst(-fit.sure) > -KIND_SURE)
        | (worst(fit.error - fit.noise * (1 + FIT_OFF[1])) > FIT_OFF[0]),
        pair < 0,
        worst((fit.cell >= 2) != (name >= len(UPPER))[fit.image]) > 0,
        (worst(fit.s) > HALF_WIDTH[1] + SIZE_OFF)
        | (worst(-fit.s) > SIZE_OFF - HALF_WIDTH[0])
        | (worst(fit.s) + worst(-fit.s) > SIZE_OFF),
        worst(np.maximum(np.abs(fit.x - CELL / 2), np.abs(fit.y - CELL / 2)) + fit.s) > edge + PLACE_OFF,
        fit.grain > NOISE_MOST,
        fit.left > DRAWING_OFF[0] + DRAWING_OFF[1] * fit.grain,
    ]
    broken = np.where(np.any(breaks, 0), np.argmax(breaks, 0), -1)
    return np.stack([np.where(np.any(breaks[2:4], 0), -1, pair), broken])


def _fitted(x: np.ndarray) -> _Fit:
    """The drawing nearest to images fp32 (N, 3, S, S): colour, positions and sizes fitted in turn, for every kind."""
    n, size = len(x), x.shape[-1]
    unit, half = size / 32, size // 2
    grey = np.median(x.reshape(n, 3, -1), axis=2)  # shapes cover at most a quarter
    x = x - grey[:, :, None, None]
    strength = np.sqrt(np.square(_box(x)).sum(1))
    weight = np.where(strength > 40, strength, 0) ** 4  # the inside of shapes dominates over edges
    colour = np.einsum("nhw,nchw->nc", weight, x) / np.maximum(weight.sum((1, 2)), 1)[:, None]

    grid = np.arange(half, dtype=np.float32) + 0.5
    turn = 0
    while True:
        turn += 1
        # The coverage of each pixel, by projection on the colour; its moments in each cell with a shape.
        cover = np.einsum("nc,nchw->nhw", colour, x) / np.maximum(np.square(colour).sum(1), 1)[:, None, None]
        inside = _box((_box(cover) > 0.3).astype(np.float32)) > 0
        part = _cells(np.where(inside, cover, 0))
        area = part.sum((2, 3))
        image, cell = np.nonzero(area > 8 * unit**2)
        part, area = part[image, cell], area[image, cell]
        centre_x = np.einsum("mhw,w->m", part, grid) / area
        centre_y = np.einsum("mhw,h->m", part, grid) / area
        s = np.sqrt(area / AREA)  # (4, M): as each kind
        places = np.stack([np.broadcast_to(centre_x, s.shape), centre_y - CENTROID * s, s])  # (3, 4, M)
        target = _cells(cover)[image, cell]
        if turn == ROUNDS:
            places = _refined(places, target)
        drawings = _drawings(places, half)
        # Sharp, blurred, or in between, whichever is nearest: a moderate blur breaks no rule.
        blur = _soft(drawings, max(1, round(unit**2))) - drawings
        share = ((target - drawings) * blur).sum((2, 3)) / np.maximum(np.square(blur).sum((2, 3)), 1e-6)
        drawings += np.clip(share, 0, 1)[..., None, None] * blur
        error, every = np.square(drawings - target).sum((2, 3)), np.arange(len(area))
        kind = error.argmin(0)
        best = drawings[kind, every]
        template = np.zeros((n, 4, half, half), np.float32)
        template[image, cell] = best
        template = _joined(template)
        colour = np.einsum("nhw,nchw->nc", template, x) / np.maximum(np.square(template).sum((1, 2)), 1)[:, None]
        if turn == ROUNDS:
            break

    apart = np.square(drawings - best).sum((2, 3))  # between the shapes of two kinds
    sure = (error - error[kind, every]) / np.maximum(apart, 1e-6)
    sure[kind, every] = np.inf
    x -= template[:, None] * colour[:, :, None, None]
    smooth = _box(x)
    grain = np.median(np.abs(x - smooth).reshape(n, -1), 1) * 1.5725  # 1 / 0.6745 x sqrt(9 / 8)
    noise = half**2 * (grain**2 / np.maximum(np.square(colour).sum(1), 1))[image] / area
    left = np.abs(smooth).max((1, 2, 3))
    centre_x, centre_y, s = (values[kind, every] / unit for values in places)
    error = error[kind, every] / area
    return _Fit(grey, colour, image, cell, kind, centre_x, centre_y, s, error, noise, sure.min(0), left, grain)


def _drawings(fit: np.ndarray, half: int) -> np.ndarray:
    """Coverage (4, M, half, half) of M cells by each kind, from centres and half-widths `fit` (3, 4, M)."""
    shapes = [coverage(np.full(fit.shape[2], k), x, y, s, half) for k, (x, y, s) in enumerate(fit.swapaxes(0, 1))]
    return np.stack(shapes)


def _refined(fit: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`fit` (3, 4, M) after one Gauss-Newton step of at most half a pixel towards coverage `target` (M, half, half)."""
    (count, half, _), step = target.shape, np.float32(0.1)
    drawings = _drawings(fit, half)
    moved = [_drawings(fit + step * np.eye(3, dtype=np.float32)[i, :, None, None], half) for i in range(3)]
    slopes = ((np.stack(moved, 2) - drawings[:, :, None]) / step).reshape(len(KINDS), count, 3, half**2)
    left = (target - drawings).reshape(len(KINDS), count, half**2, 1)
    move = np.linalg.solve(slopes @ slopes.swapaxes(2, 3) + 1e-3 * np.eye(3, dtype=np.float32), slopes @ left)
    return fit + np.clip(move[..., 0], -0.5, 0.5).transpose(2, 0, 1)


def _cells(a: np.ndarray) -> np.ndarray:
    """(N, S, S) as its four cells (N, 4, S/2, S/2): upper left, upper right, lower left, lower right."""
    n, size = len(a), a.shape[-1]
    return a.reshape(n, 2, size // 2, 2, size // 2).swapaxes(2, 3).reshape(n, 4, size // 2, size // 2)


def _joined(a: np.ndarray) -> np.ndarray:
    """The inverse of `_cells`."""
    n, half = len(a), a.shape[-1]
    return a.reshape(n, 2, 2, half, half).swapaxes(2, 3).reshape(n, 2 * half, 2 * half)


def _soft(a: np.ndarray, times: int) -> np.ndarray:
    """Blurred `times` times over the last two axes by the kernel (1, 2, 1) / 4, of variance half a pixel."""
    for axis in (-1, -2) * times:
        a = a.swapaxes(axis, -1)
        a = np.concatenate([a[..., :1], a, a[..., -1:]], -1)
        a = ((a[..., :-2] + a[..., 2:]) / 4 + a[..., 1:-1] / 2).swapaxes(axis, -1)
    return a


def _box(a: np.ndarray) -> np.ndarray:
    """Means of 3 x 3 pixels over the last two axes, with border pixels repeated."""
    a = np.concatenate([a[..., :1], a, a[..., -1:]], -1)
    a = a[..., :-2] + a[..., 1:-1] + a[..., 2:]
    a = np.concatenate([a[..., :1, :], a, a[..., -1:, :]], -2)
    return (a[..., :-2, :] + a[..., 1:-1, :] + a[..., 2:, :]) / 9
