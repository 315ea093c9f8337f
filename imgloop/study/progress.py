"""How far a study's chains are: planned, running, finished or failed; study.json says it to other programs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgloop import store
from imgloop.conditions import short_names
from imgloop.display import duration
from imgloop.errors import UserError
from imgloop.study import solved, tables
from imgloop.study.generation import check_numbers, is_seed, read_record

FILE = "study.json"
PLAN = Path("shared") / "sweeps.json"  # the chains that sweeps have planned, and why some of them failed
PLAN_AGAIN = "delete it, which forgets chains that were planned and have not begun"
RUNNING = "running.json"  # in a sweep's folder: the chains that it runs now; touched every few seconds
FRESH = 30.0  # seconds after which a sweep that does not touch it has ended
STATES = ("damaged", "finished", "running", "failed", "waiting")
MOST = 8  # chains that a sentence lists
SPARING = 10.0  # seconds between two writes of study.json by the chains of a sweep


@dataclass(frozen=True)
class Progress:
    """Where a chain stands: generations `done` of `planned` (None if its config cannot be read).

    running: whether a process holds its lock (None if this system does not list locks). changed: when a result was last
    written, seconds since 1970. fault: why the chain cannot be read. failed: why its last run in a sweep failed.
    """

    chain: Path
    done: int
    planned: int | None
    ended: bool
    running: bool | None
    changed: float
    fault: str = ""
    failed: str = ""

    @property
    def begun(self) -> bool:
        """Whether the chain's folder exists; else it is planned only."""
        return (self.chain / "config.yaml").exists() or self.done > 0

    @property
    def state(self) -> str:
        """The state in a few words."""
        if self.fault:
            return "damaged"
        if self.ended:
            return "finished"
        if self.running:
            return "running"
        if self.failed:
            return "failed"
        if not self.begun:
            return "waiting"
        return "interrupted" if self.running is False else f"last change {ago(self.changed)}"


def progress(path: Path) -> list[Progress]:
    """The chains of a study in the order of load_study, including those without a finished generation and those that a
    sweep has planned."""
    path = Path(path)
    folders = {p for p in path.glob("*/seed*") if is_seed(p.name) and p.is_dir() and p.parent.name != "shared"}
    folders = {p for p in folders if (p / "config.yaml").exists() or tables.generations(p) or tables.is_solved(p)}
    plan, locks, active = planned(path), locked(), _active(path)
    names = {p.relative_to(path).as_posix(): p for p in folders} | {n: path / n for n in plan}
    ordered = sorted(names.items(), key=lambda item: (item[1].parent.name, int(item[1].name[4:])))
    return [_of(chain, locks, name in active, plan.get(name, {})) for name, chain in ordered]


# -- what sweeps have planned ------------------------------------------------------------------------------------------


def planned(study: Path) -> dict[str, dict[str, Any]]:
    """The chains that sweeps have planned, by CONDITION/seedK: `generations`, and why the last run `failed` or null."""
    path = study / PLAN
    if not path.exists():
        return {}
    record = store.read_json(path, PLAN_AGAIN)
    chains = record.get("chains") if isinstance(record, dict) else None
    if not isinstance(chains, dict) or not all(_is_planned(name, entry) for name, entry in chains.items()):
        raise store.damaged(path, "does not hold planned chains", PLAN_AGAIN, overwrite=False)
    return chains


def _is_planned(name: str, entry: Any) -> bool:
    condition, _, seed = name.rpartition("/")
    return (
        condition not in ("", ".", "..") and "/" not in condition and is_seed(seed)
        and isinstance(entry, dict) and type(entry.get("generations")) is int
        and isinstance(entry.get("failed"), str | None)
    )  # fmt: skip


def plan(study: Path, chains: Mapping[str, int]) -> None:
    """Note the chains of a sweep, with their generations; earlier ones stay, and none counts as failed any more."""

    def change(known: dict[str, dict[str, Any]]) -> None:
        for name, generations in chains.items():
            most = max(generations, known.get(name, {}).get("generations", 0))
            known[name] = {"generations": most, "failed": None}

    _change_plan(study, change)


def forget(study: Path, name: str) -> list[str]:
    """Take chains out of the plan: CONDITION/seedK, or all of CONDITION; returns their names. Raises UserError for a
    chain that is not planned, or that has begun."""
    known = planned(study)
    short, _ = short_names(list(dict.fromkeys(n.rsplit("/", 1)[0] for n in known)))

    def names_of(chain: str) -> set[str]:
        condition, seed = chain.rsplit("/", 1)
        return {chain, condition, short[condition], f"{short[condition]}/{seed}"}

    named = [chain for chain in known if name in names_of(chain)]
    if not named:
        raise UserError(f"{study} has no planned chain {name}; see python -m imgloop.report {study} --list.", "forget")
    begun = [n for n in named if (study / n).is_dir()]
    if begun:
        raise UserError(
            f"{begun[0]} has begun: continue it, or delete {study / begun[0]} and forget it then.", "forget"
        )
    _change_plan(study, lambda known: [known.pop(n) for n in named])
    write_states(study)
    return named


def note_failure(chain: Path, failed: str | None) -> None:
    """Note why a planned chain's run failed, or that it did not."""
    name = f"{chain.parent.name}/{chain.name}"
    if planned(chain.parents[1]).get(name, {}).get("failed") != failed:
        _change_plan(chain.parents[1], lambda known: known.setdefault(name, {"generations": 0}).update(failed=failed))


