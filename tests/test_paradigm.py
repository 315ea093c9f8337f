"""The paradigms against their definitions. Every law is also shown to fail on a paradigm that breaks it."""

import math
from collections import Counter
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, chisquare, hypergeom

from imgloop import contracts, paradigm
from imgloop.config.compose import CONF
from imgloop.config.fields import setting
from imgloop.config.schedule import Knob, Schedule, knob
from imgloop.config.settings import MIXING
from imgloop.errors import UserError
from imgloop.paradigm import (
    Accumulate,
    AccumulateSubsample,
    Augment,
    Edit,
    Fresh,
    Paradigm,
    RealOnly,
    Replace,
    Stratified,
    concatenate,
    random_subsets,
    rows_of,
    subsample,
    value_at,
)
from imgloop.pool import REAL, Mix

any_case = settings(max_examples=60, deadline=None)
RULES = (Replace, Accumulate, AccumulateSubsample, Stratified, Augment, Fresh, RealOnly)


def rng(seed=0):
    return np.random.default_rng(seed)


def rows(mix: Mix, origin: int, replicate: int = 0) -> list[int]:
    """Rows that one replicate takes from one pool, with repeats, in the order of the mix."""
    return mix.row[mix.origin[:, replicate] == origin, replicate].tolist()


# The laws. Each raises AssertionError if a mix breaks it, and checks every replicate.


def law_shape(mix, sizes, replicates):
    """(n, R) indices, each of a row that exists in its pool."""
    assert mix.origin.shape == mix.row.shape == (len(mix), replicates)
    assert all(np.issubdtype(a.dtype, np.integer) for a in (mix.origin, mix.row))
    for origin in np.unique(mix.origin):
        row = mix.row[mix.origin == origin]
        assert int(origin) in sizes and 0 <= row.min() and row.max() < sizes[int(origin)]


def law_no_repeat(mix):
    """No row twice within a replicate."""
    for r in range(mix.row.shape[1]):
        pairs = Counter(zip(mix.origin[:, r].tolist(), mix.row[:, r].tolist()))
        assert max(pairs.values()) == 1


def law_counts(mix, counts):
    """Exactly `counts` samples of each origin in every replicate."""
    for r in range(mix.row.shape[1]):
        assert Counter(mix.origin[:, r].tolist()) == {o: n for o, n in counts.items() if n}


def law_all(mix, origin, first, n):
    """Rows first..first + n - 1 of the pool, each exactly once and no other, in every replicate."""
    for r in range(mix.row.shape[1]):
        assert sorted(rows(mix, origin, r)) == list(range(first, first + n))


def law_below(mix, origin, n):
    """Only the first n rows of the pool."""
    for r in range(mix.row.shape[1]):
        assert max(rows(mix, origin, r), default=-1) < n


def inclusion(draw, sizes, replicate=0, draws=400, replicates=1, seed=7):
    """How often each row is in each of many mixes, (draws, N), the pools concatenated in the order of `sizes`."""
    generator = rng(seed)
    first = dict(zip(sizes, np.cumsum([0, *sizes.values()])))
    out = np.zeros((draws, sum(sizes.values())), int)
    for i in range(draws):
        mix = draw(generator, replicates)
        at = np.vectorize(first.get)(mix.origin[:, replicate]) + mix.row[:, replicate]
        np.add.at(out[i], at, 1)
    return out


def law_uniform(counts, n):
    """All N rows are drawn equally often, n per mix: a chi-square test, p > 1e-4."""
    draws, total = counts.shape
    p = n / total
    # The N counts sum to draws * n, and each has variance draws p (1 - p): the statistic is chi-square with N - 1
    # degrees of freedom once the negative correlation -1 / (N - 1) of the counts is allowed for.
    statistic = ((counts.sum(0) - draws * p) ** 2).sum() / (draws * p * (1 - p)) * (total - 1) / total
    assert chi2.sf(statistic, total - 1) > 1e-4


def law_hypergeometric(counts, n, special):
    """The number of the first `special` rows among the n drawn has the distribution of one uniform draw."""
    draws, total = counts.shape
    expected = hypergeom.pmf(np.arange(n + 1), total, special, n) * draws
    seen = np.bincount(counts[:, :special].sum(1), minlength=n + 1)
    cut = np.unique(np.cumsum(expected) // 40, return_index=True)[1]  # cells of about 40 expected
    seen, expected = (np.add.reduceat(v, cut) for v in (seen, expected))
    assert len(cut) > 3 and chisquare(seen, expected * draws / expected.sum()).pvalue > 1e-4


def law_independent(draw, n, sizes, draws=400):
    """Replicates differ, and neither the rows nor their positions are correlated between them."""
    generator = rng(3)
    first = dict(zip(sizes, np.cumsum([0, *sizes.values()])))
    total = sum(sizes.values())
    member, place = np.zeros((2, draws, total)), np.zeros((2, draws, n))
    for i in range(draws):
        mix = draw(generator, 2)
        at = np.vectorize(first.get)(mix.origin) + mix.row
        for r in range(2):
            member[r, i, at[:, r]] = 1
            place[r, i] = at[:, r]
    assert (member[0] != member[1]).any(1).mean() > 0.5
    for a, b in (member, place):
        varies = a.std(0) > 0
        a, b = (v[:, varies] - v[:, varies].mean(0) for v in (a, b))
        correlation = (a * b).sum() / math.sqrt((a**2).sum() * (b**2).sum())
        assert abs(correlation) < 5 / math.sqrt(a.size)  # five standard errors of a correlation of 0


def law_initial(rule, sizes, n_initial, replicates=1):
    """Generation 0 is trained on R, for every paradigm and seed."""
    for seed in (0, 1):
        mix = rule({REAL: sizes[REAL]}, 0, rng(seed), replicates)
        assert mix.origin.shape == (n_initial, replicates) and (mix.origin == REAL).all()
        assert (mix.row == np.arange(n_initial)[:, None]).all() and mix.weight is None


def law_pure(rule, sizes, t, replicates):
    """Equal states of the random generator give equal mixes, and no other state is read or changed."""
    before, state = dict(sizes), np.random.get_state()
    first = rule(MappingProxyType(sizes), t, rng(11), replicates)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), state))
    try:
        np.random.seed(99)
        second = rule(dict(sizes), t, rng(11), replicates)
    finally:
        np.random.set_state(state)
    assert (first.origin == second.origin).all() and (first.row == second.row).all()
    assert dict(sizes) == before


