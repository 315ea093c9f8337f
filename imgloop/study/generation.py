"""A generation's folder: its record, scores and pools, checked as they are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from imgloop import store
from imgloop.errors import UserError
from imgloop.pool import Mix, Pool

# Files whose hash stands in record.json, with its key; of these `model` may be pruned.
HASHED = {
    "pool.safetensors": "pool_hash",
    "drawn.safetensors": "drawn_hash",
    "mix.safetensors": "mix_hash",
    "evolution.safetensors": "evolution_hash",
    "loss.json": "loss_hash",
    "grid.png": "grid_hash",
    "model": "model_hash",
}
SEALED = 4  # the first format of config.yaml that always holds its hash
SHOWN = {"seconds": dict}  # what record.json must hold for a table, and of which kind
RECORD = {  # what it must hold for a chain that goes on, or is measured
    "seconds": dict,
    "versions": dict,
    "machine": dict,
    "real": str,
    "pool_hash": str,
    "mix_hash": str,
    "model_hash": str,
}
IMPORTED = {"seconds": dict, "real": str, "pool_hash": str, "imported": dict}  # of images of another program
SCORES = {"scores": dict, "protocol": dict}
AGAIN = "delete it and measure the study again"


def generations(chain: Path) -> list[Path]:
    """The chain's generation folders in order of their numbers; folders of other names, such as gen0001, are none."""
    named = (p for p in Path(chain).glob("gen[0-9]*") if is_generation(p.name) and p.is_dir())
    return sorted(named, key=lambda p: int(p.name[3:]))


def is_generation(name: str) -> bool:
    """Whether a folder has the name of a generation: gen000, gen001, ..., gen1000."""
    return re.fullmatch(r"gen(\d{3}|[1-9]\d{3,8})", name, re.ASCII) is not None


def is_seed(name: str) -> bool:
    """Whether a folder has the name of a chain's seed: seed0, seed1, ..."""
    return re.fullmatch(r"seed(0|[1-9]\d{0,18})", name, re.ASCII) is not None


def check_numbers(chain: Path) -> None:
    """Raise UserError unless the chain's generations are 0, 1, 2, ... without gaps."""
    folders = generations(chain)
    for t, folder in enumerate(folders):
        if int(folder.name[3:]) != t:
            raise UserError(
                f"{chain / f'gen{t:03d}'} is missing, and {folders[-1].name} is there: the run folder is damaged. "
                "Restore it, or delete the later generations to compute them again, or start again with "
                "overwrite=true."
            )


def read_record(folder: Path, shown: bool = False) -> dict[str, Any]:
    """record.json of a generation; raises UserError if it is missing, damaged, or of another kind. shown: for a table,
    which needs less of it."""
    path = folder / "record.json"
    values = _checked(path, SHOWN)
    _check_place(path, values)
    return values if shown else _with(values, path, IMPORTED if "imported" in values else RECORD)


def _check_place(path: Path, record: dict[str, Any]) -> None:
    """Raise UserError for the record of another generation or chain: its folder was moved or copied. A chain that was
    forked has generations of another."""
    folder = path.parent.absolute()
    place = {"generation": int(folder.name[3:]) if is_generation(folder.name) else None}
    place |= chain_place(folder.parent)
    moved = [k for k, v in place.items() if v is not None and record.get(k, v) != v]
    if moved and not (place["generation"] == record.get("generation") and _forked(folder)):
        raise misplaced(path, record, "delete the generation's folder and all later ones to compute them again")


def chain_place(chain: Path) -> dict[str, Any]:
    """The condition and seed that a chain's folder has by its place; both None where it is not in a study."""
    chain = chain.absolute()
    named = is_seed(chain.name)
    return {"condition": chain.parent.name if named else None, "seed": int(chain.name[4:]) if named else None}


def misplaced(path: Path, record: dict[str, Any], instead: str) -> UserError:
    """The error for a record in the place of another."""
    words = [str(record["condition"])] if "condition" in record else []
    words += [f"{k} {record[k]}" for k in ("seed", "generation") if k in record]
    return store.damaged(
        path, f"is that of {', '.join(words)}, and was moved or copied here", f"move it back, or {instead}"
    )


