"""Parts from outside the source tree: the examples of docs/extending.md, and parts that break their contract."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPO, TINY, thinned
from conftest import imgloop as command

import imgloop
from imgloop import store
from imgloop.errors import UserError
from imgloop.measure import main as measure_main

BLOCK = re.compile(r"^```(?:python|yaml)\n# my_parts/(\S+)\n(.*?)^```", re.M | re.S)
QUICK = [*(o for o in TINY if not o.startswith("display")), "display=none", "generations=3"]
SOLVED = ["model=gaussian", "model.replicates=5", "data.n=20", "generations=2", "display=none"]
FEWER = ["data.n=150", "data.heldout=50"]


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """The folder of the examples in docs/extending.md, each file as it is printed there."""
    root = tmp_path_factory.mktemp("outside") / "my_parts"
    for name, text in BLOCK.findall((REPO / "docs" / "extending.md").read_text()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def run(parts, out, *overrides):
    return imgloop.run([*QUICK, f"out={out}", *overrides], config_dir=parts)


def record(result, t):
    return store.read_json(result.folder / f"gen{t:03d}" / "record.json")


def test_the_examples_are_seven_and_short(parts):
    files = {p.relative_to(parts).as_posix(): len(p.read_text().splitlines()) for p in parts.rglob("*.*")}
    python = [name for name in files if name.endswith(".py")]
    assert len(python) == 7
    for name in python:
        option = next(p for p in files if p.endswith(f"/{Path(name).stem}.yaml"))
        assert files[name] + files[option] < 40, name


def test_a_paradigm_mixes_a_window_of_pools_with_real_data(parts, tmp_path):
    result = run(parts, tmp_path, "paradigm=window", "generations=4")
    assert result.folder.parent.name.startswith("window,")
    assert record(result, 3)["share_by_origin"] == {"-1": 24 / 120, "1": 48 / 120, "2": 48 / 120}
    other = run(parts, tmp_path, "paradigm=window", "paradigm.real_share=0.5", "generations=2")
    assert "paradigm.real_share=0.5" in other.folder.parent.name and record(other, 1)["real_share"] == 0.5


def test_a_paradigm_runs_solvable_systems_as_well(parts, tmp_path):
    given = ["model=gaussian", "paradigm=window", "model.replicates=5", "data.n=20", "generations=4", "display=none"]
    result = imgloop.run([*given, f"out={tmp_path}"], config_dir=parts)
    assert list(result.metrics["n_train"]) == [20, 25, 50, 50]


def test_a_solvable_system_is_held_to_its_closed_forms(parts, tmp_path):
    given = ["model=exponential", "data.n=20", "generations=5", "display=none", f"out={tmp_path}"]
    result = imgloop.run([*given, "paradigm=replace"], config_dir=parts)
    row = result.metrics.iloc[-1]
    assert row["square_theory"] == pytest.approx(1.05**5, rel=1e-5) and row["mean_theory"] == 1
    assert abs(row["mean_z"]) < 4 and abs(row["square_z"]) < 4 and row["mean"] != 1


def test_a_curation_releases_what_it_chooses_and_measures_what_was_drawn(parts, tmp_path):
    features = "features=classifier", "features.images=2000"
    result = run(parts, tmp_path, "curation=surest", *features, "generations=2")
    assert ",curation=surest" in result.folder.parent.name
    assert list(result.metrics["n_drawn"]) == [48, 48] and list(result.metrics["n_pool"]) == [24, 24]
    folder = result.folder / "gen000"
    pool, drawn = (store.open_arrays(folder / f"{name}.safetensors") for name in ("pool", "drawn"))
    assert np.array_equal(pool["x"], drawn["x"][pool["row"]]) and not pool["corrected"].any()
    assert record(result, 0)["curation"] == "surest"


def test_a_correction_moves_samples_and_the_pool_says_which(parts, tmp_path):
    result = run(parts, tmp_path, "correction=nudge", "correction.strength=1", "generations=2")
    assert ",correction=nudge" in result.folder.parent.name
    pool, drawn = (store.open_arrays(result.folder / "gen000" / f"{n}.safetensors") for n in ("pool", "drawn"))
    assert len(np.unique(np.array(pool["x"]), axis=0)) <= 10  # each became the mean image of a class
    assert pool["corrected"].any() and not np.array_equal(pool["x"], drawn["x"])


def test_a_source_gives_its_images_and_names_the_study(parts, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "mine.npz", x=rng.integers(0, 256, (400, 1, 8, 8), np.uint8), y=np.arange(400) % 4)
    result = run(parts, tmp_path, "data=npz", f"data.path={tmp_path / 'mine.npz'}", "generations=1")
    assert result.folder.parents[1].name == "npz-diffusion" and record(result, 0)["n_train"] == 100
    with pytest.raises(UserError, match="npz") as error:
        run(parts, tmp_path, "data=npz", "data.path=nowhere.npz")
    assert error.value.setting == "data.path"


def test_a_generator_is_fitted_saved_shared_and_loaded_by_its_name(parts, tmp_path, monkeypatch):
    given = ["model=pca", "n_samples=300", "features=pixels", "threads=1", "display=none", "generations=3"]
    result = imgloop.run([*given, f"out={tmp_path}"], config_dir=parts)
    assert result.folder.parents[1].name == "digits-pca" and (result.metrics["variance_ratio"] > 0.5).all()
    assert store.read_json(result.folder / "gen001" / "model" / "imgloop.json") == {"kind": "pca"}
    assert "code of model=pca" in record(result, 0)["code"]
    replace = imgloop.run([*given, "paradigm=replace", f"out={tmp_path}"], config_dir=parts)
    assert record(replace, 0)["model_hash"] == record(result, 0)["model_hash"]
    study = str(result.folder.parents[1])
    with pytest.raises(SystemExit, match="kind 'pca'"):
        measure_main([study, "features=random"])
    measure_main([study, "features=random", "--config-dir", str(parts)])
    assert len(list((result.folder / "gen002" / "scores").glob("*.json"))) == 2
    longer = imgloop.run([*given[:-1], "generations=4", f"out={tmp_path}"], config_dir=parts)
    assert len(longer.metrics) == 4


def test_a_measure_has_a_column_a_panel_and_a_verdict(parts, tmp_path):
    small = ["data.n=150", "data.heldout=50", "generations=2", "study=s"]
    for seed in range(2):
        for paradigm in ("replace", "real_only"):
            run(parts, tmp_path, "measure=sharpness", f"paradigm={paradigm}", f"seed={seed}", *small)
    study = imgloop.Study(tmp_path / "s")
    assert study.table["sharpness"].notna().all() and study.measures["sharpness"].label == "Sharpness"
    assert "sharpness" in pd.read_csv(tmp_path / "s" / "comparison.csv")
    from imgloop.report import page

    report = page.report(tmp_path / "s")
    assert any(p.info.name == "sharpness" and p.info.label == "Sharpness" for p in report.panels)
    profile = imgloop.collapse_profile(study.table, measures=study.measures, subjects={"variance": "sharpness"})
    (replace,) = (c for c in profile.conditions if c.startswith("replace"))
    assert "sharpness" in profile[replace][4].number


def test_measures_of_stored_samples_can_be_added_later(parts, tmp_path):
    result = run(parts, tmp_path, "generations=2")
    measure_main([str(result.folder.parents[1]), "features=pixels", "measure=sharpness", "--config-dir", str(parts)])
    assert imgloop.load_study(result.folder.parents[1])["sharpness"].notna().all()


@pytest.mark.parametrize("way", ["--config-dir", "hydra.searchpath"])
def test_the_command_line_finds_parts_and_lists_them(parts, tmp_path, way):
    given = ["--config-dir", parts] if way == "--config-dir" else [f"hydra.searchpath=[file://{parts}]"]
    ran = command(*given, "paradigm=window", *SOLVED, f"out={tmp_path}")
    assert ran.returncode == 0, ran.stderr
    assert list(tmp_path.glob("gaussian/window,*/seed0/metrics.csv"))
    helped = command("--config-dir", parts, "--help").stdout
    assert "window" in helped and "sharpness" in helped and "confident" in helped
    missing = command("--config-dir", parts, "paradigm=windw")
    assert missing.returncode == 1 and "window" in missing.stderr and len(missing.stderr.splitlines()) == 1


def test_a_multirun_takes_parts(parts, tmp_path):
    ran = command("--config-dir", parts, "-m", "paradigm=window,replace", *SOLVED, f"out={tmp_path}")
    assert ran.returncode == 0, ran.stderr
    assert len(list(tmp_path.glob("gaussian/*/seed0/metrics.csv"))) == 2


def test_an_installed_package_offers_parts_by_an_entry_point(parts, tmp_path):
    site = tmp_path / "site"
    shutil.copytree(parts, site / "outside_parts")
    (site / "outside_parts" / "__init__.py").write_text("")
    info = site / "outside_parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-parts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[imgloop.parts]\nmine = outside_parts\n")
    code = "import imgloop, sys; print(imgloop.run(sys.argv[1:]).folder)"
    ran = subprocess.run(
        [sys.executable, "-c", code, "paradigm=window", *SOLVED, f"out={tmp_path / 'out'}"],
        cwd=REPO, capture_output=True, text=True, timeout=300,
        env={"PYTHONPATH": f"{site}:{REPO}", "PATH": "/usr/bin:/bin", "IMGLOOP_CACHE": str(tmp_path / "cache"),
             "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0 and "window" in ran.stdout, ran.stderr


# -- parts that break their contract ---------------------------------------------------------------------------------

PARADIGM = """
from imgloop import Mix, Paradigm
import numpy as np
class Broken(Paradigm):
    def later(self, sizes, t, rng, replicates):
        {body}
