"""The metric functions against closed forms, brute force in float64, simulation, prdc and torch-fidelity."""

import warnings

import numpy as np
import pytest
import table
import torch
from conftest import thinned
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import beta, binom

from imgloop.errors import UserError
from imgloop.metrics import frechet, neighbours
from imgloop.metrics.frechet import Moments, RealMoments, frechet_distance, frechet_from_moments, frechet_infinity
from imgloop.metrics.kernel import kernel_distance, polynomial_mmd2
from imgloop.metrics.manifold import RealManifold, expected_coverage, manifold_scores, nearest_distances
from imgloop.metrics.modes import class_counts, mode_coverage, per_class_shares
from imgloop.metrics.streaming import FrechetDistance
from imgloop.metrics.variance import effective_rank, variance_ratio, within_class_variance_ratio
from imgloop.metrics.vendi import vendi_score


def normal(seed, n, d, scale: float | np.ndarray = 1.0, shift=0.0, dtype: type[np.floating] = np.float64):
    return (np.random.default_rng(seed).normal(size=(n, d)) * scale + shift).astype(dtype)


def orthogonal(seed, d):
    return np.linalg.qr(normal(seed, d, d))[0]


# Frechet distance


def test_shifted_unit_gaussians_are_2048_apart():
    d = 2048
    assert frechet_from_moments(np.zeros(d), np.eye(d), np.ones(d), np.eye(d)) == pytest.approx(2048, abs=1e-9)


@pytest.mark.parametrize("n, m, d", [(300, 200, 20), (100, 90, 64), (70, 500, 64)])
def test_frechet_equals_torch_fidelity(n, m, d):
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    x, y = normal(0, n, d, np.arange(1, d + 1) ** -0.5), normal(1, m, d, shift=0.3) @ normal(2, d, d)
    theirs = fid.fid_statistics_to_metric(*(fid.fid_features_to_statistics(torch.from_numpy(z)) for z in (x, y)), False)
    assert frechet_distance(x, y) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)


@given(st.integers(1, 12), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_frechet_of_commuting_covariances_singular_ones_included(d, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.exponential(size=d) * (rng.random(d) < 0.6) for _ in range(2))
    mean, q = rng.normal(size=d), orthogonal(seed, d)
    exact = mean @ mean + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    got = frechet_from_moments(mean, q * a @ q.T, np.zeros(d), q * b @ q.T)
    assert got == pytest.approx(exact, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("n, m", [(400, 300), (400, 12), (12, 400), (12, 15), (400, 33), (400, 32)])
def test_every_branch_agrees_on_samples(n, m):
    x, y = normal(3, n, 32), normal(4, m, 32, 1.5, 0.2)
    by_moments = frechet_from_moments(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    assert frechet_distance(x, y) == pytest.approx(by_moments, rel=1e-6)
    assert frechet_distance(y, x) == pytest.approx(frechet_distance(x, y), rel=1e-9)


@pytest.mark.parametrize("rank", [1, 5, 31])
def test_frechet_of_singular_features_is_exact(rank):
    # square roots of eigenvalues at rounding level would add 1e-8 each
    x, y = normal(5, 200, rank), normal(6, 300, rank, 0.5, 1.0)
    q = orthogonal(7, 32)[:rank]
    assert frechet_distance(x @ q, y @ q) == pytest.approx(frechet_distance(x, y), rel=1e-11)


def test_a_large_null_space_adds_nothing():
    d = 300  # the square roots of 298 zero eigenvalues would add 1e-6
    x, y = np.zeros((400, d)), np.zeros((400, d))
    x[:, :2], y[:, :2] = normal(0, 400, 2), normal(1, 400, 2, 2)
    q = orthogonal(0, d)
    assert frechet_distance(x @ q, y @ q) == pytest.approx(frechet_distance(x[:, :2], y[:, :2]), rel=1e-11)


def test_frechet_of_a_generator_of_one_image():
    x = normal(0, 500, 8)
    constant = np.tile(x[0], (100, 1))
    expected = np.square(x.mean(0) - x[0]).sum() + np.trace(np.cov(x.T))
    assert frechet_distance(x, constant) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [10, 500])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_frechet_is_zero_on_itself(n, dtype):
    x = normal(8, n, 24, 3.0, 100.0, dtype)
    assert 0 <= frechet_distance(x, x) < 1e-9 * np.square(x).sum(1).mean()


@given(st.integers(0, 10**6), st.floats(-1e3, 1e3), st.integers(3, 40))
@settings(max_examples=25, deadline=None)
def test_frechet_is_invariant_to_rotation_shift_and_order(seed, shift, n):
    x, y, q = normal(seed, n, 12), normal(seed + 1, 30, 12, 1.3, 0.5), orthogonal(seed, 12)
    before = frechet_distance(x, y)
    order = np.random.default_rng(seed).permutation(n)
    assert frechet_distance(x[order], y[::-1]) == pytest.approx(before, rel=1e-9)
    assert frechet_distance(x @ q + shift, y @ q + shift) == pytest.approx(before, rel=1e-7)
    assert frechet_distance(3 * x, 3 * y) == pytest.approx(9 * before, rel=1e-9)


def test_frechet_in_blocks_and_with_large_offset(monkeypatch):
    x, y = normal(0, 400, 16), normal(1, 500, 16, 1.2)
    whole = frechet_distance(x, y)
    assert frechet_distance(x + 1e6, y + 1e6) == pytest.approx(whole, rel=1e-8)
    monkeypatch.setattr(frechet, "ROWS", 37)
    assert frechet_distance(x, y) == pytest.approx(whole, rel=1e-12)


def test_cached_moments_give_the_same_number(tmp_path):
    from imgloop import store

    x, y = normal(0, 100, 10, dtype=np.float32), normal(1, 100, 10, 2, dtype=np.float32)
    store.write_arrays(tmp_path / "real.safetensors", RealMoments.of(x).to_arrays())
    moments = RealMoments.from_arrays(store.open_arrays(tmp_path / "real.safetensors"))
    assert frechet_distance(moments, y) == frechet_distance(x, y) == frechet_distance(torch.from_numpy(x), y)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 10**6), st.floats(-1e4, 1e4))
