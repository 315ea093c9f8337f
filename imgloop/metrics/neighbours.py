"""Exact nearest neighbours and radius queries in blocks: float32 bounds settle most pairs, float64 the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from imgloop.metrics.frechet import ROWS

BLOCK = 1 << 22  # distances in memory at a time: 16 MiB in float32
WIDER = 16  # factor of BLOCK on an accelerator, where starting a kernel is slow
SAMPLE = 1024  # rows, at most, from which the middle is estimated
SPARE = 3  # candidates beyond the k-th neighbour, so that float32 nearly always suffices

# Squared distances are |x|^2 + |y|^2 - 2 x'y of centred features. Rounding is at most D eps (|x|^2 + |y|^2), which
# gives a lower and an upper bound; features are scaled by a power of 2, so that their squares stay within the range of
# float32. Pairs that the bounds do not settle are computed again as a sum of squared differences in float64, a
# function of the two rows alone. Hence results do not depend on blocks, on the precision of products or on the device,
# and exact copies of a neighbour give exact ties.


def nearest2(
    x: Tensor, y: Tensor, k: int, leave_one_out: bool = False, progress: Callable[[int, int], None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances from each row of `x` (N, D) to its `k` nearest rows of `y` (M, D), ascending, float64 (N, k),
    and the indices of these rows, int64 (N, k): among equally near rows the first, at distance 0 any. Both tensors are
    on one device.

    `leave_one_out`: `y` is `x`, and no row is its own neighbour. `progress(done, total)` counts rows.
    """
    distances, indices = np.empty((len(x), k)), np.empty((len(x), k), np.int64)
    rows = np.arange(len(x))
    for dtype in precisions():
        lower, unsettled = _Lower(x, y, dtype), []
        for part in _parts(rows, len(y), y.device):
            bounds = lower(part, leave_one_out)
            distances[part], indices[part], certain = _closest(x, y, part, bounds, lower.scale2, None, k)
            unsettled.append(part[~certain])
            if progress and dtype == precisions()[0]:
                progress(int(part[-1]) + 1, len(x))
        rows = np.concatenate(unsettled)
        if not len(rows):
            return distances, indices
    for part in _parts(rows, len(y), y.device):  # many ties, or distances smaller than the rounding of large norms
        reach = torch.from_numpy(distances[part, -1:] * lower.scale2).to(y.device)
        i, j = (lower(part, leave_one_out) <= reach).nonzero(as_tuple=True)
        exact = torch.full((len(part), len(y)), torch.inf, dtype=torch.float64)
        exact[i.cpu(), j.cpu()] = torch.from_numpy(_exact2(x, y, part[i.cpu().numpy()], j))
        exact, order = exact.sort(dim=1, stable=True)
        distances[part], indices[part] = exact[:, :k].numpy(), order[:, :k].numpy()
    return distances, indices


