"""What a run will cost: the chains that a command stands for, counts, times on k machines, devices, warnings."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO, TINY

import imgloop
from imgloop.config.settings import parsed
from imgloop.errors import UserError
from imgloop.plan import carbon, chains, devices, estimate
from imgloop.plan.__main__ import main as plan
from imgloop.plan.trial import Rates, Run, counted, shares

SMALL = [*TINY, "data.n=150", "data.heldout=50"]
SOLVED = ["model=gaussian", "data=law", "data.n=20", "model.replicates=5"]


def planned(capsys, *arguments):
    assert plan(["--json", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


def rates(**more):
    usual = dict(
        batch=10, step_flop=1e6, sample_flop=1e3, nfe=3, model_bytes=100, fit=1.0, step=0.5, chunk=2.0,
        measure=((256, 1.0), (512, 2.0)), write=0.25, first=10.0, chain=5.0, report=4.0, busy=2.0, cpu=1.0, threads=1,
        sample_bytes=64.0, feature_bytes=8.0, generation_bytes=10, chain_bytes=20, shared_bytes=1000, report_bytes=7,
        host=0, device=0,
    )  # fmt: skip
    return Rates(**{**usual, **more})


# -- the chains of a command ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments,multirun,number",
    [
        (["seed=3"], False, 1),
        (["paradigm=replace,accumulate", "seed=range(0,4)"], True, 8),
        (["paradigm=choice(replace,fresh)"], True, 2),
        (["experiment=analytic/gaussian", "seed=0,1"], False, 6),  # a multirun by itself: three paradigms
        (["n_samples=[48,32]", "train.images={start:640,factor:0.5}", "hydra/launcher=basic"], True, 1),
    ],
)
def test_jobs_are_those_of_hydra(arguments, multirun, number):
    jobs, sweep = chains.jobs(arguments, (), multirun)
    assert len(jobs) == number and sweep == (multirun or number > 1)
    assert len({tuple(j) for j in jobs}) == number


def test_a_sweep_without_m_is_refused_as_by_a_run(capsys):
    assert plan(["seed=0,1"]) == 1
    assert "seed" in capsys.readouterr().err


def test_operations_of_a_step_leave_out_what_else_a_fit_does(tmp_path):
    plain, away = (counted(parsed([*SMALL, f"model.extrapolate={w}"]), tmp_path / str(w)) for w in (0, 1))
    assert plain[:4] == away[:4] and plain[1] > 1e6


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["paradigm=nonsense"], "nonsense"),
        (["--device", "abacus"], "choose one of t4, v100"),
        (["--parallel", "0"], "at least 1"),
        (["--watts", "-3"], "above 0"),
        (["real_fraction=2", "paradigm=replace"], "real_fraction"),
        (["paradigm=fresh", "generations=3", *SMALL], "new"),
        (["--config-dir", "/nowhere"], "not a folder"),
        (["train.images=3", *SMALL[1:]], "train.images"),
        (["--country", "ZZZ"], "three letters|pip install"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_timed(capsys, arguments, words, monkeypatch):
    monkeypatch.setattr("imgloop.plan.trial.trial", lambda *a: pytest.fail("a trial ran"))
    assert plan(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and any(w in error for w in words.split("|")), error


# -- counts and times -------------------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_counts_of_a_sweep_with_a_shared_generation_0_are_those_of_its_runs(tmp_path, capsys):
    sweep = [*SMALL, f"out={tmp_path}", "generations=3", "study=s"]
    p = planned(capsys, "-m", *sweep, "paradigm=replace,accumulate", "seed=0")
    assert not (tmp_path / "s").exists(), "a plan writes nothing to its study"
    assert (p["chains"], p["shared"], p["generations"]) == (2, 1, 6)
    assert p["samples"] == 2 * 3 * 48 and p["evaluations"] == p["samples"] * p["rates"][0]["nfe"]
    assert p["images"] == 320 * 5 and p["rates"][0]["batch"] == 128
    steps = -(-320 // 128) * 5
    assert p["train_flop"] == pytest.approx(steps * p["rates"][0]["step_flop"]) and p["sample_flop"] > 0
    assert 0 < p["parallel"] <= p["seconds"] and p["kwh"] > 0 and p["co2_grams"] == pytest.approx(475 * p["kwh"])
    assert p["rates"][0]["threads"] == 1 and p["host"] > 100 << 20

    for paradigm in ("replace", "accumulate"):
        imgloop.run([*sweep, f"paradigm={paradigm}", "seed=0"])
    disk = sum(f.stat().st_size for f in (tmp_path / "s").rglob("*") if f.is_file())
    assert p["disk_bytes"] - p["disk"]["checkpoints"] == pytest.approx(disk, rel=0.25)
    assert len(list((tmp_path / "s" / "shared").glob("generation0-*"))) == p["chains"] - p["shared"]

    left = planned(capsys, "-m", *sweep, "paradigm=replace,accumulate", "seed=0", "generations=4")
    assert (left["chains"], left["generations"], left["images"]) == (2, 2, 640), "what is left to do"
    done = planned(capsys, "-m", *sweep, "paradigm=replace,accumulate", "seed=0")
    assert (done["chains"], done["finished"]) == (0, 2)


def test_solvable_chains_are_counted_and_not_timed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("imgloop.plan.trial.trial", lambda *a: pytest.fail("a trial ran"))
    assert plan(["-m", *SOLVED, "paradigm=replace,accumulate", f"out={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "2 chains of solvable systems (gaussian)" in out and "cheap" in out and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "tasks,workers,seconds",
    [
        ([("a", 5, 1), ("a", 0, 1), ("a", 0, 1)], 1, 8),
        ([("a", 5, 1), ("a", 0, 1), ("a", 0, 1)], 3, 6),  # all wait for the one generation 0
        ([("a", 5, 1), ("b", 5, 1)], 2, 6),
        ([(None, 0, 4)] * 5, 2, 12),
        ([], 4, 0),
    ],
)
def test_time_on_k_machines(tasks, workers, seconds):
    assert estimate.makespan(tasks, workers) == seconds


@pytest.mark.parametrize("load", [1, 8])  # of which a process gets one part
def test_processor_time_does_not_depend_on_what_else_uses_the_cores(load):
    def run(stages, beside):
        seconds = {"train": stages * load}
        return Run(Path(), {"seconds": seconds}, beside * load, 2 * stages + beside)

    busy, cpu = shares(run(1.0, 10.0), run(4.0, 3.0), threads=2)
    assert busy * load == pytest.approx(2) and cpu * load == pytest.approx(1)


def test_measuring_grows_along_the_two_trials():
    assert [rates().measuring(n) for n in (256, 512, 1024)] == [1, 2, 4]
    assert rates(measure=((256, 1.0), (256, 3.0))).measuring(512) == 4
    assert rates(measure=((256, 1.0), (512, 0.5))).measuring(1024) == 1


# -- devices, energy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gflop,batch,rate", [(83.32, 128, 7230), (277.06, 128, 4040), (0.5876, 64, 5300)])
def test_the_measured_device_has_its_measured_rates(gflop, batch, rate):
    """The three rates of docs/performance.md, and FLOP of PyTorch's counter for the networks they were measured on."""
    assert batch / devices.seconds("h200", 1e9 * gflop, 1) == pytest.approx(rate, rel=0.05)
    text = (REPO / "docs" / "performance.md").read_text()
    assert f"{rate:,}" in text


