"""Every row at the settings that docs/performance.md reports, one after another, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

CPU = (
    "start",
    "step --rounds 5 --steps 200",
    "step --rounds 5 --steps 200 --threads {cores}",
    "step --rounds 4 --steps 200 --threads {cores} --network unet2d",
    "step --rounds 3 --steps 50 --threads {cores} --network unet2d --size 16",
    "sample --threads {cores}",
    "metrics",
    "loop --images 8000 --threads {cores}",
    "chains --chains 4",
    "memory",
)
GPU = (
    "step --gpu",
    "step --gpu --size 32 --batch 128",
    "step --gpu --size 32 --batch 128 --network unet2d",
    "step --gpu --size 32 --batch 128 --compile true",
    "step --gpu --compile graphs",
    "chains --gpu --jobs 4",
)
MOST = 2  # threads: the page's figures are of two cores


def every(a) -> None:
    """Run the rows for a CPU, or with `a.gpu` those for a GPU; what they print goes to the terminal and, with `a.out`,
    to that file. A row that fails is said, and the others run; then the exit status is 1."""
    if a.out:
        a.out.parent.mkdir(parents=True, exist_ok=True)
    out = a.out.open("w") if a.out else None

    def say(text: str) -> None:
        print(text, end="", flush=True)
        if out:
            out.write(text)
            out.flush()

    began, failed = time.perf_counter(), []
    rows = [row.format(cores=min(MOST, os.cpu_count() or 1)) for row in (GPU if a.gpu else CPU)]
    say(f"{described()}\n")
    for k, row in enumerate(rows):
        print(f"row {k + 1} of {len(rows)}, after {(time.perf_counter() - began) / 60:.0f} min", file=sys.stderr)
        say(f"\n$ python scripts/bench.py {row}   (load {os.getloadavg()[0]:.1f})\n")
        command = [sys.executable, str(Path(__file__).resolve().parents[1] / "bench.py"), *row.split()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for line in process.stdout:
                say(line)
        if process.returncode:
            failed.append(row)
            say(f"  failed with status {process.returncode}\n")
    if out:
        out.close()
    if failed:
        sys.exit(f"bench: {len(failed)} of {len(rows)} rows failed: {'; '.join(failed)}")


def described() -> str:
    """The machine and the versions, in one line."""
    from imgloop.provenance import machine, versions

    facts = {"processors": os.cpu_count()} | machine() | versions()
    return ", ".join(f"{name} {value}" for name, value in facts.items() if name != "threads")
