"""Solvable systems through the loop: every system under every paradigm against its closed forms, closed forms written
out here, and the table of a chain: extended, interrupted, refused, damaged."""

import copy
import functools
import math
import os
import re
import signal
import subprocess
import sys
import time
from itertools import product

import numpy as np
import pandas as pd
import pytest
from conftest import REPO, thinned
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image
from scipy.special import digamma, gammaln

import imgloop
from imgloop import store
from imgloop.chain.solved import SolvedChain
from imgloop.collapse import tables
from imgloop.config import settings as config
from imgloop.config.compose import GROUPS, compose
from imgloop.config.compose import composed as composed_once
from imgloop.errors import Stopped, UserError
from imgloop.paradigm import AccumulateSubsample, Paradigm
from imgloop.pool import REAL, Mix
from imgloop.study import solved as results
from imgloop.study.compare import compare

SYSTEMS = ("gaussian", "discrete", "poisson", "bernoulli", "mixture", "kde", "regression")
FILES = {
    ".derived.json",
    ".lock",
    "config.yaml",
    "curves.png",
    "metrics.csv",
    "record.json",
    "replicates.safetensors",
    "run.log",
}


def groups(overrides) -> tuple[str, ...]:
    return tuple(o for o in overrides if o.split("=")[0] in GROUPS)


def quickly(overrides=(), config_dirs=()):
    """compose() for many chains: each choice of options is composed once, and its settings are then changed."""
    assert not config_dirs
    cfg = copy.deepcopy(composed_once(*groups(overrides)))
    for o in overrides:
        if o not in groups(overrides):
            OmegaConf.update(cfg, *setting(o))
    return cfg


@functools.cache
def setting(override: str):
    """The key and value of key=value."""
    parsed = OverridesParser.create().parse_override(override)
    return parsed.key_or_group, parsed.value()


@pytest.fixture(autouse=True)
def quick(monkeypatch, request):
    """Configs are composed quickly, except for the tests that ask."""
    if "composed" not in request.fixturenames:
        monkeypatch.setattr(config, "compose", quickly)


@pytest.fixture
def composed():
    """Request that every config is composed as on the command line."""


def chain(tmp_path, *overrides):
    return imgloop.run([f"out={tmp_path}", "display=none", *overrides])


def quantities(folder) -> dict[str, np.ndarray]:
    """Each quantity of every replicate and generation, (G, R)."""
    return {name: np.array(a) for name, a in store.open_arrays(folder / "replicates.safetensors").items()}


def bits(folder) -> tuple[bytes, bytes]:
    return (folder / "replicates.safetensors").read_bytes(), (folder / "metrics.csv").read_bytes()


def table(folder) -> pd.DataFrame:
    return pd.read_csv(folder / "metrics.csv")


def filled(folder) -> set[str]:
    """Quantities with a closed form or bound in every generation. Asserts that each has one in all generations, in none
    or in generation 0 alone, which every paradigm fits to R."""
    frame = table(folder)
    columns = [c for c in frame if c.endswith(("_theory", "_bound"))]
    assert all(
        frame[c].notna().sum() in (0, len(frame)) or list(frame[c].notna()[:2]) == [True, False] for c in columns
    )
    assert all(frame[c].notna().sum() in (0, 1, len(frame)) for c in columns)
    return {c.rsplit("_", 1)[0] for c in columns if frame[c].notna().all()}


def deviations(folder) -> pd.Series:
    """The z scores that are not empty, by quantity and generation."""
    frame = table(folder)
    return frame[[c for c in frame if c.endswith("_z")]].stack().dropna()


def test_what_is_composed_quickly_is_what_the_command_line_composes(monkeypatch):
    """The chains of this file are those that a user gets."""
    for overrides in (
        (*STANDARD, "out=there"),
        (*CUBE, *ODD, "paradigm=edit", "edit_fraction={start: 0.8, factor: 0.7}"),
    ):
        both = []
        for way in (quickly, compose):
            monkeypatch.setattr(config, "compose", way)
            settings = config.parsed(overrides)
            both.append((settings.config, settings.choices, settings.defaults, settings.usual, settings.folder))
        assert both[0] == both[1]


# Every system under every rule, at odd sizes: R has 9 rows, pools have 11, 13, 12 and 10

ODD = ("generations=4", "n_initial=9", "n_samples=[11,13,12,10]", "data.n=24")
RULES = {
    "replace": ("paradigm=replace",),
    "real_fraction": ("paradigm=replace", "real_fraction=0.4"),
    "accumulate": ("paradigm=accumulate",),
    "accumulate_subsample": ("paradigm=accumulate_subsample", "budget=8"),
    "stratified": ("paradigm=stratified",),
    "augment": ("paradigm=augment", "n_synthetic=5"),
    "fresh": ("paradigm=fresh", "n_real=4", "n_synthetic=5"),
    "edit": ("paradigm=edit", "edit_fraction=0.4"),
    "real_only": ("paradigm=real_only",),
}
SETTINGS = {  # settings, what has a closed form under every rule, what has one under replace alone, what has none
    "gaussian_mean": (("model=gaussian_mean",), {"mean", "square"}, set(), set()),
    "gaussian": (
        ("model=gaussian",),
        {"variance", "mean_part"},
        {"w2", "covariance_part", "log_variance", "wide"},
        set(),
    ),
    "discrete": (
        ("model=discrete", "model.p=[0.5,0.3,0.2]"),
        {"heterozygosity", "squared_error"},
        {"entropy", "survivors", "collapsed"},
        set(),
    ),
    "poisson": (("model=poisson",), {"rate", "squared_error"}, {"alive"}, set()),
    "bernoulli": (("model=bernoulli", "model.p=0.3"), {"p", "variance", "alive"}, {"collapsed"}, set()),
    "mixture": (("model=mixture", "model.threshold=1.2"), set(), {"wide"}, {"sd", "centre", "ambiguous"}),
    "kde": (("model=kde",), {"variance", "mean_part", "density_variance"}, set(), set()),
    "regression": (("model=regression", "model.dimension=2"), None, None, set()),
    "resampled": (("model=regression", "model.dimension=2", "model.design=resampled"), None, None, set()),
}
EXCESS = {"excess", "excess_ratio", "test_ratio"}
SOLVED = {
    "regression": {"replace", "edit", "real_only"},
    "resampled": {"replace", "accumulate", "real_only"},
}  # at unequal sizes


@pytest.mark.parametrize("system, rule", thinned([(s, r) for s in SETTINGS for r in RULES], 5))
def test_every_system_under_every_rule_agrees_with_its_closed_forms(tmp_path, system, rule):
    settings, always, chained, never = SETTINGS[system]
    folder = chain(tmp_path, *settings, *ODD, *RULES[rule]).folder
    if always is None:
        expected = EXCESS if rule in SOLVED[system] else set()
    else:
        expected = always | (chained if rule == "replace" else chained - {"wide"} if rule == "real_only" else set())
        expected |= {"alive"} if system == "poisson" and rule in ("accumulate", "augment") else set()
    assert filled(folder) == expected and not never & expected
    assert set(quantities(folder)) == (EXCESS if always is None else always | chained | never)
    z = deviations(folder)
    assert len(z) >= len(expected) and (z.abs() < 4).all(), z[z.abs() >= 4]
    frame = table(folder)
    for name in set(quantities(folder)) - expected:
        assert f"{name}_z" in frame and frame[f"{name}_z"][1:].isna().all()  # empty, not 0: there is no closed form


PLAIN = ("generations=4", "paradigm=replace", "n_initial=9", "n_samples=[11,13,12,10]", "data.n=9")
CUBE = ("model=gaussian", "model.dimension=3", "model.unbiased=true", "model.bias=0.8")
DIGITS = ("model=gaussian", "data=digits", "model.replicates=100", "n_initial=30", "generations=3")
EQUAL = ("model=regression", "model.dimension=2", "model.noise=0.5", "data.n=12", "generations=4")


