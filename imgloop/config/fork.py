"""fork=PATH@t: a chain that begins with generations 0..t of another, and goes on under its own settings."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from imgloop import store
from imgloop.errors import UserError


@dataclass(frozen=True)
class Fork:
    """Generations 0..t of the chain in `folder`, that another chain begins with."""

    folder: Path
    t: int

    @classmethod
    def of(cls, text: str) -> Fork:
        """The fork that a setting `PATH@t` names; raises UserError where there is no such chain or generation."""
        path, at, t = str(text).rpartition("@")
        if not at or not t.isdigit():
            raise UserError(
                f"fork={text}: give a chain's folder and a generation, for example "
                "fork=outputs/digits-diffusion/replace/seed0@2."
            )
        fork = cls(Path(path).expanduser(), int(t))
        if not (fork.generation(0) / "record.json").is_file():
            raise UserError(
                f"fork={text}: {fork.folder} is no chain of trained models (it has no gen000): give "
                "outputs/STUDY/CONDITION/seedK@t."
            )
        missing = next((s for s in range(fork.t + 1) if not (fork.generation(s) / "record.json").is_file()), None)
        if missing is not None:
            raise UserError(f"fork={text}: {fork.folder} has generations up to {missing - 1}: give @{missing - 1}.")
        return fork

    def generation(self, t: int) -> Path:
        return self.folder / f"gen{t:03d}"

    def record(self, t: int) -> dict:
        return store.read_json(self.generation(t) / "record.json")

    def name(self, seed: int) -> str:
        """What stands for it in a condition: equal for the chains of several seeds that each fork their own."""
        record = self.record(self.t)
        condition = record["condition"]
        if len(condition) > 40:
            condition = f"{condition.split(',')[0]}-{store.content_key(condition)[:6]}"
        other = "" if record["seed"] == seed else f"-seed{record['seed']}"
        return f"{condition}{other}-gen{self.t}"

    def check(self, real_key: str, made: Path) -> None:
        """Raise UserError where the other chain learns from other real data, or is not the one that the chain in
        `made` was forked from."""
        for t in range(self.t + 1):
            theirs = self.record(t)
            if theirs["real"] != real_key:
                raise UserError(
                    f"{self.folder} was made from other real data than this chain: fork a chain of the same data, "
                    "with equal data settings."
                )
            own = made / f"gen{t:03d}" / "record.json"
            if own.exists() and store.read_json(own)["pool_hash"] != theirs["pool_hash"]:
                raise UserError(
                    f"{made} was forked from other generations than {self.folder} holds now: give study=NEW, or "
                    "overwrite=true."
                )

    def copy(self, made: Path) -> None:
        """Give the chain in `made` the generations that it does not have yet; files are shared where the disk can."""
        for t in range(self.t + 1):
            if not (made / f"gen{t:03d}").is_dir():
                store.commit_folder(made / f"gen{t:03d}", lambda part, t=t: copy_tree(self.generation(t), part))


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder into an existing one, by hard links on one disk: files of a finished generation never change."""

    def link(a: str, b: str) -> None:
        try:
            os.link(a, b)
        except OSError:  # another disk, or a file system without links
            shutil.copy2(a, b)

    shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)
