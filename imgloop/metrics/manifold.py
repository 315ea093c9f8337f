"""Precision, recall, density, coverage and authenticity, in blocks; equal to brute force in float64, ties included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from imgloop.errors import UserError
from imgloop.metrics.frechet import as_features
from imgloop.metrics.neighbours import blocks, nearest2


@dataclass(frozen=True)
class ManifoldScores:
    """Precision, recall and coverage in [0, 1]; density from 0 up, 1 in expectation where nothing differs.

    `authenticity` in [0, 1], None without training features; what it reads for real data depends on the dimension.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    authenticity: float | None = None


@dataclass(frozen=True)
class RealManifold:
    """Real features (N, D) and their squared distances to the K nearest others, ascending, float64 (N, K)."""

    features: Tensor
    neighbours2: np.ndarray

    @classmethod
    def of(cls, features, k: int = 5, *, device: str = "cpu", progress: Callable | None = None) -> RealManifold:
        """The real side for every neighbourhood up to `k`; `progress(done, total)` is told of samples. Raises UserError
        where there are not more than k samples."""
        x = as_features(features, "real", at_least=k + 1)
        on_device = x.to(device)
        return cls(x, nearest2(on_device, on_device, k, leave_one_out=True, progress=progress)[0])

    @cached_property
    def other2(self) -> np.ndarray:
        """Squared distance of each sample to the nearest other that is no exact copy of it, float64 (N,); 0 where all
        are copies. An image that the data hold twice would else be 0 from another, and nothing too near to it."""
        found = np.where(self.neighbours2 > 0, self.neighbours2, np.inf).min(1)
        if np.isinf(found).any():
            different = self.features[self.different]
            rows = torch.from_numpy(np.isinf(found))
            found[rows] = nearest2(self.features[rows], different, 2)[0][:, 1] if len(different) > 1 else 0.0
        return found

    @cached_property
    def different(self) -> np.ndarray:
        """The first of each set of equal rows, int64 indices."""
        if (self.neighbours2 > 0).all():
            return np.arange(len(self.features))
        first: dict[bytes, int] = {}
        for i, row in enumerate(self.features.numpy() + 0.0):  # -0.0 and 0.0 are equal, their bytes are not
            first.setdefault(row.tobytes(), i)
        return np.array(list(first.values()))

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


def manifold_scores(
    real, generated, k: int = 5, *, k_precision: int | None = None, train=None, device: str = "cpu"
) -> ManifoldScores:
    """Precision, recall, density and coverage of `generated` (M, D) against `real` (N, D), or a `RealManifold`.

    Density and coverage take the balls to the `k`-th neighbour without their surface (`<`). Precision and recall take
    the same balls by default, as the prdc package does; with `k_precision` (3 in their paper) the balls to that
    neighbour with their surface (`<=`). With `train`, the training features (T, D) or a `RealManifold` of them, also
    `authenticity`: the share of samples farther from their nearest training sample than that one is from the nearest
    other that is no exact copy of it. It falls with copying, and also where samples keep to the dense parts of the
    data, copies or not: read it beside recall and the variance ratio. No matrix of N x M is held; products are taken on
    `device`, with the same result on any. Raises UserError where the real side has not more than max(k, k_precision)
    samples or the generated side not more than its k, and on different widths, wrong shape, NaN or infinity.
    Source: Kynkaanniemi et al. 2019, section 2; Naeem et al. 2020, section 3; Alaa et al. 2022, section 3.
    """
    return neighbour_scores(real, generated, k, k_precision=k_precision, train=train, device=device)[0]


