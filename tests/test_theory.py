"""Closed forms against plain simulations, a few lines of numpy each, which share no code with the loop.

Simulations run thousands of independent replicates, each with its own subsamples. A closed form passes if it is within
four standard errors of their mean in every generation; z is printed (pytest -s). Deliberately wrong forms must differ
by more than six.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, localcontext
from types import MappingProxyType
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
import pytest
from conftest import thinned
from scipy.optimize import minimize_scalar
from scipy.special import digamma

from imgloop.analytic import theory
from imgloop.analytic.course import Course, edit_windows
from imgloop.analytic.location import weighted_mean_square
from imgloop.errors import UserError

REPLICATES = 6000
FEW = (9, 15, 11, 17, 13, 10)  # rows drawn by generations 0..5; there are 12 real rows
MANY = (15, 12, 19, 14, 17, 13)  # at least as many as R, as editing needs
COURSES = {
    "replace": Course("replace", 12, FEW),
    "real_fraction": Course("replace", 12, FEW, real_fraction=(0, 0.5, 0.3, 0.6, 0.2, 0.4)),
    "accumulate": Course("accumulate", 12, FEW),
    "subsample": Course("accumulate_subsample", 12, FEW),
    "subsample_budget": Course("accumulate_subsample", 12, FEW, budget=(0, 20, 9, 31, 14, 24)),
    "stratified": Course("stratified", 12, FEW),
    "stratified_budget": Course("stratified", 12, FEW, budget=(0, 19, 9, 31, 44, 53)),
    "augment": Course("augment", 12, FEW),
    "augment_some": Course("augment", 12, FEW, n_synthetic=(0, 4, 15, 0, 17, 5)),
    "fresh": Course("fresh", 12, FEW),
    "fresh_some": Course("fresh", 12, FEW, n_real=(0, 4, 0, 9, 3, 6), n_synthetic=(0, 9, 12, 3, 16, 7)),
    "edit": Course("edit", 12, MANY),
    "edit_share": Course("edit", 12, MANY, edit_fraction=(0, 0.3, 0.5, 0.0, 0.9, 0.45)),
    "real_only": Course("real_only", 12, FEW),
}


# Closed forms that must be known

P = ParamSpec("P")
T = TypeVar("T")


class Known(NamedTuple):
    mean_square: np.ndarray
    variance: np.ndarray


def second_moments(course, variance, **settings) -> Known:
    moments = theory.second_moments(course, variance, **settings)
    assert moments.mean_square is not None and moments.variance is not None
    return Known(moments.mean_square, moments.variance)


def known(form: Callable[P, T | None]) -> Callable[P, T]:
    """A closed form whose result is asserted not to be None."""

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        result = form(*args, **kwargs)
        assert result is not None
        return result

    return call


log_variance, standard_deviation = known(theory.log_variance), known(theory.standard_deviation)
wasserstein, mixture_bound = known(theory.wasserstein), known(theory.mixture_bound)
regression, editing = known(theory.regression), known(theory.editing)


# A separate simulation of the loop


def pick(x, n, rng):
    """n rows of (N, R, d) without replacement, independently for each replicate."""
    order = rng.random(x.shape[:2]).argsort(0)[:n]
    return np.take_along_axis(x, order[:, :, None], 0)


def simulate(course, real, generate, rng):
    """Training sets (n_t, R, d) of every generation; real(n) and generate(data, n) return rows (n, R, d)."""
    first = real(course.n_initial)
    data, pools, position = first, [], 0
    for t in range(course.generations):
        if t:
            newest = pools[-1]
            match course.paradigm:
                case "replace":
                    k = round((course.real_fraction or [0] * 99)[t] * len(newest))
                    data = np.concatenate([pick(first, k, rng), pick(newest, len(newest) - k, rng)])
                case "accumulate":
                    data = np.concatenate([first, *pools])
                case "accumulate_subsample":
                    data = pick(np.concatenate([first, *pools]), (course.budget or [len(first)] * 99)[t], rng)
                case "stratified":
                    share = (course.budget or [len(first)] * 99)[t] // (t + 1)
                    data = np.concatenate([pick(pool, share, rng) for pool in (first, *pools)])
                case "augment":
                    k = course.n_synthetic[t] if course.n_synthetic else len(newest)
                    data = np.concatenate([first, pick(newest, k, rng)])
                case "fresh":
                    k = course.n_synthetic[t] if course.n_synthetic else len(newest)
                    n = course.n_real[t] if course.n_real else len(first)
                    data = np.concatenate([real(n), pick(newest, k, rng)])
                case "edit":
                    data = data.copy()
                    for _ in range(int((course.edit_fraction or [0.1] * 99)[t] * len(first) + 1e-9)):
                        data[position] = newest[position]
                        position = (position + 1) % len(first)
        yield data
        pools.append(generate(data, course.drawn[t]))


class Gauss:
    """Two dimensions with variances 1 and 1/4."""

    def __init__(self, bias=1.0, unbiased=False):
        self.settings = {"bias": bias, "unbiased": unbiased}

    variance = 1.25
    mean = 0.0

    def real(self, n, rng):
        return rng.standard_normal((n, REPLICATES, 2)) * [1, 0.5]

    def generate(self, data, n, rng):
        centred = (data - data.mean(0)).swapaxes(0, 1)
        covariance = centred.swapaxes(1, 2) @ centred / (len(data) - self.settings["unbiased"])
        root = np.linalg.cholesky(self.settings["bias"] * covariance)
        return data.mean(0) + np.einsum("rij,nrj->nri", root, rng.standard_normal((n, REPLICATES, 2)))


class GivenReal(Gauss):
    """A Gaussian fit with the same given R in all replicates."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.settings["fixed_real"] = True
        x = np.random.default_rng(5).gamma(1.0, size=(12, 1, 2))
        self.x = x - x.mean(0)
        self.variance = float(self.x.var(0).sum())

    def real(self, n, rng):
        return np.broadcast_to(self.x[:n], (n, REPLICATES, 2))


