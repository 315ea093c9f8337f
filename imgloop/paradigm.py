"""The paradigms: which rows of which pools generation t is trained on. They see only sizes, and return indices.

A paradigm is called as paradigm(sizes, t, rng, replicates), where `sizes` gives the rows of each pool by origin: -1 is
the real training data, s is what generation s released. Generation 0 is trained on R, the first `n_initial` real rows,
under every paradigm, so that conditions can share it. Replicates are independent: each draws its own rows.

A paradigm of your own is a dataclass that subclasses `Paradigm`, declares its settings with `knob`, and defines
`later(sizes, t, rng, replicates)` from `rows_of`, `subsample` and `concatenate`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from imgloop.config.fields import check_settings
from imgloop.config.schedule import Knob, Schedule, knob, read_knobs, value_at
from imgloop.contracts import Sizes
from imgloop.errors import UserError
from imgloop.pool import REAL, Mix, permutation

__all__ = [
    "NAMES",
    "REAL",
    "Accumulate",
    "AccumulateSubsample",
    "Augment",
    "Edit",
    "Fresh",
    "Knob",
    "Mix",
    "Paradigm",
    "RealOnly",
    "Replace",
    "Schedule",
    "Sizes",
    "Stratified",
    "concatenate",
    "knob",
    "random_subsets",
    "rows_of",
    "subsample",
    "value_at",
]


def rows_of(origin: int, n: int, replicates: int, first: int = 0) -> Mix:
    """Rows first..first + n - 1 of the pool `origin`, (n, replicates), equal for all replicates and stored once."""
    row = np.arange(first, first + n, dtype=np.int32 if first + n < 2**31 else np.int64)
    origins = np.full(n, origin, np.int16 if origin < 2**15 - 1 else np.int32)
    return Mix(_repeated(origins, replicates), _repeated(row, replicates))


def subsample(mix: Mix, n: int, rng: np.random.Generator) -> Mix:
    """`n` samples of the mix with their weights, (n, R), uniform without replacement, independent across replicates.

    Where n is the mix's size, the mix itself. n must not exceed it.
    """
    total, replicates = mix.row.shape
    if n == total:
        return mix
    chosen = permutation(total, rng)[:n, None] if replicates == 1 else random_subsets(total, n, replicates, rng)
    weight = None if mix.weight is None else np.take_along_axis(mix.weight, chosen, 0)
    return Mix(np.take_along_axis(mix.origin, chosen, 0), np.take_along_axis(mix.row, chosen, 0), weight)


def random_subsets(total: int, n: int, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """For each replicate n different numbers of 0..total - 1, int64 (n, replicates), uniform over all such sets.

    If n is small, repeated numbers are drawn again until none is left: all numbers are treated alike, so that all sets
    are equally likely.
    """
    if 4 * n > total:
        return np.argsort(rng.random((total, replicates)), axis=0)[:n]
    chosen = rng.integers(total, size=(n, replicates))
    while True:
        chosen.sort(axis=0)
        repeated = np.concatenate([np.zeros((1, replicates), bool), chosen[1:] == chosen[:-1]])
        if not repeated.any():
            return chosen
        chosen[repeated] = rng.integers(total, size=np.count_nonzero(repeated))


def concatenate(*mixes: Mix) -> Mix:
    """The samples of several mixes, (sum of n, R), in order. A mix without weights counts as weight 1 beside others."""
    weight = None
    if any(m.weight is not None for m in mixes):
        weight = np.concatenate([np.ones(m.row.shape) if m.weight is None else m.weight for m in mixes])
    if all(m.common for m in mixes):  # one column stands for all replicates
        replicates = mixes[0].row.shape[1]
        origin, row = (np.concatenate([a[:, 0] for a in arrays]) for arrays in zip(*((m.origin, m.row) for m in mixes)))
        return Mix(_repeated(origin, replicates), _repeated(row, replicates), weight)
    return Mix(np.concatenate([m.origin for m in mixes]), np.concatenate([m.row for m in mixes]), weight)


def _repeated(column: np.ndarray, replicates: int) -> np.ndarray:
    """One column (n,) for all replicates, (n, replicates), without a copy."""
    return np.broadcast_to(column[:, None], (len(column), replicates))


@dataclass(frozen=True)
class Paradigm:
    """What all paradigms share: `n_initial`, the number of real training rows R (all of them by default), and
    `real_weight`, the loss weight of real rows in mixes after generation 0, where a synthetic row has 1 (the default).

    `keeps_all`: mixes may use any pool, not only R and the newest. `closed`: no real row enters a mix after
    generation 0, so that a generator that can draw one thing only can never recover.
    """

    n_initial: Knob = knob(low=1)
    real_weight: Knob = knob(low=0, whole=False, kw_only=True)
    keeps_all = False

    @property
    def closed(self) -> bool:
        return False

    def __post_init__(self):
        read_knobs(self, lambda name: name if name in TOP_LEVEL else f"paradigm.{name}")
        check_settings(self, "paradigm")

    def __call__(self, sizes: Sizes, t: int, rng: np.random.Generator, replicates: int = 1) -> Mix:
        """The mix of generation t, (n, replicates); raises UserError where the pools have too few rows."""
        mix = self.real(sizes, 0, replicates) if t == 0 else self.later(sizes, t, rng, replicates)
        if len(mix) == 0:
            names = " or ".join(f.name for f in fields(self) if f.name != "real_weight")
            raise UserError(
                f"Generation {t} would have no training data: its mix takes no row of any pool; raise {names}."
            )
        return mix if t == 0 else self.weighted(mix, t)

    def check_one_size(self) -> None:
        """Raise UserError where n_initial changes over generations, which only generation 0 of this paradigm uses."""
        n = self.n_initial
        if isinstance(n, Schedule) and not n.always(n(0)):
            raise UserError(
                f"paradigm={type(self).__name__.lower()} uses n_initial in generation 0 only, so a schedule has no "
                f"effect: give one number{', and a schedule of n_real' if isinstance(self, Fresh) else ''}.",
                "n_initial",
            )

    def weighted(self, mix: Mix, t: int) -> Mix:
        """The mix with real rows of weight `real_weight`; raises UserError where all weights would be 0."""
        factor = value_at(self.real_weight, t, 1)
        if factor == 1:
            return mix
        weight = np.where(mix.origin == REAL, factor, 1.0)
        if not weight.any():
            raise UserError(
                f"real_weight=0 would leave generation {t} without any weight, since all its training data are real: "
                "give a weight above 0.",
                "real_weight",
            )
        return Mix(mix.origin, mix.row, weight if mix.weight is None else weight * mix.weight)

    def real(self, sizes: Sizes, t: int, replicates: int) -> Mix:
        """R: the first n_initial rows of the real training data, the same for every paradigm."""
        return rows_of(REAL, self.initial(sizes, t), replicates)

    def initial(self, sizes: Sizes, t: int) -> int:
        """The number of rows of R at generation t; raises UserError where there are fewer."""
        n = int(value_at(self.n_initial, t, sizes[REAL]))
        if n > sizes[REAL]:
            changes = isinstance(self.n_initial, Schedule) and self.n_initial(0) != n
            where, most = (f" is {n} at generation {t}", ", in a schedule by max: {}") if changes else (f"={n}", "")
            raise UserError(
                f"n_initial{where}, but there are {sizes[REAL]} real training samples: give at most that "
                f"many{most.format(sizes[REAL])}, or more data.",
                "n_initial",
            )
        return n

    def newest(self, sizes: Sizes, t: int, replicates: int) -> Mix:
        """S: all that the previous generation released."""
        return rows_of(t - 1, sizes[t - 1], replicates)

    def everything(self, sizes: Sizes, t: int, replicates: int) -> Mix:
        """R and every pool so far."""
        return concatenate(self.real(sizes, t, replicates), *(rows_of(s, sizes[s], replicates) for s in range(t)))

    def later(self, sizes: Sizes, t: int, rng: np.random.Generator, replicates: int) -> Mix:
        """The mix of generation t >= 1, (n, replicates)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Replace(Paradigm):
    """S alone; with real_fraction a: round(a n) rows of R without replacement and the rest from S, n = |S| in total.

    The fully synthetic loop of Shumailov et al. 2023 and Alemohammad et al. 2023.
    """

    real_fraction: Knob = knob(low=0, high=1, whole=False)

    @property
    def closed(self) -> bool:
        a = self.real_fraction
        return not isinstance(a, Schedule) or a.always(0, first=1)

    def __post_init__(self):
        super().__post_init__()
        if self.closed and self.real_weight is not None:
            raise UserError(
                "real_weight has no effect under paradigm=replace without real data: set real_fraction above 0, or "
                "leave it out.",
                "real_weight",
            )

    def later(self, sizes: Sizes, t: int, rng: np.random.Generator, replicates: int) -> Mix:
        newest = self.newest(sizes, t, replicates)
        fraction = value_at(self.real_fraction, t)
        n_real = round(fraction * len(newest))
        if n_real == 0:
            return newest
        real = self.real(sizes, t, replicates)
        if n_real > len(real):
            raise UserError(
                f"real_fraction={fraction:g} of {len(newest)} samples needs {n_real} real ones in generation {t}, but "
                f"R has {len(real)}: lower real_fraction or n_samples, or raise n_initial.",
                "real_fraction",
            )
        return concatenate(subsample(real, n_real, rng), subsample(newest, len(newest) - n_real, rng))


