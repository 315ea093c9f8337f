"""Packs a study without weights: all that its report and new measurements need."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

from imgloop import store
from imgloop.errors import UserError
from imgloop.report.check import check
from imgloop.study import tables

WEIGHTS = ("model", "generation0-*", "classifier-*", "features-*")  # folders: weights, and what can be recomputed
TEMPORARY = (".*", "*.ckpt")  # locks, unfinished parts, checkpoints


def packed(folder: Path) -> list[Path]:
    """The files of a study that go into an archive, in a fixed order; links are left out."""
    found = []
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = sorted(
            n for n in folders if not any(map(Path(n).match, (*WEIGHTS, *TEMPORARY))) and not (here / n).is_symlink()
        )
        files = (here / n for n in sorted(names) if not any(map(Path(n).match, TEMPORARY)))
        found += [p for p in files if p.is_file() and not p.is_symlink()]
    return found


def archive(folder: Path, out: Path | None = None) -> Path:
    """Pack a study into NAME.tar.gz beside it, or into `out`; returns the path.

    Raises UserError if `folder` contains no chain or a damaged file, or `out` lies inside it.
    """
    folder = folder.absolute()
    if not tables.chains(folder):
        raise UserError(f"{folder} contains no chain: give a study's folder, for example outputs/digits-diffusion.")
    path = (out or folder.with_name(f"{folder.name}.tar.gz")).absolute()
    if path.is_relative_to(folder):
        raise UserError(f"{path} lies inside the study: give --out a path outside of it.", "out")
    found = check(folder)
    if found.faults:
        raise UserError(
            f"{found.faults[0]} An archive of damaged files would hide that; python -m imgloop.report --check {folder} "
            "lists all."
        )

    def pack(part: Path) -> None:
        with tarfile.open(part, "w:gz", compresslevel=6) as tar:
            for p in packed(folder):
                tar.add(p, Path(folder.name) / p.relative_to(folder), recursive=False, filter=_anonymous)

    store.remove_parts(path.parent)
    store.write_file(path, pack)
    return path


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """The entry without its owner."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