class Kernel:
    settings = MappingProxyType({"kernel": 2 * 0.4**2})
    variance = 2.0
    mean = 0.0

    def real(self, n, rng):
        return rng.uniform(-(3**0.5), 3**0.5, (n, REPLICATES, 2))

    def generate(self, data, n, rng):
        centres = np.take_along_axis(data, rng.integers(len(data), size=(n, REPLICATES, 1)), 0)
        return centres + 0.4 * rng.standard_normal(centres.shape)


class Rate:
    settings = MappingProxyType({"constant": True})
    variance = mean = 1.7

    def real(self, n, rng):
        return rng.poisson(1.7, (n, REPLICATES, 1))

    def generate(self, data, n, rng):
        return rng.poisson(data.mean(0), (n, REPLICATES, 1))


class Outcomes:
    """Three outcomes, one-hot: the variance is the heterozygosity."""

    settings = MappingProxyType({})
    mean = np.array([0.5, 0.3, 0.2])
    variance = 1 - float((mean**2).sum())

    def real(self, n, rng):
        return self.draw(np.broadcast_to(self.mean, (REPLICATES, 3)), n, rng)

    def generate(self, data, n, rng):
        return self.draw(data.mean(0), n, rng)

    def draw(self, p, n, rng):
        x = (rng.random((n, REPLICATES))[:, :, None] > p.cumsum(1)[:, :2]).sum(2)
        return np.eye(3)[x]


SYSTEMS = {
    "ml": Gauss(),
    "unbiased": Gauss(unbiased=True),
    "ml_bias": Gauss(bias=0.7),
    "unbiased_bias": Gauss(bias=1.2, unbiased=True),
    "given": GivenReal(),
    "given_unbiased": GivenReal(bias=0.9, unbiased=True),
    "kernel": Kernel(),
    "poisson": Rate(),
    "discrete": Outcomes(),
}


def measured(course, system, seed=0):
    """|mu_t - mu_0|² and tr V_t of every replicate, each (G, R)."""
    rng = np.random.default_rng(seed)
    divisor = int(system.settings.get("unbiased", False))
    sets = simulate(course, lambda n: system.real(n, rng), lambda x, n: system.generate(x, n, rng), rng)
    squares, spread = [], []
    for x in sets:
        squares.append(((x.mean(0) - system.mean) ** 2).sum(1))
        spread.append(((x - x.mean(0)) ** 2).sum((0, 2)) / (len(x) - divisor))
    return np.array(squares), np.array(spread)


def z_scores(values, expected):
    """(mean over replicates - expected) in standard errors, (G,); if all replicates agree, 0 for right and inf for
    wrong."""
    gap = (values - (expected if np.ndim(expected) > 1 else np.asarray(expected)[:, None])).mean(1)
    error = values.std(1, ddof=1) / values.shape[1] ** 0.5
    exact = error < 1e-12
    return np.where(exact, np.where(np.abs(gap) < 1e-12, 0, np.inf), gap / np.where(exact, 1, error))


def worst(name, *pairs):
    z = max(float(np.abs(z_scores(values, expected)).max()) for values, expected in pairs)
    print(f"z {z:5.2f}  {name}")
    return z


# Two moments under every rule


@pytest.mark.parametrize("name", thinned(SYSTEMS, 3))
@pytest.mark.parametrize("rule", COURSES)
def test_moments(rule, name):
    course, system = COURSES[rule], SYSTEMS[name]
    if name.startswith("given") and course.paradigm in ("fresh", "edit"):
        assert theory.second_moments(course, system.variance, **system.settings) == (None, None)
        return
    moments = second_moments(course, system.variance, **system.settings)
    assert worst(f"{rule}, {name}", *zip(measured(course, system, len(rule) + 100 * len(name)), moments)) < 4


@pytest.mark.parametrize(
    "rule, name, wrong",
    [
        ("subsample", "kernel", {"mix": lambda m: replace(m, kept=1.0)}),
        ("real_fraction", "ml", {"mix": lambda m: replace(m, kept=1.0)}),
        ("augment", "ml", {"mix": lambda m: replace(m, kept=0.0)}),
        ("edit_share", "ml", {"mix": lambda m: replace(m, kept=0.0)}),
        ("replace", "ml", {"unbiased": True}),
        ("fresh", "unbiased", {"unbiased": False}),
        ("accumulate", "given", {"fixed_real": False}),
        ("subsample", "poisson", {"constant": False}),
        ("accumulate", "kernel", {"kernel": 0.4**2}),
        ("augment", "unbiased_bias", {"bias": 1.0}),
        ("fresh_some", "ml", {"rule": COURSES["augment"]}),
        ("real_fraction", "ml", {"rule": COURSES["replace"]}),
        ("subsample_budget", "discrete", {"rule": COURSES["subsample"]}),
    ],
)
def test_moments_differ_under_a_wrong_rule(rule, name, wrong, monkeypatch):
    system, wrong = SYSTEMS[name], dict(wrong)
    course = wrong.pop("rule", COURSES[rule])
    right, broken = theory.compositions, wrong.pop("mix", lambda mix: mix)
    monkeypatch.setattr(theory, "compositions", lambda c: map(broken, right(c)))
    moments = second_moments(course, system.variance, **{**system.settings, **wrong})
    assert worst(f"{rule}, {name}, broken", *zip(measured(COURSES[rule], system), moments)) > 6


