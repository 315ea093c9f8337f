"""The command line: help, mistakes in one sentence, multirun, the display; and a run from Python."""

from __future__ import annotations

import os
import re
import time

import pandas as pd
import preloaded
import pytest
from conftest import REPO, TINY, thinned
from PIL import Image

import imgloop
from imgloop import loop
from imgloop.chain.base import Surroundings
from imgloop.chain.plan import Plan
from imgloop.chain.trained import Chain
from imgloop.config.settings import parsed
from imgloop.errors import UserError

ANYWHERE = {"PYTHONPATH": f"{REPO}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}  # imports work in any folder


def test_help_shows_every_group_and_option(fresh):
    shown = fresh("--help")
    assert shown.returncode == 0
    for group in {p.parent for p in (REPO / "conf").rglob("*/*.yaml")} - {REPO / "conf" / "hydra" / "launcher"}:
        options = ", ".join(sorted(p.stem for p in group.glob("*.yaml")))
        assert f"{group.relative_to(REPO / 'conf')}: {options}" in shown.stdout
    for key in ("n_samples", "real_fraction", "generations", "images"):
        assert f"{key}:" in shown.stdout
    assert "torch" not in shown.stderr


def test_help_imports_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys; sys.argv = ['imgloop', '--help']\nfrom imgloop.__main__ import main\ntry: main()\nexcept "
        "SystemExit: pass\n"
        "heavy = {'torch', 'lightning', 'diffusers', 'pandas', 'matplotlib', 'sklearn', 'scipy'} & "
        "set(sys.modules)\nsys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stderr[-500:]


MISTAKES = [  # arguments, the setting that the error is about, a word of its message
    ("paradgm=replace", "paradgm", "paradigm"),
    ("paradigm=replce", "paradigm", "accumulate_subsample"),
    ("generations=0", "generations", "at least 1"),
    ("real_fraction=1.5 paradigm=replace", "real_fraction", "0 to 1"),
    ("model.widht=3", "model.widht", "widths"),
    ("+model.foo=1", "model.foo", "widths"),
    ("real_fraction=0.1", "real_fraction", "replace"),
    ("n_samples=-5", "n_samples", "at least 1"),
    ("n_samples=1000000000000", "out", "MiB free"),
    ("n_initial=99999", "n_initial", "1397"),
    ("data.n=99999", "data.n", "1397"),
    ("data.heldout=4", "data.heldout", "held-out"),
    ("paradigm=fresh", "n_real", "n_initial"),
    ("paradigm=accumulate_subsample budget=99999", "budget", "lower"),
    ("train.images=[100]", "train.images", "generation 1"),
    ("train.images={start:10,fctr:2}", "train.images", "factor"),
    ("model.lr=-1", "model.lr", "above 0"),
    ("model.batch=0", "model.batch", "at least 1"),
    ("model.batch=200 data.n=60", "model.batch", "60 real training images"),
    ("model.widths=[16]", "model.widths", "at least two"),
    ("model=gan model.widths=[8,8] model.sampler_steps=4", "model.sampler_steps", "model=diffusion"),
    ("model.network=big", "model.network", "compact"),
    ("model.widths=[30]", "model.widths", "multiples of 8"),
    ("model.widths=[8,8,8,8]", "model.widths", "halves"),
    ("model.sampler=foo", "model.sampler", "heun"),
    ("start=weight", "start", "weights_and_optimizer"),
    ("data=folder", "data.root", "value"),
    ("data=folder data.root=/does/not/exist", "data.root", "/does/not/exist"),
    ("trainer.precision=bf16-mixed", "trainer.precision", "32-true"),
    ("trainer.accelerator=tpu", "trainer.accelerator", "gpu"),
    ("features=foo", "features", "classifier"),
    ("features=pixels features.images=3", "features.images", "none"),
    ("data.seed=0 start=outputs/a,b=1", None, "quotes"),
]


@pytest.mark.parametrize("arguments, setting, word", MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_sentence_that_names_what_is_allowed(tmp_path, arguments, setting, word):
    """By imgloop.run; test_mistakes_on_the_command_line checks how the command prints it."""
    tiny = [t for t in TINY if t.split("=")[0] not in arguments]
    generations = [] if "generations" in arguments else ["generations=2"]
    with pytest.raises(UserError) as error:
        imgloop.run([*tiny, f"out={tmp_path}", *generations, *arguments.split()])
    message = str(error.value)
    assert error.value.setting == setting and word in message
    assert "\n" not in message and len(message) < 500, message
    assert not list(tmp_path.rglob("config.yaml"))  # nothing that would stop the corrected command


@pytest.mark.parametrize("arguments, setting, word", MISTAKES[:4])
def test_mistakes_on_the_command_line(tmp_path, command, arguments, setting, word):
    done = command(f"out={tmp_path}", *arguments.split())
    assert done.returncode == 1 and word in done.stderr and setting in done.stderr
    assert done.stderr.startswith("imgloop: ") and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    thinned(
        [["paradgm=replace"], ["--help"], ["model=gaussian", "data=law", "model.replicates=20", "generations=2"]], 3
    ),
)
def test_a_forked_command_prints_what_a_fresh_one_does(tmp_path, command, fresh, arguments):
    """Most tests start a forked process instead of an interpreter: equal status, output and errors, byte for byte."""
    both = []
    for name, run in (("command", command), ("fresh", fresh)):
        (tmp_path / name).mkdir()
        both.append(run(*arguments, cwd=tmp_path / name, env=ANYWHERE))
    results = [(done.returncode, done.stdout, done.stderr) for done in both]
    assert results[0] == results[1] and results[0][1:] != ("", "")


def test_multirun_leaves_one_study_with_a_comparison(tmp_path, command, drawn):
    done = command(
        "-m", "paradigm=replace,real_only", "seed=range(0,2)", "generations=2", f"out={tmp_path}", "study=s", *TINY
    )
    assert done.returncode == 0, done.stderr
    study = tmp_path / "s"
    names = sorted(p.name for p in study.iterdir() if (p / "seed0").exists())
    assert [n.split(",")[0] for n in names] == ["real_only", "replace"] and all("model.widths=8" in n for n in names)
    frame = pd.read_csv(study / "comparison.csv")
    assert list(frame["seeds"]) == [2] * 4 and len(frame["fd_sd"].dropna()) == 4
    raw = imgloop.load_study(study)
    assert len(raw) == 8
    mean = raw[(raw["condition"] == names[1]) & (raw["generation"] == 1)]["fd"].mean()
    row = frame[(frame["condition"] == names[1]) & (frame["generation"] == 1)]
    assert abs(row["fd"].item() / mean - 1) < 1e-5
    assert Image.open(study / "comparison.png").width > 800
    assert len(list((study / "shared").glob("generation0-*"))) == 2
    assert re.search(r"replace\S*\s+1\s+2\s+\S+ ± \S+", done.stdout), done.stdout


@pytest.mark.nightly
def test_sweep_over_real_fraction_has_readable_folders(tmp_path, fresh):
    done = fresh(
        "-m",
        "paradigm=replace",
        "real_fraction=0,0.1,0.5",
        "generations=2",
        f"out={tmp_path}",
        *TINY,
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
    )
    assert done.returncode == 0, done.stderr
    raw = imgloop.load_study(tmp_path / "digits-diffusion")
    shares = {
        c.split(",")[1] if "real" in c else "none": s
        for c, s in raw[raw["generation"] == 1].set_index("condition")["real_share"].items()
    }
    assert shares == {"none": 0.0, "real_fraction=0.1": 5 / 48, "real_fraction=0.5": 24 / 48}
    assert len(list((tmp_path / "digits-diffusion" / "shared").glob("generation0-*"))) == 1


def test_a_failed_chain_lets_the_others_finish_and_sets_the_status(tmp_path, command):
    done = command("-m", "paradigm=fresh,real_only", "generations=2", f"out={tmp_path}", *TINY, "display=lines")
    assert done.returncode == 1 and "1 of 2 runs failed" in done.stderr and "n_initial" in done.stderr
    assert "\nfresh/seed0: failed: " in f"\n{done.stderr}" and "\n  fresh/seed0: paradigm=fresh" in done.stderr
    chain = done.stdout.splitlines()
    chain = chain[chain.index("sweep: 0 of 2 chains done, 1 failed") + 1 :]
    chain = [line for line in chain[: chain.index("sweep: 1 of 2 chains done, 1 failed")] if "[HYDRA]" not in line]
    assert len(chain) > 5 and all(line.startswith("real_only/seed0: ") for line in chain)
    assert "all chains with model.widths=8,16, " in done.stdout
    assert len(imgloop.load_study(tmp_path / "digits-diffusion")) == 2


def test_the_lines_that_a_run_prints(tmp_path, command):
    done = command(f"out={tmp_path}", "generations=2", *TINY, "display=lines")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "preparing" in lines[0] and re.search(r"1,397 training images, 400 held out", lines[1])
    plan = r"2 generations, 640 training images seen, 96 samples drawn, [\d.]+ MiB on disk, about \d+ s on cpu"
    assert re.search(plan, done.stdout)
    for t, line in enumerate(x for x in lines if "trained on" in x):
        assert re.match(rf"generation {t}: trained on .* fd ", line) and t < 2
    assert lines[-1].startswith("look at ") and "evolution.png" in lines[-1]
    log = next(tmp_path.rglob("run.log")).read_text()
    assert all(line in log for line in lines)


def test_the_timing_trial_estimates_rates_and_leaves_nothing(tmp_path):
    settings = parsed([*TINY, f"out={tmp_path}", "generations=3"])
    chain = loop.chain_of(settings, Surroundings.of(settings))
    assert isinstance(chain, Chain)
    with chain.opened():
        parts = chain.prepared(3, tmp_path / "cache")
        files = {p for p in tmp_path.rglob("*") if p.is_file()}
        plan = parts.plan.timed(chain, parts.model, parts.evaluator, chain.trainer)
        assert {p for p in tmp_path.rglob("*") if p.is_file()} == files
    assert (plan.first, plan.images, plan.samples, plan.device) == (0, (320,) * 3, (48,) * 3, "cpu")
    assert min(plan.train_rate, plan.sample_rate) > 10 and plan.measure_rate > 0.05
    stages = 320 / plan.train_rate + 48 / plan.sample_rate + 1 / plan.measure_rate
    assert 0 < 3 * stages < plan.seconds() < 3 * stages + 3
    assert plan.model_bytes > 10_000 and plan.disk == parts.plan.disk + (3 + 1 + 4) * plan.model_bytes
    cost = f"({plan.train_rate:,.0f} images/s trained, {plan.sample_rate:,.0f} drawn)"
    assert cost in plan.lines(parts.real, parts.evaluator)[-1]
    assert "images/s" not in parts.plan.lines(parts.real, parts.evaluator)[-1]  # without a trial


@pytest.mark.parametrize("display, trials", [("none", 0), ("lines", 1)])
def test_a_silent_run_has_no_timing_trial(tmp_path, monkeypatch, display, trials):
    calls = []
    monkeypatch.setattr(Plan, "timed", lambda plan, *_: calls.append(plan) or plan)
    imgloop.run([*TINY, f"out={tmp_path}", "generations=1", f"display={display}"])
    assert len(calls) == trials


def test_a_run_leaves_nothing_but_its_study(tmp_path, command):
    """A run, a multirun and a mistake write nothing else into the working folder."""
    small = [*TINY, "data.n=150", "data.heldout=50", "generations=1"]
    for extra in ([], ["-m", "seed=0,1"], ["seed=-1"]):
        command(*extra, *small, cwd=tmp_path, env=ANYWHERE)
    assert [p.name for p in tmp_path.iterdir()] == ["outputs"]
    assert sorted(p.name for p in (tmp_path / "outputs").iterdir()) == [".multirun", "digits-diffusion"]


def test_live_display_shows_generation_stage_and_time_left(tmp_path):
    """In a pseudo-terminal, as rich sees one."""
    import pty

    master, slave = pty.openpty()
    tiny = [t for t in TINY if not t.startswith(("display", "train.images"))]
    small = ["generations=2", "train.images=12800", "data.n=300", "data.heldout=60", *tiny]
    process = preloaded.Command(
        "-m", "imgloop", f"out={tmp_path}", *small, env={"TERM": "xterm", "COLUMNS": "160"}, terminal=os.ttyname(slave)
    )
    while not list(tmp_path.rglob("config.yaml")) and process.poll() is None:  # it has opened the terminal
        time.sleep(0.05)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    process.process.join(60)
    assert process.returncode == 0, shown[-2000:]
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode(errors="replace")
    assert re.search(r"generation 1 of 1 · training.*images/s.*loss.* left.*fd ", text), text[-3000:]
    assert "generation 1: trained on" in text and "Traceback" not in text


def test_run_from_python_returns_folder_and_table(tmp_path):
    result = imgloop.run([*TINY, f"out={tmp_path}", "paradigm=accumulate", "generations=2"])
    assert result.folder.is_dir() and list(result.metrics["generation"]) == [0, 1]
    assert set(imgloop.__all__) == set(dir(imgloop)) and imgloop.Schedule.of("n", 3)(5) == 3
    with pytest.raises(AttributeError, match="public"):
        imgloop.nothing  # noqa: B018


def test_trainer_gpu_without_one(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("the machine has a GPU")
    with pytest.raises(UserError, match="no GPU") as error:
        imgloop.run([*TINY, f"out={tmp_path}", "trainer=gpu"])
    assert error.value.setting == "trainer"


def test_folder_of_images_from_end_to_end(tmp_path):
    """A labelled folder at 16 pixels and an unlabelled one, whose features are the random network's."""
    import numpy as np

    data, rng = tmp_path / "data", np.random.default_rng(0)
    for k in range(2):
        for i in range(40):
            x = rng.normal(60 + 120 * k, 20, (20, 24, 3)).clip(0, 255).astype(np.uint8)
            for path in (data / "classes" / f"c{k}", data / "plain"):
                path.mkdir(parents=True, exist_ok=True)
                Image.fromarray(x).save(path / f"{k}{i}.png")
    tiny = [t for t in TINY if not t.startswith("features")]
    settings = {"classifier": ["study=classes", "features.images=1280"], "random": ["study=plain"]}
    for features, own in settings.items():
        root = f"data.root={data / own[0].removeprefix('study=')}"
        result = imgloop.run([*tiny, *own, f"out={tmp_path}", "data=folder", root, "data.size=16", "generations=2"])
        assert result.metrics["protocol"].str.startswith(features).all() and result.metrics["fd"].notna().all()
    plain = [*tiny, f"out={tmp_path}", "data=folder", f"data.root={data / 'plain'}", "study=x"]
    with pytest.raises(UserError, match=r"features\.images"):
        imgloop.run([*plain, "data.size=16", "features.images=1280"])
    with pytest.raises(UserError, match=r"data\.size"):
        imgloop.run([*plain, f"data.root={data / 'classes'}", "data.size=32"])
    (data / "plain" / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"broken\.png.*skip_broken"):
        imgloop.run([*plain, "data.size=16"])