@pytest.mark.parametrize(
    "settings, expected",
    thinned(
        [
            ((*CUBE, *ODD, *RULES["replace"]), {"variance", "mean_part", "log_variance"}),
            ((*CUBE, *ODD, "paradigm=accumulate_subsample", "budget=[9,8,10,14]"), {"variance", "mean_part"}),
            ((*CUBE, *ODD, "paradigm=augment", "n_synthetic={start: 2, factor: 1.5}"), {"variance", "mean_part"}),
            ((*CUBE, *ODD, "paradigm=edit", "edit_fraction={start: 0.8, factor: 0.7}"), {"variance", "mean_part"}),
            (("model=gaussian", "model.unbiased=true", *PLAIN), {*SETTINGS["gaussian"][1], *SETTINGS["gaussian"][2]}),
            (
                ("model=gaussian", "model.bias=1.3", *PLAIN),
                {*SETTINGS["gaussian"][1], *SETTINGS["gaussian"][2]} - {"wide"},  # no bound under an amplifying bias
            ),
            (("model=gaussian", *ODD, "paradigm=replace", "real_fraction=[0,0.5,0,0.3]"), {"variance", "mean_part"}),
            (
                ("model=gaussian", *ODD, "paradigm=fresh", "n_real=[9,2,6,3]", "n_synthetic=[0,4,0,7]"),
                {"variance", "mean_part"},
            ),
            (("model=gaussian", *ODD, "paradigm=accumulate", "n_initial=[9,8,7,9]"), set()),  # R that changes: no form
            (
                ("model=discrete", "model.p=[0.7,0.3]", *PLAIN, "generations=3", "n_samples=[4,6,5]", "n_initial=5"),
                {"heterozygosity", "squared_error", "collapsed", "entropy", "survivors"},
            ),
            ((*DIGITS, "n_samples=[20,25,22]", "paradigm=augment"), {"variance", "mean_part"}),
            (
                (*DIGITS, "n_samples=[20,25,22]", "paradigm=accumulate_subsample", "budget=25"),
                {"variance", "mean_part"},
            ),
            ((*DIGITS, "n_samples=[20,25,22]", "paradigm=replace", "model.unbiased=true"), {"variance", "mean_part"}),
            ((*DIGITS, "n_samples=30", "paradigm=fresh", "n_real=5"), set()),
            ((*DIGITS, "n_samples=30", "paradigm=edit", "edit_fraction=0.5"), set()),
            ((*EQUAL, "paradigm=replace"), EXCESS),
            ((*EQUAL, "paradigm=accumulate"), EXCESS),
            ((*EQUAL, "paradigm=augment"), EXCESS),
            ((*EQUAL, "paradigm=accumulate_subsample"), set()),
            ((*EQUAL, "paradigm=augment", "n_synthetic=5"), set()),
            ((*EQUAL, "paradigm=replace", "real_fraction=0.2"), set()),
            ((*EQUAL, "paradigm=edit", "edit_fraction=[1,0.5,0.3,0.9]"), EXCESS),
            ((*EQUAL, "paradigm=edit", "model.design=resampled"), set()),
        ],
        3,
    ),
)
def test_settings_that_have_forms_of_their_own(tmp_path, settings, expected):
    folder = chain(tmp_path, *settings).folder
    assert filled(folder) == expected
    z = deviations(folder)
    assert len(z) >= len(expected) and (z.abs() < 4).all(), z[z.abs() >= 4]


# Closed forms written out here. k = 1, 2, ... counts fits: generation k - 1


def z_scores(values: np.ndarray, expected) -> np.ndarray:
    """Differences between the mean over replicates, (G, R), and the expected values, in standard errors."""
    return (values.mean(1) - np.asarray(expected)) / (values.std(1, ddof=1) / math.sqrt(values.shape[1]))


def check_mean(values, expected):
    z = z_scores(values, expected)
    assert (np.abs(z) < 4).all(), z


def check_share(hits, p):
    """A frequency, by its binomial standard error under the law."""
    p = np.asarray(p)
    z = (hits.mean(1) - p) / np.sqrt(p * (1 - p) / hits.shape[1])
    assert (np.abs(z) < 4).all(), z


MANY = ("model.replicates=4000", "generations=6")


def simulated(tmp_path, *overrides):
    return quantities(chain(tmp_path, *MANY, *overrides).folder)


def test_replaced_gaussian_loses_a_share_of_one_nth_a_generation_and_its_mean_gains_it(tmp_path):
    n, k = 9, np.arange(1, 7)
    x = simulated(tmp_path, "model=gaussian", "paradigm=replace", "data.n=9")
    check_mean(x["variance"], (1 - 1 / n) ** k)
    check_mean(x["mean_part"], 1 - (1 - 1 / n) ** k)
    check_mean(x["log_variance"], k * (digamma((n - 1) / 2) - math.log(n / 2)))
    assert np.allclose(x["w2"], x["mean_part"] + (np.sqrt(x["variance"]) - 1) ** 2)


def test_replaced_unbiased_gaussian_keeps_its_expected_variance_while_the_typical_one_decays(tmp_path):
    n, k, shrink = 9, np.arange(1, 7), 0.9
    x = simulated(tmp_path, "model=gaussian", "model.unbiased=true", "paradigm=replace", "data.n=9")
    c4 = math.sqrt(2 / (n - 1)) * math.exp(gammaln(n / 2) - gammaln((n - 1) / 2))
    check_mean(x["variance"], np.ones(6))
    check_mean(x["mean_part"], k / n)
    check_mean(x["w2"], k / n + 2 * (1 - c4**k))
    check_mean(x["log_variance"], k * (digamma((n - 1) / 2) - math.log((n - 1) / 2)))
    x = simulated(tmp_path, "model=gaussian", "model.unbiased=true", "paradigm=replace", "data.n=9", "model.bias=0.9")
    check_mean(x["variance"], shrink ** (k - 1))
    check_mean(x["mean_part"], np.cumsum(shrink ** (k - 1)) / n)


def test_accumulated_gaussian_follows_the_product_whose_limit_is_bounded(tmp_path):
    n, k = 5, np.arange(1, 7)
    x = simulated(tmp_path, "model=gaussian", "paradigm=accumulate", "data.n=5")
    product_ = np.cumprod(1 - 1 / (n * k**2))
    check_mean(x["variance"], product_)
    check_mean(x["mean_part"], 1 - product_)


def test_gaussian_on_fresh_real_rows_follows_two_moments(tmp_path):
    """4 rows that no generation has seen and 6 of the newest pool: independent, so that their squares add."""
    r, s, n = 4, 6, 10
    x = simulated(tmp_path, "model=gaussian", "paradigm=fresh", "data.n=29", "n_initial=9", "n_real=4", "n_synthetic=6")
    m, v = [1 / 9], [8 / 9]
    for _ in range(5):
        mean = (r / n) ** 2 / r + (s / n) ** 2 * (m[-1] + v[-1] / s)
        square = (r + s * (m[-1] + v[-1])) / n
        m.append(mean), v.append(square - mean)
    check_mean(x["mean_part"], m)
    check_mean(x["variance"], v)


def test_gaussian_on_r_and_its_own_samples_remembers_r(tmp_path):
    """Augment: given R, every fit has the mean of R in expectation, hence E (mean of R)(mean of S) = V/r."""
    r, s, n = 7, 5, 12
    x = simulated(tmp_path, "model=gaussian", "paradigm=augment", "data.n=7", "n_samples=5")
    m, v = [1 / r], [1 - 1 / r]
    for _ in range(5):
        pools = s * (m[-1] + v[-1]) + s * (s - 1) * m[-1]  # E (sum of S)^2
        mean = (r + pools + 2 * s) / n**2  # E (sum of R)^2 = r, and of its product with S twice r s (1/r)
        square = (r + s * (m[-1] + v[-1])) / n
        m.append(mean), v.append(square - mean)
    check_mean(x["mean_part"], m)
    check_mean(x["variance"], v)


def test_gaussian_on_a_budget_drawn_from_everything_follows_its_recursion(tmp_path):
    """B of M rows without replacement: the mean of the draw adds (1/B - 1/M) times the variance of everything."""
    b, k = 6, 8
    x = simulated(
        tmp_path,
        "model=gaussian",
        "paradigm=accumulate_subsample",
        "n_initial=7",
        "data.n=7",
        "n_samples=8",
        "budget=6",
    )
    size, centre, square = 7, 1 / 7, 1.0  # rows so far, E |their mean|^2, their mean E |x|^2
    m, v = [1 / 7], [6 / 7]
    for t in range(6):
        if t:
            m.append(centre + (1 / b - 1 / size) * size / (size - 1) * (square - centre))
            v.append(square - m[-1])
        towards = centre  # E (mean of everything)(mean of the fit): each row is as likely in the draw
        pool = m[-1] + v[-1] / k  # E |mean of the new pool|^2
        square = (size * square + k * (m[-1] + v[-1])) / (size + k)
        centre = (size**2 * centre + 2 * size * k * towards + k**2 * pool) / (size + k) ** 2
        size += k
    check_mean(x["mean_part"], m)
    check_mean(x["variance"], v)


