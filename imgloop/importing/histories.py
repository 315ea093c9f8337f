"""Histories of measures, one file a run (RUN/metrics.npz with arrays NAME_history), as one CSV table of chains."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgloop import store
from imgloop.errors import UserError, first_line
from imgloop.study.trained import csv_text

HISTORY = "_history"  # the end of an array's name: one value a generation
REPLICATES = ("rep", "replicate", "run", "seed")  # numbers of a run, the first of which is its seed in the table
DEEPEST = 4  # folders below that are searched
MOST = 10_000  # generations of a run


def files(folder: Path) -> list[Path]:
    """The .npz files below a folder that hold histories, by name."""
    patterns = ["/".join(["*"] * depth + ["*.npz"]) for depth in range(DEEPEST)]
    found = sorted(p for pattern in patterns for p in Path(folder).glob(pattern) if p.is_file())
    return [p for p in found if any(name.endswith(HISTORY) for name in names(p))]


def names(path: Path) -> list[str]:
    """The names of the arrays in an .npz; none where it cannot be read as one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        return []


def write(folders: Sequence[tuple[str, Path]], given: Collection[str], path: Path) -> None:
    """Write the histories of all folders, with their conditions, as the table `path`, and NAME.json beside it with
    path, hash and number of generations of each file; nothing where both are there already.

    given: the conditions that the user named; others are named by the settings that a file holds (alpha_real=0.5), or
    else by the folder. Raises UserError for a file without equally long histories, and for two of one chain.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    sources: list[dict[str, Any]] = []
    chains: dict[tuple[str, int], Path] = {}
    for name, folder in folders:
        for file in files(folder):
            columns, scalars = read(file)
            own = [f"{k}={v:g}" for k, v in scalars.items() if k not in REPLICATES]
            condition = name if name in given or not own else ",".join(own)
            number = next((int(scalars[k]) for k in REPLICATES if k in scalars), None)
            seed = sum(c == condition for c, _ in chains) if number is None else number
            if (condition, seed) in chains:
                raise UserError(
                    f"{chains[condition, seed]} and {file} are both {condition}, seed {seed}: give the folders as "
                    "--condition NAME=FOLDER with different names."
                )
            chains[condition, seed] = file
            length = len(next(iter(columns.values())))
            rows += [
                {"condition": condition, "seed": seed, "generation": t, **{k: v[t] for k, v in columns.items()}}
                for t in range(length)
            ]
            sources.append({"path": str(file.resolve()), "hash": store.file_hash(file), "generations": length})
    text, beside = csv_text(pd.DataFrame(rows)), path.with_suffix(".json")
    runs = f"{len(chains)} runs of {len({c for c, _ in chains})} conditions"
    if path.exists() and path.read_text() == text and beside.exists() and store.read_json(beside)["sources"] == sources:
        print(f"{path} holds these {runs} already: nothing to import")
    else:
        if path.exists():
            raise UserError(f"{path} exists and is another table: give another --study NAME, or delete it.")
        store.write_text(path, text)
        store.write_sealed(beside, {"imported": True, "sources": sources})
        print(f"{runs} imported as a table; their values are as the other program measured them")
    known = ", ".join(dict.fromkeys(c for c, _ in chains))
    print(f"look at {path}; python -m imgloop.collapse {path} --control CONDITION judges it (conditions: {known})")


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The histories of a file by measure, float (G,), and its scalars by name; raises UserError for other contents."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as e:  # errors of zip files, headers and pickles have many types
        raise UserError(f"{path} cannot be read ({first_line(e)}); expected arrays of numbers.") from e
    columns = {
        name.removesuffix(HISTORY): np.asarray(values, float)
        for name, values in arrays.items()
        if name.endswith(HISTORY) and values.dtype.kind in "iuf" and values.ndim == 1
    }
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1 or not 0 < max(lengths) <= MOST:
        raise UserError(
            f"{path}: the histories have {', '.join(map(str, sorted(lengths))) or 'no'} values: give arrays of one "
            f"value a generation, all of one length, {MOST:,} at most."
        )
    scalars = {k: float(v) for k, v in arrays.items() if v.ndim == 0 and v.dtype.kind in "iuf"}
    return columns, scalars
