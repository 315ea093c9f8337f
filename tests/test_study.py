"""Reading studies: rows, protocols, the user's own measures, both kinds of chain, comparisons and CSV tables."""

import base64
import io
import re

import numpy as np
import pandas as pd
import pytest
from conftest import html_rows
from PIL import Image

from imgloop import store
from imgloop.data.real import Facts, RealData
from imgloop.errors import UserError
from imgloop.loop import Result
from imgloop.measures import COLUMNS, MEASURES, MeasureInfo
from imgloop.pool import Pool
from imgloop.study import solved, tables, trained
from imgloop.study.compare import compare, comparison_lines, sizes_differ, spread_text
from imgloop.study.plain import read_table
from imgloop.study.real import read_real, real_key, write_real
from imgloop.study.study import Study

SHARPNESS = MeasureInfo("sharpness", "Sharpness", "edge energy", collapse="falls", headline=True)
RECORD = {
    "n_train": 40,
    "n_pool": 8,
    "real_share": 1.0,
    "seconds": {"train": 1.5},
    "versions": {},
    "share_by_origin": {},
}


def trained_chain(study, condition="replace", seed=0, generations=2, protocol="pixels-1", own=(), **scores):
    """A chain of a trained model with one score file a generation: its folder."""
    for t in range(generations):
        folder = study / condition / f"seed{seed}" / f"gen{t:03d}"
        store.write_json(folder / "record.json", {"generation": t, **RECORD})
        store.write_arrays(folder / "evolution.safetensors", {"x": np.full((2, 1, 4, 4), 90 * t, np.uint8)})
        add_scores(folder, protocol, own, **{"fd": 1.0 + t + seed, "precision": None, **scores})
    return study / condition / f"seed{seed}"


def add_scores(folder, protocol, own=(), **scores):
    described = {"measures": [info.to_dict() for info in own]} if own else {}
    store.write_json(folder / "scores" / f"{protocol}.json", {"protocol": described, "scores": scores, "notes": {}})


def solved_chain(study, condition="replace", seed=0):
    """A chain of a solvable system with one quantity, two generations, three replicates: its folder."""
    folder = study / condition / f"seed{seed}"
    x = np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]])
    quantity = {"label": "variance", "kind": "mean", "skewed": False, "log": False, "mark": None}
    q = solved.Quantity("variance")
    facts = [{"n_train": 5, "n_pool": 5, "real_share": 1.0}] * 2
    store.write_arrays(folder / "replicates.safetensors", {"variance": x})
    frame = solved.frame(facts, {"variance": x}, {"variance": q}, {"variance": np.array([2.0, 3.5])}, {})
    store.write_text(folder / "metrics.csv", tables.csv_text(frame))
    hashes = {f"{name}_hash": store.file_hash(folder / file) for name, file in solved.FILES.items()}
    facts = {"condition": condition, "model": "gaussian", "replicates": 3, "absorbed": False, "timescale": None}
    done = {"complete": True, "generations": 2, "quantities": {"variance": quantity}}
    store.write_json(folder / "record.json", facts | done | hashes)
    return folder


def test_a_row_has_sizes_times_and_the_scores_of_one_protocol(tmp_path):
    folder = trained_chain(tmp_path) / "gen001"
    row = trained.row(folder, "pixels-1")
    assert (row["generation"], row["n_train"], row["n_pool"], row["n_drawn"]) == (1, 40, 8, 8)
    assert (row["fd"], row["precision"], row["protocol"], row["seconds_train"]) == (2.0, None, "pixels-1", 1.5)
    assert row["seconds_sample"] is None and "fd" not in trained.row(folder, "inception-1")
    store.write_json(folder / "record.json", {"generation": 1, **RECORD, "n_drawn": 12})
    assert (trained.row(folder, None)["n_drawn"], trained.row(folder, None)["n_pool"]) == (12, 8)


