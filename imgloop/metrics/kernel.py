"""Kernel distance (KID) between two sets of features: the unbiased squared MMD over seeded subsets, and its error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg.blas import dsyrk  # pyright: ignore[reportAttributeAccessIssue]
from threadpoolctl import threadpool_limits

from imgloop.errors import UserError
from imgloop.metrics.frechet import as_features

SMALL = 1 << 25  # multiplications of a product for which BLAS's threads wait for each other longer than they work


@dataclass(frozen=True)
class KernelDistance:
    """`value`: mean over the subsets; it is unbiased, so about half of the time negative if the distributions are
    equal.

    `sem`: standard error of `value` over fresh samples of both sides; see `kernel_distance`.
    """

    value: float
    sem: float
    subset_size: int
    subsets: int


def kernel_distance(
    real, generated, *, subsets: int = 100, subset_size: int | None = None, seed: int = 0
) -> KernelDistance:
    """Mean squared MMD, kernel ((x'y)/D + 1)^3, over `subsets` pairs of subsets drawn without replacement; no unit.

    `real` (N, D) and `generated` (M, D); computed in float64. `subset_size` is min(1000, N // 2, M // 2) by default and
    may not be larger than N // 2 or M // 2, since the error bar compares the subsets with each other.

    `sem`: the subsets overlap, so that sd / sqrt(subsets) alone is only the error of averaging over subsets of *these*
    samples. With r = min(N, M) / subset_size the delete-d jackknife (Shao and Wu 1989) gives
    sem^2 = sd^2 / (r - 1) + sd^2 / subsets. It is correct for sets of equal size that differ clearly. It is too large,
    by at most sqrt(r + 1) (1.7 at the default, N = M <= 2000), for equal distributions, where the statistic is
    degenerate, and too large for sets of unequal size (1.8 at 100 against 400): it is conservative.
    Raises UserError on too few samples, different widths, wrong shape, NaN or infinity.
    Source: Binkowski et al. 2018, section 4; Gretton et al. 2012, eq. 3.
    """
    x = as_features(real, "real", at_least=4)
    y = as_features(generated, "generated", at_least=4, width=x.shape[1])
    smaller = min(len(x), len(y))
    size = min(1000, smaller // 2) if subset_size is None else subset_size
    if not 2 <= size <= smaller // 2:
        raise UserError(
            f"subset_size is {size}; with {len(x)} real and {len(y)} generated samples it can be 2 to {smaller // 2}."
        )
    if subsets < 2:
        raise UserError(f"subsets is {subsets}; the standard error needs at least 2.")
    values = []
    alone = 1 if size * size * x.shape[1] < SMALL else None
    with threadpool_limits(alone, "blas"):
        for s in range(subsets):
            rng = np.random.default_rng([seed, s])
            i, j = (torch.from_numpy(rng.choice(len(z), size, replace=False)) for z in (x, y))
            values.append(polynomial_mmd2(x[i], y[j]))
    sem = np.std(values, ddof=1) * np.sqrt(1 / (smaller / size - 1) + 1 / subsets)
    return KernelDistance(float(np.mean(values)), float(sem), size, subsets)


def polynomial_mmd2(x, y) -> float:
    """Unbiased estimate of the squared MMD of `x` (N, D) and `y` (M, D) under ((x'y)/D + 1)^3, float64, no unit.

    The diagonals of the two within-set kernels are excluded. Raises UserError as `kernel_distance`.
    Source: Gretton et al. 2012, eq. 3.
    """
    x = as_features(x, "real").double().numpy()
    y = as_features(y, "generated", width=x.shape[1]).double().numpy()
    return float(_within(x) + _within(y) - 2 * _cubed(x @ y.T, x.shape[1]).mean())


def _within(a: np.ndarray) -> float:
    """Mean kernel of two different rows of `a` (N, D)."""
    products = _cubed(dsyrk(1.0, a.T, trans=1), a.shape[1])  # the upper half of the symmetric product
    return np.triu(products, 1).sum() * 2 / (len(a) * (len(a) - 1))


def _cubed(products: np.ndarray, d: int) -> np.ndarray:
    """(p/d + 1)^3 of inner products p, which are overwritten."""
    products /= d
    products += 1
    return products * products * products  # `** 3` would take longer than the matrix product