"""
MODEL = """
from imgloop import Generator, Model, Pool
import numpy as np
class Fitted(Generator):
    def sample(self, n, *, seed, y=None, progress=None):
        {body}
    def save(self, folder):
        (folder / "nothing.txt").write_text("")
class Broken(Model):
    def fit(self, data, task, previous):
        return Fitted()
    def load(self, folder, device="cpu"):
        return Fitted()
"""
CURATION = """
from imgloop import Curation, Release
import numpy as np
class Broken(Curation):
    def released(self, n, t):
        return n // 2
    def __call__(self, drawn, context, rng):
        {body}
"""
CORRECTION = """
from imgloop import Correction
import numpy as np
class Broken(Correction):
    def __call__(self, x, context, rng):
        {body}
"""
MEASURE = """
from imgloop import Measure, MeasureInfo
class Broken(Measure):
    info = MeasureInfo("broken", "Broken")
    def __call__(self, samples, features, real, real_features):
        {body}
"""
DATA = """
from imgloop import Facts, Pool, RealData, Source
import numpy as np
class Broken(Source):
    def load(self, cache, progress=None):
        {body}
"""
WRONG = [
    ("paradigm", PARADIGM, "return Mix(np.zeros((3, 1), int), np.full((3, 1), 10**6))", "row 1000000"),
    ("paradigm", PARADIGM, "return Mix(np.full((3, 1), 7), np.zeros((3, 1), int))", "origin 7"),
    ("paradigm", PARADIGM, "return None", "NoneType"),
    ("paradigm", PARADIGM, "raise KeyError('lost')", "KeyError at line 6"),
    ("paradigm", PARADIGM, "return Mix(np.zeros((3, 1), int), np.zeros((3, 1), int), np.full((3, 1), np.nan))", "weights"),
    ("paradigm", PARADIGM, "pass\n    def initial(self, sizes, t):\n        return None", "uses None of"),
    ("paradigm", PARADIGM, "pass\n    def initial(self, sizes, t):\n        return 10**6", "uses 1000000 of"),
    ("curation", CURATION, "pass\n    def released(self, n, t):\n        return 0", "releases 0 of"),
    ("curation", CURATION, "return Release(np.arange(len(drawn)))", "rows"),
    ("curation", CURATION, "return Release(np.full(len(drawn) // 2, 10**6))", "row 1000000"),
    ("curation", CURATION, "return np.arange(3)", "Release"),
    ("curation", CURATION, "return Release(np.arange(len(drawn) // 2), np.full(len(drawn) // 2, np.nan))", "weights"),
    ("correction", CORRECTION, "return x / 255", "float64"),
    ("correction", CORRECTION, "return x[:3]", "uint8 (3"),
    ("correction", CORRECTION, "x += 1; return x", "read-only"),
    ("model", MODEL, "return Pool(np.zeros((n, 1, 8, 8)))", "float64"),
    ("model", MODEL, "return Pool(np.zeros((n + 1, 1, 8, 8), np.uint8))", "expected uint8"),
    ("model", MODEL, "return None", "NoneType"),
    ("measure", MEASURE, "return float('nan')", "nan"),
    ("measure", MEASURE, "return 'sharp'", "'sharp'"),
    ("data", DATA, "return None", "RealData"),
    ("data", DATA, "return RealData(Pool(np.ones((9, 1, 8, 8))), Pool(np.ones((9, 1, 8, 8))), None, Facts(label='x'))",
     "float64"),
    ("model", MODEL, "return Pool(np.zeros((n, 1, 9, 9), np.uint8))", "(1, 9, 9)"),
    ("measure", MEASURE, "return True", "True"),
    ("curation", CURATION, "raise SystemExit(3)", "SystemExit at line"),
]  # fmt: skip


def broken(root, group, text, yaml="_target_: broken.Broken\n"):
    (root / group).mkdir(parents=True, exist_ok=True)
    (root / "broken.py").write_text(text)
    (root / group / "broken.yaml").write_text(yaml)
    return root


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A chain of one generation; not to be changed."""
    return imgloop.run([*QUICK, *FEWER, "generations=1", f"out={tmp_path_factory.mktemp('begun')}"]).folder