def neighbour_scores(
    real,
    generated,
    k: int = 5,
    *,
    k_precision: int | None = None,
    train=None,
    among: np.ndarray | None = None,
    device: str = "cpu",
) -> tuple[ManifoldScores, np.ndarray | None]:
    """`manifold_scores`, and from the same distances the squared ones of each generated sample to its `k`-th nearest of
    the real rows `among`, float64 (M,): what tail mass and off-support rate are made of. None without `among`."""
    kp = k if k_precision is None else k_precision
    if min(k, kp) < 1:
        raise UserError(f"k is {k} and k_precision {k_precision}; neighbourhoods need at least 1.")
    real = real if isinstance(real, RealManifold) else RealManifold.of(real, max(k, kp), device=device)
    if real.neighbours2.shape[1] < max(k, kp):
        raise UserError(f"The real manifold holds {real.neighbours2.shape[1]} neighbours; k = {max(k, kp)} needs more.")
    if among is not None and len(among) < k:
        raise UserError(f"There are {len(among)} real samples to measure distances to; k = {k} needs as many.")
    x, closed = real.features.to(device), k_precision is not None
    y = as_features(generated, "generated", at_least=kp + 1, width=x.shape[1]).to(device)
    ball, ball_p = real.neighbours2[None, :, k - 1], real.neighbours2[None, :, kp - 1]
    ball_g = nearest2(y, y, kp, leave_one_out=True)[0][:, kp - 1 :]

    inside, precise = 0, np.zeros(len(y), bool)
    far2, certain = np.empty(len(y)), np.ones(len(y), bool)
    columns = None if among is None else torch.from_numpy(among).to(device)
    recalled, covered = (torch.zeros(len(x), dtype=torch.bool, device=device) for _ in range(2))
    for block in blocks(y, x):
        within = block.within(ball, closed=False)
        inside, covered = inside + int(within.count_nonzero()), covered | within.any(0)
        within = within if not closed else block.within(ball_p, closed=True)
        precise[block.rows] = within.any(1).cpu().numpy()
        recalled |= block.within(ball_g[block.rows], closed=closed).any(0)
        if columns is not None:
            nearest, certain[block.rows] = block.nearest2(columns, k)
            far2[block.rows] = nearest[:, -1]
    if not certain.all():
        far2[~certain] = nearest2(y[torch.from_numpy(~certain)], x[columns], k)[0][:, -1]
    found = ManifoldScores(
        float(precise.mean()),
        int(recalled.count_nonzero()) / len(x),
        inside / (k * len(y)),
        int(covered.count_nonzero()) / len(x),
        None if train is None else _authenticity(train, y),
    )
    return found, None if among is None else far2


def _authenticity(train, y: Tensor) -> float:
    train = train if isinstance(train, RealManifold) else RealManifold.of(train, 1, device=str(y.device))
    if train.features.shape[1] != y.shape[1]:
        raise UserError(f"The training features are {train.features.shape[1]} wide and the generated {y.shape[1]}.")
    distance2, nearest = nearest2(y, train.features.to(y.device), 1)
    return float((distance2[:, 0] > train.other2[nearest[:, 0]]).mean())


def nearest_distances(features, reference=None, k: int = 1) -> np.ndarray:
    """Distances of `features` (N, D) to their `k` nearest rows of `reference` (M, D), ascending, float64 (N, k).

    Without a reference: to the nearest other rows of `features`. In units of the features; exact to float64.
    Raises UserError where there are fewer than k rows to compare with, and as `manifold_scores`.
    """
    x = as_features(features, "generated" if reference is not None else "real", at_least=1)
    y = x if reference is None else as_features(reference, "real", at_least=k)
    if (y is x and len(x) <= k) or y.shape[1] != x.shape[1] or k < 1:
        raise UserError(f"Features of shape {tuple(x.shape)} have no {k} neighbours among {tuple(y.shape)}.")
    return np.sqrt(nearest2(x, y, k, leave_one_out=reference is None)[0])


def expected_coverage(real: int, generated: int, k: int = 5) -> float:
    """Expected coverage with `real` (N) and `generated` (M) samples of one distribution: 1 - prod_j (N-j)/(N+M-j).

    j runs from 1 to k. Source: Naeem et al. 2020, section 3.
    """
    j = np.arange(1, k + 1)
    return float(1 - np.prod((real - j) / (real + generated - j)))
