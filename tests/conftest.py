"""Fixtures of all tests: the settings of a tiny chain, and the command line as a user runs it."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import preloaded
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported; tests run side by side
REPO = Path(__file__).parent.parent
# A chain with every stage, too small to learn anything. With display=none there is no timing trial (Plan.timed); a test
# that reads printed lines adds display=lines.
TINY = [
    "train.images=320",
    "n_samples=48",
    "features=pixels",
    "model.widths=[8,16]",
    "model.sampler_steps=2",
    "threads=1",
    "display=none",
]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """One thread: bit-for-bit comparisons need the same number everywhere, and tests run side by side."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)  # of NumPy's and SciPy's own libraries


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Store decoded images in a folder of the test session instead of the user's cache."""
    monkeypatch.setenv("IMGLOOP_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def undrawn(request):
    """Skip plots of curves and the report's PDFs, half of a tiny study's time, unless the test requests the fixture
    `drawn`. Chains of module fixtures and of fresh interpreters still plot them."""
    with pytest.MonkeyPatch.context() as patch:
        if "drawn" not in request.fixturenames:
            for name in preloaded.PLOTS:
                patch.setattr(name, preloaded.no_plot)
            patch.setattr("preloaded.draw", False)
        yield


@pytest.fixture
def drawn():
    """Request that curves are plotted."""


def thinned(rows, every: int) -> list:
    """Parameters of a test of which each `every`-th runs by default, the others nightly; a tuple is several arguments."""
    return [
        row if i % every == 0 else pytest.param(*(row if type(row) is tuple else (row,)), marks=pytest.mark.nightly)
        for i, row in enumerate(rows)
    ]


def html_rows(text: str) -> list[list[str]]:
    """The cells of a table of HTML, row by row, as a browser shows them."""
    rows = re.findall(r"<tr.*?</tr>", text, re.S)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)] for row in rows]


def imgloop(*arguments, module="imgloop", **more) -> subprocess.CompletedProcess:
    """Run `python -m imgloop ...` in a forked process that has the heavy imports already; output and exit status."""
    return preloaded.run("-m", module, *arguments, **more)


def interpreter(*arguments, module="imgloop", cwd=None, env=None, timeout=300) -> subprocess.CompletedProcess:
    """Run `python -m imgloop ...` in a fresh interpreter, which takes five seconds longer."""
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
