"""Precision, recall, density and coverage, in blocks; equal to brute force in float64, ties included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imgloop.errors import UserError
from imgloop.metrics.frechet import ROWS, as_features, mean_of

BLOCK = 1 << 24  # distances in memory at a time: 64 MiB in float32
SPARE = 3  # candidates beyond the k-th neighbour, so that float32 nearly always decides


@dataclass(frozen=True)
class ManifoldScores:
    """Precision, recall and coverage in [0, 1]; density from 0 up, 1 in expectation where nothing differs."""

    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True)
class RealManifold:
    """Real features (N, D) and their squared distances to the K nearest others, ascending, float64 (N, K)."""

    features: Tensor
    neighbours2: np.ndarray

    @classmethod
    def of(cls, features, k: int = 5) -> RealManifold:
        """The real side for every neighbourhood up to `k`; raises UserError where there are not more than k samples."""
        x = as_features(features, "real", at_least=k + 1)
        return cls(x, _nearest2(x, x, k, leave_one_out=True))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The distances, without the features, to be cached."""
        return {"neighbours2": self.neighbours2}

    @classmethod
    def from_arrays(cls, features, arrays: Mapping[str, np.ndarray]) -> RealManifold:
        """Undoes `to_arrays`, with the features that it was made of."""
        neighbours2 = np.array(arrays["neighbours2"])
        x = as_features(features, "real", at_least=neighbours2.shape[1] + 1)
        if len(x) != len(neighbours2):
            raise UserError(f"The cached distances are of {len(neighbours2)} real samples; there are {len(x)}.")
        return cls(x, neighbours2)


def manifold_scores(real, generated, k: int = 5, *, k_precision: int | None = None) -> ManifoldScores:
    """Precision, recall, density and coverage of `generated` (M, D) against `real` (N, D), or a `RealManifold`.

    Density and coverage take the balls to the `k`-th neighbour without their surface (`<`). Precision and recall take
    the same balls by default, as the prdc package does; with `k_precision` (3 in their paper) the balls to that
    neighbour with their surface (`<=`). No matrix of N x M is held. Raises UserError where the real side has not more
    than max(k, k_precision) samples or the generated side not more than its k, and on different widths, wrong shape,
    NaN or infinity.
    Source: Kynkaanniemi et al. 2019, section 2; Naeem et al. 2020, section 3.
    """
    kp = k if k_precision is None else k_precision
    if min(k, kp) < 1:
        raise UserError(f"k is {k} and k_precision {k_precision}; neighbourhoods need at least 1.")
    real = real if isinstance(real, RealManifold) else RealManifold.of(real, max(k, kp))
    if real.neighbours2.shape[1] < max(k, kp):
        raise UserError(f"The real manifold holds {real.neighbours2.shape[1]} neighbours; k = {max(k, kp)} needs more.")
    x, closed = real.features, k_precision is not None
    y = as_features(generated, "generated", at_least=kp + 1, width=x.shape[1])
    ball, ball_p = real.neighbours2[:, k - 1], real.neighbours2[:, kp - 1]
    ball_g = _nearest2(y, y, kp, leave_one_out=True)[:, kp - 1]

    inside, covered = 0, 0
    precise, recalled = np.zeros(len(y), bool), np.zeros(len(x), bool)
    for rows, pairs in _blocks(x, y):
        within = pairs(ball[rows, None], closed=False)
        inside, covered = inside + int(within.count_nonzero()), covered + int(within.any(1).count_nonzero())
        within = within if not closed else pairs(ball_p[rows, None], closed=True)
        precise |= within.any(0).numpy()
        recalled[rows] = pairs(ball_g[None], closed=closed).any(1).numpy()
    return ManifoldScores(float(precise.mean()), float(recalled.mean()), inside / (k * len(y)), covered / len(x))


def nearest_distances(features, reference=None, k: int = 1) -> np.ndarray:
    """Distances of `features` (N, D) to their `k` nearest rows of `reference` (M, D), ascending, float64 (N, k).

    Without a reference: to the nearest other rows of `features`. In units of the features; exact to float64.
    Raises UserError where there are fewer than k rows to compare with, and as `manifold_scores`.
    """
    x = as_features(features, "generated" if reference is not None else "real", at_least=1)
    y = x if reference is None else as_features(reference, "real", at_least=k)
    if (y is x and len(x) <= k) or y.shape[1] != x.shape[1] or k < 1:
        raise UserError(f"Features of shape {tuple(x.shape)} have no {k} neighbours among {tuple(y.shape)}.")
    return np.sqrt(_nearest2(x, y, k, leave_one_out=reference is None))


def expected_coverage(real: int, generated: int, k: int = 5) -> float:
    """Expected coverage with `real` (N) and `generated` (M) samples of one distribution: 1 - prod_j (N-j)/(N+M-j).

    j runs from 1 to k. Source: Naeem et al. 2020, section 3.
    """
    j = np.arange(1, k + 1)
    return float(1 - np.prod((real - j) / (real + generated - j)))