def test_edited_whole_the_data_set_is_replaced(tmp_path):
    """edit_fraction=1 with pools of |R| is replace, bit for bit; 0 is R in every generation."""
    common = ("model=gaussian", "data.n=9", "generations=4")
    edited = quantities(chain(tmp_path, *common, "paradigm=edit", "edit_fraction=1").folder)
    replaced = quantities(chain(tmp_path, *common, "paradigm=replace").folder)
    left = quantities(chain(tmp_path, *common, "paradigm=edit", "edit_fraction=0").folder)
    for name in edited:
        assert np.array_equal(edited[name], replaced[name]), name
        assert (left[name] == left[name][0]).all(), name


@pytest.mark.parametrize(
    "settings, factors",
    [
        (("paradigm=replace", "model.design=fixed"), [1, 2, 3, 4, 5, 6]),
        (("paradigm=accumulate", "model.design=fixed"), np.cumsum(1 / np.arange(1, 7) ** 2)),
        (
            ("paradigm=accumulate", "model.design=resampled"),
            np.cumsum([(20 - 3 - 1) / (i * (i * 20 - 3 - 1)) for i in range(1, 7)]),
        ),
        (("paradigm=replace", "model.design=resampled"), [1, 2, 3, 4, 5, 6]),
    ],
)
def test_regression_grows_without_bound_under_replace_and_by_pi_squared_over_six_under_accumulate(
    tmp_path, settings, factors
):
    rows, d, sigma = 20, 3, 0.5
    x = simulated(tmp_path, "model=regression", "model.dimension=3", "model.noise=0.5", "data.n=20", *settings)
    first = sigma**2 * d / (rows - d - 1)
    check_mean(x["excess"], first * np.asarray(factors))
    check_mean(x["excess_ratio"], factors)
    check_mean(x["test_ratio"], (first * np.asarray(factors) + sigma**2) / (first + sigma**2))


def test_discrete_heterozygosity_falls_by_one_dth_a_generation_whatever_the_law(tmp_path):
    x = simulated(tmp_path, "model=discrete", "model.p=[0.6,0.25,0.15]", "data.n=7", "paradigm=replace")
    check_mean(x["heterozygosity"], (1 - (0.36 + 0.0625 + 0.0225)) * (1 - 1 / 7) ** np.arange(1, 7))
    x = simulated(tmp_path, "model=discrete", "model.outcomes=2", "data.n=5", "paradigm=accumulate")
    check_mean(x["heterozygosity"], 0.5 * np.cumprod(1 - 1 / (5 * np.arange(1, 7) ** 2)))
    assert ((x["survivors"] == 1) == (x["collapsed"] == 1)).all() and (x["entropy"] <= 1 + 1e-12).all()


def test_coins_are_absorbed_with_the_probability_and_the_time_of_wright_and_fisher(tmp_path):
    folder = chain(
        tmp_path, "model=bernoulli", "paradigm=replace", "data.n=10", "model.replicates=4000", "generations=400"
    ).folder
    x, record = quantities(folder), store.read_json(folder / "record.json")
    check_mean(x["variance"][:8], 0.25 * 0.9 ** np.arange(1, 9))
    assert record["absorbed"] and set(np.unique(x["p"][-1])) == {0.0, 1.0}
    check_share(x["p"][-1:], [0.5])
    time_ = record["timescale"]
    assert abs(time_["simulated"] - 12.59) < 4 * time_["sem"] and time_["exact"] == pytest.approx(12.59, abs=0.005)
    assert time_["draws"] == 10 and time_["outcomes"] == 2
    biased = chain(tmp_path, "model=bernoulli", "model.p=0.2", "paradigm=replace", "data.n=6", "generations=400").folder
    check_share(quantities(biased)["p"][-1:], [0.2])


def test_poisson_rates_keep_their_mean_spread_linearly_and_die_out_as_a_branching_process(tmp_path):
    n, rate, k = 4, 0.7, np.arange(1, 7)
    x = simulated(tmp_path, "model=poisson", "model.rate=0.7", "data.n=4", "paradigm=replace")
    check_mean(x["rate"], np.full(6, rate))
    check_mean((x["rate"] - rate) ** 2, k * rate / n)
    g = [1.0]
    for _ in range(5):
        g.append(1 - math.exp(-g[-1]))
    check_share(x["rate"] > 0, 1 - np.exp(-n * rate * np.array(g)))


def test_kernel_densities_widen_to_a_limit_under_replace_and_logarithmically_under_accumulate(tmp_path):
    n, h = 6, 0.8
    for paradigm in ("replace", "accumulate"):
        x = simulated(tmp_path, "model=kde", "model.bandwidth=0.8", "data.n=6", f"paradigm={paradigm}")
        v = [1 - 1 / n]
        for k in range(2, 7):
            if paradigm == "replace":
                v.append((v[-1] + h**2) * (1 - 1 / n))
            else:
                v.append(v[-1] * (1 - 1 / (n * k**2)) + h**2 * (1 / k - 1 / (n * k**2)))
        check_mean(x["variance"], v)
        assert np.allclose(x["density_variance"] - x["variance"], h**2)


def test_mixture_components_die_out_below_the_bound_of_suresh_and_others(tmp_path):
    n, e = 5, 0.4
    folder = chain(
        tmp_path, "model=mixture", "model.threshold=0.4", "data.n=5", "paradigm=replace", "generations=40"
    ).folder
    x = quantities(folder)
    bound = np.minimum(1, np.exp(-np.arange(1, 41) / (4 * n)) / e)
    error = np.sqrt(bound * (1 - bound) / 1000)
    assert (x["wide"].mean(1) <= bound + 4 * error).all() and x["wide"][-1].mean() < x["wide"][0].mean() / 2
    assert ((x["sd"] > e) == (x["wide"] == 1)).all()
    frame = table(folder)
    assert frame["wide_bound"].to_numpy() == pytest.approx(bound, rel=1e-5)
    assert (frame["wide_z"].isna() == (bound >= 1)).all()  # a bound of 1 bounds nothing


# Mutations: with a planted fault, the comparison with theory must fail


def check_noticed(tmp_path, *overrides):
    z = deviations(chain(tmp_path, "model=gaussian", "model.replicates=2000", *overrides).folder)
    assert (z.abs() > 4).any(), z.abs().max()


def test_mutation_the_same_noise_in_every_generation(tmp_path, monkeypatch):
    seed = SolvedChain.seed
    monkeypatch.setattr(
        SolvedChain, "seed", lambda self, t, purpose: seed(self, 0 if purpose == "sample" else t, purpose)
    )
    check_noticed(tmp_path, *ODD, "n_samples=9", "paradigm=replace")


def test_mutation_rows_drawn_with_replacement(tmp_path, monkeypatch):
    def with_replacement(mix, n, rng):
        pick = rng.integers(len(mix), size=(n, mix.row.shape[1]))
        return Mix(np.take_along_axis(mix.origin, pick, 0), np.take_along_axis(mix.row, pick, 0))

    monkeypatch.setattr("imgloop.paradigm.subsample", with_replacement)
    check_noticed(tmp_path, *ODD, *RULES["accumulate_subsample"])


def test_mutation_the_first_rows_in_place_of_random_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("imgloop.paradigm.subsample", lambda mix, n, rng: Mix(mix.origin[:n], mix.row[:n]))
    check_noticed(tmp_path, *ODD, *RULES["accumulate_subsample"])


def test_mutation_real_data_left_out(tmp_path, monkeypatch):
    real = Paradigm.everything

    def everything(self, sizes, t, replicates):
        mix = real(self, sizes, t, replicates)
        n = self.initial(sizes, t)
        return Mix(mix.origin[n:], mix.row[n:])

    monkeypatch.setattr(Paradigm, "everything", everything)
    check_noticed(tmp_path, *ODD, *RULES["accumulate"])


