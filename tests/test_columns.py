"""Tables of other programs: columns by their names, runs and generations as they number them, CSV and parquet."""

import numpy as np
import pandas as pd
import pytest

from imgloop.collapse.__main__ import main
from imgloop.errors import UserError
from imgloop.measures import MEASURES, of_role
from imgloop.study.columns import Columns, named, plain
from imgloop.study.study import Study
from imgloop.study.tables import table_file


def history(runs="run{}", settings=("Replace", "Accumulate"), **columns):
    """Run histories as RylanSchaeffer/KoyejoLab-Collapse-or-Thrive has them: iterations from 1, runs named."""
    rng, rows = np.random.default_rng(0), []
    for k, setting in enumerate(settings):
        for run in range(5):
            for t in range(1, 7):
                value = 10 + 0.5 * (k == 0) * t + 0.01 * rng.normal()
                names = {"Setting": setting, "run_id": runs.format(run, setting), "Model-Fitting Iteration": t}
                rows.append(names | {"FID": value, "Num. Samples per Iteration": 100.0} | columns)
    return pd.DataFrame(rows)


def test_usual_names_are_known_whatever_their_case():
    table = named(history().rename(columns={"Setting": "METHOD"}), Columns(first=1))
    assert {"condition", "seed", "generation", "fid"} <= set(table.frame)
    assert table.frame["generation"].min() == 0 and sorted(set(table.frame["seed"])) == [0, 1, 2, 3, 4]
    assert table.theirs == {
        "condition": "METHOD", "seed": "run_id", "generation": "Model-Fitting Iteration", "fid": "FID",
    }  # fmt: skip
    assert "condition is METHOD" in table.notes[0] and "one seed" in table.notes[1]
    ours = pd.DataFrame(
        {"condition": ["a"], "seed": [3], "generation": [0], "run": [9], "method": ["b"], "risk": [1.0]}
    )
    assert named(ours).frame.equals(ours) and named(ours).notes == ()


def test_columns_that_the_user_names():
    given = Columns.of(["condition=setting,seed=run_id", "fd=fid,size=Num. Samples per Iteration"], first=2)
    table = named(history(), given)
    assert {"condition", "seed", "generation", "fd", "size"} <= set(table.frame) and "fid" not in table.frame
    assert len(table.frame) == 50 and table.frame["generation"].max() == 4
    assert [table.resolved(c) for c in ("FID", "fid", "fd", "nothing", None)] == ["fd", "fd", "fd", "nothing", None]
    both = history(**{"Data Dimension": 3}).assign(seed=7)
    table = named(both, Columns.of(["condition=Setting+Data Dimension,seed=run_id"], 1)).frame
    assert set(table["condition"]) == {"Replace,Data_Dimension=3", "Accumulate,Data_Dimension=3"}
    assert sorted(set(table["seed"])) == [0, 1, 2, 3, 4] and "run_id" not in table  # the column that was named


def test_runs_with_names_are_seeds():
    shared = named(history(), Columns(first=1)).frame
    assert (shared.groupby("condition")["seed"].nunique() == 5).all()
    alone = named(history(runs="{0}-{1}"), Columns(first=1))
    assert [sorted(set(part["seed"])) for _, part in alone.frame.groupby("condition")] == [[0, 1, 2, 3, 4]] * 2
    assert "share no random numbers" in alone.notes[1]


@pytest.mark.parametrize(
    "given, first, says",
    [
        ([], None, "begins with 1; give --first 1"),
        ([], 9, "--first 9: the table has no such generation"),
        (["fd=FID,fid=FID"], 1, "FID is given for fd and fid"),
        (["condition=Setting,seed=Setting"], 1, "Setting is given for condition and seed"),
        (["fd=nothing"], 1, "no column nothing; it has Setting"),
        (["conditions=Setting"], 1, "conditions is no column of ours"),
        (["condition"], 1, "write OURS=THEIRS"),
        (["seed=run_id", "seed=FID"], 1, "seed is run_id already"),
        ([], -1, "--first -1"),
    ],
)
def test_mistakes_about_columns(given, first, says):
    with pytest.raises(UserError, match=says):
        named(history(), Columns.of(given, first))


def test_two_columns_that_match_one_are_named():
    frame = history(model_fitting_iteration=0)
    with pytest.raises(UserError, match="Model-Fitting Iteration and model_fitting_iteration could each be the gener"):
        named(frame, Columns(first=1))
    assert plain("Model-Fitting Iteration") == "model_fitting_iteration"
    given = Columns.of(["generation=Model-Fitting Iteration"], 1)
    assert named(frame, given).frame["generation"].max() == 5


@pytest.mark.parametrize("risk", ["FID", "fid", None])
def test_the_command_judges_such_a_table(tmp_path, capsys, risk):
    path = tmp_path / "table.csv"
    history().to_csv(path, index=False)
    words = [str(path), "--first", "1", "--control", "Accumulate", *(["--risk", risk] if risk else [])]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "Replace over Accumulate: 5 chains, generations 0..5" in out and "of the fid at" in " ".join(out.split())
    assert "seed is run_id" in err
    study = Study(path, columns=Columns.of([], 1))
    assert study.resolved("FID") == "fid" and study.table["fid"].notna().all()
    assert main([str(path), "--risk", "nothing", *words[1:5]]) == 1 and "no such measure" in capsys.readouterr().err


def test_fid_is_a_risk_that_only_tables_have():
    assert of_role("risk") == ("risk", "excess", "fd", "fid", "kd") and MEASURES["fid"].kind == "table"


def test_parquet_is_read_and_its_package_is_named_where_it_is_missing(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    path = tmp_path / "table.parquet"
    history().to_parquet(path)
    assert len(table_file(path, Columns(first=1)).frame) == 60
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="cannot be read as a parquet table"):
        table_file(tmp_path / "text.parquet")

    def missing(*arguments, **more):
        raise ImportError("Unable to find a usable engine")

    monkeypatch.setattr(pd, "read_parquet", missing)
    with pytest.raises(UserError, match="needs the package pyarrow: pip install pyarrow"):
        table_file(path)