def _change_plan(study: Path, change: Any) -> None:
    path = study / PLAN
    with store.lock(path.with_name(".sweeps.lock")):
        before, known = planned(study), planned(study)
        change(known)
        if known != before:
            store.write_sealed(path, {"chains": dict(sorted(known.items()))})


def write_running(sweep: Path, chains: Iterable[Path]) -> None:
    """Say which chains a sweep runs, on whatever machine."""
    store.write_json(sweep / RUNNING, [str(c.absolute()) for c in chains])


def _active(study: Path) -> set[str]:
    """The chains of a study that a sweep runs on any machine, by CONDITION/seedK."""
    names = set()
    for path in (study.parent / ".multirun").glob(f"*/{RUNNING}"):
        # The sweep has ended meanwhile, or the file is damaged: then nothing says which chains it runs.
        with suppress(FileNotFoundError, UserError, TypeError, ValueError, IndexError):
            if time.time() - path.stat().st_mtime < FRESH:
                names |= {f"{c.parent.name}/{c.name}" for c in map(Path, store.read_json(path))
                          if c.parents[1].resolve() == study.resolve()}  # fmt: skip
    return names


# -- study.json and what is missing ------------------------------------------------------------------------------------


def write_states(study: Path, sparing: bool = False) -> None:
    """Write study.json, where it is missing or old: the chains and their states. sparing: in a sweep, which writes it
    at its end, not too soon after the last time."""
    path = study / FILE
    if sparing and path.exists() and 0 <= time.time() - path.stat().st_mtime < SPARING:
        return
    if not progress(study):
        return
    with store.lock(study / "shared" / ".study.lock"):
        chains = [
            {
                "condition": p.chain.parent.name,
                "seed": int(p.chain.name.removeprefix("seed")),
                "state": p.state if p.running is not None or p.state in STATES else "unknown",
                "generations": p.done,
                "planned": p.planned,
                "failed": p.failed or p.fault or None,
            }
            for p in progress(study)
        ]
        try:
            current = path.exists() and store.read_json(path)["chains"] == chains
        except (UserError, KeyError, TypeError):  # damaged: it is written again
            current = False
        if not current:
            store.write_sealed(path, {"chains": chains})


def missing(chains: Sequence[Progress]) -> dict[str, dict[str, int]]:
    """The seeds of each condition that are planned but not finished, with the generations that they have."""
    found: dict[str, dict[str, int]] = {}
    for p in chains:
        if not p.ended:
            found.setdefault(p.chain.parent.name, {})[p.chain.name.removeprefix("seed")] = p.done
    return found


def incomplete(chains: Sequence[Progress]) -> str:
    """Which chains of a study are missing from its statistics, in a sentence; "" if none is."""
    unfinished = [p for p in chains if not p.ended]
    if not unfinished:
        return ""
    names, _ = short_names(list(dict.fromkeys(p.chain.parent.name for p in chains)))
    listed = [
        f"{names[p.chain.parent.name]}/{p.chain.name} "
        f"({p.state}, {p.done} of {p.planned if p.planned is not None else '?'} generations)"
        for p in unfinished[:MOST]
    ]
    more = f" and {len(unfinished) - MOST} more" if len(unfinished) > MOST else ""
    return f"incomplete: {len(unfinished)} of {len(chains)} chains are not finished: {', '.join(listed)}{more}"


# -- one chain ---------------------------------------------------------------------------------------------------------


def _of(chain: Path, locks: set[tuple[int, int]] | None, active: bool, plan: Mapping[str, Any]) -> Progress:
    planned = _planned(chain)
    if planned is None or plan.get("generations", 0) > planned:
        planned = plan.get("generations") or planned
    lock, running = chain / ".lock", None
    if active:
        running = True
    elif locks is not None:
        running = lock.exists() and _inode(lock) in locks
    failed = plan.get("failed") or ""
    if not chain.is_dir():
        return Progress(chain, 0, planned, False, running, time.time(), "", failed)
    files = [*chain.glob("gen[0-9]*/record.json"), chain / "record.json", chain / "config.yaml", chain]
    changed = max(p.stat().st_mtime for p in files if p.exists())
    try:
        if tables.is_solved(chain):
            record = solved.record(chain)
            done, ended = int(record["generations"]), bool(record["complete"])
            ended = ended and (record["absorbed"] or planned is None or done >= planned)
        else:
            check_numbers(chain)
            done = len(tables.generations(chain))
            for generation in tables.generations(chain):
                read_record(generation, shown=True)
            ended = planned is not None and done >= planned
    except (UserError, TypeError, ValueError, KeyError) as e:
        return Progress(chain, 0, planned, False, running, changed, str(e), failed)
    return Progress(chain, done, planned, ended, running, changed, "", failed)


def _planned(chain: Path) -> int | None:
    """generations of the chain's config; None if it cannot be read."""
    try:
        return int(store.read_yaml(chain / "config.yaml")["config"]["generations"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def locked(table: Path = Path("/proc/locks")) -> set[tuple[int, int]] | None:
    """(device, inode) of all locked files; None if the system does not list them."""
    try:
        lines = table.read_text().splitlines()
    except OSError:
        return None
    locks = set()
    for line in lines:
        place = next((w for w in line.split() if w.count(":") == 2), None)
        if place and "->" not in line:
            major, minor, inode = place.split(":")
            locks.add((os.makedev(int(major, 16), int(minor, 16)), int(inode)))
    return locks


def _inode(path: Path) -> tuple[int, int]:
    info = path.stat()
    return info.st_dev, info.st_ino


def ago(moment: float) -> str:
    return f"{duration(max(time.time() - moment, 0))} ago"
