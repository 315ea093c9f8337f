"""The command line: help, mistakes in one sentence, multirun, the display; and a run from Python."""

from __future__ import annotations

import os
import re
import time
import tomllib
from importlib.metadata import version

import pandas as pd
import preloaded
import pytest
from conftest import REPO, TINY, thinned
from PIL import Image

import imgloop
from imgloop import loop
from imgloop.api import overrides_of
from imgloop.chain.base import Surroundings
from imgloop.chain.plan import Plan
from imgloop.chain.trained import Chain
from imgloop.config.compose import GROUPS
from imgloop.config.help import File, Setting
from imgloop.config.settings import parsed
from imgloop.console import COMMANDS
from imgloop.errors import UserError

SOLVED = ("model.replicates=5", "generations=2")
ANYWHERE = {"PYTHONPATH": f"{REPO}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}  # imports work in any folder


def test_help_shows_every_group_option_and_setting_with_its_comment(fresh):
    shown = fresh("--help", env={"COLUMNS": "140"})
    assert shown.returncode == 0 and shown.stderr == ""
    text = " ".join(shown.stdout.split())
    files = {p.relative_to(REPO / "conf").with_suffix("").as_posix(): p for p in (REPO / "conf").rglob("*/*.yaml")}
    for name, path in files.items():
        group = next(g for g in (*GROUPS, "hydra/launcher") if name.startswith(f"{g}/"))
        line = File.read(path).line
        assert f"{name.removeprefix(group + '/')} {line}" in text and len(line) > 10, name
    for setting in File.read(REPO / "conf" / "config.yaml").settings:
        shown_as = f"{setting.key}={setting.value} {setting.comment}"
        assert setting.key.startswith("hydra.") or (setting.comment and shown_as in text), setting
    for key, comment in (("model.lr=null", "peak learning rate"), ("data.heldout=400", "images that no generator is")):
        assert f"{key} {comment}" in text
    assert max(map(len, shown.stdout.splitlines())) <= 140


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["model=gan"], ["model=gan: A GAN", "model.gamma=null weight of the gradient penalties", "docs/ladder.md"]),
        (["paradigm=replace"], ["real_fraction=0 replace: share of each later mix", "n_initial=null size of R"]),
        (["-m", "paradigm=replace,fresh"], ["paradigm=replace: Each", "paradigm=fresh: Each", "n_real=null"]),
        (["experiment=study/digits"], ["It chooses data=digits model=diffusion", "hydra.sweeper.params.seed="]),
        (["experiment=analytic/bernoulli"], ["model.replicates=4000 independent chains", "data.n=20 real rows"]),
        (["hydra/launcher=ray"], ["hydra.launcher.max_retries=3 how often a chain"]),
        (
            ["features=pixels", "logger=mlflow"],
            ["features=pixels: Flattened", "no settings", "logger.tracking_uri=null"],
        ),
    ],
)
def test_help_of_an_option_shows_its_settings_alone(command, arguments, words):
    shown = command(*arguments, "--help")
    text = " ".join(shown.stdout.split())
    assert shown.returncode == 0 and all(w in text for w in words) and "== Groups" not in text, text
    for forgotten in ("keep_models", "trainer.accelerator"):
        assert forgotten not in text


def test_help_of_an_option_that_does_not_exist_names_the_close_one(command):
    shown = command("model=gna", "--help")
    assert shown.returncode == 1 and "did you mean gan?" in shown.stderr and shown.stdout == ""