@settings(max_examples=30, deadline=None)
def test_streamed_moments_equal_those_of_the_whole(sizes, seed, offset):
    x, y = normal(seed, sum(sizes) + 2, 7) + offset, normal(seed + 1, 60, 7, 1.3, 0.2) + offset
    parts = np.split(x, np.cumsum(sizes))
    one, two = Moments(), Moments()
    for part in filter(len, parts):
        one.update(part)
        two.merge(Moments.from_arrays(Moments().update(part).to_arrays()))
    for moments in (one, two):
        assert moments.n == len(x)
        np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-12, atol=1e-11)
        np.testing.assert_allclose(moments.covariance, np.cov(x.T), rtol=1e-7, atol=1e-7 * np.cov(x.T).max())
        assert frechet_distance(y, moments) == pytest.approx(frechet_distance(y, x), rel=1e-6, abs=1e-7)
        assert frechet_distance(moments, y) == pytest.approx(frechet_distance(x, y), rel=1e-6, abs=1e-7)


def test_moments_that_do_not_fit_raise():
    with pytest.raises(UserError, match="at least 2"):
        frechet_distance(normal(0, 9, 3), Moments().update(normal(1, 1, 3)))
    with pytest.raises(UserError, match="4 wide"):
        Moments().update(normal(0, 5, 3)).update(normal(0, 5, 4))
    with pytest.raises(UserError, match="merged"):
        Moments().update(normal(0, 5, 3)).merge(Moments().update(normal(0, 5, 4)))
    with pytest.raises(UserError, match="4 wide"):
        frechet_distance(normal(0, 9, 3), Moments().update(normal(0, 5, 4)))


def test_memory_of_streaming_does_not_grow():
    import tracemalloc

    moments, peaks = Moments(), []
    tracemalloc.start()
    for batch in range(12):
        moments.update(normal(batch, 200, 64))
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert peaks[-1] < 1.05 * peaks[2]


@pytest.mark.parametrize("processes", [1, 3])
def test_torchmetrics_equal_the_functions(processes):
    from imgloop.metrics.streaming import FrechetDistance, VarianceRatio

    x, y = normal(0, 90, 6), normal(1, 60, 6, 1.4, 0.3)
    for metric, function in ((FrechetDistance, frechet_distance), (VarianceRatio, variance_ratio)):
        ranks = [metric(6) for _ in range(processes)]
        for i, rank in enumerate(ranks):
            for side, real in ((x, True), (y, False)):
                for batch in np.array_split(np.array_split(side, processes)[i], 2):
                    rank.update(torch.from_numpy(batch), real=real)
        whole = ranks[0]
        if processes > 1:  # torchmetrics stacks states without a reduction
            for name in whole._defaults:
                setattr(whole, name, torch.stack([getattr(rank, name) for rank in ranks]))
        assert float(whole.compute()) == pytest.approx(function(x, y), rel=1e-9)
    metric = FrechetDistance(6, features=lambda images: images.flatten(1)).half()
    metric.update(torch.from_numpy(x.reshape(90, 1, 2, 3)), real=True)
    metric.update(torch.from_numpy(y.reshape(60, 1, 2, 3)), real=False)
    assert float(metric.compute()) == pytest.approx(frechet_distance(x, y), rel=1e-9)
    metric.reset()
    with pytest.raises(UserError, match="has 0 real samples"):
        metric.compute()
    with pytest.raises(UserError, match="width"):
        FrechetDistance(5).update(torch.from_numpy(x), real=True)


