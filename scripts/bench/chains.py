"""Chains one after another and two at a time."""

from __future__ import annotations

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
