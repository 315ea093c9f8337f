"""python scripts/chaos.py [--seeds N] [--first S] [--seed S]: a study in simulated chaos ends as in quiet.

For each seed, two workers at a time run the chains of one study, and each meets a random event at a random file
operation: SIGKILL, SIGTERM, a full disk, a disk error, or none; its clock may be a day off; between rounds a checkpoint
may be cut short and a lock of a dead process appear. Then every command is run once more, quietly, and the study is
compared with one that was never disturbed: every file, but for seconds, dates and logs. One number (--seed) replays a
run's choices; the two workers' timing is the machine's. Prints a line a seed, and exits with 1 if one differs.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torture

RULES = ("replace", "accumulate", "real_only")
COMMANDS = [f"{torture.DIFFUSION} generations=2 paradigm={rule}" for rule in RULES]
EVENTS = ("kill", "term", "full", "error", "none")
ROUNDS = 4


def compared(folder: Path) -> dict[str, object]:
    """The study as it is compared: without the comparison, which depends on the order in which chains end."""
    found = torture.tree(folder)
    return {k: v for k, v in found.items() if "comparison" not in k and k.count("/") > 1 and "collapse.json" not in k}


def worker(command: str, folder: Path, event: str, n: int, shift: float, name: str) -> None:
    """Run a command in a process of its own, with an event at its n-th file operation."""

    def at(count: int) -> None:
        if event == "term" and count == n:
            os.kill(os.getpid(), signal.SIGTERM)

    if shift:
        now = time.time
        time.time = lambda: now() + shift
    fault = event if event in torture.FAULTS else ""
    torture.run(command, folder, torture.Disk(str(folder), n, fault, at), log=name)


def disturbed(seed: int, folder: Path) -> list[str]:
    """Rounds of two workers, then every command quietly; what happened."""
    rng, told = random.Random(seed), []
    for number in range(ROUNDS):
        pids = []
        for i, command in enumerate(rng.sample(COMMANDS, 2)):
            event, n, shift = rng.choice(EVENTS), rng.randrange(400), rng.choice((0, 86_400, -86_400))
            told.append(f"{event}@{n}")
            pid = os.fork()
            if pid == 0:
                try:
                    worker(command, folder, event, n, shift, f"chaos{number}{i}")
                finally:
                    os._exit(0)
            pids.append(pid)
        for pid in pids:
            os.waitpid(pid, 0)
        for checkpoint in folder.rglob("checkpoint.pt"):
            if rng.random() < 0.3:
                checkpoint.write_bytes(checkpoint.read_bytes()[: rng.randrange(2000)])
                told.append("cut checkpoint")
        for chain in folder.glob("*/*/seed0"):
            if rng.random() < 0.3:
                (chain / ".lock").write_text("4194305")
    for command in COMMANDS:
        status, output, _ = torture.run(command, folder)
        if status != 0 and "checkpoint.pt cannot be read" in output:  # as the sentence says: delete it
            for checkpoint in folder.rglob("checkpoint.pt"):
                checkpoint.unlink()
            status, output, _ = torture.run(command, folder)
        if status != 0:
            told.append(f"ENDS WITH {status}: {output[-600:]}")
    return told


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50, metavar="N")
    parser.add_argument("--first", type=int, default=0, metavar="S")
    parser.add_argument("--seed", type=int, metavar="S", help="only this one")
    a = parser.parse_args(arguments)
    torture.preload()
    failed = []
    with tempfile.TemporaryDirectory() as tmp:
        os.environ["IMGLOOP_CACHE"] = f"{tmp}/cache"
        quiet = Path(tmp) / "study"
        quiet.mkdir()
        for command in COMMANDS:
            status, output, _ = torture.run(command, quiet)
            assert status == 0, output
        expected = compared(quiet)
        seeds = range(a.first, a.first + a.seeds) if a.seed is None else [a.seed]
        for seed in seeds:
            folder = Path(tmp) / f"chaos{seed}"
            folder.mkdir()
            told = disturbed(seed, folder)
            wrong = torture.differences(expected, compared(folder)) + [t for t in told if t.startswith("ENDS")]
            events = ", ".join(t for t in told if not t.startswith("ENDS"))
            print(f"seed {seed}: {len(wrong)} differences ({events})", flush=True)
            for line in wrong[:8]:
                print("  " + line.replace("\n", " / "), flush=True)
            failed += [seed] * bool(wrong)
    print(f"{len(seeds)} seeds, {len(failed)} with differences{f': {failed}' if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
