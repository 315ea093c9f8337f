"""What a generation is trained on: pools of samples by source, and the mix, which selects rows of them by index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from imgloop.errors import UserError

REAL = -1  # the origin of real data; origin s >= 0 was drawn from generator f_s
BLOCK = 1 << 20  # rows of a mix that are looked at together, so that no copy of all of them is made
STORED = {"origin": np.int32, "row": np.int64, "weight": np.float64}  # at least, in mix.safetensors and in hashes


@dataclass(frozen=True)
class Pool:
    """Samples from one source: uint8 images (N, C, H, W), or float (N, R, d) for analytic systems with R replicates.

    `x` may be memory-mapped from disk. `y` holds the labels, int64 (N,), or is None for samples without labels. What
    every part is given cannot be written to: a part that changes its input in place gets an error.
    """

    x: np.ndarray
    y: np.ndarray | None = None
    weight: np.ndarray | None = None  # loss weight of each sample, float (N,) or (N, R); None: all equal

    def __post_init__(self):
        assert self.y is None or len(self.y) == len(self.x), (len(self.x), len(self.y))
        for name in ("x", "y", "weight"):
            values = getattr(self, name)
            if isinstance(values, np.ndarray) and values.flags.writeable:
                values = values.view()
                values.flags.writeable = False
                object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Mix:
    """A whole training set in a few bytes a sample: sample i of replicate r is row `row[i, r]` of pool `origin[i, r]`.

    `origin` and `row` int (n, R), R = 1 for images, in memory as narrow as their values allow (six bytes a row in all);
    `weight` float (n, R) or None, which means all equal.
    It is stored with its generation: it records every sample that a model was trained on. Raises UserError where the
    shapes of origin and row differ or are not (n, R).
    """

    origin: np.ndarray
    row: np.ndarray
    weight: np.ndarray | None = None

    def __post_init__(self):
        origin, row = np.shape(self.origin), np.shape(self.row)
        if origin != row or len(row) != 2:
            raise UserError(f"A mix needs origin and row of one shape (samples, replicates), not {origin} and {row}.")

    def __len__(self) -> int:
        return len(self.row)

    def counts(self) -> dict[int, int]:
        """Number of samples by origin, over all replicates, or over one column that stands for all."""
        origin, total = self.origin[:, :1] if self.common else self.origin, np.zeros(0, np.int64)
        for first in range(0, len(origin), BLOCK):
            part = np.bincount(origin[first : first + BLOCK].ravel().astype(np.int64) - REAL, minlength=len(total))
            part[: len(total)] += total
            total = part
        return {int(o) + REAL: int(total[o]) for o in np.flatnonzero(total)}

    def shares(self) -> dict[int, float]:
        """Share of the samples by origin, over all replicates; the values sum to 1."""
        counts = self.counts()
        return {o: n / sum(counts.values()) for o, n in counts.items()}

    def weight_shares(self) -> dict[int, float]:
        """Share of the loss weight by origin, over all replicates; that of the samples where there are no weights."""
        if self.weight is None:
            return self.shares()
        of = {o: float(self.weight[self.origin == o].sum()) for o in self.counts()}
        return {o: w / sum(of.values()) for o, w in of.items()}

    def stored(self) -> list[np.ndarray | None]:
        """Origin, row and weight as they are stored, to be hashed."""
        named = self.arrays()
        return [named[k].astype(np.promote_types(named[k].dtype, d)) if k in named else None for k, d in STORED.items()]

    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays by name, without a weight that is None."""
        named = {"origin": self.origin, "row": self.row, "weight": self.weight}
        return {k: v for k, v in named.items() if v is not None}

    @property
    def common(self) -> bool:
        """Whether one column, held once, stands for all replicates."""
        return self.origin.strides[1] == self.row.strides[1] == 0


