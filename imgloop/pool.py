"""What a generation is trained on: pools of samples by source, and the mix that says which rows of them, as indices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from imgloop.errors import UserError

REAL = -1  # the origin of real data; origin s >= 0 was drawn from generator f_s


@dataclass(frozen=True)
class Pool:
    """Samples from one source: uint8 images (N, C, H, W), or float (N, R, d) for analytic systems with R replicates.

    `x` may be memory-mapped from disk. `y` holds the labels, int64 (N,), or is None for samples without labels.
    """

    x: np.ndarray
    y: np.ndarray | None = None
    weight: np.ndarray | None = None  # loss weight of each sample, float (N,) or (N, R); None: all equal

    def __post_init__(self):
        assert self.y is None or len(self.y) == len(self.x), (len(self.x), len(self.y))

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Mix:
    """A whole training set in a few bytes a sample: sample i of replicate r is row `row[i, r]` of pool `origin[i, r]`.

    `origin` int (n, R) and `row` int64 (n, R), R = 1 for images; `weight` float (n, R) or None, which means all equal.
    It is stored with its generation, so that every sample a model was trained on can be named.
    """

    origin: np.ndarray
    row: np.ndarray
    weight: np.ndarray | None = None

    def __post_init__(self):
        assert self.origin.shape == self.row.shape and self.row.ndim == 2, (self.origin.shape, self.row.shape)

    def __len__(self) -> int:
        return len(self.row)

    def shares(self) -> dict[int, float]:
        """Share of the samples by origin, over all replicates; the values sum to 1."""
        origin = self.origin[:, :1] if self.common else self.origin
        counts = np.bincount(origin.ravel() - REAL)
        return {int(o) + REAL: int(counts[o]) / origin.size for o in np.flatnonzero(counts)}

    @property
    def common(self) -> bool:
        """Whether one column, held once, stands for all replicates."""
        return self.origin.strides[1] == self.row.strides[1] == 0


@dataclass(frozen=True)
class TrainingSet:
    """The pools and the mix of one generation, indexed as one array without copying the pools."""

    pools: Mapping[int, Pool]
    mix: Mix

    @classmethod
    def of(cls, pools: Mapping[int, Pool], mix: Mix) -> TrainingSet:
        """The training set of a mix, whose weights are multiplied by those of the pools' samples, if any have some."""
        touched = [int(o) for o in np.flatnonzero(np.bincount((mix.origin[:, :1] if mix.common else mix.origin).ravel() - REAL)) + REAL]
        if all(pools[o].weight is None for o in touched):
            return cls(pools, mix)
        weight = np.ones(mix.row.shape) if mix.weight is None else np.array(mix.weight, float)
        for o in touched:
            if (own := pools[o].weight) is not None:
                here = mix.origin == o
                rows = mix.row[here]
                weight[here] *= own[rows] if own.ndim == 1 else own[rows, np.nonzero(here)[1]]
        return cls(pools, Mix(mix.origin, mix.row, weight))

    def __len__(self) -> int:
        return len(self.mix)

    def gather(self, index: np.ndarray, replicate: int = 0) -> np.ndarray:
        """Samples `index` (n,) of the mix, dtype of the pools, shape (n, ...): one fancy index a pool that is
        touched."""
        return self._take(index, replicate, lambda pool: pool.x)

    def samples(self) -> np.ndarray:
        """Every sample of every replicate at once, (n, R, d): the training set of an analytic system.

        Raises UserError for a mix with weights, which an unweighted fit would drop.
        """
        if self.mix.weight is not None:
            raise UserError(
                "This solvable system fits all samples alike, and the mix gives them weights: use a curation or paradigm "
                "without weights.",
                "curation",
            )
        origin, row = self.mix.origin, self.mix.row
        if self.mix.common:
            origin, row = origin[:, 0], row[:, 0]
        origins = np.flatnonzero(np.bincount(origin.ravel() - REAL)) + REAL
        pools = [self.pools[int(o)].x for o in origins]
        starts = np.zeros(origins[-1] - REAL + 1, np.int64)
        starts[origins - REAL] = np.cumsum([0, *map(len, pools)])[:-1]
        index = starts[origin - REAL] + row
        stacked = pools[0] if len(pools) == 1 else np.concatenate(pools)
        if not self.mix.common:
            return stacked[index, np.arange(index.shape[1])]
        whole = len(pools) > 1 and len(index) == len(stacked) and (np.diff(index) == 1).all()
        return stacked if whole else stacked[index]

    def labels(self, index: np.ndarray | None = None, replicate: int = 0) -> np.ndarray | None:
        """Labels of samples `index` (all by default), int64 (n,); None where a pool of the mix has none."""
        origins = np.unique(self.mix.origin)
        if any(self.pools[int(o)].y is None for o in origins):
            return None
        index = np.arange(len(self)) if index is None else index
        return self._take(index, replicate, lambda pool: pool.y)

    def _take(self, index, replicate, field):
        origin, row = self.mix.origin[index, replicate], self.mix.row[index, replicate]

        def of(o):
            values = field(self.pools[int(o)])
            return values[:, replicate] if values.ndim == 3 else values  # (N, R, d) of an analytic system

        first = of(self.mix.origin[0, replicate])
        out = np.empty((len(row), *first.shape[1:]), first.dtype)
        for o in np.unique(origin):
            here = origin == o
            out[here] = of(o)[row[here]]
        return out
