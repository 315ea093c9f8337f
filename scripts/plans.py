"""python scripts/plans.py [--only NAME]: what imgloop.plan predicts for three small runs beside what they then take.

Each command is planned and then run, each in a process of its own. Images and disk are counted in the study's folder;
memory is the process's peak. The exit status is 1 if images, disk or time is off by more than a quarter. Time by the
clock needs a machine with nothing else to do; processor time depends less on that, but counts threads that wait.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
RUNS = {  # name: overrides of python -m imgloop
    "default job": "paradigm=accumulate generations=3 train.images=40000",
    "GAN": "model=gan paradigm=replace generations=3 train.images=6000 n_samples=700",
    "sweep": "-m paradigm=replace,accumulate seed=0,1 generations=3 train.images=15000 n_samples=500",
}
TOLERANCE = 0.25


def child(arguments: list[str], folder: Path) -> tuple[str, float, float, float]:
    """Standard output, seconds, processor seconds and peak MiB of a Python process; ends this script where it fails."""
    began = time.perf_counter()
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=folder, env=env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"python -m {' '.join(arguments)} failed:\n{text}")
    peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return text, time.perf_counter() - began, usage.ru_utime + usage.ru_stime, peak


def measured(study: Path) -> tuple[int, int]:
    """Training images that the generations of a study saw, a shared generation 0 once; and its bytes on disk."""
    records = [json.loads(p.read_text()) for p in study.glob("*/seed*/gen[0-9]*/record.json")]
    first = [r for r in records if r["generation"] == 0]
    shared = len(list((study / "shared").glob("generation0-*"))) / len(first)
    images = sum(r["train_images"] * (shared if r["generation"] == 0 else 1) for r in records)
    return round(images), sum(p.stat().st_size for p in study.rglob("*") if p.is_file())


def compared(overrides: list[str]) -> list[tuple[str, float, float]]:
    """(what, predicted, measured) of one command."""
    with tempfile.TemporaryDirectory() as tmp:
        given = [*overrides, f"out={tmp}/out", "study=planned", "display=lines"]
        plan = json.loads(child(["imgloop.plan", "--json", *given], Path(tmp))[0])
        _, wall, cpu, peak = child(["imgloop", *given], Path(tmp))
        images, disk = measured(Path(tmp) / "out" / "planned")
    predicted_disk = plan["disk_bytes"] - plan["disk"]["checkpoints"]
    return [
        ("images seen", plan["images"], images),
        ("disk, MiB", predicted_disk / 2**20, disk / 2**20),
        ("time, s", plan["seconds"], wall),
        ("processor time, s", plan["cpu_seconds"], cpu),
        ("peak memory, MiB", plan["host"] / 2**20, peak),
    ]


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--only", choices=RUNS, help="one of the runs")
    a = p.parse_args()
    wrong = 0
    print("| run | what | predicted | measured | ratio |\n|---|---|---|---|---|")
    for name in [a.only] if a.only else RUNS:
        for what, predicted, value in compared(RUNS[name].split()):
            ratio = predicted / value
            wrong += abs(ratio - 1) > TOLERANCE and what in ("images seen", "disk, MiB", "time, s")
            print(f"| {name} | {what} | {predicted:,.5g} | {value:,.5g} | {ratio:.2f} |", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
