"""What every source of real data shares: the result, the split into training and held-out, the checks of settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imgloop.data.classes import long_tail
from imgloop.data.duplicates import NEAR, duplicates
from imgloop.errors import UserError
from imgloop.pool import Pool
from imgloop.store import array_hash, seed_of

TAIL_IMAGES = 250  # held-out images: 200 for the thresholds of tail scores, 50 to measure distances to
HELDOUT_SHARE, HELDOUT_MOST = 0.2, 2000  # the default: enough for thresholds, cheap enough for distances of all pairs


@dataclass(frozen=True)
class RealData:
    """Real images, split once: `train` may be trained on, `heldout` is seen by no generator of the study.

    Images are uint8 (N, C, H, W), perhaps memory-mapped; labels, int64 (N,), index `classes`; both may be None.
    `facts` is JSON-able: label, source, sizes, hashes, duplicates between the parts, files left out, warning; `set`,
    the name of a known data set, only where its content was checked: a folder's name proves nothing.
    """

    train: Pool
    heldout: Pool
    classes: tuple[str, ...] | None
    facts: dict

    def check_classes(self) -> None:
        """Raise UserError unless the images have classes, each with a training image: what a class-conditional model
        needs."""
        if self.classes is None or self.train.y is None:
            raise UserError(
                "model.conditional=true needs labelled data: give images in one sub-folder a class, or "
                "model.conditional=false."
            )
        missing = np.flatnonzero(np.bincount(self.train.y, minlength=len(self.classes)) == 0)
        if len(missing):
            raise UserError(
                f"model.conditional=true needs a training image of every class, and {len(missing)} of "
                f"{len(self.classes)} have none, such as {self.classes[missing[0]]}: raise data.n, or leave classes "
                "out by data.classes."
            )


def order(count: int, seed: int) -> np.ndarray:
    """The order in which `count` images are drawn, int64 (count,): a permutation keyed by `data.seed` alone."""
    return np.random.default_rng(seed_of(seed, "split")).permutation(count)


def sizes(available: int, test: int | None, n: int | None, heldout: int | None) -> tuple[int, int]:
    """Numbers of training and held-out images, None meaning the default; raises UserError where there are too few.

    `available` counts the images to draw from, `test` those of the source's own test part (None: it has none, and
    held-out images are taken from `available` first, so that they do not depend on `n`).
    """
    if heldout is None:
        most = int(available * HELDOUT_SHARE) if test is None else test
        heldout = max(1, min(most, HELDOUT_MOST))
    if test is not None and heldout > test:
        raise UserError(f"data.heldout={heldout} is more than the {test} images of the test part; use {test} or fewer.")
    if test is None and heldout >= available:
        raise UserError(
            f"data.heldout={heldout} leaves nothing to train on: there are {available} images; "
            "lower data.heldout or add images."
        )
    left = available - (heldout if test is None else 0)
    if n is not None and n > left:
        source = f" that {heldout} held-out ones leave of {available}" if test is None else ""
        raise UserError(
            f"data.n={n} is more than the {left} training images{source}; lower data.n"
            f"{' or data.heldout' if test is None else ''}, or use data.n=null for all."
        )
    if left < 1:
        raise UserError("The training part holds no usable image; add images.")
    return left if n is None else n, heldout


def split(
    pool: Pool,
    test: Pool | None,
    n: int | None,
    heldout: int | None,
    classes: Sequence[str] | None = None,
    imbalance: float | None = None,
) -> tuple[Pool, Pool]:
    """Training and held-out pools as slices, without a copy, of pools that are already in the order of `order`.

    Held-out: the first images of the test part, or else of `pool`. Training: the first `n` of the rest, so that a
    smaller `n` is a prefix of a larger one; with `imbalance`, of the rows of the rest that `long_tail` leaves, which
    are copied.
    """
    count, heldout = sizes(len(pool), None if test is None else len(test), n if imbalance is None else None, heldout)
    skip = heldout if test is None else 0
    held = _part(pool if test is None else test, slice(0, heldout))
    if imbalance is None:
        return _part(pool, slice(skip, skip + count)), held
    if classes is None:
        raise UserError(f"data.imbalance={imbalance:g} needs classes, and these images have none; leave it out.")
    rows = long_tail(pool.y[skip:], classes, imbalance)
    if n is not None and n > len(rows):
        raise UserError(
            f"data.n={n} is more than the {len(rows)} training images that data.imbalance={imbalance:g} leaves; "
            "lower one of them, or use data.n=null for all."
        )
    return _part(pool, skip + rows[:n]), held


def _part(pool: Pool, rows: slice | np.ndarray) -> Pool:
    return Pool(pool.x[rows], None if pool.y is None else np.asarray(pool.y[rows]))


def pair_facts(train: Pool, heldout: Pool) -> dict:
    """What only the images tell: hashes of both parts, and how many held-out images recur in the training part."""
    near, exact = duplicates(train.x, heldout.x)
    return {
        "hash_train": array_hash(train.x, train.y),
        "hash_heldout": array_hash(heldout.x, heldout.y),
        "near_duplicates": near,
        "exact_duplicates": exact,
        "near_duplicate_rms": NEAR,
    }


def size_facts(train: Pool, heldout: Pool, classes: Sequence[str] | None) -> dict:
    """Sizes and classes, and a `warning` where the held-out part is too small for tail scores."""
    facts = {
        "n_train": len(train),
        "n_heldout": len(heldout),
        "shape": [int(k) for k in train.x.shape[1:]],
        "classes": None if classes is None else list(classes),
    }
    if train.y is not None:
        facts["class_counts"] = np.bincount(train.y, minlength=len(classes)).tolist()  # of the training part
    if len(heldout) < TAIL_IMAGES:
        facts["warning"] = (
            f"{len(heldout)} held-out images: tail scores need {TAIL_IMAGES} and stay empty; "
            "raise data.heldout or add images."
        )
    return facts


def check_integer(name: str, value, low: int, high: int | None = None, optional: bool = False) -> None:
    """Raise UserError unless `value` is an integer in [low, high], or None where `optional`."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        allowed = f"of {low} or more" if high is None else f"from {low} to {high}"
        raise UserError(
            f"data.{name}={value!r} is not possible; use an integer {allowed}"
            f"{', or null for the default' if optional else ''}."
        )


