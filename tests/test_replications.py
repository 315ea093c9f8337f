"""Published set-ups by name: each composes, cites its paper, runs, and has its tables printed by
scripts/replications.py."""

import re
from itertools import product

import numpy as np
import pandas as pd
import pytest
import replications
from conftest import REPO, TINY, thinned
from hydra.core.override_parser.overrides_parser import OverridesParser
from scipy import stats

import imgloop
from imgloop.config.compose import compose
from imgloop.config.settings import parsed

FOLDER = REPO / "conf" / "experiment" / "published"
PAGE = (REPO / "docs" / "replications.md").read_text()
PAPERS = {
    "alemohammad": "2307.01850",
    "bertrand": "2310.00429",
    "gillman": "2402.07087",
    "ferbach": "2407.09499",
    "gerstgrasser": "2404.01413",
    "kazdan": "2410.16713",
    "schaeffer": "2503.03150",
    "shi": "2509.16499",
}
SOLVABLE = [*replications.SYSTEMS]
TRAINED = [*replications.SETUPS]
REAL = {"digits": 1397, "cifar10": 50_000}  # training images


def jobs(name):
    """The overrides of each condition of a set-up."""
    params = compose([f"experiment=published/{name}"]).hydra.sweeper.params
    overrides = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items() if k != "seed"])
    values = [[f"{o.get_key_element()}={v}" for v in o.sweep_string_iterator()] for o in overrides]
    return [[f"experiment=published/{name}", *job] for job in product(*values)]


def conditions(name):
    """The settings of each condition of a set-up, for seed 0."""
    return [parsed(job) for job in jobs(name)]


def test_every_paper_has_a_set_up_and_every_trained_one_a_gpu_size():
    assert {n.split("/")[0] for n in replications.NAMES} == set(PAPERS)
    assert set(replications.NAMES) == {*SOLVABLE, *TRAINED, *(f"{n}/gpu" for n in TRAINED)}


@pytest.mark.parametrize("name", replications.NAMES)
def test_a_set_up_cites_its_paper_and_stands_in_the_documentation(name):
    number, text = PAPERS[name.split("/")[0]], (FOLDER / f"{name}.yaml").read_text()
    assert f"(arXiv {number})" in text and number in PAGE and f"published/{name}" in PAGE
    assert name.endswith("/gpu") or re.search(r"# [A-Z]\w+ et al\. 20\d\d \(arXiv", text)
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", thinned(replications.NAMES, 4))
def test_a_set_up_composes_with_a_name_for_each_condition_and_data_for_each_generation(name):
    settings = conditions(name)
    names = [s.condition for s in settings]
    assert len(set(names)) == len(names) >= 3 and max(map(len, names)) <= 60
    assert {s.study.name for s in settings} == {replications.study_of(name, FOLDER).name}
    for s in settings:
        assert s.solvable == (name in SOLVABLE)
        if not s.solvable:
            assert (s.choices["data"], s.choices["trainer"]) == (
                ("cifar10", "gpu") if name.endswith("/gpu") else ("digits", "cpu")
            )
            paradigm, curation, sizes = s.build("paradigm"), s.build("curation"), {-1: REAL[s.choices["data"]]}
            for t in range(s.config["generations"]):
                assert len(paradigm(sizes, t, np.random.default_rng(t))) > 0 and s.images(t) > 0
                drawn = int(s.n_samples(t)) if s.n_samples else paradigm.initial(sizes, 0)
                sizes[t] = curation.released(drawn, t)


@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_set_up_has_five_seeds(name):
    params = compose([f"experiment=published/{name}"]).hydra.sweeper.params
    assert params["seed"] == "range(0,5)"


def test_conditions_are_compared_with_their_control_or_their_like():
    def pairs(name, *conditions):
        return {c: replications.SETUPS[name].compared_with(c, conditions) for c in conditions}

    mad = ["real_only", "fresh", "real_only,model.bias=0.7", "fresh,model.bias=0.7"]
    assert list(pairs("alemohammad", *mad).values()) == [None, mad[0], None, mad[2]]
    assert pairs("bertrand", "real_only", "real_only,n_samples=500", "replace,n_samples=500") == {
        "real_only": None,
        "real_only,n_samples=500": None,
        "replace,n_samples=500": "real_only,n_samples=500",
    }
    chosen = ["replace", "replace,curation.scale=0", "augment", "augment,curation.scale=0"]
    assert list(pairs("ferbach", *chosen).values()) == [chosen[1], None, chosen[3], None]
    assert pairs("shi", "accumulate", "accumulate,curation=farthest")["accumulate,curation=farthest"] == "accumulate"
    assert pairs("gillman", "augment", "replace", "augment,correction=centroid") == {
        "augment": None,
        "replace": None,
        "augment,correction=centroid": "augment",
    }


def test_the_controls_that_the_documentation_adds_compose():
    added = re.findall(r"python -m imgloop (?:-m )?([^`]*paradigm=real_only[^`]*?)(?: 'seed=range\(0,5\)')?`", PAGE)
    assert len(added) == 2
    for words, experiment in zip(added, ("ferbach", "shi"), strict=True):
        given, own = parsed(words.split()), parsed([f"experiment=published/{experiment}"])
        assert given.study == own.study and given.condition.startswith("real_only")
        for key in ("generations", "n_initial", "train"):
            assert given.config[key] == own.config[key]


