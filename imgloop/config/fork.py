"""fork=PATH@t: the generations 0..t of another chain, that a chain begins with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgloop import store
from imgloop.errors import UserError


@dataclass(frozen=True)
class Fork:
    """Generations 0..t of the chain in `folder`, that another chain begins with."""

    folder: Path
    t: int

    @classmethod
    def of(cls, text: str) -> Fork:
        """The fork that a setting `PATH@t` names; raises UserError if there is no such chain or generation."""
        path, at, t = str(text).rpartition("@")
        if not at or not t.isdigit():
            raise UserError(
                f"fork={text}: give a chain's folder and a generation, for example "
                "fork=outputs/digits-diffusion/replace/seed0@2.",
                "fork",
            )
        fork = cls(Path(path).expanduser(), int(t))
        if not (fork.generation(0) / "record.json").is_file():
            raise UserError(
                f"fork={text}: {fork.folder} is not a chain of trained models (it has no gen000): give "
                "outputs/STUDY/CONDITION/seedK@t.",
                "fork",
            )
        if "imported" in fork.record(0):
            raise UserError(
                f"fork={text}: {fork.folder} was imported from another program, without its training sets and models: "
                "fork a chain that was trained here.",
                "fork",
            )
        missing = next((s for s in range(fork.t + 1) if not (fork.generation(s) / "record.json").is_file()), None)
        if missing is not None:
            last = missing - 1
            raise UserError(f"fork={text}: {fork.folder} has generations up to {last}: give @{last}.", "fork")
        return fork

    def generation(self, t: int) -> Path:
        return self.folder / f"gen{t:03d}"

    def record(self, t: int) -> dict[str, Any]:
        """record.json of generation t; raises UserError if it is damaged, or that of another generation."""
        path = self.generation(t) / "record.json"
        record = store.read_json(path)
        kinds = {"condition": str, "seed": int, "generation": int, "real": str, "pool_hash": str}
        if not isinstance(record, dict) or not all(isinstance(record.get(k), v) for k, v in kinds.items()):
            raise store.damaged(path, "is not the record of a generation")
        if record["generation"] != t:
            raise store.damaged(path, f"is that of generation {record['generation']}, and was moved or copied here")
        return record

    def name(self, seed: int) -> str:
        """The fork's name in a condition: equal for the chains of several seeds that each fork their own."""
        record = self.record(self.t)
        condition = record["condition"]
        if len(condition) > 40:
            condition = f"{condition.split(',')[0]}-{store.content_key(condition)[:6]}"
        other = "" if record["seed"] == seed else f"-seed{record['seed']}"
        return f"{condition}{other}-gen{self.t}"
