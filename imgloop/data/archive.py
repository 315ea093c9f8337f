"""The files of a folder or a .zip, read alike, and what their places mean: classes, training and test part."""

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
from typing import BinaryIO

import numpy as np

from imgloop.data.classes import rows_of
from imgloop.data.decode import SUFFIXES, Broken, short_side
from imgloop.errors import UserError

TEST_PARTS = ("test", "validation", "valid", "val")  # the first that is there becomes held-out
LARGEST = 1 << 30  # bytes of one file: more is no image, or a zip bomb


@dataclass(frozen=True)
class Member:
    """One image file: its path inside the root with "/", bytes, and modification time (ns) or, in a zip, checksum."""

    name: str
    size: int
    stamp: int


@dataclass(frozen=True)
class Archive:
    """The image files of a root in the order of their names; `ignored` counts other files by kind."""

    members: list[Member]
    ignored: dict[str, int]
    open: Callable[[Member], BinaryIO]

    def read(self, member: Member) -> bytes:
        """The bytes of one file; raises Broken."""
        if member.size > LARGEST:
            raise Broken(f"{member.size} bytes are too many for an image")
        try:
            with self.open(member) as f:
                return f.read()
        except Exception as e:  # permissions, checksums, zlib, lzma, unknown methods: each has an error of its own
            raise Broken(getattr(e, "strerror", None) or str(e) or type(e).__name__) from e

    def short_side(self, member: Member) -> int | None:
        """The short side of an image in pixels, from its header; None where that cannot be read."""
        try:
            with self.open(member) as f:
                return short_side(f)
        except Exception:  # the caller reports another file
            return None


@dataclass(frozen=True)
class Part:
    """Image files, with the index of each one's class or None."""

    members: list[Member]
    labels: list[int] | None


@dataclass(frozen=True)
class Layout:
    """Where the images of a root belong; `test` is None where the source has no part of its own for held-out images."""

    train: Part
    test: Part | None
    classes: tuple[str, ...] | None
    test_name: str | None = None
    unused: dict[str, int] = field(default_factory=dict)  # further test parts and their numbers of images


@contextmanager
def opened(root: Path) -> Iterator[Archive]:
    """The image files of a folder or a .zip, which is never unpacked; raises UserError for what cannot be read."""
    if not os.path.exists(root):
        raise UserError(f"data.root={root} does not exist; give a folder or a .zip of images.")
    if root.is_dir():
        members, ignored = _sorted(_walk(root))
        yield Archive(members, ignored, lambda member: open(root / member.name, "rb"))
        return
    with _zip(root) as archive:
        infos = {}
        for info in archive.infolist():
            name = info.filename.replace("\\", "/")  # as some archivers of Windows write it
            if name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name):
                raise UserError(
                    f"data.root={root}: its member {info.filename!r} points outside of the archive; "
                    "such an archive is refused: pack it again with relative names."
                )
            if not name.endswith("/"):
                infos[PurePosixPath(name).as_posix()] = info
        members, ignored = _sorted(Member(name, info.file_size, info.CRC) for name, info in infos.items())
        if any(infos[m.name].flag_bits & 1 for m in members):
            raise UserError(f"data.root={root} is encrypted; give an archive without a password, or a folder.")
        yield Archive(members, ignored, lambda member: archive.open(infos[member.name]))


