"""Which columns are judged: our measures, users' measures and named columns; and which modules collapse imports."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import QUIET, T, table, verdicts

import imgloop
from imgloop.collapse import definitions, tables
from imgloop.collapse.profile import collapse_profile
from imgloop.collapse.subjects import FLOOR, Subjects
from imgloop.measures import MEASURES, MeasureInfo, of_role

COLUMN = {4: "variance_ratio", 6: "mode_share_min", 7: "tail_mass"}
ROLE = {4: "variance", 6: "mode", 7: "tail"}


def own(name, role, floor=None):
    return {name: MeasureInfo(name, name, role=role, floor=floor)}


def numbers(profile):
    """The verdicts without their words."""
    return profile.to_frame().drop(columns=["number", "rule", "reading", "reason", "left_out"])


def test_the_columns_are_those_of_the_list_of_measures():
    assert definitions.RATIOS == COLUMN
    assert definitions.RATES == of_role("hallucination")
    assert definitions.FLOORS == {m: MEASURES[m].floor for m in COLUMN.values()}
    judged = {name for name, info in MEASURES.items() if info.role is not None}
    assert set(tables.MEASURES) == judged | {"tail_risk"}


@given(st.integers(0, 10**6), st.sampled_from([*QUIET, None]), st.floats(-0.3, 0.3))
@settings(max_examples=8, deadline=None)
def test_measures_that_the_table_does_not_have_change_nothing(rng, measure, slope):
    planted = {} if measure is None else {measure: np.exp(slope * T) if measure in definitions.FLOORS else slope * T}
    frame = table(planted, seeds=5, rng=rng)
    measures = {k: m for role in (*ROLE.values(), "risk", "hallucination") for k, m in own(f"my_{role}", role).items()}
    plain, extended = collapse_profile(frame), collapse_profile(frame, measures=MEASURES | measures)
    pd.testing.assert_frame_equal(numbers(plain), numbers(extended))
    assert plain.notes == extended.notes


@pytest.mark.parametrize("k", COLUMN)
def test_a_users_ratio_is_judged_where_ours_is_missing(k):
    floor = MEASURES[COLUMN[k]].floor
    frame = table({COLUMN[k]: 0.5**T})
    renamed = frame.rename(columns={COLUMN[k]: "mine"})
    ours, mine = collapse_profile(frame), collapse_profile(renamed, measures=own("mine", ROLE[k], floor))
    pd.testing.assert_frame_equal(numbers(ours), numbers(mine))
    assert mine["loop"][k].number == "-log mine over control" and mine["loop"][k].verdict == "detected"
    assert collapse_profile(renamed)["loop"][k].verdict == "not measured"
    both = collapse_profile(frame.assign(mine=1.0), measures=own("mine", ROLE[k], floor))
    assert both["loop"][k].number == ours["loop"][k].number  # ours is preferred


@pytest.mark.parametrize("k", COLUMN)
def test_a_named_column_is_judged_in_place_of_ours(k):
    frame = table().assign(**{"my ratio": 1.0})
    frame.loc[frame["condition"] == "loop", "my ratio"] = 0.5 ** frame["generation"]
    judged = collapse_profile(frame, subjects={ROLE[k]: "my ratio"})["loop"][k]
    assert judged.verdict == "detected" and judged.number == "-log my ratio over control"
    assert collapse_profile(frame)["loop"][k].verdict == "excluded"
    assert Subjects.of(subjects={ROLE[k]: "my ratio"}).floor("my ratio") == FLOOR == 1e-3


def test_a_users_rate_enters_definition_8_beside_ours():
    frame = table().assign(nonsense=lambda f: np.where(f["condition"] == "loop", 0.02 * f["generation"], 0.0))
    assert verdicts(frame)[8] == "excluded"
    more: dict[str, Any]
    for more in ({"measures": own("nonsense", "hallucination")}, {"subjects": {"hallucination": "nonsense"}}):
        judged = collapse_profile(frame, **more)["loop"][8]
        assert judged.verdict == "detected" and judged.reading.endswith("nonsense")
        percent = collapse_profile(frame.assign(nonsense=100 * frame["nonsense"]), **more)
        assert any("nonsense goes up" in note for note in percent.notes[""])


def test_a_users_risk():
    frame = table({"risk": 0.1 * T}).rename(columns={"risk": "loss"})
    by_list = collapse_profile(frame, measures=own("loss", "risk"))
    by_role = collapse_profile(frame, subjects={"risk": "loss"})
    by_name = collapse_profile(frame, risk="loss")
    assert by_list["loop"][2].verdict == "detected" and by_list["loop"][2].reading.endswith("loss at generation 0")
    pd.testing.assert_frame_equal(by_list.to_frame(), by_role.to_frame())
    pd.testing.assert_frame_equal(by_list.to_frame(), by_name.to_frame())


def test_a_table_of_users_measures_alone():
    frame = table()[["condition", "seed", "generation", "risk"]].rename(columns={"risk": "loss"})
    judged = collapse_profile(frame, risk="loss")["loop"]
    assert judged[2].verdict == "excluded" and judged[4].verdict == "not measured"


def test_collapse_imports_no_module_that_reads_folders_or_settings():
    above = ("study", "chain", "config", "store", "loop")
    for path in sorted((Path(imgloop.__file__).parent / "collapse").glob("*.py")):
        names = []
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names += [a.name for a in node.names]
            if isinstance(node, ast.ImportFrom):
                names += [node.module or "", *(f"{node.module}.{a.name}" for a in node.names)]
        wrong = {n for n in names if n.startswith("imgloop.") and n.split(".")[1] in above}
        allowed = {n for n in wrong if path.name == "__main__.py" and n.split(".")[1] in ("study", "store")}
        assert wrong == allowed, path.name