@dataclass(frozen=True)
class Accumulate(Paradigm):
    """R and every pool so far, all of it (Gerstgrasser et al. 2024)."""

    keeps_all = True

    def later(self, sizes: Sizes, t: int, rng: np.random.Generator, replicates: int) -> Mix:
        return self.everything(sizes, t, replicates)


@dataclass(frozen=True)
class AccumulateSubsample(Paradigm):
    """`budget` rows (|R| at that generation by default), uniform without replacement, of R and every pool so far
    (Kazdan et al. 2024)."""

    budget: Knob = knob(low=1)
    keeps_all = True

    def later(self, sizes: Sizes, t: int, rng: np.random.Generator, replicates: int) -> Mix:
        everything = self.everything(sizes, t, replicates)
        budget = int(value_at(self.budget, t, self.initial(sizes, t)))
        if budget > len(everything):
            raise UserError(
                f"budget={budget}, but generation {t} has {len(everything)} samples to draw from: lower budget, or let "
                "it grow, for example budget=[1000,2000,3000].",
                "budget",
            )
        return subsample(everything, budget, rng)


@dataclass(frozen=True)
class Stratified(Paradigm):
    """`budget` // (t + 1) rows of R and of each pool so far (|R| // (t + 1) by default), uniform without replacement:
    the training set has the size of R, and every generation the same share of it (Shi et al. 2025, arXiv 2509.16499).
    """

    budget: Knob = knob(low=1)
    keeps_all = True

    def later(self, sizes: Sizes, t: int, rng: np.random.Generator, replicates: int) -> Mix:
        real = self.real(sizes, t, replicates)
        budget = int(value_at(self.budget, t, self.initial(sizes, t)))
        share, pools = budget // (t + 1), [real, *(rows_of(s, sizes[s], replicates) for s in range(t))]
        smallest = min(map(len, pools))
        if not 1 <= share <= smallest:
            raise UserError(
                f"paradigm=stratified takes {budget} // {t + 1} = {share} rows of each pool in generation {t}, and the "
                f"smallest pool has {smallest}: give a budget from {t + 1} to {(smallest + 1) * (t + 1) - 1}, or "
                "change n_samples.",
                "budget",
            )
        return concatenate(*(subsample(pool, share, rng) for pool in pools))