@pytest.mark.parametrize("rule", ["subsample", "subsample_budget", "real_fraction"])
@pytest.mark.parametrize("mistake", ["with_replacement", "first_rows"])
def test_moments_differ_if_rows_are_drawn_wrongly(rule, mistake, monkeypatch):
    def wrong(x, n, rng):
        if mistake == "first_rows":
            return x[:n]
        return np.take_along_axis(x, rng.integers(len(x), size=(n, REPLICATES, 1)), 0)

    monkeypatch.setitem(globals(), "pick", wrong)
    system = SYSTEMS["ml"]
    moments = second_moments(COURSES[rule], system.variance, **system.settings)
    assert worst(f"{rule}, {mistake}, broken", *zip(measured(COURSES[rule], system), moments)) > 6


def test_variance_of_an_unbiased_fit_to_subsamples_grows():
    """It grows as t^(1/n), while that of all rows, and that of maximum likelihood, converges."""
    course = Course("accumulate_subsample", 20, (20,) * 1600)
    variance = second_moments(course, 1.0, unbiased=True).variance
    assert np.log2(variance[-1] / variance[800]) == pytest.approx(1 / 20, rel=0.02)
    converged = (
        second_moments(course, 1.0).variance,
        second_moments(replace(course, paradigm="accumulate"), 1.0).variance,
    )
    assert all(v[-1] / v[800] == pytest.approx(1, abs=1e-3) for v in converged)


# The same moments as short recursions, written out in docs/theory.md


def steps(course, law, bias=1.0, kernel=0.0, unbiased=False):
    """m_t and v_t of mixes of real and newest rows; law(t, n) returns the number of real rows and of those they are
    drawn from."""
    m = v = 0
    for t in range(course.generations):
        synthetic = 0 if t == 0 else (course.n_synthetic or (0, *course.drawn))[t]
        real, source = law(t, synthetic)
        synthetic -= real if course.paradigm == "replace" and t else 0
        n = real + synthetic
        q = m + bias * v + kernel
        squares = real + synthetic * q
        cross = 2 * real * synthetic / source
        m = (squares + synthetic * (synthetic - 1) * m + cross) / n**2
        v = (squares - n * m) / (n - 1 if unbiased else n)
        yield m, v


@pytest.mark.parametrize("settings", [{}, {"unbiased": True, "bias": 0.8}, {"kernel": 0.3}])
def test_recursions_with_real_rows(settings):
    laws = {
        "real_fraction": lambda t, n: (round(COURSES["real_fraction"].at("real_fraction", t, 0) * n) if t else 12, 12),
        "augment": lambda t, n: (12, 12),
        "augment_some": lambda t, n: (12, 12),
        "fresh": lambda t, n: (12, np.inf),
        "fresh_some": lambda t, n: (COURSES["fresh_some"].at("n_real", t, 0) if t else 12, np.inf),
        "replace": lambda t, n: (0 if t else 12, np.inf),
    }
    for rule, law in laws.items():
        expected = np.transpose(list(steps(COURSES[rule], law, **settings)))
        np.testing.assert_allclose(second_moments(COURSES[rule], 1.0, **settings), expected, rtol=1e-12, err_msg=rule)


@pytest.mark.parametrize("rule", ["accumulate", "subsample", "subsample_budget"])
@pytest.mark.parametrize("settings", [{}, {"unbiased": True, "bias": 0.8}, {"kernel": 0.3}])
def test_recursions_of_all_pools(rule, settings):
    """Two numbers suffice: s = E |mean of all rows so far|², and q, their mean E |x|²."""
    course, settings = COURSES[rule], {"bias": 1.0, "kernel": 0.0, "unbiased": False} | settings
    rows, s, q, expected = course.n_initial, 1 / course.n_initial, 1.0, []
    for t, new in enumerate(course.drawn):
        b = rows if rule == "accumulate" or t == 0 else (course.budget or [12] * 99)[t]
        m = s + (1 / b - 1 / rows) * rows / (rows - 1) * (q - s)
        v = (q - m) * b / (b - settings["unbiased"])
        expected.append((m, v))
        spread = settings["bias"] * v + settings["kernel"]
        s = (rows**2 * s + 2 * rows * new * s + new**2 * m + new * spread) / (rows + new) ** 2
        q = (rows * q + new * (m + spread)) / (rows + new)
        rows += new
    np.testing.assert_allclose(second_moments(course, 1.0, **settings), np.transpose(expected), rtol=1e-12)


