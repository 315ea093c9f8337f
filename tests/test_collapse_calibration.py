"""Error rates and power of the profile in simulated studies, against docs/profile.md; and the same with the rules
broken on purpose, which must fail."""

import calibrate
import numpy as np
import pytest
from calibrate import H, Simulated, family
from conftest import thinned
from scipy.stats import binom

from imgloop.collapse import definitions, power, statistics
from imgloop.collapse.definitions import judge
from imgloop.collapse.power import Plan

STUDIES = 2_000
CASES = [(kind, accumulated, s) for kind in calibrate.NOISES for accumulated in (0.0, 1.0) for s in (4, 5, 8)]


def most(p: float, n: int = STUDIES, sure: float = 1 - 1e-5) -> float:
    """The largest share that chance explains at a true probability of p."""
    return float(binom.ppf(sure, n, p)) / n


def test_the_bound_is_one_that_can_be_missed():
    assert 0.05 < most(0.05) < 0.08


@pytest.mark.parametrize("kind, accumulated, seeds", thinned(CASES, 3))
def test_false_detections_of_a_profile_are_at_most_five_in_a_hundred(kind, accumulated, seeds):
    found = Simulated(11, STUDIES, seeds, kind=kind, accumulated=accumulated).judged({})
    assert family(found) <= most(0.05)
    exact = np.logical_or.reduce([j.p_exact <= H.alpha for j in found.values()])
    assert exact.mean() <= most(0.05)
    if seeds == 4:
        assert not exact.any()  # the smallest p is 1/16


@pytest.mark.parametrize("kind, accumulated, seeds", thinned(CASES, 3))
def test_false_exclusions_are_at_most_five_in_a_hundred_each(kind, accumulated, seeds):
    found = Simulated(12, STUDIES, seeds, kind=kind, accumulated=accumulated).judged({}, at_margin=True, exact=False)
    for k, j in found.items():
        assert j.excluded.mean() <= most(0.05), k


@pytest.mark.parametrize("kind", calibrate.NOISES)
@pytest.mark.parametrize("effect, least", [(2.0, 0.62), (3.0, 0.89)])
def test_planted_collapses_are_hit_with_the_stated_power(kind, effect, least):
    # docs/profile.md, four of eight definitions at 5 seeds: about .7 at two standard deviations, .94 to .97 at three.
    four = dict.fromkeys((1, 2, 4, 7), effect)
    found = Simulated(13, STUDIES, kind=kind).judged(four)
    hits = np.mean([found[k].detected.mean() for k in four])
    assert hits >= least
    assert family(found, [k for k in found if k not in four]) <= most(0.05)


@pytest.mark.parametrize("k", list(definitions.TITLES))
def test_each_definition_alone_is_hit_at_three_standard_deviations(k):
    assert Simulated(14, 500).judged({k: 3.0}, exact=False)[k].detected.mean() > 0.84


@pytest.mark.parametrize("accumulated", [0.0, 1.0])
def test_definition_3_distinguishes_shapes(accumulated):
    def shares(name, growth):
        found = calibrate.shaped(name, growth, STUDIES, accumulated)
        return found.detected.mean(), (found.excluded & ~found.detected).mean()

    assert shares("linear", 12)[0] > 0.8 and shares("quadratic", 12)[0] > 0.97
    assert shares("inverse_square", 12)[1] > 0.7 and shares("plateau", 22)[1] > 0.85
    detected, excluded = shares("logarithmic", 20)
    assert detected <= most(0.05) and excluded <= most(0.05)
    for name in ("inverse_square", "plateau"):
        assert shares(name, 12)[0] <= most(0.01)


def test_three_rates_of_hallucination_are_one_definition():
    rng = np.random.default_rng(0)
    rates = {
        name: (H.hallucinated + 0.001 * rng.standard_normal((STUDIES, 6, 5)), np.zeros((STUDIES, 6, 5)))
        for name in definitions.RATES
    }
    (found,) = judge([definitions.hallucination(rates, H)], H, exact=False)
    assert found.detected.mean() <= most(0.05)


# Broken on purpose


def test_numbers_that_are_not_paired_with_the_control_fail():
    paired, unpaired = calibrate.unpaired_rates(STUDIES)
    assert paired <= most(0.05) and unpaired > 0.3


def test_without_holm_false_detections_add_up():
    found = Simulated(11, STUDIES).judged({}, exact=False)
    assert np.logical_or.reduce([j.p <= H.alpha for j in found.values()]).mean() > most(0.05)