@dataclass(frozen=True)
class Augment(Paradigm):
    """R, fixed, and `n_synthetic` rows of S (all by default): iterative retraining (Bertrand et al. 2023), the
    synthetic augmentation loop of Alemohammad et al. 2023."""

    n_synthetic: Knob = knob(low=0)

    def later(self, sizes: Sizes, t: int, rng: np.random.Generator, replicates: int) -> Mix:
        return concatenate(self.real(sizes, t, replicates), _synthetic(self, sizes, t, rng, replicates))


@dataclass(frozen=True)
class Fresh(Paradigm):
    """`n_real` real rows that no generation has seen (|R| by default) and `n_synthetic` rows of S (all by default): the
    fresh data loop of Alemohammad et al. 2023. Raises UserError where the real data run out: no row is used twice."""

    n_real: Knob = knob(low=0)
    n_synthetic: Knob = knob(low=0)

    def __post_init__(self):
        super().__post_init__()
        self.check_one_size()

    def later(self, sizes: Sizes, t: int, rng: np.random.Generator, replicates: int) -> Mix:
        used = self.initial(sizes, 0)
        counts = [int(value_at(self.n_real, s, used)) for s in range(1, t + 1)]
        first, n = used + sum(counts[:-1]), counts[-1]
        if first + n > sizes[REAL]:
            raise UserError(
                f"paradigm=fresh has used {min(first, sizes[REAL])} of {sizes[REAL]} real training samples before "
                f"generation {t} and needs {n} more that are new: lower n_initial, n_real or generations (with equal "
                f"shares, n_initial at most {sizes[REAL] // (t + 1)} for {t + 1} generations).",
                "n_real",
            )
        return concatenate(rows_of(REAL, n, replicates, first), _synthetic(self, sizes, t, rng, replicates))