class Block:
    """Some rows of `x` (N, D) against all rows of `y` (M, D): pairs within a radius, and nearest rows."""

    def __init__(self, rows: np.ndarray, x: Tensor, y: Tensor, lowers: dict[torch.dtype, _Lower]):
        self.rows, self.x, self.y, self.lowers = rows, x, y, lowers
        self.bounds: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def bound(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of all squared distances, (B, M) each, times the `scale2` of `lowers`."""
        if dtype not in self.bounds:
            lower = self.lowers[dtype] = self.lowers.get(dtype) or _Lower(self.x, self.y, dtype)
            low = lower(self.rows)
            self.bounds[dtype] = low, lower.width(self.rows).add_(low)
        return self.bounds[dtype]

    def within(self, radius2: np.ndarray, closed: bool) -> Tensor:
        """bool (B, M): pairs whose squared distance is below `radius2`, (B, 1) or (1, M), or equal where `closed`."""
        for dtype in precisions():
            low, high = self.bound(dtype)
            radius = torch.from_numpy(radius2 * self.lowers[dtype].scale2).to(low)
            inside = high < radius
            unsure = (low <= radius).logical_xor_(inside)
            if int(unsure.count_nonzero()) * self.x.shape[1] < BLOCK:  # cheaper than a product in float64
                break
        i, j = unsure.nonzero(as_tuple=True)
        exact = _exact2(self.x, self.y, self.rows[i.cpu().numpy()], j)
        edge = np.broadcast_to(radius2, inside.shape)[i.cpu().numpy(), j.cpu().numpy()]
        inside[i, j] = torch.from_numpy(exact <= edge if closed else exact < edge).to(inside.device)
        return inside

    def nearest2(self, columns: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances to the `k` nearest among the rows `columns` of `y`, ascending, float64 (B, k), and for
        which rows of the block they are certain, bool (B,); the function `nearest2` settles the others."""
        dtype = precisions()[0]
        bounds = self.bound(dtype)[0].index_select(1, columns)
        distances2, _, certain = _closest(self.x, self.y, self.rows, bounds, self.lowers[dtype].scale2, columns, k)
        return distances2, certain


def blocks(x: Tensor, y: Tensor) -> Iterator[Block]:
    """All rows of `x` in blocks against all of `y`, on one device, with about BLOCK pairs in memory at a time."""
    lowers: dict[torch.dtype, _Lower] = {}
    for rows in _parts(np.arange(len(x)), len(y), y.device):
        yield Block(rows, x, y, lowers)


def precisions() -> tuple[torch.dtype, ...]:
    """float32, then float64 for unsettled pairs; float64 alone if torch is set to multiply float32 with fewer bits."""
    exact = torch.get_float32_matmul_precision() == "highest"
    return (torch.float32, torch.float64) if exact else (torch.float64,)


class _Lower:
    """Lower bounds of squared distances from rows of `x` (N, D) to all of `y` (M, D), times `scale2`, in `dtype`."""

    def __init__(self, x: Tensor, y: Tensor, dtype: torch.dtype):
        centre, largest = middle(y), max(float(torch.stack(z.aminmax()).abs().max()) for z in (x, y))
        scale = 2.0 ** -np.frexp(largest)[1]  # of features before centring, which at most doubles them
        self.scale2 = scale**2
        self.y = _centred(y, centre, scale, dtype)
        self.x = self.y if x is y else _centred(x, centre, scale, dtype)
        slack = (x.shape[1] + 16) * torch.finfo(dtype).eps
        least = (x.shape[1] + 16) * torch.finfo(dtype).tiny  # underflow of squares
        xx, yy = _norms2(self.x), _norms2(self.y)
        self.norms = (1 - slack) * xx - least, (1 - slack) * yy
        self.widths = 2 * (slack * xx + least), 2 * slack * yy

    def __call__(self, rows: np.ndarray, leave_one_out: bool = False) -> Tensor:
        """Lower bounds (B, M); with `leave_one_out`, infinity from a row to itself."""
        bounds = (self.norms[0][rows, None] + self.norms[1]).addmm_(self.x[rows], self.y.T, alpha=-2)
        if leave_one_out:
            bounds[torch.arange(len(rows)), torch.from_numpy(rows)] = torch.inf
        return bounds

    def width(self, rows: np.ndarray) -> Tensor:
        """Upper minus lower bound."""
        return self.widths[0][rows, None] + self.widths[1]


def middle(x: Tensor) -> Tensor:
    """Approximate median of each column, float64 (D,); with the mean, an outlier would loosen all bounds."""
    return x[:: -(-len(x) // SAMPLE)].double().median(0).values


def _centred(x: Tensor, centre: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    for first in range(0, len(x), ROWS):
        out[first : first + ROWS] = (x[first : first + ROWS].double() - centre) * scale
    return out


def _norms2(x: Tensor) -> Tensor:
    return torch.cat([block.square().sum(1) for block in x.split(ROWS)])


def _parts(rows: np.ndarray, width: int, device: torch.device) -> list[np.ndarray]:
    """`rows` in parts of about BLOCK / `width`."""
    pairs = BLOCK if device.type == "cpu" else WIDER * BLOCK
    return np.array_split(rows, max(1, min(len(rows), -(-len(rows) * width // pairs))))


def _closest(x, y, rows, bounds, scale2, columns, k) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For `rows` of `x`, the k nearest among the `columns` of `y` (all if None), from lower `bounds` (B, M') times
    `scale2`: squared distances and indices (B, k), and whether no other row can be as near, bool (B,)."""
    candidates = min(k + SPARE, bounds.shape[1])
    bound, j = bounds.topk(candidates, largest=False)
    j = j if columns is None else columns[j]
    exact = _exact2(x, y, rows.repeat(candidates), j.flatten()).reshape(-1, candidates)
    bound, j = bound.double().cpu().numpy(), j.cpu().numpy()
    exact = np.where(bound < np.inf, exact, np.inf)  # a row is not its own neighbour
    order = np.lexsort((j, exact))[:, :k]
    exact, j = np.take_along_axis(exact, order, 1), np.take_along_axis(j, order, 1)
    farthest = exact[:, -1]  # every other row lies beyond the last bound
    return exact, j, (farthest < bound[:, -1] / scale2) | (farthest == 0) | (candidates == bounds.shape[1])


def _exact2(x: Tensor, y: Tensor, i: np.ndarray, j: Tensor) -> np.ndarray:
    """Squared distances of the pairs (x[i], y[j]), float64, each a function of its two rows alone.

    The sum adds one half to the other, element by element, until one number is left: the same bits in any block and on
    any device.
    """
    out, rows = np.empty(len(i)), torch.from_numpy(i).to(x.device)
    half = 1 << max(0, (x.shape[1] - 1).bit_length() - 1)
    for part in _parts(np.arange(len(out)), 4 * x.shape[1], x.device):
        first, last = int(part[0]) if len(part) else 0, int(part[-1]) + 1 if len(part) else 0
        squares = (x[rows[first:last]].double() - y[j[first:last]].double()).square_()
        width, step = squares.shape[1], half
        while width > 1:
            squares[:, : width - step] += squares[:, step:width]
            width, step = step, step // 2
        out[first:last] = squares[:, 0].cpu().numpy()
    return out
