"""Curations: which of the drawn samples later generations may train on. The generator is measured on all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from imgloop.config.fields import check_settings, setting
from imgloop.contracts import Context, Correction, Curation, Release
from imgloop.errors import UserError
from imgloop.paradigm import random_subsets
from imgloop.pool import Pool


class Everything:
    """Releases every sample."""

    def released(self, n: int) -> int:
        return n

    def __call__(self, drawn: Pool, context: Context, rng: np.random.Generator) -> Release:
        return Release(np.arange(len(drawn)))


@dataclass(frozen=True)
class Fraction:
    """Releases a share `fraction` of the samples: round(fraction n), at least 1."""

    fraction: float = setting(0.5, above=0, high=1)

    def __post_init__(self):
        check_settings(self, "curation")

    def released(self, n: int) -> int:
        return max(1, round(self.fraction * n))


@dataclass(frozen=True)
class Random(Fraction):
    """Releases samples at random, without replacement: fewer samples and no selection, the control of every curation.

    In a solvable system each replicate has a subset of its own.
    """

    def __call__(self, drawn: Pool, context: Context, rng: np.random.Generator) -> Release:
        n, count = len(drawn), self.released(len(drawn))
        if drawn.x.ndim == 3:  # (N, R, d)
            return Release(np.sort(random_subsets(n, count, drawn.x.shape[1], rng), axis=0))
        return Release(np.sort(rng.permutation(n)[:count]))


@dataclass(frozen=True)
class Confident(Fraction):
    """Releases the samples whose most probable class the features' classifier gives the highest probability.

    Needs features that classify (features=classifier, or auto on labelled data); raises UserError for others. Of equal
    probabilities the first sample counts.
    """

    def __call__(self, drawn: Pool, context: Context, rng: np.random.Generator) -> Release:
        logits = None if context.features is None else context.features(drawn.x).logits
        if logits is None:
            raise UserError(
                "curation=confident needs a classifier: use labelled images with features=classifier, or another "
                "curation, such as curation=random.",
                "curation",
            )
        confidence = log_probability(logits)
        order = np.argsort(-confidence, kind="stable")
        return Release(np.sort(order[: self.released(len(drawn))]))


def log_probability(logits: np.ndarray) -> np.ndarray:
    """Log probability of the most probable class, float64 (N,), of logits (N, K), or (N, P, K) for P parts of an image,
    whose probabilities multiply."""
    logits = np.asarray(logits, np.float64)
    largest = logits.max(-1, keepdims=True)
    best = -np.log(np.exp(logits - largest).sum(-1))
    return best if best.ndim == 1 else best.sum(1)


# -- from the drawn samples to the pool ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Released:
    """The pool that later generations may train on, and where it comes from: `rows` of the drawn samples, int64 (n,) or
    (n, R), and whether each was `corrected`, bool of that shape; both None where the pool is what was drawn."""

    pool: Pool
    rows: np.ndarray | None = None
    corrected: np.ndarray | None = None


def release(
    drawn: Pool,
    correction: Correction,
    curation: Curation,
    context: Context,
    rng: Callable[[str], np.random.Generator],
) -> Released:
    """Correct the drawn samples, then curate them; `rng(purpose)` gives the random numbers of either stage."""
    x = correction(drawn.x, context, rng("correction"))
    moved = drawn if x is drawn.x else Pool(x, drawn.y)
    choice = curation(moved, context, rng("curation"))
    rows, n = np.asarray(choice.rows, np.int64), len(drawn)
    if moved is drawn and choice.weight is None and rows.ndim == 1 and np.array_equal(rows, np.arange(n)):
        return Released(drawn)
    changed = np.zeros(x.shape[: 2 if x.ndim == 3 else 1], bool)
    if moved is not drawn:
        changed = (x != drawn.x).any(axis=tuple(range(changed.ndim, x.ndim)))
    y = None if drawn.y is None else np.asarray(drawn.y)[rows]
    if rows.ndim == 1:
        return Released(Pool(np.asarray(x[rows]), y, choice.weight), rows, changed[rows])
    pool = Pool(np.take_along_axis(x, rows[:, :, None], 0), None, choice.weight)  # each replicate its own
    return Released(pool, rows, np.take_along_axis(changed, rows, 0))
