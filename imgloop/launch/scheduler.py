"""Running the jobs of a sweep on an engine: which starts when, and one display for all of them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

from imgloop import store
from imgloop.display import duration
from imgloop.errors import Stopped, printable
from imgloop.launch.jobs import Job, labels
from imgloop.launch.outcome import Outcome
from imgloop.study.progress import RUNNING, write_running

POLL = 0.2  # seconds between looks at running jobs
COUNT = 5.0  # seconds between counts of finished generations


class Engine(Protocol):
    """Runs jobs. `stop` ends those that run, each with a checkpoint where it can."""

    @property
    def free(self) -> int:
        """How many jobs can start now."""
        ...

    def start(self, jobs: Sequence[Job]) -> None: ...

    def ended(self) -> list[tuple[Job, str | None]]:
        """Jobs that have ended since the last call; for each that left no outcome: why."""
        ...

    def output(self) -> list[tuple[Job, str]]:
        """Lines that running jobs have printed since the last call."""
        ...

    def stop(self, number: int) -> None: ...


class Sweep:
    """The jobs of one sweep while it runs. A job whose generation 0 a running one trains for it waits without a slot.

    Raises Stopped at Ctrl-C and SIGTERM, after the running jobs have saved their state.
    """

    def __init__(self, jobs: Sequence[Job], engine: Engine):
        self.engine, self.jobs = engine, tuple(jobs)
        self.waiting, self.running = list(jobs), set[int]()
        self.lock = self.jobs[0].record.with_name(".sweep.lock")  # nodes try it: see imgloop/launch/site.py
        self.outcomes: dict[int, Outcome] = {}
        self.made: set[str] = set()  # groups that have their generation 0
        self.began, self.counted = time.monotonic(), 0.0
        self.left = self.before = sum(map(remaining, self.jobs))
        names = labels([j.settings.folder for j in self.jobs])
        self.labels = {j.number: names[j.settings.folder] for j in self.jobs}
        self.console, self.bar = terminal()

    def run(self) -> list[Outcome]:
        """Run all jobs to their end; outcomes in the order of the jobs."""
        try:
            with signals(), store.lock(self.lock), self.bar or nullcontext():
                self.say(self.line())
                while self.waiting or self.running:
                    self.step()
                    time.sleep(POLL)
        except Stopped as e:
            self.engine.stop(e.signal)
            self.print_output()
            raise
        except BaseException:
            self.engine.stop(signal.SIGTERM)
            raise
        finally:
            store.remove(self.lock.with_name(RUNNING))
        return [self.outcomes[j.number] for j in self.jobs]

    def step(self) -> None:
        """Start what can start; take note of what has ended."""
        ready = self.ready()[: max(self.engine.free, 0)]
        if ready:
            self.engine.start(ready)
            self.running |= {j.number for j in ready}
            self.waiting = [j for j in self.waiting if j.number not in self.running]
            self.count()
        ended = self.engine.ended()
        self.print_output()
        for job, lost in ended:
            self.running.discard(job.number)
            if lost is not None:
                job.write(Outcome(lost))
            content = store.read_json(job.record)
            outcome = Outcome(content["failed"], tuple(content["notes"]))
            self.outcomes[job.number] = outcome
            for note in outcome.notes:
                self.say(f"{self.labels[job.number]}: {note}")
            if lost is not None:  # other jobs have printed it
                self.say(f"{self.labels[job.number]}: failed: {lost}")
        if ended:
            self.count()
            self.say(self.line())
        elif time.monotonic() - self.counted > COUNT:
            self.count()
        if self.bar:
            self.bar.update(self.line())

    def ready(self) -> list[Job]:
        """Waiting jobs that can start: of those that share a generation 0 one, which trains it, and the others when it
        exists. The first come first, since others wait for them."""
        busy = {j.first_group for j in self.jobs if j.number in self.running}
        chosen, later = [], []
        for job in self.waiting:
            group = job.first_group
            if group is None or self.has_first(group):
                later.append(job)
            elif group not in busy:
                busy.add(group)
                chosen.append(job)
        return chosen + later

    def has_first(self, group: str) -> bool:
        if group not in self.made and any(j.has_first for j in self.jobs if j.first_group == group):
            self.made.add(group)
        return group in self.made

    # -- what is shown -----------------------------------------------------------------------------------------------

    def count(self) -> None:
        """Count the generations that are left."""
        self.counted = time.monotonic()
        os.utime(self.lock)
        write_running(self.lock.parent, (j.settings.folder for j in self.jobs if j.number in self.running))
        self.left = sum(remaining(j) for j in self.jobs if j.number not in self.outcomes)

    def line(self) -> str:
        """The state of the sweep in a line."""
        failed = sum(o.failed is not None for o in self.outcomes.values())
        parts = [
            f"{len(self.outcomes) - failed} of {len(self.jobs)} chains done",
            f"{len(self.running)} running",
            f"{len(self.waiting)} waiting",
            f"{failed} failed",
        ]
        done = self.before - self.left
        if done > 0 and self.left:
            parts.append(f"about {duration((time.monotonic() - self.began) / done * self.left)} left")
        return f"sweep: {', '.join(parts)}"

    def say(self, text: str) -> None:
        if self.bar:
            self.console.print(printable(text), markup=False, soft_wrap=True)
        else:
            print(printable(text), flush=True)

    def print_output(self) -> None:
        for job, text in self.engine.output():
            self.say(f"{self.labels[job.number]}: {text}")


def remaining(job: Job) -> int:
    """Generations that a job has still to make; a solvable system is one."""
    s = job.settings
    if s.solvable:
        return 0 if (s.folder / "record.json").exists() else 1
    return max(0, s.config["generations"] - sum(1 for _ in s.folder.glob("gen[0-9]*")))


def terminal() -> tuple[Any, Any]:
    """rich's console and a line below what it prints, on a terminal; else None."""
    if not sys.stdout.isatty():
        return None, None
    from rich.console import Console
    from rich.status import Status

    console = Console(highlight=False)
    return console, Status("", console=console)


@contextmanager
def signals() -> Iterator[None]:
    """Raise Stopped in the main thread at SIGINT and SIGTERM."""

    def stop(number: int, frame) -> None:
        raise Stopped(number)

    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for s, old in before.items():
            signal.signal(s, old)