def test_mutation_the_wrong_divisor(tmp_path, monkeypatch):
    from imgloop.analytic.gaussian import Gaussian

    fit = Gaussian.fit

    def wrong(self, data, task=None, previous=None):
        f = fit(self, data)
        f.covariance[:] *= len(data) / (len(data) - 1)
        return f

    monkeypatch.setattr(Gaussian, "fit", wrong)
    check_noticed(tmp_path, *ODD, *RULES["replace"])


# The samples go through the loop's mixes


@pytest.fixture
def watched(monkeypatch):
    """What the loop gave each generation: t, the fitted system, its mix, the rows that the mix names, and its pool."""
    seen, commit, fitted = [], SolvedChain.commit, SolvedChain.fitted

    def fit(self, t, model, data):
        before = {o: p.x.copy() for o, p in data.pools.items()}
        result = fitted(self, t, model, data)
        assert all(np.array_equal(p.x, before[o]) for o, p in data.pools.items())  # fitting changes no pool
        rows = np.stack([data.gather(np.arange(len(data)), r) for r in range(data.mix.row.shape[1])], 1)
        seen.append({"t": t, "f": result.generator, "mix": data.mix, "rows": rows, "real": before[REAL]})
        return result

    def keep(self, t, result, data, samples, released, scores, parts):
        assert seen[-1]["f"] is result.generator and seen[-1]["mix"] is data.mix
        seen[-1]["pool"] = released.pool.x.copy()
        commit(self, t, result, data, samples, released, scores, parts)

    monkeypatch.setattr(SolvedChain, "fitted", fit)
    monkeypatch.setattr(SolvedChain, "commit", keep)
    return seen


@pytest.mark.parametrize("rule", RULES)
def test_every_fit_is_to_the_rows_that_its_mix_names(tmp_path, watched, rule):
    chain(tmp_path, "model=gaussian", "model.replicates=40", *ODD, *RULES[rule])
    pools = {}
    for g in watched:
        pools[REAL] = g["real"]
        by_hand = np.empty_like(g["rows"])
        for i, r in product(*map(range, g["mix"].row.shape)):
            by_hand[i, r] = pools[int(g["mix"].origin[i, r])][g["mix"].row[i, r], r]
        assert np.array_equal(by_hand, g["rows"]) and g["mix"].row.shape[1] == 40
        assert np.allclose(g["f"].mean, by_hand.mean(0)) and np.allclose(g["f"].covariance[:, 0], by_hand.var(0))
        noise = (g["pool"] - g["f"].mean) / np.sqrt(g["f"].covariance[:, 0])
        assert abs(noise.mean()) < 5 / math.sqrt(noise.size) and abs(noise.std() - 1) < 5 / math.sqrt(2 * noise.size)
        pools[g["t"]] = g["pool"]
    assert len({g["real"].tobytes() for g in watched}) == 1 and watched[0]["real"].shape == (24, 40, 1)
    assert np.array_equal(watched[0]["rows"], watched[0]["real"][:9])  # generation 0 is R, the first 9 real rows


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_is_fitted_to_its_mix_and_each_replicate_has_its_own_data(tmp_path, watched, system):
    chain(
        tmp_path, f"model={system}", "model.replicates=6", "generations=3", "data.n=40", "budget=20",
        "paradigm=accumulate_subsample",
    )  # fmt: skip
    for g in watched:
        columns = [g["real"], g["rows"], g["pool"]]
        for r, s in product(range(6), range(6)):
            assert r == s or not any(np.array_equal(c[:, r], c[:, s]) for c in columns[:2]), (r, s)
        if g["t"]:
            pairs = [tuple(sorted(zip(*(a[:, r].tolist() for a in (g["mix"].origin, g["mix"].row))))) for r in range(6)]
            assert len(set(pairs)) == 6 and all(len(set(p)) == 20 for p in pairs)
        x = g["rows"].astype(float)
        if system in ("gaussian",):
            assert np.allclose(g["f"].mean, x.mean(0))
        elif system == "discrete":
            assert np.allclose(g["f"].p, np.stack([(x[:, :, 0] == k).mean(0) for k in range(10)], 1))
        elif system == "poisson":
            assert np.allclose(g["f"].rate, x.mean(0)[:, 0])
        elif system == "bernoulli":
            assert np.allclose(g["f"].p, x.mean(0)[:, 0])
        elif system == "mixture":
            assert np.allclose(g["f"].centre, np.abs(x).mean(0)[:, 0])
            assert np.allclose(g["f"].sd ** 2, (x**2).mean(0)[:, 0] - g["f"].centre ** 2)
        elif system == "kde":
            assert np.array_equal(g["f"].points, x[:, :, 0])
        else:
            for r in range(6):
                weights = np.linalg.lstsq(x[:, r, :-1], x[:, r, -1], rcond=None)[0]
                assert np.allclose(g["f"].weights[r], weights)


def test_replicates_draw_independent_subsets(watched, tmp_path):
    """Two replicates of a budget of 9 out of 20 share 9 · 9/20 rows on average, as independent draws do."""
    chain(
        tmp_path, "model=gaussian", "model.replicates=400", "generations=2", "data.n=9", "n_samples=11",
        "paradigm=accumulate_subsample",
    )  # fmt: skip
    mix = watched[1]["mix"]
    at = np.where(mix.origin == REAL, mix.row, 9 + mix.row)
    member = np.zeros((400, 20))
    np.put_along_axis(member, at.T, 1, 1)
    assert (member.sum(1) == 9).all()
    shared = (member[0::2] * member[1::2]).sum(1)
    spread = math.sqrt(9 * (9 / 20) * (11 / 20) * (11 / 19) / 200)
    assert abs(shared.mean() - 9 * 9 / 20) < 4 * spread and abs(member.mean(0) - 9 / 20).max() < 5 * math.sqrt(
        0.45 * 0.55 / 400
    )


def test_mutation_one_set_of_indices_for_all_replicates_is_seen(tmp_path, monkeypatch, watched):
    later = AccumulateSubsample.later

    def shared(self, sizes, t, rng, replicates):
        one = later(self, sizes, t, rng, 1)
        return Mix(*(np.repeat(a, replicates, 1) for a in (one.origin, one.row)))

    monkeypatch.setattr(AccumulateSubsample, "later", shared)
    with pytest.raises(AssertionError):
        test_replicates_draw_independent_subsets(watched, tmp_path)


def test_a_fixed_design_keeps_each_replicate_s_own_x_and_a_resampled_one_does_not(tmp_path, watched):
    common = ("model=regression", "model.replicates=5", "data.n=14", "generations=3", "paradigm=replace")
    chain(tmp_path, *common, "model.design=fixed")
    chain(tmp_path, *common, "model.design=resampled")
    fixed, resampled = watched[:3], watched[3:]
    for g in fixed:
        assert np.array_equal(g["pool"][:, :, :-1], g["real"][:, :, :-1])
        noise = g["pool"][:, :, -1] - np.einsum("nrd,rd->nr", g["pool"][:, :, :-1], g["f"].weights)
        assert abs(noise.std() - 1) < 5 / math.sqrt(2 * noise.size)
    assert not any(np.isin(g["pool"][:, :, 0], g["real"][:, :, 0]).any() for g in resampled)


@pytest.mark.parametrize("system", SYSTEMS)
def test_seeds_make_the_bits_and_conditions_of_one_seed_share_generation_0(tmp_path, system):
    settings = (f"model={system}", "model.replicates=20", "data.n=30", "n_initial=10", "generations=2")
    one, again, other, seed1 = (
        chain(tmp_path / str(i), *settings, f"paradigm={p}", f"seed={seed}").folder
        for i, (p, seed) in enumerate([("replace", 0), ("replace", 0), ("accumulate", 0), ("replace", 1)])
    )
    assert bits(one) == bits(again)
    real = [store.read_json(f / "record.json")["real"] for f in (one, other, seed1)]
    assert real[0] == real[1] != real[2]
    first, theirs, fresh = quantities(one), quantities(other), quantities(seed1)
    assert all(np.array_equal(theirs[q][0], first[q][0]) for q in first)
    assert any((theirs[q][1] != first[q][1]).any() for q in first)
    assert any((fresh[q] != first[q]).any() for q in first)


