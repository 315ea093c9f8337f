"""Taking over a fork: its generations are checked against this chain's data, and copied."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from imgloop import store
from imgloop.config.fork import Fork
from imgloop.errors import UserError


def check_fork(fork: Fork, real_key: str, folder: Path, needs_model: bool) -> None:
    """Raise UserError if the fork learnt from other real data, is not the one that the chain in `folder` was forked
    from, or lacks the model of its last generation where the next one `needs_model`."""
    last = fork.generation(fork.t)
    if needs_model and not (folder / f"gen{fork.t + 1:03d}").is_dir() and not (last / "model").is_dir():
        raise UserError(
            f"fork: {last} has no model (keep_models removed it), and the next generation starts from it or selects by "
            "it: fork a generation that has one, or leave start=weights and select_from=mix out.",
            "fork",
        )
    for t in range(fork.t + 1):
        record = fork.record(t)
        if record["real"] != real_key:
            raise UserError(
                f"{fork.folder} was made from other real data than this chain: fork a chain of the same data, with "
                "equal data settings.",
                "fork",
            )
        own = folder / f"gen{t:03d}" / "record.json"
        if own.exists() and store.read_json(own)["pool_hash"] != record["pool_hash"]:
            raise UserError(
                f"{folder} was forked from other generations than {fork.folder} holds now: give study=NEW, or "
                "overwrite=true.",
                "fork",
            )


def copy_fork(fork: Fork, folder: Path) -> None:
    """Copy into a chain's folder the generations that it does not have yet; files are hard links if the disk can."""
    for t in range(fork.t + 1):
        if not (folder / f"gen{t:03d}").is_dir():
            store.commit_folder(folder / f"gen{t:03d}", lambda part, t=t: copy_tree(fork.generation(t), part))


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder into an existing one, by hard links on one disk: files of a finished generation never change."""
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(exist_ok=True)
            continue
        try:
            os.link(path, copy)
        except OSError:  # another disk, or a file system without links
            shutil.copy2(path, copy)
