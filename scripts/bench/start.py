"""Start-up times of the command line, of this checkout and, optionally, of another."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

THIS = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "imgloop"]
CHAIN = (
    "paradigm=replace generations=1 train.images=640 n_samples=48 data.n=150 data.heldout=50 features=pixels "
    "threads=1 display=lines"
).split()


def start(a) -> None:
    """Median seconds of each command over `a.rounds` rounds; with `a.other`, also the ratio to that checkout.

    Each round runs every command in every checkout, so that drift affects all alike. A first round is not counted: it
    compiles the modules and fills the disk cache.
    """
    checkouts = {"this": THIS} | ({"other": a.other.resolve()} if a.other else {})
    for path in checkouts.values():
        if not (path / "imgloop" / "__main__.py").exists():
            sys.exit(f"bench: {path} is not a checkout of imgloop: give the folder that holds imgloop/__main__.py.")
    commands = {"python -m imgloop --help": help_seconds, "first line of a run": first_line_seconds}
    seconds = {(command, name): [] for command in commands for name in checkouts}
    for round_ in range(a.rounds + 1):
        for (command, name), values in seconds.items():
            value = commands[command](checkouts[name])
            if round_:
                values.append(value)
    print(f"start-up, median of {a.rounds} rounds")
    for (command, name), values in seconds.items():
        label = f"{command} ({name})" if a.other else command
        print(f"  {label:<34} {statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})")
    if a.other:
        for command in commands:
            ratios = [this / other for this, other in zip(seconds[command, "this"], seconds[command, "other"])]
            spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
            print(f"  {command}: ratio this/other {statistics.median(ratios):.3f} ({spread})")


def help_seconds(checkout: Path) -> float:
    """Seconds until `--help` has printed everything and the process has ended."""
    began = time.perf_counter()
    subprocess.run([*COMMAND, "--help"], cwd=checkout, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def first_line_seconds(checkout: Path) -> float:
    """Seconds until a small chain prints its first line; the chain is then killed."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as out:
        began = time.perf_counter()
        with subprocess.Popen(
            [*COMMAND, *CHAIN, f"out={out}"], cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout and process.stderr
            line = process.stdout.readline()
            seconds = time.perf_counter() - began
            if not line:
                sys.exit(f"bench: the chain failed in {checkout}: {process.stderr.read().strip()}")
            process.kill()
    return seconds