def test_a_smaller_device_takes_longer_for_operations_and_as_long_to_launch():
    assert devices.seconds("t4", 0, 10) == devices.seconds("h100", 0, 10)
    assert devices.seconds("t4", 1e15, 0) == pytest.approx(devices.seconds("h100", 1e15, 0) * 989 / 65)


def test_countries_come_from_codecarbon():
    france, world = carbon.intensity("FRA"), carbon.intensity(None)
    assert france.grams < 150 < world.grams and "France" in france.source
    with pytest.raises(UserError, match="three letters"):
        carbon.intensity("France")


def test_a_disk_that_is_too_small_is_warned_of(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("imgloop.plan.trial.trial", lambda *a: rates(model_bytes=10 << 20))
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1 << 20))
    assert plan([*SMALL, f"out={tmp_path}", "generations=2", "--device", "a100", "--parallel", "2"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Warning:" in out and "has 1 MiB free" in out and "set keep_models" in out
    assert "2 x NVIDIA A100 SXM" in out and "not measured" in out and "400 W for a GPU" in out


@pytest.mark.nightly  # three commands planned and run: about five minutes
@pytest.mark.parametrize("name", ["default job", "GAN", "sweep"])
def test_predicted_images_and_disk_are_within_a_quarter(name):
    """Time is for a machine with nothing else to do: the script alone judges it."""
    script = Path(REPO) / "scripts" / "plans.py"
    ran = subprocess.run([sys.executable, script, "--only", name], capture_output=True, text=True, timeout=590)
    ratios = {w: float(r) for w, r in re.findall(r"\| (images seen|disk, MiB) \| .* \| ([\d.]+) \|", ran.stdout)}
    assert len(ratios) == 2 and all(0.75 < r < 1.25 for r in ratios.values()), ran.stdout + ran.stderr
