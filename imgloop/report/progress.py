"""How far a study's chains are: generations done and planned, whether a process runs them, size on disk."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgloop import store
from imgloop.display import duration
from imgloop.errors import UserError
from imgloop.report.text import plural, ranges
from imgloop.study import solved, tables


@dataclass(frozen=True)
class Progress:
    """Where a chain stands: generations `done` of `planned` (None if its config cannot be read).

    running: whether a process holds its lock (None if this system does not list locks). changed: when a result was last
    written, seconds since 1970. fault: why the chain cannot be read.
    """

    chain: Path
    done: int
    planned: int | None
    ended: bool
    running: bool | None
    changed: float
    fault: str = ""

    @property
    def state(self) -> str:
        """The state in a few words."""
        if self.fault:
            return "damaged"
        if self.ended:
            return "finished"
        if self.running:
            return "running"
        return "interrupted" if self.running is False else f"last change {ago(self.changed)}"


def progress(path: Path) -> list[Progress]:
    """The chains of a study in the order of load_study, including those without a finished generation."""
    folders = [p for p in Path(path).glob("*/seed*") if p.is_dir() and p.parent.name != "shared"]
    folders = [p for p in folders if (p / "config.yaml").exists() or tables.generations(p) or tables.is_solved(p)]
    seeds = {p: int(p.name[4:]) if p.name[4:].isdigit() else 0 for p in folders}
    locks = locked()
    return [_of(p, locks) for p in sorted(folders, key=lambda p: (p.parent.name, seeds[p]))]


def waiting(chains: Sequence[Progress]) -> str:
    """How many chains were interrupted and how to continue them, in a sentence; "" if none were."""
    stopped = [p for p in chains if p.state == "interrupted"]
    if not stopped:
        return ""
    done, planned = ranges([p.done for p in stopped]), ranges([p.planned for p in stopped if p.planned is not None])
    way = "the command that started it continues it"
    way = way if len(stopped) == 1 else "the commands that started them continue them"
    which = f"{len(stopped)} of {plural(len(chains), 'chain')}"
    return f"{which} interrupted after {done} of {planned or '?'} generations; {way}."


def _of(chain: Path, locks: set[tuple[int, int]] | None) -> Progress:
    planned = _planned(chain)
    lock, running = chain / ".lock", None
    if locks is not None:
        running = lock.exists() and _inode(lock) in locks
    files = [*chain.glob("gen[0-9]*/record.json"), chain / "record.json", chain / "config.yaml", chain]
    changed = max(p.stat().st_mtime for p in files if p.exists())
    try:
        if tables.is_solved(chain):
            record = solved.record(chain)
            done, ended = int(record["generations"]), bool(record["complete"])
            ended = ended and (record["absorbed"] or planned is None or done >= planned)
        else:
            done = len(tables.generations(chain))
            for generation in tables.generations(chain):
                store.read_json(generation / "record.json")
            ended = planned is not None and done >= planned
    except (UserError, TypeError, ValueError, KeyError) as e:
        return Progress(chain, 0, planned, False, running, changed, str(e))
    return Progress(chain, done, planned, ended, running, changed)


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


def size(paths: Iterable[Path]) -> int:
    """Bytes on disk below the paths; hard links count once, targets of symbolic links do not count."""
    sizes: dict[tuple[int, int], int] = {}
    for path in paths:
        for root, _, names in os.walk(path):
            for name in names:
                try:
                    info = os.lstat(os.path.join(root, name))
                except FileNotFoundError:  # renamed by a running chain
                    continue
                sizes[info.st_dev, info.st_ino] = info.st_size
    return sum(sizes.values())


def readable(count: int) -> str:
    """Bytes with a unit: 3.2 MB."""
    power = min((len(str(count)) - 1) // 3, 4)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def ago(moment: float) -> str:
    return f"{duration(max(time.time() - moment, 0))} ago"


def fingerprint(path: Path) -> str:
    """A key that changes when a study has new results to show."""
    patterns = ("*/seed*/gen[0-9]*/record.json", "*/seed*/gen[0-9]*/scores/*.json", "*/seed*/record.json")
    patterns += ("*/seed*/config.yaml", "shared/collapse.json")
    times = []
    for p in sorted(p for pattern in patterns for p in Path(path).glob(pattern)):
        try:
            times.append((str(p), p.stat().st_mtime_ns))
        except FileNotFoundError:
            continue
    return store.content_key(times)
