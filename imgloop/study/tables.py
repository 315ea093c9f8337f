"""Studies as tables: the chains of either kind, trained or solved, and the columns of all as one pandas table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from imgloop.errors import UserError
from imgloop.measures import COLUMNS, MEASURES, MeasureInfo, names
from imgloop.study import solved, trained
from imgloop.study.columns import Columns, Named, named
from imgloop.study.generation import is_seed
from imgloop.study.trained import DataFrame, csv_text, generations, protocols, reference

__all__ = [
    "chains", "common_protocol", "csv_text", "generations", "is_solved", "joined", "load_study", "measures",
    "protocols", "read_csv", "reference", "table", "table_file",
]  # fmt: skip
PARQUET = (".parquet", ".pq")
KEYS = ("condition", "seed", "generation")


def is_solved(chain: Path) -> bool:
    """Whether the chain is that of a solvable system, which has one table of replicates and no generation folders."""
    return (Path(chain) / "record.json").exists()


def chains(study: Path) -> list[Path]:
    """The study's chain folders that hold at least one generation, by condition and seed."""
    named = [p for p in Path(study).glob("*/seed*") if is_seed(p.name) and p.parent.name != "shared"]
    return sorted((p for p in named if generations(p) or is_solved(p)), key=lambda p: (p.parent.name, int(p.name[4:])))


def table(chain: Path, protocol: str | None = None) -> DataFrame:
    """The chain's metrics, one row a generation; scores of a trained model's chain are by default of its newest
    protocol. Raises UserError for a damaged chain."""
    return solved.table(chain) if is_solved(chain) else trained.table(chain, protocol)


def common_protocol(folders: Iterable[Path]) -> str | None:
    """The protocol under which most of the chains in `folders` have scores; of several such, the newest."""
    have = [protocols(c) for c in folders if not is_solved(c)]
    listed = [p for each in have for p in each]
    return max(listed, key=lambda n: (listed.count(n), sum(each[-1] == n for each in have if each)), default=None)


def measures(folders: Iterable[Path], protocol: str | None = None) -> dict[str, MeasureInfo]:
    """All measures by name: ours, then the user's own of the chains in `folders`."""
    known = dict(MEASURES)
    for chain in folders:
        if not is_solved(chain):
            known = {**trained.measures(chain, protocol), **known}
    return known


def joined(folders: Sequence[Path], protocol: str | None) -> DataFrame:
    """The chains in `folders` as one table: condition, seed, and the columns of metrics.csv."""
    import pandas as pd  # here, since it takes half a second to import

    frames = [table(c, protocol).assign(condition=c.parent.name, seed=int(c.name[4:])) for c in folders]
    frame = cast(DataFrame, pd.concat(frames, ignore_index=True))
    first = ["condition", "seed", *[c for c in COLUMNS if c in frame]]
    return frame[first + [c for c in frame if c not in first]]


def load_study(path: str | Path, protocol: str | None = None) -> DataFrame:
    """Every chain of a study as one pandas table: condition, seed, and the columns of metrics.csv, one row a
    generation.

    path: the study's folder. protocol: of the scores (a file name in scores/, without its ending); by default the one
    that most chains have, and of several such the newest. Raises UserError if `path` contains no chain or a damaged
    one. No code that a run folder names is executed. `imgloop.Study(path)` has the images as well.
    """
    folders = chains(Path(path))
    if not folders:
        raise UserError(
            f"{path} contains no chain (CONDITION/seedK): give a study's folder, for example outputs/digits-diffusion."
        )
    return joined(folders, protocol or common_protocol(folders))


def table_file(path: str | Path, columns: Columns | None = None) -> Named:
    """A CSV or parquet file under our names of columns; raises UserError for a path that is none, and for columns that
    do not say which of ours they are."""
    import pandas as pd  # here, since it takes half a second to import

    path = Path(path)
    if path.suffix.lower() in (".html", ".htm"):
        raise UserError(f"{path} is a page: give the study's folder, such as {path.parent}, or a CSV table.")
    if path.suffix.lower() in (".json", ".png", ".webp", ".yaml", ".safetensors"):
        raise UserError(f"{path} is no table: give the study's folder, such as {path.parent}, or a CSV table.")
    try:
        parquet = path.suffix.lower() in PARQUET
        return named(cast(DataFrame, pd.read_parquet(path) if parquet else pd.read_csv(path)), columns)
    except UserError as e:
        raise UserError(f"{path}: {e}", e.setting) from e
    except ImportError as e:
        raise UserError(
            f"{path}: reading parquet needs the package pyarrow: pip install pyarrow, or save the table as CSV."
        ) from e
    except FileNotFoundError as e:
        raise UserError(f"{path} does not exist: give a study's folder or a CSV table.") from e
    except (OSError, ValueError) as e:  # pandas' parser errors and pyarrow's are ValueErrors
        reason, kind = " ".join(str(e).split()), "parquet" if path.suffix.lower() in PARQUET else "CSV"
        raise UserError(
            f"{path} cannot be read as a {kind} table ({reason}): give a study's folder or a CSV table."
        ) from e


def csv_frame(path: str | Path) -> DataFrame:
    """A CSV or parquet file under our names of columns, as `table_file` reads it."""
    return table_file(path).frame


def read_csv(path: str | Path, columns: Columns | None = None) -> DataFrame:
    """A CSV or parquet file with columns condition, seed, generation and measures as a pandas table.

    Raises UserError unless each row has a condition, a whole seed and a whole generation, generations are 0, 1, 2, ...
    without gaps, measures are numbers, and all have one protocol.
    """
    import pandas as pd  # here, since it takes half a second to import

    frame = table_file(path, columns).frame
    measured = set(frame) & set(names("score", "system", "table"))
    if not set(KEYS) <= set(frame) or not measured or frame.empty or frame[list(KEYS)].isna().to_numpy().any():
        raise UserError(
            f"{path} needs the columns {', '.join(KEYS)}, filled in every row, and at least one measure, such as risk "
            f"or fd; it has {len(frame)} rows and the columns {', '.join(map(str, frame.columns))}."
        )
    if "protocol" in frame and frame["protocol"].nunique() > 1:
        listed = ", ".join(map(str, frame["protocol"].dropna().unique()))
        raise UserError(f"{path} has scores of different protocols ({listed}), which cannot be compared: give one.")
    for column in (c for c in frame if c in MEASURES or c in ("seed", "size")):
        try:
            values = np.asarray(pd.to_numeric(frame[column]))
            if column in KEYS and not (np.isfinite(values) & (values % 1 == 0)).all():
                raise ValueError("not whole numbers")
        except (ValueError, TypeError) as e:
            numbers = "whole numbers" if column in KEYS else "numbers, empty where missing"
            raise UserError(f"Column {column} of {path} has other values ({e}): give {numbers}.") from e
        frame[column] = values.astype(int if column in KEYS else float)
    numbered = sorted(set(frame["generation"]))
    if numbered != list(range(len(numbered))):
        raise UserError(
            f"{path} has generations {str(numbered[:4])[1:-1]}, ...: number them 0, 1, 2, ... without gaps."
        )
    frame["condition"] = frame["condition"].astype(str)
    return frame