@pytest.mark.parametrize(
    "group, template, body, words", thinned(WRONG, 2), ids=lambda v: v[:40] if isinstance(v, str) else ""
)
def test_a_part_that_breaks_its_contract_is_named_in_one_sentence(group, template, body, words, begun, tmp_path):
    root = broken(tmp_path / "parts", group, template.format(body=body))
    kept = group not in ("data", "model", "measure")
    if kept:  # a study with a finished chain beside the broken one
        shutil.copytree(begun.parents[1], tmp_path / begun.parents[1].name)
    quick = [o for o in QUICK if group != "model" or not o.startswith("model.")] + FEWER * (group != "data")
    with pytest.raises(UserError) as error:
        imgloop.run([*quick, f"{group}=broken", "generations=2", f"out={tmp_path}"], config_dir=root)
    message = str(error.value)
    assert f"{group}=broken" in message and "broken.py" in message and words in message, message
    assert "\n" not in message
    if kept:
        assert (tmp_path / begun.relative_to(begun.parents[2]) / "gen000" / "record.json").exists()


def test_a_part_that_cannot_be_built_is_named_in_one_sentence(tmp_path):
    good = PARADIGM.format(body="return self.newest(sizes, t, replicates)")
    for text, yaml, words in (
        (good, "_target_: broken.Missing\n", "Missing"),
        (good, "_target_: nowhere.Broken\n", "nowhere"),
        (good, "length: 3\n", "_target_"),
        ("import no_such_module\n", "_target_: broken.Broken\n", "no_such_module"),
        ("class Broken: pass\n", "_target_: broken.Broken\n", "__call__"),
        (good, "_target_: broken.Broken\nlength: 3\n", "length"),
        ("x = = 1\n", "_target_: broken.Broken\n", "SyntaxError"),
    ):
        root = broken(tmp_path / "parts", "paradigm", text, yaml)
        with pytest.raises(UserError) as error:
            run(root, tmp_path, "paradigm=broken")
        assert words in str(error.value) and "broken" in str(error.value), error.value
    assert not (tmp_path / "digits-diffusion").exists()