@dataclass(frozen=True)
class TrainingSet:
    """The pools and the mix of one generation, indexed as one array without copying the pools.

    `selection`: JSON-able facts on how a curation chose the rows of the mix, None where none did.
    """

    pools: Mapping[int, Pool]
    mix: Mix
    selection: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, pools: Mapping[int, Pool], mix: Mix) -> TrainingSet:
        """The training set of a mix, whose weights are multiplied by those of the pools' samples, if any have some."""
        touched = list(mix.counts())
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
        """Samples `index` (n,) of the mix, dtype of the pools, shape (n, ...): one indexing operation for each pool."""
        return self._take(index, replicate, lambda origin: self.pools[origin].x)

    def samples(self) -> np.ndarray:
        """Every sample of every replicate at once, (n, R, d): the training set of an analytic system.

        Raises UserError for a mix with weights, which an unweighted fit would drop.
        """
        if self.mix.weight is not None:
            raise UserError(
                "This solvable system fits all samples alike, and the mix gives them weights: use a curation or "
                "paradigm without weights.",
                "curation",
            )
        origin, row = self.mix.origin, self.mix.row
        if self.mix.common:
            origin, row = origin[:, 0], row[:, 0]
        origins = np.array(list(self.mix.counts()))
        pools = [self.pools[int(o)].x for o in origins]
        starts = np.zeros(origins[-1] - REAL + 1, np.int64)
        starts[origins - REAL] = np.cumsum([0, *map(len, pools)])[:-1]
        index = starts[origin.astype(np.int64) - REAL] + row
        stacked = pools[0] if len(pools) == 1 else np.concatenate(pools)
        if not self.mix.common:
            return stacked[index, np.arange(index.shape[1])]
        whole = len(pools) > 1 and len(index) == len(stacked) and (np.diff(index) == 1).all()
        return stacked if whole else stacked[index]

    def labels(self, index: np.ndarray | None = None, replicate: int = 0) -> np.ndarray | None:
        """Labels of samples `index` (all by default), int64 (n,); None where a pool of the mix has none."""
        labels = {o: self.pools[o].y for o in self.mix.counts()}
        if any(y is None for y in labels.values()):
            return None
        index = np.arange(len(self)) if index is None else index
        return self._take(index, replicate, lambda origin: labels[origin])

    def _take(self, index: np.ndarray, replicate: int, values_of: Callable[[int], Any]) -> np.ndarray:
        origin, row = self.mix.origin[index, replicate], self.mix.row[index, replicate]

        def of(o: int) -> np.ndarray:
            values = values_of(int(o))
            return values[:, replicate] if values.ndim == 3 else values  # (N, R, d) of an analytic system

        first = of(self.mix.origin[0, replicate])
        out = np.empty((len(row), *first.shape[1:]), first.dtype)
        for o in np.unique(origin):
            here = origin == o
            out[here] = of(o)[row[here]]
        return out


def permutation(n: int, rng: np.random.Generator) -> np.ndarray:
    """rng.permutation(n), in four bytes a row where n allows it."""
    order = np.arange(n, dtype=np.int32 if n < 2**31 else np.int64)
    rng.shuffle(order)
    return order


def check_mix(mix: Any, sizes: Mapping[int, int], replicates: int, part: str) -> None:
    """Raise UserError unless `mix` is a Mix of one or more rows of the pools, (n, replicates).

    `sizes`: rows of each pool by origin. Weights, if any, are finite numbers of at least 0, of the same shape, with a
    positive sum in every replicate. `part`: what made the mix, such as "paradigm=window (window.py: Window)".
    """

    def refuse(expected: str, got: str) -> UserError:
        return UserError(f"{part} must return {expected}, but it returned {got}.", part.partition("=")[0])

    if not isinstance(mix, Mix):
        raise refuse("a Mix (imgloop.pool.Mix)", f"a {type(mix).__name__}")
    for name, values in (("origin", mix.origin), ("row", mix.row)):
        dtype = getattr(values, "dtype", type(values).__name__)
        if not isinstance(values, np.ndarray) or not np.issubdtype(values.dtype, np.integer):
            raise refuse(f"a Mix whose {name} is an array of integers", f"{name} as {dtype}")
        if values.ndim != 2 or values.shape[1] != replicates or values.shape != mix.origin.shape:
            raise refuse(
                f"a Mix whose origin and row have the shape (samples, {replicates}), one column for each replicate",
                f"{name} of shape {values.shape}",
            )
    if len(mix) == 0:
        raise refuse("a Mix of at least one sample", "an empty one")
    origin, row = (mix.origin[:, :1], mix.row[:, :1]) if mix.common else (mix.origin, mix.row)
    for o in mix.counts() if origin.min() >= REAL else np.unique(origin).tolist():
        if o not in sizes:
            known = ", ".join(map(str, sorted(sizes)))
            raise refuse(f"a Mix of the pools {known} (-1: real, s: drawn from generation s)", f"origin {o}")
        rows = row[origin == o]
        low, high = int(rows.min()), int(rows.max())
        if low < 0 or high >= sizes[o]:
            raise refuse(
                f"rows 0 to {sizes[o] - 1} of the pool of origin {o}", f"row {low if low < 0 else high} of that pool"
            )
    weight = mix.weight
    if weight is None:
        return
    if np.shape(weight) != mix.row.shape:
        raise refuse(
            f"weights of the shape {mix.row.shape} of its rows, or None", f"weights of shape {np.shape(weight)}"
        )
    kind = getattr(weight, "dtype", type(weight).__name__)
    if not isinstance(weight, np.ndarray) or weight.dtype.kind not in "iuf":
        raise refuse("weights as an array of numbers, or None", f"weights as {kind}")
    if not np.isfinite(weight).all() or weight.min() < 0:
        raise refuse("finite weights of at least 0", f"the weight {weight[~(weight >= 0) | ~np.isfinite(weight)][0]:g}")
    if not (weight.max(0) > 0).all():
        raise refuse("a positive weight in every replicate", "weights that are all 0")
