"""The rules of the collapse profile on series with planted behaviour."""

import numpy as np
import pandas as pd
import pytest
from conftest import html_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import LOG, PLANTED, G, T, table, verdicts

from imgloop.collapse import definitions, statistics
from imgloop.collapse.profile import collapse_profile
from imgloop.thresholds import Thresholds


def test_numbers_of_a_chain():
    x = np.arange(9.0)[None] ** 2
    assert definitions.late(x) == pytest.approx((36 + 49 + 64) / 3)
    assert definitions.late(x[:, :3]) == pytest.approx((1 + 4) / 2)  # never generation 0
    q = (1 / 6 + 1 / 7 + 1 / 8 + 1 / 9) / (1 / 2 + 1 / 3 + 1 / 4 + 1 / 5)
    assert definitions.contrast(x) == pytest.approx((64 - 16) - q * 16)
    q = (1 / 5 + 1 / 6 + 1 / 7 + 1 / 8) / (1 / 2 + 1 / 3 + 1 / 4)  # halfway from 0 to 7 is 3
    assert definitions.contrast(x[:, :8]) == pytest.approx((49 - 9) - q * 9)


def test_of_several_numbers_the_smallest_p_counts_times_how_many_there_are():
    x = np.random.default_rng(0).standard_normal((3, 6)) + [[0], [1.5], [0]]
    numbers = tuple(definitions.Number(name, row, 0.0, 0.1) for name, row in zip("abc", x))
    (judged,) = definitions.judge([definitions.Question(8, numbers)], Thresholds(), exact=False)
    p = [float(statistics.greater(row)) for row in x]
    assert judged.lead == np.argmin(p) == 1 and judged.p == pytest.approx(3 * p[1]) and 3 * p[1] < 1
    assert [judged.effect, judged.low, judged.high] == pytest.approx(statistics.interval(x[1]))  # 95 %


@given(st.integers(3, 40), st.floats(-5, 5), st.floats(-5, 5))
@settings(max_examples=50, deadline=None)
def test_the_contrast_is_zero_for_logarithmic_growth_from_any_start(last, a, b):
    course = a + b * np.cumsum(1 / np.arange(1, last + 2))
    for first in (0, definitions.last_two_thirds(last)):
        assert definitions.contrast(course, first) == pytest.approx(0, abs=1e-9)
        assert definitions.contrast(np.arange(last + 1.0), first) > 0  # faster
        assert definitions.contrast(-1 / np.arange(1.0, last + 2), first) < 0  # slower


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


@pytest.mark.parametrize("measure, value", [("off_support", 0.6), ("variance_ratio", 0.3), ("variance_ratio", 2.5)])
def test_nothing_is_excluded_where_generation_0_is_no_model_of_the_data(measure, value):
    """A loop over noise images loses nothing more, and earns no "excluded" by that."""
    frame = table(quarter=True)
    near = frame.assign(**{measure: np.where(frame["generation"] == 0, 1 - value, frame[measure])})
    frame[measure] = np.where(frame["generation"] == 0, value, frame[measure])
    profile = collapse_profile(frame, quarter="quarter")
    assert not [v for v in profile["loop"].values() if v.verdict == "excluded"]
    assert "generation 0 is not a model" in profile["loop"][6].reason
    assert any("not a model of the data" in note for note in profile.notes["loop"])
    assert len(profile.unfit) == 1 and "loop" in profile and "nonsense" not in profile
    if measure == "off_support":
        assert collapse_profile(near, quarter="quarter")["loop"][6].verdict == "excluded"


@pytest.mark.parametrize(
    "effect, drawn, verdict",
    [(0.0, 400, "excluded"), (0.0, 100, "undetermined"), (3.0, 100, "detected"), (3.0, 400, "detected"),
     (3.0, 1600, "undetermined"), (0.0, 1600, "excluded")],
)  # fmt: skip
def test_definition_1_does_not_trust_distances_of_other_numbers_of_samples(effect, drawn, verdict):
    """A Frechet distance of fewer samples is larger, and one of more is smaller, whatever the generator."""
    frame = table({"risk": effect * (T > 0)}, quarter=True).rename(columns={"risk": "fd"})
    frame["n_drawn"] = np.where(frame["condition"] == "quarter", drawn, 400)
    profile = collapse_profile(frame, quarter="quarter")
    assert profile["loop"][1].verdict == verdict
    noted = any("so definition 1 is not" in note for note in profile.notes["loop"])
    assert noted == (drawn != 400) and ("another number of samples" in profile["loop"][1].reason) == (
        verdict == "undetermined"
    )


