"""Images in a folder or a .zip, decoded once into a memory-mapped cache."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from imgloop.data.decode import Broken, Changes, TooSmall, examined
from imgloop.data.real import Facts, RealData, check_classes_settings, order, sizes
from imgloop.errors import UserError
from imgloop.store import content_key, once, read_json, write_json

FORMAT = 2  # of the cache: increase it when decoding or splitting gives different bytes
BLOCK, BYTES = 128, 256 << 20  # files in memory at once, and their bytes, but for one that is larger
REPORT = 512  # files between two calls of progress
THREADS = min(4, os.cpu_count() or 1)  # Pillow releases the interpreter's lock while it decodes and resizes
LISTED = 5  # names of skipped files in the facts
NAMED, MOST_FAULTS = 50, 1000  # files that an error names, and after which decoding ends
READ = "read.json"  # how many files were read, and what was changed in them
Fault = Broken | TooSmall | UserError
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
            test = places.test and len(places.test.members)
            n, heldout = sizes(len(places.train.members), test, n, self.heldout)
            folder, limited = self._decoded(Path(cache), root, archive, places, n, heldout, progress)
        pools = {name: read_part(folder, name, part.labels is not None) for name, part in _parts(places)}
        skipped = checked(read_json, folder / "skipped.json")
        train, heldout, measured = split_pools(
            folder, pools["train"], pools.get("test"), self.n, heldout if limited else self.heldout, places.classes,
            self.imbalance,
        )  # fmt: skip
        available = sum(len(part.members) for _, part in _parts(places)) - len(skipped)
        read = checked(read_json, folder / READ) if (folder / READ).exists() else {}  # missing before 0.2.0
        facts = Facts(
            label=self.label(root, archive),
            source=self._source(places),
            available=available,
            seed=self.seed,
            imbalance=self.imbalance,
            ignored=archive.ignored,
            unused=places.unused,
            skipped=len(skipped),
            skipped_first=skipped[:LISTED],
            **read,
            **measured,
        )
        if others := [f"{count} {kind}" for kind, count in archive.ignored.items() if kind in OTHER_IMAGES]:
            facts = facts.warned(f"{', '.join(others)} in data.root={self.root} left out: such files are not read.")
        return RealData(train, heldout, places.classes, facts)

    def _decoded(
        self, cache: Path, root: Path, archive: Archive, places: Layout, n: int, heldout: int, progress
    ) -> tuple[Path, bool]:
        """The folder of the decoded images, and whether it holds only the first of each part, as many as are used.

        Images are stored in the order of the split, so that pools are slices of a memory map.
        """
        parts = [
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
        most = {"train": n + heldout} if places.test is None else {"train": n, "test": heldout}
        every = {name: len(part.members) for name, part in _parts(places)}
        folder = cache / f"images-{content_key(parts)}"
        # The rows of `imbalance`, and the default of `heldout` if files are skipped, depend on all images.
        unknown = self.imbalance is not None or (self.skip_broken and self.heldout is None)
        limited = most != every and not unknown and not folder.exists()
        if limited:
            folder = cache / f"images-{content_key([*parts, most])}"
        wanted = most if limited else every
        decode = partial(self._decode, archive=archive, places=places, wanted=wanted, progress=progress)
        return once(folder, decode, sealed=False), limited

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

    def _decode(self, folder: Path, archive: Archive, places: Layout, wanted: Mapping[str, int], progress) -> None:
        skipped: list[str] = []
        faults: list[tuple[Member, Fault]] = []
        modes, cropped = Counter[str](), 0
        done, total = 0, sum(wanted.values())

        def tick(files: int) -> None:
            nonlocal done
            before, done = done, min(done + files, total)
            if progress is not None and (done == total or done // REPORT > before // REPORT):
                progress(done, total)

        def images(members: list[Member], positions: list[int], most: int) -> Iterator[np.ndarray]:
            nonlocal cropped
            for position, result in self._results(members, archive, tick):
                if len(positions) == most or len(faults) == MOST_FAULTS:
                    return
                if isinstance(result, Broken) and self.skip_broken:
                    skipped.append(f"{members[position].name}: {result}")
                elif isinstance(result, Exception):
                    faults.append((members[position], result))
                else:
                    x, changes = result
                    positions.append(position)
                    modes.update([changes.mode] if changes.mode else [])
                    cropped += changes.cropped
                    yield x

        for name, part in _parts(places):
            permutation = order(len(part.members), self.seed)
            first = permutation if self.skip_broken else permutation[: wanted[name]]
            positions: list[int] = []  # in `permutation`, of the files that could be decoded
            blocks = images([part.members[i] for i in first], positions, wanted[name])
            write_part(folder, name, blocks, (self.channels, self.size, self.size))
            if part.labels is not None:
                write_labels(folder, name, np.asarray(part.labels, np.int64)[permutation[positions]])
        if faults:
            raise self._refused(faults, archive)
        write_json(folder / "skipped.json", skipped)
        read = sum(len(read_part(folder, name, False)) for name, _ in _parts(places)) + len(skipped)
        write_json(folder / READ, {"read": read, "converted": dict(sorted(modes.items())), "cropped": cropped})

    def _results(
        self, members: list[Member], archive: Archive, tick: Callable[[int], None]
    ) -> Iterator[tuple[int, tuple[np.ndarray, Changes] | Fault]]:
        """For each position in `members` the image uint8 (C, H, W) with its changes, or why there is none."""

        def image(item: tuple[Member, bytes | Broken | UserError]) -> tuple[np.ndarray, Changes] | Fault:
            member, data = item
            if not isinstance(data, bytes):
                return data
            try:
                return examined(data, member.name, self.size, self.channels)
            except (Broken, TooSmall, UserError) as e:
                return e

        with ThreadPoolExecutor(THREADS) as pool:
            for begin, end in _blocks(members):
                block = members[begin:end]
                items = [(member, _bytes(archive, member)) for member in block]  # one thread reads a zip
                yield from enumerate(pool.map(image, items), start=begin)
                tick(len(block))

    def _refused(self, faults: list[tuple[Member, Fault]], archive: Archive) -> UserError:
        """All files that cannot be used, by reason."""
        faults = sorted(faults, key=lambda fault: fault[0].name)
        where, sentences = f"in data.root={self.root}", []
        broken = [(m.name, e) for m, e in faults if isinstance(e, Broken)]
        small = [(m.name, e) for m, e in faults if isinstance(e, TooSmall)]
        if len(broken) == 1:
            sentences += [f"{name} {where} cannot be decoded ({e}); {self.fix_broken}." for name, e in broken]
        elif broken:
            fix = self.fix_broken.replace("replace it", "replace them")
            sentences.append(f"{len(broken):,} files {where} cannot be decoded; {fix}: {_named(broken)}.")
        if small:
            largest = min(side for m in archive.members if (side := archive.short_side(m)) is not None)
            fix = "remove it and others as small" if len(small) == 1 else "remove them"
            fix = f"use data.size={largest} or less, or {fix}" if largest >= 4 else fix
            fewer = f"fewer than data.size={self.size}, and images are never enlarged: {fix}"
            if len(small) == 1:
                sentences += [f"{name} {where} has {e} pixels, {fewer}." for name, e in small]
            else:
                sentences.append(f"{len(small):,} images {where} have {fewer}: {_named(small)}.")
        sentences += [str(e) for _, e in faults if isinstance(e, UserError)][:NAMED]
        if len(faults) == MOST_FAULTS:
            sentences.append(f"The search ended after {MOST_FAULTS:,} such files.")
        return UserError(" ".join(sentences), "data.size" if small and not broken else "data.root")


def _named(files: list[tuple[str, Broken]] | list[tuple[str, TooSmall]]) -> str:
    names = ", ".join(f"{name} ({e})" for name, e in files[:NAMED])
    return names + (f" and {len(files) - NAMED:,} more" if len(files) > NAMED else "")


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


def _bytes(archive: Archive, member: Member) -> bytes | Broken | UserError:
    try:
        return archive.read(member)
    except (Broken, UserError) as e:
        return e
