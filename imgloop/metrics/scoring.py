"""Scores of one set of images against another, whoever made them: what `python -m imgloop.metrics` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgloop import store
from imgloop.data.real import HELDOUT_MOST, HELDOUT_SHARE, Facts, RealData, order
from imgloop.errors import UserError
from imgloop.metrics.evaluator import K_DENSITY, K_PRECISION, LEAST_SAMPLES, Evaluator
from imgloop.metrics.frechet import frechet_distance, frechet_infinity
from imgloop.metrics.images import ImageSet, read, relabelled
from imgloop.metrics.manifold import RealManifold, manifold_scores
from imgloop.metrics.neighbours import nearest2
from imgloop.metrics.variance import variance_ratio
from imgloop.pool import Pool

TRAINED = ("auto", "classifier")  # options that may learn from the real images, which are then split
BESIDE = 2  # training images shown beside a sample
NEAR = 0.5  # of a training image's distance to its own nearest other: what is closer to it is all but a copy


@dataclass(frozen=True)
class Nearest:
    """For each sample the indices of its nearest training images, int64 (N, 2), and distances to them, float64 (N, 2);
    `usual` (M,): the distances of the training images to their own nearest other."""

    index: np.ndarray
    distance: np.ndarray
    usual: np.ndarray

    @property
    def closer(self) -> np.ndarray:
        """Distance to the nearest training image over that image's own to its nearest other, (N,): 0 for a copy."""
        usual, distance = self.usual[self.index[:, 0]], self.distance[:, 0]
        return np.divide(distance, usual, out=np.where(distance > 0, np.inf, 0.0), where=usual > 0)


@dataclass(frozen=True)
class Report:
    """What was measured of one set: protocol, scores, notes, scores by class, and who is nearest to whom."""

    name: str
    protocol: dict[str, Any]
    scores: dict[str, Any]
    notes: dict[str, Any]
    classes: dict[str, dict[str, Any]] | None
    samples: Pool
    features: np.ndarray  # of the samples, (N, D)
    train: Pool
    nearest: Nearest
    reference: dict[str, Any]  # what real images read of real images: two halves of the reference, and the training set

    @property
    def distance(self) -> str:
        """What the Frechet distance may be called: FID only with the original Inception weights."""
        return "FID" if self.protocol.get("fid") else "fd"

    def to_json(self) -> dict[str, Any]:
        return {
            "generated": self.name,
            "protocol": self.protocol,
            "scores": {k.replace("fd", self.distance.lower()): v for k, v in self.scores.items()},
            "notes": self.notes,
            "real_against_real": self.reference,
            "classes": self.classes,
        }


