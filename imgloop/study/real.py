"""The real data of a study, stored once in its shared folder so that the folder can be read and measured by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imgloop import store
from imgloop.data.real import Facts, RealData
from imgloop.pool import Pool


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


def read_real(folder: Path) -> RealData:
    """The real data that `write_real` wrote to `folder`, images memory-mapped; raises UserError for damaged files."""
    pools = []
    for name in ("train", "heldout"):
        arrays = store.open_arrays(folder / f"{name}.safetensors")
        pools.append(Pool(arrays["x"], None if "y" not in arrays else np.array(arrays["y"])))
    values = store.read_json(folder / "facts.json")
    classes = values.pop("classes", None)
    return RealData(pools[0], pools[1], None if classes is None else tuple(classes), Facts.from_dict(values))