@dataclass(frozen=True)
class Edit(Paradigm):
    """Data editing: each generation overwrites a share `edit_fraction` (a tenth by default) of a data set of |R| rows
    with the rows of S at the same positions, cycling through the data set (Zhu et al. 2024; section 4.3 of Schaeffer et
    al. 2025).

    A number edits equally many rows in every generation; {start: , factor: } with a factor below 1 edits ever fewer.
    """

    edit_fraction: Knob = knob(low=0, high=1, whole=False)
    keeps_all = True

    def __post_init__(self):
        super().__post_init__()
        self.check_one_size()

    def later(self, sizes: Sizes, t: int, rng: np.random.Generator, replicates: int) -> Mix:
        n = self.initial(sizes, 0)
        origin, first = np.full(n, REAL, np.int32), 0
        for s in range(1, t + 1):
            share = value_at(self.edit_fraction, s, 0.1)
            edited = np.arange(first, first + int(share * n + 1e-9)) % n
            if s == 1 and share > 0 and not len(edited):
                raise UserError(
                    f"edit_fraction={share:g} of {n} rows edits none: raise edit_fraction or n_initial.",
                    "edit_fraction",
                )
            if edited.max(initial=-1) >= sizes[s - 1]:
                raise UserError(
                    f"paradigm=edit overwrites rows of a data set of {n} with the same rows of the newest pool, but "
                    f"generation {s - 1} released {sizes[s - 1]}: raise n_samples or lower n_initial to match.",
                    "n_samples",
                )
            origin[edited] = s - 1
            first += len(edited)
        return Mix(_repeated(origin, replicates), rows_of(REAL, n, replicates).row)


def _synthetic(rule: Augment | Fresh, sizes: Sizes, t: int, rng: np.random.Generator, replicates: int) -> Mix:
    """n_synthetic rows of S without replacement; all of S by default."""
    newest = rule.newest(sizes, t, replicates)
    n = int(value_at(rule.n_synthetic, t, len(newest)))
    if n > len(newest):
        raise UserError(
            f"n_synthetic={n}, but generation {t - 1} released {len(newest)} samples: lower n_synthetic or raise "
            "n_samples.",
            "n_synthetic",
        )
    return subsample(newest, n, rng)


@dataclass(frozen=True)
class RealOnly(Paradigm):
    """The control: R in every generation, at the same start, sizes and budget, so that only retraining acts."""

    def later(self, sizes: Sizes, t: int, rng: np.random.Generator, replicates: int) -> Mix:
        return self.real(sizes, t, replicates)


_BY_NAME: dict[str, type[Paradigm]] = {
    "replace": Replace,
    "accumulate": Accumulate,
    "accumulate_subsample": AccumulateSubsample,
    "stratified": Stratified,
    "augment": Augment,
    "fresh": Fresh,
    "real_only": RealOnly,
    "edit": Edit,
}
NAMES = tuple(_BY_NAME)  # of the options of paradigm=
# The knobs of these paradigms are settings at the top level; those of a user's own paradigm are paradigm.NAME.
TOP_LEVEL = frozenset(f.name for rule in _BY_NAME.values() for f in fields(rule))
