"""The thresholds that a study began with: written to shared/collapse.json before its first chain ends."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from imgloop import store
from imgloop.thresholds import Frozen, Thresholds

FILE = Path("shared") / "collapse.json"


def freeze(study: str | Path, thresholds: Thresholds | Mapping | None = None) -> Frozen:
    """The thresholds of a study: written to shared/collapse.json when first called, and read from there ever after.

    `thresholds` count in the first call alone; Frozen.thresholds.changes(...) tells a later difference. Safe when
    chains of one study start at once. Raises UserError where the file is damaged.
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
                store.write_json(path, record)
    return frozen(study)


def frozen(study: str | Path) -> Frozen | None:
    """What `freeze` wrote into a study, None where it did not; raises UserError where the file is damaged."""
    path = Path(study) / FILE
    if not path.exists():
        return None
    record = store.read_json(path)
    try:
        return Frozen(Thresholds.of(record["thresholds"]), str(record["written"]), int(record["chains_ended"]))
    except (KeyError, TypeError, AttributeError) as e:
        raise store.damaged(path, f"does not hold a study's thresholds ({e!r})", "delete it") from e


def ended(study: Path) -> int:
    """How many of a study's chains show results: metrics.csv is written at a chain's end."""
    return sum(1 for _ in Path(study).glob("*/seed*/metrics.csv"))