@pytest.mark.parametrize("path", sorted((REPO / "conf").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_setting_of_an_option_has_a_comment(path):
    """Those of experiments only give values, and an interpolation (${budget}) stands for a setting that has one."""
    settings = [] if "experiment" in path.parts else File.read(path).settings
    bare = [s.key for s in settings if not (s.comment or s.value.startswith("${") or s.key.startswith("hydra."))]
    assert not bare


def test_comments_are_those_of_yaml_not_text_with_a_hash(tmp_path):
    path = tmp_path / "x.yaml"
    text = """\
# @package _global_
# First sentence, of X. et al. 2025. Second
# sentence.
defaults:
  - override /data: law   # not images
# of both
a: "b # c"     # one, # two
b: [1, 2]
c:   # several
  - 1
  - 2
train:
  images: {start: 1}   # nested
_target_: x.Y
"""
    path.write_text(text)
    file = File.read(path)
    assert file.line == "First sentence, of X. et al. 2025." and file.description.endswith("Second sentence.")
    assert file.defaults == (Setting("data", "law", "not images", ""),)
    assert file.settings == (
        Setting("a", '"b # c"', "one, # two", "of both"),
        Setting("b", "[1, 2]", "", ""),
        Setting("c", "...", "several", ""),
        Setting("train.images", "{start: 1}", "nested", ""),
    )


@pytest.mark.parametrize("arguments", [["--version"], ["paradigm=replace", "--version"]])
def test_version(command, arguments):
    assert command(*arguments).stdout == f"imgloop {version('imgloop')}\n"


def test_the_console_script_has_the_commands_of_the_modules(command):
    """As [project.scripts] starts it."""
    script = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["scripts"]
    assert script == {"imgloop": "imgloop.console:main"}
    for name, (module, text) in COMMANDS.items():
        assert f"{name:<10}{text}" in command(module="imgloop.console").stdout
        same = [command("--help", module=m) for m in (f"imgloop.{name}" if name != "run" else "imgloop",)]
        assert command(name, "--help", module="imgloop.console").stdout == same[0].stdout != "", module
    ran = command("collapse", "/does/not/exist", module="imgloop.console")
    assert ran.returncode == 1 and ran.stderr.startswith("imgloop.collapse: /does/not/exist")
    for wrong, hint in ((["paradigm=replace"], "imgloop run paradigm=replace?"), (["reprt", "x"], "imgloop report x?")):
        ran = command(*wrong, module="imgloop.console")
        assert ran.returncode == 1 and hint in ran.stderr and ran.stderr.count("\n") == 1


def test_flags_may_stand_after_overrides(tmp_path, command):
    ran = command("model=gaussian", "paradigm=replace,nope", "-m", "seed=0,1", f"out={tmp_path}")
    assert ran.returncode == 1 and "paradigm=nope does not exist" in ran.stderr
    ran = command("model=gaussian", *SOLVED, "seed=0", "-m", "paradigm=replace,real_only", f"out={tmp_path}")
    assert ran.returncode == 0 and len(list(tmp_path.glob("gaussian/*/seed0/metrics.csv"))) == 2, ran.stderr


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
    ("model.batch=200 data.n=60", "model.batch", "60 images of the training set of generation 0"),
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
    chain = chain[: chain.index("sweep: 1 of 2 chains done, 1 failed")]
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


def test_a_folder_needs_no_quotes_that_imgloop_named_itself(tmp_path, command):
    """Conditions have commas and equals signs, which mean something to Hydra."""
    chain = tmp_path / "replace,real_fraction=0.1" / "seed0"
    chain.mkdir(parents=True)
    for override in (f"fork={chain}@2", f"start={chain}", f"fork={chain.parent}/seed${{seed}}@2", f"data.root={chain}"):
        ran = command(override, f"out={tmp_path}", *(["data=folder"] if override.startswith("data") else []))
        assert ran.returncode == 1 and str(chain) in ran.stderr and "to Hydra" not in ran.stderr, ran.stderr
        assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("start, word", [("/nope/x", "there is no folder /nope/x"), ("weight", "choose scratch")])
def test_a_start_that_does_not_exist(tmp_path, command, start, word):
    ran = command(f"start={start}", f"out={tmp_path}")
    assert ran.returncode == 1 and word in ran.stderr and ("no folder" in ran.stderr) == ("/" in start)


def test_keywords_mappings_and_lists_are_one_chain(tmp_path):
    solved = {"model": "gaussian", "model.replicates": 5}
    by_name = imgloop.run(solved, paradigm="replace", n_samples={"start": 20, "factor": 2}, generations=2, out=tmp_path)
    words = [*SOLVED, "model=gaussian", "paradigm=replace", "n_samples={start: 20,factor: 2}", f"out={tmp_path}"]
    by_list = imgloop.run(words)
    assert by_name.folder == by_list.folder and "n_samples=20x2" in by_list.folder.parent.name
    assert by_name.metrics.equals(by_list.metrics)
    for out in (
        "null",
        'x"y',
        "a b",
        "a=b,c",
        "it's",
        "back\\slash",
        "end\\",
        '\\"',
    ):  # text, whatever Hydra would make of it
        assert parsed(overrides_of("run", {"out": out}, {})).config["out"] == out
    nested = imgloop.run(solved, data={"n": 7}, study="a,b", generations=1, out=tmp_path, overwrite=True)
    assert nested.folder.parents[1].name == "a,b" and "data.n=7" in nested.folder.parent.name


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: imgloop.run("paradigm=replace"), ["imgloop.run('paradigm=replace')", 'run(["paradigm=replace"']),
        (lambda: imgloop.sweep("seed=0,1"), ["imgloop.sweep('seed=0,1')"]),
        (lambda: imgloop.run([("paradigm", "replace")]), ["('paradigm', 'replace')"]),
        (lambda: imgloop.run(seed=range(3)), ["imgloop.sweep(seed=range(0, 3))"]),
        (lambda: imgloop.run(paradigm=["replace", "edit"]), ["takes one option", "imgloop.sweep"]),
        (lambda: imgloop.run(train={"imagse": 3}), ["train.imagse", "did you mean images"]),
        (lambda: imgloop.sweep(seed=[]), ["seed=[]", "at least one"]),
        (lambda: imgloop.sweep(seed=[0, 0]), ["seed=0 is given twice"]),
        (lambda: imgloop.sweep(seed=[0, -1]), ["seed=-1", "nothing was started"]),
        (lambda: imgloop.sweep(model=["gaussian", "kde"]), ["2 studies", "study=NAME"]),
        (lambda: imgloop.sweep(["hydra/launcher=ray"], seed=[0]), ["hydra/launcher=ray", "in this process"]),
    ],
)
def test_a_wrong_call_is_one_sentence(tmp_path, monkeypatch, call, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        call()
    assert all(w in str(error.value) for w in words) and "\n" not in str(error.value)
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_sweep_from_python_is_a_study_and_lists_failures(tmp_path, capfd):
    """One of its parts, fresh without enough real data, fails; the others finish."""
    study = imgloop.sweep(["model=gaussian", *SOLVED], paradigm=("replace", "fresh"), seed=range(2), out=tmp_path)
    printed = capfd.readouterr()
    assert isinstance(study, imgloop.Study) and study.seeds() == [0, 1]
    assert [c.split(",")[0] for c in study.conditions] == ["replace"]
    assert "2 of 4 runs failed" in printed.err and "python -m imgloop model=gaussian" in printed.err
    assert (tmp_path / "gaussian" / "comparison.csv").exists() and (tmp_path / "gaussian" / "report.html").exists()
    again = imgloop.sweep(
        {"model": "gaussian", "model.replicates": 5}, generations=2, paradigm=["replace"], out=tmp_path
    )
    assert again.path == study.path
    with pytest.raises(UserError, match="has a result"):
        imgloop.sweep(["model=gaussian", *SOLVED], paradigm=["fresh"], out=tmp_path / "b")


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
