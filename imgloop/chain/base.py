"""A chain's folder: held by one process at a time, refused for other settings, cleared of what an interruption left."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml

from imgloop import store
from imgloop.chain.loggers import Log
from imgloop.config.settings import Settings
from imgloop.display import Interrupt
from imgloop.errors import UserError
from imgloop.pool import Pool


class ChainFolder:
    """One condition and one seed: the folder, the seeds of its draws, and what is open while the chain goes on."""

    def __init__(self, settings: Settings):
        self.settings, self.folder, self.study = settings, settings.folder, settings.study
        self.seed_number = settings.config["seed"]
        self.pools: dict[int, Pool] = {}
        self.replicates = 1
        self.display = None
        self.log = Log(self)
        self.stop = Interrupt()
        self.seconds: dict[str, float] = {}

    def generation(self, t: int) -> Path:
        """Where generation t is, of a chain that keeps a folder a generation."""
        return self.folder / f"gen{t:03d}"

    @property
    def done(self) -> int:
        """How many generations exist, each whole."""
        raise NotImplementedError

    @property
    def begun(self) -> bool:
        """Whether the folder itself holds generations."""
        return self.done > 0

    def remaining(self, generations: int) -> range:
        return range(self.done, generations)

    def nothing_to_do(self) -> str:
        return (
            f"{self.folder} holds {self.done} generations already: nothing to do "
            f"(generations={self.done + 1} or more would extend it)"
        )

    def seed(self, t: int | None, purpose: str) -> int:
        """The seed of one draw. t None: one for all generations, as the evolution sheet's latents need."""
        return store.seed_of(self.seed_number, t, purpose)

    def rng(self, t: int, purpose: str) -> np.random.Generator:
        return np.random.default_rng(self.seed(t, purpose))

    def check_study(self) -> None:
        """Raise UserError where the study holds chains of another kind, with which these cannot be compared."""
        from imgloop.study.tables import chains, is_solved

        others = [c for c in chains(self.study) if is_solved(c) != self.settings.solvable]
        if others:
            raise UserError(
                f"{self.study} holds {others[0].parent.name}: solvable systems and trained models are not compared in "
                "one study; give study=NEW."
            )

    @contextmanager
    def opened(self):
        """Hold the chain's lock; refuse a folder made with other settings; clear away what an interruption left.

        Where nothing was begun, because a setting is wrong, no folder stays behind.
        """
        try:
            with store.lock(
                self.folder / ".lock",
                busy=f"Another process is running the chain in {self.folder}: wait for it, or "
                "choose another study=NAME.",
            ):
                self.restore()
                if self.settings.config["overwrite"]:
                    self.set_aside()
                if self.begun:
                    self.check_config()
                store.remove(*self.folder.glob(".gen*.part"))
                yield self
        finally:
            if self.folder.is_dir():
                self.restore()
            if not (self.folder / "config.yaml").exists():
                store.remove_unused(self.folder, below=self.study.parent)

    @property
    def aside(self) -> Path:
        return self.folder / ".replaced"

    def set_aside(self) -> None:
        """overwrite=true: what is there makes room, and goes when the new chain begins; not if a setting is wrong."""
        old = [p for p in self.folder.iterdir() if p.name != ".lock"]
        if old:
            self.aside.mkdir()
            for p in old:
                p.rename(self.aside / p.name)

    def restore(self) -> None:
        """Bring back what was set aside for a chain that did not begin."""
        if self.aside.is_dir():
            if not (self.folder / "config.yaml").exists():
                store.remove(*(p for p in self.folder.iterdir() if p.name not in (".lock", self.aside.name)))
                for p in self.aside.iterdir():
                    p.rename(self.folder / p.name)
            store.remove(self.aside)

    def check_config(self) -> None:
        """Raise UserError, naming the settings, where the folder's config differs from ours in what changes results."""
        path = self.folder / "config.yaml"
        try:
            theirs = yaml.safe_load(path.read_text())["identity"]
        except FileNotFoundError as e:
            raise store.damaged(path, "is missing") from e
        except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as e:
            raise store.damaged(path, "cannot be read") from e
        mine = self.settings.identity
        changed = sorted(k for k in {**theirs, **mine} if theirs.get(k) != mine.get(k))
        if changed:
            told = ", ".join(f"{k} (there {theirs.get(k)}, now {mine.get(k)})" for k in changed[:5])
            raise UserError(
                f"{self.folder} was made with other settings: {told}. Give study=NEW for a study of its own, or "
                "overwrite=true to delete this chain and start again."
            )

    def write_config(self) -> None:
        s = self.settings
        choices, config = ({k: v for k, v in d.items() if k != "logger"} for d in (s.choices, s.config))
        store.write_text(  # without the logger: it is none of the chain's, and may name a server
            self.folder / "config.yaml",
            yaml.safe_dump(
                {"choices": choices, "identity": s.identity, "config": config}, sort_keys=False, allow_unicode=True
            ),
        )