def _forked(generation: Path) -> bool:
    """Whether a chain was forked from another that had this generation."""
    try:
        fork = str(read_config(generation.parent)["config"].get("fork") or "")
    except UserError:
        return False
    t = fork.rpartition("@")[2]
    return t.isdecimal() and int(generation.name[3:]) <= int(t)


def read_scores(path: Path, record: dict[str, Any] | None = None) -> dict[str, Any]:
    """A file of scores/; raises UserError if it is missing, damaged, of another kind, or of other samples than those of
    the generation's `record`."""
    values = _checked(path, SCORES, AGAIN)
    pool = (record or {}).get("pool_hash")
    if pool is not None and values.get("pool_hash", pool) != pool:
        raise store.damaged(path, "has the scores of other samples, and was moved or copied here", AGAIN)
    wrong = [k for k, v in values["scores"].items() if isinstance(v, bool) or not isinstance(v, int | float | None)]
    if wrong:
        raise store.damaged(path, f"has a score {wrong[0]!r} that is no number", AGAIN)
    return values


def _checked(path: Path, kinds: dict[str, type], instead: str | None = None) -> dict[str, Any]:
    values = store.read_json(path)
    if not isinstance(values, dict):
        raise store.damaged(path, f"holds a {type(values).__name__} in place of named values", instead)
    return _with(values, path, kinds, instead)


def _with(values: dict[str, Any], path: Path, kinds: dict[str, type], instead: str | None = None) -> dict[str, Any]:
    """The values of a file, which must have these keys with values of these kinds."""
    for key, kind in kinds.items():
        if not isinstance(values.get(key), kind):
            raise store.damaged(path, f"has no {key}, or one of another kind", instead)
    return values


def read_config(chain: Path) -> dict[str, Any]:
    """config.yaml of a chain as plain values (choices, identity, config); raises UserError if it is damaged."""
    path = chain / "config.yaml"
    values = store.read_yaml(path)
    kinds = ("choices", "identity", "config")
    if not isinstance(values, dict) or not all(isinstance(values.get(k), dict) for k in kinds):
        raise store.damaged(path, "is not the configuration of a chain", "run the chain again")
    cut = isinstance(values.get("format"), int) and values["format"] >= SEALED and store.SEAL not in values
    if cut or not store.intact(values):
        what = "has no hash, which stands at its end" if cut else "is not what was written (its hash differs)"
        raise store.damaged(path, what, "run the chain again elsewhere")
    seed, own = values["config"].get("seed"), chain_place(chain)["seed"]
    if own is not None and seed != own:
        raise store.damaged(path, f"is that of seed {seed}, and was moved or copied here", "move it back")
    return values


def check_files(folder: Path, record: dict[str, Any], names=tuple(HASHED)) -> None:
    """Raise UserError, naming the file, unless the generation's files are those whose hashes its record holds."""
    for name in names:
        path, key = folder / name, HASHED[name]
        if key not in record or (name == "model" and not path.exists()):
            continue
        if path.suffix == ".safetensors":
            store.open_arrays(path)
        if not path.exists():
            raise store.damaged(path, "is missing")
        if store.file_hash(path) != record[key]:
            raise store.damaged(path, "is not what was written (its hash differs from record.json)")


def read_mix(path: Path) -> Mix:
    """A mix as it is stored, memory-mapped; raises UserError for a file that holds none."""
    arrays = store.open_arrays(path)
    if not {"origin", "row"} <= set(arrays):
        raise store.damaged(path, "contains no mix")
    return Mix(arrays["origin"], arrays["row"], arrays.get("weight"))


def read_pool(path: Path) -> Pool:
    """A pool as it is stored, memory-mapped; raises UserError for a file without images, or with labels of another
    number or type."""
    arrays = store.open_arrays(path)
    x, y, weight = (arrays.get(k) for k in ("x", "y", "weight"))
    if x is None or x.ndim != 4 or x.dtype != np.uint8:
        raise store.damaged(path, "contains no images")
    for name, values in (("y", y), ("weight", weight)):
        if values is not None and (values.ndim != 1 or len(values) != len(x)):
            raise store.damaged(path, f"has {name} of shape {values.shape} for {len(x)} images")
    if y is not None and y.dtype.kind not in "iu":
        raise store.damaged(path, f"has labels of type {y.dtype}")
    return Pool(x, y, weight)
