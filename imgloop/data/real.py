"""What all sources of real data share: their result, its facts, and the split into training and held-out images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from imgloop.data.classes import long_tail
from imgloop.data.duplicates import NEAR, duplicates
from imgloop.errors import UserError
from imgloop.pool import Pool
from imgloop.store import array_hash, seed_of

MANY_CLASSES = 12  # from here on, a line does not name each class
TAIL_IMAGES = 250  # held-out images: 200 for the thresholds of tail scores, 50 to measure distances to
HELDOUT_SHARE, HELDOUT_MOST = 0.2, 2000  # the default: enough for thresholds, cheap enough for distances of all pairs


@dataclass(frozen=True)
class Facts:
    """What is known of real data besides the images; JSON-able. Only the label is required; None: not known.

    label: the name in tables and figures. source: where the images come from, in words. set: the name of a known data
    set, only where its content was checked: a folder's name proves nothing. available: images to choose from (None for
    generated data, which has no end). seed, imbalance: the settings. rules: the name of the rules that images keep, for
    `judge_of`. mode_frequencies: the probability of each class. shape: (C, H, W). class_counts: training images by
    class. warning: a sentence for the user. near_duplicates, exact_duplicates: held-out images with a training image
    within near_duplicate_rms grey levels (root mean square), or equal to one. ignored: files of other kinds by
    extension. unused: images of further test parts by folder. skipped, skipped_first: number and first names of broken
    files. read, converted, cropped: files that were read, how many of them had other pixels (by kind) or were no
    squares. flipped: whether the images are `RealData.mirrored`. reference, split: the images that `python -m
    imgloop.metrics` compares with, and whether it split them off.
    extra: facts of a user's own source.
    """

    label: str
    set: str | None = None
    source: str | None = None
    available: int | None = None
    seed: int | None = None
    imbalance: float | None = None
    rules: str | None = None
    mode_frequencies: list[float] | None = None
    n_train: int | None = None
    n_heldout: int | None = None
    shape: list[int] | None = None
    classes: list[str] | None = None
    class_counts: list[int] | None = None
    hash_train: str | None = None
    hash_heldout: str | None = None
    near_duplicates: int | None = None
    exact_duplicates: int | None = None
    near_duplicate_rms: float | None = None
    ignored: dict[str, int] | None = None
    unused: dict[str, int] | None = None
    skipped: int | None = None
    skipped_first: list[str] | None = None
    read: int | None = None
    converted: dict[str, int] | None = None
    cropped: int | None = None
    flipped: bool | None = None
    reference: str | None = None
    split: bool | None = None
    warning: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Facts:
        """The facts that `to_dict` gave; unknown keys go into `extra`. Raises UserError without a label."""
        if "label" not in values:
            raise UserError("The facts of real data have no label.")
        names = {f.name for f in fields(cls)} - {"extra"}
        known = {k: v for k, v in values.items() if k in names}
        return cls(**known, extra={k: v for k, v in values.items() if k not in names})

    def to_dict(self) -> dict[str, Any]:
        """The known facts by name, `extra` last; a warning about the sizes follows them."""
        names = [f.name for f in fields(self) if f.name not in ("warning", "extra")]
        small = self.n_heldout is not None and self.n_heldout < TAIL_IMAGES
        names.insert(names.index("hash_train") if small else len(names), "warning")
        # None is a fact of split images: no limit to what is available, no classes.
        stated = {"available", "classes"} if self.n_train is not None else set()
        values = {name: getattr(self, name) for name in names}
        return {k: v for k, v in values.items() if v is not None or k in stated} | dict(self.extra)

    def warned(self, text: str) -> Facts:
        """The same facts with one more warning."""
        return replace(self, warning=" ".join(filter(None, [self.warning, text])))


@dataclass(frozen=True)
class RealData:
    """Real images, split once: `train` may be trained on, `heldout` is seen by no generator of the study.

    Images are uint8 (N, C, H, W), perhaps memory-mapped; labels, int64 (N,), index `classes`; both may be None.
    """

    train: Pool
    heldout: Pool
    classes: tuple[str, ...] | None
    facts: Facts

    def lines(self) -> list[str]:
        """What is known of the images, in a few lines: numbers, classes with training images, and files."""
        facts, pairs = self.facts, ""
        if facts.near_duplicates is not None and facts.available:  # of drawn data, plain backgrounds are alike
            pairs = f"; {facts.near_duplicates:,} held-out nearly equal to a training image"
        source = f" of {facts.available:,}" if facts.available else ""
        lines = [f"{facts.label}: {len(self.train):,} training images, {len(self.heldout):,} held out{source}{pairs}"]
        if self.classes is not None and facts.class_counts:
            lines.append(class_line(self.classes, facts.class_counts))
        parts = [] if facts.read is None else [f"{facts.read:,} read"]
        parts += [f"{facts.skipped:,} skipped ({_some(facts.skipped_first or [])})"] if facts.skipped else []
        parts += [f"{sum(facts.ignored.values()):,} ignored ({_counted(facts.ignored)})"] if facts.ignored else []
        parts += [f"{count:,} in {part}/ not used" for part, count in (facts.unused or {}).items()]
        if facts.converted:
            kind = "colour" if self.train.x.shape[1] == 3 else "grey"
            parts.append(f"{sum(facts.converted.values()):,} converted to {kind} ({_counted(facts.converted)})")
        parts += [f"{facts.cropped:,} cropped to a square"] if facts.cropped else []
        return lines + ([f"files: {', '.join(parts)}"] if parts else [])

    def mirrored(self) -> RealData:
        """The real data that a generator trained with `train.flip=true` is compared with.

        Each held-out image is mirrored horizontally with probability 1/2: they stay independent draws from the
        distribution that is learned, so that null values hold. Training images come in both orientations, since samples
        may be copies of either.
        """
        mirror = np.random.default_rng(seed_of("flip")).random(len(self.heldout)) < 0.5
        heldout, train = np.array(self.heldout.x), np.asarray(self.train.x)
        heldout[mirror] = heldout[mirror, ..., ::-1]
        labels = None if self.train.y is None else np.concatenate([self.train.y] * 2)
        return RealData(
            Pool(np.concatenate([train, train[..., ::-1]]), labels),
            Pool(heldout, self.heldout.y),
            self.classes,
            replace(self.facts, flipped=True),
        )

    def check_classes(self) -> None:
        """Raise UserError unless every class has a training image, which a class-conditional model needs."""
        if self.classes is None or self.train.y is None:
            raise UserError(
                "model.conditional=true needs labelled data: give images in one sub-folder per class, or "
                "model.conditional=false.",
                "model.conditional",
            )
        missing = np.flatnonzero(np.bincount(self.train.y, minlength=len(self.classes)) == 0)
        if len(missing):
            raise UserError(
                f"model.conditional=true needs a training image of every class, and {len(missing)} of "
                f"{len(self.classes)} have none, such as {self.classes[missing[0]]}: raise data.n, or choose "
                "classes with data.classes.",
                "model.conditional",
            )


def class_line(classes: Sequence[str], counts: Sequence[int]) -> str:
    """Classes with their numbers of training images; of many the range, and small ones, below half of the mean."""
    by_size = sorted(zip(counts, classes), key=lambda item: item[0])
    if len(classes) <= MANY_CLASSES:
        line = f"{len(classes)} classes: {', '.join(f'{name}: {count:,}' for name, count in zip(classes, counts))}"
    else:
        line = f"{len(classes)} classes of {by_size[0][0]:,} to {by_size[-1][0]:,} training images"
    small = [f"{name}: {count:,}" for count, name in by_size if 2 * count * len(counts) < sum(counts)]
    return f"{line}; small: {_some(small)}" if small else line


def _counted(counts: Mapping[str, int]) -> str:
    return _some([f"{kind} {count:,}" for kind, count in counts.items()])


def _some(items: Sequence[str], most: int = 5) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def order(count: int, seed: int) -> np.ndarray:
    """The order in which `count` images are used, int64 (count,): a permutation keyed by `data.seed` alone."""
    return np.random.default_rng(seed_of(seed, "split")).permutation(count)


def sizes(available: int, test: int | None, n: int | None, heldout: int | None) -> tuple[int, int]:
    """Numbers of training and held-out images, None meaning the default; raises UserError where there are too few.

    `available` counts the images to choose from, `test` those of the source's own test part (None: it has none, and
    held-out images are taken from `available` first, so that they do not depend on `n`).
    """
    given = heldout is not None
    if heldout is None:
        most = int(available * HELDOUT_SHARE) if test is None else test
        heldout = max(1, min(most, HELDOUT_MOST))
    if test is not None and heldout > test:
        raise UserError(
            f"data.heldout={heldout} is more than the {test} images of the test part; use {test} or fewer.",
            "data.heldout",
        )
    if test is None and heldout >= available:
        raise UserError(
            f"data.heldout={heldout} leaves nothing to train on: there are {available} images; "
            + ("lower data.heldout or add images." if given else "add images."),
            "data.heldout",
        )
    left = available - (heldout if test is None else 0)
    if n is not None and n > left:
        source = f" that remain of {available} without {heldout} held-out ones" if test is None else ""
        raise UserError(
            f"data.n={n} is more than the {left} training images{source}; lower data.n"
            f"{' or data.heldout' if test is None else ''}, or use data.n=null for all.",
            "data.n",
        )
    if left < 1:
        raise UserError("The training part contains no usable image; add images.")
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
    smaller `n` is a prefix of a larger one; with `imbalance`, of the rows of the rest that `long_tail` selects, which
    are copied.
    """
    count, heldout = sizes(len(pool), None if test is None else len(test), n if imbalance is None else None, heldout)
    skip = heldout if test is None else 0
    held = _part(pool if test is None else test, slice(0, heldout))
    if imbalance is None:
        return _part(pool, slice(skip, skip + count)), held
    if classes is None or pool.y is None:
        raise UserError(
            f"data.imbalance={imbalance:g} needs classes, and these images have none; remove it.", "data.imbalance"
        )
    rows = long_tail(pool.y[skip:], classes, imbalance)
    if n is not None and n > len(rows):
        raise UserError(
            f"data.n={n} is more than the {len(rows)} training images that data.imbalance={imbalance:g} selects; "
            "lower one of them, or use data.n=null for all.",
            "data.n",
        )
    return _part(pool, skip + rows[:n]), held


