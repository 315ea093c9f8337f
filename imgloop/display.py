"""What a run shows: one live display on a terminal, plain lines elsewhere, every line in run.log; and a soft stop."""

from __future__ import annotations

import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from imgloop.errors import Stopped, UserError

STAGES = {"train": "training", "sample": "sampling", "measure": "measuring", "write": "writing"}
LINE_SECONDS = 30.0  # without a terminal, a long stage says where it is this often


def clock(seconds: float) -> str:
    """A duration to read: 45 s, 3 min 20 s, 2 h 05 min."""
    s = round(seconds)
    return (
        f"{s} s"
        if s < 60
        else f"{s // 60} min {s % 60:02d} s"
        if s < 3600
        else f"{s // 3600} h {s % 3600 // 60:02d} min"
    )


def figure(value: float) -> str:
    """At most three significant digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


class Display:
    """Lines for people: `say` prints and logs one; `stage`, `update` and `finished` follow a chain.

    mode: auto (live on a terminal, lines elsewhere), live, lines or none (run.log alone).
    """

    def __init__(self, mode: str, log: Path | None = None):
        self.mode = mode if mode != "auto" else "live" if sys.stdout.isatty() else "lines"
        self.log_path, self.bar, self.plan = log, None, None
        self.t, self.name, self.began, self.told, self.done_seconds = 0, "", 0.0, 0.0, 0.0

    def __enter__(self):
        if self.log_path:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            self.log = open(self.log_path, "a", buffering=1)
        else:
            self.log = None
        if self.mode == "live":
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            self.console = Console(highlight=False)
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TaskProgressColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
                transient=True,
            )
            self.task = self.bar.add_task("starting", total=None, note="")
            self.bar.start()
        return self

    def __exit__(self, kind, error, trace):
        if self.bar:
            self.bar.stop()
        if self.log:
            if error is not None:
                self.write(f"ended: {error or kind.__name__}")
            self.log.close()

    def write(self, text: str) -> None:
        if self.log:
            self.log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")

    def say(self, text: str) -> None:
        self.write(text)
        if self.bar:
            self.console.print(text, markup=False, soft_wrap=True)
        elif self.mode == "lines":
            print(text, flush=True)

    def reading(self, what: str):
        """A progress(done, total) for work before the chain starts, such as decoding images."""
        began = told = time.monotonic()

        def update(done: int, total: int) -> None:
            nonlocal told
            now = time.monotonic()
            if self.bar:
                self.bar.update(self.task, description=what, total=total, completed=done, note=f"{done:,} of {total:,}")
            elif now - told > LINE_SECONDS:
                told = now
                self.say(f"{what}: {done:,} of {total:,}, {clock((now - began) / done * (total - done))} left")

        return update

    def start(self, plan, real, evaluator) -> None:
        """The lines before training: what the data are, what will be done, what it will cost."""
        self.plan, self.done_seconds = plan, 0.0
        for line in plan.lines(real, evaluator):
            self.say(line)
        if self.bar:
            self.bar.update(self.task, total=plan.seconds(), completed=0)

    def stage(self, t: int, name: str) -> None:
        self.t, self.name, self.began = t, name, time.monotonic()
        self.told = self.began
        self.update(0, 1)

    def update(self, done: int, total: int, **figures) -> None:
        """Where the current stage is: `done` of `total` images, and figures such as loss."""
        now = time.monotonic()
        head = (
            f"generation {self.t} of {self.plan.generations - 1} · {STAGES.get(self.name, self.name)}"
            if self.plan
            else self.name
        )
        elapsed = now - self.began
        parts = []
        if done and total > 1:
            if elapsed > 0.5:
                parts.append(f"{done / elapsed:,.0f} images/s")
            parts += [f"{k} {figure(v)}" for k, v in figures.items()]
        if self.plan:
            stage = self.plan.stage_seconds(self.t, self.name)
            fraction = done / total
            left = self.plan.seconds() - self.done_seconds - stage * fraction
            if done and elapsed > 2:  # the stage's own speed beats the estimate
                left += elapsed / fraction * (1 - fraction) - stage * (1 - fraction)
            parts.append(f"{clock(max(left, 0))} left")
            if self.bar:
                self.bar.update(
                    self.task,
                    description=head,
                    completed=self.done_seconds + stage * fraction,
                    note=" · ".join(parts + ([self.scores] if getattr(self, "scores", "") else [])),
                )
            if fraction >= 1:
                self.done_seconds, self.began = self.done_seconds + stage, now
        if not self.bar and now - self.told > LINE_SECONDS and 0 < done < total:
            self.told = now
            self.say(f"{head}: {done:,} of {total:,} · {' · '.join(parts)}")

    def finished(self, t: int, chain, scores) -> None:
        """The line of a generation that now exists."""
        record = chain.record(t)
        seconds = record["seconds"]
        shown = [
            f"{name} {figure(scores.values[key])}"
            for key, name in (
                ("fd", "fd"),
                ("precision", "precision"),
                ("recall", "recall"),
                ("variance_ratio", "variance"),
                ("modes_covered", "modes"),
                ("rule_violations", "against the rules"),
                ("risk", "risk"),
            )
            if scores.values.get(key) is not None
        ]
        self.scores = " ".join(shown[:3])
        self.say(
            f"generation {t}: trained on {record['n_train']:,} ({record['real_share']:.0%} real) in "
            f"{clock(seconds['train'])}, "
            f"drew {record['n_pool']:,} in {clock(seconds['sample'])} · {' · '.join(shown)}"
        )


class Interrupt:
    """Ctrl-C or SIGTERM as a question: `stop()` is true once one has come. A fit that asks now and then is left to
    save and raise Stopped itself; where nobody asks, and at a second signal, Stopped is raised at once, which is safe:
    all writes are atomic."""

    PATIENCE = 20.0  # seconds since somebody last asked

    def __init__(self):
        self.signal, self.asked = None, time.monotonic()  # patient at first: imports do not bear being broken into

    def __call__(self) -> bool:
        self.asked = time.monotonic()
        return self.signal is not None

    def forget(self) -> None:
        """Nobody asks any more: the fit has ended."""
        self.asked = -self.PATIENCE
        if self.signal:
            raise Stopped(self.signal)

    def handle(self, number, frame) -> None:
        first, self.signal = self.signal is None, self.signal or number
        if not first or time.monotonic() - self.asked > self.PATIENCE:
            raise Stopped(self.signal)


@contextmanager
def interruptible():
    """An Interrupt that hears this process's signals; in a thread, which signals do not reach, one that never does."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {s: signal.signal(s, interrupt.handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    except Exception as e:  # Stopped, or what became of it inside a library that a signal broke into
        if interrupt.signal is None or isinstance(e, UserError):
            raise
        raise Stopped(interrupt.signal) from None
    finally:
        for s, old in before.items():
            signal.signal(s, old)
