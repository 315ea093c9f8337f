"""Modes: class counts corrected for the errors of a classifier, and bins of features for data without labels."""

from functools import reduce

import numpy as np
import pytest
from conftest import thinned
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import binom

from imgloop import store
from imgloop.errors import UserError
from imgloop.metrics.bins import RealBins, bin_scores
from imgloop.metrics.confusion import CLOSE, Confusion
from imgloop.metrics.modes import _benjamini_hochberg, class_counts, mode_coverage

PLACES = np.array([100, 10, 1])


def read(rng, labels, error, classes=10):
    """Predictions of a classifier that is wrong for a share `error` of labels, with any other class."""
    wrong = rng.random(labels.shape) < error
    return np.where(wrong, (labels + rng.integers(1, classes, labels.shape)) % classes, labels)


def digits(modes):
    return modes[:, None] // PLACES % 10


def digit_confusion(rng, error, held=2000):
    true = rng.integers(0, 10, (held, 3))
    return Confusion.of(true.T, read(rng, true, error).T, (10, 10, 10))


# Correction


def matrix(rng, k, accuracy):
    return accuracy * np.eye(k) + (1 - accuracy) * rng.dirichlet(np.full(k, 0.5), size=k)


@given(st.integers(0, 10**6), st.integers(2, 8), st.floats(0.4, 1))
@example(113, 2, 0.40625)  # nearly singular: two classes with nearly equal predictions
@example(591386, 5, 0.41)
@settings(max_examples=40, deadline=None)
def test_corrected_shares_solve_the_constrained_least_squares(seed, k, accuracy):
    rng = np.random.default_rng(seed)
    c, f = matrix(rng, k, accuracy), rng.dirichlet(np.full(k, 0.3))
    got = Confusion((c[None],)).corrected(f[None])[0]
    assert got.min() >= 0 and got.sum() == pytest.approx(1)

    def loss(p):
        return np.square(c.T @ p - f).sum()

    best = minimize(
        loss,
        np.full(k, 1 / k),
        jac=lambda p: 2 * c @ (c.T @ p - f),
        bounds=[(0, 1)] * k,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    assert loss(got) <= best.fun + 1e-9
    p = rng.dirichlet(np.ones(k))  # noiseless observed shares are inverted exactly
    undone = Confusion((c[None],)).corrected((c.T @ p)[None])[0]
    # At a change below CLOSE the gradient mapping is at most |G| = sqrt(k) L CLOSE; the loss is m-strongly convex, so
    # it is within |G|^2 / 2m of its minimum, and the shares within 2 |G| / m (Nesterov 2018, section 2.2).
    least = np.linalg.svd(c, compute_uv=False)[-1]  # m = least^2
    mapping = np.sqrt(k) * c.sum(0).max() * CLOSE
    np.testing.assert_allclose(c.T @ undone, c.T @ p, rtol=0, atol=mapping / least)
    np.testing.assert_allclose(undone, p, rtol=0, atol=2 * mapping / least**2)


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_parts_multiply_to_the_confusion_of_whole_labels(seed):
    rng = np.random.default_rng(seed)
    sizes = (3, 2, 4)
    parts = Confusion(tuple(np.stack([matrix(rng, k, 0.7) for _ in range(2)]) for k in sizes))
    whole = Confusion((np.stack([reduce(np.kron, (r[b] for r in parts.rates)) for b in (0, 1)]),))
    p = rng.dirichlet(np.ones(24), size=2)
    assert parts.modes == whole.modes == 24
    np.testing.assert_allclose(parts.read(p), np.einsum("bi,bij->bj", p, whole.rates[0]), atol=1e-12)
    np.testing.assert_allclose(parts.correct, whole.correct, atol=1e-12)
    np.testing.assert_allclose(parts.confused(p), whole.confused(p), atol=1e-12)
    np.testing.assert_allclose(parts.corrected(p), whole.corrected(p), atol=1e-6)


def test_corrected_shares_and_their_error_are_right_on_average():
    """With a biased classifier, raw shares are biased and corrected ones are not; share_sd is their spread."""
    truth = np.array([0.5, 0.3, 0.15, 0.05])
    errors = np.array([[0.9, 0.1, 0, 0], [0, 1, 0, 0], [0, 0.2, 0.8, 0], [0.1, 0, 0, 0.9]])
    rng, got, sds, raw = np.random.default_rng(0), [], [], []
    for _ in range(150):
        confusion = np.stack([rng.multinomial(60, row) for row in errors])
        counts = rng.multinomial(800, truth @ errors)
        result = mode_coverage(truth, counts, confusion=confusion)
        got.append(result.shares)
        sds.append(result.share_sd)
        raw.append(counts / 800)
    got, spread = np.array(got), np.std(got, 0)
    assert np.abs(np.mean(got, 0) - truth).max() < 4 * spread.max() / np.sqrt(150) < 0.013
    assert np.abs(np.mean(raw, 0) - truth).max() > 0.04
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(sds), 0)), spread, rtol=0.25)