# Squared distances come from |x|^2 + |y|^2 - 2 x'y of centred features. Rounding is at most D eps (|x|^2 + |y|^2):
# taking it off makes the number a lower bound and adding it an upper bound. What the bounds leave open is computed
# again as a sum of squared differences in float64, the same for a pair wherever it stands, so that results depend
# neither on the blocks nor on the product's precision, and an exact copy of a neighbour is seen as the tie that it is.


class _Lower:
    """Lower bounds of squared distances between rows of `x` (N, D) and all of `y` (M, D), in `dtype`."""

    def __init__(self, x: Tensor, y: Tensor, dtype: torch.dtype):
        mean = mean_of(y)
        self.y = _centred(y, mean, dtype)
        self.x = self.y if x is y else _centred(x, mean, dtype)
        self.slack = (x.shape[1] + 16) * torch.finfo(dtype).eps
        self.xx, self.yy = self.x.square().sum(1), self.y.square().sum(1)
        if not (self.xx.isfinite().all() and self.yy.isfinite().all()):
            raise UserError("Feature values are too large for distances (beyond about 1e18); rescale them.")

    def __call__(self, rows) -> Tensor:
        norms = (1 - self.slack) * (self.xx[rows, None] + self.yy)
        return norms.addmm_(self.x[rows], self.y.T, alpha=-2)

    def width(self, rows) -> Tensor:
        """Upper minus lower bound."""
        return 2 * self.slack * (self.xx[rows, None] + self.yy)


def _centred(x: Tensor, mean: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.cat([(block.double() - mean).to(dtype) for block in x.split(ROWS)])


def _precisions() -> tuple[torch.dtype, ...]:
    """float32 and, for what it leaves open, float64; torch may have been told to multiply float32 in fewer bits."""
    exact = torch.get_float32_matmul_precision() == "highest"
    return (torch.float32, torch.float64) if exact else (torch.float64,)


def _parts(rows: np.ndarray, width: int) -> list[np.ndarray]:
    return np.array_split(rows, max(1, min(len(rows), -(-len(rows) * width // BLOCK))))


def _exact2(x: Tensor, y: Tensor, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Squared distances of the pairs (x[i], y[j]), float64, each a function of its two rows alone."""
    x, y, out = x.numpy(), y.numpy(), np.empty(len(i))
    for part in _parts(np.arange(len(i)), 8 * x.shape[1]):
        difference = x[i[part]].astype(np.float64) - y[j[part]]
        out[part] = np.square(difference, out=difference).sum(1)
    return out


def _nearest2(x: Tensor, y: Tensor, k: int, leave_one_out: bool) -> np.ndarray:
    """Squared distances from each row of `x` to its `k` nearest rows of `y`, ascending, float64 (N, k)."""
    out, rows, others = np.empty((len(x), k)), np.arange(len(x)), len(y) - leave_one_out
    for dtype in _precisions():
        lower, candidates, open_rows = _Lower(x, y, dtype), min(k + SPARE, others), []
        for part in _parts(rows, len(y)):
            bounds = lower(part)
            if leave_one_out:
                bounds[np.arange(len(part)), part] = torch.inf
            bound, j = bounds.topk(candidates, largest=False)
            exact = _exact2(x, y, part.repeat(candidates), j.flatten().numpy()).reshape(-1, candidates)
            exact.sort(1)
            out[part] = exact[:, :k]
            farthest = exact[:, k - 1]  # all rows that are no candidates lie beyond the last bound
            open_rows.append(part[(farthest > bound[:, -1].double().numpy()) & (farthest > 0) & (candidates < others)])
        rows = np.concatenate(open_rows)
        if not len(rows):
            break
    return out


def _blocks(x: Tensor, y: Tensor) -> Iterator:
    """Blocks of rows of `x` with a function: which pairs (row of the block, row of `y`) are within squared radii."""
    lowers: dict[torch.dtype, _Lower] = {}
    for rows in _parts(np.arange(len(x)), len(y)):
        bounds = {}

        def pairs(radius2: np.ndarray, closed: bool, rows=rows, bounds=bounds) -> Tensor:
            for dtype in _precisions():
                if dtype not in bounds:
                    lowers[dtype] = lower = lowers.get(dtype) or _Lower(x, y, dtype)
                    bounds[dtype] = lower(rows), lower.width(rows)
                low, width = bounds[dtype]
                radius = torch.from_numpy(radius2).to(dtype)
                inside = low + width < radius
                unsure = (low <= radius).logical_xor_(inside)
                if int(unsure.count_nonzero()) * x.shape[1] < BLOCK:  # fewer than a product in float64 costs
                    break
            i, j = (index.numpy() for index in unsure.nonzero(as_tuple=True))
            exact, edge = _exact2(x, y, rows[i], j), np.broadcast_to(radius2, inside.shape)[i, j]
            inside[i, j] = torch.from_numpy(exact <= edge if closed else exact < edge)
            return inside

        yield rows, pairs