def test_a_call_of_a_torchmetric_raises_and_keeps_its_state():
    metric, x = FrechetDistance(6), torch.from_numpy(normal(0, 90, 6))
    metric.update(x, real=True)
    with pytest.raises(UserError, match="one batch"):
        metric(x, real=False)
    metric.update(x + 1, real=False)
    assert float(metric.compute()) == pytest.approx(6)


def test_moments_without_samples_or_of_other_width_raise():
    with pytest.raises(UserError, match="3 wide"):
        Moments().update(normal(0, 9, 6)).update(normal(0, 9, 3))
    with pytest.raises(UserError, match="no samples yet"):
        Moments().to_arrays()


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_frechet_infinity_has_no_bias_of_the_number_of_samples(shift):
    """Against the true law: the plain distance is too large by about D (D + 1) / 2 / (2 M), the intercept is not."""
    true = RealMoments(10**9, torch.zeros(16).double(), 16.0, torch.eye(16).double())
    sets = [normal(s, 600, 16, shift=shift) for s in range(20)]
    plain, infinity = (
        np.array([f(true, y) for y in sets]) - 16 * shift**2 for f in (frechet_distance, frechet_infinity)
    )
    assert abs(infinity.mean()) < 4 * infinity.std(ddof=1) / 20**0.5 + 0.01 < plain.mean()
    assert frechet_infinity(true, sets[0]) == frechet_infinity(true, sets[0])
    with pytest.raises(UserError, match="at least 20"):
        frechet_infinity(true, sets[0][:19])


@pytest.mark.parametrize("n, m, d", [(300, 40, 64), (30, 40, 64), (40, 30, 64), (300, 2, 64), (3, 2, 64)])
def test_frechet_of_few_samples(n, m, d):
    """The fast branch against the singular values of both centred sets, which avoid squaring."""
    x, y = normal(0, n, d, np.arange(1, d + 1) ** -1.0), normal(1, m, d, shift=0.1)
    cx, cy = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
    cross = np.linalg.svd(cx @ cy.T, compute_uv=False).sum()
    exact = np.square(x.mean(0) - y.mean(0)).sum() + np.square(cx).sum() + np.square(cy).sum() - 2 * cross
    assert frechet_distance(x, y) == pytest.approx(exact, rel=1e-9)


def test_invalid_covariances_raise():
    with pytest.raises(UserError, match="negative eigenvalue"):
        frechet_from_moments(np.zeros(2), np.diag([1.0, -1.0]), np.zeros(2), np.eye(2))
    with pytest.raises(UserError, match="symmetric"):
        frechet_from_moments(np.zeros(2), np.eye(2), np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(UserError, match="shapes"):
        frechet_from_moments(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))


# Kernel distance


def test_kernel_distance_equals_torch_fidelity():
    kid = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = normal(0, 80, 32), normal(1, 80, 32, 1.2, 0.1)
    options = dict(kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1)
    kernels = [kid.kernel_poly(a, b, **options) for a, b in [(x, x), (x, y), (y, y)]]
    assert polynomial_mmd2(x, y) == pytest.approx(kid.mmd2(*kernels), rel=1e-6)


def test_mmd_equals_the_double_sum():
    x, y = normal(0, 7, 3), normal(1, 5, 3)

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    within = [np.mean([k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]) for z in (x, y)]
    assert polynomial_mmd2(x, y) == pytest.approx(sum(within) - 2 * np.mean([k(a, b) for a in x for b in y]), rel=1e-12)