def test_a_significant_effect_inside_the_margin_is_detected_and_both_are_stated():
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


def test_a_jump_that_goes_on_growing_is_no_plateau():
    """C of the whole course is below 0, that of its last two thirds above."""
    jump = collapse_profile(table({"risk": (0.2 + 0.02 * T) * (T > 0)}, seeds=8))["loop"][3]
    assert jump.verdict == "undetermined" and "not excluded" in jump.reason and jump.effect < 0
    assert verdicts(table({"risk": 0.2 * (T > 0)}, seeds=8))[3] == "excluded"


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


def test_chains_that_repeat_one_seed_are_noted():
    frame = table(PLANTED[2], noise=0.0)
    frame["risk"] = np.where(frame["condition"] == "loop", 0.6, 0.5)
    assert "different seeds" in collapse_profile(frame)["loop"][2].reason


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


def test_severity_is_printed_and_never_tested():
    profile = collapse_profile(table(PLANTED[3]), noise_risk=10.0)
    assert any("Severity" in n and "not tested" in n for n in profile.notes["loop"])


def test_crossings_beyond_the_last_generation_are_called_extrapolated():
    page = collapse_profile(table({"variance_ratio": 0.97**T}))["loop"][4]
    assert page.verdict == "excluded" and "extrapolated beyond generation 8" in page.reason
    inside = collapse_profile(table({"variance_ratio": 0.8**T}))["loop"][4]
    assert "generation 3." in inside.reason and "extrapolated" not in inside.reason
    assert definitions.crossing(np.zeros(5), 1.0) is None


def test_noise_and_saturated_series_cross_nothing():
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


@pytest.mark.parametrize("definition, measure", list(definitions.RATIOS.items()))
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


@pytest.mark.nightly
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


def test_over_a_control_that_lost_everything_there_is_no_ratio():
    frame = table(seeds=5)
    frame.loc[frame["generation"] > 0, "tail_mass"] = 0.0
    assert collapse_profile(frame)["loop"][7].verdict == "not measured"


def test_what_has_passed_its_margin_at_the_last_generation_is_not_excluded():
    late = np.where(T == G, 0.4, 1.0)  # the mean of -log over the last three generations is under ln 2
    found = collapse_profile(table({"variance_ratio": late}, seeds=6))["loop"][4]
    assert found.bound < np.log(2) and found.verdict == "undetermined"
    assert f"the mean at generation {G} is beyond the margin" in found.reason
    assert verdicts(table({"variance_ratio": np.where(T == G, 0.6, 1.0)}, seeds=6))[4] == "excluded"


@pytest.mark.nightly
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


def test_a_profile_is_a_mapping_and_a_table_in_a_notebook():
    frame = table(PLANTED[4], quarter=True)
    second = frame[frame["condition"] == "loop"].assign(condition="<b>other")
    profile = collapse_profile(pd.concat([frame, second]), quarter="quarter")
    assert list(profile) == profile.conditions == ["loop", "<b>other"] and len(profile) == 2
    assert "loop" in profile and "nothing" not in profile and profile.get("nothing") is None
    assert [name for name, verdicts in profile.items() if verdicts[4].verdict == "detected"] == list(profile.keys())
    assert profile.get("loop") == profile["loop"]
    assert set(profile.to_frame()["condition"]) == set(profile)
    head, *rows = html_rows(profile._repr_html_())
    assert head == ["over real_only", "loop", "<b>other"] and [row[0][:3] for row in rows] == [
        f"{k}. " for k in range(1, 9)
    ]
    assert rows[3][1].startswith("● detected: ") and "<b>other" not in profile._repr_html_()