def run(name, out):
    """A small study of a set-up's first and last condition, one seed, two generations."""
    small = TINY if name not in SOLVABLE else ["model.replicates=20", "display=none"]
    keys = {o.split("=")[0] for job in jobs(name) for o in job}
    small = [o for o in small if o.split("=")[0] not in keys]
    needed = {"ferbach": "features="}.get(name, "-")  # a reward needs the digits' classifier
    small = [o for o in small if not o.startswith(needed)]
    for job in jobs(name)[:: len(jobs(name)) - 1]:
        assert len(imgloop.run([*job, *small, "generations=2", f"out={out}"]).metrics) == 2


@pytest.mark.parametrize(
    "name", ["kazdan/gaussian", *(pytest.param(n, marks=pytest.mark.nightly) for n in [*TRAINED, "kazdan/kde"])]
)
def test_a_set_up_runs_and_its_table_is_printed(name, tmp_path, capsys):
    run(name, tmp_path)
    replications.main([name, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.startswith(f"## published/{name}\n") and printed.count("\n| ") >= 2 and "not run yet" not in printed


def test_times_to_total_collapse_are_printed_beside_the_formula_of_the_paper(tmp_path, capsys):
    imgloop.run(["experiment=published/schaeffer", "data.n=10", f"out={tmp_path}", "display=none", "generations=500"])
    replications.main(["schaeffer", "--out", str(tmp_path)])
    draws, outcomes, simulated, exact, diffusion, paper, ratio = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("| 10 ")
    ).split("|")[1:-1]
    mean, sem = map(float, simulated.split("±"))
    assert (int(draws), int(outcomes)) == (10, 10) and float(paper) == pytest.approx(10 * np.log(10), rel=1e-3)
    assert abs(mean - float(exact)) < 4 * sem and float(ratio) == pytest.approx(mean / float(paper), abs=0.01)
    assert float(diffusion) == pytest.approx(-20 * 10 * 0.9 * np.log(0.9), rel=1e-3)


def test_differences_are_paired_by_seed_with_a_t_interval(monkeypatch, tmp_path):
    rng = np.random.default_rng(3)
    mine, theirs = rng.normal(2, 0.3, 5), rng.normal(1, 0.3, 5)
    rows = [
        {"condition": c, "seed": s, "generation": t, "fd": values[s] if t == 1 else 9.0}
        for c, values in (("augment", theirs), ("augment,correction=centroid", mine))
        for s in range(5)
        for t in range(2)
    ]
    monkeypatch.setattr(replications, "load_study", lambda study: pd.DataFrame(rows))
    monkeypatch.setattr(replications, "verdicts", lambda study: {})
    lines = list(replications.trained(tmp_path, replications.SETUPS["gillman"]))
    assert lines[0] == "Generation 1."
    last = [cell.strip() for cell in lines[-1].split("|")[1:-1]]
    low, high = stats.t.interval(0.95, 4, (mine - theirs).mean(), stats.sem(mine - theirs))
    expected = f"{mine.mean():.3g} ± {stats.sem(mine):.2g}; {(mine - theirs).mean():+.3g} [{low:+.3g}, {high:+.3g}]"
    assert last == ["augment,correction=centroid", "5", "augment", expected]
    assert lines[-2].endswith(f"|  | {theirs.mean():.3g} ± {stats.sem(theirs):.2g} |")


def test_conditions_that_a_study_lacks_are_named(tmp_path):
    chosen = parsed([*jobs("gerstgrasser")[0], f"out={tmp_path}"])
    study = replications.study_of("gerstgrasser", tmp_path)
    (study / chosen.condition / "seed0" / "gen000").mkdir(parents=True)
    (study / chosen.condition / "seed0" / "config.yaml").write_text("")
    said = replications.lacking("gerstgrasser", study)
    assert said.startswith("not run: ") and chosen.condition not in said.removeprefix("not run: ").split(", ")
    assert len(said.split(", ")) == 2


def test_what_was_not_run_is_said_and_an_unknown_name_is_refused(tmp_path, capsys):
    replications.main(["shi", "bertrand/gpu", "--out", str(tmp_path)])
    assert capsys.readouterr().out.count("not run yet") == 2
    with pytest.raises(SystemExit) as error:
        replications.main(["mad"])
    printed = capsys.readouterr().err
    assert error.value.code == 2 and "mad is not a published set-up" in printed and "Traceback" not in printed


def test_the_cost_counts_a_shared_first_generation_once():
    cells = [c.strip().replace(",", "") for c in replications.cost("gerstgrasser/gpu").split("|")[2:-1]]
    images, samples = 5 * (1 + 3 * 7) * 4_000_000, 15 * 8 * 50_000
    assert cells[:4] == ["15", "120", str(images), str(samples)]
    flop = 23e9 * (images + samples * 35 / 3)
    steps = images / 512 + samples / 256 * 35 / 3
    assert cells[4] == f"{(flop / (0.014 * 989e12) + 0.0117 * steps) / 3600:.0f} h"


@pytest.mark.nightly
@pytest.mark.parametrize("name", TRAINED)
def test_a_cpu_size_takes_some_fifteen_minutes(name):
    assert 5 <= int(replications.cost(name).split("|")[-2].removesuffix(" min ")) <= 17
