"""Tail, support and authenticity scores: faults that they detect in three dimensions, and that older scores miss."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import betabinom, binom

from imgloop import store
from imgloop.errors import UserError
from imgloop.metrics import neighbours
from imgloop.metrics.manifold import RealManifold, expected_coverage, manifold_scores, neighbour_scores
from imgloop.metrics.tails import RealTails, class_centroids, tail_scores, too_few
from imgloop.metrics.vendi import vendi_score

CLASSES, SAMPLES = 10, 2000
FAULTS = ("null", "shrunk", "truncated", "far", "interpolated", "copied")


def normal(seed, n, d):
    return np.random.default_rng(seed).normal(size=(n, d))


class World:
    """A mixture of ten classes in `d` dimensions: training and held-out sets, and generators with one fault each."""

    def __init__(self, d, seed=0, held=2000):
        self.rng, self.d = np.random.default_rng([seed, d]), d
        angle = 2 * np.pi * np.arange(CLASSES) / CLASSES
        self.centres = 16 * np.stack([np.cos(angle), np.sin(angle), *np.zeros((d - 2, CLASSES))], 1)
        (self.train, y), (self.held, _), (self.null, self.y) = (self.draw(n) for n in (SAMPLES, held, SAMPLES))
        self.real = RealManifold.of(self.held)
        self.copies = RealManifold.of(self.train, 1)
        self.tails = RealTails.of(self.held, centroids=class_centroids(self.train, y))
        self.results = {}

    def draw(self, n):
        y = self.rng.integers(CLASSES, size=n)
        return self.centres[y] + self.rng.normal(size=(n, self.d)), y

    def faulty(self, fault):
        """Samples of a generator with a `fault`, one of FAULTS."""
        own, self.rng = self.centres[self.y], np.random.default_rng([self.d, FAULTS.index(fault)])
        if fault == "null":
            return self.null
        if fault == "shrunk":
            return own + 0.9 * (self.null - own)
        if fault == "truncated":
            x, y = self.draw(2 * SAMPLES)
            distance = np.linalg.norm(x - self.centres[y], axis=1)
            return x[distance < np.quantile(distance, 0.9)][:SAMPLES]
        if fault == "far":  # 3 %, four times as far from their centre
            factor = np.where(np.arange(SAMPLES) < 0.03 * SAMPLES, 4, 1)[:, None]
            return own + factor * (self.null - own)
        if fault == "interpolated":  # 10 % half-way to another class
            other = self.centres[(self.y + 1) % CLASSES]
            between = (own + other) / 2 + 0.5 * (self.null - own)
            return np.where((np.arange(SAMPLES) < SAMPLES // 10)[:, None], between, self.null)
        return self.train  # copied

    def scores(self, x):
        manifold, score2 = neighbour_scores(self.real, x, k_precision=3, train=self.copies, among=self.tails.a)
        assert score2 is not None
        return self.tails.scores(score2, x), manifold

    def of(self, fault):
        if fault not in self.results:
            self.results[fault] = self.scores(self.faulty(fault))
        return self.results[fault]


@pytest.fixture(scope="module", params=[2, 16, 64])
def world(request):
    return World(request.param)


def test_scores_of_a_perfect_generator(world):
    tails, manifold = world.of("null")
    assert abs(tails.tail_mass - 1) < 3 * tails.tail_mass_sd
    assert tails.off_support_p > 0.01 and tails.ambiguity_p > 0.01
    own = manifold_scores(world.real, world.held, train=world.copies).authenticity
    assert manifold.authenticity == pytest.approx(own, abs=4 * 0.5 / np.sqrt(SAMPLES))
    assert own == pytest.approx({2: 0.4, 16: 0.67, 64: 0.78}[world.d], abs=0.05)  # so no fixed bound applies
    expected = expected_coverage(SAMPLES, SAMPLES)
    assert manifold.coverage == pytest.approx(expected, abs=5 * np.sqrt(expected * (1 - expected) / SAMPLES))


def test_a_shrunk_set_loses_tail_mass_while_precision_and_coverage_rise(world):
    (null, before), (tails, after) = world.of("null"), world.of("shrunk")
    assert tails.tail_mass < {2: 0.8, 16: 0.5, 64: 0.2}[world.d] * null.tail_mass
    assert max(tails.off_support, tails.ambiguity) <= tails.null_rate
    assert after.coverage > before.coverage - 0.01 and after.precision > before.precision
    assert world.d == 2 or after.coverage > before.coverage + 0.01


def test_a_cut_tail_is_detected_while_coverage_does_not_change(world):
    (null, before), (tails, after) = world.of("null"), world.of("truncated")
    assert tails.tail_mass < 0.5 * null.tail_mass and tails.off_support == 0
    assert abs(after.coverage - before.coverage) < 0.03 and after.precision > before.precision
    assert after.recall > before.recall - {2: 0.08, 16: 0.07, 64: 0.06}[world.d]


def test_far_outliers_are_off_support_while_precision_and_recall_hardly_change(world):
    (null, before), (tails, after) = world.of("null"), world.of("far")
    assert tails.off_support > null.off_support + 0.018 and tails.off_support_p < 2e-3  # of the 3 % that were moved
    assert tails.tail_mass == pytest.approx(null.tail_mass, abs=0.1)
    assert before.precision - after.precision < 0.03 and abs(after.coverage - before.coverage) < 0.01
    assert after.recall > before.recall - 0.005  # far samples have large balls, which raise recall


def test_samples_between_classes_are_ambiguous(world):
    (null, before), (tails, after) = world.of("null"), world.of("interpolated")
    assert tails.ambiguity > null.ambiguity + 0.08 and tails.ambiguity_p < 1e-6  # of the tenth that were moved
    assert abs(after.coverage - before.coverage) < 0.03
    if world.d == 2:
        assert tails.off_support_p < 1e-6
    else:  # distances within a class are as large as between classes
        assert tails.off_support_p > 0.01
    if world.d == 64:
        assert after.precision > before.precision


def test_copies_are_detected_by_authenticity_alone(world):
    (_, before), (tails, after) = world.of("null"), world.of("copied")
    assert after.authenticity == 0 < 0.3 < before.authenticity
    assert abs(tails.tail_mass - 1) < 3 * tails.tail_mass_sd and min(tails.off_support_p, tails.ambiguity_p) > 0.01
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=0.1)
    noisy = world.train + 1e-3 * np.random.default_rng(1).normal(size=world.train.shape)
    assert world.scores(noisy)[1].authenticity < 0.05


# Definitions, by brute force


def brute(tails, held, x):
    far = np.sort(cdist(x, held[tails.a]), 1)[:, tails.k - 1]
    own = np.sort(cdist(held[tails.b], held[tails.a]), 1)[:, tails.k - 1]
    low, high = np.sort(own)[::-1][[int(0.1 * (len(own) + 1)) - 1, tails.rank - 1]]
    rate = ((own > low) & (own <= high)).sum() / (len(own) + 1)
    return ((far > low) & (far <= high)).mean() / rate, (far > high).mean()


@given(
    st.integers(0, 10**6),
    st.integers(250, 700),
    st.integers(1, 6),
    st.integers(1, 300),
    st.sampled_from([200, 1 << 24]),
)
@settings(max_examples=25, deadline=None)
def test_scores_equal_brute_force_in_any_block(seed, n, d, m, block):
    held, x = normal(seed, n, d), 1.2 * normal(seed + 1, m, d)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "BLOCK", block)
        tails = RealTails.of(held)
        got = tail_scores(tails, x)
        if m > 5:
            _, score2 = neighbour_scores(held, x, among=tails.a)
            assert score2 is not None and tails.scores(score2, x) == got  # one pass or two
    assert (got.tail_mass, got.off_support) == pytest.approx(brute(tails, held, x), rel=1e-12)
    assert len(tails.b) == max(200, n // 2) and len(tails.a) + len(tails.b) == n == len({*tails.a, *tails.b})


def test_distances_that_float32_cannot_order_are_exact():
    """Forty real points at nearly equal distances: float32 bounds cannot order them."""
    points = normal(0, 40, 16)
    points *= (1 + 1e-9 * np.arange(40)[:, None]) / np.linalg.norm(points, axis=1, keepdims=True)
    x = 1e-13 * normal(1, 8, 16)
    _, far2 = neighbour_scores(points, x, among=np.arange(40))
    assert far2 is not None
    np.testing.assert_allclose(far2, np.sort(cdist(x, points), 1)[:, 4] ** 2, rtol=1e-14, atol=0)


def test_authenticity_equals_its_definition():
    train, x = normal(0, 300, 4), np.concatenate([normal(1, 150, 4), normal(0, 300, 4)[:50]])
    own = cdist(train, train) + np.diag(np.full(300, np.inf))
    d = cdist(x, train)
    expected = (d.min(1) > own.min(1)[d.argmin(1)]).mean()
    assert manifold_scores(normal(2, 100, 4), x, train=train).authenticity == expected
    assert manifold_scores(normal(2, 100, 4), x).authenticity is None
    line = np.arange(8.0)[:, None]  # a sample as far away as the next training sample is not farther
    assert manifold_scores(line, np.full((6, 1), -1.0), train=line).authenticity == 0
    with pytest.raises(UserError, match="3 wide"):
        manifold_scores(normal(2, 100, 4), x, train=normal(0, 30, 3))


def test_the_null_rates_are_exact():
    """Over fresh real sets the means are 1 and r / (n_B + 1), and the p-value rejects at its nominal rate."""
    runs, m = 400, 500
    got = [tail_scores(normal(2 * s, 260, 2), normal(2 * s + 1, m, 2)) for s in range(runs)]
    for name, expected in (("off_support", 10 / 201), ("tail_mass", 1.0)):
        values = np.array([getattr(g, name) for g in got])
        error = values.std(ddof=1) / np.sqrt(runs)
        assert abs(values.mean() - expected) < 3.5 * error < 0.1 * expected
    assert {g.null_rate for g in got} == {10 / 201} and {g.zone_rate for g in got} == {10 / 201}
    assert np.std([g.tail_mass for g in got]) == pytest.approx(got[0].tail_mass_sd, rel=0.15)
    rejected = np.sum([g.off_support_p <= 0.05 for g in got])
    assert binom.ppf(1e-4, runs, 0.03) <= rejected <= binom.ppf(1 - 1e-4, runs, 0.05)
    # The binomial with a fixed rate, without the error of the threshold, would reject far too often.
    naive = np.sum([binom.sf(round(g.off_support * m) - 1, m, 10 / 201) <= 0.05 for g in got])
    assert naive > binom.ppf(1 - 1e-6, runs, 0.05)


@pytest.mark.parametrize("n, rank", [(250, 10), (2000, 10), (39_998, 20)])
def test_ranks_and_their_p_values(n, rank):
    count = max(200, n // 2)
    tails = RealTails(np.arange(n - count), np.arange(count), torch.zeros(5, 1), np.arange(count, dtype=float))
    low, high = tails.thresholds2
    assert (
        tails.rank == rank and (tails.score2 >= high).sum() == rank and (tails.score2 >= low).sum() == (count + 1) // 10
    )
    assert tails.null_rate == rank / (count + 1)
    assert tails.p_value(0, 50) == pytest.approx(1) and tails.p_value(50, 50) < 1e-8
    more = betabinom.pmf(range(7, 51), 50, rank, count + 1 - rank).sum()
    assert tails.p_value(7, 50) == pytest.approx(more, rel=1e-9)


def test_a_sample_at_a_threshold_counts_as_below_it():
    held = normal(0, 500, 3)
    tails = RealTails.of(held)
    descending = held[tails.b[np.argsort(-tails.score2)]]
    upper, beyond, lower, within = descending[[9]], descending[[8]], descending[[24]], descending[[23]]
    assert [tail_scores(tails, x).off_support for x in (beyond, upper, lower)] == [1, 0, 0]
    assert [tail_scores(tails, x).tail_mass > 0 for x in (beyond, upper, within, lower)] == [False, True, True, False]
    tails = RealTails.of(held, centroids=np.eye(3))
    assert tails.ratio is not None
    descending = held[tails.b[np.argsort(-tails.ratio)]]
    assert [tail_scores(tails, descending[[rank]]).ambiguity for rank in (8, 9)] == [1, 0]


def test_ambiguity_is_the_ratio_of_the_two_nearest_centroids():
    held, x, centroids = normal(0, 300, 3), normal(1, 80, 3), normal(2, 6, 3)
    tails = RealTails.of(held, centroids=centroids)

    def ratio(a):
        d = np.sort(cdist(a, centroids), 1)
        return d[:, 0] / d[:, 1]

    threshold = np.sort(ratio(held[tails.b]))[-10]
    assert tail_scores(tails, x).ambiguity == (ratio(x) > threshold).mean()
    assert tail_scores(held, x).ambiguity is tail_scores(held, x).ambiguity_p is None
    middle = (centroids[0] + centroids[1]) / 2
    near = centroids[np.argsort(cdist([middle], centroids)[0])[:2]].mean(0)
    assert tail_scores(tails, near[None]).ambiguity == 1 and tail_scores(tails, centroids).ambiguity == 0


def test_cached_tails_give_the_same_scores(tmp_path):
    held, x = normal(0, 300, 3).astype(np.float32), normal(1, 80, 3)
    tails = RealTails.of(held, centroids=normal(2, 4, 3))
    store.write_arrays(tmp_path / "t.safetensors", tails.to_arrays())
    cached = RealTails.from_arrays(held, store.open_arrays(tmp_path / "t.safetensors"))
    assert tail_scores(cached, x) == tail_scores(tails, x)
    assert set(RealTails.of(held, seed=1).a) != set(tails.a)


def test_invalid_inputs_of_tail_scores_raise():
    with pytest.raises(UserError, match="249 held-out samples are too few"):
        tail_scores(normal(0, 249, 2), normal(1, 50, 2))
    assert too_few(199) and too_few(250) is None
    tails = RealTails.of(normal(0, 250, 2))
    for held, x, options, match in [
        (tails, normal(1, 9, 3), {}, "3 wide and the real ones 2"),
        (tails, np.full((4, 2), np.nan), {}, "NaN"),
        (tails, normal(1, 0, 2), {}, "0 generated"),
        (normal(0, 250, 2), normal(1, 9, 2), {"k": 51}, "from 1 to 50"),
        (normal(0, 250, 2), normal(1, 9, 2), {"centroids": normal(0, 1, 2)}, "at least 2"),
        (np.ones((300, 2)), normal(1, 9, 2), {}, "too few values"),
    ]:
        with pytest.raises(UserError, match=match):
            tail_scores(held, x, **options)
    with pytest.raises(UserError, match="one per sample"):
        class_centroids(normal(0, 5, 2), [0, 1])
    with pytest.raises(UserError, match="to measure"):
        neighbour_scores(normal(0, 30, 2), normal(1, 30, 2), among=np.arange(4))


# Vendi score


@pytest.mark.parametrize("n, d", [(200, 12), (12, 200), (40, 40)])
def test_vendi_equals_the_full_decomposition(n, d):
    x = normal(0, n, d) * np.arange(1, d + 1) ** -0.5 + 0.3
    x[3] = 0  # similar only to itself
    unit = x / np.where(np.linalg.norm(x, axis=1) > 0, np.linalg.norm(x, axis=1), 1)[:, None]
    similarity = unit @ unit.T
    similarity[3, 3] = 1
    values = np.linalg.eigvalsh(similarity / n)
    values = values[values > 1e-15]
    assert vendi_score(x) == pytest.approx(np.exp(-(values * np.log(values)).sum()), rel=1e-9)
    assert vendi_score(x.astype(np.float32) * 1e-30) == pytest.approx(vendi_score(x), rel=1e-5)


def test_vendi_counts_distinct_samples():
    assert vendi_score(np.eye(7)) == pytest.approx(7) and vendi_score(np.ones((50, 3))) == pytest.approx(1)
    assert vendi_score(np.repeat(np.eye(4), 25, 0)) == pytest.approx(4)
    assert vendi_score(np.zeros((9, 2))) == pytest.approx(1)
    half = np.concatenate([np.zeros((10, 2)), np.ones((10, 2))])
    assert vendi_score(half) == pytest.approx(2)
    with pytest.raises(UserError, match="NaN"):
        vendi_score(np.full((3, 2), np.nan))