# The folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Four generations of accumulate_subsample, uninterrupted, with its figure."""
    return chain(tmp_path_factory.mktemp("out"), *STANDARD, "generations=4")


STANDARD = ("model=gaussian", "paradigm=accumulate_subsample", "n_initial=9", "n_samples=7", "budget=8", "data.n=12")


def test_the_folder_holds_one_table_and_no_folder_a_generation(finished, drawn):
    folder = finished.folder
    assert {p.name for p in folder.iterdir()} == FILES
    assert folder.parts[-3:] == (
        "gaussian",
        "accumulate_subsample,n_initial=9,budget=8,data.n=12,n_samples=7",
        "seed0",
    )
    study = folder.parent.parent
    assert {p.name for p in study.iterdir()} == {folder.parent.name, "shared", "study.json"}  # nothing compared
    assert {p.name for p in (study / "shared").iterdir()} == {"collapse.json", ".collapse.lock", ".study.lock"}
    assert list(finished.metrics["generation"]) == [0, 1, 2, 3]
    assert np.asarray(Image.open(folder / "curves.png").convert("L")).std() > 10


def test_the_record_says_what_the_table_was_made_of(finished):
    record = store.read_json(finished.folder / "record.json")
    assert (record["condition"], record["seed"], record["model"]) == (finished.folder.parent.name, 0, "gaussian")
    assert (record["replicates"], record["generations"], record["complete"]) == (1000, 4, True)
    assert record["absorbed"] is False and record["timescale"] is None
    assert record["replicates_hash"] == store.file_hash(finished.folder / "replicates.safetensors")
    assert len(set(record["seeds"]["mix"]) | set(record["seeds"]["sample"])) == 8  # no two draws share a seed
    assert (
        record["versions"]["numpy"] == np.__version__
        and record["quantities"].keys() == quantities(finished.folder).keys()
    )
    assert set(record["seconds"]) == {"train", "sample", "measure"} and len(record["real"]) == 64


def test_the_table_is_the_means_of_the_replicates(finished):
    x, frame = quantities(finished.folder), table(finished.folder)
    assert list(frame["n_train"]) == [9, 8, 8, 8] and list(frame["n_pool"]) == [7] * 4
    assert list(frame["generation"]) == [0, 1, 2, 3] and frame["real_share"][0] == 1
    assert frame["real_share"].to_numpy() == pytest.approx(9 / (9 + 7 * np.arange(4)), rel=0.05)
    for name, values in x.items():
        assert values.shape == (4, 1000) and values.dtype == np.float64
        assert frame[name].to_numpy() == pytest.approx(values.mean(1), rel=1e-5)
        assert frame[f"{name}_sem"].to_numpy() == pytest.approx(values.std(1, ddof=1) / math.sqrt(1000), rel=1e-5)
        assert frame[f"{name}_median"].to_numpy() == pytest.approx(np.median(values, 1), rel=1e-5)
    z = (frame["variance"] - frame["variance_theory"]) / frame["variance_sem"]
    assert frame["variance_z"].to_numpy() == pytest.approx(z.to_numpy(), abs=1e-3)


def test_z_scores_of_shares_are_binomial_and_of_bounds_one_sided():
    hits = np.repeat([[0.0] * 700 + [1.0] * 300], 3, 0)
    z = results.scores(hits, np.array([0.3, 0.25, 0.35]), "share")
    normal = [(0.3 - p) / math.sqrt(p * (1 - p) / 1000) for p in (0.3, 0.25, 0.35)]
    assert abs(z[0]) < 0.1 and z[1:] == pytest.approx(normal[1:], rel=0.05)
    z = results.scores(hits, np.array([0.3, 0.25, 0.35]), "bound")
    assert z[1] == pytest.approx(normal[1], rel=0.05) and z[2] == 0
    spread = np.random.default_rng(0).standard_normal((2, 1000))
    assert results.scores(spread, np.array([np.nan, 0.5]), "mean")[1] == pytest.approx(
        (spread[1].mean() - 0.5) / spread[1].std(ddof=1) * math.sqrt(1000)
    )
    same = np.full((2, 5), 0.25)
    assert results.scores(same, np.array([0.25, 0.3]), "mean").tolist() == [0, -math.inf]


def test_torch_is_not_imported_by_a_run(tmp_path):
    settings = [*STANDARD, f"out={tmp_path}", "display=none", "model.replicates=10", "generations=2"]
    code = (
        f"import sys, imgloop; imgloop.run({settings!r}); sys.exit(bool({{'torch', 'lightning'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


def test_a_finished_chain_is_left_as_it_is_and_says_so(finished):
    names = ("replicates.safetensors", "metrics.csv", "record.json", "config.yaml")
    before = {n: (finished.folder / n).stat().st_mtime_ns for n in names}
    for generations in (4, 2):
        again = chain(finished.folder.parents[2], *STANDARD, f"generations={generations}")
        assert before == {n: (finished.folder / n).stat().st_mtime_ns for n in names}
        pd.testing.assert_frame_equal(again.metrics, finished.metrics)
    log = (finished.folder / "run.log").read_text()
    assert log.count("nothing to do (generations=5") == 2


@pytest.mark.parametrize(
    "system, rule",
    [*((s, "replace") for s in SYSTEMS), *((s, "accumulate_subsample") for s in ("gaussian", "kde", "regression"))],
)
def test_extended_equals_longer_from_the_start_bit_for_bit(tmp_path, system, rule):
    settings = (f"model={system}", f"paradigm={rule}", "model.replicates=50", "data.n=12", "n_samples=11")
    settings += ("budget=10", "model.dimension=2")[: (system == "regression") + 1] if rule != "replace" else ()
    whole = chain(tmp_path / "whole", *settings, "generations=5").folder
    for generations in (2, 5):
        parts = chain(tmp_path / "parts", *settings, f"generations={generations}").folder
        assert len(table(parts)) == generations
    assert bits(parts) == bits(whole)


def test_other_settings_in_the_same_folder_are_refused_and_overwrite_begins_again(tmp_path):
    folder = chain(tmp_path, *STANDARD, "generations=2").folder
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("model.bias: 1\n", "model.bias: 2\n"))
    before = bits(folder)
    with pytest.raises(UserError, match=r"there 2, now 1.*overwrite=true"):
        chain(tmp_path, *STANDARD, "generations=3")
    assert bits(folder) == before
    longer = chain(tmp_path, *STANDARD, "generations=3", "overwrite=true").folder
    assert longer == folder and len(table(folder)) == 3 and (folder / "config.yaml").read_text() != text
    assert "model.bias: 1\n" in (folder / "config.yaml").read_text()


def test_the_same_chain_cannot_run_twice_at_once(finished):
    with store.lock(finished.folder / ".lock"), pytest.raises(UserError, match="Another process"):
        chain(finished.folder.parents[2], *STANDARD, "generations=9")


# Interrupted


def stop_after(monkeypatch, generation: int) -> None:
    """A signal comes while `generation` is committed."""
    commit = SolvedChain.commit

    def stopping(self, t, *args):
        commit(self, t, *args)
        if t == generation:
            self.stop.signal = signal.SIGINT

    monkeypatch.setattr(SolvedChain, "commit", stopping)


def test_an_interrupted_chain_keeps_its_generations_and_continues_to_the_same_bits(tmp_path, monkeypatch):
    whole = chain(tmp_path / "whole", *STANDARD, "generations=6").folder
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            chain(tmp_path / "parts", *STANDARD, "generations=6")
    (folder,) = (tmp_path / "parts" / "gaussian").glob("*/seed0")
    record = store.read_json(folder / "record.json")
    assert (record["generations"], record["complete"]) == (3, False) and len(table(folder)) == 3
    assert all(np.array_equal(a, quantities(whole)[q][:3]) for q, a in quantities(folder).items())
    assert bits(chain(tmp_path / "parts", *STANDARD, "generations=6").folder) == bits(whole)
    assert store.read_json(folder / "record.json")["complete"]


def test_a_chain_interrupted_before_its_first_generation_can_be_started_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(SolvedChain, "fitted", lambda self, *a: setattr(self.stop, "signal", 2) or self.stop.end_of_fit())
        with pytest.raises(Stopped):
            chain(tmp_path, *STANDARD, "generations=2")
    assert len(chain(tmp_path, *STANDARD, "generations=2").metrics) == 2