def test_the_largest_generation_in_place_of_a_mean_fails():
    d = calibrate.errors(np.random.default_rng(0), (STUDIES, 5, 9), "normal", 0.0)
    assert (statistics.greater(d.max(-1)) <= 0.05).mean() > 0.5
    assert (statistics.greater(definitions.late(d)) <= 0.05).mean() <= most(0.05)


def test_a_missing_significance_is_no_exclusion():
    found = Simulated(12, STUDIES).judged({}, at_margin=True, exact=False)
    assert (found[4].p > 0.05).mean() > 0.9 and found[4].excluded.mean() <= most(0.05)


def test_a_percentile_bootstrap_over_five_chains_covers_too_little():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((STUDIES, 5))
    means = x[:, rng.integers(5, size=(1_000, 5))].mean(-1)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    _, t_low, t_high = statistics.interval(x)
    assert ((low < 0) & (0 < high)).mean() < 0.88 < 0.935 < ((t_low < 0) & (0 < t_high)).mean() < 0.965


def test_sign_flips_are_not_drowned_by_definitions_far_below_their_thresholds():
    x = np.random.default_rng(5).standard_normal((500, 8, 5)) + np.array([3, 0, 0, 0, -10, -10, -10, -10])[:, None]
    t = statistics.flipped_t(x, statistics.signs(5))
    assert (statistics.step_down(t)[:, 0] <= 0.05).mean() < 0.05
    hit = statistics.sign_flip_p(t, np.full((500, 8), 5)) <= 0.05
    assert hit[:, 0].mean() > 0.75 and hit[:, 1:4].any(1).mean() <= most(0.05, 500)


# Power


@pytest.mark.parametrize("effect", [1.5, 2.5])
@pytest.mark.parametrize("seeds", [4, 5, 8])
def test_power_of_one_definition_is_the_noncentral_t(effect, seeds):
    plan = Plan(effect=effect, measured=1, at=4)
    got = power.power(plan, seeds, 4, 4_000).detected
    assert got == pytest.approx(power.t_power(effect, seeds, 0.05), abs=0.04)


def test_more_seeds_and_more_definitions_move_power_as_they_must():
    plan = Plan(effect=2.0)
    by_seeds = [power.power(plan, s, 4, 1_000).detected for s in (4, 6, 10)]
    assert by_seeds == sorted(by_seeds)
    assert power.power(Plan(effect=2.0, measured=1), 5, 4, 1_000).detected > by_seeds[0]


def test_noise_that_accumulates_costs_generations():
    # A constant signal: with a random walk the noise grows, with white noise it does not.
    white, walk = (Plan(effect=3.0, shape="constant", accumulated=a) for a in (0.0, 1.0))
    assert power.power(white, 5, 16, 1_000).detected > power.power(walk, 5, 16, 1_000).detected + 0.2


def test_noise_has_the_variance_that_the_plan_states():
    for kind in power.NOISES:
        e = power.noise(Plan(noise=kind, accumulated=0.5, at=4), 20_000, 1, 8, np.random.default_rng(0))
        assert e[..., 4].var() == pytest.approx(1, rel=0.15) and (e[..., 0] == 0).all()
        assert e[..., 8].var() == pytest.approx(1.5, rel=0.15)


def test_judging_many_studies_is_judging_each():
    simulated = Simulated(15, 20)
    questions = [simulated.question(k, 1.0) for k in definitions.TITLES]
    together = judge(questions, H)
    for i in (0, 7):
        alone = [
            definitions.Question(
                q.definition,
                tuple(
                    definitions.Number(n.name, n.x[i], n.above, n.below[i] if np.ndim(n.below) else n.below)
                    for n in q.numbers
                ),
                q.every,
                None if q.gate is None else q.gate[i],
            )
            for q in questions
        ]
        for one, many in zip(judge(alone, H), together):
            for name in ("p_holm", "p_exact", "bound", "effect"):
                assert getattr(one, name) == pytest.approx(getattr(many, name)[i]), name


@pytest.mark.nightly
def test_the_script_prints_every_part(capsys):
    parts = [p for p in calibrate.PARTS if p != "paper"]
    assert calibrate.main(["--studies", "100", "--only", *parts]) == 0
    out = capsys.readouterr().out
    assert out.count("\n## ") == len(parts) and "nan" not in out
