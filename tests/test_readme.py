"""The README's own commands and programs, run at small settings; its links and pictures exist."""

import os
import re
import shlex
import zipfile

import preloaded
import pytest
from conftest import REPO, TINY

README = (REPO / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
COMMANDS = [
    line.split("  #")[0].strip()
    for kind, block in BLOCKS
    if kind == "bash"
    for line in block.splitlines()
    if line.strip()
]
RUNS = [c for c in COMMANDS if "python -m imgloop " in c]


def small(arguments):
    """The command's own settings with those of TINY that it does not give, few generations and few seeds."""
    tiny = [t for t in [*TINY, "generations=2"] if t.split("=")[0] not in {a.split("=")[0] for a in arguments}]
    if any(a.startswith(("experiment=analytic", "model=gaussian")) for a in arguments):
        short = [] if any(a.startswith("generations=") for a in arguments) else ["generations=20"]
        return [*arguments, *short, "model.replicates=30", "display=lines"]
    arguments = ["train.images=640" if a.startswith("train.images=") else a for a in arguments]
    arguments = [
        re.sub(r"^generations=\d+", "generations=2", re.sub(r"range\(0,\d+\)", "range(0,2)", a)) for a in arguments
    ]
    return [a for a in arguments if not a.startswith("features=")] + [
        t for t in tiny if not (t.startswith("model.widths") and "tier=gpu" in arguments)
    ]


def test_the_two_commands_of_the_set_up_are_there():
    assert "pip install -e . && python -m imgloop paradigm=accumulate" in COMMANDS
    assert "pip install -e '.[test]' && pytest" in COMMANDS
    assert len(RUNS) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNS)
def test_run(command, tmp_path, monkeypatch):
    arguments = shlex.split(command.split("python -m imgloop ")[1])
    if "trainer=gpu" in arguments or "tier=gpu" in arguments:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")
    if "data=folder" in arguments:
        data = os.environ.get("IMGLOOP_TEST_DATA")
        if not data:
            pytest.skip("IMGLOOP_TEST_DATA is not set")
        arguments = [
            f"data.root={some_of(f'{data}/cifar10.zip', tmp_path)}" if a.startswith("data.root=") else a
            for a in arguments
        ]
        arguments = [a for a in arguments if not a.startswith(("data.n=", "n_samples="))]
    if any(a.startswith("fork=") for a in arguments):  # of the chain that the command above it makes
        before = shlex.split(RUNS[RUNS.index(command) - 1].split("python -m imgloop ")[1])
        imgloop("imgloop", *small(before), f"out={tmp_path / 'outputs'}")
        source = next((tmp_path / "outputs").glob("*/*/seed0"))
        arguments = [f'fork="{source}@0"' if a.startswith("fork=") else a for a in arguments]
    assert "look at" in imgloop("imgloop", *small(arguments), f"out={tmp_path / 'outputs'}")


def imgloop(module, *arguments):
    """What a command of ours prints, which must end well."""
    done = preloaded.run("-m", module, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def some_of(archive, tmp_path, keep=400):
    """A small zip of the first images of each folder: decoding all 60,000 would take half a minute."""
    out = tmp_path / "some.zip"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist()[:: 60000 // keep]:
            target.writestr(name, source.read(name))
    return out


@pytest.mark.slow
def test_measure_and_study_commands(tmp_path, monkeypatch):
    import imgloop
    from imgloop import measure
    from imgloop.report import __main__ as report

    monkeypatch.chdir(tmp_path)
    imgloop.run([*TINY, "generations=2"])
    others = [c for c in COMMANDS if "python -m imgloop.measure" in c]
    assert others
    for command in others:
        measure.main(shlex.split(command)[3:])
    for command in [c for c in COMMANDS if "python -m imgloop.report" in c]:
        report.main(shlex.split(command)[3:])
    assert (tmp_path / "outputs/digits-diffusion/report.html").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("program", [b for kind, b in BLOCKS if kind == "python"])
def test_program(program, tmp_path):
    """Programs of the README, in a study folder made by the small version of its command."""
    tiny = [t for t in TINY if "generations" not in t]
    program = program.replace('"generations=3"', '"generations=2", ' + ", ".join(map(repr, tiny)))
    done = preloaded.run("-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if "python -m imgloop.collapse" in c])
def test_profile_commands(command):
    told = imgloop(*shlex.split(command)[2:])
    assert "detected" in told and ("for a probability of" in told) == ("power" in command)


@pytest.mark.slow
def test_score_command(tmp_path):
    data = os.environ.get("IMGLOOP_TEST_DATA")
    if not data:
        pytest.skip("IMGLOOP_TEST_DATA is not set")
    (command,) = [c for c in COMMANDS if "python -m imgloop.metrics" in c]
    archive = some_of(f"{data}/cifar10.zip", tmp_path)
    with zipfile.ZipFile(archive) as z:
        z.extractall(tmp_path / "samples", [n for n in z.namelist() if n.startswith("test/")])
    names = {"cifar10.zip": archive, "samples": tmp_path / "samples", "nearest.png": tmp_path / "nearest.png"}
    told = imgloop(*(str(names.get(a, a)) for a in shlex.split(command)[2:]))
    assert "precision" in told and (tmp_path / "nearest.png").stat().st_size > 1000


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (REPO / target).exists(), target
    assert re.search(r"!\[", README)