def test_a_table_has_the_columns_in_order_and_none_that_is_empty(tmp_path):
    frame = tables.table(trained_chain(tmp_path, recall=0.5))
    assert list(frame) == [c for c in COLUMNS if c in frame]
    assert {"n_drawn", "fd", "recall"} <= set(frame) and not {"precision", "seconds_sample"} & set(frame)


def test_protocols_are_ordered_by_when_they_were_written(tmp_path):
    chains = [trained_chain(tmp_path, seed=s) for s in range(3)]
    add_scores(chains[0] / "gen000", "random-1", fd=7.0)
    assert trained.protocols(chains[0]) == ["pixels-1"]  # measuring by the other has not ended
    for generation in trained.generations(chains[0])[1:]:
        add_scores(generation, "random-1", fd=7.0)
    assert trained.protocols(chains[0])[-1] == "random-1" and tables.table(chains[0])["fd"][0] == 7
    assert tables.common_protocol(chains) == "pixels-1" and set(tables.load_study(tmp_path)["protocol"]) == {"pixels-1"}
    for generation in (g for chain in chains[1:] for g in trained.generations(chain)):
        add_scores(generation, "random-1", fd=7.0)
    assert tables.common_protocol(chains) == "random-1"  # the newest of two that all have


def test_the_kinds_of_chain_are_told_apart(tmp_path):
    a, b = trained_chain(tmp_path / "a"), solved_chain(tmp_path / "b")
    assert not tables.is_solved(a) and tables.is_solved(b)
    assert tables.chains(tmp_path / "a") == [a] and tables.chains(tmp_path / "b") == [b]
    assert not Study(tmp_path / "a").solvable and Study(tmp_path / "b").solvable
    assert spread_text(tmp_path / "a") != spread_text(tmp_path / "b")


def test_chains_are_ordered_by_condition_and_seed_number(tmp_path):
    for condition, seed in (("replace", 10), ("replace", 9), ("accumulate", 3)):
        trained_chain(tmp_path, condition, seed)
    (tmp_path / "replace" / "seed11").mkdir()  # no generation yet
    assert [f"{c.parent.name}/{c.name}" for c in tables.chains(tmp_path)] == [
        "accumulate/seed3", "replace/seed9", "replace/seed10",
    ]  # fmt: skip


def test_a_users_measure_is_a_column_compared_plotted_and_printed(tmp_path, drawn):
    for condition, level in (("replace", 0.25), ("real_only", 0.75)):
        for seed in (0, 1):
            trained_chain(tmp_path, condition, seed, own=[SHARPNESS], sharpness=level + seed)
    chain = tmp_path / "replace" / "seed0"
    frame = trained.write_files(chain)
    assert list(frame)[-1] == "sharpness" and "sharpness" in pd.read_csv(chain / "metrics.csv")
    study = Study(tmp_path)
    assert study.measures["sharpness"] == SHARPNESS and list(study.measures)[:-1] == list(MEASURES)
    assert trained.panels(study.measures)[-2:] == [
        ("sharpness", "Sharpness", "edge energy"), ("real_share", *trained.panels(MEASURES)[-1][1:]),
    ]  # fmt: skip
    compare(tmp_path)
    result = pd.read_csv(tmp_path / "comparison.csv").set_index(["condition", "generation"])
    assert result.loc[("replace", 1), "sharpness"] == 0.75 and not np.isnan(result["sharpness_sd"].to_numpy()).any()
    assert list(result)[:5] == ["seeds", "n_drawn", "n_pool", "fd", "fd_sd"]
    lines = comparison_lines(tmp_path)
    assert "sharpness" in lines[0] and "0.75 ± 0.71" in lines[2]
    pictures = [
        Image.open(io.BytesIO((p / n).read_bytes())) for p, n in ((tmp_path, "comparison.png"), (chain, "curves.png"))
    ]
    assert all(p.width == 3 * 455 for p in pictures)  # fd, sharpness, real_share