def test_kernel_distance_subsets_are_seeded_and_unbiased():
    x, y = normal(0, 60, 4, dtype=np.float32), normal(1, 50, 4, 1.5, dtype=np.float32)
    a = kernel_distance(x, y, subsets=10)
    assert a == kernel_distance(torch.from_numpy(x), y, subsets=10) and (a.subset_size, a.subsets) == (25, 10)
    assert a.value != kernel_distance(x, y, subsets=10, seed=1).value
    rngs = [np.random.default_rng([0, s]) for s in range(10)]
    values = [polynomial_mmd2(*(z[rng.choice(len(z), 25, replace=False)] for z in (x, y))) for rng in rngs]
    assert a.sem == pytest.approx(np.std(values, ddof=1) * np.sqrt(1 / (50 / 25 - 1) + 1 / 10), rel=1e-9)
    many = kernel_distance(x, y, subsets=400)  # the mean over subsets estimates the statistic of the whole sets
    assert abs(many.value - polynomial_mmd2(x, y)) < 4 * many.sem / np.sqrt(400)
    for size in (1, 26):
        with pytest.raises(UserError, match="subset_size"):
            kernel_distance(x, y, subset_size=size)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "shift, sizes, low, high",
    thinned([(0.0, (100, 100), 1.2, 3.0), (0.5, (100, 100), 0.85, 1.3), (0.5, (100, 400), 0.85, 2.0)], 2),
)
def test_kernel_standard_error_covers(shift, sizes, low, high):
    """sem over the true standard deviation of the value: about 1.7 for equal distributions, else about 1."""
    got = [
        kernel_distance(normal(2 * s, sizes[0], 8), normal(2 * s + 1, sizes[1], 8, shift=shift), subsets=25)
        for s in range(150)
    ]
    values, sems = np.array([g.value for g in got]), np.array([g.sem for g in got])
    truth = values.mean() if shift else 0.0
    assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(150)
    assert low < np.sqrt(np.square(sems).mean()) / values.std() < high
    assert np.mean(abs(values - truth) < 2 * sems) > 0.91  # nominal .954


# Manifold scores


