"""What both kinds of chain share: the folder, held by one process at a time; seeds; the stages of a generation."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imgloop import contracts, ranks, store
from imgloop.chain.loggers import Log
from imgloop.config.earlier import FORMAT, identity_of
from imgloop.config.settings import Settings
from imgloop.curation import Everything, Released, release
from imgloop.display import Display
from imgloop.errors import UserError
from imgloop.interrupt import Interrupt
from imgloop.pool import Pool, TrainingSet
from imgloop.study.imported import refuse_imported
from imgloop.study.progress import write_states
from imgloop.study.tables import chains, is_solved


@dataclass(frozen=True)
class Surroundings:
    """What a chain is given of the process around it: the display, the stop request and the user's logger."""

    display: Display
    stop: Interrupt
    log: Log
    sweep: bool = False  # whether a sweep runs the chain, which compares at its end

    @classmethod
    def of(cls, settings: Settings, sweep: bool = False) -> Surroundings:
        display = Display(settings.config["display"], settings.folder / "run.log" if ranks.rank() == 0 else None)
        return cls(display, Interrupt(), Log(settings, display), sweep)


@dataclass(frozen=True)
class Parts:
    """The parts that a chain runs with. n_drawn(t): samples that generation t draws; features: images -> Features of
    the study's extractor, None for solvable systems."""

    paradigm: contracts.Paradigm
    curation: contracts.Curation
    correction: contracts.Correction
    model: Any
    evaluator: Any
    real: Any
    n_drawn: Callable[[int], int]
    plan: Any = None
    features: Callable[[np.ndarray], Any] | None = None


@dataclass(frozen=True)
class Fit:
    """A fitted generation: its generator, the seconds of its training, and its loss curve."""

    generator: Any
    seconds: float
    losses: list[list[float]]


