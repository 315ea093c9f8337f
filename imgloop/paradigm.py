"""The mixing rules: which rows of which pools generation t is trained on. Pure: they see sizes and return indices.

Every rule is called as paradigm(sizes, t, rng, replicates) with `sizes` the rows of each pool by origin (-1 is the real
training data, s what generation s left to train on). Generation 0 is R, the first `n_initial` real rows, under every
rule, so that conditions share it. Replicates are independent: where rows are drawn, each replicate draws its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from imgloop.config.schedule import Schedule
from imgloop.errors import UserError
from imgloop.pool import REAL, Mix

Sizes = Mapping[int, int]
Knob = int | float | Schedule | None  # a number, or one a generation; None is the rule's own default


def every(origin: int, n: int, replicates: int, first: int = 0) -> Mix:
    """Rows first..first + n - 1 of one pool, the same for each replicate (held once)."""
    row = np.arange(first, first + n, dtype=np.int64)
    return Mix(*(np.broadcast_to(a[:, None], (n, replicates)) for a in (np.full(n, origin, np.int32), row)))


def drawn(mix: Mix, n: int, rng: np.random.Generator) -> Mix:
    """`n` of the mix's samples, uniformly without replacement, independently for each replicate."""
    total, replicates = mix.row.shape
    if n == total:
        return mix
    pick = rng.permutation(total)[:n, None] if replicates == 1 else subsets(total, n, replicates, rng)
    return Mix(np.take_along_axis(mix.origin, pick, 0), np.take_along_axis(mix.row, pick, 0))