def brute(x, y, k=5, k_precision=None):
    """The four scores by definition, from float64 differences."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def squares(a, b):
        return np.array([np.square(b - row).sum(1) for row in a])

    def radii(a, k):
        own = squares(a, a)
        np.fill_diagonal(own, np.inf)
        return np.sort(own, 1)[:, k - 1]

    d, kp = squares(x, y), k_precision or k
    within = d < radii(x, k)[:, None]
    if k_precision is None:
        in_real, in_generated = within, d < radii(y, kp)
    else:
        in_real, in_generated = d <= radii(x, kp)[:, None], d <= radii(y, kp)
    return in_real.any(0).mean(), in_generated.any(1).mean(), within.sum() / (k * len(y)), within.any(1).mean()


def scores(*args, **kwargs):
    result = manifold_scores(*args, **kwargs)
    return result.precision, result.recall, result.density, result.coverage


def test_reference_values():
    rng = np.random.RandomState(0)
    real, generated = rng.randn(2000, 64), rng.randn(2000, 64)
    assert scores(real, generated) == pytest.approx((0.7095, 0.7175, 0.9470, 0.9705), abs=1e-9)


@pytest.mark.parametrize("n, m, d, k", [(200, 300, 8, 5), (300, 100, 64, 3), (50, 50, 2, 1), (30, 200, 1, 10)])
def test_manifold_equals_prdc(n, m, d, k):
    prdc = pytest.importorskip("prdc")
    x, y = normal(0, n, d), normal(1, m, d, 0.9, 0.2)
    theirs = prdc.compute_prdc(x, y, k)
    names = "precision recall density coverage".split()
    assert scores(x, y, k) == pytest.approx([theirs[name] for name in names], abs=1e-6)


def hard_sets():
    lattice = np.random.default_rng(0).integers(0, 3, (2, 120, 4)).astype(float)
    x, y = normal(0, 150, 16, dtype=np.float32), normal(1, 130, 16, dtype=np.float32)
    copies = np.concatenate([x[:60], y[:40], np.tile(x[3], (20, 1)), np.tile(y[3], (20, 1))])
    far = 3e4 + np.concatenate([1e-2 * y[:50], x[:50]])
    pixels = np.random.default_rng(1).integers(0, 256, (2, 90, 64), dtype=np.uint8)
    outlier, heavy = x.astype(float), normal(2, 280, 16) ** 3 / normal(3, 280, 16) ** 3
    outlier[0] *= 1e10
    return {
        "plain": (x, y),
        "offset": (x + np.float32(1000), y + np.float32(1000)),
        "lattice (ties)": tuple(lattice),
        "copies of real": (x, copies),
        "duplicates in both": (np.repeat(x, 8, 0)[:160], copies),
        "collapsed": (x, y * 1e-5 + x[0]),
        "tight modes": (x, y * 1e-4 + x[np.arange(130) % 3]),
        "one image": (x, np.tile(x[0], (40, 1))),
        "far": (x.astype(float), far),
        "spread": (x * 1e-3, y * 100),
        "pixels": tuple(pixels),
        "float16": (x.astype(np.float16), y),
        "an outlier beyond float64": (outlier, y),
        "heavy tails": (heavy[:150], heavy[150:]),
        "tiny": (x * 1e-22, y * 1e-22),
        "huge": (x * 1e30, y * 1e30),
        "tiny beside huge": (np.concatenate([outlier[:1] * 1e20, outlier[1:] * 1e-20]), y * 1e-20),
    }


@pytest.mark.parametrize("case", thinned(hard_sets(), 6))
@pytest.mark.parametrize("k_precision", [None, 3, 7])
def test_manifold_equals_brute_force_bit_for_bit(case, k_precision, monkeypatch):
    x, y = hard_sets()[case]
    expected = brute(x, y, 5, k_precision)
    for block in (1 << 24, 5000, 300):
        monkeypatch.setattr(neighbours, "BLOCK", block)
        assert scores(x, y, 5, k_precision=k_precision) == expected


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 30), st.integers(2, 30), st.booleans())
@settings(max_examples=60, deadline=None)
def test_manifold_equals_brute_force_on_small_grids(seed, d, n, m, closed):
    """Integers in 0..2: nearly every comparison is a tie, and many points are equal."""
    x, y = (np.random.default_rng(seed + i).integers(0, 3, (s, d)).astype(np.float32) for i, s in enumerate((n, m)))
    kp = 1 if closed else None
    assert scores(x, y, 1, k_precision=kp) == brute(x, y, 1, kp)


def test_lower_precision_of_products_does_not_change_scores():
    x, y = hard_sets()["copies of real"]
    before = scores(x, y)
    torch.set_float32_matmul_precision("medium")
    try:
        assert neighbours.precisions() == (torch.float64,)  # the CPU may ignore the setting
        assert scores(x, y) == before
    finally:
        torch.set_float32_matmul_precision("highest")


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_manifold_is_invariant_to_order_rotation_shift_and_scale(seed):
    x, y, q = normal(seed, 60, 6), normal(seed + 1, 50, 6), orthogonal(seed, 6)
    before = scores(x, y, k_precision=3)
    order = np.random.default_rng(seed).permutation(60)
    assert scores(x[order], y[::-1], k_precision=3) == before
    assert scores(7 * x @ q + 3, 7 * y @ q + 3, k_precision=3) == before


def test_nearest_distances_equal_brute_force(monkeypatch):
    for name, (x, y) in hard_sets().items():
        for block in (1 << 24, 700):
            monkeypatch.setattr(neighbours, "BLOCK", block)
            d = np.sort(cdist(np.asarray(x, float), np.asarray(y, float)), 1)[:, :4]
            np.testing.assert_allclose(nearest_distances(x, y, 4), d, rtol=1e-12, atol=0, err_msg=name)
            own = np.sort(cdist(np.asarray(y, float), np.asarray(y, float)), 1)[:, 1:4]  # column 0: the row itself
            np.testing.assert_allclose(nearest_distances(y, k=3), own, rtol=1e-12, atol=0, err_msg=name)


@pytest.mark.parametrize("values", [2, 4])
def test_the_first_of_equally_near_neighbours_is_returned(values):
    """More ties than candidates; among ties, torch.topk alone depends on the device."""
    y = np.random.default_rng(0).integers(0, values, (300, 4)).astype(np.float32)
    x = np.random.default_rng(1).integers(0, values, (80, 4)) + np.float32(0.25)  # off the lattice: no copies
    got = neighbours.nearest2(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y), 3)[1]
    expected = np.square(x[:, None].astype(float) - y[None]).sum(2).argsort(1, kind="stable")[:, :3]
    np.testing.assert_array_equal(got, expected)


def test_neighbours_that_float32_cannot_order():
    """Six neighbours at nearly equal distances, others far away: the candidates are certain, their order is not."""
    directions = normal(0, 40, 16)
    radii = np.where(np.arange(40) < 6, 1 + 1e-9 * np.random.default_rng(1).permutation(40), 10)
    y = directions / np.linalg.norm(directions, axis=1, keepdims=True) * radii[:, None]
    got = nearest_distances(np.zeros((1, 16)), y, 4)
    np.testing.assert_allclose(got[0], np.sort(radii)[:4], rtol=1e-13)


def test_neighbourhoods_larger_than_the_set_raise():
    x = normal(0, 5, 3)
    assert scores(x, x[:4], 4, k_precision=3) == brute(x, x[:4], 4, 3)
    for call in (
        lambda: manifold_scores(x, x, 5),
        lambda: manifold_scores(x, x[:3], 4, k_precision=3),
        lambda: manifold_scores(x, x, 0),
        lambda: nearest_distances(x, k=5),
        lambda: nearest_distances(x, normal(1, 5, 2)),
        lambda: nearest_distances(x, x, 6),
    ):
        with pytest.raises(UserError):
            call()


def test_density_and_coverage_of_equal_distributions():
    n, m, runs = 200, 150, 60
    got = np.array([scores(normal(2 * s, n, 3), normal(2 * s + 1, m, 3)) for s in range(runs)])
    assert expected_coverage(10_000, 10_000) == pytest.approx(0.96877, abs=1e-5)
    assert expected_coverage(4, 2, k=2) == pytest.approx(1 - 3 / 5 * 2 / 4)
    for column, expected in ((2, 1.0), (3, expected_coverage(n, m))):
        error = got[:, column].std(ddof=1) / np.sqrt(runs)
        assert abs(got[:, column].mean() - expected) < 3.5 * error < 0.03
    p = expected_coverage(n, m)  # balls overlap, so the spread is only close to binomial
    assert got[:, 3].std() < 3 * np.sqrt(p * (1 - p) / n)


def test_manifold_scores_do_not_detect_lost_tails():
    """They do not detect a lost tail, and hardly detect far outliers; hence the tail scores."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(10, 64))

    def draw(n):
        y = rng.integers(10, size=n)
        return centres[y] + rng.normal(size=(n, 64)), centres[y]

    real = RealManifold.of(draw(3000)[0])
    generated, centre = draw(3000)
    before = manifold_scores(real, generated, k_precision=3)
    shrunk = manifold_scores(real, centre + 0.9 * (generated - centre), k_precision=3)
    assert shrunk.coverage > before.coverage + 0.02 and shrunk.precision > before.precision + 0.2
    more, centre = draw(3400)
    distance = np.linalg.norm(more - centre, axis=1)
    cut = manifold_scores(real, more[distance < np.quantile(distance, 0.9)][:3000], k_precision=3)
    assert abs(cut.coverage - before.coverage) < 0.01
    generated[:90] *= 4
    outliers = manifold_scores(real, generated, k_precision=3)
    assert 0 < before.precision - outliers.precision < 0.03 and abs(outliers.coverage - before.coverage) < 0.01


