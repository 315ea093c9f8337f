"""FFHQ: the official 128 x 128 thumbnails of 70,000 faces, as a folder or a .zip."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from pathlib import Path

from imgloop.config.fields import check_settings, setting
from imgloop.data.archive import Archive, Layout
from imgloop.data.folder import Folder
from imgloop.data.real import RealData
from imgloop.errors import UserError

SIDE, COUNT = 128, 70_000
WHERE = "https://github.com/NVlabs/ffhq-dataset (thumbnails128x128)"


@dataclass(frozen=True)
class Ffhq:
    """Faces as uint8 (N, channels, size, size), no labels, from thumbnails named 00000/00000.png to 69000/69999.png.

    Karras et al. 2019, arXiv:1812.04948. Settings as in conf/data/ffhq.yaml; raises UserError for impossible ones.
    """

    root: str = setting(MISSING, kind=Path, why="such as thumbnails128x128 or a .zip of it")
    size: int = setting(32, low=8, high=SIDE)
    channels: int = setting(3, choices=(1, 3), why="which mean grey and colour")
    n: int | None = setting(None, kind=int, low=1)
    heldout: int | None = setting(None, kind=int, low=1)
    seed: int = setting(0, low=0)
    skip_broken: bool = setting(False)

    def __post_init__(self):
        check_settings(self, "data")

    def load(self, cache: Path, progress: Callable[[int, int], None] | None = None) -> RealData:
        """The split images, memory-mapped from `cache`; raises UserError for a root with other content."""
        return _Thumbnails(**vars(self), labels=False).load(cache, progress)


@dataclass(frozen=True)
class _Thumbnails(Folder):
    def places(self, root: Path, archive: Archive) -> Layout:
        for member in archive.members:
            match = re.search(r"(?:^|/)(\d\d)000/(\1\d{3})\.png$", member.name)
            if match is None:
                raise UserError(
                    f"{member.name} in data.root={self.root} is not a thumbnail of FFHQ; these are 00000/00000.png to "
                    f"69000/69999.png: get them from {WHERE}, or use data=folder for other images.",
                    "data.root",
                )
        for member in archive.members[:1]:
            side = archive.short_side(member)
            if side is not None and side != SIDE:
                raise UserError(
                    f"{member.name} in data.root={self.root} is {side} pixels wide, and FFHQ's thumbnails are {SIDE}: "
                    f"get them from {WHERE}, or use data=folder for other sizes.",
                    "data.root",
                )
        return super().places(root, archive)

    def label(self, root: Path, archive: Archive) -> str:
        return "FFHQ" if len(archive.members) == COUNT else f"FFHQ ({len(archive.members):,} of {COUNT:,})"