def score(
    real: str | Path,
    generated: str | Path | Sequence[str | Path],
    features: str = "auto",
    *,
    options: Mapping[str, Any] | None = None,
    train: str | Path | None = None,
    size: int | None = None,
    n: int | None = None,
    infinity: bool = False,
    cache: Path | None = None,
    device: str = "cpu",
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
) -> list[Report]:
    """Measure one or more `generated` sets of images against a `real` one; see `imgloop.metrics.images.read` for what
    a set can be.

    The reference is the real set's own test part where it has one, else all of it; where features come from a
    classifier that it trains, a held-out fifth (2,000 images at most), which the classifier does not see. `train`: the
    images that the generator was trained on, if they are others: copies are looked for among them, and a classifier
    learns from them. Without it copies are looked for among the real images, but not in a test part. `features` and its
    `options` are those of the `features` group. `n`: score n of each set, drawn at random with a fixed seed. `size`:
    reduce all images to it. `infinity`: also `fd_infinity`, see `frechet_infinity`.
    `progress(stage)` gives the callback of a stage. Features of real images are kept in `cache`. Raises UserError.
    """
    from imgloop.config.settings import build, parsed
    from imgloop.metrics.protocol import require_one

    told = progress or (lambda stage: None)
    many = [generated] if isinstance(generated, str | Path) else list(generated)
    node = parsed([f"features={features}"]).config["features"]
    for key, value in (options or {}).items():
        if key not in node or key.startswith("_"):
            known = ", ".join(k for k in node if not k.startswith("_")) or "none"
            raise UserError(f"features={features} has no setting {key!r}; it has: {known}.")
        node[key] = value
    found = read(real, size, None, told("reading real images"))
    shape = found.pool.x.shape[1:]
    sets = [
        (str(g), chosen(_like(shape, read(g, size, None, told("reading samples")), g, real, size), n, g)) for g in many
    ]
    require_one({name: {"n_generated": len(s.pool)} for name, s in sets})  # before anything long
    data = divided(found, Path(real).name, train is None and features in TRAINED)
    if train is not None:
        copied = _like(shape, read(train, size, None, told("reading training images")), train, real, size)
        data = RealData(Pool(copied.pool.x, relabelled(copied, data.classes)), data.heldout, data.classes, data.facts)
        if data.classes is not None and data.train.y is None and features in TRAINED:
            raise UserError(
                f"{train} has not the classes of {real}, from which features={features} are learned: leave --train "
                "out, or use features=random."
            )
    cache = cache or store.cache_folder() / "metrics"
    extractor = build(node, real=data, shared=cache, device=device, progress=told("preparing features"))
    extractor.progress = told("extracting features")
    searching = told("searching neighbours")
    evaluator = Evaluator(extractor, data, cache, searching)
    evaluator.protocol |= {"reference": data.facts.reference, "size": shape[-1], "channels": shape[0]}
    evaluator.protocol |= {"reduced": size is not None}
    known, copied_from = data.train, evaluator.train
    if data.facts.split:  # a sample may copy what was held out from the classifier as well
        known = Pool(np.concatenate([data.train.x, data.heldout.x]))
        both = np.concatenate([evaluator.train.features, evaluator.heldout])  # extracted once
        kept = evaluator.kept("known", lambda: RealManifold.of(both, 1, device=device, progress=searching))
        copied_from = RealManifold.from_arrays(both, kept)
    if evaluator.apart and not data.facts.split:
        seen = nearest_of(evaluator.heldout, evaluator.train)
        closer = seen.closer[seen.distance[:, 0] > 0]  # without those that are training images themselves
    else:
        closer = fresh(copied_from)
    null = copying(closer)
    reports = [measured(name, s, evaluator, data, known, copied_from) for name, s in sets]
    require_one({r.name: r.protocol for r in reports})
    for report in reports:
        report.notes["null"] |= null
        if infinity:
            drawing = told("extrapolating to infinitely many samples")
            report.scores["fd_infinity"] = frechet_infinity(evaluator.moments, report.features, progress=drawing)
    return reports


def divided(found: ImageSet, label: str, learns: bool) -> RealData:
    """Training and reference images of a real set, by the rule that `score` states; `learns`: features may be learned
    from its labels."""
    pool, test, classes = found.pool, found.test, found.classes
    if classes is None and pool.y is not None:
        values, place = np.unique(pool.y, return_inverse=True)
        classes, pool = tuple(map(str, values)), Pool(pool.x, place.astype(np.int64))
    if classes is not None and len(classes) < 2:  # nothing to learn, and no modes
        classes, pool, test = None, Pool(pool.x), test and Pool(test.x)
    split = learns and classes is not None and test is None
    if test is not None:
        train, heldout, reference = pool, test, "the test part of the real images"
    elif split:
        drawn = order(len(pool), 0)
        held = max(1, min(int(HELDOUT_SHARE * len(pool)), HELDOUT_MOST))
        heldout, train = (Pool(pool.x[rows], pool.y[rows]) for rows in (drawn[:held], drawn[held:]))
        reference = f"a held-out part of the real images, {held} of {len(pool)}"
    else:
        train = heldout = pool
        reference = "all real images"
    return RealData(train, heldout, classes, Facts(label, reference=reference, split=split))


def chosen(found: ImageSet, n: int | None, name: str | Path) -> ImageSet:
    """`n` of the images, drawn at random with a fixed seed; all of them for None. Raises UserError."""
    samples = found.pool
    if found.test is not None:  # what a generator made has no test part of its own
        parts = zip((samples.x, samples.y), (found.test.x, found.test.y))
        samples = Pool(*(None if p is None else np.concatenate([p, q]) for p, q in parts))
    if len(samples) < LEAST_SAMPLES:
        raise UserError(f"{name}: at least {LEAST_SAMPLES} generated images are needed; it holds {len(samples)}.")
    if n is not None and n < LEAST_SAMPLES:
        raise UserError(f"--n {n}: at least {LEAST_SAMPLES} generated images are needed.")
    if n is None:
        return ImageSet(samples, None, found.classes)
    if len(samples) < n:
        raise UserError(f"{name} holds {len(samples)} images, fewer than --n {n}.")
    rows = np.sort(order(len(samples), 0)[:n])  # not the first: a folder is sorted by class
    return ImageSet(Pool(samples.x[rows], None if samples.y is None else samples.y[rows]), None, found.classes)


