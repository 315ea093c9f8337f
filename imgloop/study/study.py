"""A study as an object: its table, images, records and measures. Reading it executes no code that a file names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from imgloop import store
from imgloop.conditions import resolved, short_names
from imgloop.errors import UserError
from imgloop.measures import MEASURES, MeasureInfo
from imgloop.study import tables
from imgloop.study.columns import Columns
from imgloop.study.generation import check_files, check_numbers, read_config, read_pool, read_record
from imgloop.study.imported import source_of
from imgloop.study.notebook import html
from imgloop.study.real import RealData, read_real
from imgloop.study.trained import DataFrame, drawn_path


class Study:
    """A folder of chains, opened for reading.

    Example: `Study("outputs/digits-diffusion").images("replace", seed=0, generation=4)`.

    path: a study's folder, one chain's (CONDITION/seedK), or a CSV table with columns condition, seed, generation.
    protocol: of the scores (a file name in scores/, without its ending); by default the one that most chains have.
    tolerant: leave out chains that cannot be read, each with a sentence in `damaged`; otherwise the first of them
    raises UserError, as does a path that contains no chain. columns: of a table, what the user says of its columns.
    `chains`: the folders that were opened.
    """

    def __init__(
        self,
        path: str | Path,
        protocol: str | None = None,
        tolerant: bool = False,
        columns: Columns | None = None,
    ):
        path, folders, faults = Path(path), [], {}
        self.path, self.protocol, self.columns = path, protocol, columns
        if path.is_file():
            folders = [path]
        elif path.is_dir():
            folders = [path] if tables.is_solved(path) or tables.generations(path) else tables.chains(path)
            faults = {c: fault for c in folders if (fault := self._fault(c))}
        if faults and (not tolerant or len(faults) == len(folders)):
            raise UserError(next(iter(faults.values())))
        if not folders:
            what = "contains no finished generation (CONDITION/seedK/gen000)" if path.is_dir() else "does not exist"
            raise UserError(f"{path} {what}: give a study's folder, for example outputs/digits-diffusion.")
        self.chains: tuple[Path, ...] = tuple(c for c in folders if c not in faults)
        self.damaged: tuple[str, ...] = tuple(faults.values())

    @staticmethod
    def _fault(chain: Path) -> str | None:
        """Why a chain cannot be read, in a sentence; None if it can."""
        try:
            check_numbers(chain)
            tables.table(chain)
            int(chain.name.removeprefix("seed"))
            for generation in tables.generations(chain):
                record = read_record(generation, shown=True)
                share = record["share_by_origin"]
                _ = dict(record["versions"]), [(int(k), float(v)) for k, v in share.items()]
        except UserError as e:
            return str(e)
        except Exception as e:  # valid JSON or CSV with other contents can cause any error
            reason = f"{type(e).__name__}: {e}"
            return f"{chain} cannot be read as a chain ({reason}): restore its files, or run it again."
        return None

    # -- Kind, name, members ------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The study's name; of one chain, its condition and seed; of a table, the file's name."""
        path = self.path.absolute()
        return path.stem if path.is_file() else f"{path.parent.name}, {path.name}" if self.single else path.name

    @property
    def is_csv(self) -> bool:
        """Whether the path is a CSV table, without folders."""
        return self.path.is_file()

    @property
    def single(self) -> bool:
        """Whether the path is one chain's."""
        return self.chains == (self.path,) and not self.is_csv

    @property
    def solvable(self) -> bool:
        """Whether the chains are those of solvable systems, which store no images."""
        return not self.is_csv and tables.is_solved(self.chains[0])

    @cached_property
    def imported(self) -> bool:
        """Whether another program drew the images (imgloop.study.imported)."""
        return not (self.is_csv or self.solvable) and any(source_of(c) is not None for c in self.chains)

    @property
    def root(self) -> Path:
        """The study's folder, also if one chain was opened."""
        return self.path.parent if self.is_csv else self.path.parent.parent if self.single else self.path

    @property
    def conditions(self) -> list[str]:
        """The names of the conditions, in the order of the table."""
        return list(dict.fromkeys(map(str, self.table["condition"])))

    def seeds(self, condition: str | None = None) -> list[int]:
        """The seeds of a condition, or of all."""
        frame: Any = self.table
        if condition is not None:
            frame = frame[frame["condition"] == resolved(condition, self.conditions)]
        return sorted({int(s) for s in frame["seed"]})

    # -- Contents -----------------------------------------------------------------------------------------------------

    @cached_property
    def table(self) -> DataFrame:
        """condition, seed and the columns of metrics.csv as a pandas table, one row a generation, like `load_study`."""
        if self.is_csv:
            return tables.read_csv(self.path, self.columns)
        return tables.joined(self.chains, self.shown_protocol).dropna(axis=1, how="all")

    def resolved(self, column: str | None) -> str | None:
        """The table's name of a measure that the user names as a CSV file does."""
        return tables.table_file(self.path, self.columns).resolved(column) if self.is_csv else column

    @cached_property
    def measures(self) -> Mapping[str, MeasureInfo]:
        """All measures by name: ours, then the user's own that the study's score files describe."""
        return dict(MEASURES) if self.is_csv else tables.measures(self.chains, self.shown_protocol)

    @cached_property
    def shown_protocol(self) -> str | None:
        """The protocol of the table's scores; raises UserError if no chain has the one that was asked for."""
        names = {p for c in self.chains if not tables.is_solved(c) for p in tables.protocols(c)}
        if self.protocol is not None and self.protocol not in names:
            raise UserError(
                f"No chain of {self.path} has scores under {self.protocol}; there are {', '.join(sorted(names))}."
            )
        return self.protocol or tables.common_protocol(self.chains)

    def chain(self, condition: str, seed: int) -> Path:
        """A chain's folder; the condition's short name will do. Raises UserError if the study has no such chain."""
        folders = dict.fromkeys(c.parent.name for c in self.chains)
        names = {short: c for c, short in short_names(list(folders))[0].items()} | {c: c for c in folders}
        for chain in self.chains:
            if (chain.parent.name, chain.name) == (names.get(condition), f"seed{seed}"):
                return chain
        raise UserError(f"{self.path} has no chain {condition}/seed{seed}; it has {_listed(self.chains)}.")

    def generation(self, condition: str, seed: int, generation: int) -> Path:
        """A generation's folder; raises UserError if it does not exist."""
        chain = self.chain(condition, seed)
        folder = chain / f"gen{generation:03d}"
        if folder.is_dir():
            return folder
        if tables.is_solved(chain):
            raise UserError(f"{chain} is a solvable system's chain, which stores no samples.")
        raise UserError(f"{chain} has generations 0 to {len(tables.generations(chain)) - 1}, not {generation}.")

    def images(self, condition: str, seed: int, generation: int) -> np.ndarray:
        """The samples that a generation drew, uint8 (N, C, H, W), memory-mapped; raises UserError if there are none."""
        return self._array(self._whole(condition, seed, generation, "drawn"), "x")

    def labels(self, condition: str, seed: int, generation: int) -> np.ndarray | None:
        """The labels of those samples, int64 (N,); None for unconditional samples."""
        return store.open_arrays(self._whole(condition, seed, generation, "drawn")).get("y")

    def released(self, condition: str, seed: int, generation: int) -> dict[str, np.ndarray]:
        """What a generation released to later ones, memory-mapped: x, perhaps y and weight, and, if it was curated or
        corrected, `row` int64 (n,), the place of each sample among those drawn, and `corrected` bool (n,)."""
        return store.open_arrays(self._whole(condition, seed, generation, "pool"))

    def latents(self, condition: str, seed: int, generation: int) -> np.ndarray:
        """Samples of the sixteen latents that all generations share, uint8 (16, C, H, W); of imported images, whose
        latents are not known, sixteen or fewer at random."""
        return self._array(self._whole(condition, seed, generation, "evolution"), "x")

    def latent_labels(self, condition: str, seed: int, generation: int) -> np.ndarray | None:
        """The labels of those samples, int64 (16,); None for unconditional samples, and for those of
        an earlier version, which did not store them."""
        return read_pool(self._whole(condition, seed, generation, "evolution")).y

    def record(self, condition: str, seed: int, generation: int = 0) -> dict[str, Any]:
        """record.json of a generation (sizes, share by origin, seeds, versions, hashes); of a solvable system that of
        the chain."""
        chain = self.chain(condition, seed)
        folder = chain if tables.is_solved(chain) else self.generation(condition, seed, generation)
        return store.read_json(folder / "record.json")

    @cached_property
    def real(self) -> RealData:
        """The real data, memory-mapped; raises UserError unless the study has exactly one set."""
        folders = sorted((self.root / "shared").glob("real-*"))
        if len(folders) != 1:
            raise UserError(f"{self.root} has {len(folders)} sets of real images (shared/real-*); it needs one.")
        return read_real(folders[0])

    def config(self, chain: Path) -> dict[str, Any]:
        """config.yaml of a chain as plain values (choices, identity, config); raises UserError if it is damaged."""
        return read_config(chain)

    def _repr_html_(self) -> str:
        """In a notebook: the last generation of each chain with its main scores, and the figures of the study."""
        last = self.table.groupby(["condition", "seed"], sort=False).tail(1)
        headline = [name for name, info in self.measures.items() if info.headline and name in last]
        scores = [c for c in last if f"{c}_sem" in last] if self.solvable else headline
        keys = ["condition", "seed", "generation"]
        names = ("curves", "evolution") if self.single else ("comparison",)
        folders = () if self.is_csv else (self.path / f"{name}.png" for name in names)
        return html(
            f"{self.name}{', imported' if self.imported else ''}, last generation",
            last[[*keys, *scores]] if scores else last,
            folders,
        )

    def _whole(self, condition: str, seed: int, generation: int, name: str) -> Path:
        """The file of a generation's images, whose hash is that of its record; raises UserError where it is not."""
        folder = self.generation(condition, seed, generation)
        path = drawn_path(folder) if name == "drawn" else folder / f"{name}.safetensors"
        check_files(folder, read_record(folder, shown=True), (path.name,))
        return path

    @staticmethod
    def _array(path: Path, name: str) -> np.ndarray:
        arrays = store.open_arrays(path)
        if name not in arrays or arrays[name].ndim != 4 or arrays[name].dtype != np.uint8:
            raise store.damaged(path, "contains no images")
        return arrays[name]


def _listed(chains: tuple[Path, ...], most: int = 8) -> str:
    names = [f"{c.parent.name}/{c.name}" for c in chains]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
