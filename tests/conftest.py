"""What the tests share: small settings, and the command line as a user meets it."""

import os
import subprocess
import sys
from pathlib import Path

import preloaded
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command sets it; read when torch is imported
REPO = Path(__file__).parent.parent
# A chain that takes a second or two: every stage is there, at a size at which nothing is learnt.
TINY = [
    "train.images=640",
    "n_samples=48",
    "features=pixels",
    "model.widths=[8,16]",
    "model.sampler_steps=2",
    "threads=1",
    "display=lines",
]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tests share two cores with whatever else runs; bit-for-bit comparisons need one number of threads."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Decoded images go to a folder of the test session, not to the user's cache."""
    monkeypatch.setenv("IMGLOOP_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def undrawn(request):
    """Curves are a quarter of a tiny chain's time: drawn by the chains of module fixtures, by those of the command
    line, in test_figures.py and for tests that ask, and by no other."""
    with pytest.MonkeyPatch.context() as patch:
        if "drawn" not in request.fixturenames:
            patch.setattr("imgloop.figures.curves", lambda *a: b"")
            patch.setattr("imgloop.study.solved.curves", lambda *a: b"")
        yield


@pytest.fixture
def drawn():
    """Asks for figures to be drawn."""


def imgloop(*arguments, module="imgloop", **more) -> subprocess.CompletedProcess:
    """Run `python -m imgloop ...` in a process that finds the heavy imports done: what it printed and its status."""
    return preloaded.run("-m", module, *arguments, **more)


def interpreter(*arguments, module="imgloop", cwd=None, env=None, timeout=300) -> subprocess.CompletedProcess:
    """Run `python -m imgloop ...` in a fresh interpreter, which takes five seconds more."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=cwd or REPO,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )


@pytest.fixture
def command():
    return imgloop


@pytest.fixture
def fresh():
    return interpreter
