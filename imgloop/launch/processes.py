"""The engine of hydra/launcher=parallel: a process a chain on this machine, each with its GPU or its CPU threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

from imgloop import interrupt
from imgloop.errors import Stopped
from imgloop.launch.jobs import Job, cores
from imgloop.launch.worker import work

PATIENCE = 60.0  # seconds that a chain has to save its state when the sweep is stopped
PRELOADED = ["torch._dynamo", "imgloop.loop", "imgloop.metrics.evaluator", "imgloop.models.diffusion"]


@dataclass
class Running:
    """A job's process, the slot that it holds, and what it has printed since its last whole line."""

    job: Job
    process: Any
    slot: str | None
    pipe: Connection
    rest: bytes = b""


class Processes:
    """A process a chain, forked from a server that has imported what chains need: one that dies takes no other along.

    slots: the device of each chain that runs at one time; a name of a GPU, or None for CPU cores.
    """

    def __init__(self, slots: Sequence[str | None]):
        self.slots = list(slots)
        self.running: list[Running] = []
        self.lines: list[tuple[Job, str]] = []
        self.threads = 1 if None in slots else max(1, cores() // len(slots))  # more by the setting `threads`
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        with environment(OMP_NUM_THREADS=str(self.threads)):
            forkserver.ensure_running()

    @property
    def free(self) -> int:
        return len(self.slots)

    def start(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            slot = self.slots.pop(0)
            reader, writer = self.context.Pipe(duplex=False)
            process = self.context.Process(target=run, args=(job, slot, writer))
            process.start()
            writer.close()
            os.set_blocking(reader.fileno(), False)
            self.running.append(Running(job, process, slot, reader))

    def ended(self) -> list[tuple[Job, str | None]]:
        found = []
        for r in [r for r in self.running if r.process.exitcode is not None]:
            self.read(r, last=True)
            self.running.remove(r)
            self.slots.append(r.slot)
            code = r.process.exitcode
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            memory = " (perhaps the memory was exhausted)" if code == -signal.SIGKILL else ""
            lost = None if r.job.record.exists() else f"its process {how}{memory}; the same command continues it"
            found.append((r.job, lost))
        return found

    def output(self) -> list[tuple[Job, str]]:
        for r in self.running:
            self.read(r)
        lines, self.lines = self.lines, []
        return lines

    def read(self, r: Running, last: bool = False) -> None:
        """Take the whole lines that a process has printed; last: also what follows them."""
        try:
            while data := os.read(r.pipe.fileno(), 1 << 16):
                r.rest += data
        except BlockingIOError:
            pass
        *lines, r.rest = r.rest.split(b"\n")
        if last and r.rest:
            lines.append(r.rest)
        self.lines += [(r.job, line.decode(errors="replace")) for line in lines if line.strip()]

    def stop(self, number: int) -> None:
        for r in self.running:
            os.kill(r.process.pid, signal.SIGTERM)
        limit = time.monotonic() + PATIENCE
        for r in self.running:
            r.process.join(max(0.0, limit - time.monotonic()))
            if r.process.exitcode is None:
                r.process.kill()


@contextmanager
def environment(**more: str):
    """Add variables to the environment meanwhile."""
    before = {k: os.environ.get(k) for k in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for k, v in before.items():
            if v is None:
                del os.environ[k]
            else:
                os.environ[k] = v


def run(job: Job, slot: str | None, pipe: Connection) -> None:
    """In the process: print into the pipe, take the device, run the chain."""
    for stream in (1, 2):
        os.dup2(pipe.fileno(), stream)
    sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    if slot is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = slot
    os.setpgid(0, 0)  # Ctrl-C reaches the sweep, which asks its chains to stop
    interrupt.end_with_parent()
    try:
        work(job)
    except Stopped as e:
        os._exit(128 + e.signal)
