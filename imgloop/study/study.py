"""A study as an object: its table, its images and what its generations were trained on. Reading it runs no code."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from imgloop import store
from imgloop.errors import UserError
from imgloop.measures import MEASURES, MeasureInfo
from imgloop.study import tables as study


class Study:
    """A folder of chains, opened for reading.

    Example: `Study("outputs/digits-diffusion").images("replace", seed=0, generation=4)`.

    path: a study's folder, one chain's (CONDITION/seedK), or a CSV table with columns condition, seed, generation.
    protocol: of the scores (a file name in scores/, without its ending); by default the one that most chains have.
    tolerant: leave out chains that cannot be read and say why, a sentence each, in `damaged`; otherwise the first of
    them raises UserError, as does a path that holds no chain. `chains`: the folders that were opened.
    """

    def __init__(self, path: str | Path, protocol: str | None = None, tolerant: bool = False):
        found, path = {}, Path(path)
        self.path, self.protocol = path, protocol
        if path.is_file():
            found = {path: None}
        elif path.is_dir():
            single = study.is_table(path) or study.generations(path)
            found = {c: self._fault(c) for c in ([path] if single else study.chains(path))}
        faults = {c: fault for c, fault in found.items() if fault}
        if faults and (not tolerant or len(faults) == len(found)):
            raise UserError(next(iter(faults.values())))
        if not found:
            what = "holds no finished generation (CONDITION/seedK/gen000)" if path.is_dir() else "does not exist"
            raise UserError(f"{path} {what}: give a study's folder, for example outputs/digits-diffusion.")
        self.chains: tuple[Path, ...] = tuple(c for c in found if c not in faults)
        self.damaged: tuple[str, ...] = tuple(faults.values())

    def _fault(self, chain: Path) -> str | None:
        """Why a chain cannot be read, in a sentence."""
        try:
            study.table(chain)
            int(chain.name.removeprefix("seed"))
            for generation in study.generations(chain):
                record = store.read_json(generation / "record.json")
                share = record["share_by_origin"]
                dict(record["versions"]), [(int(k), float(v)) for k, v in share.items()]
        except UserError as e:
            return str(e)
        except Exception as e:  # a file that is JSON or CSV and yet is no record: which error depends on what it is
            why = f"{type(e).__name__}: {e}"
            return f"{chain} cannot be read as a chain ({why}): restore its files, or run it again."
        return None

    # -- What it is ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        path = self.path.absolute()
        return path.stem if path.is_file() else f"{path.parent.name}, {path.name}" if self.single else path.name

    @property
    def is_csv(self) -> bool:
        """Whether it is a table alone, without folders."""
        return self.path.is_file()

    @property
    def single(self) -> bool:
        """Whether the path is one chain's."""
        return self.chains == (self.path,) and not self.is_csv

    @property
    def solvable(self) -> bool:
        """Whether its chains are those of solvable systems, which keep no images."""
        return not self.is_csv and study.is_table(self.chains[0])

    @property
    def root(self) -> Path:
        """The study's folder, also where one chain was opened."""
        return self.path.parent if self.is_csv else self.path.parent.parent if self.single else self.path

    @property
    def conditions(self) -> list[str]:
        return list(dict.fromkeys(map(str, self.table["condition"])))

    def seeds(self, condition: str | None = None) -> list[int]:
        """The seeds of a condition, or of all."""
        frame = self.table if condition is None else self.table[self.table["condition"] == condition]
        return sorted({int(s) for s in frame["seed"]})

    # -- What it holds ------------------------------------------------------------------------------------------------

    @cached_property
    def table(self):
        """condition, seed and the columns of metrics.csv as a pandas table, one row a generation; what load_study
        returns."""
        if self.is_csv:
            from imgloop.collapse import tables

            return tables.checked(tables.read(self.path))
        return study.joined(list(self.chains), self.shown_protocol).dropna(axis=1, how="all")

    @property
    def measures(self) -> Mapping[str, MeasureInfo]:
        """The list of measures."""
        return MEASURES

    @cached_property
    def shown_protocol(self) -> str | None:
        """The protocol of the table's scores; raises UserError for one that no chain has."""
        names = {p for c in self.chains if not study.is_table(c) for p in study.protocols(c)}
        if self.protocol is not None and self.protocol not in names:
            raise UserError(
                f"No chain of {self.path} has scores under {self.protocol}; there are {', '.join(sorted(names))}."
            )
        return self.protocol or study.common_protocol(list(self.chains))

    def chain(self, condition: str, seed: int) -> Path:
        """A chain's folder; raises UserError where the study has no such chain."""
        for chain in self.chains:
            if (chain.parent.name, chain.name) == (condition, f"seed{seed}"):
                return chain
        raise UserError(f"{self.path} has no chain {condition}/seed{seed}; it has {_listed(self.chains)}.")

    def generation(self, condition: str, seed: int, generation: int) -> Path:
        """A generation's folder; raises UserError where it is not there."""
        chain = self.chain(condition, seed)
        folder = chain / f"gen{generation:03d}"
        if folder.is_dir():
            return folder
        if study.is_table(chain):
            raise UserError(f"{chain} is a solvable system's chain, which keeps no samples.")
        raise UserError(f"{chain} has generations 0 to {len(study.generations(chain)) - 1}, not {generation}.")

    def images(self, condition: str, seed: int, generation: int) -> np.ndarray:
        """The samples that a generation drew, uint8 (N, C, H, W), memory-mapped; raises UserError where it has none."""
        return self._array(self.generation(condition, seed, generation) / "pool.safetensors", "x")

    def labels(self, condition: str, seed: int, generation: int) -> np.ndarray | None:
        """The labels that those samples were drawn for, int64 (N,); None where they were drawn without."""
        return store.open_arrays(self.generation(condition, seed, generation) / "pool.safetensors").get("y")

    def latents(self, condition: str, seed: int, generation: int) -> np.ndarray:
        """Sixteen samples of the latents that all generations share, uint8 (16, C, H, W)."""
        return self._array(self.generation(condition, seed, generation) / "evolution.safetensors", "x")

    def record(self, condition: str, seed: int, generation: int = 0) -> dict[str, Any]:
        """record.json of a generation: sizes, share by origin, seeds, versions, hashes; of a solvable system, the
        chain's."""
        chain = self.chain(condition, seed)
        folder = chain if study.is_table(chain) else self.generation(condition, seed, generation)
        return store.read_json(folder / "record.json")

    @cached_property
    def real(self):
        """The real data, RealData with `train` and `heldout` (Pools: x, y), `classes`, `facts`; raises UserError where
        the study keeps none, or several."""
        from imgloop.measure import read_real

        found = sorted((self.root / "shared").glob("real-*"))
        if len(found) != 1:
            many = "keeps no real images" if not found else f"keeps {len(found)} sets of real images (shared/real-*)"
            raise UserError(f"{self.root} {many}: there is not one set to show.")
        return read_real(found[0])

    def config(self, chain: Path) -> dict[str, Any]:
        """config.yaml of a chain as plain values (choices, identity, config); raises UserError where it is damaged."""
        path = chain / "config.yaml"
        try:
            found = yaml.safe_load(path.read_text())
            if all(isinstance(found[k], Mapping) for k in ("choices", "identity", "config")):
                return found
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as e:
            raise store.damaged(path, f"cannot be read ({' '.join(str(e).split())})", "run the chain again") from e
        raise store.damaged(path, "is no configuration of a chain", "run the chain again")

    @staticmethod
    def _array(path: Path, name: str) -> np.ndarray:
        arrays = store.open_arrays(path)
        if name not in arrays or arrays[name].ndim != 4 or arrays[name].dtype != np.uint8:
            raise store.damaged(path, "holds no images")
        return arrays[name]


def _listed(chains: tuple[Path, ...], most: int = 8) -> str:
    names = [f"{c.parent.name}/{c.name}" for c in chains]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