def test_discoveries_by_hand():
    """Benjamini and Hochberg: all up to the largest p that is at most its share of the level."""
    p = np.array([0.9, 0.024, 0.02, 0.3])  # of 4, the second smallest is below 0.05 * 2 / 4
    assert _benjamini_hochberg(p, 0.05).tolist() == [False, True, True, False]
    assert _benjamini_hochberg(np.array([0.9, 0.012]), 0.025).tolist() == [False, True]
    assert not _benjamini_hochberg(np.array([0.9, 0.013]), 0.025).any()


def test_a_perfect_classifier_changes_nothing():
    counts = np.array([300, 250, 0, 200, 12])
    alone = mode_coverage(np.ones(5), counts)
    held = mode_coverage(np.ones(5), counts, confusion=40 * np.eye(5, dtype=int))
    assert (alone.lost, alone.covered, alone.kl, alone.hit) == (held.lost, held.covered, held.kl, held.hit)
    np.testing.assert_allclose(held.shares, counts / counts.sum(), atol=1e-12)
    assert alone.present == alone.hit == 4 and alone.smallest == 0


# Stacked digits


@pytest.mark.parametrize("seed", range(3))
def test_a_perfect_generator_of_stacked_digits_makes_all_modes(seed):
    rng = np.random.default_rng([seed, 0])
    confusion = digit_confusion(rng, 0.01)
    counts = class_counts(read(rng, digits(rng.integers(1000, size=26_000)), 0.01) @ PLACES, 1000)
    got = mode_coverage(np.ones(1000), counts, confusion=confusion)
    assert got.present == got.hit == 1000
    assert abs(got.kl) < 4 * np.sqrt(2 * 999) / (2 * 26_000)  # 2 n KL is chi-squared with 999 degrees of freedom
    assert got.covered is None and "99,030" in str(got.reason)


@pytest.mark.parametrize("seed", range(3))
def test_half_of_the_modes_are_present_where_the_count_of_papers_is_above_700(seed):
    rng = np.random.default_rng([seed, 1])
    confusion = digit_confusion(rng, 0.01)
    modes = rng.permutation(1000)[:500]
    counts = class_counts(read(rng, digits(modes[rng.integers(500, size=26_000)]), 0.01) @ PLACES, 1000)
    got = mode_coverage(np.ones(1000), counts, confusion=confusion)
    assert got.hit > 700 and got.present == 500
    assert got.kl == pytest.approx(np.log(2), abs=0.15)
    blind = mode_coverage(np.ones(1000), counts)  # without confusions every mode that is hit counts
    assert blind.present == got.hit
    missing = np.setdiff1d(np.arange(1000), modes)
    assert got.shares[missing].sum() < 0.5 * (counts[missing].sum() / counts.sum())


