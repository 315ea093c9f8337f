"""What a run shows: one live display on a terminal, plain lines elsewhere, and every line in run.log."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

from imgloop import store
from imgloop.errors import UserError, printable_lines

STAGES = {"select": "selecting", "train": "training", "sample": "sampling", "measure": "measuring", "write": "writing"}
LINE_SECONDS = 30.0  # without a terminal, a long stage prints a line this often


class Plan(Protocol):
    """What the display needs to know of the work ahead: its last generation, and the expected seconds of stages."""

    @property
    def last(self) -> int: ...

    def stage_seconds(self, t: int, stage: str) -> float: ...

    def seconds(self) -> float: ...


def duration(seconds: float) -> str:
    """A duration to read: 45 s, 3 min 20 s, 2 h 05 min."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    return f"{s // 60} min {s % 60:02d} s" if s < 3600 else f"{s // 3600} h {s % 3600 // 60:02d} min"


def number(value: float) -> str:
    """At most three significant digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


class Prefix:
    """Where output is no terminal, `text` begins each printed line meanwhile."""

    def __init__(self) -> None:
        self.text = ""

    def __enter__(self) -> Prefix:
        self.before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (stream if stream.isatty() else Prefixed(stream, self) for stream in self.before)
        return self

    def __exit__(self, kind, error, trace) -> None:
        sys.stdout, sys.stderr = self.before


class Prefixed(io.TextIOBase):
    """A text stream that writes to another, with a prefix before each line that is not empty."""

    def __init__(self, stream: TextIO, prefix: Prefix):
        self.stream, self.prefix, self.begins = stream, prefix, True

    def write(self, text: str) -> int:
        for line in text.splitlines(keepends=True):
            self.stream.write((self.prefix.text if self.begins and line.strip() else "") + line)
            self.begins = line.endswith("\n")
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def fileno(self) -> int:
        return self.stream.fileno()


class Display:
    """Lines for people: `say` prints and logs one; `stage`, `update` and `finished` follow a chain.

    mode: auto (live on a terminal, lines elsewhere), live, lines or none (run.log alone). A context manager: the log is
    open and the live display runs inside.
    """

    def __init__(self, mode: str, log: Path | None = None):
        self.mode = mode if mode != "auto" else "live" if sys.stdout.isatty() else "lines"
        self.log_path = log
        self.log: TextIO | None = None
        self.bar: Any = None
        self.plan: Plan | None = None
        self.t, self.stage_name, self.last_scores = 0, "", ""
        self.started, self.last_line, self.done_seconds = 0.0, 0.0, 0.0

    @property
    def silent(self) -> bool:
        """Whether nothing is shown, so that estimates are of no use."""
        return self.mode == "none"

    def __enter__(self) -> Display:
        if self.log_path:
            with store.writing(self.log_path):
                self.log_path.parent.mkdir(parents=True, exist_ok=True)
                self.log = open(self.log_path, "a", buffering=1)
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

    def __exit__(self, kind, error, trace) -> None:
        if self.bar:
            self.bar.stop()
        if self.log and self.log_path:
            with nullcontext() if error is None else suppress(OSError, UserError):  # the first error is the one to show
                if error is not None:
                    self.write(f"ended: {error or kind.__name__}")
                with store.writing(self.log_path):
                    self.log.close()
            self.log = None

    def write(self, text: str) -> None:
        if self.log and self.log_path:
            with store.writing(self.log_path):
                self.log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")

    def say(self, text: str) -> None:
        """Print and log a line."""
        text = printable_lines(text)
        self.write(text)
        if self.bar:
            self.console.print(text, markup=False, soft_wrap=True)
        elif self.mode == "lines":
            print(text, flush=True)

    def reading(self, what: str) -> Callable[[int, int], None]:
        """A progress(done, total) for work before the chain starts, such as decoding images."""
        started = last_line = time.monotonic()

        def update(done: int, total: int) -> None:
            nonlocal last_line
            now = time.monotonic()
            if self.bar:
                self.bar.update(self.task, description=what, total=total, completed=done, note=f"{done:,} of {total:,}")
            elif now - last_line > LINE_SECONDS:
                last_line = now
                self.say(f"{what}: {done:,} of {total:,}, {duration((now - started) / done * (total - done))} left")

        return update

    def start(self, plan: Plan, lines: Sequence[str]) -> None:
        """The lines before training: what the data are, what will be done, what it will cost."""
        self.plan, self.done_seconds = plan, 0.0
        for line in lines:
            self.say(line)
        if self.bar:
            self.bar.update(self.task, total=plan.seconds(), completed=0)

    def stage(self, t: int, name: str) -> None:
        """A stage of generation t begins."""
        self.t, self.stage_name, self.started = t, name, time.monotonic()
        self.last_line = self.started
        self.update(0, 1)

    def update(self, done: int, total: int, **figures: float) -> None:
        """Progress of the current stage: `done` of `total` images, and numbers such as loss."""
        now = time.monotonic()
        head = STAGES.get(self.stage_name, self.stage_name)
        if self.plan:
            head = f"generation {self.t} of {self.plan.last} · {head}"
        elapsed = now - self.started
        parts = []
        if done and total > 1:
            if elapsed > 0.5:
                parts.append(f"{done / elapsed:,.0f} images/s")
            parts += [f"{k} {number(v)}" for k, v in figures.items()]
        if self.plan:
            stage = self.plan.stage_seconds(self.t, self.stage_name)
            fraction = done / total
            left = self.plan.seconds() - self.done_seconds - stage * fraction
            if done and elapsed > 2:  # the stage's own speed beats the estimate
                left += elapsed / fraction * (1 - fraction) - stage * (1 - fraction)
            parts.append(f"{duration(max(left, 0))} left")
            if self.bar:
                self.bar.update(
                    self.task,
                    description=head,
                    completed=self.done_seconds + stage * fraction,
                    note=" · ".join(parts + ([self.last_scores] if self.last_scores else [])),
                )
            if fraction >= 1:
                self.done_seconds, self.started = self.done_seconds + stage, now
        if not self.bar and now - self.last_line > LINE_SECONDS and 0 < done < total:
            self.last_line = now
            self.say(f"{head}: {done:,} of {total:,} · {' · '.join(parts)}")

    def finished(self, t: int, record: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """The line of a generation that now exists, with `scores` by label."""
        shown = [f"{label} {number(value)}" for label, value in scores.items()]
        self.last_scores = " ".join(shown[:3])
        seconds, released = record["seconds"], ""
        if record["n_pool"] != record["n_drawn"]:
            released = f", released {record['n_pool']:,}"
        weights = record.get("weight_by_origin")
        weighted = f", {weights.get('-1', 0):.0%} by weight" if weights else ""
        self.say(
            f"generation {t}: trained on {record['n_train']:,} ({record['real_share']:.0%} real{weighted}) in "
            f"{duration(seconds['train'])}, drew {record['n_drawn']:,} in {duration(seconds['sample'])}{released}"
            f" · {' · '.join(shown)}"
        )