class ChainFolder(ABC):
    """One condition and one seed: the folder, the seeds of its draws, and its pools."""

    def __init__(self, settings: Settings, surroundings: Surroundings):
        self.settings, self.folder, self.study = settings, settings.folder, settings.study
        self.display, self.stop, self.log = surroundings.display, surroundings.stop, surroundings.log
        self.seed_number: int = settings.config["seed"]
        self.pools: dict[int, Pool] = {}
        self.replicates = 1
        self.sparing = surroundings.sweep
        self.seconds: dict[str, float] = {}  # of the stages of the current generation

    # -- what each kind of chain does in its own way -----------------------------------------------------------------

    @property
    @abstractmethod
    def done(self) -> int:
        """How many generations exist, each whole."""

    @property
    @abstractmethod
    def sizes(self) -> dict[int, int]:
        """Rows of each pool by origin: what a paradigm sees."""

    @abstractmethod
    def prepared(self, generations: int, cache: Path) -> Parts:
        """Build the parts, and check every mix to come on sizes alone. Raises UserError for what cannot be built."""

    @abstractmethod
    def begin(self, parts: Parts) -> None:
        """Show the plan and write config.yaml: from here on the folder is a chain."""

    @abstractmethod
    def fitted(self, t: int, model: Any, data: TrainingSet) -> Fit:
        """f_t, fitted on `data`, or resumed."""

    @abstractmethod
    def commit(
        self, t: int, fit: Fit, data: TrainingSet, drawn: Pool, released: Released, scores: Any, parts: Parts
    ) -> None:
        """Make generation t exist."""

    @abstractmethod
    def finish(self) -> Any:
        """Write what is derived from the generations; returns the table of metrics."""

    # -- progress so far ---------------------------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether the folder itself holds generations."""
        return self.done > 0

    def remaining(self, generations: int) -> range:
        """The generations still to do."""
        return range(self.done, generations)

    def nothing_to_do(self) -> str:
        return (
            f"{self.folder} holds {self.done} generation{'s' * (self.done > 1)} already: nothing to do "
            f"(generations={self.done + 1} or more would extend it)"
        )

    def seed(self, t: int | None, purpose: str) -> int:
        """The seed of one draw. t None: one for all generations, as the evolution sheet's latents need."""
        return store.seed_of(self.seed_number, t, purpose)

    def rng(self, t: int, purpose: str) -> np.random.Generator:
        return np.random.default_rng(self.seed(t, purpose))

    # -- a generation ------------------------------------------------------------------------------------------------

    @contextmanager
    def stage(self, t: int, name: str) -> Iterator[contracts.Progress]:
        """Time one stage of a generation and show it; yields its progress callback."""
        started = time.perf_counter()
        self.display.stage(t, name)
        yield self.display.update
        self.seconds.setdefault(name, time.perf_counter() - started)
        self.stop.end_of_fit()

    def released(self, t: int, fit: Fit, drawn: Pool, parts: Parts) -> Released:
        """What of the drawn samples later generations may train on: corrected, then curated."""
        context = contracts.Context(t, fit.generator, self.real_in_use(t, parts), parts.features)
        curation = Everything() if self.settings.selects_mix else parts.curation
        return release(drawn, parts.correction, curation, context, lambda purpose: self.rng(t, purpose))

    def selected(self, t: int, data: TrainingSet, parts: Parts) -> TrainingSet:
        """The training set of generation t after selection: all of it, unless curation selects from the mix."""
        return data

    @property
    def real_pool(self) -> Pool:
        """The real training data, more than R where n_initial is below their number."""
        return self.pools[-1]

    def real_in_use(self, t: int, parts: Parts) -> Pool:
        """R at generation t: what a curation or a correction may know of the real data."""
        real, n = self.real_pool, parts.paradigm.initial(self.sizes, t)
        return real if n == len(real) else Pool(real.x[:n], None if real.y is None else real.y[:n])

    # -- the folder --------------------------------------------------------------------------------------------------

    def check_study(self) -> None:
        """Raise UserError if the study holds chains of the other kind, with which these cannot be compared, or imported
        ones."""
        refuse_imported(self.study)
        others = [c for c in chains(self.study) if is_solved(c) != self.settings.solvable]
        if others:
            raise UserError(
                f"{self.study} holds {others[0].parent.name}: solvable systems and trained models are not compared in "
                "one study; give study=NEW.",
                "study",
            )

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the chain's lock; refuse a folder made with other settings; remove what an interruption left.

        If nothing was begun, because a setting is wrong, no folder stays behind. At its end, the states of the study's
        chains are written. Of several ranks, the first does this.
        """
        if ranks.rank() > 0:
            yield
            return
        try:
            with self.held():
                yield
        except BaseException:
            with suppress(OSError, UserError):  # the first error is the one to show
                write_states(self.study)
            raise
        write_states(self.study, self.sparing)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The chain's lock and folder, as `opened` says."""
        busy = f"Another process is running the chain in {self.folder}: wait for it, or choose another study=NAME."
        try:
            with store.lock(self.folder / ".lock", busy=busy):
                self.restore()
                if self.settings.config["overwrite"]:
                    self.set_aside()
                if self.begun:
                    self.check_config()
                self.tidy()
                yield
        finally:
            if self.folder.is_dir():
                self.restore()
            if not (self.folder / "config.yaml").exists():
                store.remove_unused(self.folder, below=self.study.parent)

    def tidy(self) -> None:
        """Remove what an interruption left: temporary files of processes that have ended."""
        store.remove(*self.folder.glob(".gen*.part"))
        store.remove_parts(self.folder, self.study / "shared", self.study)

    @property
    def aside(self) -> Path:
        return self.folder / ".replaced"

    def set_aside(self) -> None:
        """overwrite=true: move the old files aside; they are deleted when the new chain begins, and come back if it
        does not. config.yaml goes first: a folder that has it and .replaced is a new chain that has begun."""
        old = [p for p in self.folder.iterdir() if p.name not in (".lock", self.aside.name)]
        with store.writing(self.aside):
            if old:
                self.aside.mkdir()
            for p in sorted(old, key=lambda p: p.name != "config.yaml"):
                os.replace(p, self.aside / p.name)
            store.sync(self.folder)

    def restore(self) -> None:
        """Bring back what was set aside for a chain that did not begin, config.yaml last; delete it if one began."""
        with store.writing(self.aside):
            if self.aside.is_dir() and not (self.folder / "config.yaml").exists():
                for p in sorted(self.aside.iterdir(), key=lambda p: p.name == "config.yaml"):
                    if (self.folder / p.name).is_dir():
                        store.remove(self.folder / p.name)
                    os.replace(p, self.folder / p.name)
                store.sync(self.folder)
            store.remove(self.aside)

    def check_config(self) -> None:
        """Raise UserError, naming the settings, if the folder's config differs from ours in what changes results."""
        path = self.folder / "config.yaml"
        try:
            content = store.read_yaml(path)
            whole, stored = store.intact(content), identity_of(content)
        except (AttributeError, TypeError, KeyError, ValueError) as e:
            if isinstance(e, UserError):
                raise
            raise store.damaged(path, "is not the configuration of a chain", "run the chain again elsewhere") from e
        mine = self.settings.identity
        changed = sorted(k for k in {**stored, **mine} if stored.get(k) != mine.get(k))
        if changed:
            both = ((k, *("null" if d.get(k) is None else d[k] for d in (stored, mine))) for k in changed[:5])
            differences = ", ".join(f"{k} (there {there}, now {now})" for k, there, now in both)
            raise UserError(
                f"{self.folder} was made with other settings: {differences}. Give study=NEW for a study of its own, or "
                "overwrite=true to delete this chain and start again.",
                changed[0],
            )
        if not whole:
            raise store.damaged(path, "is not what was written (its hash differs)")

    def write_config(self) -> None:
        """Write config.yaml: format, choices, identity and settings, without the logger, which may name a server."""
        s = self.settings
        choices, config = ({k: v for k, v in d.items() if k != "logger"} for d in (s.choices, s.config))
        content: dict[str, Any] = {"format": FORMAT, "choices": choices, "identity": s.identity, "config": config}
        if s.config_dirs:
            content["config_dirs"] = [str(d) for d in s.config_dirs]
        store.write_text(self.folder / "config.yaml", store.yaml_text(store.sealed(content)))
        store.remove(self.aside)  # the new chain has begun
