"""The statistics of the collapse profile, against SciPy and enumeration."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from planted import ttest

from imgloop.collapse import statistics


@given(st.integers(2, 9), st.integers(0, 10**6), st.floats(-2, 2))
@settings(max_examples=40, deadline=None)
def test_the_t_test_is_scipys(chains, seed, threshold):
    x = np.random.default_rng(seed).normal(size=(3, chains))
    theirs = ttest(x, threshold, axis=-1, alternative="greater")
    np.testing.assert_allclose(statistics.greater(x, threshold), theirs.pvalue, rtol=1e-9)
    upper = ttest(x, 0, axis=-1, alternative="less").confidence_interval(0.95).high
    np.testing.assert_allclose(statistics.Moments.of(x).bound(0.95), upper, rtol=1e-9)
    both = ttest(x, 0, axis=-1).confidence_interval(0.95)
    np.testing.assert_allclose(statistics.interval(x)[1:], [both.low, both.high], rtol=1e-9)


def test_chains_without_a_number_are_left_out():
    x = np.array([1.0, np.nan, 2.0, 4.0, np.inf])
    assert statistics.greater(x) == pytest.approx(ttest([1, 2, 4], 0, alternative="greater").pvalue)
    np.testing.assert_allclose(statistics.flipped_t(x, statistics.signs(5))[0], ttest([1, 2, 4], 0).statistic)


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
        return np.array([ttest(row, 0).statistic for row in y])

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


def test_step_down_p_values_rise_in_the_order_of_the_statistics():
    t = np.array([[3.0, 5, 5, 5], [2.0, 0, 0, 0]])  # the second alone would have p = 1/4
    assert statistics.step_down(t).tolist() == [1, 1]


def test_only_hypotheses_clearly_below_their_thresholds_are_left_out_of_the_sign_flips():
    x = np.random.default_rng(0).standard_normal((3, 5)) * 0.3 + np.array([[0.5], [0.1], [0.0]])
    t = statistics.flipped_t(x, statistics.signs(5))
    chains = np.full(3, 5)
    assert (np.abs(t[:, 0]) > 0.01).all() and (t[:, 0] > -3).all()
    np.testing.assert_array_equal(statistics.sign_flip_p(t, chains), statistics.step_down(t))
    far = statistics.flipped_t(np.array([[-9.0, -10, -11, -10, -10]]), statistics.signs(5))
    with_far = statistics.sign_flip_p(np.concatenate([t, far]), np.full(4, 5))
    np.testing.assert_array_equal(with_far, [*statistics.step_down(t), 1])
