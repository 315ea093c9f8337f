"""`python -m MODULE ARGUMENTS` as a process of its own that finds the heavy imports done: forked from a server that has
imported them once. The process has its own number, signals, folder, environment, output and status, as a user's has;
what a fresh interpreter alone can show (what is imported, and when) is left to the tests that start one."""

import contextlib
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
    "torch._dynamo",  # which the first optimiser imports
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


@contextlib.contextmanager
def environment(**more):
    """The environment, while the server starts: what it was, and `more`."""
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def serve() -> None:
    """Start the server, once a process; it ends with us."""
    CONTEXT.set_forkserver_preload(PRELOADED)
    path = os.pathsep.join(filter(None, (str(REPO), os.environ.get("PYTHONPATH"))))
    with environment(PYTHONPATH=path, OMP_NUM_THREADS="1"):
        forkserver.ensure_running()


def become(code: tuple[str, ...], cwd: str, env: dict[str, str], outputs: tuple[str, str]) -> None:
    """In the forked process: be `python CODE`, where CODE is -m MODULE ARGUMENTS or -c PROGRAM."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))
    kind, what, *arguments = code
    sys.argv = [what if kind == "-m" else kind, *arguments]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


class Command:
    """A running `python CODE`, with what of subprocess.Popen the tests use; output goes to files."""

    def __init__(self, *code, cwd=None, env=None):
        serve()
        self.args, self.folder = tuple(map(str, code)), tempfile.TemporaryDirectory()
        self.paths = tuple(f"{self.folder.name}/{name}" for name in ("stdout", "stderr"))
        for path in self.paths:
            Path(path).touch()
        told = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        self.process = CONTEXT.Process(target=become, args=(self.args, str(cwd or REPO), told, self.paths))
        self.process.start()

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.process.is_alive():
            os.kill(self.process.pid, number)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Standard output and error, once it has ended."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise subprocess.TimeoutExpired(self.args, timeout)
        out, err = (Path(path).read_text() for path in self.paths)
        self.folder.cleanup()
        return out, err


def run(*code, cwd=None, env=None, timeout=300) -> subprocess.CompletedProcess:
    """Run `python CODE` to its end: what it printed and its status."""
    started = Command(*code, cwd=cwd, env=env)
    out, err = started.communicate(timeout)
    return subprocess.CompletedProcess(started.args, started.returncode, out, err)
