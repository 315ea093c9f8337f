"""Images in a folder or a .zip, decoded once into a memory-mapped cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from imgloop.config.fields import check_settings, setting
from imgloop.data.archive import Archive, Layout, Member, chosen_layout, layout, opened
from imgloop.data.cache import checked, read_part, split_pools, write_labels, write_part
from imgloop.data.classes import chosen
from imgloop.data.decode import Broken, TooSmall, decode
from imgloop.data.real import Facts, RealData, check_classes_settings, order, sizes
from imgloop.errors import UserError
from imgloop.store import content_key, once, read_json, write_json

FORMAT = 2  # of the cache: increase it when decoding or splitting gives different bytes
BLOCK, BYTES = 128, 256 << 20  # files in memory at once, and their bytes, but for one that is larger
REPORT = 512  # files between two calls of progress
THREADS = min(4, os.cpu_count() or 1)  # Pillow releases the interpreter's lock while it decodes and resizes
LISTED = 5  # names of skipped files in the facts
# Kinds of image that are not read: a run warns about them at its start.
OTHER_IMAGES = (
    ".avif",
    ".heic",
    ".heif",
    ".jp2",
    ".jxl",
    ".psd",
    ".svg",
    ".tga",
    ".dng",
    ".cr2",
    ".nef",
    ".exr",
    ".dcm",
)


@dataclass(frozen=True)
class Folder:
    """A folder or .zip of images as uint8 (N, channels, size, size). Settings as in conf/data/folder.yaml.

    Layouts, below any folders that contain everything else:
    - one folder per class, classes sorted by name; deeper folders belong to the class above them;
    - images in one folder, or a single class: no labels;
    - train/ and test/ (or validation/, valid/, val/), each like one of the above: held-out comes from the second.
    Hidden files, __MACOSX and files without an image's extension are ignored and counted.
    Raises UserError for impossible settings.
    """

    root: str = setting(MISSING, kind=Path, why="such as a folder or a .zip of images")
    size: int = setting(32, low=4, high=1024)
    channels: int = setting(3, choices=(1, 3), why="which mean grey and colour")
    n: int | None = setting(None, kind=int, low=1)
    heldout: int | None = setting(None, kind=int, low=1)
    seed: int = setting(0, low=0)
    skip_broken: bool = setting(False)
    labels: bool = setting(True)
    classes: Sequence[str | int] | None = None
    imbalance: float | None = setting(None, kind=float, low=1, why="the ratio of the largest to the smallest class")

    fix_broken: ClassVar[str] = "replace it, or use data.skip_broken=true to continue without such files"

    def __post_init__(self):
        check_settings(self, "data")
        check_classes_settings(self.classes, self.imbalance)

    def load(self, cache: Path, progress: Callable[[int, int], None] | None = None) -> RealData:
        """The split images, memory-mapped from a folder below `cache` made once for equal files and settings.

        `progress(done, total)` is called every few hundred images while they are decoded.
        """
        root = Path(os.path.expanduser(self.root))
        with opened(root) as archive:
            places = self.places(root, archive)
            # Too few images: an error now, not after a long decoding.
            n = self.n if self.imbalance is None else None
            sizes(len(places.train.members), places.test and len(places.test.members), n, self.heldout)
            # Images are stored in the order of the split, so that pools are slices of a memory map.
            key = content_key(
                [
                    FORMAT,
                    str(root.resolve()),
                    self.size,
                    self.channels,
                    self.skip_broken,
                    self.labels,
                    self.seed,
                    [(m.name, m.size, m.stamp) for m in archive.members],
                    *([] if self.classes is None else [self.classes]),
                ]
            )
            decode = partial(self._decode, archive=archive, places=places, progress=progress)
            folder = once(Path(cache) / f"images-{key}", decode, sealed=False)
        pools = {name: read_part(folder, name, part.labels is not None) for name, part in _parts(places)}
        skipped = checked(read_json, folder / "skipped.json")
        train, heldout, measured = split_pools(
            folder, pools["train"], pools.get("test"), self.n, self.heldout, places.classes, self.imbalance
        )
        facts = Facts(
            label=self.label(root, archive),
            source=self._source(places),
            available=sum(map(len, pools.values())),
            seed=self.seed,
            imbalance=self.imbalance,
            ignored=archive.ignored,
            unused=places.unused,
            skipped=len(skipped),
            skipped_first=skipped[:LISTED],
            **measured,
        )
        if others := [f"{count} {kind}" for kind, count in archive.ignored.items() if kind in OTHER_IMAGES]:
            facts = facts.warned(f"{', '.join(others)} in data.root={self.root} left out: such files are not read.")
        return RealData(train, heldout, places.classes, facts)

    def places(self, root: Path, archive: Archive) -> Layout:
        """The classes and parts of the files, only of the chosen classes; raises UserError."""
        places = layout(root, archive, self.labels)
        selected = chosen(places.classes, self.classes)
        return places if selected is None else chosen_layout(places, selected)

    def label(self, root: Path, archive: Archive) -> str:
        """The name of the images in tables and figures."""
        return f"folder {root.resolve().name}"

    def _source(self, places: Layout) -> str:
        what = "images" if places.classes is None else f"images of {len(places.classes)} classes"
        part = "split at random" if places.test is None else f"held-out from {places.test_name}/"
        return f"{what} in {self.root}, {part}, reduced to {self.size}x{self.size}"

    def _decode(self, folder: Path, archive: Archive, places: Layout, progress) -> None:
        skipped: list[str] = []
        done = 0
        total = sum(len(part.members) for _, part in _parts(places))

        def tick(files: int) -> None:
            nonlocal done
            done += files
            if progress is not None and (done == total or done // REPORT > (done - files) // REPORT):
                progress(done, total)

        for name, part in _parts(places):
            permutation = order(len(part.members), self.seed)
            decoded: list[int] = []  # positions in `permutation` of the files that could be decoded
            blocks = self._images([part.members[i] for i in permutation], archive, decoded, skipped, tick)
            write_part(folder, name, blocks, (self.channels, self.size, self.size))
            if part.labels is not None:
                write_labels(folder, name, np.asarray(part.labels, np.int64)[permutation[decoded]])
        write_json(folder / "skipped.json", skipped)

    def _images(
        self,
        members: list[Member],
        archive: Archive,
        decoded: list[int],
        skipped: list[str],
        tick: Callable[[int], None],
    ) -> Iterator[np.ndarray]:
        """Images uint8 (C, H, W) one by one; positions in `members` go to `decoded`, broken files to `skipped`."""

        def image(item: tuple[Member, bytes | Broken]) -> np.ndarray | Broken | TooSmall:
            member, data = item
            if isinstance(data, Broken):
                return data
            try:
                return decode(data, member.name, self.size, self.channels)
            except (Broken, TooSmall) as e:
                return e

        with ThreadPoolExecutor(THREADS) as pool:
            for begin, end in _blocks(members):
                block = members[begin:end]
                items = [(member, _bytes(archive, member)) for member in block]  # one thread reads a zip
                for position, result in enumerate(pool.map(image, items), start=begin):
                    member = members[position]
                    if isinstance(result, TooSmall):
                        raise self._too_small(member, result, archive)
                    if isinstance(result, Broken) and not self.skip_broken:
                        raise UserError(
                            f"{member.name} in data.root={self.root} cannot be decoded ({result}); {self.fix_broken}.",
                            "data.root",
                        )
                    if isinstance(result, Broken):
                        skipped.append(f"{member.name}: {result}")
                    else:
                        decoded.append(position)
                        yield result
                tick(len(block))

    def _too_small(self, member: Member, image: TooSmall, archive: Archive) -> UserError:
        largest = min([image.width, image.height, *filter(None, map(archive.short_side, archive.members))])
        fix = f"use data.size={largest} or less, or remove it" if largest >= 4 else "remove it and others as small"
        return UserError(
            f"{member.name} in data.root={self.root} has {image} pixels, fewer than data.size={self.size}, "
            f"and images are never enlarged: {fix}.",
            "data.size",
        )


def _blocks(members: list[Member]) -> Iterator[tuple[int, int]]:
    """(first, end) of members that are in memory together."""
    begin = size = 0
    for i, member in enumerate(members):
        if i - begin == BLOCK or (i > begin and size + member.size > BYTES):
            yield begin, i
            begin, size = i, 0
        size += member.size
    if begin < len(members):
        yield begin, len(members)


def _parts(places: Layout):
    yield "train", places.train
    if places.test is not None:
        yield "test", places.test


def _bytes(archive: Archive, member: Member) -> bytes | Broken:
    try:
        return archive.read(member)
    except Broken as e:
        return e