@pytest.mark.nightly
def test_modes_that_only_confusions_reach_are_not_present():
    """Such modes are called present no more often than the level allows."""
    rng, false = np.random.default_rng(5), 0
    for _ in range(60):
        modes, true = rng.permutation(20)[:10], rng.integers(0, 20, 600)
        confusion = Confusion.of([true], [read(rng, true, 0.1, 20)], [20])
        counts = class_counts(read(rng, modes[rng.integers(10, size=2000)], 0.1, 20), 20)
        got = mode_coverage(np.ones(20), counts, confusion=confusion)
        assert (
            got.hit >= 18 and got.present >= 9
        )  # with 30 held-out images per class, one unusual draw can explain a mode
        false += max(0, got.present - 10)
    assert false <= binom.ppf(0.999, 60, 0.01 * 10)


def test_a_lost_mode_with_samples_by_confusion_is_detected():
    rng = np.random.default_rng(0)
    n, confusion = 100_000, 50_000 * np.eye(10, dtype=int)
    confusion[4, [4, 9]] = 49_000, 1000  # 2 % of 4s are classified as 9s
    labels = rng.integers(9, size=n)  # no 9 is generated
    labels = np.where((labels == 4) & (rng.random(n) < 0.02), 9, labels)
    q = np.array([*[0.11] * 9, 0.01])
    counts = class_counts(labels, 10)
    raw, corrected = mode_coverage(q, counts), mode_coverage(q, counts, confusion=confusion)
    assert raw.lost == () and corrected.lost == (9,) and corrected.present == 9 < raw.present
    complete = mode_coverage(q, rng.multinomial(n, q @ (confusion / 50_000)), confusion=confusion)
    assert complete.lost == () and complete.present == 10 and complete.smallest > 0.7


@pytest.mark.parametrize("accuracy, n", thinned([(0.95, 1000), (0.9, 1000)], 2))
def test_a_missing_mode_is_never_called_covered(accuracy, n):
    """Its samples are confusions of other modes: it is lost or undetermined."""
    rng, rates = np.random.default_rng(0), accuracy * np.eye(10) + (1 - accuracy) / 10
    q, modes, undetermined = np.full(10, 0.1), np.r_[np.full(9, 1 / 9), 0], 0
    for _ in range(40):
        held = np.stack([rng.multinomial(40, r) for r in rates])
        got = mode_coverage(q, rng.multinomial(n, modes @ rates), confusion=held)
        assert got.covered in (None, 9) and got.present == 9
        assert got.lost == (9,) if got.covered == 9 else "(9) are neither" in str(got.reason)
        undetermined += got.covered is None
        whole = mode_coverage(q, rng.multinomial(n, q @ rates), confusion=held)
        assert (whole.covered, whole.lost) == (10, ())
    assert undetermined > 5  # cases that the number of lost modes alone does not show


def test_the_smallest_share_has_a_null():
    """The mean for fresh real samples, including the errors of the classifier."""
    rng, rates = np.random.default_rng(0), 0.8 * np.eye(6) + 0.2 / 6
    held, q = np.stack([rng.multinomial(400, r) for r in rates]), np.full(6, 1 / 6)
    got = [mode_coverage(q, rng.multinomial(300, q @ rates), confusion=held) for _ in range(60)]
    smallest = np.array([g.smallest for g in got])
    assert 0.5 < got[0].smallest_null < 0.95
    assert abs(smallest.mean() - got[0].smallest_null) < 4 * smallest.std(ddof=1) / 60**0.5 + 0.02  # held is one draw