def test_textbook_forms():
    n, g, scale = 13, 20, 2.5
    k = np.arange(1, g + 1)

    def same(rule, expected, **settings):
        np.testing.assert_allclose(second_moments(Course(rule, n, (n,) * g), scale, **settings), expected, rtol=1e-12)

    variance = scale * (1 - 1 / n) ** k
    same("replace", (scale - variance, variance))
    same("replace", (scale * np.cumsum(1.3 ** (k - 1)) / n, scale * 1.3 ** (k - 1)), bias=1.3, unbiased=True)
    same("replace", (scale * k / n, scale * (1 - 1 / n) * np.ones(g)), constant=True)  # Poisson
    variance = scale * np.cumprod(1 - 1 / (n * k**2))
    same("accumulate", (scale - variance, variance))
    same("real_only", np.outer((scale / n, scale * (1 - 1 / n)), np.ones(g)))
    same("real_only", np.outer((0, scale), np.ones(g)), fixed_real=True)
    for rule in (Course("real_only", n, (n,) * g), Course("replace", n, (n,) * g, real_fraction=(1,) * g)):
        assert not second_moments(rule, scale, fixed_real=True).mean_square.any()  # without rounding error

    h2, kernels = 0.2, [scale * (1 - 1 / n)]
    for t in range(2, g + 1):
        kernels.append(kernels[-1] * (1 - 1 / (n * t**2)) + h2 * (1 / t - 1 / (n * t**2)))
    np.testing.assert_allclose(
        second_moments(Course("accumulate", n, (n,) * g), scale, kernel=h2).variance, kernels, rtol=1e-12
    )
    late = second_moments(Course("replace", n, (n,) * 600), scale, kernel=h2)
    assert late.variance[-1] == pytest.approx((n - 1) * h2)
    assert np.diff(late.mean_square)[-1] == pytest.approx(h2)

    whole = second_moments(Course("edit", n, (n,) * g, edit_fraction=(1,) * g), scale)
    np.testing.assert_allclose(whole, second_moments(Course("replace", n, (n,) * g), scale), rtol=1e-12)
    assert np.ptp(second_moments(Course("edit", n, (n,) * g, edit_fraction=(0,) * g), scale), 1).max() < 1e-15


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("n, bias", thinned([(5, 0.1), (100, 0.1), (5, 1.0), (100, 0.8)], 2))
def test_a_variance_far_below_the_mean_keeps_its_precision(n, bias, unbiased):
    sizes = np.array([n, *np.random.default_rng(n).integers(n, 2 * n, 3000)])
    course = Course("replace", n, tuple(sizes[1:].tolist()))
    logs = np.cumsum(np.log((sizes[:-1] - 1) / (sizes[:-1] - unbiased))) + np.log(bias) * np.arange(3000)
    variance = second_moments(course, 1.0, bias=bias, unbiased=unbiased).variance
    normal = logs > -600  # later ones underflow
    np.testing.assert_allclose(variance[normal], np.exp(logs[normal]), rtol=3e-13 * max(1, -logs[normal][-1]))
    assert (variance >= 0).all()
    equal = second_moments(Course("replace", n, (n,) * 3000), 1.0, bias=bias, unbiased=unbiased).variance
    exact = bias ** np.arange(3000.0) * ((n - 1) / (n - unbiased)) ** np.arange(1.0, 3001)
    np.testing.assert_allclose(equal[normal], exact[normal], rtol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"unbiased": True}, {"bias": 1.2}, {"bias": 0.7, "kernel": 0.1}])
def test_fixed_points(settings):
    g = 400
    for real, newest, source, course in [
        (8, 14, 8, Course("augment", 8, (14,) * g)),
        (8, 14, np.inf, Course("fresh", 12, (14,) * g, n_real=(8,) * g)),
        (6, 14, 16, Course("replace", 16, (20,) * g, real_fraction=(0.3,) * g)),
    ]:
        last = np.array(second_moments(course, 2.0, **settings))[:, -1]
        assert theory.stationary(real, newest, source, 2.0, **settings) == pytest.approx(tuple(last))
    assert theory.stationary(2, 18, np.inf, 1.0, bias=1.2) == (np.inf, np.inf)


def test_limits():
    for n in (1, 5, 400):
        product = np.prod(1 - 1 / (n * np.arange(1, 10**6) ** 2.0))
        assert theory.accumulate_limit(n, 2.0) == pytest.approx(2 * (1 - product), rel=1e-5)
    assert 4000 * theory.accumulate_limit(4000, 1.0) == pytest.approx(np.pi**2 / 6, rel=1e-3)

    n, g = 4000, 300
    subsample = n * second_moments(Course("accumulate_subsample", n, (n,) * g), 1.0).mean_square[-1]
    assert subsample == pytest.approx(np.pi**2 / 2 - 2, rel=6e-3)

    for share in (0.1, 0.25, 1.0):  # m grows by 4 f / (1 + f)² V / n per generation
        edit = Course("edit", n, (n,) * 60, edit_fraction=(share,) * 60)
        slope = n * np.diff(second_moments(edit, 1.0, unbiased=True).mean_square)[-20:].mean()
        assert slope == pytest.approx(4 * share / (1 + share) ** 2, rel=0.01)


# A Gaussian fitted to its own samples


@pytest.mark.parametrize("d, bias, unbiased", [(1, 1.0, False), (1, 0.9, True), (1, 1.3, True), (2, 0.9, False)])
def test_gaussian(d, bias, unbiased):
    course, rng = COURSES["replace"], np.random.default_rng(d)
    scale = np.array([4.0, 0.5])[:d]
    rows, values = (12, *FEW[:-1]), {"log": [], "mean": [], "covariance": [], "sd": []}
    mean, root = np.zeros((REPLICATES, d)), np.tile(np.diag(np.sqrt(scale)), (REPLICATES, 1, 1))
    for n in rows:
        x = mean + np.einsum("rij,nrj->nri", root, rng.standard_normal((n, REPLICATES, d)))
        mean = x.mean(0)
        covariance = np.einsum("nri,nrj->rij", x - mean, x - mean) / (n - unbiased)
        root = np.linalg.cholesky(bias * covariance)
        sd = np.sqrt(covariance[:, 0, 0] / scale[0])
        values["log"].append((np.linalg.slogdet(covariance)[1] - np.log(scale).sum()) / d)
        values["sd"].append(sd)
        values["mean"].append(mean[:, 0] ** 2)
        values["covariance"].append(scale[0] * (sd - 1) ** 2)
    values = {k: np.array(v) for k, v in values.items()}
    pairs = [(values["log"], log_variance(course, d, bias, unbiased))]
    if d == 1:
        pairs.append((values["sd"], standard_deviation(course, bias, unbiased)))
        pairs.extend(zip((values["mean"], values["covariance"]), wasserstein(course, 4.0, bias, unbiased)))
    assert worst(f"gaussian, d={d}, bias={bias}, unbiased={unbiased}", *pairs) < 4
    wrong = log_variance(course, d, bias, not unbiased)
    assert worst("gaussian, wrong divisor", (values["log"], wrong)) > 6


