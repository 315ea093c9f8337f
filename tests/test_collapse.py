"""The collapse profile: its statistics against SciPy and enumeration, its rules on series with planted behaviour, and
what it says of tables that are not as it needs them."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

import imgloop
from imgloop.collapse import definitions, statistics, tables
from imgloop.collapse.__main__ import main
from imgloop.collapse.power import Plan, power
from imgloop.collapse.profile import collapse_profile
from imgloop.errors import UserError
from imgloop.study.frozen import FILE, freeze, frozen
from imgloop.thresholds import Thresholds

REPO = Path(__file__).parent.parent
DIGITS = REPO / "docs" / "studies" / "collapse-digits.csv"
G = 8
T = np.arange(G + 1)
LOG = np.cumsum(1 / (T + 1)) - 1  # harmonic growth
QUIET = {  # what a chain measures where nothing collapses
    "risk": 0.5,
    "variance_ratio": 1.0,
    "mode_share_min": 0.9,
    "tail_mass": 1.0,
    "off_support": 0.01,
    "ambiguity": 0.01,
}


def table(planted=None, seeds=6, last=G, noise=0.002, rng=0, quarter=False, **columns):
    """A plain table: chains "loop" and controls "real_only" at equal levels a seed, small errors, and what is planted
    in the loop by measure: added, or for ratios multiplied, a value a generation."""
    rng, planted, rows = np.random.default_rng(rng), planted or {}, []
    for seed in range(seeds):
        level = {m: rng.normal() for m in QUIET}
        for condition in ("loop", "real_only") + (("quarter",) if quarter else ()):
            for t in range(last + 1):
                row = {"condition": condition, "seed": seed, "generation": t, **columns}
                for m, usual in QUIET.items():
                    value = usual * np.exp(0.05 * level[m] + noise * rng.normal() * (t > 0))
                    if condition == "loop" and m in planted:
                        change = float(np.broadcast_to(planted[m], T.shape)[t])
                        value = value * change if m in definitions.FLOORS else value + change
                    if condition == "quarter" and m == "risk":
                        value += 0.1
                    row[m] = value
                rows.append(row)
    return pd.DataFrame(rows)


def verdicts(frame, **more):
    return {k: v.verdict for k, v in collapse_profile(frame, **more)["loop"].items()}


# Statistics


@given(st.integers(2, 9), st.integers(0, 10**6), st.floats(-2, 2))
@settings(max_examples=40, deadline=None)
def test_the_t_test_is_scipys(chains, seed, threshold):
    x = np.random.default_rng(seed).normal(size=(3, chains))
    theirs = stats.ttest_1samp(x, threshold, axis=-1, alternative="greater")
    np.testing.assert_allclose(statistics.greater(x, threshold), theirs.pvalue, rtol=1e-9)
    upper = stats.ttest_1samp(x, 0, axis=-1, alternative="less").confidence_interval(0.95).high
    np.testing.assert_allclose(statistics.Moments.of(x).bound(0.95), upper, rtol=1e-9)
    both = stats.ttest_1samp(x, 0, axis=-1).confidence_interval(0.95)
    np.testing.assert_allclose(statistics.interval(x)[1:], [both.low, both.high], rtol=1e-9)


def test_chains_without_a_number_are_left_out():
    x = np.array([1.0, np.nan, 2.0, 4.0, np.inf])
    assert statistics.greater(x) == pytest.approx(stats.ttest_1samp([1, 2, 4], 0, alternative="greater").pvalue)
    np.testing.assert_allclose(
        statistics.flipped_t(x, statistics.signs(5))[0], stats.ttest_1samp([1, 2, 4], 0).statistic
    )


@pytest.mark.parametrize("value, threshold, p", [(1.0, 0.5, 0.0), (0.5, 1.0, 1.0), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0)])
def test_chains_that_are_all_equal(value, threshold, p):
    assert statistics.greater(np.full(5, value), threshold) == p


def test_holm_by_hand():
    p = np.array([0.04, 0.01, np.nan, 0.03, 0.9])
    np.testing.assert_allclose(statistics.holm(p), [0.09, 0.04, np.nan, 0.09, 0.9])


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_holm_lies_between_p_and_bonferroni_and_keeps_the_order(p):
    p = np.array(p)
    adjusted = statistics.holm(p)
    assert (adjusted >= p).all() and (adjusted <= np.minimum(1, len(p) * p) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


@given(st.integers(0, 10**6), st.integers(3, 6), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_step_down_equals_enumeration(seed, chains, m):
    x = np.random.default_rng(seed).normal(size=(m, chains)) + np.arange(m)[:, None]
    flips = np.array(list(itertools.product([1.0, -1.0], repeat=chains)))  # the identity first

    def t(y):
        return np.array([stats.ttest_1samp(row, 0).statistic for row in y])

    every = np.array([t(x * f) for f in flips])
    observed = t(x)
    assume(np.diff(np.sort(observed)).min(initial=1) > 1e-6)
    order, p, largest = np.argsort(-observed), np.empty(m), 0.0
    for i, k in enumerate(order):
        among = every[:, order[i:]].max(1)
        largest = max(largest, (among >= observed[k] - 1e-9).mean())
        p[k] = largest
    got = statistics.step_down(statistics.flipped_t(x, statistics.signs(chains)))
    np.testing.assert_allclose(got, p)


def test_the_smallest_sign_flip_p_is_two_to_the_minus_seeds():
    for chains in (4, 5, 8):
        x = np.linspace(5, 6, chains)[None]
        assert statistics.step_down(statistics.flipped_t(x, statistics.signs(chains)))[0] == 2.0**-chains


def test_many_chains_draw_their_signs_and_keep_the_identity():
    flips = statistics.signs(30)
    assert flips.shape == (10_000, 30) and (flips[0] == 1).all() and abs(flips.mean()) < 0.01


# Rules


def test_numbers_of_a_chain():
    x = np.arange(9.0)[None] ** 2
    assert definitions.late(x) == pytest.approx((36 + 49 + 64) / 3)
    assert definitions.late(x[:, :3]) == pytest.approx((1 + 4) / 2)  # never generation 0
    q = (1 / 6 + 1 / 7 + 1 / 8 + 1 / 9) / (1 / 2 + 1 / 3 + 1 / 4 + 1 / 5)
    assert definitions.contrast(x) == pytest.approx((64 - 16) - q * 16)


@given(st.integers(3, 40), st.floats(-5, 5), st.floats(-5, 5))
@settings(max_examples=50, deadline=None)
def test_the_contrast_is_zero_for_logarithmic_growth_from_any_start(last, a, b):
    course = a + b * np.cumsum(1 / np.arange(1, last + 2))
    for first in (0, definitions.last_two_thirds(last)):
        assert definitions.contrast(course, first) == pytest.approx(0, abs=1e-9)
        assert definitions.contrast(np.arange(last + 1.0), first) > 0  # faster
        assert definitions.contrast(-1 / np.arange(1.0, last + 2), first) < 0  # slower


PLANTED = {
    1: {"risk": 0.05 * T},
    2: {"risk": 0.1 * (T > 0)},
    3: {"risk": 0.05 * T},
    4: {"variance_ratio": 0.8**T},
    6: {"mode_share_min": 0.6**T},
    7: {"tail_mass": 0.85**T},
    8: {"off_support": 0.01 * T},
}


@pytest.mark.parametrize("k", PLANTED)
def test_each_planted_collapse_is_detected_and_the_others_are_not(k):
    profile = collapse_profile(table(PLANTED[k], quarter=True), quarter="quarter")["loop"]
    assert profile[k].verdict == "detected" and profile[k].exact
    risky = {1, 2, 3} if "risk" in PLANTED[k] else set()
    for other in set(profile) - risky - {k, 5}:
        assert profile[other].verdict != "detected"
    for other in {4, 6, 7, 8} - {k}:
        assert profile[other].verdict == "excluded"
    assert profile[5].verdict == "not measured" and "one size" in profile[5].reason


def test_nothing_planted_is_excluded_where_there_is_a_margin():
    found = verdicts(table(quarter=True), quarter="quarter")
    assert {k: found[k] for k in (1, 2, 4, 6, 7, 8)} == dict.fromkeys((1, 2, 4, 6, 7, 8), "excluded")
    assert found[3] in ("undetermined", "excluded")


def test_a_significant_effect_inside_the_margin_is_detected_and_both_are_told():
    v = collapse_profile(table({"risk": 0.01 * (T > 0)}))["loop"][2]
    assert v.verdict == "detected" and "inside the margin" in v.reason and v.bound < v.margin


@pytest.mark.parametrize(
    "course, verdict",
    [
        (0.1 * T, "detected"),
        (0.02 * T**2, "detected"),
        (0.5 * np.minimum(T / 5, 1), "excluded"),  # doubles by generation 5, then stays
        (np.array([0, 0.3, 0.4, 0.35, 0.25, 0.2, 0.15, 0.15, 0.15]), "excluded"),  # overshoots, settles 30 % up
        (np.cumsum((T + 1.0) ** -2) - 1, "excluded"),
        (-0.05 * T, "excluded"),  # falls
    ],
)
@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_divergence(course, verdict, noise):
    assert collapse_profile(table({"risk": course}, noise=noise))["loop"][3].verdict == verdict


def test_logarithmic_growth_is_neither():
    assert collapse_profile(table({"risk": 0.3 * LOG}, noise=0.0))["loop"][3].verdict == "undetermined"


def test_growth_that_has_ended_does_not_diverge_by_its_past():
    late_rise = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1]) * 0.3  # C > 0, and no growth for three generations
    v = collapse_profile(table({"risk": late_rise}))["loop"][3]
    assert v.effect > 0 and v.verdict == "undetermined" and "last two thirds" in v.reason


def test_hallucination_by_any_rate_and_excluded_by_all():
    only_between = collapse_profile(table({"ambiguity": 0.01 * T}))["loop"][8]
    assert only_between.verdict == "detected" and only_between.reading.endswith("ambiguity")
    assert verdicts(table({"off_support": 0.009 * (T > 0)}, noise=0.05))[8] == "undetermined"
    rules = table().assign(rule_violations=lambda f: np.where(f["condition"] == "loop", 0.02 * f["generation"], 0.0))
    assert collapse_profile(rules)["loop"][8].reading.endswith("rule_violations")


def test_a_total_loss_has_a_number():
    v = collapse_profile(table({"tail_mass": np.where(T > 0, 0.0, 1.0)}))["loop"][7]
    assert v.verdict == "detected" and np.isfinite(v.effect) and "18 values below 0.01 count as 0.01" in v.reason


def test_a_negative_risk_has_no_margin():
    frame = table().assign(risk=lambda f: f["risk"] - 5)
    v = collapse_profile(frame)["loop"][2]
    assert v.verdict == "undetermined" and "never excluded" in v.reason


def test_chains_that_repeat_one_seed_are_suspected():
    frame = table(PLANTED[2], noise=0.0)
    frame["risk"] = np.where(frame["condition"] == "loop", 0.6, 0.5)
    assert "have their seeds been used" in collapse_profile(frame)["loop"][2].reason


def test_a_falling_risk_is_no_increase():
    found = verdicts(table({"risk": -0.02 * T}))
    assert found[2] == "excluded" and found[3] == "excluded"


def test_levels_of_seeds_do_not_count_since_numbers_are_paired():
    frame = table({"risk": 0.02 * T})
    wide = frame.assign(risk=frame["risk"] + 10.0 * frame["seed"])
    a, b = (collapse_profile(f)["loop"][2] for f in (frame, wide))
    assert (a.effect, a.p) == pytest.approx((b.effect, b.p))
    shuffled = wide.copy()
    control = shuffled["condition"] == "real_only"
    shuffled.loc[control, "seed"] = (shuffled.loc[control, "seed"] + 1) % 6  # mutation: pairs torn apart
    assert collapse_profile(shuffled)["loop"][2].p > 0.05 > a.p


def test_verdicts_do_not_depend_on_the_order_of_rows():
    frame = table(PLANTED[2])
    mixed = frame.sample(frac=1, random_state=0)
    a, b = collapse_profile(frame).to_frame(), collapse_profile(mixed).to_frame()
    pd.testing.assert_frame_equal(a, b)


def test_fd_is_the_risk_of_a_model_without_loss():
    frame = table(PLANTED[3]).rename(columns={"risk": "fd"})
    profile = collapse_profile(frame)
    assert profile["loop"][3].verdict == "detected" and any("fd is the risk" in n for n in profile.notes["loop"])
    both = frame.assign(risk=np.nan)
    assert collapse_profile(both)["loop"][2].verdict == "detected"


def test_severity_is_told_and_never_tested():
    profile = collapse_profile(table(PLANTED[3]), noise_risk=10.0)
    assert any("Severity" in n and "not tested" in n for n in profile.notes["loop"])


# Chains that are too few, or not whole


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
    assert found.verdict == "undetermined" and "ambiguity of too few chains" in found.reason
    assert any("no value of ambiguity" in told for told in found.left_out)
    assert collapse_profile(frame.drop(columns="ambiguity"))["loop"][8].verdict == "excluded"


def test_a_jump_that_goes_on_growing_is_no_plateau():
    """C of the whole course is below 0, that of its last two thirds above."""
    jump = collapse_profile(table({"risk": (0.2 + 0.02 * T) * (T > 0)}, seeds=8))["loop"][3]
    assert jump.verdict == "undetermined" and "not excluded" in jump.reason and jump.effect < 0
    assert verdicts(table({"risk": 0.2 * (T > 0)}, seeds=8))[3] == "excluded"


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


def test_the_margin_of_definition_2_needs_the_risk_at_generation_0():
    frame = table(seeds=6)
    assert verdicts(frame)[2] == "excluded"
    first = (frame["condition"] == "loop") & (frame["generation"] == 0) & (frame["seed"] > 1)
    frame.loc[first, "risk"] = np.nan
    found = collapse_profile(frame)["loop"][2]
    assert found.verdict == "undetermined" and "without a risk at generation 0" in found.reason


def test_over_a_control_that_lost_everything_there_is_no_ratio():
    frame = table(seeds=5)
    frame.loc[frame["generation"] > 0, "tail_mass"] = 0.0
    assert collapse_profile(frame)["loop"][7].verdict == "not measured"


def test_names_of_others_may_hold_commas_and_numbers():
    frame = table({"risk": 0.3 * T}, seeds=5)
    renamed = frame.assign(condition=frame["condition"].map({"loop": "gpt, loop", "real_only": "gpt, control"}))
    assert collapse_profile(renamed, "gpt, control")["gpt, loop"][2].verdict == "detected"
    numbered = frame.assign(condition=frame["condition"].map({"loop": 1, "real_only": 0}))
    assert collapse_profile(numbered, 0)["1"][2].verdict == "detected"
    assert tables.settings("edit,n_samples=3,4,5,model.widths=8,16") == ("edit", frozenset({"model.widths=8,16"}))


def test_numbers_of_different_protocols_are_refused():
    frame = table(seeds=4, protocol="classifier-1")
    collapse_profile(frame)
    frame.loc[frame["condition"] == "loop", "protocol"] = "random-2"
    with pytest.raises(UserError, match=r"different protocols, random-2 \(loop\), classifier-1 \(real_only\)"):
        collapse_profile(frame)


def test_few_generations():
    frame = table(PLANTED[3])
    assert {v.verdict for v in collapse_profile(frame[frame["generation"] == 0]).verdicts} == {"not measured"}
    short = collapse_profile(frame[frame["generation"] <= 2])["loop"]
    assert short[3].verdict == "not measured" and "3 generations" in short[3].reason and short[2].verdict == "detected"


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
        (lambda f: f[["condition", "seed", "generation"]].assign(w2=1.0), "solvable system profile the folder"),
    ],
)
def test_a_table_that_is_none_is_told_in_one_sentence(broken, says):
    with pytest.raises(UserError, match=says) as e:
        collapse_profile(broken(table()))
    assert "\n" not in str(e.value) and len(str(e.value)) < 400


def test_a_control_named_with_its_settings_leaves_others_to_be_judged():
    names = {"loop": "gpt,data=synthetic", "real_only": "gpt,data=real"}
    frame = table({"risk": 0.3 * T}).replace({"condition": names})
    assert collapse_profile(frame, "gpt,data=real")["gpt,data=synthetic"][2].verdict == "detected"


def test_one_chain_at_five_sizes_is_json(tmp_path):
    frame = pd.concat(table({"risk": 0.1 * T}, seeds=1, size=n, rng=int(n)) for n in (50, 100, 200, 400, 800))
    told = collapse_profile(frame)
    assert "nan" not in json.dumps(told.to_dict(), allow_nan=False) and "nan" not in told["loop"][5].reason


def test_odd_types_are_read_or_told():
    frame = table(PLANTED[3], seeds=6).drop(index=5)
    narrow = frame.astype(dict.fromkeys(QUIET, "float16"))
    assert collapse_profile(narrow)["loop"][3].seeds >= 5
    assert collapse_profile(frame, generation=6.0)["loop"][2].generations == 6
    for generation in (np.nan, 2.5, -1):
        with pytest.raises(UserError, match="whole number"):
            collapse_profile(frame, generation=generation)
    with pytest.raises(UserError, match="Column risk"):
        collapse_profile(frame.assign(risk=frame["risk"].astype(complex)))


def test_values_that_a_measure_cannot_have_are_told():
    assert not [n for n in collapse_profile(table()).notes[""] if "goes" in n]
    odd = table().assign(ambiguity=lambda f: 110 * f["ambiguity"], tail_mass=lambda f: f["tail_mass"] - 1.0)
    told = " ".join(collapse_profile(odd).notes[""])
    assert "ambiguity goes up to 1.1" in told and "not percent" in told and "tail_mass goes down to -0" in told


def test_wrong_arguments():
    with pytest.raises(UserError, match="risk=loss"):
        collapse_profile(table(), risk="loss")
    with pytest.raises(UserError, match="quarter=half"):
        collapse_profile(table(), quarter="half")
    with pytest.raises(UserError, match=r"collapse.alfa"):
        collapse_profile(table(), thresholds={"alfa": 0.1})
    with pytest.raises(UserError, match=r"collapse.tail_kept=2"):
        collapse_profile(table(), thresholds={"tail_kept": 2})
    with pytest.raises(UserError, match="was not profiled"):
        collapse_profile(table())["replace"]


def test_the_control_is_named_by_the_user():
    frame = table(PLANTED[2]).replace({"condition": {"real_only": "baseline"}})
    assert verdicts(frame, control="baseline")[2] == "detected"


# Studies


def test_controls_are_those_of_the_same_settings():
    names = ["real_only", "real_only,n_initial=100", "replace", "replace,real_fraction=0.1", "replace,n_initial=100"]
    rows = [
        {"condition": c, "seed": 0, "generation": 0, "risk": 1.0, "n_train": 100 if "100" in c else 400} for c in names
    ]
    known = tables.conditions(pd.DataFrame(rows))
    by = {c.name: c for c in known}
    paired = {c: tables.control_of(by[c], known, "real_only")[0] for c in names[2:]}
    assert {c: k.name for c, k in paired.items()} == {
        "replace": "real_only",
        "replace,real_fraction=0.1": "real_only",
        "replace,n_initial=100": "real_only,n_initial=100",
    }
    assert tables.quarter_of(by["real_only"], known, None)[0].name == "real_only,n_initial=100"


def test_another_model_is_no_control():
    rows = [
        {"condition": c, "seed": s, "generation": t, "risk": 1.0 + t}
        for c in ("real_only", "replace,model=gan")
        for s in range(4)
        for t in range(4)
    ]
    v = collapse_profile(pd.DataFrame(rows))["replace,model=gan"][2]
    assert v.verdict == "not measured" and "run paradigm=real_only model=gan" in v.reason


def test_the_digits_study():
    profile = imgloop.collapse_profile(pd.read_csv(DIGITS))
    assert profile.conditions == ["accumulate", "accumulate_subsample", "replace"]
    found = profile["replace"]
    assert found[2].verdict == "detected" and found[2].exact and found[2].seeds == 8 and found[4].verdict == "excluded"
    assert found[1].verdict == "detected" and "one size" in found[5].reason
    without = pd.read_csv(DIGITS).query("condition != 'real_only,n_initial=349'").drop(columns="mode_share_min")
    less = imgloop.collapse_profile(without)["replace"]
    assert "n_initial=349" in less[1].reason and less[6].reason == "no column mode_share_min"
    frame = pd.read_csv(DIGITS).query("generation >= 5").groupby(["condition", "seed"])["risk"].mean()
    assert found[2].effect == pytest.approx((frame["replace"] - frame["real_only"]).mean())


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
    assert "cannot be told from divergence" in page and max(map(len, page.splitlines())) <= 120


def test_crossings_beyond_the_last_generation_are_called_extrapolated():
    page = collapse_profile(table({"variance_ratio": 0.97**T}))["loop"][4]
    assert page.verdict == "excluded" and "extrapolated beyond generation 8" in page.reason
    inside = collapse_profile(table({"variance_ratio": 0.8**T}))["loop"][4]
    assert "generation 3." in inside.reason and "extrapolated" not in inside.reason
    assert definitions.crossing(np.zeros(5), 1.0) is None


def test_noise_and_what_has_settled_cross_nothing():
    assert definitions.crossing(np.array([0, 1.2, 0.1, 0.2, 0.1]), 1.0) is None  # a first crossing, by noise
    assert definitions.crossing(np.array([0, 1.2, 0.1, 1.2, 1.4]), 1.0) == pytest.approx(2 + 0.9 / 1.1)
    assert definitions.crossing(np.array([0, 0.8, 0.8, 0.8, 0.8]), 1.0) is None  # saturated
    quiet = collapse_profile(table(noise=0.3, seeds=5))["loop"]
    assert not any("passes" in v.reason for v in quiet.values())


@pytest.mark.parametrize(
    "definition, measure, values",
    [
        (4, "variance_ratio", [0.05] * 7 + [0]),
        (4, "variance_ratio", [0.3, 0.28, 0.31, 0.29, 0]),
        (6, "mode_share_min", [0.04, 0.05, 0.03, 0.05, 0.04, 0.03, 0.05, 0]),
        (7, "tail_mass", [0.5] * 4 + [0]),
        (7, "tail_mass", [0] * 5),
    ],
)
def test_a_chain_that_lost_all_does_not_hide_the_others(definition, measure, values):
    frame = table(seeds=len(values), noise=0.02)
    loop = (frame["condition"] == "loop") & (frame["generation"] > 0)
    frame.loc[loop, measure] *= frame.loc[loop, "seed"].map(dict(enumerate(values)))
    assert collapse_profile(frame)["loop"][definition].verdict == "detected"
    frame.loc[loop & (frame["seed"] != len(values) - 1), measure] = 1.0  # and alone it excludes nothing
    assert collapse_profile(frame)["loop"][definition].verdict == "undetermined"


@pytest.mark.parametrize("definition, measure", definitions.RATIOS.items())
def test_a_total_loss_counts_no_less_than_a_near_one(definition, measure):
    """In most chains, or in all of them but late."""
    for chains, since in ((6, 3), (8, G)):
        frame = table(seeds=8, noise=0.02)
        lost = (frame["condition"] == "loop") & (frame["generation"] >= since) & (frame["seed"] < chains)
        found = []
        for left in (2 * definitions.FLOORS[measure], 0.0):
            frame.loc[lost, measure] = left
            found.append(collapse_profile(frame)["loop"][definition])
        assert found[1].verdict == found[0].verdict != "excluded" and found[1].p_holm <= found[0].p_holm
        assert definition == 6 or found[1].verdict == "detected"  # ln 10 is a third of the floor's loss


def test_zeros_of_both_sides_are_no_loss():
    """Tail masses of two samples in all, alike in chain and control: a control at 0 is not left out on its own."""
    rng, found = np.random.default_rng(0), []
    for _ in range(40):
        frame = table(seeds=20)
        frame["tail_mass"] = rng.poisson(2, len(frame)) / 2
        v = collapse_profile(frame)["loop"][7]
        found.append(v)
        assert v.seeds == 20 and v.verdict != "excluded"
    assert sum(v.verdict == "detected" for v in found) <= 2 and abs(np.mean([v.effect for v in found])) < 0.3
    assert any("a control has itself lost its tail_mass" in v.reason for v in found)


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


@pytest.mark.parametrize("first", ["real_only", "real_only,n_initial=349"])
@pytest.mark.parametrize("named", [{}, {"quarter": "real_only,n_initial=349"}, {"control": "real_only"}])
def test_the_control_does_not_depend_on_the_order_of_rows(first, named):
    frame = table({"risk": 0.3 * (T > 0)})
    quarter = frame[frame["condition"] == "real_only"].assign(condition="real_only,n_initial=349", risk=1.6)
    both = [frame, quarter] if first == "real_only" else [quarter, frame]
    v = collapse_profile(pd.concat(both), **named)["loop"][2]
    assert v.verdict == "detected" and v.effect == pytest.approx(0.3, abs=0.01)


def test_a_control_of_unknown_size_is_told_and_ties_are_refused():
    frame = table({"risk": 0.3 * T})
    other = frame.replace({"condition": {"real_only": "real_only,n_initial=349"}})
    assert "no chain of real_only" in collapse_profile(other)["loop"][2].reason
    named = collapse_profile(other, "real_only,n_initial=349")
    assert named["loop"][2].verdict == "detected" and "does not tell its number" in named.notes["loop"][0]
    two = [frame.replace({"condition": {"real_only": f"real_only,n_samples={n}"}}) for n in (1, 2)]
    assert "name one with control=" in collapse_profile(pd.concat(two).drop_duplicates(tables.KEYS))["loop"][2].reason


def test_no_condition_vanishes():
    grown = {100: 0.3 * T, 200: 0.1 * T, 400: 0 * T}
    names = [table({"risk": g}, size=n, rng=n) for n, g in grown.items()]
    named = [f.assign(condition=f["condition"] + f",n_initial={n}").drop(columns="size") for f, n in zip(names, grown)]
    found = collapse_profile(pd.concat(named))
    assert [found[f"loop,n_initial={n}"][2].verdict for n in grown] == ["detected", "detected", "excluded"]
    one = collapse_profile(pd.concat(names))  # one name: the largest size, and what is not judged is named
    assert one["loop"][2].verdict == "excluded"
    assert "of the chains of 400 real samples; those of 100, 200 have none" in " ".join(one.notes["loop"])


def test_generations_0_that_differ_and_chains_that_go_on_are_told():
    frame = table()
    frame.loc[frame["condition"] == "loop", "risk"] += 0.3
    assert "Generation 0 differs from the control's in risk (+0.3)" in " ".join(collapse_profile(frame).notes["loop"])
    short = table().query("not (condition == 'loop' and seed < 5 and generation > 3)")
    assert "generation 3, which is read as the last; 1 of 6 go on to 8" in " ".join(
        collapse_profile(short).notes["loop"]
    )
    assert not any("differs" in n or "go on" in n for n in collapse_profile(table()).notes["loop"])


def test_a_slope_that_the_mean_over_sizes_hides_is_not_excluded():
    sizes = np.array([50, 100, 200, 400, 800])
    parts = [table(seeds=6, noise=0.01, rng=i, size=n) for i, n in enumerate(sizes)]
    for n, part in zip(sizes, parts):
        grown = (part["condition"] == "loop") & (part["generation"] > 0)
        part.loc[grown, "risk"] *= (n / 200) ** 0.26
    found = collapse_profile(pd.concat(parts))["loop"][5]
    assert "5b slope 0.2" in found.reason and "the mean of one size is beyond" in found.reason
    assert found.verdict == "undetermined" and found.bound < found.margin
    assert (
        collapse_profile(pd.concat(table(seeds=6, size=n, rng=int(n)) for n in sizes))["loop"][5].verdict == "excluded"
    )


def test_sizes_with_gaps_leave_the_other_verdicts_whole():
    """An unread generation may be missing; where no chain is whole at what is read, definition 5 alone says so."""
    frame = pd.concat(table({"risk": 0.1 * T}, size=n, rng=int(n)) for n in (50, 100, 200, 400, 800))
    gap = (frame["size"] == 50) & (frame["generation"] == 2)
    assert collapse_profile(frame[~gap])["loop"][5].verdict == "detected"
    short = collapse_profile(frame[~((frame["size"] == 50) & (frame["generation"] > 4))])["loop"]
    assert (short[5].verdict, short[2].verdict) == ("not measured", "detected")


# Thresholds


def test_thresholds_in_the_code_are_those_of_conf():
    assert Thresholds.of() == Thresholds()


def test_thresholds_are_frozen_once_and_a_change_is_shown(tmp_path):
    first = freeze(tmp_path, {"tail_kept": 0.7})
    assert first.thresholds.tail_kept == 0.7 and first.ended == 0
    assert freeze(tmp_path, {"tail_kept": 0.5}) == first == frozen(tmp_path)
    same = collapse_profile(table(), frozen=first)
    assert same.thresholds.tail_kept == 0.7 and "before the first chain ended" in same.notes[""][1]
    other = collapse_profile(table(), frozen=first, thresholds={"tail_kept": 0.5})
    assert "Changed since: tail_kept was 0.7 and is 0.5." in other.notes[""]
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(UserError, match=r"collapse.json"):
        frozen(tmp_path)


def test_thresholds_written_after_results_say_so(tmp_path):
    (tmp_path / "replace" / "seed0").mkdir(parents=True)
    (tmp_path / "replace" / "seed0" / "metrics.csv").write_text("generation\n")
    assert "after 1 chains had ended" in collapse_profile(table(), frozen=freeze(tmp_path)).notes[""][1]


def test_a_threshold_decides():
    frame = table({"tail_mass": 0.97**T})
    assert verdicts(frame)[7] != verdicts(frame, thresholds={"tail_kept": 0.95})[7] == "detected"


# Commands


def test_the_command_reads_a_table(tmp_path, capsys):
    assert main([str(DIGITS), "--csv", str(tmp_path / "verdicts.csv")]) == 0
    out = capsys.readouterr().out
    assert "replace over real_only: 8 chains, generations 0..7" in out and "detected, exact" in out
    assert len(pd.read_csv(tmp_path / "verdicts.csv")) == 24
    assert main([str(DIGITS), "--json", "--threshold", "risk_margin=0.2"]) == 0
    assert json.loads(capsys.readouterr().out)["thresholds"]["risk_margin"] == 0.2


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["nowhere.csv"], "does not exist"),
        ([str(REPO / "docs")], "holds no finished generation"),
        ([str(DIGITS), "--control", "base"], "no condition base"),
        ([str(DIGITS), "--threshold", "alpha"], "NAME=VALUE"),
        (["power", "--shape", "cubic"], "shape=cubic"),
        (["power", "--definition", "9"], "definition=9"),
        (["power", "--definition", "3", "--generations", "2"], "needs 3"),
        (["power", "--seeds", "3"], "no verdict"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, says, capsys):
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_power_answers(capsys):
    assert main(["power", "--seeds", "5", "8", "--generations", "4", "--studies", "400", "--effect", "3"]) == 0
    assert "4 generations: 5 seeds (detected in" in capsys.readouterr().out
    assert main(["power", "--definition", "4"]) == 1
    assert "has a threshold of 0.693: give the standard deviation" in capsys.readouterr().err


@pytest.mark.parametrize("definition, spread", [(4, 0.1), (7, 0.05), (8, 0.002)])
def test_power_counts_from_0_and_not_from_the_threshold(definition, spread):
    """Half of the threshold at generation 4 is well below it there and, growing linearly, well above at 16."""
    mark = definitions.marks(Thresholds())[definition]
    plan = Plan(definition, effect=-mark / 2 / spread, shape="linear", at=4, accumulated=0.0, measured=1, spread=spread)
    early, late = (power(plan, 8, g, 500) for g in (4, 16))
    assert early.excluded > 0.8 and early.detected == 0 and late.detected > 0.99
    x = np.random.default_rng(0).normal(mark / 2, spread, (4000, 8))  # the same by SciPy, of the number itself
    p = stats.ttest_1samp(x, mark, axis=-1, alternative="less").pvalue
    assert early.excluded == pytest.approx((p < 0.05).mean(), abs=0.06)


def test_replicates_of_a_solvable_system_are_chains(tmp_path, capsys):
    for paradigm in ("replace", "real_only"):
        system = ["model=gaussian", "model.unbiased=true", "model.replicates=60", "data.n=10", "generations=9"]
        imgloop.run([*system, f"paradigm={paradigm}", f"out={tmp_path}", "study=g", "display=none"])
    frame = tables.read(tmp_path / "g")
    assert len(frame) == 2 * 60 * 9 and {"risk", "variance_ratio"} <= set(frame)
    first = frame[frame["generation"] == 0].pivot(index="seed", columns="condition", values="risk")
    assert (first.iloc[:, 0] == first.iloc[:, 1]).all()  # chain and control share generation 0
    assert main([str(tmp_path / "g")]) == 0
    assert "60 chains, generations 0..8" in " ".join(capsys.readouterr().out.split())


def test_the_very_condition_that_the_user_names_is_the_control():
    frame = table({"risk": 0.3 * (T > 0)}, seeds=5).replace({"condition": {"real_only": "ctl"}})
    better = frame[frame["condition"] == "ctl"].assign(condition="ctl,lr=2")
    better["risk"] -= 0.2
    found = collapse_profile(pd.concat([frame, better]), "ctl,lr=2")["loop"][2]
    assert found.effect == pytest.approx(0.5, abs=0.01)


def test_what_has_passed_its_margin_at_the_last_generation_is_not_excluded():
    late = np.where(T == G, 0.4, 1.0)  # the mean of -log over the last three generations is under ln 2
    found = collapse_profile(table({"variance_ratio": late}, seeds=6))["loop"][4]
    assert found.bound < np.log(2) and found.verdict == "undetermined"
    assert f"the mean at generation {G} is beyond the margin" in found.reason
    assert verdicts(table({"variance_ratio": np.where(T == G, 0.6, 1.0)}, seeds=6))[4] == "excluded"
