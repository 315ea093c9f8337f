"""Curations: which of the drawn samples later generations may train on. The generator is measured on all of them.

Here are the controls, what curations share, and the way from drawn samples to the pool; each kind of selection has a
file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from imgloop.config.fields import check_settings
from imgloop.config.schedule import Knob, Schedule, knob, read_knobs, value_at
from imgloop.contracts import Context, Correction, Curation, Given, Release
from imgloop.errors import UserError
from imgloop.paradigm import random_subsets
from imgloop.pool import REAL, Mix, Pool, TrainingSet

BY_CLASS = "probabilities of the features' classifier"


class Everything:
    """Releases every sample."""

    def check(self, given: Given) -> None:
        """Any chain."""

    def released(self, n: int, t: int) -> int:
        return n

    def __call__(self, drawn: Pool, context: Context, rng: np.random.Generator) -> Release:
        return Release(np.arange(len(drawn)))


@dataclass(frozen=True)
class Fraction:
    """Releases a share `fraction` of the samples: round(fraction n), at least 1. A subclass says which, and what it
    looks at. The share is a number, a list with one value a generation, or a schedule. Raises UserError for a share
    that releases none, or all in every generation."""

    fraction: Knob = knob(0.5, above=0, high=1, whole=False)
    looks_at: ClassVar[str] = ""

    def __post_init__(self):
        read_knobs(self, lambda name: f"curation.{name}")
        check_settings(self, "curation")

    def check(self, given: Given) -> None:
        """Raise UserError for a solvable system, which has no features, and for a share that selects nothing."""
        self.check_share(given)
        check_images(self.option, given)

    def check_share(self, given: Given) -> None:
        if isinstance(self.fraction, Schedule) and self.fraction.always(1, first=int(given.from_mix)):
            raise UserError(
                f"curation.fraction=1 releases every sample, so that curation={self.option} selects nothing: give a "
                "share below 1, or curation=none.",
                "curation.fraction",
            )

    @property
    def option(self) -> str:
        return type(self).__name__.lower()

    def release(self, rows: np.ndarray, **facts: float) -> Release:
        """A release of `rows`, with what was looked at and `facts` for the record."""
        return Release(rows, facts={"looked_at": self.looks_at, **facts})

    def released(self, n: int, t: int) -> int:
        share = value_at(self.fraction, t)
        if not (count := round(share * n)):
            raise UserError(
                f"curation.fraction={share:g} of the {n} samples of generation {t} releases none: give at least "
                f"{1 / n:.2g}, in a schedule by min, or raise n_samples.",
                "curation.fraction",
            )
        return count


@dataclass(frozen=True)
class Random(Fraction):
    """Releases samples at random, without replacement: fewer samples and no selection, the control of every curation.

    In a solvable system each replicate has a subset of its own.
    """

    looks_at: ClassVar[str] = "nothing"

    def check(self, given: Given) -> None:
        """Any chain; a share of 1 is the control of a curation that keeps everything."""

    def __call__(self, drawn: Pool, context: Context, rng: np.random.Generator) -> Release:
        n, count = len(drawn), self.released(len(drawn), context.t)
        if drawn.x.ndim == 3:  # (N, R, d)
            return self.release(np.sort(random_subsets(n, count, drawn.x.shape[1], rng), axis=0))
        return self.release(np.sort(rng.permutation(n)[:count]))


@dataclass(frozen=True)
class Confident(Fraction):
    """Releases the samples whose most probable class the features' classifier gives the highest probability.

    Needs features that classify (features=classifier, or auto on labelled data); raises UserError for others. Of equal
    probabilities the first sample counts. Source: arXiv 2511.12742.
    """

    looks_at: ClassVar[str] = BY_CLASS

    def check(self, given: Given) -> None:
        self.check_share(given)
        check_classifier("confident", given)

    def __call__(self, drawn: Pool, context: Context, rng: np.random.Generator) -> Release:
        confidence = log_probabilities(logits_of(drawn.x, context, "confident"))
        rows = highest(confidence, self.released(len(drawn), context.t))
        return self.release(rows)


def highest(score: np.ndarray, count: int) -> np.ndarray:
    """Rows of the `count` highest scores (N,), ascending; of equal scores the first count."""
    return np.sort(np.argsort(-score, kind="stable")[:count])


def features_of(x: np.ndarray, context: Context, curation: Fraction) -> np.ndarray:
    """Features of images, float64 (N, D); raises UserError where the chain has no extractor."""
    if context.features is None:
        raise UserError(f"curation={curation.option} looks at images, and this chain has none.", "curation")
    return np.asarray(context.features(x).x, np.float64)


def check_images(option: str, given: Given) -> None:
    """Raise UserError for a solvable system, which has no features."""
    if given.features is None:
        raise UserError(
            f"curation={option} looks at images, and model={given.model} is a solvable system: use curation=random or "
            "curation=verifier.",
            "curation",
        )


def check_classifier(option: str, given: Given) -> None:
    """Raise UserError unless the features classify images."""
    check_images(option, given)
    if not given.logits:
        raise no_classifier(option)


def no_classifier(option: str) -> UserError:
    return UserError(
        f"curation={option} needs a classifier: use labelled images with features=classifier, or another curation, "
        "such as curation=random.",
        "curation",
    )


def logits_of(x: np.ndarray, context: Context, option: str) -> np.ndarray:
    """Logits of images by the features' classifier, (N, K) or (N, P, K); raises UserError where there is none."""
    logits = None if context.features is None else context.features(x).logits
    if logits is None:
        raise no_classifier(option)
    return logits