def check_choice(classes, imbalance) -> None:
    """Raise UserError unless `classes` is None or a list of names and numbers, and `imbalance` None or 1 or more."""
    kinds = isinstance(classes, list | tuple) and all(
        isinstance(c, str | int) and c is not True and c is not False for c in classes
    )
    if classes is not None and not (kinds and len(classes)):
        raise UserError(
            f"data.classes={classes!r} is not possible; give a list of class names or numbers, for example [0,3], or "
            "null for all."
        )
    if imbalance is None:
        return
    check_number("imbalance", imbalance, 1, " (largest over smallest class), or null to leave the classes as they are")
    if classes is not None and len(classes) == 1:
        raise UserError(f"data.imbalance={imbalance:g} has no effect on one class; leave it out.")


def check_number(name: str, value, low: float, more: str = "") -> None:
    """Raise UserError unless `value` is a finite number of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < float("inf"):
        raise UserError(f"data.{name}={value!r} is not possible; use a number of {low:g} or more{more}.")


def check_channels(value) -> None:
    """Raise UserError unless `value` is 1 or 3."""
    if type(value) is not int or value not in (1, 3):
        raise UserError(f"data.channels={value!r} is not possible; use 3 for colour or 1 for grey.")


def check_switch(name: str, value) -> None:
    """Raise UserError unless `value` is a boolean."""
    if not isinstance(value, bool):
        raise UserError(f"data.{name}={value!r} is not possible; use true or false.")