def test_gaussian_textbook_forms():
    n, k = 10, np.arange(1, 31)
    course = Course("replace", n, (n,) * 30)
    log = log_variance(course, 1, unbiased=True)
    np.testing.assert_allclose(log, k * (digamma((n - 1) / 2) - np.log((n - 1) / 2)), rtol=1e-12)
    c4 = 0.97265927  # of ten rows
    mean, covariance = wasserstein(course, 2.0, unbiased=True)
    np.testing.assert_allclose(mean, 2 * k / n, rtol=1e-12)
    np.testing.assert_allclose(covariance, 4 * (1 - c4**k), rtol=1e-6)
    assert theory.log_variance(course, 10) is None  # the covariance is singular
    part = log_variance(Course("replace", 12, (14, 9, 20, 20)), 10)
    assert np.isnan(part).tolist() == [False, False, True, True]  # nor after a singular fit
    assert theory.standard_deviation(Course("augment", 1, (5, 5))) is None
    assert theory.wasserstein(Course("edit", 1, (1,)), 1) is None


@pytest.mark.parametrize("rule", COURSES)
def test_the_fit_to_real_rows_has_the_same_law_under_every_rule(rule):
    """Generation 0 equals that of replace without real data. Later fits equal it under real_only, and are not known
    under other rules."""

    def laws(course):
        yield log_variance(course, 2, 0.8)
        yield standard_deviation(course, 0.8, True)
        yield wasserstein(course, 1.5)[1]
        yield theory.poisson_survival(course, 0.1)
        yield from theory.outcomes(course, [0.5, 0.3, 0.2])

    whole = COURSES[rule].paradigm in ("accumulate", "augment")  # then Poisson's survival is that of R
    for i, (values, plain) in enumerate(zip(laws(COURSES[rule]), laws(COURSES["replace"]))):
        assert values is not None and plain is not None
        assert values.shape == (6,) and values[0] == plain[0] and np.isfinite(plain).all()
        if rule == "real_only" or (i == 3 and whole):
            assert (values == values[0]).all()
        elif rule != "replace":
            assert np.isnan(values[1:]).all()
    mean, _ = wasserstein(COURSES[rule], 1.5)
    np.testing.assert_array_equal(mean, second_moments(COURSES[rule], 1.5).mean_square)


def test_gaussian_is_precise_at_large_n():
    """Against Gamma(k + 1/2) / Gamma(k) from factorials, for odd n, and against two terms of its series."""
    for n in (3, 21, 39, 41, 43, 101, 1001):
        k = (n - 1) // 2  # Gamma(k + 1/2) / Gamma(k) = sqrt(pi) (2k)! / (4^k k! (k - 1)!)
        pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494")
        with localcontext() as context:
            context.prec = 50
            ratio = Decimal(math.factorial(2 * k)) / (4**k * math.factorial(k) * math.factorial(k - 1)) * pi.sqrt()
            for unbiased in (False, True):
                sd = ratio * (Decimal(2) / (n - unbiased)).sqrt()
                for t in range(4):
                    spread = (Decimal(n - 1) / (n - unbiased)) ** (t + 1)
                    exact = float(spread + 1 - 2 * sd ** (t + 1))
                    covariance = wasserstein(Course("replace", n, (n,) * 4), 2.0, unbiased=unbiased)[1][t]
                    assert covariance == pytest.approx(2 * exact, rel=1e-11)
    for n in (10**4, 10**6, 10**8):  # 1/(2n) + 7/(16n²) + ..., for either divisor
        for unbiased in (False, True):
            covariance = wasserstein(Course("replace", n, (n,)), 1.0, unbiased=unbiased)[1][0]
            assert covariance == pytest.approx((1 + 7 / (8 * n)) / (2 * n), rel=5 / n**2 + 1e-14)


# Linear regression


def least_squares(course, d, sigma, design, rng, columns=None):
    """Excess risks (G, R) and the x (R, T, d) of R."""
    beta = np.arange(1, d + 1) / d
    x = rng.standard_normal((course.n_initial, REPLICATES, d)) if columns is None else columns
    noise = lambda n: sigma * rng.standard_normal((n, REPLICATES, 1))  # noqa: E731

    def generate(data, n):
        w = fit(data)
        z = x if design == "fixed" else rng.standard_normal((n, REPLICATES, d))
        return np.concatenate([z, (z * w).sum(2, keepdims=True) + noise(n)], 2)

    def fit(data):
        a, b = data[:, :, :-1].swapaxes(0, 1), data[:, :, -1:].swapaxes(0, 1)
        return np.linalg.solve(a.swapaxes(1, 2) @ a, a.swapaxes(1, 2) @ b)[..., 0]

    def real(n):
        return np.concatenate([x, (x @ beta)[:, :, None] + noise(n)], 2)

    excess = [((fit(data) - beta) ** 2).sum(1) for data in simulate(course, real, generate, rng)]
    return np.array(excess), x.swapaxes(0, 1)


def gram(x):
    return np.trace(np.linalg.inv(x.swapaxes(1, 2) @ x), axis1=1, axis2=2)


