"""What the tests share: small settings, and the command line as a user meets it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def imgloop(*arguments, module="imgloop", cwd=None, env=None, timeout=300) -> subprocess.CompletedProcess:
    """Run `python -m imgloop ...` and return what it printed and its status."""
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
