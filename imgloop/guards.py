"""Guards of a user's parts: a wrong result or an exception becomes one sentence that names the part."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imgloop import contracts
from imgloop.config.parts import Part, check_contract
from imgloop.config.settings import Settings
from imgloop.contracts import Context, Generator, Given, Release, Sizes
from imgloop.data.real import RealData
from imgloop.errors import Stopped, UserError
from imgloop.measures import MEASURES, MeasureInfo
from imgloop.pool import REAL, Mix, Pool, TrainingSet, check_mix


def guarded(part: Part, built: Any) -> Any:
    """The part itself if it comes with imgloop, else the part behind a guard of its contract."""
    guard = {
        "data": GuardedSource,
        "model": GuardedModel,
        "paradigm": GuardedParadigm,
        "curation": GuardedCuration,
        "correction": GuardedCorrection,
        "measure": GuardedMeasure,
    }[part.group]
    return built if part.ours else guard(part, built)


def check_flips(settings: Settings, model: contracts.Model) -> None:
    """Raise UserError for `train.flip=true` with a model that mirrors no images."""
    if settings.config["train"]["flip"] and not model.flips:
        raise UserError(
            f"train.flip=true has no effect on model={settings.choices['model']}: leave it out; a model of your own "
            "that mirrors images where task.flip is true says so by flips = True.",
            "train.flip",
        )


def check_weighted(settings: Settings, model: Any, weighted: bool) -> None:
    """Raise UserError for a model that would ignore the weights of a mix; `weighted`: whether any mix has some."""
    if weighted and not model.weighted:
        raise UserError(
            f"model={settings.choices['model']} does not use the weights that the paradigm gives: use a paradigm "
            "without weights (real_weight=null), or another model; one of your own that uses them says so by "
            "weighted = True.",
            "real_weight" if settings.config["real_weight"] is not None else "model",
        )


def call(part: Part, doing: str, function: Callable, *arguments: Any, **named: Any) -> Any:
    """The result of a part's method; an exception becomes a UserError that names the part and its line."""
    try:
        return function(*arguments, **named)
    except (UserError, Stopped, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as e:
        raise part.failed(doing, e) from e


def what(value: Any) -> str:
    """A value in a few words: its dtype and shape, or its type."""
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def count_of(part: Part, count: Any, n: int, verb: str, noun: str) -> int:
    """A count that a part gave, as an int; raises UserError unless it is a whole number from 1 to n."""
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 1 <= count <= n:
        raise part.error(f"says that it {verb} {count!r} of {n} {noun}; expected a whole number from 1 to {n}.")
    return int(count)


@dataclass(frozen=True)
class GuardedSource:
    """A source of real data whose images are checked."""

    part: Part
    inner: contracts.Source

    def load(self, cache: Path, progress: Callable[[int, int], None] | None = None):
        real = call(self.part, "loading", self.inner.load, cache, progress)
        if not isinstance(real, RealData):
            raise self.part.error(f"returned {what(real)} from load; expected imgloop.RealData.")
        shapes = []
        for name, pool in (("train", real.train), ("heldout", real.heldout)):
            x = pool.x
            if not isinstance(x, np.ndarray) or x.dtype != np.uint8 or x.ndim != 4 or not len(x):
                raise self.part.error(f"returned {name} images {what(x)}; expected uint8 (N, C, H, W), N at least 1.")
            if x.shape[1] not in (1, 3) or x.shape[2] != x.shape[3]:
                raise self.part.error(
                    f"returned {name} images of shape {x.shape[1:]}; expected 1 or 3 channels and square images."
                )
            y = pool.y
            if (y is None) != (real.classes is None):
                raise self.part.error("returned labels without classes or the reverse; give both, or neither.")
            if y is not None and (
                y.shape != (len(x),) or y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= len(real.classes or ())
            ):
                raise self.part.error(
                    f"returned {name} labels {what(y)}; expected integers from 0 to {len(real.classes or ()) - 1}, one "
                    "an image."
                )
            shapes.append(x.shape[1:])
        if shapes[0] != shapes[1]:
            raise self.part.error(
                f"returned training images {shapes[0]} and held-out images {shapes[1]} of unlike shape."
            )
        return real


@dataclass(frozen=True)
class GuardedParadigm:
    """A paradigm whose mixes are checked against the pools."""

    part: Part
    inner: contracts.Paradigm

    @property
    def keeps_all(self) -> bool:
        return self.inner.keeps_all

    @property
    def closed(self) -> bool:
        return self.inner.closed

    def initial(self, sizes: Sizes, t: int) -> int:
        rows = call(self.part, f"asked for the real rows of generation {t}", self.inner.initial, sizes, t)
        return count_of(self.part, rows, sizes[REAL], "uses", "real rows")

    def __call__(self, sizes: Sizes, t: int, rng: np.random.Generator, replicates: int = 1) -> Mix:
        mix = call(self.part, f"mixing generation {t}", self.inner, dict(sizes), t, rng, replicates)
        check_mix(mix, sizes, replicates, f"{self.part}, generation {t}")
        return mix


@dataclass(frozen=True)
class GuardedCuration:
    """A curation whose rows and weights are checked against the drawn samples."""

    part: Part
    inner: contracts.Curation

    def check(self, given: Given) -> None:
        call(self.part, "asked what it needs", self.inner.check, given)

    def released(self, n: int, t: int) -> int:
        count = call(self.part, "asked how many samples it releases", self.inner.released, n, t)
        return count_of(self.part, count, n, "releases", "samples")

    def __call__(self, drawn: Pool, context: Context, rng: np.random.Generator) -> Release:
        release = call(self.part, f"curating generation {context.t}", self.inner, drawn, context, rng)
        if not isinstance(release, Release):
            raise self.part.error(f"returned {what(release)}; expected imgloop.Release(rows, weight).")
        rows, n = release.rows, len(drawn)
        shape = (self.released(n, context.t),) + (drawn.x.shape[1:2] if drawn.x.ndim == 3 else ())
        if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "iu" or rows.shape not in (shape, shape[:1]):
            raise self.part.error(
                f"returned rows {what(rows)}; expected integers {shape}, as many as its method released says."
            )
        if rows.min() < 0 or rows.max() >= n:
            raise self.part.error(f"returned row {rows.max() if rows.max() >= n else rows.min()} of {n} samples.")
        weight = release.weight
        if weight is not None and not (
            isinstance(weight, np.ndarray)
            and weight.shape == rows.shape
            and weight.dtype.kind == "f"
            and np.isfinite(weight).all()
            and (weight >= 0).all()
            and (weight.sum(0) > 0).all()  # in every replicate
        ):
            raise self.part.error(
                f"returned weights {what(weight)}; expected finite floats {rows.shape} from 0 up, not all 0."
            )
        try:
            json.dumps(dict(release.facts), allow_nan=False)
        except (TypeError, ValueError) as e:
            raise self.part.error(
                f"returned facts that JSON cannot hold ({e}); expected names with texts or finite numbers."
            ) from e
        return release


@dataclass(frozen=True)
class GuardedCorrection:
    """A correction whose result is checked to be samples of the same kind."""

    part: Part
    inner: contracts.Correction

    def check(self, given: Given) -> None:
        call(self.part, "asked what it needs", self.inner.check, given)

    def __call__(self, x: np.ndarray, context: Context, rng: np.random.Generator) -> np.ndarray:
        out = call(self.part, f"correcting generation {context.t}", self.inner, x, context, rng)
        if not isinstance(out, np.ndarray) or out.shape != x.shape or out.dtype != x.dtype:
            raise self.part.error(f"returned {what(out)}; expected {what(x)}, the shape and dtype of the samples.")
        if out.dtype.kind == "f" and not np.isfinite(out).all():
            raise self.part.error("returned samples with NaN or infinity; expected finite numbers.")
        return out


@dataclass(frozen=True)
class GuardedMeasure:
    """A measure whose value is checked to be a finite number or None."""

    part: Part
    inner: contracts.Measure

    @property
    def info(self):
        return self.inner.info

    def __call__(self, samples: Pool, features: Any, real: Any, real_features: Any) -> float | None:
        value = call(self.part, "measuring", self.inner, samples, features, real, real_features)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
            raise self.part.error(f"returned {value!r}; expected a finite number, or None where it cannot be measured.")
        return float(value)


@dataclass
class GuardedModel:
    """A model whose generators are checked. shape: of the images that they are to draw, known once the data are."""

    part: Part
    inner: contracts.Model
    shape: tuple[int, ...] | None = None

    @property
    def weighted(self) -> bool:
        return self.inner.weighted

    @property
    def flips(self) -> bool:
        return self.inner.flips

    @property
    def has_risk(self) -> bool:
        return self.inner.has_risk

    def check(self, real: Any, images: tuple[int, ...]) -> None:
        self.shape = real.train.x.shape[1:]
        call(self.part, "checking the data", self.inner.check, real, images)

    def fit(self, data: TrainingSet, task: Any, previous: Any) -> GuardedGenerator:
        inner = previous.inner if isinstance(previous, GuardedGenerator) else previous
        generator = call(self.part, f"fitting generation {task.t}", self.inner.fit, data, task, inner)
        return self.guard(generator, "fit")

    def load(self, folder: Path, device: str = "cpu") -> GuardedGenerator:
        return self.guard(call(self.part, f"loading {folder}", self.inner.load, folder, device), "load")

    def guard(self, generator: Any, method: str) -> GuardedGenerator:
        if generator is None:
            raise self.part.error(f"returned nothing from {method}; expected a generator with sample and save.")
        check_contract(self.part, generator, Generator)
        return GuardedGenerator(self.part, generator, self.shape)


@dataclass(frozen=True)
class GuardedGenerator:
    """A generator whose samples and losses are checked. shape: of the images that it is to draw, if known."""

    part: Part
    inner: Generator
    shape: tuple[int, ...] | None = None

    @property
    def absorbed(self) -> bool:
        return self.inner.absorbed

    @property
    def device(self) -> str:
        return self.inner.device

    @property
    def history(self):
        return self.inner.history

    @property
    def facts(self) -> dict[str, Any]:
        return self.inner.facts

    def sample(self, n: int, *, seed: int, y=None, progress=contracts.no_progress) -> Pool:
        pool = call(self.part, "sampling", self.inner.sample, n, seed=seed, y=y, progress=progress)
        if not isinstance(pool, Pool):
            raise self.part.error(f"returned {what(pool)} from sample; expected imgloop.Pool(x, y).")
        x = pool.x
        if not isinstance(x, np.ndarray) or x.dtype != np.uint8 or x.ndim != 4 or len(x) != n:
            raise self.part.error(f"drew samples {what(x)}; expected uint8 ({n}, C, H, W): round and clip to 0..255.")
        if self.shape is not None and x.shape[1:] != self.shape:
            raise self.part.error(f"drew images of shape {x.shape[1:]}; expected {self.shape}, as the real ones have.")
        if pool.y is not None and (pool.y.shape != (n,) or pool.y.dtype.kind not in "iu"):
            raise self.part.error(f"drew labels {what(pool.y)}; expected integers ({n},), or None.")
        return pool

    def save(self, folder: Path) -> None:
        call(self.part, f"saving to {folder}", self.inner.save, folder)

    def risk(self, real: Pool, seed: int) -> np.ndarray | None:
        loss = call(self.part, "computing its loss", self.inner.risk, real, seed)
        if loss is None:
            return None
        loss = np.asarray(loss)
        if loss.dtype.kind != "f" or loss.ndim not in (1, 2) or len(loss) != len(real) or not np.isfinite(loss).all():
            raise self.part.error(
                f"returned losses {what(loss)}; expected finite floats ({len(real)},) or (N, levels)."
            )
        return loss


def user_measures(settings: Settings) -> dict[str, GuardedMeasure]:
    """The user's measures that settings ask for, by name; raises UserError for one whose info does not fit."""
    measures = {}
    for name, part in settings.measures.items():
        measure = settings.build_measure(name)
        info = measure.info
        if not isinstance(info, MeasureInfo) or info.name != name or name in MEASURES:
            given = f"info.name={info.name!r}" if isinstance(info, MeasureInfo) else f"info {what(info)}"
            taken = ", a name that imgloop's own measures do not have" if name in MEASURES else ""
            raise part.error(f"has {given}; expected imgloop.MeasureInfo with the option's name, {name!r}{taken}.")
        measures[name] = GuardedMeasure(part, measure)
    return measures
