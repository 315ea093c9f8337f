"""The command line as a user meets it: help, mistakes in one sentence, multirun, the display, the run from Python."""

import os
import re

import pandas as pd
import pytest
from conftest import REPO, TINY
from PIL import Image

import imgloop
from imgloop.errors import UserError

FOUND = {"PYTHONPATH": f"{REPO}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}  # wherever it is started


def test_help_shows_every_group_and_option(fresh):
    shown = fresh("--help")
    assert shown.returncode == 0
    for group in {p.parent for p in (REPO / "conf").rglob("*/*.yaml")}:
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


MISTAKES = [
    ("paradgm=replace", "paradigm"),
    ("paradigm=replce", "accumulate_subsample"),
    ("generation=3", "generations"),
    ("model.widht=3", "widths"),
    ("+foo=1", "foo"),
    ("+model.foo=1", "widths"),
    ("paradigm", "key=value"),
    ("generations=0", "at least 1"),
    ("generations=ten", "whole number"),
    ("seed=-1", "at least 0"),
    ("overwrite=maybe", "true or false"),
    ("real_fraction=1.5 paradigm=replace", "from 0 to 1"),
    ("real_fraction=0.1", "replace"),
    ("n_samples=-5", "at least 1"),
    ("n_samples=1.5", "whole number"),
    ("n_samples=1000000000000", "MiB free"),
    ("n_initial=99999", "1397"),
    ("data.n=99999", "1397"),
    ("data.heldout=4", "held-out"),
    ("paradigm=fresh", "n_initial at most"),
    ("paradigm=accumulate_subsample budget=99999", "budget"),
    ("train.images=[100]", "generation 1"),
    ("train.images={start:10,fctr:2}", "factor"),
    ("model.lr=-1", "model.lr"),
    ("model.batch=0", "model.batch"),
    ("model.network=big", "compact"),
    ("model.widths=[30]", "multiples of 8"),
    ("model.widths=[8,8,8,8]", "halves"),
    ("model.sampler=foo", "heun"),
    ("start=weight", "weights_and_optimizer"),
    ("study=a/b", "study"),
    ("threads=0", "at least 1"),
    ("display=x", "lines"),
    ("data=folder", "data.root"),
    ("data=folder data.root=/does/not/exist", "/does/not/exist"),
    ("trainer.precision=bf16-mixed", "32-true"),
    ("trainer.accelerator=tpu", "gpu"),
    ("features=foo", "classifier"),
    ("features=pixels features.images=3", "features.images"),
    ("paradigm=replace,accumulate", "-m"),
    ("data.seed=0 start=outputs/a,b=1", "quotes"),
]


@pytest.mark.parametrize("arguments, names", MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_sentence_that_names_what_is_allowed(tmp_path, arguments, names):
    """By the function that the command calls; test_mistakes_on_the_command_line checks that the command shows it so."""
    tiny = [t for t in TINY if t.split("=")[0] not in arguments]
    with pytest.raises(UserError) as error:
        imgloop.run(
            [
                *tiny,
                f"out={tmp_path}",
                "generations=2" if "generations" not in arguments else "seed=0",
                *arguments.split(),
            ]
        )
    text = str(error.value)
    assert names in text and "\n" not in text and len(text) < 500, text
    assert not list(tmp_path.rglob("config.yaml"))  # nothing that would be in the way of the corrected command


@pytest.mark.parametrize("arguments, names", [MISTAKES[i] for i in (0, 1, 8, 11)])
def test_mistakes_on_the_command_line(tmp_path, command, arguments, names):
    done = command(f"out={tmp_path}", *arguments.split())
    assert done.returncode == 1 and names in done.stderr
    assert done.stderr.startswith("imgloop: ") and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["paradgm=replace"], ["--help"], ["model=gaussian", "data=law", "model.replicates=20", "generations=2"]],
)
def test_a_command_that_finds_its_imports_done_says_what_a_fresh_one_does(tmp_path, command, fresh, arguments):
    """What most tests start is what a user starts: status, output and errors, byte for byte."""
    both = []
    for name, run in (("command", command), ("fresh", fresh)):
        (tmp_path / name).mkdir()
        both.append(run(*arguments, cwd=tmp_path / name, env=FOUND))
    told = [(done.returncode, done.stdout, done.stderr) for done in both]
    assert told[0] == told[1] and told[0][1:] != ("", "")


