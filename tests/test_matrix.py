"""Combinations of data, model, labels, paradigm, start and bias run as tiny chains: every level of each, and nightly
every pair of levels. And every setting in conf/ has an effect."""

from __future__ import annotations

import random
import tempfile
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import thinned
from PIL import Image

import imgloop
from imgloop import store
from imgloop.config.compose import CONF
from imgloop.config.settings import Settings, parsed
from imgloop.errors import UserError
from imgloop.pool import REAL, Mix, Pool, TrainingSet
from imgloop.study.real import real_key
from imgloop.training.tasks import Task

FACTORS = {
    "data": ["digits", "folder", "cifar10", "cifar100", "ffhq", "shapes", "stacked_digits"],
    "model": [
        "objective=flow,sampler=heun",
        "objective=flow,sampler=euler",
        "objective=flow,sampler=dpmpp,time=uniform",
        "objective=flow,network=unet2d",
        "objective=edm,sampler=heun",
        "objective=edm,sampler=euler",
        "objective=edm,sampler=dpmpp",
        "objective=ddpm,sampler=ddim",
        "objective=ddpm,sampler=dpmpp",
        "objective=ddpm,sampler=ddim,prediction=epsilon",
        "gan",
    ],
    "labels": ["none", "training", "real", "guided"],
    "paradigm": [
        "replace real_fraction=0.5",
        "accumulate",
        "accumulate_subsample budget=40",
        "augment real_weight=2",
        "fresh n_initial=30 n_real=20",
        "edit edit_fraction=0.03",
        "real_only",
    ],
    "start": ["scratch", "weights", "weights_and_optimizer", "PATH"],
    "bias": ["1.0", "0.5"],
}


def impossible(row: dict[str, str]) -> str | None:
    """A word of the message that refuses a combination; None where it must run."""
    if row["labels"] != "none" and row["data"] == "ffhq":
        return "labelled data"
    if row["labels"] != "none" and row["data"] == "stacked_digits":  # 80 images here, of 1,000 classes
        return "every class"
    return None


REFUSED = [
    {"data": data, "labels": labels}
    for data in FACTORS["data"]
    for labels in FACTORS["labels"]
    if impossible({"data": data, "labels": labels})
]


def levels(size: int) -> set[tuple[tuple[str, str], ...]]:
    """All combinations of levels of `size` factors that are not refused."""
    sets: set[tuple[tuple[str, str], ...]] = {()}
    for name in FACTORS:
        sets |= {(*chosen, (name, level)) for chosen in sets if len(chosen) < size for level in FACTORS[name]}
    return {chosen for chosen in sets if len(chosen) == size and dict(chosen) not in REFUSED}


def rows(size: int) -> list[dict[str, str]]:
    """Few rows that hold all combinations of levels of `size` factors, the same rows every time: of a hundred random
    rows that contain the first combination left, the one with most combinations that are left."""
    rng, left, chosen = random.Random(0), levels(size), []
    while left:
        first = dict(min(left))
        tries = [{n: first.get(n) or rng.choice(FACTORS[n]) for n in FACTORS} for _ in range(100)]
        possible = [row for row in tries if not impossible(row)]
        best = max(possible, key=lambda row: len(left & set(combinations(row.items(), size))))
        left -= set(combinations(best.items(), size))
        chosen.append(best)
    return chosen


FEW, PAIRS = rows(1), rows(2)


def images(root, names, size):
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (size, size, 3), np.uint8)).save(root / name)
    return str(root)


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """Settings of each source; those that read files get random images in their own layout."""
    root = tmp_path_factory.mktemp("sources")
    cifar = [f"{part}/{c}/{i}.png" for part, k in (("train", 12), ("test", 4)) for c in CIFAR10 for i in range(k)]
    many = [f"{part}/{k:02}/{i}.png" for part, n in (("train", 2), ("test", 1)) for k in range(100) for i in range(n)]
    images(root / "folder", [f"{c}/{i}.png" for c in "abc" for i in range(40)], 16)
    images(root / "cifar10", cifar, 32)
    images(root / "cifar100", many, 32)
    images(root / "ffhq", [f"00000/{k:05}.png" for k in range(90)], 128)
    small = ["data.size=8", "data.heldout=20"]
    return {
        "digits": ["data.n=80"],
        "folder": [f"data.root={root}/folder", *small],
        "cifar10": [f"data.root={root}/cifar10", "data.n=100", *small],
        "cifar100": [f"data.root={root}/cifar100", *small],
        "ffhq": [f"data.root={root}/ffhq", *small],
        "shapes": ["data.size=16", "data.n=600", "data.heldout=20"],
        "stacked_digits": ["data.n=80", "data.heldout=20"],
    }


CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
QUICK = ["train.images=64", "n_samples=24", "features=pixels", "threads=1", "display=none"]
QUICK += ["model.widths=[8,16]", "model.batch=32"]  # two steps


def overrides(row: dict[str, str], sources) -> list[str]:
    """The command line of a row, without its start."""
    gan = row["model"] == "gan"
    model = ["model=gan"] if gan else [f"model.{s}" for s in (*row["model"].split(","), "sampler_steps=2")]
    labels = {
        "none": [],
        "training": ["model.conditional=true"],
        "real": ["model.conditional=true", "model.labels=real"],
        "guided": ["model.conditional=true"] + ([] if gan else ["model.guidance=2"]),
    }[row["labels"]]
    paradigm = f"paradigm={row['paradigm']}".split()
    return [
        *QUICK,
        f"data={row['data']}",
        *sources[row["data"]],
        *model,
        *labels,
        *paradigm,
        f"model.bias={row['bias']}",
    ]


def name(row: dict[str, str]) -> str:
    return "-".join(row.values()).replace(" ", "-")


def test_the_rows_hold_every_level_and_every_pair():
    for size, chosen in ((1, FEW), (2, PAIRS)):
        assert {c for row in chosen for c in combinations(row.items(), size)} >= levels(size)
    assert {c for (c,) in levels(1)} == {(factor, level) for factor in FACTORS for level in FACTORS[factor]}
    assert len(FEW) <= 12
    assert len(PAIRS) < 1.5 * len(FACTORS["model"]) * len(FACTORS["paradigm"])  # all pairs of the largest two factors


@pytest.mark.parametrize("row", thinned(REFUSED, 3), ids=name)
def test_a_combination_without_the_labels_it_needs_is_refused(row, sources, tmp_path):
    for model in ("objective=flow,sampler=heun", "gan"):
        given = overrides({"model": model, "paradigm": "replace", "bias": "1.0", **row}, sources)
        with pytest.raises(UserError, match=str(impossible(row))):
            imgloop.run([*given, f"out={tmp_path}", "generations=1"])