def measured(
    name: str, found: ImageSet, evaluator: Evaluator, data: RealData, known: Pool, copied_from: RealManifold
) -> Report:
    """All scores of one set; copies are looked for among the images `known`, whose features are `copied_from`."""
    samples, features = found.pool, evaluator.extractor(found.pool.x)
    scores = evaluator(samples, found=features)
    nearest = nearest_of(features.x, copied_from)
    labels = relabelled(ImageSet(samples, None, found.classes), data.classes)
    classes = None
    if data.classes is not None and data.heldout.y is not None and (labels is not None or features.labels is not None):
        scores.notes["class_labels"] = "the set's own" if labels is not None else "the classifier's"
        labels = features.labels if labels is None else labels
        classes = by_class(data.classes, evaluator.heldout, data.heldout.y, features.x, labels)
    values = {k: v for k, v in scores.values.items() if v is not None}
    values |= copying(nearest.closer)
    return Report(
        name, scores.protocol, values, scores.notes, classes, samples, features.x, known, nearest, evaluator.reference
    )


def nearest_of(samples: np.ndarray, known: RealManifold) -> Nearest:
    """The nearest training images of features (N, D) among the `known`."""
    train = known.features
    k = min(BESIDE, len(train))
    squared, index = nearest2(torch.from_numpy(np.ascontiguousarray(samples)).to(train.device), train, k)
    return Nearest(index, np.sqrt(squared), np.sqrt(known.other2))


def fresh(known: RealManifold) -> np.ndarray:
    """`Nearest.closer` of known images (HELDOUT_MOST at most, at random), each as if neither it nor a copy of it were
    known: what a real image reads that is new."""
    x = known.features[known.different]
    rows = np.sort(order(len(x), 0)[:HELDOUT_MOST])
    if len(x) < 3:
        return np.zeros(0)
    squared, index = nearest2(x[rows], x, 2)  # the first is itself
    distance, nearest = squared[:, 1], index[:, 1]
    squared, index = nearest2(x[nearest], x, 3)
    usual = np.where(index == rows[:, None], np.inf, squared)[:, 1:].min(1)
    return np.sqrt(distance / usual)


def copying(closer: np.ndarray) -> dict[str, float]:
    """The scores of copying, from `Nearest.closer`; nothing where that is empty."""
    if not len(closer):
        return {}
    return {"authenticity": float((closer > 1).mean()), "near_copies": float((closer < NEAR).mean())}


def by_class(names, real: np.ndarray, real_labels, generated: np.ndarray, labels) -> dict[str, dict[str, Any]]:
    """Scores within each class, by its name: sizes, and, where both sides have enough images, distance, the four
    manifold scores and the variance ratio. Small classes bias the distance upwards: compare classes of equal sizes."""
    real_labels, found = np.asarray(real_labels), {}
    for c, name in enumerate(names):
        x, y = real[real_labels == c], generated[labels == c]
        found[name] = {"n_real": len(x), "n_generated": len(y)}
        if min(len(x), len(y)) > K_DENSITY and len(np.unique(x, axis=0)) > 1:
            found[name] |= {"fd": frechet_distance(x, y), "variance_ratio": variance_ratio(x, y)}
            manifold = manifold_scores(x, y, K_DENSITY, k_precision=K_PRECISION)
            found[name] |= {k: getattr(manifold, k) for k in ("precision", "recall", "density", "coverage")}
        else:
            found[name]["reason"] = f"under {K_DENSITY + 1} images on a side"
    return found


def _like(shape, found: ImageSet, path, real, size: int | None) -> ImageSet:
    """The set with as many channels as the real one; raises UserError where the sizes differ."""
    x = found.pool.x
    if x.shape[2:] != shape[1:]:
        smaller = min(x.shape[-1], shape[-1])
        raise UserError(
            f"{path} holds images of {x.shape[-1]} pixels and {real} of {shape[-1]}: give --size {smaller} or less, to "
            "which all are reduced."
        )
    if x.shape[1] != shape[0]:
        if x.shape[1] == 3 and not (x[:, :1] == x).all():
            raise UserError(f"{path} holds colour images and {real} grey ones; make both alike.")
        x = x[:, :1] if x.shape[1] == 3 else np.repeat(x, 3, 1)
    return ImageSet(Pool(x, found.pool.y), found.test, found.classes)
