"""Images from a folder or a .zip, decoded once into a memory-mapped cache."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgloop.data.archive import Archive, Layout, Member, layout, opened
from imgloop.data.decode import Broken, TooSmall, decode
from imgloop.data.real import (
    RealData,
    check_integer,
    check_switch,
    order,
    pair_facts,
    size_facts,
    sizes,
    split,
)
from imgloop.errors import UserError
from imgloop.pool import Pool
from imgloop.store import content_key, once, open_arrays, read_json, write_arrays, write_json

FORMAT = 1  # of the cache: raise it when decoding or splitting gives other bytes
BLOCK = 128  # files in memory at once
TOLD = 512  # files between two reports of progress
THREADS = min(4, os.cpu_count() or 1)  # Pillow decodes and resizes outside of the interpreter's lock
NAMED = 5  # skipped files that the facts name
HEADER = 1016  # bytes of safetensors header, reserved before the number of images is known


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

    def __post_init__(self):
        if not isinstance(self.root, str | Path) or not str(self.root):
            raise UserError(f"data.root={self.root!r} is not possible; give the path of a folder or a .zip of images.")
        check_integer("size", self.size, 4, 1024)
        if type(self.channels) is not int or self.channels not in (1, 3):
            raise UserError(f"data.channels={self.channels!r} is not possible; use 3 for colour or 1 for grey.")
        check_integer("n", self.n, 1, optional=True)
        check_integer("heldout", self.heldout, 1, optional=True)
        check_integer("seed", self.seed, 0)
        check_switch("skip_broken", self.skip_broken)
        check_switch("labels", self.labels)

    def load(self, cache: Path, progress: Callable[[int, int], None] | None = None) -> RealData:
        """The split images, memory-mapped from a folder below `cache` that is made once for equal files and settings.

        `progress(done, total)` is called every few hundred images while they are decoded.
        """
        root = Path(os.path.expanduser(self.root))
        with opened(root) as archive:
            places = layout(root, archive, self.labels)
            # Too few images: said now, not after a long decoding.
            sizes(len(places.train.members), places.test and len(places.test.members), self.n, self.heldout)
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
                ]
            )
            folder = once(Path(cache) / f"images-{key}", lambda part: self._decode(part, archive, places, progress))
        pools = {
            name: Pool(
                _cached(open_arrays, folder / f"{name}.safetensors")["x"],
                None if part.labels is None else _cached(open_arrays, folder / f"{name}_labels.safetensors")["y"],
            )
            for name, part in _parts(places)
        }
        skipped = _cached(read_json, folder / "skipped.json")
        train, heldout = split(pools["train"], pools.get("test"), self.n, self.heldout)
        pair = folder / f"split-{len(train)}-{len(heldout)}.json"
        if not pair.exists():
            write_json(pair, pair_facts(train, heldout))
        facts = {
            "label": f"folder {root.resolve().name}",
            "source": self._source(places),
            "available": sum(map(len, pools.values())),
            "seed": self.seed,
        }
        facts |= size_facts(train, heldout, places.classes) | _cached(read_json, pair)
        facts |= {
            "ignored": archive.ignored,
            "unused": places.unused,
            "skipped": len(skipped),
            "skipped_first": skipped[:NAMED],
        }
        return RealData(train, heldout, places.classes, facts)

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
            kept = []  # positions in `drawn` of the files that could be decoded
            blocks = self._images([part.members[i] for i in drawn], archive, kept, skipped, tick)
            _write_images(folder / f"{name}.safetensors", blocks, (self.channels, self.size, self.size))
            if part.labels is not None:
                labels = np.asarray(part.labels, np.int64)[drawn[kept]]
                write_arrays(folder / f"{name}_labels.safetensors", {"y": labels})
        write_json(folder / "skipped.json", skipped)

    def _images(
        self, members: list[Member], archive: Archive, kept: list[int], skipped: list[str], tick: Callable[[int], None]
    ) -> Iterator[np.ndarray]:
        """Images uint8 (C, H, W) one by one; their positions in `members` go to `kept`, broken files to `skipped`."""

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
                            f"{member.name} in data.root={self.root} cannot be decoded ({result}); "
                            "replace it, or use data.skip_broken=true to go on without such files."
                        )
                    if isinstance(result, Broken):
                        skipped.append(f"{member.name}: {result}")
                    else:
                        kept.append(position)
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


def _cached(read: Callable, path: Path):
    try:
        return read(path)
    except UserError as e:
        raise UserError(f"The cache of decoded images {path.parent} is damaged; delete it and run again.") from e


def _write_images(path: Path, images: Iterator[np.ndarray], shape: tuple[int, int, int]) -> None:
    """Images of one shape, uint8, as tensor "x" of a safetensors file; one at a time in memory."""
    with open(path, "wb") as f:
        f.write(bytes(8 + HEADER))
        count = 0
        for image in images:
            f.write(np.ascontiguousarray(image).data)
            count += 1
        entry = {"dtype": "U8", "shape": [count, *shape], "data_offsets": [0, count * int(np.prod(shape))]}
        f.seek(0)
        f.write(struct.pack("<Q", HEADER) + json.dumps({"x": entry}).encode().ljust(HEADER))
        f.flush()
        os.fsync(f.fileno())
