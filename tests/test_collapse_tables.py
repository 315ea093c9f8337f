"""Tables of chains: what is refused, and which condition is the control of another."""

from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from planted import PLANTED, QUIET, T, table, verdicts

from imgloop.collapse import tables
from imgloop.collapse.profile import collapse_profile
from imgloop.errors import UserError


def test_names_of_others_may_hold_commas_and_numbers():
    frame = table({"risk": 0.3 * T}, seeds=5)
    renamed = frame.assign(condition=frame["condition"].map({"loop": "gpt, loop", "real_only": "gpt, control"}))
    assert collapse_profile(renamed, "gpt, control")["gpt, loop"][2].verdict == "detected"
    numbered = frame.assign(condition=frame["condition"].map({"loop": 1, "real_only": 0}))
    assert collapse_profile(numbered, cast(Any, 0))["1"][2].verdict == "detected"
    assert tables.settings("edit,n_samples=3,4,5,model.widths=8,16") == ("edit", frozenset({"model.widths=8,16"}))


def test_numbers_of_different_protocols_are_refused():
    frame = table(seeds=4, protocol="classifier-1")
    collapse_profile(frame)
    frame.loc[frame["condition"] == "loop", "protocol"] = "random-2"
    with pytest.raises(UserError, match=r"different protocols, random-2 \(loop\), classifier-1 \(real_only\)"):
        collapse_profile(frame)


@pytest.mark.parametrize(
    "broken, says",
    [
        (lambda f: f.drop(columns="seed"), "no column seed"),
        (lambda f: f.rename(columns={"generation": "gen", "seed": "s"}), "no column seed or generation"),
        (lambda f: f[["condition", "seed", "generation"]], "no measure"),
        (lambda f: f.iloc[:0], "no rows"),
        (lambda f: pd.concat([f, f.iloc[[3]]]), "generation 3 of loop, seed 0, more than once"),
        (lambda f: f.assign(risk="high"), "Column risk"),
        (lambda f: f.assign(generation=f["generation"] + 0.5), "whole numbers"),
        (lambda f: f.assign(seed=np.nan), "without a condition, seed or generation"),
        (lambda f: f[f["condition"] == "loop"], "no condition real_only"),
        (lambda f: f[f["condition"] == "real_only"], "nothing to compare"),
        (lambda f: f.to_dict(), "pandas table"),
        (lambda f: f.assign(size=np.inf), "Column size"),
        (lambda f: f.assign(generation=5 * f["generation"]), "generations 0, 5, 10, 15, ...: number them 0, 1, 2"),
        (lambda f: f.set_index(["condition", "seed", "generation"]), r"reset_index\(\)"),
        (lambda f: f[["condition", "seed", "generation"]].assign(w2=1.0), "solvable system"),
    ],
)
def test_a_table_that_is_not_one_of_chains_is_refused_in_one_sentence(broken, says):
    with pytest.raises(UserError, match=says) as e:
        collapse_profile(broken(table()))
    assert "\n" not in str(e.value) and len(str(e.value)) < 400


def test_odd_types_are_read_or_refused():
    frame = table(PLANTED[3], seeds=6).drop(index=5)
    narrow = frame.astype(dict.fromkeys(QUIET, "float16"))
    assert collapse_profile(narrow)["loop"][3].seeds >= 5
    assert collapse_profile(frame, generation=cast(Any, 6.0))["loop"][2].generations == 6
    for generation in (np.nan, 2.5, -1):
        with pytest.raises(UserError, match="whole number"):
            collapse_profile(frame, generation=cast(Any, generation))
    with pytest.raises(UserError, match="Column risk"):
        collapse_profile(frame.assign(risk=frame["risk"].astype(complex)))


def test_impossible_values_are_noted():
    assert not [n for n in collapse_profile(table()).notes[""] if "goes" in n]
    odd = table().assign(ambiguity=lambda f: 110 * f["ambiguity"], tail_mass=lambda f: f["tail_mass"] - 1.0)
    told = " ".join(collapse_profile(odd).notes[""])
    assert "ambiguity goes up to 1.1" in told and "not percent" in told and "tail_mass goes down to -0" in told


@pytest.mark.parametrize(
    "arguments, setting",
    [
        ({"risk": "loss"}, "risk"),
        ({"risk": "seed"}, "risk"),
        ({"risk": "risk", "subjects": {"risk": "ambiguity"}}, "risk"),
        ({"subjects": {"tail": "mass"}}, "subjects.tail"),
        ({"subjects": {"colour": "risk"}}, "subjects"),
        ({"quarter": "half"}, "quarter"),
        ({"quarter": "real_only"}, "quarter"),
        ({"control": "base"}, "control"),
        ({"generation": 2.5}, "generation"),
        ({"thresholds": {"alfa": 0.1}}, "collapse.alfa"),
        ({"thresholds": {"tail_kept": 2}}, "collapse.tail_kept"),
        ({"thresholds": {"chains": np.inf}}, "collapse.chains"),
    ],
)
def test_wrong_arguments(arguments, setting):
    with pytest.raises(UserError) as error:
        collapse_profile(table(), **arguments)
    assert error.value.setting == setting


def test_a_condition_that_was_not_profiled():
    with pytest.raises(UserError, match="no condition replace: choose from loop"):
        collapse_profile(table())["replace"]


