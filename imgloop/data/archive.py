"""The files of a folder or a .zip, and their layout: classes, training part and test part."""

from __future__ import annotations

import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import IO

import numpy as np

from imgloop.data.classes import relabelled
from imgloop.data.decode import SUFFIXES, Broken, check_size, short_side
from imgloop.errors import UserError

TEST_PARTS = ("test", "validation", "valid", "val")  # the first that exists becomes held-out
LARGEST = 256 << 20  # bytes of one file: larger ones are not images, or zip bombs
SMALL = 1 << 20  # bytes of a file that is read without a look at its header


@dataclass(frozen=True)
class Member:
    """One image file: its path inside the root with "/", bytes, and modification time (ns) or, in a zip, checksum."""

    name: str
    size: int
    stamp: int


@dataclass(frozen=True)
class Archive:
    """The image files of a root, sorted by name; `ignored` counts other files by kind."""

    members: list[Member]
    ignored: dict[str, int]
    open: Callable[[Member], IO[bytes]]

    def read(self, member: Member) -> bytes:
        """The bytes of one file; raises Broken."""
        if member.size > LARGEST:
            raise Broken(f"{member.size:,} bytes are too many for an image")
        try:
            if member.size > SMALL:
                with self.open(member) as f:
                    check_size(f, member.size)
            with self.open(member) as f:
                return f.read(LARGEST)
        except Broken:
            raise
        except Exception as e:  # permissions, checksums, zlib, lzma, unknown methods: each has its own error class
            raise Broken(getattr(e, "strerror", None) or str(e) or type(e).__name__) from e

    def short_side(self, member: Member) -> int | None:
        """The short side of an image in pixels, from its header; None if that cannot be read."""
        try:
            with self.open(member) as f:
                return short_side(f)
        except Exception:  # the caller reports a different file
            return None


@dataclass(frozen=True)
class Part:
    """Image files, and the index of each one's class, or None."""

    members: list[Member]
    labels: list[int] | None


@dataclass(frozen=True)
class Layout:
    """The parts and classes of a root; `test` is None if it has no separate part for held-out images."""

    train: Part
    test: Part | None
    classes: tuple[str, ...] | None
    test_name: str | None = None
    unused: dict[str, int] = field(default_factory=dict)  # numbers of images in further test parts


def check_exists(root: Path) -> None:
    """Raise UserError for a root that does not exist."""
    if not os.path.exists(root):
        raise UserError(f"data.root={root} does not exist; give a folder or a .zip of images.", "data.root")


@contextmanager
def opened(root: Path) -> Iterator[Archive]:
    """The image files of a folder or a .zip, which is not unpacked; raises UserError if they cannot be read."""
    check_exists(root)
    if root.is_dir():
        members, ignored = _sorted(_walk(root))
        yield Archive(members, ignored, lambda member: open(root / member.name, "rb"))
        return
    with _zip(root) as archive:
        infos = {}
        for info in archive.infolist():
            name = info.filename.replace("\\", "/")  # some archivers on Windows write backslashes
            if name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name):
                raise UserError(
                    f"data.root={root}: its member {info.filename!r} points outside the archive; pack it again with "
                    "relative names.",
                    "data.root",
                )
            if not name.endswith("/"):
                infos[PurePosixPath(name).as_posix()] = info
        members, ignored = _sorted(Member(name, info.file_size, info.CRC) for name, info in infos.items())
        if any(infos[m.name].flag_bits & 1 for m in members):
            raise UserError(
                f"data.root={root} is encrypted; give an archive without a password, or a folder.", "data.root"
            )
        yield Archive(members, ignored, lambda member: archive.open(infos[member.name]))


