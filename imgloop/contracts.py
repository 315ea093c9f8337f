"""The contracts of parts: what a paradigm, source, model, measure and so on must offer, as typed Protocols.

A part of the user's own may subclass its contract, which gives it the defaults written here, or offer the same members
without subclassing. imgloop checks a part against its contract when it is built, and calls nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from imgloop.measures import MeasureInfo
from imgloop.pool import Mix, Pool, TrainingSet

if TYPE_CHECKING:
    from imgloop.data.real import RealData
    from imgloop.metrics.evaluator import Scores
    from imgloop.metrics.features import Features
    from imgloop.training.tasks import History, Task

Sizes = Mapping[int, int]  # rows of each pool by origin: -1 is real, s was drawn from f_s


class Progress(Protocol):
    """Called now and then with how much is done, and numbers to show beside it, such as loss=0.1."""

    def __call__(self, done: int, total: int, **figures: float) -> None: ...


def no_progress(done: int, total: int, **figures: float) -> None:
    """No-op progress callback."""


@runtime_checkable
class Source(Protocol):
    """Real data: `load` returns both parts, decoded and split. `cache` is a folder that survives between studies."""

    def load(self, cache: Path, progress: Callable[[int, int], None] | None = None) -> RealData: ...


@runtime_checkable
class Paradigm(Protocol):
    """The rule that makes the mix of generation t from the sizes of the pools; it sees no sample.

    keeps_all: whether mixes may reach back to any pool, not to R and the newest alone. closed: no real row enters a mix
    after generation 0. initial: rows of R, the real data in use, at generation t.
    """

    @property
    def keeps_all(self) -> bool: ...

    @property
    def closed(self) -> bool: ...

    def initial(self, sizes: Sizes, t: int) -> int: ...

    def __call__(self, sizes: Sizes, t: int, rng: np.random.Generator, replicates: int = 1) -> Mix: ...


@runtime_checkable
class Generator(Protocol):
    """A fitted model. `absorbed`: it can draw one thing only, so that a closed chain has ended.

    `sample(n, seed=, y=)` draws n samples with noise keyed by sample index: batch size and retries change nothing.
    `facts`: JSON-able facts for record.json, such as nfe and images_seen; a `warning`, a sentence on a training that
    went wrong, is also shown in terminal, run.log and report. `device`: where it computes. `history`: the loss curve
    and seconds of its training, None where it has none.
    """

    absorbed: bool = False
    device: str = "cpu"
    history: History | None = None

    def sample(self, n: int, *, seed: int, y: np.ndarray | None = None, progress: Progress = no_progress) -> Pool: ...

    def save(self, folder: Path) -> None: ...

    @property
    def facts(self) -> dict[str, Any]:
        """No facts by default."""
        return {}

    def risk(self, real: Pool, seed: int) -> np.ndarray | None:
        """Loss of real images, float (N,) or (N, levels); None where the model has no loss."""
        return None


@runtime_checkable
class Model(Protocol):
    """A model as configured: fits a generation, and loads a saved one.

    `check` raises UserError for data that it cannot be fitted to, `images` being the training images that the
    generations to come see. `weighted`: whether `fit` uses the weights of the mix, `data.mix.weight`; if not, a mix
    with weights is refused. `flips`: whether `fit` mirrors images where `task.flip` asks for it (`train.flip=true`); if
    not, that is refused. `has_risk`: whether its generators may have a loss, `Generator.risk`. `fit` is given the
    fitted generator before it where `start` asks for it, else None.
    """

    weighted: bool = False
    flips: bool = False
    has_risk: bool = True

    def fit(self, data: TrainingSet, task: Task, previous: Any) -> Any: ...

    def load(self, folder: Path, device: str = "cpu") -> Any: ...

    def check(self, real: RealData, images: tuple[int, ...]) -> None:
        """Accept any data by default."""


@dataclass(frozen=True)
class Context:
    """What curation and correction may look at: the generation, its fitted generator, the real training data R, and,
    for images, `features`: images uint8 (N, C, H, W) -> Features of the study's extractor (None for solvable systems).
    """

    t: int
    generator: Generator
    real: Pool
    features: Callable[[np.ndarray], Features] | None = None


@dataclass(frozen=True)
class Given:
    """What a chain offers to curation and correction, known before anything is trained.

    model: its option. features: the option of the features, None for solvable systems, which have none. classes: their
    number, None for data without labels. logits: whether the features classify. risk: whether generators may have a
    loss. n_real: rows of R at generation 0. from_mix: whether curation selects from whole training sets, real
    rows among them, instead of among new samples.
    """

    model: str
    features: str | None
    classes: int | None
    logits: bool
    risk: bool
    n_real: int
    from_mix: bool = False


@dataclass(frozen=True)
class Release:
    """Which drawn samples are released into the pool: `rows` int64 (n,), or (n, R) for each of R replicates; `weight`
    float of the same shape, the loss weight of each, or None; `facts`: JSON-able, for record.json, such as what the
    curation looked at."""

    rows: np.ndarray
    weight: np.ndarray | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Curation(Protocol):
    """Chooses which of the drawn samples later generations may train on.

    `released(n, t)`: how many of the n samples of generation t it releases, which is checked before anything is
    trained. `check` raises UserError for a chain that lacks what the curation needs.
    """

    def released(self, n: int, t: int) -> int: ...

    def check(self, given: Given) -> None:
        """Accept any chain by default."""

    def __call__(self, drawn: Pool, context: Context, rng: np.random.Generator) -> Release: ...


@runtime_checkable
class Correction(Protocol):
    """Moves samples: returns an array of the same shape and dtype as x. `check`: as of a curation."""

    def check(self, given: Given) -> None:
        """Accept any chain by default."""

    def __call__(self, x: np.ndarray, context: Context, rng: np.random.Generator) -> np.ndarray: ...


@runtime_checkable
class Measure(Protocol):
    """A number of generated samples. `info`: its name, label, unit, range and role."""

    @property
    def info(self) -> MeasureInfo: ...

    def __call__(self, samples: Pool, features: Features, real: RealData, real_features: Features) -> float | None: ...


class Evaluator(Protocol):
    """Scores a pool of samples, and the generator that drew it, given what it was trained on."""

    def __call__(
        self, pool: Pool, generator: Generator | None = None, *, training: TrainingSet | None = None
    ) -> Scores: ...