def _part(pool: Pool, rows: slice | np.ndarray) -> Pool:
    return Pool(pool.x[rows], None if pool.y is None else np.asarray(pool.y[rows]))


def pair_facts(train: Pool, heldout: Pool) -> dict[str, Any]:
    """Facts computed from all images: hashes of both parts, and held-out images that recur in the training part."""
    near, exact = duplicates(train.x, heldout.x)
    return {
        "hash_train": array_hash(train.x, train.y),
        "hash_heldout": array_hash(heldout.x, heldout.y),
        "near_duplicates": near,
        "exact_duplicates": exact,
        "near_duplicate_rms": NEAR,
    }


def size_facts(train: Pool, heldout: Pool, classes: Sequence[str] | None) -> dict[str, Any]:
    """Facts about sizes and classes, with a `warning` where the held-out part is too small for tail scores."""
    facts: dict[str, Any] = {
        "n_train": len(train),
        "n_heldout": len(heldout),
        "shape": [int(k) for k in train.x.shape[1:]],
        "classes": None if classes is None else list(classes),
    }
    if train.y is not None:
        facts["class_counts"] = np.bincount(train.y, minlength=len(classes or ())).tolist()
    if len(heldout) < TAIL_IMAGES:
        facts["warning"] = (
            f"{len(heldout)} held-out images: tail scores need {TAIL_IMAGES} and stay empty; "
            "raise data.heldout or add images."
        )
    return facts


def check_classes_settings(classes: Any, imbalance: float | None) -> None:
    """Raise UserError unless `classes` is None or a list of names and numbers, and fits `imbalance`."""
    listed = isinstance(classes, list | tuple) and all(
        isinstance(c, str | int) and not isinstance(c, bool) for c in classes
    )
    if classes is not None and not (listed and len(classes)):
        raise UserError(
            f"data.classes={classes!r}: give a list of class names or numbers, for example [0,3], or null for all.",
            "data.classes",
        )
    if imbalance is not None and classes is not None and len(classes) == 1:
        raise UserError(f"data.imbalance={imbalance:g} has no effect on one class; remove it.", "data.imbalance")