def test_a_chain_without_the_users_measure_does_not_hide_it(tmp_path):
    trained_chain(tmp_path, "accumulate")
    trained_chain(tmp_path, "replace", own=[SHARPNESS], sharpness=0.5)
    frame = tables.load_study(tmp_path)
    assert frame["sharpness"].notna().tolist() == [False, False, True, True]
    assert "sharpness" in Study(tmp_path).measures


def test_a_score_file_that_does_not_describe_measures_is_named(tmp_path):
    folder = trained_chain(tmp_path) / "gen000"
    store.write_json(folder / "scores" / "pixels-1.json", {"protocol": {"measures": [{"label": "?"}]}, "scores": {}})
    with pytest.raises(UserError, match=r"pixels-1\.json"):
        tables.load_study(tmp_path)
    trained_chain(tmp_path, "accumulate")
    assert "pixels-1.json" in Study(tmp_path, tolerant=True).damaged[0]


def test_a_study_shows_in_a_notebook_as_its_last_scores_and_figure(tmp_path, drawn):
    for seed in (0, 1):
        trained_chain(tmp_path, seed=seed, generations=3, precision=0.123456)
    compare(tmp_path)
    html = Study(tmp_path)._repr_html_()
    head, *rows = html_rows(html)
    assert head[:5] == ["condition", "seed", "generation", "fd", "precision"] and "n_train" not in head
    assert [row[:5] for row in rows] == [["replace", "0", "2", "3", "0.123"], ["replace", "1", "2", "4", "0.123"]]
    (picture,) = re.findall(r"data:image/png;base64,([^\"]+)", html)
    assert base64.b64decode(picture) == (tmp_path / "comparison.png").read_bytes()
    (tmp_path / "t.csv").write_text("condition,seed,generation,fd\n<i>,0,0,1\n<i>,0,1,2\n")
    assert "<i>" not in Study(tmp_path / "t.csv")._repr_html_()


def test_a_solved_study_and_a_chain_show_in_a_notebook(tmp_path, drawn):
    chain = solved_chain(tmp_path)
    solved.write_figure(chain)
    assert "data:image/png" in Study(chain)._repr_html_() and "variance_z" not in Study(chain)._repr_html_()
    shown = Result(chain, tables.table(chain))._repr_html_()
    assert "data:image/png" in shown and "<td>3</td>" in shown


def test_conditions_go_by_their_short_names(tmp_path):
    shared = "data.n=9,model.widths=8,8"
    chain = trained_chain(tmp_path, f"replace,{shared}", fd=1.0, recall=0.5)
    trained_chain(tmp_path, f"replace,real_fraction=0.5,{shared}", fd=1.0)
    found = Study(tmp_path)
    assert found.chain("replace", 0) == found.chain(f"replace,{shared}", 0) == chain and found.seeds("replace") == [0]
    with pytest.raises(UserError, match="no chain accumulate/seed0"):
        found.chain("accumulate", 0)
    with pytest.raises(UserError, match=r"choose from replace, replace,real_fraction=0\.5"):
        found.seeds("accumulate")
    compare(tmp_path)
    head, *rows, common = comparison_lines(tmp_path)[:4]
    assert [row.split()[0] for row in rows] == ["replace", "replace,real_fraction=0.5"]
    assert common == "all with data.n=9, model.widths=8,8" and "nan" not in "".join(rows)
    assert rows[1].split()[-1] == "-" and len({len(head), *map(len, rows)}) == 1


def test_different_numbers_of_samples_are_noted():
    frame = pd.DataFrame({"n_drawn": [100, 100], "n_pool": [100, 50]})
    assert sizes_differ(frame) == "" and "50 to 100" in sizes_differ(frame[["n_pool"]])


