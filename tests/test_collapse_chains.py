"""The collapse profile of chains that are few, short or incomplete, and its text, table and JSON."""

import json

import numpy as np
import pandas as pd
import pytest
from planted import PLANTED, G, T, table, verdicts

from imgloop.collapse.profile import collapse_profile


def test_one_chain_has_effects_and_one_line():
    profile = collapse_profile(table(PLANTED[3], seeds=1))
    assert {v.verdict for v in profile.verdicts} == {"no verdict", "not measured"}
    assert np.isfinite(profile["loop"][2].effect)
    page = str(profile)
    assert "1 seed: no verdicts" in page and "undetermined" not in page and "nan" not in page


@pytest.mark.parametrize("seeds", [2, 3])
def test_too_few_chains_are_undetermined_with_how_many_are_missing(seeds):
    v = collapse_profile(table(PLANTED[3], seeds=seeds))["loop"][3]
    assert v.verdict == "undetermined" and v.missing == 4 - seeds
    assert v.reason.startswith(f"{4 - seeds} more chain")


def test_seeds_without_a_control_are_left_out_and_named():
    frame = table(PLANTED[3])
    frame = frame[(frame["condition"] == "loop") | (frame["seed"] != 2)]
    v = collapse_profile(frame)["loop"][2]
    assert v.seeds == 5 and v.left_out == ("seed 2 has no control",) and v.verdict == "detected"


def test_chains_of_unequal_length_meet_where_most_end():
    frame = table(PLANTED[3])
    short = frame[(frame["seed"] != 4) | (frame["generation"] <= 3) | (frame["condition"] != "loop")]
    v = collapse_profile(short)["loop"][2]
    assert v.generations == G and v.seeds == 5 and "seed 4 ends at generation 3" in v.left_out
    assert collapse_profile(short, generation=3)["loop"][2].seeds == 6
    assert "reach generation 40" in collapse_profile(short, generation=40)["loop"][2].reason


def test_missing_and_infinite_values():
    frame = table(PLANTED[4])
    at = (frame["condition"] == "loop") & (frame["seed"] == 1) & (frame["generation"] == G)
    holes = frame.assign(variance_ratio=frame["variance_ratio"].mask(at))
    v = collapse_profile(holes)["loop"]
    assert v[4].seeds == 5 and v[2].seeds == 6 and any("seed 1 has no value" in t for t in v[4].left_out)
    diverged = table().assign(risk=lambda f: f["risk"].mask(at, np.inf))
    v = collapse_profile(diverged)["loop"][2]
    assert v.verdict == "undetermined" and "infinite" in v.reason and v.seeds == 5
    gone = frame[~((frame["generation"] == 7) & (frame["seed"] == 0) & (frame["condition"] == "real_only"))]
    assert collapse_profile(gone)["loop"][4].seeds == 5
    empty = collapse_profile(frame.assign(tail_mass=np.nan))["loop"][7]
    assert empty.verdict == "not measured" and "tail_mass" in empty.reason


def test_a_rate_of_too_few_chains_excludes_nothing():
    """Ambiguity rises by half of all samples in three chains and is missing in the others."""
    frame = table({"ambiguity": 0.5 * (T > 0)}, seeds=5)
    frame.loc[(frame["seed"] > 2) & (frame["generation"] > 0), "ambiguity"] = np.nan
    found = collapse_profile(frame)["loop"][8]
    assert found.verdict == "undetermined" and "too few chains have ambiguity" in found.reason
    assert any("no value of ambiguity" in told for told in found.left_out)
    assert collapse_profile(frame.drop(columns="ambiguity"))["loop"][8].verdict == "excluded"


@pytest.mark.parametrize(
    "condition, measure, generation, definition",
    [("loop", "risk", G - 1, 3), ("real_only", "variance_ratio", G, 4), ("loop", "ambiguity", G, 8)],
)
def test_where_an_infinite_value_was_left_out_nothing_is_excluded(condition, measure, generation, definition):
    frame = table({"risk": 0.2 * (T > 0)}, seeds=6)
    assert verdicts(frame)[definition] == "excluded"
    rows = (frame["condition"] == condition) & (frame["seed"] == 2) & (frame["generation"] == generation)
    frame.loc[rows, measure] = np.inf
    found = collapse_profile(frame)["loop"][definition]
    assert found.verdict == "undetermined" and "an infinite value was left out" in found.reason
    assert any(f"seed 2 has an infinite value of {measure}" in told for told in found.left_out)


