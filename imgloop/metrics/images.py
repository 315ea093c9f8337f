"""Read sets of images to be scored: folders, zip files, arrays in .npz or .npy, pools in .safetensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from imgloop.data.archive import Archive, Member, Part, layout, opened
from imgloop.data.decode import Broken, TooSmall, decode, reduced
from imgloop.errors import UserError, first_line
from imgloop.pool import Pool

EVERY = 512  # files between two calls of progress
POOL = "pool.safetensors"  # in the folder of a generation: what it released to later ones
DRAWN = "drawn.safetensors"  # what it drew, if that is not the same
ARRAYS = (".npz", ".npy", ".safetensors")
# Names of arrays; the first one present is used.
MOST_LABELS = 1 << 26  # of an array that is read as labels
IMAGES, LABELS = ("x", "arr_0", "images", "data"), ("y", "arr_1", "labels")


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 (N, C, S, S), with labels and the names of their classes if known; `test` is the test part of a
    folder with train/ and test/."""

    pool: Pool
    test: Pool | None = None
    classes: tuple[str, ...] | None = None


def read(
    path: str | Path,
    size: int | None = None,
    channels: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    levels: tuple[float, float] | None = None,
) -> ImageSet:
    """The images in `path`: a folder or .zip of image files (as conf/data/folder.yaml describes), an .npz or .npy, or a
    pool of a chain, given as .safetensors or as the generation's folder.

    `size` in pixels: larger images are reduced, smaller ones are an error; None keeps the images as they are, which
    must then have one size. `channels` 1 or 3; None: as stored in arrays, and for image files 1 if all are grey.
    `levels`: black and white of arrays of floats, which are refused without it. Raises UserError if the set cannot be
    read, and in these cases.
    """
    path = Path(os.path.expanduser(path))
    if not path.exists():
        raise UserError(f"{path} does not exist; give a folder or .zip of images, an .npz, or a pool.safetensors.")
    if path.is_dir() and (path / POOL).is_file():
        path = path / (DRAWN if (path / DRAWN).is_file() else POOL)
    if path.suffix in ARRAYS:
        return _resized(_arrays(path, levels), path, size, channels)
    with opened(path) as archive:
        places = layout(path, archive)
        size = size or _one_size(path, archive)
        parts = [p for p in (places.train, places.test) if p is not None]
        total, done = sum(len(p.members) for p in parts), 0
        pools = []
        for part in parts:
            pools.append(_decoded(path, archive, part, size, channels or 3, done, total, progress))
            done += len(part.members)
    if channels is None and all((p.x[:, :1] == p.x).all() for p in pools):
        pools = [Pool(np.ascontiguousarray(p.x[:, :1]), p.y) for p in pools]
    return ImageSet(pools[0], pools[1] if len(pools) > 1 else None, places.classes)


def relabelled(images: ImageSet, classes: Sequence[str] | None) -> np.ndarray | None:
    """The labels of a set as indices into the `classes` of another, int64 (N,); None if they do not match.

    Integer labels match classes with these names, or else positions in the list of classes.
    """
    y = images.pool.y
    if y is None or classes is None:
        return None
    if images.classes is None:
        names, index = np.unique(y, return_inverse=True)
        if set(map(str, names)) <= set(classes):
            return np.array([list(classes).index(str(name)) for name in names])[index]
        return y if y.max() < len(classes) and not all(c.isdecimal() for c in classes) else None
    if not set(images.classes) <= set(classes):
        return None
    return np.array([list(classes).index(c) for c in images.classes])[y]


def _decoded(
    path: Path,
    archive: Archive,
    part: Part,
    size: int,
    channels: int,
    done: int,
    total: int,
    progress: Callable[[int, int], None] | None,
) -> Pool:
    images = np.empty((len(part.members), channels, size, size), np.uint8)
    for i, member in enumerate(part.members):
        try:
            images[i] = decode(archive.read(member), member.name, size, channels)
        except Broken as e:
            raise UserError(f"{member.name} in {path} cannot be decoded ({e}); replace or remove it.") from e
        except TooSmall as e:
            raise UserError(
                f"{member.name} in {path} is {e} pixels, under --size {size}; images are never enlarged."
            ) from e
        if progress and ((done + i + 1) % EVERY == 0 or done + i + 1 == total):
            progress(done + i + 1, total)
    return Pool(images, None if part.labels is None else np.asarray(part.labels, np.int64))


def _one_size(path: Path, archive: Archive) -> int:
    """The short side of all images, in pixels; raises UserError if they differ."""
    first: tuple[int, Member] | None = None
    for member in archive.members:
        side = archive.short_side(member)
        if side is None:
            raise UserError(f"{member.name} in {path} cannot be read as an image; replace or remove it.")
        if first is not None and side != first[0]:
            raise UserError(
                f"{path} holds images of different sizes ({first[1].name} {first[0]} pixels, {member.name} {side}): "
                "give --size S to reduce them all."
            )
        first = first or (side, member)
    assert first is not None, "an archive without images is refused when it is opened"
    return first[0]