def test_invalid_confusions_raise():
    counts = np.array([5, 5])
    for bad in (np.ones((2, 2)), -np.ones((2, 2), int), np.ones((2, 3), int)):
        with pytest.raises(UserError, match="Confusion counts"):
            mode_coverage(np.ones(2), counts, confusion=bad)
    with pytest.raises(UserError, match="3 modes; there are 2"):
        mode_coverage(np.ones(2), counts, confusion=np.eye(3, dtype=int))
    with pytest.raises(UserError, match="from 0 to 1"):
        Confusion.of([[0, 2]], [[0, 1]], [2])
    unseen = np.array([[7, 1, 0], [0, 6, 0], [0, 0, 0]])  # a class without held-out images counts as always right
    np.testing.assert_array_equal(Confusion.of_counts(unseen).rates[0][0, 2], [0, 0, 1])


def test_two_runs_give_the_same_bits():
    counts, confusion = np.array([90, 60, 3]), np.array([[20, 2, 0], [1, 25, 0], [0, 0, 30]])
    a, b = (mode_coverage(np.ones(3), counts, confusion=confusion) for _ in range(2))
    assert a == b and (a.shares == b.shares).all() and (a.share_sd == b.share_sd).all()


# Bins without labels


def blobs(seed, n, kinds=10):
    centres = 4 * np.random.default_rng(0).normal(size=(10, 8))
    rng = np.random.default_rng([seed, 1])
    return (centres[rng.integers(kinds, size=n)] + rng.normal(size=(n, 8))).astype(np.float32)


def test_bins_detect_missing_kinds_and_none_for_equal_distributions():
    real = RealBins.of(blobs(0, 1500), blobs(1, 400))
    assert len(real.counts) == 20 == 400 // 20 and real.counts.sum() == 400
    lost = bin_scores(real, blobs(2, 1000, kinds=7))
    assert lost.fewer >= 3 and lost.different > lost.fewer and lost.kl > 0.2 and lost.smallest == 0
    few = RealBins.of(blobs(0, 500), blobs(1, 100))
    one = bin_scores(
        few, np.repeat(blobs(2, 1), 8, 0)
    )  # one image: eight copies cannot show every empty bin to hold fewer
    assert one.covered == 1 < one.bins - one.fewer
    null = [bin_scores(RealBins.of(blobs(3 * s, 500), blobs(3 * s + 1, 300)), blobs(3 * s + 2, 500)) for s in range(60)]
    assert sum(b.different > 0 for b in null) <= binom.ppf(0.999, 60, 0.05)
    kl = np.array([b.kl for b in null])
    assert abs(kl.mean()) < 0.2 * 14 / 2 * (1 / 300 + 1 / 500)
    assert np.mean([b.smallest for b in null]) == pytest.approx(np.mean([b.smallest_null for b in null]), abs=0.05)


def test_bins_are_seeded_cacheable_and_never_empty(tmp_path):
    train, held, x = blobs(0, 300), blobs(1, 200), blobs(2, 100)
    real = RealBins.of(train, held)
    store.write_arrays(tmp_path / "b.safetensors", real.to_arrays())
    cached = RealBins.from_arrays(store.open_arrays(tmp_path / "b.safetensors"))
    assert bin_scores(cached, x) == bin_scores(real, x) == bin_scores(RealBins.of(train, held), x)
    assert RealBins.of(train, held, seed=1).centres.tolist() != real.centres.tolist()
    outlier = np.concatenate([train, np.full((1, 8), 1e3, np.float32)])  # a bin of its own, with no held-out sample
    merged = RealBins.of(outlier, held)
    assert merged.counts.min() > 0 and np.isfinite(bin_scores(merged, x).kl)
    same = RealBins.of(np.ones((90, 2)), np.ones((90, 2)))
    assert bin_scores(same, np.ones((30, 2))).different == 0


def test_invalid_bins_raise():
    with pytest.raises(UserError, match="at least 40"):
        RealBins.of(blobs(0, 100), blobs(1, 39))
    with pytest.raises(UserError, match="bins is 1"):
        RealBins.of(blobs(0, 100), blobs(1, 50), 1)
    real = RealBins.of(blobs(0, 100), blobs(1, 50))
    with pytest.raises(UserError, match="3 wide"):
        bin_scores(real, blobs(2, 30)[:, :3])