EQUAL = Course("replace", 20, (20,) * 6)
UNEQUAL = Course("replace", 20, (17, 31, 22, 18, 27, 20))


@pytest.mark.parametrize("rule", ["replace", "accumulate", "augment", "real_only"])
def test_regression_fixed_design(rule):
    course = replace(EQUAL, paradigm=rule)
    excess, x = least_squares(course, 3, 0.7, "fixed", np.random.default_rng(len(rule)))
    expected, given = regression(course, 3, 0.7), regression(course, 3, 0.7, gram=gram(x))
    assert expected.shape == (6,) and given.shape == excess.shape == (6, REPLICATES)
    assert worst(f"regression, fixed, {rule}", (excess, expected), (excess - given, np.zeros(6))) < 4
    assert worst(f"regression, fixed, {rule}, d + 1", (excess, regression(course, 4, 0.7))) > 6


def test_regression_fixed_design_with_smaller_pools():
    course, rng = Course("replace", 20, (17, 13, 20, 15, 18, 11)), np.random.default_rng(8)
    real, w, excess = rng.standard_normal((REPLICATES, 20, 3)), np.zeros((REPLICATES, 3)), []
    for n in (20, *course.drawn[:-1]):
        x = real[:, :n]
        y = x @ w[:, :, None] + 0.7 * rng.standard_normal((REPLICATES, n, 1))
        w = np.linalg.solve(x.swapaxes(1, 2) @ x, x.swapaxes(1, 2) @ y)[..., 0]
        excess.append((w**2).sum(1))
    excess = np.array(excess)
    assert worst("regression, parts of a fixed design", (excess, regression(course, 3, 0.7))) < 4
    assert worst("the same, whole design", (excess, regression(EQUAL, 3, 0.7))) > 6


@pytest.mark.parametrize("rule", ["replace", "accumulate", "real_only"])
def test_regression_resampled_design(rule):
    for course in (EQUAL, UNEQUAL):
        course = replace(course, paradigm=rule)
        excess, _ = least_squares(course, 3, 0.7, "resampled", np.random.default_rng(len(rule)))
        expected = regression(course, 3, 0.7, "resampled")
        assert worst(f"regression, resampled, {rule}", (excess, expected)) < 4
        if rule != "real_only":
            fixed = regression(replace(EQUAL, paradigm=rule), 3, 0.9)
            assert worst(f"regression, resampled, {rule}, noise 0.9", (excess, fixed)) > 6


def test_regression_textbook_forms():
    i, rows, d = np.arange(1, 7), 20, 3
    resampled = regression(replace(EQUAL, paradigm="accumulate"), d, 1.0, "resampled")
    np.testing.assert_allclose(resampled, d * np.cumsum(1 / (i * (i * rows - d - 1))), rtol=1e-12)
    np.testing.assert_allclose(regression(EQUAL, d, 2.0), 4 * d * i / (rows - d - 1), rtol=1e-12)
    whole = replace(EQUAL, paradigm="augment")
    written = regression(replace(whole, n_synthetic=(0, *EQUAL.drawn[:-1])), d, 1.0)
    np.testing.assert_array_equal(written, regression(whole, d, 1.0))
    assert theory.regression(UNEQUAL, d, 1.0, gram=np.ones(2)) is None  # its fits see parts of R
    for course in (
        replace(UNEQUAL, paradigm="accumulate"),
        replace(EQUAL, real_fraction=(0.5,) * 6),
        replace(EQUAL, paradigm="augment", n_synthetic=(5,) * 6),
        replace(EQUAL, paradigm="fresh"),
        replace(EQUAL, paradigm="edit"),
    ):
        assert theory.regression(course, d, 1.0) is None
    assert theory.editing(EQUAL, np.zeros((1, 20, 3)), 1.0) is None


def test_editing():
    constant = Course("edit", 20, (20,) * 12, edit_fraction=(0.3,) * 12)
    shrinking = replace(constant, edit_fraction=tuple(0.8 * 0.6**t for t in range(12)))
    for course in (constant, shrinking):
        excess, x = least_squares(course, 3, 0.7, "fixed", np.random.default_rng(3))
        expected = editing(course, x, 0.7)
        assert worst("editing", (excess - expected, np.zeros(12)), (excess, expected.mean(1))) < 4
        other = editing(replace(course, edit_fraction=(0.5,) * 12), x, 0.7)
        assert worst("editing, half", (excess - other, np.zeros(12))) > 6
    whole = editing(replace(constant, edit_fraction=(1.0,) * 12), x, 0.7)
    np.testing.assert_allclose(whole, regression(replace(constant, paradigm="replace"), 3, 0.7, gram=gram(x)))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_risk_under_a_constant_edited_share_grows_like_that_of_a_mean(share):
    """It grows by 4 f / (1 + f)² of the first risk per generation if the edited rows are many more than the columns."""
    x = np.random.default_rng(7).standard_normal((20, 400, 1))
    risk = editing(Course("edit", 400, (400,) * 41, edit_fraction=(share,) * 41), x, 1.0).mean(1)
    assert (risk[-1] - risk[-21]) / 20 / risk[0] == pytest.approx(4 * share / (1 + share) ** 2, rel=0.03)


def test_edit_windows_wrap_around():
    windows = edit_windows(Course("edit", 10, (10,) * 5, edit_fraction=(0, 0.4, 0.3, 0.0, 0.5)))
    assert [w.tolist() for w in windows] == [[], [0, 1, 2, 3], [4, 5, 6], [], [7, 8, 9, 0, 1]]
    assert [len(w) for w in edit_windows(Course("edit", 10, (10,) * 3))] == [0, 1, 1]