def test_cached_neighbours_can_be_used_for_any_smaller_k():
    x, y = normal(0, 80, 5, dtype=np.float32), normal(1, 70, 5, dtype=np.float32)
    real = RealManifold.from_arrays(x, RealManifold.of(x, 7).to_arrays())
    assert scores(real, y, 5, k_precision=3) == scores(x, y, 5, k_precision=3)
    with pytest.raises(UserError, match="holds 7"):
        manifold_scores(real, y, 8)
    with pytest.raises(UserError, match="80 real samples"):
        RealManifold.from_arrays(x[:50], real.to_arrays())


# Modes


def test_samples_needed():
    for classes, needed in ((10, 528), (1000, 99_030)):
        assert mode_coverage(np.ones(classes), np.ones(classes, int)).needed == needed
    uneven = mode_coverage([0.9, 0.1], [300, 60])  # the rarest mode decides: ln(.025) / ln(1 - .01)
    assert (uneven.needed, uneven.covered, uneven.lost, uneven.hit) == (368, None, None, 2)
    assert mode_coverage([0.9, 0.1], [368, 0]).lost == (1,)
    real = np.ones(10)
    few = np.array([0, 59, 59, 59, 59, 59, 58, 58, 58, 58])
    assert few.sum() == 527 and "528" in str(mode_coverage(real, few).reason)
    few[1] += 1
    assert mode_coverage(real, few).lost == (0,) and mode_coverage(real, few).covered == 9


@given(st.lists(st.integers(0, 40), min_size=2, max_size=12), st.integers(0, 1000))
@example([0, 0, 0, 0, 0, 0, 0, 35, 0, 0, 0, 0], 13)  # the eighth mode is neither shown to be lost nor covered
@settings(max_examples=60, deadline=None)
def test_lost_modes_are_those_of_holm_over_clopper_pearson(counts, seed):
    k = len(counts)
    counts = np.array([*counts[:-1], counts[-1] + 20_000])
    q = per_class_shares(np.random.default_rng(seed).uniform(1, 5, k))
    n, lost = counts.sum(), []
    by_chance = sorted(range(k), key=lambda i: binom.cdf(counts[i], n, 0.1 * q[i]))
    for step, i in enumerate(by_chance):
        upper = beta.ppf(1 - 0.05 / (k - step), counts[i] + 1, n - counts[i]) if counts[i] < n else 1.0
        if upper > 0.1 * q[i]:
            break
        lost.append(i)
    got = mode_coverage(q, counts)
    assert got.lost == tuple(sorted(lost))
    assert got.covered == (k - len(lost) if got.reason is None else None)


