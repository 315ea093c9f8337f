"""Another program's images, and the real images beside them, as pools: float levels, sizes, held-out part."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from imgloop import store
from imgloop.data.real import HELDOUT_MOST, HELDOUT_SHARE, Facts, RealData, order, pair_facts, size_facts
from imgloop.errors import UserError
from imgloop.importing.layout import ARRAYS
from imgloop.metrics.evaluator import LEAST
from imgloop.metrics.images import ImageSet, read, relabelled, span
from imgloop.metrics.scoring import alike, chosen
from imgloop.metrics.trained import fingerprints
from imgloop.pool import Pool

LEVELS = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0)}  # black and white of images that are floats
ROUNDING = 1e-4  # floats may be so far beyond black and white
MOST = 0.05  # share of held-out images that recur among the training images: published sets have some duplicates
COPIES = 0.5  # share of generation 0 that no model draws as exact copies of real images
SEEN = (
    "The held-out images were split off the real ones, and the models may have been trained on them: --heldout PATH "
    "names images that no model has seen."
)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Levels:
    """Black and white of images that are floats (None: there are none), and what was assumed of them in a sentence."""

    values: tuple[float, float] | None
    assumed: str = ""


def levels_of(paths: Iterable[Path], told: str | None, what: str) -> Levels:
    """The levels of all floats in the arrays `paths`, which must agree: `told` (a key of LEVELS), else 0 to 1 where no
    value is negative, and -1 to 1 where one is. what: the images in words. Raises UserError for values beyond."""
    spans = {p: s for p in paths if p.suffix.lower() in ARRAYS and (s := span(p)) is not None}
    if not spans:
        return Levels(None)
    low, high = min(s[0] for s in spans.values()), max(s[1] for s in spans.values())
    name = told or ("signed" if low < -ROUNDING else "unit")
    black, white = LEVELS[name]
    if low < black - ROUNDING or high > white + ROUNDING:
        path = next(p for p, s in spans.items() if s[0] < black - ROUNDING or s[1] > white + ROUNDING)
        raise UserError(
            f"{path} holds floats from {spans[path][0]:.4g} to {spans[path][1]:.4g}, beyond {black:g} to {white:g}: "
            "scale and clip them to 0 to 1 or -1 to 1 (--levels unit or signed), or store uint8."
        )
    text = f"{what} are floats from {low:.3g} to {high:.3g}, read as {black:g} (black) to {white:g} (white)"
    return Levels((black, white), text + ("" if told else f": assumed, --levels {name} says so"))


def drawn_images(
    path: Path, real: RealData, where: Path, levels: Levels, size: int | None, n: int | None, progress: Progress | None
) -> Pool:
    """The images that a generation drew, `n` of them at random or all, with the channels of the real ones.

    where: the path of the real images. Raises UserError for images of another size, and for too few.
    """
    images = read(path, size, None, progress, levels.values)
    return Pool(chosen(alike(real.train.x.shape[1:], images, path, where), n, path).pool.x)


def check_drawn(pool: Pool, real: RealData, source: Path, number: int) -> None:
    """Raise UserError if what should be drawn by generation 0 is a copy of the real images."""
    known = np.concatenate([fingerprints(real.train.x), fingerprints(real.heldout.x)])
    if (share := float(np.isin(fingerprints(pool.x), known).mean())) > COPIES:
        raise UserError(
            f"{source}: {share:.0%} of these images are exact copies of real ones, so that no model drew them: give "
            f"--first {number + 1} if this is the real data, beside what the models drew."
        )


def real_images(
    path: Path, heldout: Path | None, told: str | None, size: int | None, progress: Progress | None
) -> tuple[RealData, Levels]:
    """The real images and what was assumed of them: the training part, and the held-out part, which is `heldout`, else
    the test part of `path`, else a fifth of it at random, 2,000 at most.

    Raises UserError for images that cannot be read, of several sizes, or too few to measure against.
    """
    levels = levels_of([p for p in (path, heldout) if p is not None], told, "the real images")
    images = read(path, size, None, progress, levels.values)
    if images.test is not None and heldout is not None:
        raise UserError(f"{path} has a test part, which is held out: leave --heldout out, or give --real its train/.")
    images = with_classes(images)
    train, held, classes, split = images.pool, images.test, images.classes, False
    if heldout is not None:
        other = read(heldout, size, None, progress, levels.values)
        other = other if other.test is None else ImageSet(other.test, None, other.classes)
        other = alike(train.x.shape[1:], other, heldout, path)
        held = Pool(other.pool.x, relabelled(other, classes))
        where = f"held out: {heldout}"
    elif held is not None:
        where = "held out: its test part"
    else:
        rows, split = order(len(train), 0), True
        count = min(int(HELDOUT_SHARE * len(train)), HELDOUT_MOST)
        held, train = part(train, rows[:count]), part(train, rows[count:])
        where = f"held out: {count:,} of them at random"
    if len(held) < LEAST:
        raise UserError(
            f"{len(held)} held-out images are too few to measure against; {LEAST} are needed, and 250 or more make "
            f"sense: give more real images, or --heldout PATH ({path}; {where})."
        )
    if classes is not None and (held.y is None or set(np.unique(held.y)) != set(range(len(classes)))):
        train, held, classes = Pool(train.x), Pool(held.x), None
        levels = replace(levels, assumed="; ".join(filter(None, (levels.assumed, UNLABELLED))))
    sources = {name: facts_of(p) for name, p in (("real", path), ("heldout", heldout)) if p is not None}
    sizes = size_facts(train, held, classes)
    facts = Facts(
        label=path.resolve().stem,
        source=f"images in {path}; {where}",
        split=split,
        extra=sources,
        **{k: v for k, v in (sizes | pair_facts(train, held)).items() if k != "warning"},
    )
    same = facts.exact_duplicates or 0
    twice = f"{same} of the held-out images are training images, which the models have seen."
    few = sizes.get("warning", "").replace("raise data.heldout or add images", "give more with --heldout")
    for warning in filter(None, (SEEN if split else "", twice if same > MOST * len(held) else "", few)):
        facts = facts.warned(warning)
    return RealData(train, held, classes, facts), levels


UNLABELLED = "the real images are used without classes, since the held-out ones do not have the same"


def with_classes(images: ImageSet) -> ImageSet:
    """A set whose labels have names of classes; a single class is none."""
    pool, test, classes = images.pool, images.test, images.classes
    if classes is None and pool.y is not None:
        values, index = np.unique(pool.y, return_inverse=True)
        classes, pool = tuple(map(str, values)), Pool(pool.x, index.astype(np.int64))
    if classes is not None and len(classes) < 2:
        classes, pool, test = None, Pool(pool.x), test and Pool(test.x)
    return ImageSet(pool, test, classes)


def part(pool: Pool, rows: np.ndarray) -> Pool:
    """The rows of a pool, copied."""
    return Pool(pool.x[rows], None if pool.y is None else pool.y[rows])


def facts_of(path: Path) -> str:
    """Where images come from, and the hash of their files, for facts.json."""
    return f"{path.resolve()}, SHA-256 {store.file_hash(path)}"
