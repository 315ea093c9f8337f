"""Generated sources without a limit: rows made from random numbers keyed by their index, and stored in the cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgloop.data.cache import pair, read_part, write_labels, write_part
from imgloop.data.real import size_facts
from imgloop.errors import UserError, existing
from imgloop.pool import Pool
from imgloop.store import content_key, once, seed_of

BLOCK = 1024  # rows per stream of random numbers
CHUNK = 4 * BLOCK  # rows in memory at once


def uniform(key: tuple, begin: int, end: int, numbers: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 (end - begin, numbers): row i is a function of `key` and i alone."""
    first = begin // BLOCK
    blocks = [
        np.random.default_rng(seed_of(*key, block)).random((BLOCK, numbers)) for block in range(first, -(-end // BLOCK))
    ]
    return np.concatenate([np.empty((0, numbers)), *blocks])[begin - first * BLOCK : end - first * BLOCK]


def cached_pools(
    cache: Path,
    key: Sequence,
    rows: Callable[[str, int, int], tuple[np.ndarray, np.ndarray]],
    shape: tuple[int, int, int],
    classes: Sequence[str],
    n: int,
    heldout: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[Pool, Pool, dict[str, Any]]:
    """Training and held-out pools of `n` and `heldout` rows, memory-mapped, and their facts.

    `rows(part, begin, end)` makes images uint8 (N, *shape) and labels int64 (N,); it is called once for equal `key` and
    sizes. Raises UserError where the disk is too small.
    """
    root, needed = existing(Path(cache)), (n + heldout) * (int(np.prod(shape)) + 8)
    folder = Path(cache) / f"drawn-{content_key([*key, n, heldout])}"
    if not folder.exists() and needed > shutil.disk_usage(root).free:
        raise UserError(
            f"data.n={n} needs {needed >> 20:,} MiB for its images, and {root} has "
            f"{shutil.disk_usage(root).free >> 20:,} MiB free: lower data.n, or set IMGLOOP_CACHE to a larger disk.",
            "data.n",
        )

    def make(folder: Path) -> None:
        done = 0
        for name, count in (("train", n), ("heldout", heldout)):
            labels = np.empty(count, np.int64)

            def images(name=name, count=count, labels=labels) -> Iterator[np.ndarray]:
                nonlocal done
                for begin in range(0, count, CHUNK):
                    end = min(begin + CHUNK, count)
                    x, labels[begin:end] = rows(name, begin, end)
                    yield x
                    done += end - begin
                    if progress is not None:
                        progress(done, n + heldout)

            write_part(folder, name, images(), shape)
            write_labels(folder, name, labels)

    once(folder, make, sealed=False)
    train, held = (read_part(folder, name, True) for name in ("train", "heldout"))
    return train, held, size_facts(train, held, classes) | pair(folder / "pair", train, held)