# Arbitrary sizes, settings, generations and numbers of replicates


@dataclass(frozen=True)
class Case:
    sizes: dict
    t: int
    n_initial: int | None
    replicates: int
    seed: int

    @property
    def initial(self) -> int:
        return self.sizes[REAL] if self.n_initial is None else self.n_initial

    @property
    def everything(self) -> int:
        return self.initial + sum(n for s, n in self.sizes.items() if s != REAL)

    def mix(self, rule) -> Mix:
        return rule(self.sizes, self.t, rng(self.seed), self.replicates)


@st.composite
def cases(draw):
    t = draw(st.integers(1, 6))
    real = draw(st.integers(1, 60))
    sizes = {REAL: real, **{s: draw(st.integers(1, 40)) for s in range(t)}}
    n_initial = draw(st.none() | st.integers(1, real))
    return Case(sizes, t, n_initial, draw(st.sampled_from([1, 1, 2, 3])), draw(st.integers(0, 2**32)))


@any_case
@given(cases())
def test_replace_is_the_newest_pool_only(case):
    mix = case.mix(Replace(n_initial=case.n_initial))
    law_shape(mix, case.sizes, case.replicates)
    law_counts(mix, {case.t - 1: case.sizes[case.t - 1]})
    law_all(mix, case.t - 1, 0, case.sizes[case.t - 1])


@any_case
@given(cases(), st.floats(0, 1))
def test_replace_with_a_real_fraction(case, a):
    n = case.sizes[case.t - 1]
    n_real, rule = round(a * n), Replace(n_initial=case.n_initial, real_fraction=a)
    if n_real > case.initial:
        with pytest.raises(UserError, match="real_fraction"):
            case.mix(rule)
        return
    mix = case.mix(rule)
    law_shape(mix, case.sizes, case.replicates)
    law_counts(mix, {REAL: n_real, case.t - 1: n - n_real})
    law_no_repeat(mix)
    law_below(mix, REAL, case.initial)


@any_case
@given(cases())
def test_accumulate_is_every_row_of_every_pool(case):
    mix = case.mix(Accumulate(n_initial=case.n_initial))
    law_shape(mix, case.sizes, case.replicates)
    law_counts(mix, {**case.sizes, REAL: case.initial})
    for origin, n in {**case.sizes, REAL: case.initial}.items():
        law_all(mix, origin, 0, n)


@any_case
@given(cases(), st.data())
def test_accumulate_subsample_draws_its_budget_from_everything(case, data):
    budget = data.draw(st.none() | st.integers(1, case.everything))
    mix = case.mix(AccumulateSubsample(n_initial=case.n_initial, budget=budget))
    law_shape(mix, case.sizes, case.replicates)
    assert len(mix) == (case.initial if budget is None else budget)
    law_no_repeat(mix)
    law_below(mix, REAL, case.initial)