# Discrete distributions


@pytest.mark.parametrize("draws, time", [(10, 12.59), (50, 67.52), (200, 275.0), (1000, 1383.5)])
def test_collapse_time(draws, time):
    assert theory.collapse_time(draws, [0.5, 0.5]) == pytest.approx(time, abs=0.051 if draws > 50 else 0.0051)
    assert theory.collapse_time_diffusion(draws, [0.5, 0.5]) == pytest.approx(2 * draws * np.log(2))
    assert theory.collapse_time_paper(draws, [0.5, 0.5]) == pytest.approx(draws * np.log(2))


def test_collapse_time_agrees_with_its_law():
    """The expected time is the sum over t of the probability not to have collapsed, also for p that are no multiples of
    1 / D."""
    for draws, p in ((1, [0.3, 0.7]), (7, [0.31, 0.69]), (12, [0.5, 0.5]), (9, [0.45, 0.25, 0, 0.2, 0.1])):
        course = Course("replace", draws, (draws,) * 500)
        collapsed = theory.outcomes(course, p).collapsed
        assert collapsed is not None
        later = (1 - collapsed).sum()
        assert theory.collapse_time(draws, p) == pytest.approx(1 + later)
    many = np.full(500, 1 / 500)
    assert theory.collapse_time(20, many) == pytest.approx(38.23, abs=0.006)
    assert theory.collapse_time(100, many) == pytest.approx(197.54, abs=0.006)
    assert theory.collapse_time_diffusion(100, many) == pytest.approx(199.8, abs=0.05)
    assert theory.collapse_time_paper(100, many) == pytest.approx(621.5, abs=0.05)


@pytest.mark.parametrize("draws, time", [(5, 8.70), (20, 38.23)])
def test_collapse_time_of_many_outcomes(draws, time):
    """Against a simulation that resamples rows."""
    rng, outcomes = np.random.default_rng(draws), 500
    rows, times = rng.integers(outcomes, size=(4000, draws)), np.ones(4000)
    while (alive := np.ptp(rows, 1) > 0).any():
        times += alive
        rows = np.take_along_axis(rows, rng.integers(draws, size=rows.shape), 1)
    exact = theory.collapse_time(draws, np.full(outcomes, 1 / outcomes))
    assert exact == pytest.approx(time, abs=0.006)
    assert worst(f"collapse time, {draws} draws", (times[None], np.array([exact]))) < 4
    diffusion = theory.collapse_time_diffusion(draws, np.full(outcomes, 1 / outcomes))
    assert worst("diffusion limit", (times[None], np.array([diffusion]))) > 4


@pytest.mark.parametrize("law", [[0.37, 0, 0.63], [0.3, 0.3, 0.2, 0.1, 0.1]])
def test_outcomes_left(law):
    course, rng = Course("replace", 9, (6, 6, 6, 11, 4, 9, 7)), np.random.default_rng(2)
    law, values = np.array(law), []
    p = np.broadcast_to(law, (20 * REPLICATES, len(law)))
    for n in (9, 6, 6, 6, 11, 4, 9):
        p = rng.multinomial(n, p) / n
        logs = np.log(p, where=p > 0, out=np.zeros(p.shape))
        values.append((p.max(1) == 1, (p > 0).sum(1), (p * logs).sum(1) / (law * np.log(np.where(law, law, 1))).sum()))
    values = np.array(values, float).swapaxes(0, 1)
    exact, even = theory.outcomes(course, law), theory.outcomes(course, [0.5, 0.5])
    assert exact.collapsed is not None and exact.survivors is not None
    assert worst(f"outcomes left of {len(law)}", *zip(values, exact)) < 4
    assert all(worst("outcomes left, one half each", pair) > 6 for pair in zip(values, even))
    if len(law) == 3:
        assert (1 - values[0].mean(1) <= theory.bernoulli_bound(course, 0.37)).all()
        np.testing.assert_allclose(exact.survivors, 2 - exact.collapsed, rtol=1e-12)
    assert theory.outcomes(Course("replace", 9, (2001, 9)), law) == (None, None, None)
    entropy = theory.outcomes(Course("replace", 9, (9, 2001)), law).entropy
    assert entropy is not None and entropy.shape == (2,)


# Other fits


def test_poisson_survival():
    course, rng = Course("replace", 4, (7, 3, 5, 5, 8, 5)), np.random.default_rng(3)
    rate, alive = np.full(20 * REPLICATES, 0.6), []
    for n in (4, 7, 3, 5, 5, 8):
        rate = rng.poisson(n * rate) / n
        alive.append(rate > 0)
    alive = np.array(alive, float)
    assert worst("poisson survival", (alive, theory.poisson_survival(course, 0.6))) < 4
    assert worst("poisson survival, equal n", (alive, theory.poisson_survival(Course("replace", 4, (4,) * 6), 0.6))) > 6
    g = 1.0
    for survival in theory.poisson_survival(Course("replace", 5, (5,) * 9), 0.6):
        assert survival == pytest.approx(1 - np.exp(-5 * 0.6 * g))
        g = 1 - np.exp(-g)


@pytest.mark.parametrize("rule", ["accumulate", "augment", "augment_some", "real_only"])
def test_poisson_survives_where_the_real_rows_stay(rule):
    system, rng = Rate(), np.random.default_rng(9)
    draw = lambda n: rng.poisson(0.05, (n, REPLICATES, 1))  # noqa: E731
    sets = simulate(COURSES[rule], draw, lambda x, n: system.generate(x, n, rng), rng)
    alive = np.array([x.any((0, 2)) for x in sets], float)
    assert (alive == alive[0]).all()
    expected = theory.poisson_survival(COURSES[rule], 0.05)
    assert expected.tolist() == [pytest.approx(1 - np.exp(-12 * 0.05))] * 6
    assert worst(f"poisson survival, {rule}", (alive, expected)) < 4


