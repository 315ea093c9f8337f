"""How far a study's chains are: generations done and planned, whether a process is at work, size on disk."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from imgloop import store
from imgloop.errors import UserError
from imgloop.report.text import plural, ranges
from imgloop.study import tables as study


@dataclass(frozen=True)
class Progress:
    """Where a chain stands: generations `done` of `planned` (None where its config does not say); `running`: whether a
    process holds its lock (None where this system does not tell); `changed`: when a result was last written, in seconds
    since 1970; `fault`: why it cannot be read."""

    chain: Path
    done: int
    planned: int | None
    ended: bool
    running: bool | None
    changed: float
    fault: str = ""

    @property
    def said(self) -> str:
        """The state in a few words."""
        if self.fault:
            return "damaged"
        if self.ended:
            return "finished"
        if self.running:
            return "running"
        return "interrupted" if self.running is False else f"last change {ago(self.changed)}"


def progress(path: Path) -> list[Progress]:
    """Where each chain of a study stands, in the order of load_study, those without a generation included."""
    folders = [p for p in Path(path).glob("*/seed*") if p.is_dir() and p.parent.name != "shared"]
    folders = [p for p in folders if (p / "config.yaml").exists() or study.generations(p) or study.is_solved(p)]
    number = {p: int(p.name[4:]) if p.name[4:].isdigit() else 0 for p in folders}
    held = locked()
    return [_of(p, held) for p in sorted(folders, key=lambda p: (p.parent.name, number[p]))]


def waiting(chains: Sequence[Progress]) -> str:
    """That chains were interrupted, where, and how they go on, in a sentence; nothing where none were."""
    stopped = [p for p in chains if p.said == "interrupted"]
    if not stopped:
        return ""
    done, planned = ranges([p.done for p in stopped]), ranges([p.planned for p in stopped if p.planned is not None])
    one = "the command that began it continues it"
    ways = one if len(stopped) == 1 else "the commands that began them continue them"
    which = f"{len(stopped)} of {plural(len(chains), 'chain')}"
    return f"{which} interrupted after {done} of {planned or '?'} generations; {ways}."


def _of(chain: Path, held: set[tuple[int, int]] | None) -> Progress:
    planned = _planned(chain)
    lock, running = chain / ".lock", None
    if held is not None:
        running = lock.exists() and _inode(lock) in held
    files = [*chain.glob("gen[0-9]*/record.json"), chain / "record.json", chain / "config.yaml", chain]
    changed = max(p.stat().st_mtime for p in files if p.exists())
    try:
        if study.is_solved(chain):
            from imgloop.study import solved as results

            told = results.record(chain)
            done, ended = int(told["generations"]), bool(told["complete"])
            ended = ended and (told["absorbed"] or planned is None or done >= planned)
        else:
            done = len(study.generations(chain))
            for generation in study.generations(chain):
                store.read_json(generation / "record.json")
            ended = planned is not None and done >= planned
    except (UserError, TypeError, ValueError, KeyError) as e:
        return Progress(chain, 0, planned, False, running, changed, str(e))
    return Progress(chain, done, planned, ended, running, changed)


def _planned(chain: Path) -> int | None:
    """generations of the chain's config; None where it cannot be read."""
    try:
        return int(yaml.safe_load((chain / "config.yaml").read_text())["config"]["generations"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None


def locked(table: Path = Path("/proc/locks")) -> set[tuple[int, int]] | None:
    """(device, inode) of the files that some process holds locked; None where the system does not list them."""
    try:
        lines = table.read_text().splitlines()
    except OSError:
        return None
    found = set()
    for line in lines:
        place = next((w for w in line.split() if w.count(":") == 2), None)
        if place and "->" not in line:
            major, minor, inode = place.split(":")
            found.add((os.makedev(int(major, 16), int(minor, 16)), int(inode)))
    return found


def _inode(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def size(paths: Iterable[Path]) -> int:
    """Bytes on disk below the paths; a file under several names (hard links) counts once, a link to elsewhere not."""
    seen: dict[tuple[int, int], int] = {}
    for path in paths:
        for root, _, names in os.walk(path):
            for name in names:
                try:
                    found = os.lstat(os.path.join(root, name))
                except FileNotFoundError:  # a running chain renames
                    continue
                seen[found.st_dev, found.st_ino] = found.st_size
    return sum(seen.values())


def weight(count: int) -> str:
    """Bytes to read: 3.2 MB."""
    power = min((len(str(count)) - 1) // 3, 4)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def ago(moment: float) -> str:
    from imgloop.display import duration

    return f"{duration(max(time.time() - moment, 0))} ago"


def fingerprint(path: Path) -> str:
    """A key that changes when a study has something new to show."""
    patterns = ("*/seed*/gen[0-9]*/record.json", "*/seed*/gen[0-9]*/scores/*.json", "*/seed*/record.json")
    patterns += ("*/seed*/config.yaml", "shared/collapse.json")
    files = sorted(p for pattern in patterns for p in Path(path).glob(pattern))
    seen = []
    for p in files:
        try:
            seen.append((str(p), p.stat().st_mtime_ns))
        except FileNotFoundError:
            continue
    return store.content_key(seen)
