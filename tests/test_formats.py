"""Run folders of earlier formats: finished, extended, measured, read and refused as the current ones are.

tests/data/runs-format-1.zip holds studies of the first format, whose config.yaml has no format number and names classes
(`_target_`). To make it: run every line of COMMANDS in turn with that version as `python -m imgloop LINE out=runs
display=none` in an empty folder on one thread (OMP_NUM_THREADS=1). Then delete what is not needed, and pack the rest:

    rm -r runs/*/shared/generation0-*
    find runs -name '*.png' -delete
    find runs -name '*.lock' -delete
    zip -9 -X -r -D runs-format-1.zip runs
"""

from __future__ import annotations

import json
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import thinned
from safetensors.numpy import load_file

import imgloop
from imgloop import store
from imgloop.config.settings import parsed
from imgloop.errors import UserError
from imgloop.measure import measure
from imgloop.report.__main__ import main as report

DATA = Path(__file__).parent / "data"
SMALL = "data.n=60 data.heldout=20 features=pixels n_samples=24 train.images=64 model.batch=16 threads=1"
TINY = f"{SMALL} model.widths=[8] model.sampler_steps=2 generations=2"
SOURCE = (
    "digits-diffusion/accumulate,data.n=60,data.heldout=20,model.widths=8,model.batch=16,model.sampler_steps=2,"
    "n_samples=24,train.images=64/seed0@0"
)
COMMANDS = {
    "diffusion": f"paradigm=accumulate {TINY}",
    "gan": f"model=gan paradigm=replace {SMALL} model.widths=[4,4] generations=2 keep_models=1",
    "conditional": f"paradigm=replace model.conditional=true start=weights {TINY} study=conditional",
    "gaussian": "model=gaussian data=law paradigm=replace model.replicates=5 data.n=20 generations=3",
    "fork": f"paradigm=replace 'fork=\"runs/{SOURCE}\"' {TINY}",
}
RECIPE = [  # of that version, where null now means another
    "model.network=compact",
    "model.optimizer=adamw",
    "model.lr=0.003",
    "model.ema=0.999",
    "model.time_mean=0",
    "model.precondition=false",
]
GAN_RECIPE = ["model.lr=0.002", "model.gamma=2", "model.ema=0.999"]  # likewise
ADDED = ("optimizer", "time_mean", "precondition")  # settings of diffusion that came with format 3
TRAINED = [name for name in COMMANDS if name != "gaussian"]


@pytest.fixture(autouse=True)
def unpacked(tmp_path, monkeypatch):
    """Each test has the folder to itself: `runs` in the working directory."""
    with zipfile.ZipFile(DATA / "runs-format-1.zip") as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)


def run(name: str, *more: str) -> Path:
    """The folder of the chain after its command with `more` settings, of which the last of a name counts."""
    overrides = {o.partition("=")[0]: o for o in (*shlex.split(COMMANDS[name]), "out=runs", "display=none", *more)}
    return imgloop.run(list(overrides.values())).folder


def folder_of(name: str) -> Path:
    """The chain's folder in the archive."""
    places = {"diffusion": "digits-diffusion/accumulate*", "fork": "digits-diffusion/replace*", "gan": "digits-gan/*"}
    pattern = places.get(name, f"{name}/replace*")
    (folder,) = Path("runs").glob(f"{pattern}/seed0")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all results below a chain's folder: what its generations or its table of replicates hold."""
    paths = [p for p in folder.rglob("*") if p.is_file() and (p.parent != folder or p.name == "replicates.safetensors")]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def arrays(folder: Path, pattern: str) -> dict[str, np.ndarray]:
    """Every array of the safetensors files that match, by file and name."""
    paths = sorted(folder.glob(pattern))
    assert paths, f"no {pattern} in {folder}"
    return {f"{p.relative_to(folder)}:{k}": a for p in paths for k, a in load_file(p).items()}


def assert_equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert array.dtype == right[name].dtype and np.array_equal(array, right[name]), name


