"""Scores of one set of images against another, whoever made them: what `python -m imgloop.metrics` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgloop import store
from imgloop.data.real import HELDOUT_MOST, HELDOUT_SHARE, RealData, order
from imgloop.errors import UserError
from imgloop.metrics.evaluator import K_DENSITY, K_PRECISION, Evaluator
from imgloop.metrics.features import Extractor, Features
from imgloop.metrics.frechet import frechet_distance
from imgloop.metrics.images import ImageSet, read, relabelled
from imgloop.metrics.manifold import manifold_scores
from imgloop.metrics.neighbours import nearest2
from imgloop.metrics.variance import variance_ratio
from imgloop.pool import Pool

TRAINED = ("auto", "classifier")  # options that may learn from the real images, which are then split
BESIDE = 2  # training images shown beside a sample


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
    train: Pool
    nearest: Nearest

    @property
    def distance(self) -> str:
        """What the Frechet distance may be called: FID only with the original Inception weights."""
        return "FID" if self.protocol.get("fid") else "fd"

    def to_json(self) -> dict[str, Any]:
        return {
            "generated": self.name,
            "protocol": self.protocol,
            "scores": {("fid" if k == "fd" and self.protocol.get("fid") else k): v for k, v in self.scores.items()},
            "notes": self.notes,
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
    cache: Path | None = None,
    device: str = "cpu",
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
) -> list[Report]:
    """Measure one or more `generated` sets of images against a `real` one; see `imgloop.metrics.images.read` for what
    a set can be.

    The reference is the real set's own test part where it has one, else all of it; where features come from a
    classifier that it trains, a held-out fifth (2,000 images at most), which the classifier does not see. `train`: the
    images that the generator was trained on, if they are others, among which copies are looked for. `features` and its
    `options` are those of the `features` group. `n`: score n of each set, drawn at random with a fixed seed. `size`:
    reduce all images to it.
    `progress(stage)` gives the callback of a stage. Features of real images are kept in `cache`. Raises UserError.
    """
    from imgloop.config import build, parsed
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
    sets = {str(g): _like(shape, read(g, size, None, told("reading samples")), g, real, size) for g in many}
    data = divided(found, features, Path(real).name)
    if train is not None:
        copied = read(train, size, None, told("reading training images"))
        data = RealData(_like(shape, copied, train, real, size).pool, data.heldout, data.classes, data.facts)
        data = RealData(Pool(data.train.x, relabelled(copied, data.classes)), data.heldout, data.classes, data.facts)
        if data.classes is not None and data.train.y is None:
            raise UserError(f"{train} has not the classes of {real}; leave --train out, or use features=random.")
    cache = cache or store.cache_folder() / "metrics"
    extractor = build(node, real=data, shared=cache, device=device, progress=told("preparing features"))
    extractor.progress = told("extracting features")
    evaluator = Evaluator(extractor, data, cache)
    evaluator.protocol |= {"reference": data.facts["reference"], "size": shape[-1], "channels": shape[0]}
    reports = [measured(name, s, n, evaluator, data) for name, s in sets.items()]
    require_one({r.name: r.protocol for r in reports})
    return reports


def divided(found: ImageSet, features: str, label: str) -> RealData:
    """Training and reference images of a real set, by the rule that `score` states."""
    pool, test, classes = found.pool, found.test, found.classes
    if classes is None and pool.y is not None:
        classes = tuple(map(str, range(int(pool.y.max()) + 1)))
    learns = classes is not None and features in TRAINED
    if test is not None:
        train, heldout, reference = pool, test, "the test part of the real images"
    elif learns:
        drawn = order(len(pool), 0)
        held = max(1, min(int(HELDOUT_SHARE * len(pool)), HELDOUT_MOST))
        heldout, train = (Pool(pool.x[rows], pool.y[rows]) for rows in (drawn[:held], drawn[held:]))
        reference = f"a held-out part of the real images, {held} of {len(pool)}"
    else:
        train = heldout = pool
        reference = "all real images"
    facts = {"label": label, "reference": reference}
    return RealData(train, heldout, classes, facts)


def measured(name: str, found: ImageSet, n: int | None, evaluator: Evaluator, data: RealData) -> Report:
    """All scores of one set."""
    samples = found.pool
    if n is not None:
        if len(samples) < n:
            raise UserError(f"{name} holds {len(samples)} images, fewer than --n {n}.")
        rows = np.sort(order(len(samples), 0)[:n])  # not the first: a folder is sorted by class
        samples = Pool(samples.x[rows], None if samples.y is None else samples.y[rows])
    extractor = evaluator.extractor
    evaluator.extractor = once = _Once(extractor)
    try:
        scores = evaluator(samples)
    finally:
        evaluator.extractor = extractor
    features = once(samples.x)
    nearest = nearest_of(features.x, evaluator.train.features, evaluator.train.neighbours2)
    labels = relabelled(ImageSet(samples, None, found.classes), data.classes)
    classes = None
    if data.classes is not None and data.heldout.y is not None and (labels is not None or features.labels is not None):
        scores.notes["class_labels"] = "the set's own" if labels is not None else "the classifier's"
        labels = features.labels if labels is None else labels
        classes = by_class(data.classes, evaluator.heldout, data.heldout.y, features.x, labels)
    values = {k: v for k, v in scores.values.items() if v is not None}
    return Report(name, scores.protocol, values, scores.notes, classes, samples, data.train, nearest)


def nearest_of(samples: np.ndarray, train: torch.Tensor, neighbours2: np.ndarray) -> Nearest:
    """The nearest training images of features (N, D) among those of (M, D), whose squared distances to their own
    nearest others are given, (M, K)."""
    k = min(BESIDE, len(train))
    squared, index = nearest2(torch.from_numpy(np.ascontiguousarray(samples)).to(train.device), train, k)
    return Nearest(index, np.sqrt(squared), np.sqrt(neighbours2[:, 0]))


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


class _Once:
    """An extractor that remembers its last pass."""

    def __init__(self, extractor: Extractor):
        self.extractor, self.last = extractor, None

    def __getattr__(self, name: str):
        return getattr(self.extractor, name)

    def __call__(self, x: np.ndarray) -> Features:
        if self.last is None or self.last[0] is not x:
            self.last = x, self.extractor(x)
        return self.last[1]