@pytest.mark.parametrize("row", thinned(FEW, 4), ids=name)
def test_every_level_runs(row, sources, tmp_path):
    check_row(row, sources, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("row", PAIRS, ids=name)
def test_every_pair_of_levels_runs(row, sources, tmp_path):
    check_row(row, sources, tmp_path)


def check_row(row: dict[str, str], sources, tmp_path) -> None:
    """Run a chain of two generations and check its scores and pools."""
    given = [*overrides(row, sources), f"out={tmp_path}"]
    if row["start"] == "PATH":
        first = imgloop.run([*given, "generations=1"]).folder / "gen000"
        given += [f'start="{first}"', "study=second"]
    else:
        given += [f"start={row['start']}"]
    run = imgloop.run([*given, "generations=2"])
    assert list(run.metrics["generation"]) == [0, 1] and np.isfinite(run.metrics["fd"]).all()
    real = store.open_arrays(next((run.folder.parent.parent / "shared").glob("real-*/train.safetensors")))["x"]
    for t in (0, 1):
        folder = run.folder / f"gen{t:03d}"
        pool, record = store.open_arrays(folder / "pool.safetensors"), store.read_json(folder / "record.json")
        assert len(pool["x"]) == 24 and pool["x"].std() > 0 and ("y" in pool) == (row["labels"] != "none")
        assert record["sampling"]["bias"] == float(row["bias"]) and pool["x"].shape[1:] == real.shape[1:]


@pytest.mark.parametrize(
    "data", [pytest.param(d, marks=[pytest.mark.nightly] if d == "shapes" else []) for d in FACTORS["data"]]
)
def test_the_gaussian_runs_on_every_source_of_images(data, sources, tmp_path):
    paradigm = FACTORS["paradigm"][FACTORS["data"].index(data)].split()
    given = ["model=gaussian", "model.replicates=2", f"data={data}", *sources[data], f"paradigm={paradigm[0]}"]
    settings = [s for s in paradigm[1:] if not s.startswith("real_weight")]  # this system has no weights
    run = imgloop.run([*given, *settings, "generations=2", "display=none", f"out={tmp_path}"])
    assert len(run.metrics) == 2 and run.metrics.filter(like="variance").notna().all(None)


# Every setting has an effect: each key of each file of conf/ is changed, and the result differs.

DATA = {  # another value than the source's settings above; None: tested elsewhere
    "root": None,  # test_sources
    "size": 12,
    "channels": 1,
    "n": 40,
    "heldout": 15,
    "seed": 1,
    "classes": [1, 2],
    "imbalance": 2,
    "labels": False,
    "tail": 3,
    "skip_broken": None,  # test_data
}
FIXED = {("digits", "size"), ("stacked_digits", "size")}
MODELS = {
    "diffusion": {
        "network": "unet2d",
        "widths": [16, 16],
        "batch": 32,
        "optimizer": "adamw",
        "lr": 1e-3,
        "ema": 0.2,
        "objective": "edm",
        "time": "uniform",
        "time_mean": 1.0,
        "precondition": True,
        "prediction": "epsilon",
        "sampler": "euler",
        "sampler_steps": 3,
        "bias": 0.5,
        "extrapolate": 1.0,
        "extrapolate_by": "scores",
        "extrapolate_share": 0.5,
        "conditional": True,
        "labels": "real",
        "guidance": 2.0,
        "guidance_interval": [0.2, 0.7],
        "label_drop": 0.5,
    },
    "gan": {
        "widths": [16, 16],
        "blocks": 2,
        "conditional": True,
        "labels": "real",
        "batch": 16,
        "lr": 1e-3,
        "gamma": 0.5,
        "ema": 0.2,
        "bias": 0.5,
    },
}
NEEDS = {  # settings without which a setting has no effect
    "prediction": ["model.objective=ddpm"],
    "extrapolate_share": ["model.extrapolate=1"],
    "extrapolate_by": ["model.extrapolate=1"],
    "labels": ["model.conditional=true"],
    "guidance": ["model.conditional=true"],
    "guidance_interval": ["model.conditional=true", "model.guidance=2"],
    "label_drop": ["model.conditional=true"],
}
SYSTEMS = {
    "gaussian_mean": {"replicates": 5},
    "gaussian": {"replicates": 5, "dimension": 2, "unbiased": True, "bias": 0.9},
    "discrete": {"replicates": 5, "outcomes": 4, "p": [0.7, 0.2, 0.1]},
    "poisson": {"replicates": 5, "rate": 2.0},
    "bernoulli": {"replicates": 5, "p": 0.2},
    "mixture": {"replicates": 5, "separation": 1.0, "threshold": 1.0},
    "kde": {"replicates": 5, "bandwidth": 0.5},
    "regression": {"replicates": 5, "dimension": 3, "noise": 2.0, "design": "resampled"},
}
MIXES = {
    "n_initial": 30,
    "real_fraction": 0.5,
    "n_real": 7,
    "n_synthetic": 9,
    "budget": 11,
    "edit_fraction": 0.5,
    "real_weight": 3.0,
}


def keys(group: str, option: str) -> set[str]:
    node = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    return {k for k in node if not k.startswith("_")} - {"defaults"}


@cache
def settings(*overrides: str) -> Settings:
    return parsed(overrides)


def text(value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")


def test_every_setting_of_conf_is_among_the_changes():
    for option in FACTORS["data"]:
        assert keys("data", option) <= DATA.keys(), option
    for group in (MODELS, SYSTEMS):
        assert {o: keys("model", o) for o in group} == {o: set(changes) for o, changes in group.items()}
    assert {p.stem for p in (CONF / "model").glob("*.yaml")} == {*MODELS, *SYSTEMS}
    assert {p.stem for p in (CONF / "data").glob("*.yaml")} == {*FACTORS["data"], "law"}
    for p in (CONF / "paradigm").glob("*.yaml"):
        assert keys("paradigm", p.stem) <= MIXES.keys(), p


@pytest.mark.parametrize(
    "option, key",
    [
        p
        for p in thinned(
            [
                (o, k)
                for o in FACTORS["data"]
                for k in sorted(keys("data", o))
                if DATA[k] is not None and (o, k) not in FIXED
            ],
            5,
        )
    ],
)
def test_every_setting_of_the_data_changes_them(option, key, sources, tmp_path):
    change = 20 if (option, key) == ("shapes", "size") else DATA[key]
    fewer = {"classes": ["data.n=null", "data.heldout=2"], "imbalance": ["data.n=null"]}  # of two classes, of a tail
    usual = [*sources[option], *fewer.get(key, [])]

    def load(*more):
        real = settings(f"data={option}", *usual, *more).build("data").load(tmp_path / "cache")
        return real_key(real), real.classes

    assert load() == load() != load(f"data.{key}={text(change)}")


def samples(option: str, *overrides: str) -> np.ndarray:
    """Samples uint8 (40, 1, 8, 8) of a model that is fitted to random images for six steps."""
    x = np.random.default_rng(0).integers(0, 256, (64, 1, 8, 8), np.uint8)
    pool = Pool(x, np.minimum(np.arange(64) % 9, 3))
    data = TrainingSet({REAL: pool}, Mix(np.full((40, 1), REAL), np.arange(40)[:, None] // 2))  # other class shares
    given = [f"model={option}", "model.widths=[8,16]", "model.batch=8"]
    given += ["model.sampler_steps=2"] if option == "diffusion" else []
    model = settings(*given, *overrides).build("model")
    with tempfile.TemporaryDirectory() as scratch:
        return model.fit(data, Task(0, 0, 48, "scratch", Path(scratch)), None).sample(40, seed=1).x


usual_samples = cache(samples)


@pytest.mark.parametrize("option, key", thinned([(o, k) for o, changes in MODELS.items() for k in changes], 4))
def test_every_setting_of_a_model_changes_its_samples(option, key):
    needs = NEEDS.get(key, [])
    changed = samples(option, *needs, f"model.{key}={text(MODELS[option][key])}")
    assert not np.array_equal(usual_samples(option, *needs), changed)


@pytest.mark.parametrize("option, needs", [(o, n) for o in MODELS for n in ([], NEEDS["labels"])])
def test_a_model_with_the_same_settings_has_the_same_samples(option, needs):
    assert np.array_equal(usual_samples(option, *needs), samples(option, *needs))


@pytest.mark.parametrize("option, key", thinned([(o, k) for o, changes in SYSTEMS.items() for k in changes], 5))
def test_every_setting_of_a_system_changes_its_table(option, key, tmp_path):
    def table(folder, *more):
        given = [f"model={option}", "model.replicates=3", "generations=3", "display=none", f"out={tmp_path / folder}"]
        return imgloop.run([*given, *more]).metrics

    usual = table("a")
    assert usual.equals(table("b")) and not usual.equals(table("c", f"model.{key}={text(SYSTEMS[option][key])}"))


@pytest.mark.parametrize(
    "option, key",
    thinned(
        [(p.stem, k) for p in sorted((CONF / "paradigm").glob("*.yaml")) for k in sorted(keys("paradigm", p.stem))], 2
    ),
)
def test_every_setting_of_a_paradigm_changes_its_mix(option, key):
    start = {"n_initial": 20, "n_real": 10} if option == "fresh" else {}
    start |= {"real_fraction": 0.25} if key == "real_weight" and option == "replace" else {}

    def mixes(**more):
        given = [f"{k}={v}" for k, v in (start | more).items()]
        paradigm = settings(f"paradigm={option}", *given).build("paradigm")
        sizes, made = {REAL: 80}, []
        for t in range(3):
            made.append(paradigm(sizes, t, np.random.default_rng(t)))
            sizes[t] = 80
        return [(m.origin.tolist(), m.row.tolist(), m.weight is None or m.weight.tolist()) for m in made]

    assert mixes() == mixes() != mixes(**{key: MIXES[key]})