def test_a_part_with_the_name_of_ours_is_refused(tmp_path):
    (tmp_path / "parts" / "paradigm").mkdir(parents=True)
    (tmp_path / "parts" / "paradigm" / "replace.yaml").write_text("_target_: mine.Replace\n")
    with pytest.raises(UserError, match="replace") as error:
        run(tmp_path / "parts", tmp_path, "paradigm=accumulate")
    assert "rename" in str(error.value)


def test_a_changed_part_is_reported_when_a_chain_goes_on(parts, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(parts, root)
    first = imgloop.run([*QUICK, "generations=1", "paradigm=window", f"out={tmp_path}"], config_dir=root)
    (root / "window.py").write_text((root / "window.py").read_text() + "\n# changed\n")
    imgloop.run([*QUICK, "generations=2", "paradigm=window", f"out={tmp_path}"], config_dir=root)
    assert "code of paradigm=window" in (first.folder / "run.log").read_text()


def test_a_run_folder_names_no_code(parts, tmp_path):
    result = run(parts, tmp_path, "paradigm=window", "generations=1")
    identity = (result.folder / "config.yaml").read_text().split("identity:")[1].split("\nconfig:")[0]
    assert "_target_" not in identity and "window.Window" not in identity and "paradigm: window" in identity


@pytest.mark.parametrize("text", [b"_target_: [", b"a:\t- b\n\tc", b"- a\n", b"name: caf\xe9\n"])
def test_an_option_that_is_no_yaml_is_named(tmp_path, text):
    path = tmp_path / "parts" / "correction" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"mine\.yaml"):
        run(tmp_path / "parts", tmp_path, "correction=mine")
    ran = command("--config-dir", tmp_path / "parts", "correction=mine")
    assert ran.returncode == 1 and "mine.yaml" in ran.stderr and len(ran.stderr.splitlines()) == 1


