"""Images from a folder or a .zip, decoded once into a memory-mapped cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from imgloop.data.archive import Archive, Layout, Member, chosen_layout, layout, opened
from imgloop.data.cache import kept, parted, read_part, write_labels, write_part
from imgloop.data.classes import chosen
from imgloop.data.decode import Broken, TooSmall, decode
from imgloop.data.real import RealData, check_channels, check_choice, check_integer, check_switch, order, sizes
from imgloop.errors import UserError
from imgloop.store import content_key, once, read_json, write_json

FORMAT = 2  # of the cache: raise it when decoding or splitting gives other bytes
BLOCK = 128  # files in memory at once
TOLD = 512  # files between two reports of progress
THREADS = min(4, os.cpu_count() or 1)  # Pillow decodes and resizes outside of the interpreter's lock
NAMED = 5  # skipped files that the facts name
# Kinds of image that are not read: where a folder holds some, a run says so at its start.
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

    Layouts, looked for below any folder that wraps everything:
    - one folder a class, classes sorted by name; deeper folders belong to the class above them;
    - images side by side, or a single class: no labels;
    - train/ and test/ (or validation/, valid/, val/), each like one of the above: held-out comes from the second.
    Hidden files, __MACOSX and files without an image's extension are ignored and counted.
    Raises UserError for settings that are not possible.
    """

    root: str
    size: int = 32
    channels: int = 3
    n: int | None = None
    heldout: int | None = None
    seed: int = 0
    skip_broken: bool = False
    labels: bool = True
    classes: Sequence[str | int] | None = None
    imbalance: float | None = None

    mend_broken: ClassVar[str] = "replace it, or use data.skip_broken=true to go on without such files"

    def __post_init__(self):
        if not isinstance(self.root, str | Path) or not str(self.root):
            raise UserError(f"data.root={self.root!r} is not possible; give the path of a folder or a .zip of images.")
        check_integer("size", self.size, 4, 1024)
        check_channels(self.channels)
        check_integer("n", self.n, 1, optional=True)
        check_integer("heldout", self.heldout, 1, optional=True)
        check_integer("seed", self.seed, 0)
        check_switch("skip_broken", self.skip_broken)
        check_switch("labels", self.labels)
        check_choice(self.classes, self.imbalance)

    def load(self, cache: Path, progress: Callable[[int, int], None] | None = None) -> RealData:
        """The split images, memory-mapped from a folder below `cache` that is made once for equal files and settings.

        `progress(done, total)` is called every few hundred images while they are decoded.
        """
        root = Path(os.path.expanduser(self.root))
        with opened(root) as archive:
            places = self.places(root, archive)
            # Too few images: said now, not after a long decoding.
            n = self.n if self.imbalance is None else None
            sizes(len(places.train.members), places.test and len(places.test.members), n, self.heldout)
            # Images are stored in the order of the split: pools are slices of a map, however large the data.
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
            folder = once(Path(cache) / f"images-{key}", lambda part: self._decode(part, archive, places, progress))
        pools = {name: read_part(folder, name, part.labels is not None) for name, part in _parts(places)}
        skipped = kept(read_json, folder / "skipped.json")
        train, heldout, facts = parted(
            folder, pools["train"], pools.get("test"), self.n, self.heldout, places.classes, self.imbalance
        )
        facts = {
            "label": self.label(root, archive),
            "source": self._source(places),
            "available": sum(map(len, pools.values())),
            "seed": self.seed,
            **({} if self.imbalance is None else {"imbalance": self.imbalance}),
            **facts,
            "ignored": archive.ignored,
            "unused": places.unused,
            "skipped": len(skipped),
            "skipped_first": skipped[:NAMED],
        }
        if others := {kind: count for kind, count in archive.ignored.items() if kind in OTHER_IMAGES}:
            told = ", ".join(f"{count} {kind}" for kind, count in others.items())
            left_out = f"{told} in data.root={self.root} left out: such files are not read."
            facts["warning"] = " ".join(filter(None, [facts.get("warning"), left_out]))
        return RealData(train, heldout, places.classes, facts)

    def places(self, root: Path, archive: Archive) -> Layout:
        """What the files' places mean, with the chosen classes alone; raises UserError."""
        places = layout(root, archive, self.labels)
        wanted = chosen(places.classes, self.classes)
        return places if wanted is None else chosen_layout(places, wanted)

    def label(self, root: Path, archive: Archive) -> str:
        """What the images are called in tables and figures."""
        return f"folder {root.resolve().name}"

    def _source(self, places: Layout) -> str:
        what = "images" if places.classes is None else f"images of {len(places.classes)} classes"
        part = "split at random" if places.test is None else f"held-out from {places.test_name}/"
        return f"{what} in {self.root}, {part}, reduced to {self.size}x{self.size}"

    def _decode(self, folder: Path, archive: Archive, places: Layout, progress) -> None:
        skipped, done = [], 0
        total = sum(len(part.members) for _, part in _parts(places))

        def tick(files: int) -> None:
            nonlocal done
            done += files
            if progress is not None and (done == total or done // TOLD > (done - files) // TOLD):
                progress(done, total)

        for name, part in _parts(places):
            drawn = order(len(part.members), self.seed)
            decoded = []  # positions in `drawn` of the files that could be decoded
            blocks = self._images([part.members[i] for i in drawn], archive, decoded, skipped, tick)
            write_part(folder, name, blocks, (self.channels, self.size, self.size))
            if part.labels is not None:
                write_labels(folder, name, np.asarray(part.labels, np.int64)[drawn[decoded]])
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
            for begin in range(0, len(members), BLOCK):
                block = members[begin : begin + BLOCK]
                items = [(member, _bytes(archive, member)) for member in block]  # a zip file is read by one thread
                for position, result in enumerate(pool.map(image, items), start=begin):
                    member = members[position]
                    if isinstance(result, TooSmall):
                        raise self._too_small(member, result, archive)
                    if isinstance(result, Broken) and not self.skip_broken:
                        raise UserError(
                            f"{member.name} in data.root={self.root} cannot be decoded ({result}); {self.mend_broken}."
                        )
                    if isinstance(result, Broken):
                        skipped.append(f"{member.name}: {result}")
                    else:
                        decoded.append(position)
                        yield result
                tick(len(block))

    def _too_small(self, member: Member, image: TooSmall, archive: Archive) -> UserError:
        largest = min([image.width, image.height, *filter(None, map(archive.short_side, archive.members))])
        mend = f"use data.size={largest} or less, or remove it" if largest >= 4 else "remove it and others as small"
        return UserError(
            f"{member.name} in data.root={self.root} is {image} pixels, under data.size={self.size}, "
            f"and images are never enlarged: {mend}."
        )


def _parts(places: Layout):
    yield "train", places.train
    if places.test is not None:
        yield "test", places.test


def _bytes(archive: Archive, member: Member) -> bytes | Broken:
    try:
        return archive.read(member)
    except Broken as e:
        return e