def _zip(root: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(root)
    except OSError as e:
        raise UserError(f"data.root={root} cannot be read ({e.strerror}); fix its permissions.", "data.root") from e
    except Exception as e:  # BadZipFile; struct, decoding and overflow errors from damaged directories
        problem = "is a damaged .zip" if root.suffix.lower() == ".zip" else "is a file but no .zip"
        raise UserError(f"data.root={root} {problem} ({e}); give a folder or a .zip of images.", "data.root") from e


def layout(root: Path, archive: Archive, labels: bool = True) -> Layout:
    """Classes and parts by folders; see `Folder` for the rules. Raises UserError for an ambiguous layout."""
    if not archive.members:
        other = ", ".join(f"{count} {kind}" for kind, count in archive.ignored.items())
        raise UserError(
            f"data.root={root} contains no images{f' (only {other})' if other else ''}; give files named "
            f"{', '.join(sorted(SUFFIXES))}, in one folder per class or all in one folder.",
            "data.root",
        )
    paths = [m.name.split("/") for m in archive.members]
    depth = 0
    while all(len(p) > depth + 1 for p in paths) and len({p[depth] for p in paths}) == 1:
        depth += 1  # a folder that contains everything else, common in archives
    tops = {p[depth] for p in paths if len(p) > depth + 1}
    tests = [name for name in TEST_PARTS if name in {top.lower() for top in tops}]
    if not tests or "train" not in {top.lower() for top in tops}:
        classes = _classes(root, "", paths, depth, labels)
        return Layout(_part(archive.members, paths, depth, classes), None, classes)

    other = sorted(top for top in tops if top.lower() not in ("train", *TEST_PARTS))
    if other or any(len(p) == depth + 1 for p in paths):
        beside = ", ".join(f"{name}/" for name in other[:3]) or "images"
        raise UserError(
            f"data.root={root} contains {beside} beside train/ and {tests[0]}/, and it is unclear to which part "
            "that belongs; move it away, or set data.root to one of the folders.",
            "data.root",
        )
    chosen = {name: [i for i, p in enumerate(paths) if p[depth].lower() == name] for name in ("train", *tests)}

    def selected(name):
        return [archive.members[i] for i in chosen[name]], [paths[i] for i in chosen[name]], depth + 1

    names = [_classes(root, f"{name}/", *selected(name)[1:], labels) or () for name in ("train", tests[0])]
    classes = names[0] if len(names[0]) > 1 else None  # a single folder is not a class
    if (not names[1] or not set(names[1]) <= set(names[0])) if classes else len(names[1]) > 1:
        raise UserError(
            f"data.root={root}: the folders of {tests[0]}/ are not classes of train/; "
            "give both parts the same class folders, or use data.labels=false.",
            "data.root",
        )
    return Layout(
        _part(*selected("train"), classes),
        _part(*selected(tests[0]), classes),
        classes,
        tests[0],
        {name: len(chosen[name]) for name in tests[1:]},
    )


def chosen_layout(places: Layout, selected: Sequence[int]) -> Layout:
    """The same layout with only the `selected` classes, labelled in their order; a single class has no labels."""
    names = places.classes or ()

    def part(whole: Part | None) -> Part | None:
        if whole is None or whole.labels is None:
            return whole
        rows, labels = relabelled(np.asarray(whole.labels, np.int64), selected, len(names))
        return Part([whole.members[i] for i in rows], None if len(selected) == 1 else labels.tolist())

    classes = None if len(selected) == 1 else tuple(names[k] for k in selected)
    train = part(places.train)
    assert train is not None
    return replace(places, train=train, test=part(places.test), classes=classes)


def _classes(root, where, paths, depth, labels) -> tuple[str, ...] | None:
    inside = [p[depth] for p in paths if len(p) > depth + 1]
    if not labels or not inside:
        return None
    if len(inside) < len(paths):
        direct = next(p[-1] for p in paths if len(p) == depth + 1)
        raise UserError(
            f"data.root={root} contains images both directly in {where or 'it'} ({direct}) and in folders "
            f"({inside[0]}/); move all into class folders, or use data.labels=false.",
            "data.root",
        )
    return tuple(sorted(set(inside)))


def _part(members, paths, depth, classes) -> Part:
    index = None if classes is None else {name: k for k, name in enumerate(classes)}
    return Part(members, None if index is None else [index[p[depth]] for p in paths])


def _sorted(members: Iterable[Member]) -> tuple[list[Member], dict[str, int]]:
    images, ignored = [], Counter()
    for member in members:
        kind = _ignored(member.name)
        if kind is None:
            images.append(member)
        else:
            ignored[kind] += 1
    return sorted(images, key=lambda m: m.name), dict(sorted(ignored.items()))


def _ignored(name: str) -> str | None:
    """Why a file is ignored: "hidden", or its extension; None for an image."""
    parts = name.split("/")
    if any(p.startswith(".") or p == "__MACOSX" for p in parts):
        return "hidden"
    suffix = PurePosixPath(name).suffix.lower()
    return None if suffix in SUFFIXES else suffix or "without extension"


def _walk(root: Path) -> Iterator[Member]:
    def refuse(error: OSError):
        raise UserError(
            f"data.root={root}: {error.filename} cannot be read ({error.strerror}); fix its permissions.",
            "data.root",
        ) from error

    seen = set()
    for folder, _, files in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        if real in seen:
            raise UserError(
                f"data.root={root}: {folder} links to a folder that is already included; remove the link.", "data.root"
            )
        seen.add(real)
        for name in files:
            path = Path(folder, name)
            try:
                stat = path.stat()
                if not S_ISREG(stat.st_mode):  # reading a pipe or device may never end
                    raise UserError(f"data.root={root}: {path} is not a regular file; remove it.", "data.root")
                yield Member(path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns)
            except FileNotFoundError:  # a dangling link is reported as broken when it is read
                yield Member(path.relative_to(root).as_posix(), 0, 0)