def test_a_chain_interrupted_while_extended_loses_nothing(tmp_path, monkeypatch):
    """Generations that the replay has not reached again still exist."""
    folder = chain(tmp_path, *STANDARD, "generations=4").folder
    before = quantities(folder)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            chain(tmp_path, *STANDARD, "generations=8")
    assert len(table(folder)) >= 4
    assert all(np.array_equal(quantities(folder)[q][:4], a) for q, a in before.items())


@pytest.mark.nightly
def test_ctrl_c_ends_a_long_chain_with_a_table_of_its_generations(tmp_path):
    system = ("model=gaussian", "model.unbiased=true", "paradigm=replace", "data.n=50", "model.replicates=3000")
    settings = [*system, f"out={tmp_path / 'parts'}", "display=lines"]
    process = subprocess.Popen(
        [sys.executable, "-m", "imgloop", *settings, "generations=9000"],
        cwd=REPO,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    began = time.monotonic()
    while not list((tmp_path / "parts").rglob("config.yaml")) and time.monotonic() - began < 60:
        time.sleep(0.05)
    time.sleep(2)  # some generations, on a busy machine too
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in error and "continues from here" in error
    (folder,) = (tmp_path / "parts" / "gaussian").glob("*/seed0")
    record, x = store.read_json(folder / "record.json"), quantities(folder)
    done = record["generations"]
    assert not record["complete"] and 1 <= done < 9000 and len(table(folder)) == done
    short = min(done, 20)
    whole = quantities(chain(tmp_path / "whole", *system, f"generations={short}").folder)
    assert all(np.array_equal(x[q][:short], a) for q, a in whole.items())


# Absorbed

COINS = ("model=bernoulli", "data.n=3", "model.replicates=20", "model.p=0.1")


def test_a_closed_chain_ends_when_every_replicate_is_absorbed(tmp_path):
    whole = chain(tmp_path, *COINS, "paradigm=replace", "generations=900").folder
    x, record = quantities(whole), store.read_json(whole / "record.json")
    done = record["generations"]
    assert record["absorbed"] and record["complete"] and 1 < done < 900
    assert x["collapsed"][-1].all() and not x["collapsed"][-2].all()  # in the very generation in which the last one is
    before = bits(whole)
    for generations in (2000, 900, 1):
        chain(tmp_path, *COINS, "paradigm=replace", f"generations={generations}")
    assert bits(whole) == before
    assert (whole / "run.log").read_text().count(f"absorbed by generation {done - 1}: nothing to do") == 3
    assert record["timescale"]["simulated"] == pytest.approx(1 + (1 - x["collapsed"]).sum(0).mean())


@pytest.mark.parametrize(
    "system, settings",
    thinned(
        [
            ("poisson", ("model.rate=0.3", "data.n=3")),
            ("discrete", ("model.p=[0.9,0.1]", "data.n=3")),
            ("gaussian", ("data.n=2",)),
            ("mixture", ("data.n=2",)),
        ],
        2,
    ),
)
def test_every_system_that_can_be_absorbed_ends_there(tmp_path, system, settings):
    folder = chain(
        tmp_path, f"model={system}", *settings, "model.replicates=5", "paradigm=replace", "generations=5000"
    ).folder
    record = store.read_json(folder / "record.json")
    assert record["absorbed"] and record["generations"] < 5000


@pytest.mark.parametrize(
    "rule",
    [
        ("paradigm=real_only",),
        ("paradigm=accumulate",),
        ("paradigm=augment",),
        ("paradigm=accumulate_subsample",),
        ("paradigm=edit", "edit_fraction=0.4"),
        ("paradigm=replace", "real_fraction=[0,0,0,0,0,0.5]"),
        ("paradigm=fresh", "n_initial=3", "data.n=18"),
    ],
)
def test_a_chain_that_real_rows_enter_never_ends_early(tmp_path, rule):
    """Three tosses of a coin of 0.001: every replicate is absorbed from the start, and may yet be freed."""
    settings = ("model=bernoulli", "data.n=3", "model.replicates=4", "model.p=0.001", "generations=6")
    folder = chain(tmp_path, *settings, *rule).folder
    record = store.read_json(folder / "record.json")
    assert quantities(folder)["collapsed"][0].all() and record["generations"] == 6 and not record["absorbed"]
    closed = chain(tmp_path, *settings, "paradigm=replace").folder
    assert store.read_json(closed / "record.json")["generations"] == 1


# Damaged


def damaged(tmp_path, name, spoil, *more):
    """A finished chain of which one file is cut in two, emptied or removed."""
    folder = chain(tmp_path, *STANDARD, "generations=3", *more).folder
    path = folder / name
    data = path.read_bytes()
    path.unlink() if spoil == "remove" else path.write_bytes(data[: len(data) // 2] if spoil == "cut" else b"")
    return folder


@pytest.mark.parametrize("spoil", ["cut", "empty"])
def test_a_damaged_record_is_refused_by_name_wherever_it_is_read(tmp_path, spoil):
    folder = damaged(tmp_path, "record.json", spoil)
    for generations in (3, 4):
        with pytest.raises(UserError, match=r"record\.json.*overwrite=true"):
            chain(tmp_path, *STANDARD, f"generations={generations}")
    with pytest.raises(UserError, match=r"record\.json"):
        compare(folder.parents[1])
    assert len(chain(tmp_path, *STANDARD, "generations=3", "overwrite=true").metrics) == 3


@pytest.mark.parametrize("spoil", ["cut", "empty", "remove"])
def test_damaged_replicates_are_refused_by_name_where_they_are_read(tmp_path, spoil):
    folder = damaged(tmp_path, "replicates.safetensors", spoil)
    with pytest.raises(UserError, match=r"replicates\.safetensors .*run the chain again"):
        results.replicates(folder)
    chain(tmp_path, *STANDARD, "generations=3")  # is replayed, which repairs it
    assert len(results.replicates(folder)["w2"]) == 3


@pytest.mark.parametrize("spoil", ["cut", "empty", "remove"])
def test_a_damaged_table_is_refused_by_name_where_it_is_read(tmp_path, spoil):
    folder = damaged(tmp_path, "metrics.csv", spoil)
    with pytest.raises(UserError, match=r"metrics\.csv .*run the chain again"):
        imgloop.load_study(folder.parents[1])
    chain(tmp_path, *STANDARD, "generations=3")  # is replayed, which repairs it
    assert len(imgloop.load_study(folder.parents[1])) == 3


def test_overwriting_with_a_wrong_setting_leaves_the_chain_as_it_was(tmp_path):
    settings = ["model=gaussian", "paradigm=fresh", "data.n=60", "n_initial=10", "model.replicates=20"]
    before = chain(tmp_path, *settings, "generations=6").folder
    before_files = {p.name: p.read_bytes() for p in before.iterdir() if p.name != "run.log"}
    with pytest.raises(UserError, match="has used 60 of 60"):
        chain(tmp_path, *settings, "generations=7", "overwrite=true")
    assert {p.name: p.read_bytes() for p in before.iterdir() if p.name != "run.log"} == before_files
    assert len(chain(tmp_path, *settings, "generations=2", "overwrite=true").metrics) == 2
    assert not [p for p in before.iterdir() if p.name.startswith(".") and p.name not in (".lock", ".derived.json")]


def test_seeds_that_were_absorbed_count_on_in_the_comparison(tmp_path):
    settings = ["model=bernoulli", "model.replicates=20", "paradigm=replace", "data.n=5", "generations=200"]
    ends = [len(chain(tmp_path, *settings, f"seed={s}").metrics) for s in range(3)]
    study = next(tmp_path.glob("bernoulli"))
    frame = pd.read_csv(study / "comparison.csv")
    assert len(set(ends)) > 1 and len(frame) == max(ends) and (frame["seeds"] == 3).all()
    assert frame["collapsed"].iloc[-1] == 1 and (np.diff(frame["collapsed"]) >= 0).all()


@pytest.mark.parametrize("spoil", ["empty", "remove"])
def test_a_damaged_config_is_refused_by_name(tmp_path, spoil):
    damaged(tmp_path, "config.yaml", spoil)
    with pytest.raises(UserError, match=r"config\.yaml"):
        chain(tmp_path, *STANDARD, "generations=4")


def test_a_table_without_its_replicates_is_not_taken_for_a_chain_of_images(tmp_path):
    folder = damaged(tmp_path, "replicates.safetensors", "remove")
    try:
        chain(tmp_path, *STANDARD, "generations=3")
    except UserError as e:
        assert "replicates.safetensors" in str(e)
    else:
        assert (folder / "replicates.safetensors").exists()  # or it was made again
    assert len(table(folder)) == 3 and "variance_theory" in table(folder)


# Wrong settings: one sentence, and nothing left behind

WRONG = [  # settings, the setting that the error names, a key word of its message
    (("model=regression", "data.n=6"), None, "T > d"),
    (("model=regression", "data.n=20", "paradigm=replace", "n_samples=6"), None, "Generation 1"),
    (("model=gaussian", "data.n=1"), None, "n = 1"),
    (("model=mixture", "data.n=1"), None, "n = 1"),
    (("model=gaussian", "n_samples=1", "paradigm=replace"), None, "Generation 1"),
    (("model=gaussian", "paradigm=accumulate_subsample", "budget=1"), None, "1 row"),
    (("model=gaussian", "data.n=0"), "data.n", "="),
    (("model=gaussian", "data.n=2.5"), "data.n", "="),
    (("model=kde", "model.bandwidth=0"), "model.bandwidth", "above 0"),
    (("model=kde", "model.bandwidth=-0.3"), "model.bandwidth", "above 0"),
    (("model=kde", "model.bandwidth=nan"), "model.bandwidth", "="),
    (("model=poisson", "model.rate=0"), "model.rate", "="),
    (("model=bernoulli", "model.p=0"), "model.p", "above 0 and below 1"),
    (("model=bernoulli", "model.p=1"), "model.p", "above 0 and below 1"),
    (("model=bernoulli", "model.p=-0.1"), "model.p", "above 0 and below 1"),
    (("model=bernoulli", "model.p=[0.5,0.5]"), "model.p", "number"),
    (("model=discrete", "model.p=[0.5,0.6]"), "model.p", "sum to 1"),
    (("model=discrete", "model.p=[1.0]"), "model.p", "two or more"),
    (("model=discrete", "model.p=[0,1]"), "model.p", "below 1"),
    (("model=discrete", "model.p=0.5"), "model.p", "="),
    (("model=discrete", "model.p=[0.5,half]"), "model.p", "sum to 1"),
    (("model=discrete", "model.p=uniform"), "model.p", "="),
    (("model=discrete", "model.p=[0.2,0.8]", "model.outcomes=5"), "model.outcomes", "lists 2"),
    (("model=discrete", "model.outcomes=1"), "model.outcomes", "at least 2"),
    (("model=regression", "model.design=foo"), "model.design", "resampled"),
    (("model=regression", "model.noise=0"), "model.noise", "="),
    (("model=regression", "model.dimension=0"), "model.dimension", "="),
    (("model=regression", "data.n=20", "n_samples=21"), "n_samples", "20 rows"),
    (("model=regression", "data.n=20", "n_samples=[20,20,21]"), "n_samples", "20 rows"),
    (("model=gaussian", "model.replicates=0"), "model.replicates", "at least 1"),
    (("model=gaussian", "model.replicates=1.5"), "model.replicates", "whole number"),
    (("model=gaussian", "model.replicates=null"), "model.replicates", "="),
    (("model=gaussian", "model.replicates=100000000000000"), "model.replicates", "memory"),
    (("model=mixture", "model.replicates=100000000000000"), "model.replicates", "memory"),
    (("model=gaussian", "n_samples=100000000000000"), "model.replicates", "memory"),
    (("model=gaussian", "data.n=100000000000000"), "model.replicates", "memory"),
    (("model=discrete", "data=digits"), "data", "data=law"),
    (("model=kde", "data=digits"), "data", "data=law"),
    (("model=diffusion", "data=law"), "data", "data=law"),
    (
        ("model=gaussian", "data=digits", "n_initial=9", "model.replicates=3", "model.dimension=3"),
        "model.dimension",
        "=",
    ),
    (("model=gaussian", "features=pixels"), "features", "no effect"),
    (("model=gaussian", "features.images=5"), "features", "no effect"),
    (("model=gaussian", "trainer=gpu"), "trainer", "no effect"),
    (("model=gaussian", "trainer.checkpoint_seconds=3"), "trainer", "no effect"),
    (("model=gaussian", "train.images=5"), "train", "no effect"),
    (("model=gaussian", "start=weights"), "start", "no effect"),
    (("model=gaussian", "keep_models=1"), "keep_models", "no effect"),
    (("model=gaussian", "paradigm=edit", "edit_fraction=1.5"), "edit_fraction", "0 to 1"),
    (("model=gaussian", "paradigm=edit", "edit_fraction=-0.5"), "edit_fraction", "0 to 1"),
    (("model=gaussian", "paradigm=edit", "edit_fraction={start: 0.6, factor: 2}"), "edit_fraction", "0 to 1"),
    (("model=gaussian", "paradigm=edit", "edit_fraction=[0,0.2]"), "edit_fraction", "lists 2"),
    (("model=gaussian", "paradigm=edit", "edit_fraction=1", "n_samples=99"), "n_samples", "99"),
    (("model=gaussian", "paradigm=replace", "edit_fraction=0.5"), "edit_fraction", "no effect"),
    (("model=gaussian", "model.bias=0"), "model.bias", "above 0"),
    (("model=gaussian", "model.bias=-1"), "model.bias", "above 0"),
    (("model=gaussian", "model.dimension=0"), "model.dimension", "="),
    (("model=gaussian", "paradigm=fresh"), "n_real", "n_initial"),
    (("model=gaussian", "n_initial=101"), "n_initial", "100"),
]


@pytest.mark.parametrize("settings, name, what", thinned(WRONG, 2), ids=[" ".join(row[0]) for row in WRONG])
def test_a_wrong_setting_is_refused_and_leaves_no_folder(tmp_path, settings, name, what):
    with pytest.raises(UserError, match=what) as error:
        chain(tmp_path / "out", "generations=3", *settings)
    message = str(error.value)
    assert error.value.setting == name
    assert "\n" not in message and message.endswith(".") and "Error" not in message and len(message) < 400
    assert not [p for p in (tmp_path / "out").rglob("*")]


def test_the_truth_is_not_a_setting(tmp_path, composed):
    with pytest.raises(UserError, match="not a setting") as error:
        chain(tmp_path / "out", "model=gaussian", "model.truth=3")
    assert error.value.setting == "model.truth" and not (tmp_path / "out").exists()


def test_replicates_that_do_not_fit_into_memory_are_refused_before_any_is_drawn(tmp_path, monkeypatch):
    """A machine of 64 KiB: a thousand replicates of nine rows do not fit, ten do."""
    real = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: 16 if name == "SC_PHYS_PAGES" else real(name))
    with monkeypatch.context() as patch:
        patch.setattr("imgloop.analytic.gaussian.Gaussian.draw", lambda *a: pytest.fail("drawn before it was refused"))
        with pytest.raises(UserError, match=r"1,000 replicates.*memory.*model\.replicates"):
            chain(tmp_path, *STANDARD, "generations=3")
    assert len(chain(tmp_path, *STANDARD, "generations=3", "model.replicates=10").metrics) == 3


@pytest.mark.parametrize("more", [("paradigm=accumulate_subsample", "budget=7"), ("real_fraction=0.5",)])
def test_a_fit_to_the_same_x_again_and_again_is_refused_or_solved_but_no_crash(tmp_path, more):
    """With a fixed design, rows drawn from several pools can hold fewer than d different x."""
    paradigm = () if more[0].startswith("paradigm") else ("paradigm=replace",)
    try:
        frame = chain(tmp_path, "model=regression", "data.n=8", "generations=4", *paradigm, *more).metrics
    except UserError as e:
        assert "model.d" in str(e)
    else:
        assert (frame["excess"] < 1e6).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_overflow_and_underflow_do_not_crash_a_chain(tmp_path):
    for bias in (1000, 0.001):
        chain(
            tmp_path, "model=gaussian", "model.dimension=2", f"model.bias={bias}", "paradigm=replace", "data.n=5",
            "generations=130", "model.replicates=3",
        )  # fmt: skip


def test_a_single_replicate_has_no_standard_error_and_no_z(tmp_path):
    folder = chain(tmp_path, *STANDARD, "generations=2", "model.replicates=1").folder
    frame = table(folder)
    assert frame["variance"].notna().all() and frame["variance_theory"].notna().all()
    assert frame["variance_sem"].isna().all() and frame["variance_z"].isna().all()


@pytest.mark.parametrize(
    "settings, what",
    thinned(
        [
            (("model=regression", "data.n=20", "n_samples=21"), "model.design=resampled"),
            (("model=discrete", "model.p=[0.5,half]"), "model.p"),
            (("model=gaussian", "model.replicates=100000000000000"), "model.replicates"),
            (("model=gaussian", "keep_models=1"), "keep_models has no effect"),
        ],
        4,
    ),
)
def test_the_command_line_reports_it_without_a_traceback(tmp_path, command, settings, what):
    done = command(*settings, f"out={tmp_path / 'out'}", "generations=2")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("imgloop: ") and what in done.stderr and done.stderr.count("\n") == 1
    assert not [p for p in (tmp_path / "out").rglob("*")]


# Studies and experiments

EXPERIMENTS = sorted(p.stem for p in (REPO / "conf" / "experiment" / "analytic").glob("*.yaml"))


def jobs(name: str) -> list[list[str]]:
    """The overrides of each job that an experiment's sweep makes."""
    params = config.compose([f"experiment=analytic/{name}"]).hydra.sweeper.params
    parsed = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items()])
    return [
        [f"{o.key_or_group}={v}" for o, v in zip(parsed, values)]
        for values in product(
            *(
                list(o.sweep_string_iterator()) if o.is_sweep_override() else [o.get_value_element_as_str()]
                for o in parsed
            )
        )
    ]


