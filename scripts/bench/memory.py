"""The memory of one process over many generations."""

from __future__ import annotations

import os
import tempfile


def memory(a) -> None:
    """Memory of the process (RSS, MiB) while a chain under accumulate is extended to `a.generations`."""
    import imgloop

    def resident() -> float:
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    with tempfile.TemporaryDirectory() as tmp:
        given = [f"out={tmp}", "paradigm=accumulate", "train.images=256", "n_samples=256", "display=none", "threads=1"]
        found = {}
        for last in range(a.generations // 10, a.generations + 1, a.generations // 10):
            imgloop.run([*given, f"generations={last}"])
            found[last] = resident()
    print("generations: " + ", ".join(f"{t}: {m:.0f} MiB" for t, m in found.items()))
