"""Each row of scripts/bench.py, and the ladder, at tiny settings: they run, and print their figures."""

import argparse
import os
import runpy
import subprocess
import sys

import pytest
from bench import every
from conftest import REPO

NIGHTLY = pytest.mark.nightly
ROWS = [
    pytest.param("bench", "step --steps 2 --rounds 1", "bare: ", marks=NIGHTLY),
    pytest.param("bench", "step --steps 2 --rounds 1 --network unet2d --own-data", "torchcfm: ", marks=NIGHTLY),
    pytest.param("bench", "sample --n 8 --rounds 1", "times", marks=NIGHTLY),
    pytest.param("bench", "loop --images 256 --n 100 --generations 2 --threads 1", "as fast", marks=NIGHTLY),
    pytest.param("bench", "chains --chains 2 --images 256", "stacked", marks=NIGHTLY),
    pytest.param("bench", "memory --generations 10", "10:", marks=NIGHTLY),
    pytest.param("bench", "start --rounds 1", "first line", marks=NIGHTLY),
    pytest.param(
        "ladder", "--seconds 0.05 --seeds 2 --rungs 0.1.0 patches --set data.n=200", "| patches |", marks=NIGHTLY
    ),
    pytest.param(
        "ladder", "--model gan --seconds 0.1 --seeds 2 --rungs 0.1.0 --set data.n=200", "| 0.1.0 |", marks=NIGHTLY
    ),
]


@pytest.mark.parametrize("script, arguments, words", ROWS)
def test_a_row_runs_and_prints_its_figures(script, arguments, words, tmp_path):
    more = [f"--out={tmp_path}"] if script == "ladder" else []
    ran = subprocess.run(
        [sys.executable, REPO / "scripts" / f"{script}.py", *arguments.split(), *more],
        cwd=REPO, capture_output=True, text=True, timeout=500, env={**os.environ, "PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert ran.returncode == 0 and words in ran.stdout, ran.stdout + ran.stderr[-3000:]


def test_every_row_is_run_and_a_failure_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(every, "CPU", ("start --help", "memory --generations none", "step --help"))
    with pytest.raises(SystemExit, match="1 of 3 rows failed: memory --generations none"):
        every.every(argparse.Namespace(gpu=False, out=tmp_path / "bench.txt"))
    written = (tmp_path / "bench.txt").read_text()
    assert written == capsys.readouterr().out and "torch" in written.splitlines()[0]
    parts = written.split("$ python scripts/bench.py ")
    assert "--rounds" in parts[1] and "failed with status 2" in parts[2] and "--threads" in parts[3]


@pytest.mark.parametrize(
    "script, arguments, words",
    [
        ("bench", "memory --generations 5", "argument --generations: 5: give 10 or more"),
        ("bench", "chains --chains 0", "argument --chains: 0: give 1 or more"),
        ("ladder", "--seeds 0", "argument --seeds: 0: give 1 or more"),
        ("ladder", "--images -5", "argument --images: -5: give 1 or more"),
        ("ladder", "--seconds ten", "invalid number value: 'ten'"),
    ],
)
def test_numbers_are_checked(script, arguments, words, capsys):
    found = runpy.run_path(str(REPO / "scripts" / f"{script}.py"))
    with pytest.raises(SystemExit):
        (found["parser"] if script == "bench" else found["command"])().parse_args(arguments.split())
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("row", (*every.CPU, *every.GPU))
def test_rows_of_every_are_commands(row):
    command = runpy.run_path(str(REPO / "scripts" / "bench.py"))["parser"]()
    assert command.parse_args(row.format(cores=1).split()).row == row.split()[0]
