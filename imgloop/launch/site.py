"""Chains on other machines: what a node must share with the machine that runs the sweep, checked before it trains."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from imgloop import store
from imgloop.errors import Stopped, UserError
from imgloop.launch.jobs import Job
from imgloop.launch.worker import work
from imgloop.provenance import versions

FRESH = 15.0  # seconds: a sweep that runs touches its lock file more often
SKEW = 60.0  # seconds between the clocks of a node and of the file server that are worth a note
KILLED = 600.0  # seconds that SLURM may take to kill a job that it has told to end


@dataclass(frozen=True)
class Site:
    """Where a sweep was started: its working folder, machine, versions, and the lock that it holds while it runs."""

    folder: Path
    host: str
    versions: dict[str, str]
    lock: Path

    @classmethod
    def here(cls, jobs: Sequence[Job]) -> Site:
        return cls(Path.cwd(), os.uname().nodename, versions(), jobs[0].record.absolute().parent / ".sweep.lock")

    def check(self, job: Job) -> list[str]:
        """What the user is told of a node that runs a job. Raises UserError for a node that cannot run it."""
        here = os.uname().nodename
        out = job.settings.config["out"]
        if not self.lock.exists():
            raise UserError(
                f"Node {here} does not see {self.lock.parent}, which {self.host} wrote: give an out=FOLDER on a file "
                "system that all nodes share.",
                "out",
            )
        if not self.folder.is_dir():
            raise UserError(f"Node {here} has no folder {self.folder}, where the sweep was started on {self.host}.")
        os.chdir(self.folder)
        root = job.settings.config["data"].get("root")
        if root is not None and not Path(root).expanduser().exists():
            raise UserError(
                f"Node {here} does not have data.root={root}: copy the data to the same place on every node, or to a "
                "file system that all nodes share.",
                "data.root",
            )
        probe = job.record.with_name(f".{job.record.name}.clock")
        store.write_text(probe, "")
        server = probe.stat().st_mtime
        store.remove(probe)
        if server - self.lock.stat().st_mtime < FRESH and not held(self.lock):
            raise UserError(
                f"File locks do not work between {self.host} and node {here} on out={out}: two machines could run one "
                "chain. Use a file system with locks (NFS 4, Lustre mounted with flock), or run on one machine.",
                "out",
            )
        notes = []
        other = {k: (v, mine) for k, mine in versions().items() if (v := self.versions.get(k)) != mine}
        if other:
            listed = ", ".join(f"{k} {mine} (there {v})" for k, (v, mine) in sorted(other.items()))
            notes.append(f"node {here} has other versions than {self.host}: {listed}; results stay valid, but are not "
                         "bit-identical")  # fmt: skip
        if abs(time.time() - server) > SKEW:
            notes.append(f"the clock of node {here} differs by {time.time() - server:+.0f} s from that of the file "
                         "server: dates in logs are wrong, results are not")  # fmt: skip
        return notes


def held(path: Path) -> bool:
    """Whether another process holds a lock file."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def run(job: Job, site: Site) -> str | None:
    """On a node: check it and run a job's chain. Why the node cannot run it, in a sentence; None where the job has an
    outcome. A request to stop ends in a checkpoint, after which the engine queues the job again."""
    try:
        notes = site.check(job)
    except UserError as e:
        return str(e)
    try:
        work(job, notes)
    except Stopped as e:
        if e.signal == signal.SIGUSR2:  # submitit's sign of the time limit: its own handler queues the job again
            signal.raise_signal(signal.SIGUSR2)
        if "SLURM_JOB_ID" in os.environ:  # SLURM kills the job and queues it again; a job that ends by itself is over
            time.sleep(KILLED)
        raise
    return None


class Logs:
    """The lines that running chains write into their run.log, on the file system that all machines share."""

    def __init__(self) -> None:
        self.places: dict[int, tuple[Job, int]] = {}
        self.ended: set[int] = set()

    def follow(self, job: Job) -> None:
        log = job.settings.folder / "run.log"
        self.places[job.number] = job, log.stat().st_size if log.exists() else 0

    def lines(self) -> list[tuple[Job, str]]:
        """Whole lines since the last call, without their dates."""
        found = []
        for number, (job, place) in list(self.places.items()):
            try:
                with open(job.settings.folder / "run.log", "rb") as f:
                    f.seek(place)
                    text = f.read()
            except FileNotFoundError:
                continue
            whole = text[: text.rfind(b"\n") + 1]
            self.places[number] = job, place + len(whole)
            found += [(job, line.partition("  ")[2]) for line in whole.decode(errors="replace").splitlines()]
        for number in self.ended:
            self.places.pop(number, None)
        self.ended.clear()
        return found

    def finish(self, job: Job) -> None:
        """Read a chain's last lines with the next call, and no more."""
        self.ended.add(job.number)
