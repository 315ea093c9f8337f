"""The thresholds that a study began with: shared/collapse.json, written before its first chain ends."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from imgloop import store
from imgloop.thresholds import Frozen, Thresholds

FILE = Path("shared") / "collapse.json"


def freeze(study: str | Path, thresholds: Thresholds | Mapping | None = None) -> Frozen:
    """The thresholds of a study: written to shared/collapse.json by the first call, and read from there by later ones.

    `thresholds` are ignored by later calls; `Frozen.thresholds.changes(...)` lists what differs. Safe for several
    chains of one study that start at once. Raises UserError if the file is damaged.
    """
    path = Path(study) / FILE
    if not path.exists():
        with store.lock(path.with_name(".collapse.lock")):
            if not path.exists():
                record = {
                    "thresholds": asdict(Thresholds.of(thresholds)),
                    "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                    "chains_ended": ended(Path(study)),
                }
                store.write_sealed(path, record)
    return read(path)


def frozen(study: str | Path) -> Frozen | None:
    """The thresholds that `freeze` wrote into a study, None if it did not; raises UserError if the file is damaged."""
    path = Path(study) / FILE
    return read(path) if path.exists() else None


def read(path: Path) -> Frozen:
    """The contents of a study's shared/collapse.json; raises UserError if it is missing or damaged."""
    record = store.read_json(path)
    try:
        return Frozen(Thresholds.of(record["thresholds"]), str(record["written"]), int(record["chains_ended"]))
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise store.damaged(path, f"does not hold a study's thresholds ({e!r})", "delete it") from e


def ended(study: Path) -> int:
    """How many chains of a study have results: metrics.csv is written when a chain ends."""
    return sum(1 for _ in Path(study).glob("*/seed*/metrics.csv"))
