"""The real data of a study, stored once in its shared folder so that the folder can be read and measured by itself."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from imgloop import store
from imgloop.data.real import Facts, RealData
from imgloop.errors import UserError
from imgloop.pool import Pool
from imgloop.study.generation import read_pool

AGAIN = "delete the folder and run any chain of the study again, which writes it anew"


def real_key(real: RealData) -> str:
    """Sixteen hex digits that identify the training and held-out images and labels."""
    return store.content_key([store.array_hash(p.x, p.y) for p in (real.train, real.heldout)])


def write_real(shared: Path, real: RealData) -> None:
    """Write the real data to shared/real-KEY, unless they are there; raises UserError where that fails."""

    def make(part: Path) -> None:
        for name, pool in (("train", real.train), ("heldout", real.heldout)):
            labels = {} if pool.y is None else {"y": pool.y}
            store.write_arrays(part / f"{name}.safetensors", {"x": np.asarray(pool.x)} | labels)
        store.write_json(part / "facts.json", {"classes": real.classes, **real.facts.to_dict()})

    store.once(Path(shared) / f"real-{real_key(real)}", make)


def real_folder(shared: Path, key: str) -> Path:
    """The folder of the real data with this key."""
    if not re.fullmatch("[0-9a-f]{16}", key):
        raise UserError(f"{shared}: {key!r} is no key of real data: a record.json is damaged.")
    return Path(shared) / f"real-{key}"


def read_real(folder: Path) -> RealData:
    """The real data that `write_real` wrote to `folder`, images memory-mapped; raises UserError for damaged files."""
    pools = []
    for name in ("train", "heldout"):
        pool = read_pool(folder / f"{name}.safetensors")
        pools.append(Pool(pool.x, None if pool.y is None else np.array(pool.y)))
    classes, facts = read_facts(folder / "facts.json")
    real = RealData(pools[0], pools[1], classes, facts)
    if real_key(real) != folder.name.removeprefix("real-"):
        raise store.damaged(folder, "does not hold the images that its name stands for", AGAIN)
    return real


def read_facts(path: Path) -> tuple[tuple[str, ...] | None, Facts]:
    """The names of the classes, and the facts, of stored real data; raises UserError for a damaged file."""
    values = store.read_json(path)
    try:
        classes = values.pop("classes", None)
        if classes is not None and not isinstance(classes, list):
            raise TypeError("classes are no list")
        return None if classes is None else tuple(map(str, classes)), Facts.from_dict(values)
    except (AttributeError, TypeError, ValueError, KeyError) as e:
        raise store.damaged(path, f"does not describe real data ({e})", AGAIN) from e