def test_holm_steps_down():
    n, levels = 700, [0.05 / 3, 0.05 / 2]
    between = next(c for c in range(30) if levels[0] < binom.cdf(c, n, 0.1 / 3))
    assert binom.cdf(between, n, 0.1 / 3) <= levels[1]  # lost only if another mode is lost
    assert mode_coverage(np.ones(3), np.array([0, between, n - between])).lost == (0, 1)
    assert mode_coverage(np.ones(3), np.array([between, between, n - 2 * between])).lost == ()
    assert mode_coverage(np.ones(3), np.array([n // 2, between, n - n // 2 - between])).lost == ()


@pytest.mark.nightly
def test_a_mode_at_a_tenth_of_its_share_is_rarely_called_lost():
    rng, q = np.random.default_rng(0), np.full(10, 0.1)
    p = np.array([0.01, 0.01, 0.01, *[0.97 / 7] * 7])  # three modes exactly at the threshold are not lost
    false = sum(bool(mode_coverage(q, rng.multinomial(3000, p)).lost) for _ in range(1000))
    assert false <= binom.ppf(0.9999, 1000, 0.05)


def test_kl_is_unbiased_for_equal_distributions_and_hit_counts_modes_with_samples():
    rng, q = np.random.default_rng(0), np.array([0.4, 0.3, 0.2, 0.1])
    kl = np.array([mode_coverage(q, rng.multinomial(1000, q)).kl for _ in range(500)])
    assert abs(kl.mean()) < 4 * kl.std() / np.sqrt(500) and (kl < 0).any()
    assert 4 * kl.std() / np.sqrt(500) < 3 / 2000 / 5  # precise enough to detect a wrong correction
    half = mode_coverage([50, 50], [1000, 0])
    assert half.kl == pytest.approx(np.log(2) - 1 / 2000) and half.hit == 1 and half.lost == (1,)


def test_counts_and_shares():
    np.testing.assert_array_equal(class_counts(np.array([2, 0, 2]), 4), [1, 0, 2, 0])
    np.testing.assert_allclose(per_class_shares([1, 3]), [0.25, 0.75])
    for bad in ([0, 4], [-1, 0], [0.5]):
        with pytest.raises(UserError, match="Labels"):
            class_counts(np.array(bad), 4)
    for real, generated, match in [
        ([1, 0], [5, 5], "no real sample"),
        ([1, 1], [1, 1, 1], "2 real and 3"),
        ([1, 1], [0, 0], "not all zero"),
        ([1, 1], [0.5, 0.5], "integers"),
        ([1, np.nan], [1, 1], "numbers"),
    ]:
        with pytest.raises(UserError, match=match):
            mode_coverage(real, generated)


# Variance


def test_variance_ratio():
    x = normal(0, 400, 6, shift=50, dtype=np.float32)
    assert variance_ratio(x, 3 * x) == pytest.approx(9, rel=1e-6)
    y = normal(1, 30, 6)
    expected = np.trace(np.cov(y.T)) / np.trace(np.cov(x.astype(float).T))
    assert variance_ratio(x, y) == pytest.approx(expected, rel=1e-12)
    assert variance_ratio(x, np.tile(x[0], (9, 1))) == 0
    with pytest.raises(UserError, match="do not vary"):
        variance_ratio(np.ones((5, 2)), normal(0, 5, 2))


def test_within_class_ratio_depends_on_class_variances_and_not_on_frequencies():
    rng = np.random.default_rng(0)
    labels, centres = rng.integers(3, size=900), 20 * rng.normal(size=(3, 5))
    spread = np.array([1.0, 2.0, 3.0])[:, None]
    x = centres[labels] + spread[labels] * rng.normal(size=(900, 5))
    shrunk = centres[labels] + 0.5 * (x - centres[labels])
    assert within_class_variance_ratio(x, labels, shrunk, labels) == pytest.approx(0.25, rel=1e-9)
    keep = np.concatenate([np.flatnonzero(labels == c)[:k] for c, k in ((0, 200), (1, 100), (2, 20))])
    repeated = np.concatenate([np.flatnonzero(labels == 0)] * 3 + [np.flatnonzero(labels > 0)])
    assert within_class_variance_ratio(x, labels, x[repeated], labels[repeated]) == pytest.approx(1, rel=0.01)
    assert variance_ratio(x, x[keep]) != pytest.approx(1, rel=0.02)
    wide = np.where(labels[:, None] == 2, 3 * x, x)  # one class changes; classes have their real frequencies as weights
    weight = [(labels == c).sum() * np.trace(np.cov(x[labels == c].T)) for c in range(3)]
    shifted = within_class_variance_ratio(x, labels, wide[repeated], labels[repeated])
    assert shifted == pytest.approx((weight[0] + weight[1] + 9 * weight[2]) / sum(weight), rel=0.01)
    one = np.flatnonzero(labels == 1)  # a missing class is left out of both sides
    assert within_class_variance_ratio(x, labels, x[one], labels[one]) == pytest.approx(1, rel=1e-12)
    with pytest.raises(UserError, match="No class"):
        within_class_variance_ratio(x, labels, x[:2], np.array([0, 1]))
    with pytest.raises(UserError, match="one label per sample"):
        within_class_variance_ratio(x, labels, x, labels[:-1])


@pytest.mark.parametrize("n", [6, 50])
def test_effective_rank(n):
    x = normal(0, n, 12, np.arange(1, 13) ** -1.0, 5.0)
    values = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    p = values[values > 1e-12] / values.sum()
    assert effective_rank(x) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)
    assert effective_rank(1000 * x @ orthogonal(0, 12) + 7) == pytest.approx(effective_rank(x), rel=1e-9)


def test_effective_rank_of_simple_sets():
    cross = np.concatenate([np.eye(4), -np.eye(4)])
    assert effective_rank(cross) == pytest.approx(4)
    assert effective_rank(cross[[0, 4]]) == pytest.approx(1)
    assert effective_rank(np.full((2000, 3), 0.1)) == effective_rank(np.full((2, 3), 0.1)) == 0


# Inputs of all measures


PAIRS = [frechet_distance, kernel_distance, manifold_scores, variance_ratio]


@pytest.mark.parametrize("metric", PAIRS)
@pytest.mark.parametrize(
    "spoil, match",
    [
        (lambda x: x[:1], "1 generated sample"),
        (lambda x: x[:, :3], "3 wide and the real ones 4"),
        (lambda x: x[:, 0], r"shape \(30,\)"),
        (lambda x: x[None], r"expected \(N, D\)"),
        (lambda x: np.where(x == x[4, 2], np.nan, x), "NaN or infinity in 1 of 30"),
        (lambda x: np.where(x == x[4, 2], np.inf, x), "NaN or infinity"),
        (lambda x: x.astype(str), "real numbers"),
    ],
)
def test_invalid_features_raise(metric, spoil, match):
    x, y = normal(0, 30, 4), normal(1, 30, 4)
    with pytest.raises(UserError, match=match):
        metric(x, spoil(y))


@pytest.mark.parametrize("metric", PAIRS)
def test_all_kinds_of_arrays_are_accepted_and_not_changed(metric, tmp_path):
    x, y = normal(0, 40, 4, dtype=np.float32), normal(1, 40, 4, dtype=np.float32)
    copies = x.copy(), y.copy()
    np.save(tmp_path / "y.npy", y)
    on_disk = np.load(tmp_path / "y.npy", mmap_mode="r")
    grad = torch.from_numpy(y.copy()).requires_grad_()
    expected = metric(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for other in (on_disk, grad, np.asfortranarray(y), y.astype(np.float64), np.repeat(y, 2, 0)[::2]):
            got = metric(x, other)
            assert got == expected if not isinstance(got, float) else got == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(x, copies[0])
    np.testing.assert_array_equal(y, copies[1])


def test_inputs_that_are_no_plain_array_of_numbers_raise():
    good = normal(0, 20, 3)
    invalid = {
        "complex64": torch.complex(torch.ones(20, 3), torch.ones(20, 3)),
        "sparse": torch.eye(20)[:, :3].to_sparse(),
        "one array": [[1.0, 2.0, 3.0], [1.0, 2.0]] * 10,
        "cannot be read": [torch.ones(3, requires_grad=True)] * 20,
        "masked": np.ma.masked_less(good, 0),
        "1e[+]50": good * 1e160,
        "dtype <U": np.full((20, 3), "a"),
    }
    for match, x in invalid.items():
        for measure in (frechet_distance, kernel_distance, vendi_of_both):
            with pytest.raises(UserError, match=match):
                measure(good, x)
    for same in (good.astype(">f8"), good.astype(np.longdouble), good.tolist(), [*torch.from_numpy(good)]):
        assert frechet_distance(good, same) == frechet_distance(good, good)


def vendi_of_both(real, generated):
    return vendi_score(real) - vendi_score(generated)


def test_a_stream_of_one_side_names_the_missing_side():
    metric = FrechetDistance(3)
    metric.update(torch.from_numpy(normal(0, 20, 3)), real=True)
    with pytest.raises(UserError, match="0 generated samples"):
        metric.compute()


# The list of measures


def test_the_table_in_the_documentation_is_that_of_the_list():
    assert table.listed(table.DOCS.read_text()) == table.measures(), "run: python scripts/table.py measures"