def _zip(root: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(root)
    except OSError as e:
        raise UserError(f"data.root={root} cannot be read ({e.strerror}); mend its permissions.") from e
    except Exception as e:  # BadZipFile; struct, decoding and overflow errors from damaged directories
        what = "is a damaged .zip" if root.suffix.lower() == ".zip" else "is a file but no .zip"
        raise UserError(f"data.root={root} {what} ({e}); give a folder or a .zip of images.") from e


def layout(root: Path, archive: Archive, labels: bool = True) -> Layout:
    """Classes and parts by folders; see `Folder` for the rules. Raises UserError where the layout has two meanings."""
    if not archive.members:
        other = ", ".join(f"{count} {kind}" for kind, count in archive.ignored.items())
        raise UserError(
            f"data.root={root} holds no images{f' (only {other})' if other else ''}; expected are "
            f"{', '.join(sorted(SUFFIXES))}, in one folder a class or all in one folder."
        )
    paths = [m.name.split("/") for m in archive.members]
    depth = 0
    while all(len(p) > depth + 1 for p in paths) and len({p[depth] for p in paths}) == 1:
        depth += 1  # a folder that wraps everything, as archives often have
    tops = {p[depth] for p in paths if len(p) > depth + 1}
    tests = [name for name in TEST_PARTS if name in {top.lower() for top in tops}]
    if not tests or "train" not in {top.lower() for top in tops}:
        classes = _classes(root, "", paths, depth, labels)
        return Layout(_part(archive.members, paths, depth, classes), None, classes)

    other = sorted(top for top in tops if top.lower() not in ("train", *TEST_PARTS))
    if other or any(len(p) == depth + 1 for p in paths):
        beside = ", ".join(f"{name}/" for name in other[:3]) or "images"
        raise UserError(
            f"data.root={root} holds {beside} beside train/ and {tests[0]}/, and it is not clear what that "
            "belongs to; move it away, or point data.root at one of the folders."
        )
    chosen = {name: [i for i, p in enumerate(paths) if p[depth].lower() == name] for name in ("train", *tests)}

    def taken(name):
        return [archive.members[i] for i in chosen[name]], [paths[i] for i in chosen[name]], depth + 1

    known, found = (_classes(root, f"{name}/", *taken(name)[1:], labels) or () for name in ("train", tests[0]))
    classes = known if len(known) > 1 else None  # a single folder tells nothing apart
    if (not found or not set(found) <= set(known)) if classes else len(found) > 1:
        raise UserError(
            f"data.root={root}: the folders of {tests[0]}/ are not classes of train/; "
            "give both parts the same class folders, or use data.labels=false."
        )
    return Layout(
        _part(*taken("train"), classes),
        _part(*taken(tests[0]), classes),
        classes,
        tests[0],
        {name: len(chosen[name]) for name in tests[1:]},
    )


def chosen_layout(places: Layout, kept: Sequence[int]) -> Layout:
    """The same layout with the `kept` classes alone, labelled in their order; a single class has no labels."""

    def part(whole: Part | None) -> Part | None:
        if whole is None or whole.labels is None:
            return whole
        rows, labels = rows_of(np.asarray(whole.labels, np.int64), kept, len(places.classes))
        return Part([whole.members[i] for i in rows], None if len(kept) == 1 else labels.tolist())

    classes = None if len(kept) == 1 else tuple(places.classes[k] for k in kept)
    return replace(places, train=part(places.train), test=part(places.test), classes=classes)


def _classes(root, where, paths, depth, labels) -> tuple[str, ...] | None:
    inside = [p[depth] for p in paths if len(p) > depth + 1]
    if not labels or not inside:
        return None
    if len(inside) < len(paths):
        direct = next(p[-1] for p in paths if len(p) == depth + 1)
        raise UserError(
            f"data.root={root} holds images both directly in {where or 'it'} ({direct}) and in folders "
            f"({inside[0]}/); sort all into class folders, or use data.labels=false."
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
    """Why a file is no candidate: "hidden", or its extension; None for an image."""
    parts = name.split("/")
    if any(p.startswith(".") or p == "__MACOSX" for p in parts):
        return "hidden"
    suffix = PurePosixPath(name).suffix.lower()
    return None if suffix in SUFFIXES else suffix or "without extension"


def _walk(root: Path) -> Iterator[Member]:
    def refuse(error: OSError):
        raise UserError(
            f"data.root={root}: {error.filename} cannot be read ({error.strerror}); mend its permissions."
        ) from error

    seen = set()
    for folder, _, files in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        if real in seen:
            raise UserError(f"data.root={root}: {folder} leads to a folder that is there already; remove the link.")
        seen.add(real)
        for name in files:
            path = Path(folder, name)
            try:
                stat = path.stat()
                if not S_ISREG(stat.st_mode):  # a pipe or device: reading it might never end
                    raise UserError(f"data.root={root}: {path} is no regular file; remove it.")
                yield Member(path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns)
            except FileNotFoundError:  # a dangling link: reading it reports it as broken
                yield Member(path.relative_to(root).as_posix(), 0, 0)
