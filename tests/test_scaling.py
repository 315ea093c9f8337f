"""Definition 5: how the loop changed a scaling law, for laws that are known."""

import numpy as np
import pandas as pd
import pytest
from conftest import thinned
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from imgloop.collapse import scaling
from imgloop.collapse.profile import collapse_profile
from imgloop.collapse.scaling import Law, scaling_law
from imgloop.errors import UserError
from imgloop.thresholds import Thresholds

SIZES = np.array([100, 200, 400, 800, 1600])
LAST = 4
HALF = Law(5.0, 0.5, 0.0)


def chains(after, before=HALF, seeds=6, noise=0.01, rng=0):
    """Risks (S, N, G + 1) that change from one law to another at generation 1, and controls that do not change."""
    rng = np.random.default_rng(rng)
    level = 0.05 * rng.standard_normal((seeds, 1, 1))

    def noisy(course):
        shape = (seeds, len(SIZES), LAST + 1)
        errors = noise * rng.standard_normal(shape)
        errors[..., 0] = 0
        return course * np.exp(level + errors)

    first = before(SIZES)[:, None]
    course = np.concatenate([first, np.repeat(after(SIZES)[:, None], LAST, 1)], 1)
    return noisy(course), noisy(np.repeat(first, LAST + 1, 1))


def changed(law):
    return [p.name[:2] for p in law.parts if p.changed]


