"""Run `python -m MODULE ARGUMENTS` fast: in a process forked from a server that has done the heavy imports once.

The process has its own id, signals, working folder, environment, output and exit status, like a user's. Only tests of
what is imported, and when, need a fresh interpreter.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

REPO = Path(__file__).parent.parent
CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = [
    "torch._dynamo",  # imported by the first optimiser
    "hydra.main",
    "imgloop.loop",
    "imgloop.figures",
    "imgloop.measure",
    "imgloop.data.digits",
    "imgloop.metrics.evaluator",
    "imgloop.models.diffusion",
    "imgloop.report.page",
    "matplotlib.backends.backend_agg",
    "sklearn.datasets",
]

PLOTS = ["imgloop.figures.curves", "imgloop.study.solved.curves", "imgloop.report.pdf.figures"]
draw = True  # whether processes that are started from here plot


def no_plot(*arguments, **more) -> bytes:
    """In place of a plot: an empty file, or of several: none."""
    return b""


@contextlib.contextmanager
def environment(**more):
    """Add `more` to the environment while the server starts."""
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def serve() -> None:
    """Start the server once per test process, with which it ends."""
    CONTEXT.set_forkserver_preload(PRELOADED)
    path = os.pathsep.join(filter(None, (str(REPO), os.environ.get("PYTHONPATH"))))
    with environment(PYTHONPATH=path, OMP_NUM_THREADS="1"):
        forkserver.ensure_running()


def become(code: tuple[str, ...], cwd: str, env: dict[str, str], outputs: tuple[str, str], plot: bool) -> None:
    """Run `python CODE` in this forked process; CODE is -m MODULE ARGUMENTS or -c PROGRAM."""
    for name in () if plot else PLOTS:
        module, _, function = name.rpartition(".")
        setattr(importlib.import_module(module), function, no_plot)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))
    kind, target, *arguments = code
    sys.argv = [target if kind == "-m" else kind, *arguments]
    if kind == "-m":
        runpy.run_module(target, run_name="__main__", alter_sys=True)
    else:
        exec(compile(target, "<string>", "exec"), {"__name__": "__main__"})


class Command:
    """A running `python CODE`, with the part of subprocess.Popen's interface that the tests use; output goes to files, or
    to `terminal`, the path of a pseudo-terminal."""

    def __init__(self, *code, cwd=None, env=None, terminal=None):
        serve()
        self.args, self.folder = tuple(map(str, code)), tempfile.TemporaryDirectory()
        self.paths = tuple(f"{self.folder.name}/{name}" for name in ("stdout", "stderr"))
        for path in self.paths:
            Path(path).touch()
        outputs = (terminal, terminal) if terminal else self.paths
        environ = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        self.process = CONTEXT.Process(target=become, args=(self.args, str(cwd or REPO), environ, outputs, draw))
        self.process.start()

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for the end; standard output and error."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise subprocess.TimeoutExpired(self.args, timeout)
        out, err = (Path(path).read_text() for path in self.paths)
        self.folder.cleanup()
        return out, err


def run(*code, cwd=None, env=None, timeout=300) -> subprocess.CompletedProcess:
    """Run `python CODE` to its end; its output and exit status."""
    started = Command(*code, cwd=cwd, env=env)
    out, err = started.communicate(timeout)
    return subprocess.CompletedProcess(started.args, started.returncode or 0, out, err)