def log_probabilities(logits: np.ndarray, of_class: int | None = None) -> np.ndarray:
    """Log probability of the class `of_class`, or of the most probable one, float64 (N,), of logits (N, K), or
    (N, P, K) for P parts of an image, whose probabilities multiply: each is a digit of the class, the first the most
    significant."""
    logits = np.asarray(logits, np.float64)
    parts = logits if logits.ndim == 3 else logits[:, None]
    largest = parts.max(-1, keepdims=True)
    of = largest[..., 0]
    if of_class is not None:
        k = parts.shape[2]
        of = np.stack([parts[:, i, of_class // k**p % k] for i, p in enumerate(reversed(range(parts.shape[1])))], 1)
    return (of - largest[..., 0] - np.log(np.exp(parts - largest).sum(-1))).sum(1)


# -- from the drawn samples to the pool, or from a mix to a smaller one ----------------------------------------------


def select(data: TrainingSet, curation: Curation, context: Context, rng: np.random.Generator) -> TrainingSet:
    """The training set that a curation selects from a whole one of images: real rows and samples of all generations
    alike. `context.generator` is the newest that exists. The curation gets the rows in random order, since a mix has
    the real ones first. Raises UserError where no row that is selected has a weight."""
    mix, order = data.mix, rng.permutation(len(data))
    labels = data.labels()
    choice = curation(Pool(data.gather(order), None if labels is None else labels[order]), context, rng)
    chosen = order[np.asarray(choice.rows, np.int64)]
    ascending = np.argsort(chosen, kind="stable")
    rows = chosen[ascending]
    weight = None if mix.weight is None else mix.weight[rows]
    if choice.weight is not None:
        own = np.asarray(choice.weight, float)[ascending, None]
        weight = own if weight is None else weight * own
    if weight is not None and not weight.any():
        raise UserError(
            f"The curation selected {len(rows)} rows for generation {context.t}, and all have the weight 0 "
            "(real_weight=0 gives it to real rows): give real_weight above 0, or another curation.",
            "real_weight",
        )
    facts = {"of": "mix", "n_before": len(mix), "share": len(rows) / len(mix)}
    facts |= {"real_share_before": mix.shares().get(REAL, 0.0), **choice.facts}
    return TrainingSet(data.pools, Mix(mix.origin[rows], mix.row[rows], weight), facts)


@dataclass(frozen=True)
class Released:
    """The pool that later generations may train on, and where it comes from: `rows` of the drawn samples, int64 (n,) or
    (n, R), and whether each was `corrected`, bool of that shape; both None where the pool is what was drawn. `facts`:
    what the curation records."""

    pool: Pool
    rows: np.ndarray | None = None
    corrected: np.ndarray | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


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
        return Released(Pool(np.asarray(x[rows]), y, choice.weight), rows, changed[rows], choice.facts)
    pool = Pool(np.take_along_axis(x, rows[:, :, None], 0), None, choice.weight)  # each replicate its own
    return Released(pool, rows, np.take_along_axis(changed, rows, 0), choice.facts)