# -- Controls ---------------------------------------------------------------------------------------------------------


def test_the_control_is_named_by_the_user():
    frame = table(PLANTED[2]).replace({"condition": {"real_only": "baseline"}})
    assert verdicts(frame, control="baseline")[2] == "detected"


def test_a_control_named_with_its_settings_leaves_others_to_be_judged():
    names = {"loop": "gpt,data=synthetic", "real_only": "gpt,data=real"}
    frame = table({"risk": 0.3 * T}).replace({"condition": names})
    assert collapse_profile(frame, "gpt,data=real")["gpt,data=synthetic"][2].verdict == "detected"


def test_controls_are_those_of_the_same_settings():
    names = ["real_only", "real_only,n_initial=100", "replace", "replace,real_fraction=0.1", "replace,n_initial=100"]
    rows = [
        {"condition": c, "seed": 0, "generation": 0, "risk": 1.0, "n_train": 100 if "100" in c else 400} for c in names
    ]
    known = tables.conditions(pd.DataFrame(rows))
    by = {c.name: c for c in known}
    paired = {c: tables.control_of(by[c], known, "real_only")[0] for c in names[2:]}
    assert {c: k and k.name for c, k in paired.items()} == {
        "replace": "real_only",
        "replace,real_fraction=0.1": "real_only",
        "replace,n_initial=100": "real_only,n_initial=100",
    }
    quarter = tables.quarter_of(by["real_only"], known, None)[0]
    assert quarter is not None and quarter.name == "real_only,n_initial=100"


def test_the_quarter_of_the_data_with_as_many_samples_comes_first():
    names = ["real_only", "real_only,n_initial=100", "real_only,n_initial=100,n_samples=400", "replace"]
    drawn = dict(zip(names, (400, 100, 400, 400)))
    rows = [
        {"condition": c, "seed": 0, "generation": 0, "fd": 1.0, "n_train": 100 if "100" in c else 400, "n_drawn": n}
        for c, n in drawn.items()
    ]
    known = tables.conditions(pd.DataFrame(rows))
    quarter = tables.quarter_of(known[0], known, None)[0]
    assert quarter is not None and quarter.name == names[2]


def test_another_model_is_no_control():
    rows = [
        {"condition": c, "seed": s, "generation": t, "risk": 1.0 + t}
        for c in ("real_only", "replace,model=gan")
        for s in range(4)
        for t in range(4)
    ]
    v = collapse_profile(pd.DataFrame(rows))["replace,model=gan"][2]
    assert v.verdict == "not measured" and "run paradigm=real_only model=gan" in v.reason


@pytest.mark.parametrize("first", ["real_only", "real_only,n_initial=349"])
@pytest.mark.parametrize("named", [{}, {"quarter": "real_only,n_initial=349"}, {"control": "real_only"}])
def test_the_control_does_not_depend_on_the_order_of_rows(first, named):
    frame = table({"risk": 0.3 * (T > 0)})
    quarter = frame[frame["condition"] == "real_only"].assign(condition="real_only,n_initial=349", risk=1.6)
    both = [frame, quarter] if first == "real_only" else [quarter, frame]
    v = collapse_profile(pd.concat(both), **named)["loop"][2]
    assert v.verdict == "detected" and v.effect == pytest.approx(0.3, abs=0.01)


def test_a_control_of_unknown_size_is_noted_and_ties_are_refused():
    frame = table({"risk": 0.3 * T})
    other = frame.replace({"condition": {"real_only": "real_only,n_initial=349"}})
    assert "no chain of real_only" in collapse_profile(other)["loop"][2].reason
    named = collapse_profile(other, "real_only,n_initial=349")
    assert named["loop"][2].verdict == "detected" and "unknown" in named.notes["loop"][0]
    two = [frame.replace({"condition": {"real_only": f"real_only,n_samples={n}"}}) for n in (1, 2)]
    assert "name one with control=" in collapse_profile(pd.concat(two).drop_duplicates(tables.KEYS))["loop"][2].reason


def test_no_condition_is_lost():
    grown = {100: 0.3 * T, 200: 0.1 * T, 400: 0 * T}
    names = [table({"risk": g}, size=n, rng=n) for n, g in grown.items()]
    named = [f.assign(condition=f["condition"] + f",n_initial={n}").drop(columns="size") for f, n in zip(names, grown)]
    found = collapse_profile(pd.concat(named))
    assert [found[f"loop,n_initial={n}"][2].verdict for n in grown] == ["detected", "detected", "excluded"]
    one = collapse_profile(pd.concat(names))  # one name: the largest size, and what is not judged is named
    assert one["loop"][2].verdict == "excluded"
    assert "with 400 real samples; those with 100, 200 have none" in " ".join(one.notes["loop"])


def test_the_very_condition_that_the_user_names_is_the_control():
    frame = table({"risk": 0.3 * (T > 0)}, seeds=5).replace({"condition": {"real_only": "ctl"}})
    better = frame[frame["condition"] == "ctl"].assign(condition="ctl,lr=2")
    better["risk"] -= 0.2
    found = collapse_profile(pd.concat([frame, better]), "ctl,lr=2")["loop"][2]
    assert found.effect == pytest.approx(0.5, abs=0.01)
