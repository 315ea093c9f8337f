"""The house: imports run down the list of rooms, types hold, and what is imported late says why."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

PACKAGE = REPO / "imgloop"
COMMANDS = ("__main__.py", "multirun.py", "api.py")  # start-up: what a command does not need stays unimported
# Packages that are imported where they are used: each takes a quarter of a second or more, or is an extra.
LATE = {
    "pandas", "scipy", "torch", "torchvision", "lightning", "diffusers", "matplotlib", "rich", "sklearn", "PIL",
    "hydra", "omegaconf", "safetensors", "timm", "torch_fidelity", "mlflow", "urllib", "numpy",
    "joblib", "ray", "submitit",
}  # fmt: skip


def tool(name):
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def test_imports_run_down_the_rooms_without_a_circle():
    ran = subprocess.run([tool("lint-imports"), "--no-cache"], cwd=REPO, capture_output=True, text=True)
    assert ran.returncode == 0 and "4 kept, 0 broken" in ran.stdout, ran.stdout


def test_the_contract_of_rooms_notices_an_arrow_up(tmp_path):
    """The same contracts over a copy in which data imports the loop."""
    shutil.copytree(PACKAGE, tmp_path / "imgloop", ignore=shutil.ignore_patterns("__pycache__", "weights"))
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    digits = tmp_path / "imgloop" / "data" / "digits.py"
    digits.write_text(digits.read_text() + "\nfrom imgloop import loop  # noqa\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run([tool("lint-imports"), "--no-cache"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ran.returncode == 1 and "imgloop.data" in ran.stdout


@pytest.mark.nightly  # a minute; .ci/run runs it
def test_pyright_finds_no_error():
    ran = subprocess.run(
        [tool("pyright"), "--pythonpath", sys.executable], cwd=REPO, capture_output=True, text=True, timeout=590
    )
    if "error" not in ran.stdout and ran.returncode != 0:
        pytest.skip(f"pyright could not run here: {ran.stderr[-200:]}")
    assert ran.returncode == 0, ran.stdout[-3000:]


def late_imports(path):
    """(line, root package, text) of the imports inside functions."""
    lines = path.read_text().splitlines()
    tree = ast.parse("\n".join(lines))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                    yield node.lineno, str(module).split(".")[0], lines[node.lineno - 1]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_late_imports_are_of_slow_packages_or_say_why(path):
    if path.name not in COMMANDS:
        wrong = [(n, text) for n, root, text in late_imports(path) if root not in LATE and "#" not in text]
        assert not wrong, f"{path}: import at the top, or give the reason on the line: {wrong}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_parts_are_found_through_contracts_and_files_stay_readable(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 430, f"{path} outgrew its room: split it by concept"
    assert '"replicates" in' not in text
    calls = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert not [n.lineno for n in calls if n.func.id == "hasattr" and path.parent.name in ("chain", "models")]


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").exists()
