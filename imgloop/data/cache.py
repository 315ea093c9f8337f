"""The cache of images, memory-mapped: files in a folder that is named by the hash of everything they depend on."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgloop.data.real import pair_facts, size_facts, split
from imgloop.errors import UserError
from imgloop.pool import Pool
from imgloop.store import open_arrays, read_json, write_arrays, write_json

HEADER = 1016  # bytes reserved for the safetensors header before the number of images is known


def write_part(folder: Path, name: str, images: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """Images uint8 of one shape (C, H, W) as NAME.safetensors, one item at a time in memory: an image or a stack."""
    with open(folder / f"{name}.safetensors", "wb") as f:
        f.write(bytes(8 + HEADER))
        size = 0
        for image in images:
            size += f.write(np.ascontiguousarray(image).data.cast("B"))
        count = size // int(np.prod(shape))
        entry = {"dtype": "U8", "shape": [count, *shape], "data_offsets": [0, size]}
        f.seek(0)
        f.write(struct.pack("<Q", HEADER) + json.dumps({"x": entry}).encode().ljust(HEADER))
        f.flush()
        os.fsync(f.fileno())


def write_labels(folder: Path, name: str, labels: np.ndarray) -> None:
    write_arrays(folder / f"{name}_labels.safetensors", {"y": labels.astype(np.int64)})


def read_part(folder: Path, name: str, labelled: bool) -> Pool:
    """The pool that `write_part` and `write_labels` wrote, images memory-mapped."""
    return Pool(
        checked(open_arrays, folder / f"{name}.safetensors")["x"],
        np.asarray(checked(open_arrays, folder / f"{name}_labels.safetensors")["y"]) if labelled else None,
    )


def split_pools(
    folder: Path,
    pool: Pool,
    test: Pool | None,
    n: int | None,
    heldout: int | None,
    classes: Sequence[str] | None,
    imbalance: float | None,
) -> tuple[Pool, Pool, dict[str, Any]]:
    """Training and held-out part of cached pools, and their facts; `folder` stores the facts that take long."""
    train, held = split(pool, test, n, heldout, classes, imbalance)
    tail = "" if imbalance is None else f"-{imbalance:g}"
    stored = folder / f"split-{len(train)}-{len(held)}{tail}"
    return train, held, size_facts(train, held, classes) | pair(stored, train, held)


def pair(path: Path, train: Pool, heldout: Pool) -> dict[str, Any]:
    """`pair_facts`, stored as the file `path`.json."""
    path = path.with_name(f"{path.name}.json")
    if not path.exists():
        write_json(path, pair_facts(train, heldout))
    return checked(read_json, path)


def checked(read: Callable, path: Path):
    """`read(path)`; raises UserError, naming the cache's folder, if the file is damaged."""
    try:
        return read(path)
    except UserError as e:
        raise UserError(f"The cache of decoded images {path.parent} is damaged; delete it and run again.") from e