def test_multirun_leaves_one_study_with_a_comparison(tmp_path, command):
    done = command(
        "-m", "paradigm=replace,real_only", "seed=range(0,2)", "generations=2", f"out={tmp_path}", "study=s", *TINY
    )
    assert done.returncode == 0, done.stderr
    study = tmp_path / "s"
    common = "model.widths=8,16,model.sampler_steps=2,n_samples=48,train.images=640".split(",model.s")[0]
    names = sorted(p.name for p in study.iterdir() if (p / "seed0").exists())
    assert [n.split(",")[0] for n in names] == ["real_only", "replace"] and all(
        common.split(",")[0] in n for n in names
    )
    frame = pd.read_csv(study / "comparison.csv")
    assert list(frame["seeds"]) == [2] * 4 and frame["fd_sd"].notna().all()
    raw = imgloop.load_study(study)
    assert len(raw) == 8
    mean = raw[(raw["condition"] == names[1]) & (raw["generation"] == 1)]["fd"].mean()
    row = frame[(frame["condition"] == names[1]) & (frame["generation"] == 1)]
    assert abs(row["fd"].item() / mean - 1) < 1e-5
    assert Image.open(study / "comparison.png").width > 800
    assert len(list((study / "shared").glob("generation0-*"))) == 2
    assert re.search(r"replace\S*\s+1\s+2\s+\S+ ± \S+", done.stdout), done.stdout


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
    done = command("-m", "paradigm=fresh,real_only", "generations=2", f"out={tmp_path}", *TINY)
    assert done.returncode == 1 and "1 of 2 runs failed" in done.stderr and "n_initial" in done.stderr
    assert len(imgloop.load_study(tmp_path / "digits-diffusion")) == 2


def test_what_a_run_says(tmp_path, fresh):
    done = fresh(f"out={tmp_path}", "generations=2", *TINY)
    lines = done.stdout.splitlines()
    assert re.search(r"1,397 training images, 400 held out", lines[0])
    assert re.search(
        r"2 generations, 1,280 training images seen, 96 samples drawn, [\d.]+ MiB on disk, about \d+ s on cpu",
        done.stdout,
    )
    assert [bool(re.match(rf"generation {t}: trained on .* fd ", line)) for t, line in enumerate(lines[-3:-1])] == [
        True,
        True,
    ]
    assert lines[-1].startswith("look at ") and "evolution.png" in lines[-1]
    log = next(tmp_path.rglob("run.log")).read_text()
    assert all(line in log for line in lines)


def test_a_run_leaves_nothing_but_its_study(tmp_path, command):
    """Not in the folder it is started in, by a run, a multirun or a mistake."""
    for extra in ([], ["-m", "seed=0,1"], ["generations=0"]):
        command(*extra, *TINY, *([] if "generations=0" in extra else ["generations=1"]), cwd=tmp_path, env=FOUND)
    assert [p.name for p in tmp_path.iterdir()] == ["outputs"]
    assert sorted(p.name for p in (tmp_path / "outputs").iterdir()) == [".multirun", "digits-diffusion"]


def test_live_display_shows_generation_stage_and_time_left(tmp_path):
    """In a pseudo-terminal, as rich sees one."""
    import pty
    import subprocess
    import sys

    master, slave = pty.openpty()
    tiny = [t for t in TINY if not t.startswith(("display", "train.images"))]
    process = subprocess.Popen(
        [sys.executable, "-m", "imgloop", f"out={tmp_path}", "generations=2", "train.images=12800", *tiny],
        cwd=REPO,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "160", "OMP_NUM_THREADS": "1"},
    )
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
    assert process.wait(60) == 0, shown[-2000:]
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
    with pytest.raises(UserError, match="no GPU"):
        imgloop.run([*TINY, f"out={tmp_path}", "trainer=gpu"])


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
    with pytest.raises(UserError, match=r"features\.images=1280 is of a classifier, and these data have no labels"):
        imgloop.run([*tiny, f"out={tmp_path}", "data=folder", root, "data.size=16", "study=x", "features.images=1280"])
    (data / "plain" / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"broken\.png.*skip_broken"):
        imgloop.run([*tiny, f"out={tmp_path}", "data=folder", f"data.root={data / 'plain'}", "data.size=16", "study=x"])
    with pytest.raises(UserError, match=r"data\.size"):
        imgloop.run(
            [*tiny, f"out={tmp_path}", "data=folder", f"data.root={data / 'classes'}", "data.size=32", "study=x"]
        )