WRITES = [
    ("measure", MEASURE, "samples.x[:] = 0; return 1.0"),
    ("curation", CURATION, "drawn.x[:] = 0; return Release(np.arange(len(drawn) // 2))"),
    ("curation", CURATION, "context.real.x[:] = 0; return Release(np.arange(len(drawn) // 2))"),
    ("correction", CORRECTION, "context.real.x[:] = 0; return x"),
]


@pytest.mark.parametrize("group, template, body", WRITES)
def test_a_part_cannot_change_what_it_is_given(tmp_path, group, template, body):
    root = broken(tmp_path / "parts", group, template.format(body=body))
    with pytest.raises(UserError, match="read-only") as error:
        imgloop.run([*QUICK, *FEWER, f"{group}=broken", "generations=1", f"out={tmp_path}"], config_dir=root)
    assert f"{group}=broken" in str(error.value) and not list(tmp_path.rglob("gen000"))


def test_a_chain_that_goes_on_with_another_measure_has_one_protocol(parts, tmp_path):
    first = run(parts, tmp_path, "generations=1", *FEWER)
    longer = run(parts, tmp_path, "generations=2", "measure=sharpness", *FEWER)
    assert longer.folder == first.folder and longer.metrics["fd"].notna().all()
    assert longer.metrics["sharpness"].notna().all() and longer.metrics["protocol"].nunique() == 1