@any_case
@given(cases(), st.data())
def test_stratified_takes_equally_many_rows_of_every_pool(case, data):
    smallest = min([case.initial, *(n for s, n in case.sizes.items() if 0 <= s < case.t)])
    budget = data.draw(st.integers(case.t + 1, (smallest + 1) * (case.t + 1) - 1))
    mix = case.mix(Stratified(n_initial=case.n_initial, budget=budget))
    law_shape(mix, case.sizes, case.replicates)
    law_counts(mix, dict.fromkeys(range(REAL, case.t), budget // (case.t + 1)))
    law_no_repeat(mix)
    law_below(mix, REAL, case.initial)


@any_case
@given(cases(), st.data())
def test_augment_is_r_and_some_of_the_newest_pool(case, data):
    n = data.draw(st.none() | st.integers(0, case.sizes[case.t - 1]))
    mix = case.mix(Augment(n_initial=case.n_initial, n_synthetic=n))
    law_shape(mix, case.sizes, case.replicates)
    law_counts(mix, {REAL: case.initial, case.t - 1: case.sizes[case.t - 1] if n is None else n})
    law_no_repeat(mix)
    law_all(mix, REAL, 0, case.initial)


@any_case
@given(cases(), st.sampled_from([Accumulate, AccumulateSubsample, Augment]), st.floats(0.1, 9))
def test_real_rows_have_their_weight_and_the_same_rows(case, rule, weight):
    plain, mix = (case.mix(rule(n_initial=case.n_initial, real_weight=w)) for w in (None, weight))
    assert np.array_equal(mix.row, plain.row) and np.array_equal(mix.origin, plain.origin) and plain.weight is None
    expected = np.where(mix.origin == REAL, weight, 1.0)
    assert weight == 1 or np.array_equal(mix.weight, expected)
    assert rule(real_weight=weight)({REAL: 9}, 0, rng()).weight is None  # generation 0 is shared


def test_the_weight_of_real_rows_follows_a_schedule_and_multiplies_others():
    rule = Augment(real_weight=[1, 1, 3])
    assert [rule({REAL: 2, 0: 1, 1: 1}, t, rng()).weight is None for t in range(3)] == [True, True, False]
    mix = Window(decay=0.5, real_weight=4)({REAL: 1, 0: 1, 1: 1}, 2, rng())
    assert mix.weight is not None and mix.weight[0, 0] == 4


@any_case
@given(cases())
def test_real_only_is_r(case):
    mix = case.mix(RealOnly(n_initial=case.n_initial))
    law_shape(mix, case.sizes, case.replicates)
    law_counts(mix, {REAL: case.initial})
    law_all(mix, REAL, 0, case.initial)


@any_case
@given(cases(), st.data())
def test_fresh_is_new_real_rows_and_some_of_the_newest_pool(case, data):
    spare = case.sizes[REAL] - case.initial
    n_real = data.draw(st.integers(0, spare // case.t))
    n = data.draw(st.integers(0 if n_real else 1, case.sizes[case.t - 1]))
    mix = case.mix(Fresh(n_initial=case.n_initial, n_real=n_real, n_synthetic=n))
    law_shape(mix, case.sizes, case.replicates)
    law_counts(mix, {REAL: n_real, case.t - 1: n})
    law_no_repeat(mix)
    law_all(mix, REAL, case.initial + (case.t - 1) * n_real, n_real)


@pytest.mark.parametrize("rule", RULES)
@any_case
@given(case=cases())
def test_generation_0_is_r_under_every_rule(rule, case):
    law_initial(rule(n_initial=case.n_initial), case.sizes, case.initial, case.replicates)


@pytest.mark.parametrize("rule", RULES)
@any_case
@given(case=cases())
def test_rules_are_pure(rule, case):
    sizes = {**case.sizes, REAL: case.sizes[REAL] * (case.t + 1)}  # enough for fresh
    more = {"budget": case.t + 1} if rule is Stratified else {}  # a row of each pool
    law_pure(rule(n_initial=case.sizes[REAL], **more), sizes, case.t, case.replicates)


@any_case
@given(st.integers(1, 30), st.lists(st.integers(1, 20), min_size=1, max_size=8), st.data())
def test_real_data_never_leave_accumulate(real, pools, data):
    """R is in every later mix, and its share is |R| / (|R| + all drawn so far)."""
    n_initial = data.draw(st.integers(1, real))
    rule, sizes = Accumulate(n_initial=n_initial), {REAL: real}
    for t in range(len(pools)):
        mix = rule(sizes, t, rng(t))
        law_all(mix, REAL, 0, n_initial)
        assert mix.shares()[REAL] == pytest.approx(n_initial / (n_initial + sum(pools[:t])))
        sizes[t] = pools[t]


@any_case
@given(st.integers(2, 50), st.integers(2, 50), st.integers(1, 49))
def test_n_initial_can_change_over_generations(real, pool, n):
    n = min(n, real)
    rule = RealOnly(n_initial=[real, n])
    assert rows(rule({REAL: real}, 0, rng()), REAL) == list(range(real))
    assert rows(rule({REAL: real, 0: pool}, 1, rng()), REAL) == list(range(n))


# Fresh over a whole chain

AMOUNTS = st.one_of(
    st.integers(1, 12),
    st.lists(st.integers(0, 12), min_size=8, max_size=8),
    st.fixed_dictionaries(
        {"start": st.integers(1, 8), "factor": st.sampled_from([1, 1.5, 2])}, optional={"max": st.integers(1, 20)}
    ),
)


def amount(schedule, t: int) -> int:
    """The value of the schedule, computed directly."""
    if isinstance(schedule, dict):
        return math.floor(min(schedule["start"] * schedule["factor"] ** t, schedule.get("max", math.inf)))
    return schedule[t] if isinstance(schedule, list) else schedule


def law_fresh(rule, real, n_initial, n_real, generations, replicates=1):
    """No real row is used twice in the chain, each mix has its n_real, and the chain ends when the data run out."""
    seen, sizes, new = list(range(n_initial)), {REAL: real}, []
    law_initial(rule, sizes, n_initial, replicates)
    for t in range(1, generations):
        sizes[t - 1] = 5
        if len(seen) + amount(n_real, t) > real:
            with pytest.raises(UserError, match=r"fresh .*n_initial, n_real or generations"):
                rule(sizes, t, rng(t), replicates)
            return
        mix = rule(sizes, t, rng(t), replicates)
        for r in range(replicates):
            new = rows(mix, REAL, r)
            assert len(new) == len(set(new)) == amount(n_real, t) and not set(new) & set(seen)
            assert all(0 <= i < real for i in new)
        seen += new


@any_case
@given(st.integers(1, 120), st.integers(1, 40), AMOUNTS, st.sampled_from([1, 2]))
def test_fresh_never_repeats_a_real_row(real, n_initial, n_real, replicates):
    n_initial = min(n_initial, real)
    law_fresh(Fresh(n_initial=n_initial, n_real=n_real), real, n_initial, n_real, 8, replicates)


@any_case
@given(st.integers(4, 200), st.integers(2, 8))
def test_the_n_initial_that_fresh_suggests_works(real, generations):
    """n_initial at most N / G for G generations: that many suffice, and one more do not."""
    sizes = {REAL: real, **{s: 3 for s in range(generations)}}
    n, last = real // generations, generations - 1
    with pytest.raises(UserError, match=rf"at most {n} for {generations} generations"):
        Fresh(n_initial=n + 1)(sizes, last, rng())
    if n:
        mixes = [Fresh(n_initial=n)(sizes, t, rng()) for t in range(generations)]
        assert sorted(i for m in mixes for i in rows(m, REAL)) == list(range(n * generations))


# Shares by origin, computed by hand


@pytest.mark.parametrize(
    "rule, sizes, t, shares",
    [
        (Replace(), {-1: 100, 0: 50, 1: 80}, 2, {1: 1.0}),
        (Replace(real_fraction=0.1), {-1: 100, 0: 100}, 1, {-1: 0.1, 0: 0.9}),
        (Replace(real_fraction=0.25), {-1: 100, 0: 10, 1: 40}, 2, {-1: 0.25, 1: 0.75}),
        (Replace(real_fraction=[0, 0.5, 0.2]), {-1: 100, 0: 10, 1: 40}, 2, {-1: 0.2, 1: 0.8}),
        (Replace(real_fraction=1), {-1: 100, 0: 20}, 1, {-1: 1.0}),
        (Replace(real_fraction=0.1, n_initial=1), {-1: 100, 0: 14}, 1, {-1: 1 / 14, 0: 13 / 14}),  # 1.4 rounds to 1
        (Accumulate(), {-1: 100, 0: 100, 1: 100, 2: 100}, 3, {-1: 0.25, 0: 0.25, 1: 0.25, 2: 0.25}),
        (Accumulate(n_initial=50), {-1: 100, 0: 50, 1: 100}, 2, {-1: 0.25, 0: 0.25, 1: 0.5}),
        (Augment(), {-1: 100, 0: 7, 1: 300}, 2, {-1: 0.25, 1: 0.75}),
        (Augment(n_initial=60, n_synthetic=40), {-1: 100, 0: 50}, 1, {-1: 0.6, 0: 0.4}),
        (Augment(n_synthetic=0), {-1: 100, 0: 50}, 1, {-1: 1.0}),
        (Augment(n_synthetic={"start": 25, "factor": 2, "max": 80}), {-1: 20, 0: 90, 1: 90}, 2, {-1: 0.2, 1: 0.8}),
        (Fresh(n_initial=30, n_real=10), {-1: 100, 0: 30}, 1, {-1: 0.25, 0: 0.75}),
        (Fresh(n_initial=20), {-1: 100, 0: 30, 1: 20}, 2, {-1: 0.5, 1: 0.5}),
        (Fresh(n_initial=20, n_real=0, n_synthetic=4), {-1: 20, 0: 30}, 1, {0: 1.0}),
        (RealOnly(), {-1: 100, 0: 7, 1: 300}, 2, {-1: 1.0}),
    ],
)
def test_shares_in_worked_examples(rule, sizes, t, shares):
    got = rule(sizes, t, rng()).shares()
    assert got.keys() == shares.keys() and got == pytest.approx(shares)


# Rows are drawn uniformly, and independently for every replicate


def subsampled(generator, replicates, rule=None):
    return (rule or AccumulateSubsample(n_initial=20, budget=24))({REAL: 30, 0: 15, 1: 25}, 2, generator, replicates)


EVERYTHING = {REAL: 20, 0: 15, 1: 25}  # what a budget of 24 is drawn from


@pytest.mark.parametrize("replicate", [0, 1])
def test_accumulate_subsample_is_uniform_over_everything(replicate):
    counts = inclusion(lambda g, _: subsampled(g, replicate + 1), EVERYTHING, replicate, draws=1500)
    law_uniform(counts, 24)
    law_hypergeometric(counts, 24, special=20)
    share = counts.sum(0).reshape(-1)
    expected = np.array([20, 15, 25]) / 60 * 24 * 1500
    for part, e in zip(np.split(share, [20, 35]), expected):
        assert part.sum() == pytest.approx(e, rel=0.02)


@pytest.mark.parametrize(
    "rule, origin, n, total",
    [
        (Replace(n_initial=20, real_fraction=0.4), REAL, 10, 20),
        (Replace(n_initial=20, real_fraction=0.4), 1, 15, 25),
        (Stratified(n_initial=20, budget=30), 0, 10, 15),
        (Stratified(n_initial=20, budget=30), REAL, 10, 20),
        (Augment(n_initial=20, n_synthetic=9), 1, 9, 25),
        (Fresh(n_initial=10, n_real=5, n_synthetic=9), 1, 9, 25),
    ],
)
@pytest.mark.parametrize("replicate", [0, 1])
def test_rows_are_drawn_uniformly_from_their_pool(rule, origin, n, total, replicate):
    def draw(generator, _):
        mix = rule({REAL: 30, 0: 15, 1: 25}, 2, generator, replicate + 1)
        return Mix(mix.origin[mix.origin[:, 0] == origin], mix.row[mix.origin[:, 0] == origin])

    law_uniform(inclusion(draw, {origin: total}, replicate), n)


INDEPENDENT = {
    "accumulate_subsample": (subsampled, 24, EVERYTHING),
    "replace": (lambda g, r: Replace(real_fraction=0.4)({REAL: 30, 0: 25}, 1, g, r), 25, {REAL: 30, 0: 25}),
    "augment": (lambda g, r: Augment(n_synthetic=9)({REAL: 6, 0: 25}, 1, g, r), 15, {REAL: 6, 0: 25}),
    "fresh": (lambda g, r: Fresh(n_initial=9, n_synthetic=9)({REAL: 18, 0: 25}, 1, g, r), 18, {REAL: 18, 0: 25}),
}


@pytest.mark.parametrize("name", INDEPENDENT)
def test_replicates_are_independent(name):
    law_independent(*INDEPENDENT[name])


def test_generations_draw_differently():
    """Differently seeded random generators give different mixes."""
    assert (subsampled(rng(1), 1).row != subsampled(rng(2), 1).row).any()


# Settings that are not possible

SIZES = {REAL: 20, 0: 10, 1: 10}


@pytest.mark.parametrize(
    "rule, knobs",
    [
        (RealOnly, {"n_initial": 0}),
        (RealOnly, {"n_initial": -5}),
        (RealOnly, {"n_initial": 2.5}),
        (RealOnly, {"n_initial": True}),
        (RealOnly, {"n_initial": "many"}),
        (RealOnly, {"n_initial": []}),
        (RealOnly, {"n_initial": [20, 0]}),
        (RealOnly, {"n_initial": {"factor": 2}}),
        (RealOnly, {"n_initial": {"start": 5, "speed": 2}}),
        (Replace, {"real_fraction": 1.01}),
        (Replace, {"real_fraction": -0.1}),
        (Replace, {"real_fraction": float("nan")}),
        (Replace, {"real_fraction": [0, 0.5, 2]}),
        (Replace, {"real_fraction": "half"}),
        (AccumulateSubsample, {"budget": 0}),
        (AccumulateSubsample, {"budget": 0.5}),
        (AccumulateSubsample, {"budget": float("inf")}),
        (Augment, {"n_synthetic": -1}),
        (Augment, {"n_synthetic": 1.5}),
        (Fresh, {"n_real": -1}),
        (Fresh, {"n_synthetic": -1}),
        (Fresh, {"n_real": False}),
    ],
)
def test_an_impossible_value_is_refused_when_the_paradigm_is_built(rule, knobs):
    (name,) = knobs
    with pytest.raises(UserError, match=name) as error:
        rule(**knobs)
    assert error.value.setting == name


@pytest.mark.parametrize(
    "rule, t, words",
    [
        (RealOnly(n_initial=21), 0, "n_initial=21.*20"),
        (Accumulate(n_initial=[20, 21]), 1, "n_initial is 21 at generation 1, .*max: 20"),
        (AccumulateSubsample(budget=31), 1, "budget=31.*30"),
        (AccumulateSubsample(n_initial=5, budget=26), 2, "budget=26.*25"),
        (AccumulateSubsample(budget=[1, 2]), 2, "budget.*2"),
        (Stratified(budget=33), 2, "33 // 3 = 11 rows.*smallest pool has 10: give a budget from 3 to 32"),
        (Stratified(budget=2), 2, "2 // 3 = 0"),
        (Augment(n_synthetic=11), 1, "n_synthetic=11.*10"),
        (Fresh(n_initial=5, n_real=5, n_synthetic=11), 1, "n_synthetic=11.*10"),
        (Fresh(n_initial=5, n_real=0, n_synthetic=0), 1, "n_real.*n_synthetic"),
        (Fresh(), 1, "n_initial"),
        (Fresh(n_initial=21), 0, "n_initial=21.*20"),
        (Replace(n_initial=4, real_fraction=0.5), 1, "real_fraction=0.5.*5.*n_initial"),
        (Replace(real_fraction={"start": 0.5, "factor": 2}), 2, "real_fraction"),
    ],
)
def test_a_setting_that_does_not_fit_the_pools_is_named(rule, t, words):
    with pytest.raises(UserError, match=words) as e:
        rule(SIZES, t, rng())
    assert "\n" not in str(e.value) and str(e.value).endswith(".")


def test_settings_become_schedules_and_defaults_stay_none():
    rule = Fresh(n_real=[1, 2])
    assert isinstance(rule.n_real, Schedule) and value_at(rule.n_real, 1) == 2
    assert rule.n_synthetic is None and rule.n_initial is None


# Mutation twins: paradigms that break one law each, and the law that must detect it


class Repeats(AccumulateSubsample):
    """Draws with replacement."""

    def later(self, sizes, t, rng, replicates):
        whole = self.everything(sizes, t, replicates)
        pick = rng.integers(0, len(whole), (int(value_at(self.budget, t)), replicates))
        return Mix(np.take_along_axis(whole.origin, pick, 0), np.take_along_axis(whole.row, pick, 0))


class OneDrawForAll(AccumulateSubsample):
    """One set of indices for all replicates."""

    def later(self, sizes, t, rng, replicates):
        one = subsample(self.everything(sizes, t, 1), int(value_at(self.budget, t)), rng)
        return Mix(np.repeat(one.origin, replicates, 1), np.repeat(one.row, replicates, 1))


class SameSetOtherOrder(AccumulateSubsample):
    """One set of indices for all replicates, in a different order for each."""

    def later(self, sizes, t, rng, replicates):
        one = subsample(self.everything(sizes, t, 1), int(value_at(self.budget, t)), rng)
        pick = np.argsort(rng.random((len(one), replicates)), axis=0)
        return Mix(one.origin[pick, 0], one.row[pick, 0])


class Shifted(AccumulateSubsample):
    """Replicate 1 takes rows that replicate 0 did not take: different, but not independent."""

    def later(self, sizes, t, rng, replicates):
        whole = self.everything(sizes, t, 1)
        order, budget = rng.permutation(len(whole)), int(value_at(self.budget, t))
        pick = np.stack([np.roll(order, -r * budget)[:budget] for r in range(replicates)], 1)
        return Mix(whole.origin[pick, 0], whole.row[pick, 0])


class NewestLeftOut(AccumulateSubsample):
    def everything(self, sizes, t, replicates):
        return concatenate(self.real(sizes, t, replicates), *(rows_of(s, sizes[s], replicates) for s in range(t - 1)))


class PoolsEqually(AccumulateSubsample):
    """A third of the budget from each pool, whatever their sizes."""

    def later(self, sizes, t, rng, replicates):
        parts = [self.real(sizes, t, replicates), *(rows_of(s, sizes[s], replicates) for s in range(t))]
        return concatenate(*(subsample(p, int(value_at(self.budget, t)) // len(parts), rng) for p in parts))


class Proportional(AccumulateSubsample):
    """Each pool's exact share of the budget: uniform for every row, but not one uniform draw."""

    def later(self, sizes, t, rng, replicates):
        parts = [self.real(sizes, t, replicates), *(rows_of(s, sizes[s], replicates) for s in range(t))]
        total = sum(map(len, parts))
        return concatenate(*(subsample(p, int(value_at(self.budget, t)) * len(p) // total, rng) for p in parts))


class OnePast(AccumulateSubsample):
    """Row numbers start at 1."""

    def later(self, sizes, t, rng, replicates):
        mix = super().later(sizes, t, rng, replicates)
        return Mix(mix.origin, mix.row + 1)


class GlobalState(AccumulateSubsample):
    """Draws from NumPy's global generator instead of the one it is given."""

    def later(self, sizes, t, rng, replicates):
        return super().later(sizes, t, np.random.default_rng(np.random.randint(2**31)), replicates)


class SizesChanged(AccumulateSubsample):
    def later(self, sizes, t, rng, replicates):
        sizes[t] = 0  # pyright: ignore[reportIndexIssue]
        return super().later(sizes, t, rng, replicates)


class RealDropped(Accumulate):
    def everything(self, sizes, t, replicates):
        return concatenate(*(rows_of(s, sizes[s], replicates) for s in range(t)))


class AllReal(Accumulate):
    """Takes R to be all real data, whatever n_initial."""

    def initial(self, sizes, t):
        return sizes[REAL]


class RealShuffled(RealOnly):
    """R is n_initial real rows, but not the first ones."""

    def real(self, sizes, t, replicates):
        return rows_of(
            REAL, int(value_at(self.n_initial, t)), replicates, sizes[REAL] - int(value_at(self.n_initial, t))
        )


class FreshAgain(Fresh):
    """New rows start after R in every generation: generation 2 uses those of generation 1."""

    def later(self, sizes, t, rng, replicates):
        return rows_of(REAL, int(value_at(self.n_real, t)), replicates, self.initial(sizes, 0))


class FreshWraps(Fresh):
    """Starts again at the first real row when the data run out."""

    def later(self, sizes, t, rng, replicates):
        first = self.initial(sizes, 0) + sum(int(value_at(self.n_real, s)) for s in range(1, t))
        row = np.arange(first, first + int(value_at(self.n_real, t)))[:, None] % sizes[REAL]
        return Mix(np.full_like(row, REAL), row)


SUBSAMPLE = {REAL: 30, 0: 15, 1: 25}


def broken(law, *args, **kwargs):
    """The law holds for the correct paradigm in the tests above; here it must fail."""
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        law(*args, **kwargs)


def twin(rule, replicates=1):
    return rule(n_initial=20, budget=24)(dict(SUBSAMPLE), 2, rng(5), replicates)


def test_twin_drawing_with_replacement():
    broken(law_no_repeat, twin(Repeats))
    broken(law_no_repeat, twin(Repeats, 3))


@pytest.mark.parametrize("rule", [OneDrawForAll, SameSetOtherOrder, Shifted])
def test_twin_replicates_that_are_not_independent(rule):
    def draw(generator, replicates):
        return subsampled(generator, replicates, rule(n_initial=20, budget=24))

    law_no_repeat(twin(rule, 2))
    for r in range(2):
        law_uniform(inclusion(draw, EVERYTHING, r, replicates=2), 24)  # each replicate alone is uniform
    broken(law_independent, draw, 24, EVERYTHING)


@pytest.mark.parametrize("rule", [NewestLeftOut, PoolsEqually])
def test_twin_shares_that_are_not_uniform(rule):
    broken(law_uniform, inclusion(lambda g, n: subsampled(g, n, rule(n_initial=20, budget=24)), EVERYTHING), 24)


def test_twin_exact_shares_where_a_uniform_draw_varies():
    counts = inclusion(lambda g, n: subsampled(g, n, Proportional(n_initial=20, budget=24)), EVERYTHING, draws=1500)
    law_uniform(counts, 24)
    broken(law_hypergeometric, counts, 24, special=20)


def test_twin_rows_outside_the_pool():
    everything = OnePast(budget=70)(dict(SUBSAMPLE), 2, rng(), 1)
    broken(law_shape, everything, SUBSAMPLE, 1)
    broken(law_shape, twin(AccumulateSubsample, 2), SUBSAMPLE, 1)  # the wrong number of replicates
    broken(law_shape, Mix(np.full((3, 1), 7), np.zeros((3, 1), int)), SUBSAMPLE, 1)  # no such pool


def test_twin_impure():
    broken(law_pure, GlobalState(n_initial=20, budget=24), dict(SUBSAMPLE), 2, 1)
    with pytest.raises(TypeError, match="item assignment"):  # law_pure passes sizes that cannot be changed
        law_pure(SizesChanged(n_initial=20, budget=24), dict(SUBSAMPLE), 2, 1)


def test_twin_real_data_dropped():
    mix = RealDropped()({REAL: 9, 0: 4, 1: 5}, 2, rng())
    broken(law_counts, mix, {REAL: 9, 0: 4, 1: 5})
    broken(law_all, mix, REAL, 0, 9)


def test_twin_r_is_not_the_first_rows():
    broken(law_initial, RealShuffled(n_initial=3), {REAL: 9}, 3)
    broken(law_initial, AllReal(n_initial=3), {REAL: 9}, 3)
    broken(law_below, RealShuffled(n_initial=3)({REAL: 9, 0: 4}, 1, rng()), REAL, 3)
    broken(law_all, AllReal(n_initial=3)({REAL: 9, 0: 4}, 1, rng()), REAL, 0, 3)


def test_twin_newest_pool_left_out():
    mix = NewestLeftOut(n_initial=9, budget=13)({REAL: 9, 0: 4, 1: 5}, 2, rng())
    broken(law_all, mix, 1, 0, 5)
    broken(law_counts, mix, {REAL: 9, 0: 4, 1: 5})


def test_twin_fresh_rows_seen_before():
    law_fresh(Fresh(n_initial=3, n_real=3), 9, 3, 3, 8)
    broken(law_fresh, FreshAgain(n_initial=3, n_real=3), 9, 3, 3, 8)
    broken(law_fresh, FreshWraps(n_initial=3, n_real=3), 9, 3, 3, 8)


def test_the_base_class_has_no_mix():
    with pytest.raises(NotImplementedError):
        Paradigm()(SIZES, 1, rng())


# Editing: a data set of |R| positions, overwritten in turn by the rows at the same positions of the newest pool

SHARES = st.one_of(
    st.none(),
    st.floats(0, 1),
    st.lists(st.sampled_from([0.0, 0.1, 0.29, 0.5, 1 / 3, 1.0]), min_size=7, max_size=7),
    st.fixed_dictionaries(
        {"start": st.sampled_from([0.9, 0.5, 0.3]), "factor": st.sampled_from([1.0, 0.7, 0.5])},
        optional={"max": st.sampled_from([0.4, 0.8])},
    ),
)


def edited(share, n: int, t: int) -> int:
    """The number of rows that generation t overwrites, computed directly; a product such as 0.29 · 100 counts as 29."""
    if isinstance(share, dict):
        share = min(share["start"] * share["factor"] ** t, share.get("max", 1))
    elif isinstance(share, list):
        share = share[t]
    return math.floor((0.1 if share is None else share) * n + 1e-9)


def law_edit(rule, share, n, t, real, pools, replicates=1):
    """Position i has row i, from the last generation that wrote it as a cursor cycles through all positions."""
    owner, cursor = [REAL] * n, 0
    for s in range(1, t + 1):
        for _ in range(edited(share, n, s)):
            owner[cursor % n] = s - 1
            cursor += 1
    sizes = {REAL: real, **dict(enumerate(pools[:t]))}
    mix = rule(MappingProxyType(sizes), t, rng(t), replicates)
    law_shape(mix, sizes, replicates)
    law_no_repeat(mix)
    law_counts(mix, Counter(owner))
    for r in range(replicates):
        assert mix.row[:, r].tolist() == list(range(n)) and mix.origin[:, r].tolist() == owner
    assert mix.weight is None
    return mix


@st.composite
def edits(draw):
    n = draw(st.integers(1, 60))
    pools = draw(st.lists(st.integers(n, n + 9), min_size=6, max_size=6))
    return n, n + draw(st.integers(0, 9)), pools, draw(st.integers(1, 6)), draw(st.sampled_from([1, 1, 3]))


def edits_some(share, n: int) -> bool:
    """Whether the first edit changes a row or has share 0: other shares that round to no row are refused."""
    return edited(share, n, 1) > 0 or share == 0 or (isinstance(share, list) and share[1] == 0)


@pytest.mark.parametrize("share, n", [(None, 9), (0.1, 4), ({"start": 0.2, "factor": 0.5}, 9)])
def test_a_share_that_rounds_to_no_row_is_refused(share, n):
    with pytest.raises(UserError, match=f"of {n} rows edits none: raise"):
        Edit(edit_fraction=share)({REAL: n, 0: n}, 1, rng())


@any_case
@given(edits(), SHARES)
def test_edit_overwrites_the_positions_of_its_data_set_in_turn(case, share):
    n, real, pools, t, replicates = case
    assume(edits_some(share, n))
    law_edit(Edit(n_initial=n, edit_fraction=share), share, n, t, real, pools, replicates)


@any_case
@given(cases(), SHARES)
def test_edit_is_r_in_generation_0_and_draws_nothing(case, share):
    assume(edits_some(share, case.initial))
    rule = Edit(n_initial=case.n_initial, edit_fraction=share)
    law_initial(rule, case.sizes, case.initial, case.replicates)
    sizes = {s: max(case.sizes.values()) for s in case.sizes}
    law_pure(rule, sizes, case.t, case.replicates)
    a, b = (rule(sizes, case.t, rng(seed), case.replicates) for seed in (1, 2))
    assert (a.origin == b.origin).all() and (a.row == b.row).all()


@any_case
@given(edits(), SHARES)
def test_a_generation_changes_only_the_positions_that_it_overwrites(case, share):
    n, real, pools, t, _ = case
    assume(edits_some(share, n))
    rule, sizes = Edit(n_initial=n, edit_fraction=share), {REAL: real, **dict(enumerate(pools))}
    before, after = (rule(sizes, s, rng()).origin[:, 0] for s in (t - 1, t))
    changed, k = np.flatnonzero(before != after), edited(share, n, t)
    assert len(changed) == k and (after[changed] == t - 1).all()
    gaps = np.diff(np.append(changed, changed[:1] + n)) if k else np.array([], int)
    assert k in (0, 1, n) or (gaps > 1).sum() <= 1  # consecutive, possibly across the end


@pytest.mark.parametrize(
    "share, n, generations, kept",
    [
        (0.25, 8, 6, [8, 6, 4, 2, 0, 0]),
        (0.3, 10, 5, [10, 7, 4, 1, 0]),
        (None, 20, 4, [20, 18, 16, 14]),
        (1, 5, 3, [5, 0, 0]),
        (0, 5, 3, [5, 5, 5]),
        ([0, 0.5, 0, 0.5], 6, 4, [6, 3, 3, 0]),
        ({"start": 0.8, "factor": 0.5}, 100, 6, [100, 60, 40, 30, 25, 23]),  # 40, 20, 10, 5, and 2 of 2.5
        (0.29, 100, 4, [100, 71, 42, 13]),
    ],
)
def test_the_real_share_of_an_edited_data_set_by_generation(share, n, generations, kept):
    rule, sizes = Edit(edit_fraction=share), {REAL: n, **{s: n for s in range(generations)}}
    assert [rule(sizes, t, rng()).shares().get(REAL, 0) * n for t in range(generations)] == pytest.approx(kept)


def test_edit_cycles_through_the_data_set():
    rule, sizes = Edit(edit_fraction=0.4), {REAL: 5, 0: 5, 1: 5, 2: 5}
    owners = [rule(sizes, t, rng()).origin[:, 0].tolist() for t in range(4)]
    assert owners == [[-1] * 5, [0, 0, -1, -1, -1], [0, 0, 1, 1, -1], [2, 0, 1, 1, 2]]


def test_a_geometrically_decreasing_share_keeps_real_rows_forever():
    rule, n = Edit(edit_fraction={"start": 0.8, "factor": 0.5}), 1000
    sizes = {REAL: n, **{s: n for s in range(40)}}
    shares = [rule(sizes, t, rng()).shares()[REAL] for t in (10, 20, 39)]
    assert 0.2 <= shares[0] and shares[1] == shares[2]


def test_edit_needs_only_the_rows_of_a_pool_that_it_uses():
    rule = Edit(n_initial=10, edit_fraction=0.4)
    assert len(rule({REAL: 12, 0: 4}, 1, rng())) == 10  # rows 0 to 3
    assert len(rule({REAL: 12, 0: 4, 1: 8}, 2, rng())) == 10  # rows 4 to 7
    for sizes, t in (({REAL: 12, 0: 3}, 1), ({REAL: 12, 0: 4, 1: 7}, 2), ({REAL: 12, 0: 4, 1: 8, 2: 9}, 3)):
        with pytest.raises(UserError, match=rf"edit .*of 10 .*released {sizes[t - 1]}: raise n_samples"):
            rule(sizes, t, rng())


@pytest.mark.parametrize("share", [-0.1, 1.01, float("nan"), "half", True, [], [0, 2], {"factor": 0.5}, {"start": 2}])
def test_a_share_of_edits_is_between_0_and_1(share):
    with pytest.raises(UserError) as error:
        Edit(edit_fraction=share)
    assert error.value.setting == "edit_fraction"


def test_a_schedule_of_edits_that_grows_above_1_is_refused_in_that_generation():
    rule, sizes = Edit(edit_fraction={"start": 0.4, "factor": 2}), {REAL: 10, 0: 10, 1: 10}
    assert len(rule(sizes, 1, rng())) == 10
    with pytest.raises(UserError, match=r"edit_fraction is 1.6 at generation 2"):
        rule(sizes, 2, rng())


class EditFirst(Edit):
    """Starts at the first position in every generation."""

    def later(self, sizes, t, rng, replicates):
        n = self.initial(sizes, 0)
        origin = np.full((n, replicates), REAL, np.int32)
        for s in range(1, t + 1):
            origin[: int(value_at(self.edit_fraction, s) * n)] = s - 1
        return Mix(origin, rows_of(REAL, n, replicates).row)


class EditShifted(Edit):
    """Writes the rows of the next position."""

    def later(self, sizes, t, rng, replicates):
        mix = super().later(sizes, t, rng, replicates)
        return Mix(mix.origin, (mix.row + 1) % len(mix))


class EditAdds(Edit):
    """Adds the edited rows instead of overwriting."""

    def later(self, sizes, t, rng, replicates):
        mix = super().later(sizes, t, rng, replicates)
        return concatenate(rows_of(REAL, self.initial(sizes, 0), replicates), mix)


class EditUp(Edit):
    """Rounds the number of edits up."""

    def later(self, sizes, t, rng, replicates):
        n = self.initial(sizes, 0)
        share = [0.0] + [min(math.ceil(value_at(self.edit_fraction, s) * n) / n, 1) for s in range(1, t + 1)]
        return Edit(n_initial=n, edit_fraction=share).later(sizes, t, rng, replicates)


@pytest.mark.parametrize("rule", [EditFirst, EditShifted, EditAdds, EditUp])
def test_twin_edits_at_the_wrong_position_order_or_number(rule):
    case = (0.35, 10, 4, 12, [10, 11, 12, 10])
    law_edit(Edit(n_initial=10, edit_fraction=0.35), *case)
    broken(law_edit, rule(n_initial=10, edit_fraction=0.35), *case)


# Mixes with weights, and paradigms of a user's own


def weighted(n: int, seed: int, replicates: int) -> Mix:
    mix = rows_of(seed, n, replicates)
    return Mix(mix.origin, mix.row, rng(seed).random((n, replicates)))


def by_sample(mix: Mix, replicate: int) -> dict[tuple[int, int], float]:
    """The weight of each (origin, row)."""
    weight = np.ones(mix.row.shape) if mix.weight is None else mix.weight
    keys = zip(mix.origin[:, replicate].tolist(), mix.row[:, replicate].tolist())
    return dict(zip(keys, weight[:, replicate].tolist()))


@any_case
@given(
    st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=4), st.sampled_from([1, 3]), st.data()
)
def test_weights_stay_with_their_samples(parts, replicates, data):
    mixes = [weighted(n, i, replicates) if w else rows_of(i, n, replicates) for i, (n, w) in enumerate(parts)]
    whole = concatenate(*mixes)
    few = subsample(whole, data.draw(st.integers(0, len(whole))), rng(1))
    assert (whole.weight is None) == (few.weight is None) == (not any(w for _, w in parts))
    for r in range(replicates):
        expected = {key: weight for mix in mixes for key, weight in by_sample(mix, r).items()}
        assert by_sample(whole, r) == expected
        assert all(expected[key] == weight for key, weight in by_sample(few, r).items())


@any_case
@given(st.integers(1, 60), st.integers(1, 4), st.data())
def test_random_subsets_have_different_numbers(total, replicates, data):
    n = data.draw(st.integers(0, total))
    chosen = random_subsets(total, n, replicates, rng(2))
    assert chosen.shape == (n, replicates) and all(len(set(c)) == n and set(c) <= set(range(total)) for c in chosen.T)


def test_random_subsets_are_uniform_over_all_sets():
    """Also where a repeated number was drawn again: 28 pairs of 8 numbers."""
    low, high = random_subsets(8, 2, 200_000, rng(3))
    assert (
        chisquare(
            np.bincount(8 * low + high, minlength=64)[[8 * i + j for i in range(8) for j in range(i + 1, 8)]]
        ).pvalue
        > 1e-3
    )


@pytest.mark.parametrize("share, closed", [(None, True), (0, True), ([0, 0], True), ([0, 0.5], False), (0.5, False)])
def test_replace_is_closed_unless_real_rows_ever_enter(share, closed):
    assert Replace(real_fraction=share).closed is closed


@dataclass(frozen=True)
class Window(Paradigm):
    """R and the newest `width` pools, with weight `decay` per generation of age."""

    width: Knob = knob(low=1)
    decay: float = setting(1.0, above=0)
    keeps_all = True

    def later(self, sizes, t, rng, replicates):
        ages = range(1, min(t, int(value_at(self.width, t, 2))) + 1)
        pools = [rows_of(t - age, sizes[t - age], replicates) for age in ages]
        pools = [Mix(p.origin, p.row, np.full(p.row.shape, self.decay**age)) for p, age in zip(pools, ages)]
        return concatenate(self.real(sizes, t, replicates), *pools)


def test_a_paradigm_of_a_users_own():
    mix = Window(width=[1, 1, 1, 2], decay=0.5)({REAL: 4, 0: 2, 1: 2, 2: 3}, 3, rng(), 2)
    assert mix.shares() == {REAL: pytest.approx(4 / 9), 1: pytest.approx(2 / 9), 2: pytest.approx(3 / 9)}
    assert mix.weight is not None and mix.weight.tolist() == [[1, 1]] * 4 + [[0.5, 0.5]] * 3 + [[0.25, 0.25]] * 2
    for knobs, name in (({"width": 0}, "width"), ({"decay": 0}, "decay"), ({"n_initial": 0}, "n_initial")):
        with pytest.raises(UserError) as error:
            Window(**knobs)
        assert error.value.setting == (name if name == "n_initial" else f"paradigm.{name}")


def test_paradigms_fulfil_their_contract_under_the_names_of_their_options():
    rules: list[contracts.Paradigm] = [Window(), Edit(), *(rule() for rule in RULES)]
    assert all(isinstance(rule, contracts.Paradigm) for rule in rules)
    assert sorted(paradigm.NAMES) == sorted(p.stem for p in (CONF / "paradigm").glob("*.yaml"))
    assert set(MIXING) == set(paradigm.TOP_LEVEL)  # the settings at the top level


def test_the_default_budget_follows_r():
    sizes = {REAL: 90, 0: 60, 1: 60}
    growing = {"start": 20, "factor": 2}
    assert [len(AccumulateSubsample(n_initial=growing)(sizes, t, rng())) for t in (1, 2)] == [40, 80]
    assert [len(Stratified(n_initial=growing)(sizes, t, rng())) for t in (1, 2)] == [40, 3 * 26]


@pytest.mark.parametrize("rule", [Fresh, Edit])
def test_a_schedule_of_n_initial_without_effect_is_refused(rule):
    for schedule in ({"start": 20, "factor": 2}, [20, 40], {"start": 20, "factor": 2, "max": 40}):
        with pytest.raises(UserError, match="in generation 0 only") as error:
            rule(n_initial=schedule)
        assert error.value.setting == "n_initial"
    assert rule(n_initial=[20, 20]).initial({REAL: 30}, 1) == 20


def test_a_weight_without_effect_after_generation_0_is_refused():
    with pytest.raises(UserError, match="real_weight has no effect"):
        Replace(real_fraction=[0.5, 0], real_weight=2)
