"""The wheel contains the configuration and runs without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPO


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(REPO)],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return next(out.glob("*.whl"))


def test_wheel_holds_package_and_configuration_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names} == {"imgloop", "hydra_plugins", f"{wheel.name.split('-py3')[0]}.dist-info"}
    expected = {f"imgloop/{p.relative_to(REPO)}" for p in (REPO / "conf").rglob("*.yaml")}
    expected |= {f"imgloop/report/{name}" for name in ("page.html.j2", "page.css", "page.js")}
    expected |= {p.relative_to(REPO).as_posix() for p in (REPO / "imgloop" / "weights").iterdir()}
    assert expected <= set(names) and any(n.endswith("LICENSE") for n in names)
    entry_points = next(n for n in names if n.endswith("entry_points.txt"))
    assert "imgloop = imgloop.console:main" in zipfile.ZipFile(wheel).read(entry_points).decode()


def test_wheel_runs_without_the_checkout(wheel, tmp_path):
    """Unpacked like an installation, in a process that sees neither the checkout nor its conf/."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    where = subprocess.run(
        [
            sys.executable,
            "-c",
            "import imgloop; from imgloop.config.compose import CONF; print(imgloop.__file__, CONF)",
        ],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    ).stdout
    assert str(REPO) not in where and where.count(str(site)) == 2, where
    done = subprocess.run(
        [sys.executable, "-m", "imgloop.console", "run", "generations=1", "model=gaussian", "model.replicates=5"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs" / "gaussian").is_dir()


@pytest.mark.nightly
def test_wheel_runs_in_an_empty_environment(wheel, tmp_path):
    """Installed with its script into an environment of its own, which sees the packages of this one; with a report."""
    environment = tmp_path / "environment"
    run = {"cwd": tmp_path, "capture_output": True, "text": True}
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    site = next(environment.glob("lib/python*/site-packages"))
    python = environment / "bin" / "python"
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)],
        env=env,
        **run,
    )
    assert installed.returncode == 0, installed.stderr
    packages = next(p for p in map(Path, sys.path) if (p / "torch").is_dir())
    (site / "packages.pth").write_text(f"{packages}\n")  # after the environment's own
    script = environment / "bin" / "imgloop"
    for arguments in (
        ["--version"],
        ["run", "generations=2", "model=gaussian", "model.replicates=5"],
        ["report", "outputs/gaussian"],
    ):
        done = subprocess.run([str(script), *arguments], env=env, **run)
        assert done.returncode == 0, done.stderr
    where = [
        str(python),
        "-c",
        "import imgloop, hydra_plugins.imgloop_launchers as h; print(imgloop.__file__, h.__file__)",
    ]
    assert subprocess.run(where, env=env, **run).stdout.count(str(site)) == 2
    assert (tmp_path / "outputs" / "gaussian" / "report.html").stat().st_size > 10_000