def test_solved_chains_are_compared_by_their_means(tmp_path, drawn):
    for seed in (0, 1):
        solved.write_figure(solved_chain(tmp_path, seed=seed))
    solved_chain(tmp_path, "real_only")
    compare(tmp_path)
    frame = pd.read_csv(tmp_path / "comparison.csv").set_index(["condition", "generation"])
    assert frame.loc[("replace", 1), "variance"] == 3 and frame.loc[("replace", 1), "seeds"] == 2
    sem = 1 / np.sqrt(3)
    assert frame.loc[("replace", 1), "variance_sem"] == pytest.approx(sem / np.sqrt(2), rel=1e-5)
    assert frame.loc[("replace", 1), "variance_z"] == pytest.approx(-0.5 / sem * np.sqrt(2), rel=1e-5)
    assert any("variance" in line and "3.5" in line for line in comparison_lines(tmp_path))
    for path in (tmp_path / "replace" / "seed0" / "curves.png", tmp_path / "comparison.png"):
        assert np.asarray(Image.open(path).convert("L")).std() > 10


def test_real_data_are_stored_once_and_read_back(tmp_path):
    x = np.arange(3 * 16, dtype=np.uint8).reshape(3, 1, 4, 4)
    real = RealData(Pool(x, np.array([0, 1, 0])), Pool(x[:1]), ("a", "b"), Facts("test"))
    for _ in range(2):
        write_real(tmp_path / "shared", real)
    trained_chain(tmp_path)
    found = Study(tmp_path).real
    assert real_key(found) == real_key(real) and found.classes == ("a", "b") and found.facts == Facts("test")
    assert isinstance(found.train.x, np.memmap) and found.heldout.y is None
    assert real_key(read_real(tmp_path / "shared" / f"real-{real_key(real)}")) == real_key(real)


GOOD = "condition,seed,generation,fd\nreplace,0,0,1\nreplace,0,1,2\n"


@pytest.mark.parametrize(
    "text",
    [
        "", "condition,seed,fd\nreplace,0,1\n", "condition,seed,generation,n_train\nreplace,0,0,1\n",
        "condition,seed,generation,fd\n", GOOD + ",0,2,1\n", GOOD + "replace,0,2,much\n", GOOD + "replace,0.5,2,1\n",
        GOOD + "replace,0,4,1\n", GOOD + "replace,0,-1,1\n",
        "condition,seed,generation,fd,protocol\nreplace,0,0,1,a\nreplace,1,0,1,b\n",
    ],
)  # fmt: skip
def test_a_csv_that_is_no_table_of_chains_is_refused(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=r"t\.csv"):
        _ = Study(tmp_path / "t.csv").table


@pytest.mark.parametrize(
    "name, text, word", [("report.html", "a,b\n1,2\n", "is a page"), ("t.csv", "a\n1\n1,2\n", "cannot be read"),
                         ("gone.csv", None, "does not exist")],
)  # fmt: skip
def test_what_is_no_table_is_said_with_what_to_give(tmp_path, name, text, word):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=rf"{name} {word}.*give .*study's folder") as error:
        read_table(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_csv_is_read_with_whole_keys_and_real_measures(tmp_path):
    (tmp_path / "t.csv").write_text(GOOD)
    study = Study(tmp_path / "t.csv")
    assert study.table["seed"].dtype.kind == "i" and study.table["fd"].dtype.kind == "f"
    assert study.is_csv and study.conditions == ["replace"] and study.measures == MEASURES


def test_reading_imports_nothing_that_runs_chains():
    """Neither loops, models nor reports; those of pandas, SciPy and torch wait until they are needed."""
    import subprocess
    import sys

    code = "import sys, imgloop.study.study, imgloop.study.compare, imgloop.study.frozen; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    ours = {m.split(".")[1] for m in loaded if m.startswith("imgloop.")}
    assert not ours & {
        "chain",
        "loop",
        "measure",
        "models",
        "report",
        "collapse",
        "multirun",
        "api",
        "metrics",
    }
    assert not {"pandas", "scipy", "torch", "matplotlib"} & set(loaded)