def subsets(total: int, n: int, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """A set of n of the numbers 0..total - 1 for each replicate, int64 (n, replicates), uniform among all such sets.

    Few of many are drawn again until none is there twice: every number being treated alike, every set is as likely.
    """
    if 4 * n > total:
        return np.argsort(rng.random((total, replicates)), axis=0)[:n]
    pick = rng.integers(total, size=(n, replicates))
    while True:
        pick.sort(axis=0)
        twice = np.concatenate([np.zeros((1, replicates), bool), pick[1:] == pick[:-1]])
        if not twice.any():
            return pick
        pick[twice] = rng.integers(total, size=np.count_nonzero(twice))


def joined(*mixes: Mix) -> Mix:
    replicates = mixes[0].row.shape[1]
    if all(m.common for m in mixes):  # one column stands for all
        columns = [np.concatenate([a[:, 0] for a in arrays]) for arrays in zip(*((m.origin, m.row) for m in mixes))]
        return Mix(*(np.broadcast_to(c[:, None], (len(c), replicates)) for c in columns))
    return Mix(np.concatenate([m.origin for m in mixes]), np.concatenate([m.row for m in mixes]))


@dataclass(frozen=True)
class Paradigm:
    """What all rules share: `n_initial`, the number of real training rows R (all of them by default).

    `keeps_all`: mixes may reach back to any pool, not to R and the newest alone. `closed`: no real row enters a mix
    after generation 0, so that a generator that can draw one thing only has come to its end.
    """

    n_initial: Knob = None
    keeps_all: ClassVar[bool] = False

    @property
    def closed(self) -> bool:
        return False

    def __post_init__(self):
        for f in fields(self):
            low, high, whole = (
                (0.0, 1.0, False)
                if f.name in ("real_fraction", "edit_fraction")
                else (0 if f.name in ("n_real", "n_synthetic") else 1, None, True)
            )
            value = getattr(self, f.name)
            object.__setattr__(self, f.name, value if value is None else Schedule.of(f.name, value, low, high, whole))

    def __call__(self, sizes: Sizes, t: int, rng: np.random.Generator, replicates: int = 1) -> Mix:
        """The mix of generation t, n rows by `replicates`; raises UserError where the pools do not hold what is
        asked."""
        mix = self.real(sizes, 0, replicates) if t == 0 else self.later(sizes, t, rng, replicates)
        if len(mix) == 0:
            knobs = " or ".join(f.name for f in fields(self))
            raise UserError(f"Generation {t} would have no training data: no pool gives its mix a row; raise {knobs}.")
        return mix

    def real(self, sizes: Sizes, t: int, replicates: int) -> Mix:
        """R: the first n_initial rows of the real training data, for every paradigm the same."""
        n = self.initial(sizes, t)
        return every(REAL, n, replicates)

    def initial(self, sizes: Sizes, t: int) -> int:
        n = sizes[REAL] if self.n_initial is None else self.n_initial(t)
        if n > sizes[REAL]:
            raise UserError(
                f"n_initial={n}, but there are {sizes[REAL]} real training samples: give at most that many, or "
                "raise data.n."
            )
        return n

    def newest(self, sizes: Sizes, t: int, replicates: int) -> Mix:
        """S: all of what the previous generation left."""
        return every(t - 1, sizes[t - 1], replicates)

    def everything(self, sizes: Sizes, t: int, replicates: int) -> Mix:
        """R and every pool so far."""
        return joined(self.real(sizes, t, replicates), *(every(s, sizes[s], replicates) for s in range(t)))

    def later(self, sizes: Sizes, t: int, rng: np.random.Generator, replicates: int) -> Mix:
        raise NotImplementedError


@dataclass(frozen=True)
class Replace(Paradigm):
    """S alone; with real_fraction a: round(a n) rows of R without replacement and the rest from S, n = |S| in total.

    The fully synthetic loop of Shumailov et al. 2023 and Alemohammad et al. 2023.
    """

    real_fraction: Knob = None

    @property
    def closed(self) -> bool:
        a = self.real_fraction
        return a is None or not any(a.values or (a.start,))

    def later(self, sizes, t, rng, replicates):
        newest = self.newest(sizes, t, replicates)
        n_real = 0 if self.real_fraction is None else round(self.real_fraction(t) * len(newest))
        if n_real == 0:
            return newest
        real = self.real(sizes, t, replicates)
        if n_real > len(real):
            raise UserError(
                f"real_fraction={self.real_fraction(t):g} of {len(newest)} samples needs {n_real} real ones in "
                f"generation {t}, but R has {len(real)}: lower real_fraction or n_samples, or raise n_initial."
            )
        return joined(drawn(real, n_real, rng), drawn(newest, len(newest) - n_real, rng))


@dataclass(frozen=True)
class Accumulate(Paradigm):
    """R and every pool so far, all of it (Gerstgrasser et al. 2024)."""

    keeps_all: ClassVar[bool] = True

    def later(self, sizes, t, rng, replicates):
        return self.everything(sizes, t, replicates)


@dataclass(frozen=True)
class AccumulateSubsample(Paradigm):
    """`budget` rows (|R| by default) drawn uniformly without replacement from R and every pool so far (Kazdan et al.
    2024)."""

    budget: Knob = None
    keeps_all: ClassVar[bool] = True

    def later(self, sizes, t, rng, replicates):
        everything = self.everything(sizes, t, replicates)
        budget = self.initial(sizes, 0) if self.budget is None else self.budget(t)
        if budget > len(everything):
            raise UserError(
                f"budget={budget}, but generation {t} has {len(everything)} samples to draw from: lower budget, "
                "or let it "
                "grow, for example budget=[1000,2000,3000]."
            )
        return drawn(everything, budget, rng)


@dataclass(frozen=True)
class Augment(Paradigm):
    """R, fixed, and `n_synthetic` rows of S (all by default): iterative retraining (Bertrand et al. 2023), the
    synthetic augmentation loop of Alemohammad et al. 2023."""

    n_synthetic: Knob = None

    def later(self, sizes, t, rng, replicates):
        return joined(self.real(sizes, t, replicates), synthetic(self, sizes, t, rng, replicates))


@dataclass(frozen=True)
class Fresh(Paradigm):
    """`n_real` real rows that no generation has seen (|R| by default) and `n_synthetic` rows of S (all by default): the
    fresh data loop of Alemohammad et al. 2023. When the real data would run out: an error, never a repeat."""

    n_real: Knob = None
    n_synthetic: Knob = None

    def later(self, sizes, t, rng, replicates):
        used = self.initial(sizes, 0)
        wanted = [used if self.n_real is None else self.n_real(s) for s in range(1, t + 1)]
        first, n = used + sum(wanted[:-1]), wanted[-1]
        if first + n > sizes[REAL]:
            raise UserError(
                f"paradigm=fresh has used {min(first, sizes[REAL])} of {sizes[REAL]} real training samples before "
                f"generation {t} and "
                f"needs {n} more that are new: lower n_initial, n_real or generations (with equal shares, n_initial at "
                f"most {sizes[REAL] // (t + 1)} for {t + 1} generations)."
            )
        return joined(every(REAL, n, replicates, first), synthetic(self, sizes, t, rng, replicates))


@dataclass(frozen=True)
class Edit(Paradigm):
    """Data editing: a data set of |R| rows, of which each generation overwrites a share `edit_fraction` (a tenth by
    default) with the rows at the same places of S, going round the data set in turn (Zhu et al. 2024; section 4.3 of
    Schaeffer et al. 2025).

    A number edits as many rows in every generation; {start: , factor: } with a factor below 1 edits ever fewer.
    """

    edit_fraction: Knob = None
    keeps_all: ClassVar[bool] = True

    def later(self, sizes, t, rng, replicates):
        n = self.initial(sizes, 0)
        origin, first = np.full(n, REAL, np.int32), 0
        for s in range(1, t + 1):
            share = 0.1 if self.edit_fraction is None else self.edit_fraction(s)
            edited = np.arange(first, first + int(share * n + 1e-9)) % n
            if s == 1 and share > 0 and not len(edited):
                raise UserError(f"edit_fraction={share:g} of {n} rows edits none: raise edit_fraction or n_initial.")
            if edited.max(initial=-1) >= sizes[s - 1]:
                raise UserError(
                    f"paradigm=edit overwrites rows of a data set of {n} with those at the same places of the newest "
                    f"pool, but generation {s - 1} left {sizes[s - 1]}: raise n_samples or lower n_initial to match."
                )
            origin[edited] = s - 1
            first += len(edited)
        place = every(REAL, n, replicates)
        return Mix(np.broadcast_to(origin[:, None], place.row.shape), place.row)


def synthetic(rule: Augment | Fresh, sizes: Sizes, t: int, rng: np.random.Generator, replicates: int) -> Mix:
    """n_synthetic rows of S without replacement; all of S by default."""
    newest = rule.newest(sizes, t, replicates)
    n = len(newest) if rule.n_synthetic is None else rule.n_synthetic(t)
    if n > len(newest):
        raise UserError(
            f"n_synthetic={n}, but generation {t - 1} left {len(newest)} samples: lower n_synthetic or raise n_samples."
        )
    return drawn(newest, n, rng)


@dataclass(frozen=True)
class RealOnly(Paradigm):
    """The control: R in every generation, at the same start, sizes and budget, so that what remains is retraining
    alone."""

    def later(self, sizes, t, rng, replicates):
        return self.real(sizes, t, replicates)


NAMES = ("replace", "accumulate", "accumulate_subsample", "augment", "fresh", "edit", "real_only")