def span(path: Path) -> tuple[float, float] | None:
    """The smallest and largest value of the floats that an array holds as images; None if it holds no floats. Raises
    UserError for an array that cannot be read, and for values that are not finite."""
    name, x = _images(_opened(path, floats=True))
    if x.dtype.kind != "f" or x.ndim not in (3, 4) or not x.size:
        return None
    low, high = float(x.min()), float(x.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{path}: the array {name} contains values that are no finite numbers; replace or remove them.")
    return low, high


def _opened(path: Path, floats: bool = False) -> dict[str, np.ndarray]:
    """The arrays of a file by name; of an .npz only those that can be images, with `floats` also of floats, or labels.
    Raises UserError for a file that cannot be read."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npy":
            return {IMAGES[0]: np.load(path, mmap_mode="r", allow_pickle=False)}
        with np.load(path, allow_pickle=False) as file:
            return {k: _member(file, k, floats) for k in file.files}
    except Exception as e:  # errors of zip files, headers and pickles have many types
        raise UserError(f"{path} cannot be read ({first_line(e)}); expected arrays of numbers.") from e


def _images(arrays: dict[str, np.ndarray]) -> tuple[str, np.ndarray]:
    """The name of the array of images, or else of the first, and the array."""
    names = [n for n in IMAGES if n in arrays] or list(arrays)[:1]
    return (names[0], arrays[names[0]]) if names else ("(none)", np.empty(0))


def _bytes(x: np.ndarray, levels: tuple[float, float]) -> np.ndarray:
    """Floats between the levels of black and white as uint8, 0 to 255, rounded."""
    low, high = levels
    out = np.empty(x.shape, np.uint8)
    for first in range(0, len(x), EVERY):
        part = np.asarray(x[first : first + EVERY], np.float64)
        out[first : first + EVERY] = np.rint((part - low) * (255 / (high - low))).clip(0, 255)
    return out


def _arrays(path: Path, levels: tuple[float, float] | None = None) -> ImageSet:
    """The images of an .npz, .npy or .safetensors; raises UserError for other content."""
    arrays = _opened(path, levels is not None)
    name, x = _images(arrays)
    if x.dtype.kind == "f" and x.ndim in (3, 4) and levels is not None:
        x = _bytes(x, levels)
    if x.dtype.kind == "f" and x.ndim in (3, 4):
        raise UserError(
            f"{path}: the array {name} is {x.dtype} of unknown range; scale it to 0..255, round it and "
            "store it as uint8."
        )
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or not len(x):
        raise UserError(
            f"{path}: the array {name} is {x.dtype} {x.shape}; expected uint8 images "
            f"(N, C, S, S) or (N, S, S, C), named {', '.join(IMAGES)}."
        )
    x = x[:, None] if x.ndim == 3 else x
    if x.shape[1] not in (1, 3) or x.shape[2] != x.shape[3]:
        x = np.moveaxis(x, -1, 1)
    if x.shape[1] not in (1, 3) or x.shape[2] != x.shape[3]:
        raise UserError(f"{path}: images of shape {x.shape[1:]}; expected square ones with 1 or 3 channels.")
    label = next((n for n in LABELS if n in arrays), None)
    y = None if label is None else np.asarray(arrays[label])
    if y is not None and (y.shape != (len(x),) or y.dtype.kind not in "iu"):
        raise UserError(f"{path}: the labels {label} are {y.dtype} {y.shape}; expected integers ({len(x)},).")
    if y is not None and y.min() < 0:
        raise UserError(f"{path}: the labels {label} contain {y.min()}; expected integers of at least 0.")
    return ImageSet(Pool(x, None if y is None else y.astype(np.int64)))


def _member(file: Any, name: str, floats: bool = False) -> np.ndarray:
    """An array of an .npz if it can be images (with `floats` also of floats) or labels; else an array of its dtype and
    shape that takes no memory."""
    with file.zip.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    images = (dtype == np.uint8 or (floats and dtype.kind == "f")) and len(shape) in (3, 4)
    if images or (dtype.kind in "iu" and len(shape) == 1 and shape[0] <= MOST_LABELS):
        return file[name]
    return np.broadcast_to(np.zeros((), dtype), shape)


def _resized(images: ImageSet, path: Path, size: int | None, channels: int | None) -> ImageSet:
    x = images.pool.x
    s, c = size or x.shape[-1], channels or x.shape[1]
    if s > x.shape[-1]:
        raise UserError(f"{path} holds images of {x.shape[-1]} pixels, under --size {s}; images are never enlarged.")
    if (c, s) == (x.shape[1], x.shape[-1]):
        return images
    x = np.stack([reduced(np.broadcast_to(image, (3, *image.shape[1:])), s, c) for image in x])
    return ImageSet(Pool(x, images.pool.y), None, images.classes)
