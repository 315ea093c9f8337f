"""Commands and programs of the README and the pages of docs/: composed or run at small settings."""

import itertools
import os
import re
import shlex
import zipfile

import numpy as np
import preloaded
import pytest
from conftest import REPO, TINY, thinned

PAGES = [
    REPO / "README.md",
    *(
        REPO / "docs" / f"{name}.md"
        for name in ("paradigms", "selection", "data", "models", "results", "replications", "python", "logging")
    ),
    *(REPO / "docs" / f"{name}.md" for name in ("systems", "theory")),
]
BLOCKS = [(page, *block) for page in PAGES for block in re.findall(r"```(\w+)\n(.*?)```", page.read_text(), re.S)]
COMMANDS = list(
    dict.fromkeys(
        line.split("  #")[0].strip()
        for _, kind, block in BLOCKS
        if kind == "bash"
        for line in block.splitlines()
        if line.strip()
    )
)
RUNS = [c for c in COMMANDS if "python -m imgloop " in c and "--config-dir" not in c]
FORK = next(c for c in RUNS if "fork=" in c)
PROGRAMS = {
    page.name: "\n".join(block for other, kind, block in BLOCKS if kind == "python" and other == page)
    for page in dict.fromkeys(page for page, kind, _ in BLOCKS if kind == "python")
}


def arguments_of(command):
    return shlex.split(command.split("python -m imgloop ")[1])


def jobs(arguments):
    """The overrides of each chain of a command: every combination of the values of its sweeps, of seeds the first."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    overrides = OverridesParser.create().parse_overrides([a for a in arguments if a != "-m"])
    values = [
        [f"{o.get_key_element()}={v}" for v in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [str(o.input_line)]
        for o in overrides
    ]
    return [list(job) for job in itertools.product(*(v[:1] if v[0].startswith("seed=") else v for v in values))]


def imgloop(module, *arguments):
    """Standard output of `python -m MODULE ARGUMENTS`, which must succeed."""
    process = preloaded.run("-m", module, *arguments)
    assert process.returncode == 0, process.stderr
    return process.stdout


def some_of(archive, tmp_path, n=400):
    """A small zip of images spread over the archive: decoding all 60,000 would take half a minute."""
    path = tmp_path / "some.zip"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist()[:: 60000 // n]:
            target.writestr(name, source.read(name))
    return path


def test_the_two_set_up_commands_are_in_the_readme():
    readme = PAGES[0].read_text()
    assert "\npip install -e . && python -m imgloop paradigm=accumulate\n" in readme
    assert "\npip install -e '.[test]' && pytest\n" in readme
    assert len(readme.splitlines()) <= 150 and len(RUNS) >= 10


@pytest.mark.parametrize("command", thinned([c for c in RUNS if c != FORK], 4))
def test_settings_are_valid(command):
    """Every chain of a command composes, and on the digits its paradigm can build every training set."""
    from imgloop.config.settings import parsed

    for job in jobs(arguments_of(command)):
        settings = parsed(job)
        if settings.choices["data"] != "digits":
            continue
        paradigm, sizes, rng = settings.build("paradigm"), {-1: 1397}, np.random.default_rng(0)
        for t in range(min(settings.config["generations"], 10)):
            assert len(paradigm(sizes, t, rng)) > 0
            sizes[t] = int(settings.n_samples(t)) if settings.n_samples else paradigm.initial(sizes, 0)


@pytest.mark.nightly
def test_fork_of_the_command_above_it(tmp_path):
    """Two commands as they are written, at small settings: the second forks the chain of the first."""
    common = [*TINY, f"out={tmp_path}", "generations=2", "display=lines"]
    imgloop("imgloop", arguments_of(RUNS[RUNS.index(FORK) - 1])[0], *common)
    source = next(tmp_path.glob("*/*/seed0"))
    arguments = [f"fork={source}@0" if a.startswith("fork=") else a for a in arguments_of(FORK)]
    assert "look at" in imgloop("imgloop", *[a for a in arguments if "generations" not in a], *common)


def test_folder_command(tmp_path):
    from imgloop import run

    data = os.environ.get("IMGLOOP_TEST_DATA")
    if not data:
        pytest.skip("IMGLOOP_TEST_DATA is not set")
    command = next(c for c in RUNS if "data=folder" in c)
    root = f"data.root={some_of(f'{data}/cifar10.zip', tmp_path)}"
    sizes = ("data.root=", "data.n=", "n_samples=", "train.images=")
    arguments = [a for a in arguments_of(command) if not a.startswith(sizes)]
    assert len(run([*arguments, root, *TINY, f"out={tmp_path / 'outputs'}"]).metrics) == 2


@pytest.mark.parametrize("page", [pytest.param(p, marks=[pytest.mark.nightly] * (p == "python.md")) for p in PROGRAMS])
def test_programs_and_study_commands(page, tmp_path, monkeypatch):
    """The programs of a page one after another, then the commands that read the study they made."""
    from imgloop import measure
    from imgloop.report import __main__ as report

    monkeypatch.chdir(tmp_path)
    tiny = repr(list(TINY))
    program = PROGRAMS[page].replace("imgloop.run(paradigm", f"imgloop.run({tiny}, paradigm")
    program = program.replace("imgloop.sweep(", f"imgloop.sweep({tiny}, ")
    program = program.replace('"generations=3"', f'"generations=3", *{list(TINY)}')
    assert program.count(TINY[0].partition("=")[0]) == program.count("imgloop.run(") + program.count("imgloop.sweep(")
    exec(compile(program, page, "exec"), {"__name__": "program"})
    if page == "README.md":
        studies = [c for c in COMMANDS if c.startswith(("python -m imgloop.measure", "python -m imgloop.report"))]
        assert len(studies) == 4
        for command in (c for c in studies if "--watch" not in c):  # which is served until Ctrl-C
            module = measure if "imgloop.measure" in command else report
            module.main(shlex.split(command)[3:])
        assert (tmp_path / "outputs/digits-diffusion/report.html").stat().st_size > 10_000


@pytest.mark.parametrize("command", [c for c in COMMANDS if "python -m imgloop.collapse" in c])
def test_profile_commands(command, capsys, monkeypatch):
    from imgloop.collapse import __main__ as collapse

    monkeypatch.chdir(REPO)
    few = ["--studies", "50"] if "power" in command else []
    collapse.main([*shlex.split(command)[3:], *few])
    output = capsys.readouterr().out
    assert "detected" in output and ("for a probability of" in output) == ("power" in command)


def test_score_command(tmp_path):
    data = os.environ.get("IMGLOOP_TEST_DATA")
    if not data:
        pytest.skip("IMGLOOP_TEST_DATA is not set")
    (command,) = [c for c in COMMANDS if "python -m imgloop.metrics" in c]
    archive = some_of(f"{data}/cifar10.zip", tmp_path)
    with zipfile.ZipFile(archive) as z:
        z.extractall(tmp_path / "samples", [n for n in z.namelist() if n.startswith("test/")])
    paths = {"cifar10.zip": archive, "samples": tmp_path / "samples", "nearest.png": tmp_path / "nearest.png"}
    output = imgloop(*(str(paths.get(a, a)) for a in shlex.split(command)[2:]))
    assert "precision" in output and (tmp_path / "nearest.png").stat().st_size > 1000
