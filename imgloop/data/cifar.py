"""CIFAR-10 and CIFAR-100: the official files, downloaded or given, or a copy as image files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from imgloop.config.fields import check_settings, setting
from imgloop.data.archive import Archive, Layout
from imgloop.data.batches import (
    CIFAR10,
    CIFAR100,
    Official,
    batch,
    class_names,
    contents,
    downloaded,
    find_files,
    is_official,
)
from imgloop.data.cache import checked, read_part, split_pools, write_labels, write_part
from imgloop.data.classes import chosen, only
from imgloop.data.decode import reduced
from imgloop.data.folder import Folder
from imgloop.data.real import Facts, RealData, check_classes_settings, order
from imgloop.errors import UserError
from imgloop.store import content_key, once, read_json, write_json

FORMAT = 1  # of the cache: increase it when reading or splitting gives different bytes
REPORT = 2048  # images between two calls of progress


@dataclass(frozen=True)
class _Cifar:
    """What both data sets share; settings as in conf/data/cifar10.yaml."""

    root: str | None = setting(None, kind=Path)
    size: int = setting(32, low=4, high=32)
    channels: int = setting(3, choices=(1, 3), why="which mean grey and colour")
    n: int | None = setting(None, kind=int, low=1)
    heldout: int | None = setting(None, kind=int, low=1)
    seed: int = setting(0, low=0)
    classes: Sequence[str | int] | None = None
    imbalance: float | None = setting(None, kind=float, low=1, why="the ratio of the largest to the smallest class")

    official: ClassVar[Official]

    def __post_init__(self):
        check_settings(self, "data")
        check_classes_settings(self.classes, self.imbalance)

    def load(self, cache: Path, progress: Callable[[int, int], None] | None = None) -> RealData:
        """The official training part and held-out images of the official test part, memory-mapped from `cache`.

        Raises UserError, with the address of the data, if they are missing and cannot be downloaded.
        """
        if self.root is None:
            return self._official(downloaded(self.official, cache), cache, progress)
        root = Path(os.path.expanduser(self.root))
        if not os.path.exists(root):
            raise UserError(
                f"data.root={self.root} does not exist; give {self.official.archive} or the folder "
                f"{self.official.folder}, a folder or .zip of image files, or data.root=null to download.",
                "data.root",
            )
        place = find_files(self.official, root)
        if place is not None:
            return self._official(place, cache, progress)
        settings = {k: v for k, v in vars(self).items() if k != "root"}
        return _ImageFiles(str(root), **settings, official=self.official).load(cache, progress)

    def _official(self, place: Path, cache: Path, progress) -> RealData:
        files = [place / name for name in self.official.files] if place.is_dir() else [place]
        stamps = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.exists()]
        settings = [self.size, self.channels, self.seed, self.classes]
        key = content_key([FORMAT, self.official.name, str(place.resolve()), stamps, *settings])
        folder = once(Path(cache) / f"images-{key}", lambda part: self._decode(part, place, progress), sealed=False)
        about = checked(read_json, folder / "about.json")
        classes = about["classes"] and tuple(about["classes"])
        pool, test = (read_part(folder, name, classes is not None) for name in ("train", "test"))
        train, heldout, measured = split_pools(folder, pool, test, self.n, self.heldout, classes, self.imbalance)
        changed, name = about["changed"], self.official.name
        facts = Facts(
            label=f"{name} (changed files)" if changed else name,
            set=None if changed else name,
            source=f"{name} from {self.root or self.official.url}, held-out from its test part, "
            f"{self.size}x{self.size}",
            available=len(pool) + len(test),
            seed=self.seed,
            imbalance=self.imbalance,
            ignored={},
            skipped=0,
            **measured,
        )
        if changed:
            facts = facts.warned(
                f"{', '.join(changed)} in data.root={self.root} differ from the published files of {name}."
            )
        return RealData(train, heldout, classes, facts)

    def _decode(self, folder: Path, place: Path, progress) -> None:
        official, done = self.official, 0
        files = contents(official, place)
        changed = [name for name, data in files.items() if not is_official(official, name, data)]
        names = class_names(official, files[official.meta[0]])
        parts = {
            part: [batch(official, name, files.pop(name)) for name in batches]
            for part, batches in (("train", official.train), ("test", official.test))
        }
        selected, classes = chosen(names, self.classes), names
        total = sum(len(y) for batches in parts.values() for _, y in batches)
        for part, batches in parts.items():
            x, y = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
            if selected is not None:
                x, y, classes = only(x, y, names, selected)

            def images(x=x):
                nonlocal done
                for i in order(len(x), self.seed):
                    yield reduced(x[i], self.size, self.channels)
                    done += 1
                    if progress is not None and done % REPORT == 0:
                        progress(done, total)

            write_part(folder, part, images(), (self.channels, self.size, self.size))
            if y is not None:
                write_labels(folder, part, y[order(len(x), self.seed)])
        write_json(folder / "about.json", {"classes": classes, "changed": changed})


@dataclass(frozen=True)
class Cifar10(_Cifar):
    """CIFAR-10: 50,000 and 10,000 images, 10 classes, uint8 (N, channels, size, size). Krizhevsky 2009."""

    official = CIFAR10


@dataclass(frozen=True)
class Cifar100(_Cifar):
    """CIFAR-100: 50,000 and 10,000 images, 100 fine classes, uint8 (N, channels, size, size). Krizhevsky 2009."""

    official = CIFAR100


@dataclass(frozen=True)
class _ImageFiles(Folder):
    """A copy as image files, train/CLASS/* and test/CLASS/* with the data set's classes; its label says so."""

    official: Official = CIFAR10
    fix_broken: ClassVar[str] = "replace it"

    def places(self, root: Path, archive: Archive) -> Layout:
        whole = Folder(self.root).places(root, archive)
        name, count = self.official.name, self.official.classes
        if whole.test is None or len(whole.classes or ()) != count:
            raise UserError(
                f"data.root={self.root} is not {name}: give {self.official.archive}, the folder "
                f"{self.official.folder}, or image files as train/CLASS/* and test/CLASS/* with {count} classes; for "
                "other images use data=folder.",
                "data.root",
            )
        return super().places(root, archive)

    def label(self, root: Path, archive: Archive) -> str:
        kinds = {m.name.rsplit(".", 1)[1].lower() for m in archive.members}
        return f"{self.official.name} ({'JPEG copy' if kinds & {'jpg', 'jpeg', 'jpe', 'jfif'} else 'image files'})"