def surroundings(folder: Path) -> dict:
    """What the bits of a chain depend on besides its settings, by its first record."""
    record = json.loads(next(iter(sorted(folder.rglob("record.json")))).read_text())
    return {k: v for k, v in (record["versions"] | record["machine"]).items() if k != "imgloop"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_finished_chain_is_left_as_it_is(name):
    expected, before = folder_of(name), contents(folder_of(name))
    assert run(name) == expected
    assert "nothing to do" in (expected / "run.log").read_text()
    assert contents(expected) == before


@pytest.mark.parametrize("name", thinned(COMMANDS, 2))
def test_an_extended_chain_is_one_that_was_never_interrupted(name):
    """Bits are compared where processor and versions are those of the archive; sizes and mixes everywhere."""
    old, before, last = folder_of(name), contents(folder_of(name)), 4 if name == "gaussian" else 3
    made_by = surroundings(old)
    assert run(name, f"generations={last}") == old
    again = ["out=fresh", *{"gaussian": [], "gan": GAN_RECIPE}.get(name, RECIPE)]
    if name == "fork":  # the chain that it begins with is made anew, too
        again.append(f'fork="{run("diffusion", *again)}@0"')
    fresh = run(name, *again, f"generations={last}")
    patterns = ["replicates.safetensors"]
    if name != "gaussian":
        changed = [k for k, v in before.items() if contents(old).get(k) != v]
        assert not [k for k in changed if not (name == "gan" and "/model/" in k)]  # keep_models=1 removes weights
        patterns = ["gen*/pool.safetensors", "gen*/mix.safetensors", "gen*/model/**/*.safetensors"]
        assert_equal(arrays(old, patterns[1]), arrays(fresh, patterns[1]))
        assert len(sorted(old.glob("gen*"))) == last
    for pattern in patterns:
        ours, theirs = arrays(old, pattern), arrays(fresh, pattern)
        assert {k: a.shape for k, a in ours.items()} == {k: a.shape for k, a in theirs.items()}
        if made_by == surroundings(fresh):
            assert_equal(ours, theirs)


def test_a_new_chain_of_an_old_study_is_made_by_its_recipe():
    """Its generation 0 has the weights of the old chain's, up to versions; without the study it has other weights."""
    new, own = run("diffusion", "paradigm=real_only"), run("diffusion", "model.widths=[8,8]", "out=fresh")
    old = folder_of("diffusion")
    weights = [load_file(f / "gen000" / "model" / "network.safetensors") for f in (new, old, own)]
    assert new.parent.name == old.parent.name.replace("accumulate", "real_only")
    assert weights[0].keys() == weights[1].keys() != weights[2].keys()
    described = [json.loads((f / "gen000" / "model" / "imgloop.json").read_text()) for f in (new, own)]
    assert [d["network"] for d in described] == ["compact", "patch"]


def test_a_new_chain_of_an_old_study_of_gans_is_made_by_its_recipe():
    old, new = folder_of("gan"), run("gan", "paradigm=real_only")
    assert new.parent.name == old.parent.name.replace("replace", "real_only")
    assert yaml.safe_load((new / "config.yaml").read_text())["config"]["model"]["ema"] == 0.999
    assert "version 0.1.0" in (new / "run.log").read_text()


def test_a_chain_of_an_objective_without_a_mean_of_levels_goes_on(tmp_path):
    """Format 2 had no optimizer, time_mean and precondition; edm has no time_mean to be filled in."""
    given = [*shlex.split(TINY), "model.objective=edm", "out=old", "display=none", "generations=1"]
    recipe = [r for r in RECIPE if "time_mean" not in r and "precondition" not in r]
    made, folder = imgloop.run([*given, *recipe]).folder, parsed(given).folder
    folder.parent.mkdir(parents=True)
    made.rename(folder)
    record = folder / "gen000" / "record.json"
    store.write_sealed(record, {**store.read_json(record), "condition": folder.parent.name})
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    identity = {k: v for k, v in stored["identity"].items() if k.split(".")[-1] not in ADDED}
    kept = {"format": 2, "choices": stored["choices"], "identity": identity, "config": stored["config"]}
    (folder / "config.yaml").write_text(yaml.safe_dump(kept, sort_keys=False))
    longer = [g for g in given if not g.startswith("generations")]
    assert imgloop.run([*longer, "generations=2"]).folder == folder
    described = json.loads((folder / "gen001" / "model" / "imgloop.json").read_text())
    assert described["network"] == "compact" and "version 0.1.0" in (folder / "run.log").read_text()


def test_a_new_chain_takes_the_recipe_and_not_what_another_was_given():
    """The old chains were given a batch of 16; the recipe's was 64, which is more than their 60 images."""
    new = run("diffusion", "paradigm=real_only", "model.batch=null")
    assert "model.batch" not in new.parent.name and "batch: 64" in (new / "config.yaml").read_text()


@pytest.mark.parametrize("name", TRAINED)
def test_samples_are_measured_again_under_another_protocol(name):
    chain = folder_of(name)
    before = contents(chain)
    protocol = measure(chain, ["features=random"])
    assert protocol.startswith("random-")
    after = contents(chain)
    generations = sorted(p.name for p in chain.glob("gen*"))
    assert after.keys() - before.keys() == {f"{g}/scores/{protocol}.json" for g in generations}
    assert {k: after[k] for k in before} == before
    table = imgloop.load_study(chain.parents[1], protocol)
    mine = table[table["condition"] == chain.parent.name]
    assert mine["fd"].notna().all() and set(mine["protocol"]) == {protocol}


@pytest.mark.parametrize("name", ["digits-diffusion", "digits-gan", "conditional", "gaussian"])
def test_a_study_is_read(name):
    study, table = imgloop.Study(f"runs/{name}"), imgloop.load_study(f"runs/{name}")
    keys = ["condition", "seed", "generation"]
    pd.testing.assert_frame_equal(table[keys], study.table[keys])
    assert set(table["condition"]) == set(study.conditions) == {chain.parent.name for chain in study.chains}
    assert study.solvable == (name == "gaussian")
    assert table["w2" if study.solvable else "fd"].notna().all()
    for condition in [] if study.solvable else study.conditions:
        assert study.images(condition, seed=0, generation=1).shape == (24, 1, 8, 8)


@pytest.mark.parametrize("name", ["digits-diffusion", "gaussian"])
def test_a_study_is_reported(name):
    assert report([f"runs/{name}"]) == 0
    page = Path(f"runs/{name}/report.html").read_text()
    assert all(condition in page for condition in imgloop.Study(f"runs/{name}").conditions)


@pytest.mark.parametrize(
    ("name", "text", "changed", "setting"),
    [
        ("diffusion", "model.batch: 16", "model.batch: 32", "model.batch"),
        ("gan", "model.gamma: 2", "model.gamma: 3", "model.gamma"),
        ("conditional", "start: weights", "start: scratch", "start"),
        ("gaussian", "data.n: 20", "data.n: 30", "data.n"),
        ("fork", "paradigm.real_fraction: 0", "paradigm.real_fraction: 0.5", "real_fraction"),
    ],
)
def test_other_settings_are_refused_by_name(name, text, changed, setting):
    path = folder_of(name) / "config.yaml"
    assert text in path.read_text()
    path.write_text(path.read_text().replace(text, changed))
    before = contents(path.parent)
    with pytest.raises(UserError, match=rf"{setting}\b"):
        run(name, "generations=4")
    assert contents(path.parent) == before
