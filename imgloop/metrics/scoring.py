"""Scores of sets of images against a real set, from any source: the work of `python -m imgloop.metrics`."""

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
from imgloop.metrics.protocol import require_one
from imgloop.metrics.variance import variance_ratio
from imgloop.pool import Pool

TRAINED = ("auto", "classifier")  # features that may be learned from the real images, which are then split
BESIDE = 2  # training images shown beside a sample
NEAR = 0.5  # a sample is a near copy below this share of its training image's distance to its own nearest other


@dataclass(frozen=True)
class Nearest:
    """The nearest training images of each sample: `index` int64 (N, 2) and `distance` float64 (N, 2); `usual` (M,):
    distance of each training image to its own nearest other."""

    index: np.ndarray
    distance: np.ndarray
    usual: np.ndarray

    @property
    def closer(self) -> np.ndarray:
        """Distance to the nearest training image over the `usual` distance of that image, (N,): 0 for a copy."""
        usual, distance = self.usual[self.index[:, 0]], self.distance[:, 0]
        return np.divide(distance, usual, out=np.where(distance > 0, np.inf, 0.0), where=usual > 0)


@dataclass(frozen=True)
class Report:
    """The results for one set: protocol, scores, notes, scores by class, and nearest training images.

    `features` (N, D) are those of the samples. `reference`: scores of real images against real images, for two halves
    of the reference, and for the training set.
    """

    name: str
    protocol: dict[str, Any]
    scores: dict[str, Any]
    notes: dict[str, Any]
    classes: dict[str, dict[str, Any]] | None
    samples: Pool
    features: np.ndarray
    train: Pool
    nearest: Nearest
    reference: dict[str, Any]

    @property
    def distance(self) -> str:
        """The name of the Frechet distance: FID only with the original Inception weights."""
        return "FID" if self.protocol.get("fid") else "fd"

    def to_json(self) -> dict[str, Any]:
        """JSON-able results, without samples, features and neighbours."""
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

    The reference is the test part of the real set if it has one, else all of it; if a classifier is trained on the real
    set, a held-out fifth (2,000 images at most) that the classifier does not see. `train`: the training images of the
    generator, if they are not the real set: copies are searched among them, and a classifier is trained on them.
    Without it copies are searched among the real images, except a test part. `features` and its `options` are those of
    the `features` group. `n`: score n images of each set, drawn at random with a fixed seed. `size`: reduce all images
    to this many pixels. `infinity`: also `fd_infinity`, see `frechet_infinity`. `progress(stage)` returns the callback
    of a stage. Features of real images are stored in `cache`. Raises UserError for sets, settings or options that do
    not fit.
    """
    from imgloop.config.settings import parsed  # Hydra takes long to import

    stage = progress or (lambda name: None)
    paths = [generated] if isinstance(generated, str | Path) else list(generated)
    settings = parsed([f"features={features}"])
    node = settings.config["features"]
    for key, value in (options or {}).items():
        if key not in node or key.startswith("_"):
            known = ", ".join(k for k in node if not k.startswith("_")) or "none"
            raise UserError(f"features={features} has no setting {key!r}; it has: {known}.", f"features.{key}")
        node[key] = value
    images = read(real, size, None, stage("reading real images"))
    shape = images.pool.x.shape[1:]

    def other(path: str | Path, name: str) -> ImageSet:
        return alike(shape, read(path, size, None, stage(name)), path, real)

    sets = [(str(path), chosen(other(path, "reading samples"), n, path)) for path in paths]
    require_one({name: {"n_generated": len(s.pool)} for name, s in sets})  # before long computations
    data = divided(images, Path(real).name, train is None and features in TRAINED)
    if train is not None:
        training = other(train, "reading training images")
        pool = Pool(training.pool.x, relabelled(training, data.classes))
        data = RealData(pool, data.heldout, data.classes, data.facts)
        if data.classes is not None and data.train.y is None and features in TRAINED:
            raise UserError(
                f"{train} does not have the classes of {real}, from which features={features} are learned: leave "
                "--train out, or use features=random.",
                "features",
            )
    cache = cache or store.cache_folder() / "metrics"
    progress_of_features = stage("preparing features")
    extractor = settings.build("features", real=data, shared=cache, device=device, progress=progress_of_features)
    searching = stage("searching neighbours")
    protocol = {
        "reference": data.facts.reference,
        "size": shape[-1],
        "channels": shape[0],
        "reduced": size is not None,
    }
    evaluator = Evaluator(extractor, data, cache, progress=searching, protocol=protocol)
    known, known_features = data.train, evaluator.train
    if data.facts.split:  # a sample may also copy an image that was held out from the classifier
        known = Pool(np.concatenate([data.train.x, data.heldout.x]))
        both = np.concatenate([evaluator.train.features.numpy(), evaluator.heldout])  # already extracted
        arrays = evaluator.kept("known", lambda: RealManifold.of(both, 1, device=device, progress=searching))
        known_features = RealManifold.from_arrays(both, arrays)
    if evaluator.apart and not data.facts.split:
        nearest = nearest_of(evaluator.heldout, evaluator.train)
        closer = nearest.closer[nearest.distance[:, 0] > 0]  # without reference images that are training images
    else:
        closer = fresh(known_features)
    null = copying(closer)
    extracting = stage("extracting features")
    reports = [measured(name, s, evaluator, data, known, known_features, extracting) for name, s in sets]
    require_one({report.name: report.protocol for report in reports})
    for report in reports:
        report.notes["null"] |= null
        if infinity:
            extrapolating = stage("extrapolating to infinitely many samples")
            distance = frechet_infinity(evaluator.moments, report.features, progress=extrapolating)
            report.scores["fd_infinity"] = distance
    return reports


def divided(images: ImageSet, label: str, learns: bool) -> RealData:
    """Training and reference images of a real set, by the rule of `score`; `learns`: whether features may be learned
    from its labels."""
    pool, test, classes = images.pool, images.test, images.classes
    if classes is None and pool.y is not None:
        values, index = np.unique(pool.y, return_inverse=True)
        classes, pool = tuple(map(str, values)), Pool(pool.x, index.astype(np.int64))
    if classes is not None and len(classes) < 2:  # nothing to learn, and no modes
        classes, pool, test = None, Pool(pool.x), test and Pool(test.x)
    split = learns and classes is not None and test is None
    if test is not None:
        train, heldout, reference = pool, test, "the test part of the real images"
    elif split:
        assert pool.y is not None
        rows = order(len(pool), 0)
        held = max(1, min(int(HELDOUT_SHARE * len(pool)), HELDOUT_MOST))
        heldout, train = (Pool(pool.x[part], pool.y[part]) for part in (rows[:held], rows[held:]))
        reference = f"a held-out part of the real images, {held} of {len(pool)}"
    else:
        train = heldout = pool
        reference = "all real images"
    return RealData(train, heldout, classes, Facts(label, reference=reference, split=split))


def chosen(images: ImageSet, n: int | None, name: str | Path) -> ImageSet:
    """`n` of the images, drawn at random with a fixed seed; all of them for None. Raises UserError if there are too
    few."""
    samples = images.pool
    if images.test is not None:  # train/ and test/ of generated images are one set
        labels = None if samples.y is None or images.test.y is None else np.concatenate([samples.y, images.test.y])
        samples = Pool(np.concatenate([samples.x, images.test.x]), labels)
    if len(samples) < LEAST_SAMPLES:
        raise UserError(f"{name}: at least {LEAST_SAMPLES} generated images are needed; it holds {len(samples)}.")
    if n is not None and n < LEAST_SAMPLES:
        raise UserError(f"--n {n}: at least {LEAST_SAMPLES} generated images are needed.")
    if n is None:
        return ImageSet(samples, None, images.classes)
    if len(samples) < n:
        raise UserError(f"{name} holds {len(samples)} images, fewer than --n {n}.")
    rows = np.sort(order(len(samples), 0)[:n])  # at random, since folders are sorted by class
    return ImageSet(Pool(samples.x[rows], None if samples.y is None else samples.y[rows]), None, images.classes)


def measured(
    name: str,
    images: ImageSet,
    evaluator: Evaluator,
    data: RealData,
    known: Pool,
    known_features: RealManifold,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """All scores of one set; copies are searched among the images `known`. `progress` counts extracted images."""
    samples, features = images.pool, evaluator.extractor(images.pool.x, progress)
    scores = evaluator(samples, None, features)
    nearest = nearest_of(features.x, known_features)
    labels = relabelled(ImageSet(samples, None, images.classes), data.classes)
    classes = None
    if data.classes is not None and data.heldout.y is not None:
        labels, source = (features.labels, "the classifier's") if labels is None else (labels, "the set's own")
        if labels is not None:
            scores.notes["class_labels"] = source
            classes = by_class(data.classes, evaluator.heldout, data.heldout.y, features.x, labels)
    values = {k: v for k, v in scores.values.items() if v is not None}
    values |= copying(nearest.closer)
    return Report(
        name, scores.protocol, values, scores.notes, classes, samples, features.x, known, nearest, evaluator.reference
    )


def nearest_of(samples: np.ndarray, known: RealManifold) -> Nearest:
    """The nearest `known` images of features (N, D)."""
    train = known.features
    k = min(BESIDE, len(train))
    squared, index = nearest2(torch.from_numpy(np.ascontiguousarray(samples)).to(train.device), train, k)
    return Nearest(index, np.sqrt(squared), np.sqrt(known.other2))


def fresh(known: RealManifold) -> np.ndarray:
    """`Nearest.closer` of known images (HELDOUT_MOST at most, at random), each computed without itself and its copies:
    the values of new real images."""
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
    """The scores of copying, from `Nearest.closer`; none if that is empty."""
    if not len(closer):
        return {}
    return {"authenticity": float((closer > 1).mean()), "near_copies": float((closer < NEAR).mean())}


def by_class(names, real: np.ndarray, real_labels, generated: np.ndarray, labels) -> dict[str, dict[str, Any]]:
    """Scores within each class, by its name: sizes and, if both sides have enough images, the Frechet distance, four
    manifold scores and the variance ratio. Small classes bias the distance upwards: compare classes of equal size."""
    real_labels, rows = np.asarray(real_labels), {}
    for c, name in enumerate(names):
        x, y = real[real_labels == c], generated[labels == c]
        rows[name] = {"n_real": len(x), "n_generated": len(y)}
        if min(len(x), len(y)) > K_DENSITY and len(np.unique(x, axis=0)) > 1:
            rows[name] |= {"fd": frechet_distance(x, y), "variance_ratio": variance_ratio(x, y)}
            manifold = manifold_scores(x, y, K_DENSITY, k_precision=K_PRECISION)
            rows[name] |= {k: getattr(manifold, k) for k in ("precision", "recall", "density", "coverage")}
        else:
            rows[name]["reason"] = f"under {K_DENSITY + 1} images per side"
    return rows


def alike(shape: tuple[int, ...], images: ImageSet, path: str | Path, real: str | Path) -> ImageSet:
    """The set with as many channels as the real one; raises UserError if the image sizes differ."""
    x = images.pool.x
    if x.shape[2:] != shape[1:]:
        smaller = min(x.shape[-1], shape[-1])
        raise UserError(
            f"{path} holds images of {x.shape[-1]} pixels and {real} of {shape[-1]}: give --size {smaller} or less to "
            "reduce them all.",
            "size",
        )
    if x.shape[1] != shape[0]:
        if x.shape[1] == 3 and not (x[:, :1] == x).all():
            raise UserError(f"{path} holds colour images and {real} grey ones; convert one of them.")
        x = x[:, :1] if x.shape[1] == 3 else np.repeat(x, 3, 1)
    return ImageSet(Pool(x, images.pool.y), images.test, images.classes)