@pytest.mark.parametrize("separation", [0.0, 1.0, 4.0])
def test_mixture_bound(separation):
    """It also holds for overlapping components; at separation 0 the fit is a Gaussian fit of |x|."""
    rows, rng = [6, 9, 5, 7] * 6, np.random.default_rng(4)
    course = Course("replace", rows[0], (*rows[1:], 1))
    centre, sd, shares = np.full(REPLICATES, separation), np.ones(REPLICATES), []
    for n in rows:
        x = np.abs(centre + sd * rng.standard_normal((n, REPLICATES)))
        centre, sd = x.mean(0), x.std(0)
        shares.append((sd >= 0.6).mean())
    bound = mixture_bound(1.0, 0.6, course)
    assert (np.array(shares) <= bound).all() and bound[0] == 1 and bound[-1] < 1
    assert theory.mixture_bound(1.0, 0.3, COURSES["accumulate"]) is None


def test_mixture_bound_of_the_unbiased_gaussian():
    for n in (2, 3, 5, 30):
        course = Course("replace", n, (n,) * 200)
        mean = standard_deviation(course, unbiased=True)  # the bound is Markov's inequality for it
        assert (np.minimum(1, mean / 0.3) <= mixture_bound(1.0, 0.3, course)).all()


@pytest.mark.parametrize("rule", COURSES)
def test_bernoulli_bound(rule):
    class Coin(Outcomes):
        mean = np.array([0.1, 0.9, 0.0])

    course, system, rng = COURSES[rule], Coin(), np.random.default_rng(6)
    sets = simulate(course, lambda n: system.real(n, rng), lambda x, n: system.generate(x, n, rng), rng)
    alive = np.array([(x[:, :, 0].mean(0) * x[:, :, 1].mean(0) > 0).mean() for x in sets])
    assert (alive <= theory.bernoulli_bound(course, 0.1) + 1e-12).all()


# Sizes without a closed form raise one sentence


@pytest.mark.parametrize(
    "wrong, named",
    [
        (
            lambda: theory.second_moments(Course("replace", 1, (5, 5)), 1.0, unbiased=True),
            "Generation 0 is fitted to one row",
        ),
        (lambda: theory.second_moments(Course("augment", 9, (5, 5), n_synthetic=(0, 6)), 1.0), "newest pool 5"),
        (lambda: theory.second_moments(Course("replace", 4, (9, 9), real_fraction=(0, 0.6)), 1.0), "n_initial=4"),
        (lambda: theory.second_moments(Course("accumulate_subsample", 4, (3, 3), budget=(0, 8)), 1.0), "Generation 1"),
        (lambda: theory.second_moments(Course("edit", 9, (5, 5), edit_fraction=(0, 1)), 1.0), "paradigm=edit"),
        (
            lambda: theory.second_moments(Course("fresh", 9, (5, 5), n_real=(0, 0), n_synthetic=(0, 0)), 1.0),
            "or for none",
        ),
        (lambda: theory.second_moments(Course("mystery", 9, (5, 5)), 1.0), "paradigm=mystery"),
        (lambda: theory.regression(Course("replace", 6, (6, 6)), 5, 1.0), "5 coefficients to 6 rows"),
        (lambda: theory.regression(Course("replace", 9, (6, 9)), 5, 1.0, "resampled"), r"more than 6 \(T > d \+ 1\)"),
        (lambda: theory.collapse_time(0, [0.5, 0.5]), "draws of at least 1"),
        (lambda: theory.collapse_time(2001, [0.5, 0.5]), "at most 2000 draws"),
        (lambda: theory.collapse_time(10, [0.5, 0.6]), "a sum of 1.1"),
        (lambda: theory.collapse_time_diffusion(0, [0.5, 0.5]), "draws of at least 1"),
        (lambda: theory.collapse_time_paper(5, [0.5, 0.6]), "a sum of 1.1"),
    ],
)
def test_wrong_sizes(wrong, named):
    with pytest.raises(UserError, match=named) as error:
        wrong()
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


# A Gaussian mean of weighted real rows


@pytest.mark.parametrize(
    "paradigm, generation, best", [("fresh", 1, 2 / 3), ("fresh", 60, (5**0.5 - 1) / 2), ("augment", 60, 1.0)]
)
def test_the_best_weight_of_real_rows(paradigm, generation, best):
    """The share of the weight on n real rows beside n synthetic ones that minimises the risk: 2/3 in the first refit and
    .618 in the long run for new real rows, all of it for the same ones."""

    def risk(share):
        weight = (share / (1 - share),) * (generation + 1)
        square = weighted_mean_square(Course(paradigm, 20, (20,) * (generation + 1), real_weight=weight))
        assert square is not None
        return square[generation]

    found = minimize_scalar(risk, bounds=(0.01, 1 - 1e-6), method="bounded", options={"xatol": 1e-7}).x
    assert found == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("course", [c for c in COURSES.values() if c.paradigm in ("augment", "fresh", "replace")])
def test_weights_of_1_are_no_weights(course):
    plain, weighted = (
        weighted_mean_square(replace(course, real_weight=w)) for w in (None, (1.0,) * course.generations)
    )
    assert plain == pytest.approx(weighted, rel=1e-9)
