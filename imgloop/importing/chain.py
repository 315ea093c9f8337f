"""An imported chain on disk: the folder of a trained chain, without training sets, models and losses."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgloop import figures, store
from imgloop.config.earlier import FORMAT, identity_of
from imgloop.data.real import RealData, order
from imgloop.errors import UserError
from imgloop.importing.images import check_drawn
from imgloop.importing.layout import Chain, Source
from imgloop.pool import Pool
from imgloop.study.generation import check_numbers, generations, read_config, read_record
from imgloop.study.imported import MARK
from imgloop.study.real import real_folder, real_key, write_real
from imgloop.study.trained import EVOLUTION

SHOWN = 16  # images of the evolution sheet
GRID = 64  # of grid.png


@dataclass(frozen=True)
class Import:
    """What all chains of an import share. settings: what changes the images besides their source (size, n, levels);
    arguments: those of the command, for the report; read: the images of a source; say: shows a line."""

    study: Path
    real: RealData
    settings: dict[str, Any]
    features: str
    arguments: Sequence[str]
    read: Callable[[Source], Pool]
    say: Callable[[str], None] = print


def write_chain(chain: Chain, given: Import) -> None:
    """Write the generations of a chain that its folder does not have. Raises UserError if the folder
    was imported from other images or with other settings, or if they cannot be read; each generation is whole."""
    folder = given.study / chain.condition / f"seed{chain.seed}"
    busy = f"Another process is importing or measuring {folder}: wait for it, or give another --study NAME."
    try:
        with store.lock(folder / ".lock", busy=busy):
            store.remove(*folder.glob(".gen*.part"))
            store.remove_parts(folder)
            check_numbers(folder)
            write_config(folder, chain, given)
            for t, source in enumerate(chain.sources):
                write_generation(folder / f"gen{t:03d}", chain, t, source, given)
    finally:
        if folder.is_dir() and not generations(folder):  # nothing was read: no trace stays
            store.remove(folder / "config.yaml")
            store.remove_unused(folder, below=given.study.parent)


def write_config(folder: Path, chain: Chain, given: Import) -> None:
    """Write config.yaml where it is missing, or where the chain now has more generations."""
    path, key = folder / "config.yaml", real_key(given.real)
    identity = {"model": MARK, "data": MARK, "condition": chain.condition, "real": key, **given.settings}
    planned, stored = len(chain.sources), None
    if path.exists():
        stored = read_config(folder)
        theirs = {k: v for k, v in identity_of(stored).items() if k in identity}
        if changed := [k for k in identity if theirs.get(k) != identity[k]]:
            listed = ", ".join(f"{k} (there {theirs.get(k)}, now {identity[k]})" for k in changed)
            raise UserError(f"{folder} was imported otherwise: {listed}. {AGAIN}")
        if (before := len(generations(folder))) > planned:
            raise UserError(f"{folder} has {before} generations, and {chain.sources[0].path} only {planned}. {AGAIN}")
        if stored["config"].get("generations") == planned:
            return
    content = {
        "format": FORMAT,
        "choices": {"model": MARK, "data": MARK, "features": given.features},
        "identity": identity,
        "config": {"generations": planned, "seed": chain.seed, "import": list(given.arguments)},
    }
    store.write_text(path, store.yaml_text(store.sealed(content)))


AGAIN = "Give --study NEW for a study of its own, or --overwrite to delete the chain and import it again."


def write_generation(folder: Path, chain: Chain, t: int, source: Source, given: Import) -> None:
    """Write a generation, unless it is there. Raises UserError if it is there from another source."""
    digest = store.file_hash(source.path)
    if folder.is_dir():
        before = read_record(folder)[MARK]
        if before.get("hash") != digest:
            raise UserError(f"{folder} was imported from other images than {source.path} has now. {AGAIN}")
        return
    pool = given.read(source)
    if t == 0:
        check_drawn(pool, given.real, source.path, source.number)
    if not real_folder(given.study / "shared", real_key(given.real)).is_dir():
        write_real(given.study / "shared", given.real)
    rows = order(len(pool), 0)
    record = {
        "generation": t,
        "condition": chain.condition,
        "seed": chain.seed,
        "n_train": None,
        "n_drawn": len(pool),
        "n_pool": None,
        "real_share": None,
        "share_by_origin": {},
        "seconds": {},
        "versions": {},
        "real": real_key(given.real),
        MARK: {"path": str(source.path.resolve()), "hash": digest, "images": len(pool), "number": source.number},
    }

    def make(part: Path) -> None:
        store.write_arrays(part / "pool.safetensors", {"x": pool.x})
        store.write_arrays(part / EVOLUTION, {"x": pool.x[rows[:SHOWN]]})
        grid = figures.grid(given.real.train, Pool(pool.x[rows[:GRID]]), f"generation {t}, imported")
        store.write_bytes(part / "grid.png", grid)
        hashes = {"pool_hash": "pool.safetensors", "evolution_hash": EVOLUTION, "grid_hash": "grid.png"}
        values = record | {key: store.file_hash(part / name) for key, name in hashes.items()}
        store.write_sealed(part / "record.json", values | {"written": time.strftime("%Y-%m-%dT%H:%M:%S%z")})

    store.commit_folder(folder, make)
    given.say(f"{chain.condition}, seed {chain.seed}, generation {t}: {len(pool):,} images of {source.path}")
