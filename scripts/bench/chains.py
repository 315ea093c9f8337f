"""Eight chains one after another and side by side, and the memory of one process over many generations."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time


def chains(a) -> None:
    """The same multirun by Hydra's basic launcher and by joblib with two workers."""
    seconds = {}
    for name, more in (
        ("one after another", []),
        ("two at a time", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]),
    ):
        with tempfile.TemporaryDirectory() as tmp:
            given = [f"seed=range(0,{a.chains})", f"train.images={a.images}", "generations=2", "display=none"]
            began = time.perf_counter()
            command = [sys.executable, "-m", "imgloop", "-m", *given, *more, f"out={tmp}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name] = time.perf_counter() - began
    first, second = seconds.values()
    print(", ".join(f"{name} {s:.0f} s" for name, s in seconds.items()) + f": {first / second:.2f} times as fast")


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
