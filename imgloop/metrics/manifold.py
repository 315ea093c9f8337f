"""Precision, recall, density, coverage and authenticity, computed in blocks; equal to brute force in float64, including
ties."""

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
    """Precision, recall and coverage in [0, 1]; density of at least 0, expected to be 1 for equal distributions.

    `authenticity` in [0, 1], None without training features; its value for real data depends on the dimension.
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
        """The real side for every neighbourhood up to `k`; `progress(done, total)` counts samples. Raises UserError if
        there are k samples or fewer."""
        x = as_features(features, "real", at_least=k + 1)
        on_device = x.to(device)
        return cls(x, nearest2(on_device, on_device, k, leave_one_out=True, progress=progress)[0])

    @cached_property
    def other2(self) -> np.ndarray:
        """Squared distance of each sample to the nearest other that is not an exact copy of it, float64 (N,); 0 if all
        are copies. With copies, an image that occurs twice would have distance 0, and no sample could be closer."""
        distances2 = np.where(self.neighbours2 > 0, self.neighbours2, np.inf).min(1)
        if np.isinf(distances2).any():
            different = self.features[self.different]
            rows = np.isinf(distances2)
            nearest = (
                nearest2(self.features[torch.from_numpy(rows)], different, 2)[0][:, 1] if len(different) > 1 else 0.0
            )
            distances2[rows] = nearest
        return distances2

    @cached_property
    def different(self) -> np.ndarray:
        """Indices of the first of each set of equal rows, int64."""
        if (self.neighbours2 > 0).all():
            return np.arange(len(self.features))
        first: dict[bytes, int] = {}
        for i, row in enumerate(self.features.numpy() + 0.0):  # -0.0 and 0.0 are equal, their bytes are not
            first.setdefault(row.tobytes(), i)
        return np.array(list(first.values()))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The distances, without the features, for the cache."""
        return {"neighbours2": self.neighbours2}

    @classmethod
    def from_arrays(cls, features, arrays: Mapping[str, np.ndarray]) -> RealManifold:
        """Reads `to_arrays`, given the features that it was computed from."""
        neighbours2 = np.array(arrays["neighbours2"])
        x = as_features(features, "real", at_least=neighbours2.shape[1] + 1)
        if len(x) != len(neighbours2):
            raise UserError(f"The cached distances are of {len(neighbours2)} real samples; there are {len(x)}.")
        return cls(x, neighbours2)


def manifold_scores(
    real, generated, k: int = 5, *, k_precision: int | None = None, train=None, device: str = "cpu"
) -> ManifoldScores:
    """Precision, recall, density and coverage of `generated` (M, D) against `real` (N, D), or a `RealManifold`.

    Density and coverage use open balls (`<`) that reach to the `k`-th neighbour. Precision and recall use the same
    balls by default, as the prdc package does; with `k_precision` (3 in their paper), closed balls (`<=`) that reach to
    that neighbour. `train`, the training features (T, D) or a `RealManifold` of them, adds `authenticity`: the share of
    samples that are farther from their nearest training sample than that one is from its nearest other that is not an
    exact copy. It falls with copying, and also if samples stay in the dense parts of the data: read it beside recall
    and the variance ratio. No N x M matrix is stored; products are computed on `device`, with the same result on any.
    Raises UserError if the real side has max(k, k_precision) samples or fewer, or the generated side its k or fewer,
    and on different widths, wrong shape, NaN or infinity. Source: Kynkaanniemi et al. 2019, section 2; Naeem et al.
    2020, section 3; Alaa et al. 2022, section 3.
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
    """`manifold_scores`, and the squared distance of each generated sample to its `k`-th nearest among the real rows
    `among`, float64 (M,), from which tail mass and off-support rate are computed; None without `among`."""
    kp = k if k_precision is None else k_precision
    if min(k, kp) < 1:
        raise UserError(f"k is {k} and k_precision {k_precision}; both must be at least 1.")
    real = real if isinstance(real, RealManifold) else RealManifold.of(real, max(k, kp), device=device)
    if real.neighbours2.shape[1] < max(k, kp):
        raise UserError(
            f"The real manifold holds {real.neighbours2.shape[1]} neighbours; k = {max(k, kp)} needs as many."
        )
    if among is not None and len(among) < k:
        raise UserError(f"There are {len(among)} real samples to measure distances to; k = {k} needs as many.")
    x, closed = real.features.to(device), k_precision is not None
    y = as_features(generated, "generated", at_least=kp + 1, width=x.shape[1]).to(device)
    radius, radius_p = real.neighbours2[None, :, k - 1], real.neighbours2[None, :, kp - 1]
    radius_g = nearest2(y, y, kp, leave_one_out=True)[0][:, kp - 1 :]

    inside, precise = 0, np.zeros(len(y), bool)
    far2, certain = np.empty(len(y)), np.ones(len(y), bool)
    columns = None if among is None else torch.from_numpy(among).to(device)
    recalled, covered = (torch.zeros(len(x), dtype=torch.bool, device=device) for _ in range(2))
    for block in blocks(y, x):
        within = block.within(radius, closed=False)
        inside, covered = inside + int(within.count_nonzero()), covered | within.any(0)
        within = within if not closed else block.within(radius_p, closed=True)
        precise[block.rows] = within.any(1).cpu().numpy()
        recalled |= block.within(radius_g[block.rows], closed=closed).any(0)
        if columns is not None:
            nearest, certain[block.rows] = block.nearest2(columns, k)
            far2[block.rows] = nearest[:, -1]
    if columns is not None and not certain.all():
        far2[~certain] = nearest2(y[torch.from_numpy(~certain)], x[columns], k)[0][:, -1]
    scores = ManifoldScores(
        float(precise.mean()),
        int(recalled.count_nonzero()) / len(x),
        inside / (k * len(y)),
        int(covered.count_nonzero()) / len(x),
        None if train is None else _authenticity(train, y),
    )
    return scores, None if among is None else far2


def _authenticity(train, y: Tensor) -> float:
    train = train if isinstance(train, RealManifold) else RealManifold.of(train, 1, device=str(y.device))
    if train.features.shape[1] != y.shape[1]:
        raise UserError(f"The training features are {train.features.shape[1]} wide and the generated {y.shape[1]}.")
    distance2, nearest = nearest2(y, train.features.to(y.device), 1)
    return float((distance2[:, 0] > train.other2[nearest[:, 0]]).mean())


def nearest_distances(features, reference=None, k: int = 1) -> np.ndarray:
    """Distances of `features` (N, D) to their `k` nearest rows of `reference` (M, D), ascending, float64 (N, k).

    Without a reference: to the nearest other rows of `features`. In units of the features, to float64 precision.
    Raises UserError if there are fewer than k rows to compare with, and as `manifold_scores`.
    """
    x = as_features(features, "generated" if reference is not None else "real", at_least=1)
    y = x if reference is None else as_features(reference, "real", at_least=k)
    if (y is x and len(x) <= k) or y.shape[1] != x.shape[1] or k < 1:
        raise UserError(f"Features of shape {tuple(x.shape)} do not have {k} neighbours among {tuple(y.shape)}.")
    return np.sqrt(nearest2(x, y, k, leave_one_out=reference is None)[0])


def expected_coverage(real: int, generated: int, k: int = 5) -> float:
    """Expected coverage of `real` (N) by `generated` (M) samples of one distribution: 1 - prod_j (N-j)/(N+M-j).

    j runs from 1 to k. Source: Naeem et al. 2020, section 3.
    """
    j = np.arange(1, k + 1)
    return float(1 - np.prod((real - j) / (real + generated - j)))