@pytest.mark.parametrize("name", thinned(EXPERIMENTS, 3))
def test_every_experiment_composes_runs_and_names_its_conditions_apart(tmp_path, name):
    names = []
    for i, job in enumerate(jobs(name)):
        settings = config.parsed([f"experiment=analytic/{name}", *job])
        names.append(settings.condition)
        assert settings.config["model"]["replicates"] >= 100 and settings.study.name == f"analytic-{name}"
        if i == 0:  # with fewer replicates
            small = [f"experiment=analytic/{name}", *job, "model.replicates=30", "generations=2"]
            assert len(chain(tmp_path, *small).metrics) == 2
    assert len(set(names)) == len(names) >= 2
    assert all(len(n) <= 80 and re.fullmatch(r"[A-Za-z0-9_.,=+-]+", n) for n in names), names


def test_condition_names_of_schedules_are_short_plain_and_apart(composed):
    values = ["0.2", "0.4", "{start:0.4,factor:0.5}", "{start:0.4,factor:0.25}", "{start:0.4,factor:0.5,max:0.3}"]
    values += ["{start:0.4,factor:0.5,max:0.3,min:0.1}", "{start:0.4,factor:0.5,min:5e-05}"]
    values += ["[0,0.4,0.2]", "[0,0.4,0.5]"]
    names = [config.parsed(["model=regression", "paradigm=edit", f"edit_fraction={v}"]).condition for v in values]
    assert names[2] == "edit,edit_fraction=0.4x0.5" and len(set(names)) == len(values)
    assert names[6] == "edit,edit_fraction=0.4x0.5min5e-05"
    for name, value in zip(names[2:7], values[2:7], strict=True):  # and back, for a control to run
        assert tables.overrides(name) == f"paradigm=edit 'edit_fraction={value}'"
    assert all(len(n) < 60 and re.fullmatch(r"[A-Za-z0-9_.,=+-]+", n) for n in names), names


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The experiment on kernel densities, small, as the command line runs it: its printed lines and its study."""
    from conftest import imgloop as command

    out = tmp_path_factory.mktemp("sweep")
    done = command("experiment=analytic/kde", "model.replicates=40", "generations=3", "data.n=10", f"out={out}")
    return done, out / "analytic-kde"


@pytest.mark.nightly
def test_an_experiment_runs_all_its_conditions_by_itself_and_compares_them(swept):
    done, study = swept
    assert done.returncode == 0, done.stderr
    conditions = {p.name for p in study.iterdir() if p.is_dir()} - {"shared", "report"}
    assert len(conditions) == 2 and {c.split(",")[0] for c in conditions} == {"replace", "accumulate"}
    frame = pd.read_csv(study / "comparison.csv")
    assert set(frame["condition"]) == conditions and len(frame) == 6
    for column in ("variance", "variance_sem", "variance_theory", "variance_z", "mean_part_median"):
        assert frame[column].notna().all(), column
    picture = np.asarray(Image.open(study / "comparison.png").convert("L"))
    assert picture.shape[1] > 400 and picture.std() > 10 and (picture < 128).mean() > 0.002
    assert all((study / c / "seed0" / "curves.png").stat().st_size > 5000 for c in conditions)
    assert "variance" in done.stdout and "comparison.png" in done.stdout and "accumulate" in done.stdout


@pytest.mark.nightly
def test_a_study_of_tables_is_loaded_as_one_table(swept):
    frame = imgloop.load_study(swept[1])
    assert (
        len(frame) == 6 and set(frame["seed"]) == {0} and list(frame.columns[:3]) == ["condition", "seed", "generation"]
    )


def test_measuring_a_study_of_tables_is_refused(swept, command):
    from imgloop.measure import measure

    before = {p: p.read_bytes() for p in swept[1].rglob("metrics.csv")}
    for path in (swept[1], next(swept[1].glob("*/seed0"))):
        with pytest.raises(UserError, match=r"solvable.*keep no samples.*\.$"):
            measure(path, ["features=pixels"])
    done = command(swept[1], "features=pixels", module="imgloop.measure")
    assert done.returncode == 1 and "Traceback" not in done.stderr and "solvable" in done.stderr
    assert before == {p: p.read_bytes() for p in before}


def test_seeds_of_a_condition_are_pooled_in_the_comparison(tmp_path):
    for seed in (0, 1, 2):
        folder = chain(tmp_path, *STANDARD, "generations=2", f"seed={seed}").folder
    study = folder.parents[1]
    seeds, frame = imgloop.load_study(study), pd.read_csv(study / "comparison.csv")
    assert list(frame["seeds"]) == [3, 3]
    each = seeds[seeds["generation"] == 1]
    last = frame[frame["generation"] == 1].iloc[0]
    assert last["variance"] == pytest.approx(each["variance"].mean(), rel=1e-4)
    assert last["variance_sem"] == pytest.approx(math.sqrt((each["variance_sem"] ** 2).sum()) / 3, rel=1e-4)
    assert last["variance_z"] == pytest.approx(each["variance_z"].sum() / math.sqrt(3), rel=1e-3)


def test_a_pixel_space_gaussian_is_shown_as_images(tmp_path):
    folder = chain(tmp_path, *DIGITS, "paradigm=replace", "generations=2", "model.replicates=3").folder
    assert folder.parts[-3] == "digits-gaussian" and {p.name for p in folder.iterdir()} == FILES | set(
        results.PICTURES.values()
    )
    assert np.asarray(Image.open(folder / "evolution.png").convert("L")).std() > 20
    with Image.open(folder / "evolution.webp") as moving:
        assert moving.n_frames == 2
    assert results.whole(folder)
    (folder / "evolution.webp").write_bytes(b"")
    assert not results.whole(folder)


def test_followed_to_collapse_a_study_of_discrete_laws_draws_its_timescales(tmp_path, drawn):
    for outcomes in (2, 3):
        folder = chain(
            tmp_path, "model=discrete", f"model.outcomes={outcomes}", "data.n=5", "model.replicates=200",
            "generations=200", "paradigm=replace",
        ).folder  # fmt: skip
    frame = pd.read_csv(folder.parents[1] / "timescales.csv")
    assert list(frame["outcomes"]) == [2, 3] and set(frame["draws"]) == {5}
    assert frame["diffusion"].to_numpy() == pytest.approx([10 * math.log(2), -10 * 3 * (2 / 3) * math.log(2 / 3)])
    assert frame["paper"].to_numpy() == pytest.approx(5 * np.log([2, 3]), rel=1e-5)
    assert abs(frame["simulated"][0] - frame["exact"][0]) < 4 * frame["sem"][0]
    assert np.asarray(Image.open(folder.parents[1] / "timescales.png").convert("L")).std() > 10