def table(treated, control, sizes=SIZES):
    rows = [
        {"condition": name, "size": n, "seed": s, "generation": t, "risk": x[s, i, t]}
        for name, x in (("loop", treated), ("real_only", control))
        for s in range(len(x))
        for i, n in enumerate(sizes)
        for t in range(x.shape[-1])
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("law", [Law(5.0, 0.5, 0.0), Law(2.0, 1.0, 0.01), Law(100.0, 0.8, 0.5)])
def test_a_law_is_fitted_as_it_is(law):
    found = scaling.fit(SIZES.astype(float), np.log(law(SIZES)))
    assert (found.a, found.b, found.c) == pytest.approx((law.a, law.b, law.c), rel=1e-3, abs=1e-5)
    np.testing.assert_allclose(law.size(law(SIZES)), SIZES)
    assert law.size(law.c) == np.inf
    assert law.c > 0 or found.c == 0  # exactly 0 at the bound


def test_nothing_changed():
    law = scaling_law(SIZES, *chains(Law(5.0, 0.5, 0.0)))
    assert changed(law) == [] and law.constant.estimate == pytest.approx(1, abs=0.02)
    assert [e[0] for e in law.effective] == pytest.approx([1] * 5, abs=0.05)


def test_a_changed_constant():
    law = scaling_law(SIZES, *chains(Law(10.0, 0.5, 0.0)))
    assert "5a" in changed(law) and "5b" not in changed(law)
    assert law.constant.estimate == pytest.approx(2, rel=0.02)
    for estimate, low, high in law.effective:  # twice the risk at slope 1/2: a quarter of the data
        assert estimate == pytest.approx(0.25, rel=0.1) and low < 0.25 < high


def test_a_changed_slope():
    law = scaling_law(SIZES, *chains(Law(5.0 * 100**-0.2, 0.3, 0.0)))
    assert {"5a", "5b"} <= set(changed(law)) and law.slope.estimate == pytest.approx(0.2, abs=0.02)
    effective = [e[0] for e in law.effective]
    assert effective == sorted(effective, reverse=True)  # the more data, the less each adds


def test_a_new_floor():
    law = scaling_law(SIZES, *chains(Law(5.0, 0.5, 0.1), noise=0.002))
    assert "5c" in changed(law) and law.floor.estimate == pytest.approx(0.1, rel=0.1)
    assert law.floor.low < 0.1 < law.floor.high


def floor(before, after, noise, rng, seeds=8):
    """Fitted change of the floor and its interval in a study whose log risks have independent normal errors."""
    sizes = SIZES.astype(float)
    logs = [np.log(law(sizes)) + noise * rng.standard_normal((seeds, len(sizes))) for law in (before, after)]
    laws = [scaling.fit(sizes, y.mean(0)) for y in logs]
    return laws[1].c - laws[0].c, *scaling.floor_interval(sizes, *logs, *laws)


@pytest.mark.parametrize("c", thinned([0.05, 0.0], 2))
def test_a_changed_exponent_is_no_new_floor(c):
    rng, n = np.random.default_rng(0), 30
    found = [floor(Law(5.0, 0.5, c), Law(5.0, 0.05, c), 0.03, rng) for _ in range(n)]
    assert sum(low > 0 or high < 0 for _, low, high in found) <= binom.ppf(0.999, n, 0.05)


@pytest.mark.nightly
def test_a_floor_of_three_tenths_of_the_smallest_risk_is_mostly_found():
    rng, n, new = np.random.default_rng(0), 30, 3 / 7 * float(HALF(SIZES[-1]))
    found = [floor(HALF, Law(5.0, 0.5, new), 0.03, rng) for _ in range(n)]
    assert sum(low > 0 for _, low, _ in found) > n / 2
    assert sum(not low < new < high for _, low, high in found) <= binom.ppf(0.999, n, 0.05)


@given(st.integers(0, 10**6), st.floats(0.3, 0.6), st.sampled_from([0.0, 0.1]), st.floats(0.01, 0.1))
@settings(max_examples=10, deadline=None)
def test_a_floor_interval_holds_the_fit_and_turns_round_with_the_loop(seed, b, c, noise):
    """Of falling risks; where noise drowns the fall the statistic has several roots, and an end is one of them."""
    laws, rng, sizes = (HALF, Law(3.0, b, c)), np.random.default_rng(seed), SIZES.astype(float)
    logs = [np.log(law(sizes)) + noise * rng.standard_normal((4, len(sizes))) for law in laws]
    fits = [scaling.fit(sizes, y.mean(0)) for y in logs]
    low, high = scaling.floor_interval(sizes, *logs, *fits)
    assert np.isfinite([low, high]).all() and low <= fits[1].c - fits[0].c <= high
    assert scaling.floor_interval(sizes, *logs[::-1], *fits[::-1]) == pytest.approx(
        (-high, -low), abs=1e-3 * (high - low)
    )


def test_one_step_finds_the_floor_to_second_order():
    law, sizes = Law(5.0, 0.5, 0.1), SIZES.astype(float)

    def error(e):
        return scaling.one_step(sizes, np.log(law(sizes))[None], Law(5.0 * (1 + e), 0.5 - e, 0.1 + e / 10))[0] - law.c

    assert error(0) == pytest.approx(0, abs=1e-12)
    assert error(0.01) / error(0.005) == pytest.approx(4, rel=0.1)


@pytest.mark.nightly
def test_intervals_cover_what_they_promise():
    """95 % intervals of the constant, the slope, the floor and N_eff / N over simulated sweeps."""
    hits = np.zeros(4)
    for i in range(n := 100):
        law = scaling_law(SIZES, *chains(Law(10.0, 0.5, 0.1), Law(5.0, 0.5, 0.05), noise=0.005, rng=i))
        truth = Law(5.0, 0.5, 0.05).size(Law(10.0, 0.5, 0.1)(400)) / 400
        parts = ((law.floor, 0.05),)
        hits[0] += law.constant.low < 2 < law.constant.high
        hits[1] += law.slope.low < 0 < law.slope.high
        hits[2] += all(p.low < t < p.high for p, t in parts)
        hits[3] += law.effective[2][1] < truth < law.effective[2][2]
    assert (hits / n > 0.86).all(), hits / n


def test_the_profile_measures_definition_5_where_sizes_vary():
    profile = collapse_profile(table(*chains(Law(10.0, 0.5, 0.0))))
    v = profile["loop"][5]
    assert v.verdict == "detected" and v.exact and v.effect == pytest.approx(np.log(2), rel=0.02)
    assert "5a constant x 2" in v.reason and "5b slope" in v.reason
    page = str(profile)
    assert "N_eff / N" in page
    assert len(profile.to_dict()["conditions"]["loop"]["scaling_law"]["effective"]) == 5


def test_no_change_is_excluded():
    assert collapse_profile(table(*chains(Law(5.0, 0.5, 0.0))))["loop"][5].verdict == "excluded"


def test_a_quarter_of_the_data_is_found_among_the_sizes():
    found = collapse_profile(table(*chains(Law(12.0, 0.5, 0.0))))["loop"]
    assert found[1].verdict == "detected"  # a quarter of the data doubles the risk, the loop does more
    assert collapse_profile(table(*chains(Law(8.0, 0.5, 0.0))))["loop"][1].verdict == "excluded"


def test_a_drift_of_the_control_is_no_change():
    treated, control = chains(Law(5.0, 0.5, 0.0))
    drift = np.linspace(1, 3, LAST + 1)
    law = scaling_law(SIZES, treated * drift, control * drift)
    assert law.constant.estimate == pytest.approx(1, abs=0.02)
    alone = scaling_law(SIZES, treated * drift)
    assert alone.constant.estimate > 2


def test_sizes_by_the_name_of_a_condition():
    frame = table(*chains(Law(10.0, 0.5, 0.0)))
    frame["condition"] += ",n_initial=" + frame["size"].astype(str)
    frame["n_train"] = frame["size"]
    profile = collapse_profile(frame.drop(columns="size"))
    assert profile.conditions == ["loop,n_initial=1600"]
    found = profile["loop,n_initial=1600"]
    assert found[5].verdict == "detected" and found[1].seeds == 6


def test_what_cannot_be_fitted():
    treated, control = chains(Law(10.0, 0.5, 0.0))
    with pytest.raises(UserError, match="needs 5 different sizes"):
        scaling_law(SIZES[:4], treated[:, :4], control[:, :4])
    with pytest.raises(UserError, match="no logarithm"):
        scaling_law(SIZES, treated - 5, control)
    with pytest.raises(UserError, match="No chain"):
        scaling_law(SIZES, treated * np.nan, control)
    few = collapse_profile(table(treated[:, :4], control[:, :4], SIZES[:4]))["loop"][5]
    assert few.verdict == "not measured" and "there is 4 sizes" not in few.reason and "4 sizes" in few.reason
    negative = collapse_profile(table(treated - 5, control))["loop"][5]
    assert negative.verdict == "not measured" and "logarithm" in negative.reason


def test_a_chain_with_a_gap_is_left_out():
    treated, control = chains(Law(10.0, 0.5, 0.0))
    treated[2, 1, 3] = np.nan
    assert scaling_law(SIZES, treated, control).seeds == 5
    assert collapse_profile(table(treated, control))["loop"][5].seeds == 5


@pytest.mark.parametrize("junk", [np.nan, -1.0])
def test_generations_that_are_not_read_may_hold_anything(junk):
    treated, control = chains(Law(10.0, 0.5, 0.0))
    clean = scaling_law(SIZES, treated, control)
    for x in (treated, control):
        x[..., 1] = junk  # of 0..4, 0 and the last three are read
    assert scaling_law(SIZES, treated, control) == clean
    treated[..., 2:-1] = control[..., 2:-1] = junk
    assert scaling_law(SIZES, treated, control, Thresholds(window=1)).seeds == 6
    with pytest.raises(UserError):
        scaling_law(SIZES, treated, control)


@pytest.mark.parametrize(("holed", "generation"), [(0, 0), (1, 0), (0, 2), (1, 4)])
def test_a_chain_with_a_gap_in_what_is_read_is_left_out(holed, generation):
    pair = chains(Law(10.0, 0.5, 0.0), seeds=4)
    pair[holed][2, 1, generation] = np.nan
    treated, control = (np.delete(x, 2, 0) for x in pair)
    assert scaling_law(SIZES, pair[0], pair[1]) == scaling_law(SIZES, treated, control)


def test_one_chain_has_a_law_without_intervals():
    treated, control = chains(Law(10.0, 0.5, 0.0))
    law = scaling_law(SIZES, treated[:1], control[:1])
    assert law.constant.estimate == pytest.approx(2, rel=0.05) and np.isnan(law.constant.low)
    assert changed(law) == [] and law.to_frame()["effective"].notna().all()


def test_the_sweep_composes():
    from imgloop.config.settings import compose, parsed

    swept = compose(["experiment=study/scaling_law"]).hydra.sweeper.params
    sizes = [int(n) for n in swept["n_initial"].split(",")]
    assert len(sizes) == 5 and abs(4 * sizes[2] - sizes[4]) < 4
    for paradigm in swept["paradigm"].split(","):
        settings = parsed(["experiment=study/scaling_law", f"paradigm={paradigm}", f"n_initial={sizes[0]}"])
        assert settings.condition == f"{paradigm},n_initial={sizes[0]}" and settings.n_samples is None
