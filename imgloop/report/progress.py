"""A study's chains as the report shows them: what was interrupted, size on disk, whether there is something new."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from imgloop import store
from imgloop.report.text import plural, ranges
from imgloop.study.progress import Progress


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