def test_a_chain_that_lacks_what_its_control_has_excludes_nothing():
    """Training that failed gives NaN as often as infinity."""
    frame = table(seeds=8)
    assert verdicts(frame)[2] == "excluded"
    gone = (frame["condition"] == "loop") & (frame["seed"] < 3) & (frame["generation"] >= 6)
    found = collapse_profile(frame.assign(risk=frame["risk"].mask(gone)))["loop"][2]
    assert found.verdict == "undetermined" and "no value, though its control has one, was left out" in found.reason
    crashed = collapse_profile(frame[~gone])["loop"][2]  # and so may a chain that wrote no more
    assert crashed.verdict == "undetermined" and "ends before its control was left out" in crashed.reason
    both = gone | ((frame["seed"] < 3) & (frame["generation"] >= 6))
    assert verdicts(frame.assign(risk=frame["risk"].mask(both)))[2] == "excluded"


def test_the_margin_of_definition_2_needs_the_risk_at_generation_0():
    frame = table(seeds=6)
    assert verdicts(frame)[2] == "excluded"
    first = (frame["condition"] == "loop") & (frame["generation"] == 0) & (frame["seed"] > 1)
    frame.loc[first, "risk"] = np.nan
    found = collapse_profile(frame)["loop"][2]
    assert found.verdict == "undetermined" and "no risk at generation 0" in found.reason


def test_few_generations():
    frame = table(PLANTED[3])
    assert {v.verdict for v in collapse_profile(frame[frame["generation"] == 0]).verdicts} == {"not measured"}
    short = collapse_profile(frame[frame["generation"] <= 2])["loop"]
    assert short[3].verdict == "not measured" and "3 generations" in short[3].reason and short[2].verdict == "detected"


def test_different_generations_0_and_longer_chains_are_noted():
    frame = table()
    frame.loc[frame["condition"] == "loop", "risk"] += 0.3
    assert "Generation 0 differs from the control's in risk (+0.3)" in " ".join(collapse_profile(frame).notes["loop"])
    short = table().query("not (condition == 'loop' and seed < 5 and generation > 3)")
    assert "1 of 6 continue to 8" in " ".join(collapse_profile(short).notes["loop"])
    assert not any("differs" in n or "continue" in n for n in collapse_profile(table()).notes["loop"])


@pytest.mark.nightly
def test_sizes_with_gaps_leave_the_other_verdicts_whole():
    """An unread generation may be missing; where no chain is whole at what is read, definition 5 alone says so."""
    frame = pd.concat(table({"risk": 0.1 * T}, size=n, rng=int(n)) for n in (50, 100, 200, 400, 800))
    gap = (frame["size"] == 50) & (frame["generation"] == 2)
    assert collapse_profile(frame[~gap])["loop"][5].verdict == "detected"
    short = collapse_profile(frame[~((frame["size"] == 50) & (frame["generation"] > 4))])["loop"]
    assert (short[5].verdict, short[2].verdict) == ("not measured", "detected")


def test_one_chain_at_five_sizes_is_json(tmp_path):
    frame = pd.concat(table({"risk": 0.1 * T}, seeds=1, size=n, rng=int(n)) for n in (50, 100, 200, 400, 800))
    told = collapse_profile(frame)
    assert "nan" not in json.dumps(told.to_dict(), allow_nan=False) and "nan" not in told["loop"][5].reason


def test_the_profile_as_table_and_json():
    profile = collapse_profile(table(PLANTED[3]))
    frame = profile.to_frame()
    assert len(frame) == 8 and set(frame["verdict"]) <= {"detected", "excluded", "undetermined", "not measured"}
    told = json.loads(json.dumps(profile.to_dict(), allow_nan=False))
    assert [v["definition"] for v in told["conditions"]["loop"]["verdicts"]] == list(range(1, 9))
    assert told["thresholds"]["tail_kept"] == 0.8


def test_the_page_reads_without_colour():
    page = str(collapse_profile(table(PLANTED[3])))
    assert "\x1b" not in page and "● detected, exact" in page and "○ excluded" in page
    assert "cannot be distinguished from divergence" in page and max(map(len, page.splitlines())) <= 120
