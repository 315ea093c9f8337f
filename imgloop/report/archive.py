"""A study packed without weights: everything that its report and a new measurement need."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

from imgloop import store
from imgloop.errors import UserError
from imgloop.study import tables as study

WEIGHTS = (
    "model",
    "generation0-*",
    "classifier-*",
    "features-*",
)  # folders: trained weights, and what is computed anew
TRACES = (".*", "*.ckpt")  # locks, unfinished parts, checkpoints


def kept(folder: Path) -> list[Path]:
    """The files of a study that an archive holds, in a fixed order; links are left out, wherever they lead."""
    found = []
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = sorted(
            n for n in folders if not any(map(Path(n).match, (*WEIGHTS, *TRACES))) and not (here / n).is_symlink()
        )
        files = (here / n for n in sorted(names) if not any(map(Path(n).match, TRACES)))
        found += [p for p in files if p.is_file() and not p.is_symlink()]
    return found


def archive(folder: Path, out: Path | None = None) -> Path:
    """Pack a study into NAME.tar.gz beside it, or `out`; returns its path. Raises UserError where `folder` holds no
    chain, or `out` lies in it."""
    folder = folder.absolute()
    if not study.chains(folder):
        raise UserError(f"{folder} holds no chain: give a study's folder, for example outputs/digits-diffusion.")
    path = (out or folder.with_name(f"{folder.name}.tar.gz")).absolute()
    if path.is_relative_to(folder):
        raise UserError(f"{path} lies in the study that it would hold: give a path outside of it.")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with store.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(part, "w:gz", compresslevel=6) as tar:
                for p in kept(folder):
                    tar.add(p, Path(folder.name) / p.relative_to(folder), recursive=False, filter=_anonymous)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return path


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Whose files they were is nobody's business."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
