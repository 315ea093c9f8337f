"""Training sets as indices into pools, their checks, and their batches."""

# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalIterable=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# (labels, classes and facts may be None; a test that meets None fails.)

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from imgloop import store
from imgloop.errors import UserError
from imgloop.pool import REAL, Mix, Pool, TrainingSet, check_mix
from imgloop.training.batches import Batches

SHAPE = (3, 4, 5)
SIZES = {REAL: 12, 0: 7, 1: 20, 2: 1}


def images(seed: int, n: int, shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


@pytest.fixture(scope="module")
def pools(tmp_path_factory) -> dict[int, Pool]:
    """Four pools, as a chain opens them: memory-mapped from files of their own."""
    folder, out = tmp_path_factory.mktemp("pools"), {}
    for origin, n in SIZES.items():
        path = folder / f"{origin}.safetensors"
        store.write_arrays(path, {"x": images(origin + 1, n), "y": np.arange(n) * 10 + origin})
        arrays = store.open_arrays(path)
        assert isinstance(arrays["x"], np.memmap) and isinstance(arrays["y"], np.memmap)
        out[origin] = Pool(arrays["x"], arrays["y"])
    return out


def random_mix(seed: int, n: int, replicates: int = 1, sizes=SIZES, weight=None) -> Mix:
    """Random rows of random pools, with repeats."""
    rng = np.random.default_rng(seed)
    origin = rng.choice(list(sizes), (n, replicates)).astype(np.int32)
    row = (rng.random((n, replicates)) * np.vectorize(sizes.get)(origin)).astype(np.int64)
    return Mix(origin, row, weight)


def whole(origin: int, n: int, **more) -> Mix:
    return Mix(np.full((n, 1), origin), np.arange(n)[:, None], **more)


def plain_set(n: int, seed: int = 0, shape=(1, 2, 2), labelled: bool = True, **more) -> TrainingSet:
    """One pool of n images, whole."""
    y = np.random.default_rng(seed).integers(0, 10, n) if labelled else None
    return TrainingSet({REAL: Pool(images(seed, n, shape), y)}, whole(REAL, n, **more))


# Pool and Mix


def test_a_pool_has_as_many_labels_as_samples():
    assert len(Pool(images(0, 3), np.arange(3))) == 3
    with pytest.raises(AssertionError):
        Pool(images(0, 3), np.arange(4))


def test_origin_and_row_of_a_mix_have_one_shape():
    assert len(Mix(np.zeros((5, 2), int), np.zeros((5, 2), int))) == 5
    for origin, row in (((5, 1), (4, 1)), ((5, 1), (5, 2)), ((5,), (5,))):
        with pytest.raises(UserError, match="shape"):
            Mix(np.zeros(origin, int), np.zeros(row, int))


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_shares_count_every_sample_of_every_replicate(seed, n, replicates):
    mix = random_mix(seed, n, replicates)
    flat = mix.origin.ravel().tolist()
    assert mix.shares() == {o: pytest.approx(flat.count(o) / len(flat)) for o in set(flat)}
    assert sum(mix.shares().values()) == pytest.approx(1)
    assert all(type(o) is int and type(s) is float for o, s in mix.shares().items())  # they are written to JSON


def test_shares_of_an_example():
    mix = Mix(np.array([[-1, -1], [-1, 0], [0, 0], [2, 2]]), np.zeros((4, 2), int))
    assert mix.shares() == {-1: 3 / 8, 0: 3 / 8, 2: 2 / 8}


# TrainingSet


@given(seed=st.integers(0, 1000), n=st.integers(1, 60), replicates=st.integers(1, 3), data=st.data())
@settings(max_examples=60, deadline=None)
def test_gathering_equals_indexing_one_by_one(pools, seed, n, replicates, data):
    mix = random_mix(seed, n, replicates)
    r = data.draw(st.integers(0, replicates - 1))
    index = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=50)))
    training = TrainingSet(pools, mix)
    got, labels = training.gather(index, r), training.labels(index, r)
    assert got.shape == (len(index), *SHAPE) and got.dtype == np.uint8 and labels.dtype == np.int64
    for i, x, y in zip(index, got, labels):
        pool, row = pools[int(mix.origin[i, r])], mix.row[i, r]
        assert (x == pool.x[row]).all() and y == pool.y[row]


def test_labels_are_in_the_order_of_the_mix(pools):
    mix = random_mix(3, 50)
    expected = [pools[int(o)].y[i] for o, i in zip(mix.origin[:, 0], mix.row[:, 0])]
    assert TrainingSet(pools, mix).labels().tolist() == expected
    assert len(TrainingSet(pools, mix)) == 50


def test_gathered_samples_are_a_copy(pools):
    training = TrainingSet(pools, whole(0, 7))
    got = training.gather(np.arange(7))
    got[:] = 0
    assert (training.gather(np.arange(7)) == pools[0].x).all()


def test_there_are_no_labels_if_a_pool_of_the_mix_has_none(pools):
    bare = {**pools, 0: Pool(pools[0].x)}
    only_some = Mix(np.array([[REAL], [0], [1]]), np.zeros((3, 1), int))
    assert TrainingSet(bare, only_some).labels() is None
    assert TrainingSet(bare, only_some).labels(np.array([0, 2])) is None  # None for every batch of the mix
    assert TrainingSet(bare, whole(0, 7)).labels() is None
    assert TrainingSet(bare, whole(1, 20)).labels().tolist() == pools[1].y.tolist()  # pool 0 is not in this mix


def test_weights_of_the_mix_and_of_its_samples_are_multiplied_in_each_replicate():
    mix = random_mix(3, 30, 2, sizes={REAL: 12, 0: 7}, weight=np.random.default_rng(4).random((30, 2)))
    own = np.random.default_rng(5).random((7, 2))
    for weight in (own[:, 0], own):  # one for all replicates, one for each
        pools = {REAL: Pool(np.zeros((12, 2, 1))), 0: Pool(np.zeros((7, 2, 1)), weight=weight)}
        of_sample = np.broadcast_to(weight.reshape(7, -1), (7, 2))
        expected = mix.weight.copy()
        for k, r in np.argwhere(mix.origin == 0):
            expected[k, r] *= of_sample[mix.row[k, r], r]
        assert np.array_equal(TrainingSet.of(pools, mix).mix.weight, expected)


@pytest.mark.parametrize("sizes", [{REAL: 12, 1: 7}, {0: 7}])
def test_samples_of_a_solvable_system_are_those_of_their_replicate(sizes):
    pools = {o: Pool(np.random.default_rng(o + 1).random((n, 3, 2))) for o, n in sizes.items()}
    mix = random_mix(8, 40, 3, sizes)
    expected = [[pools[int(mix.origin[k, r])].x[mix.row[k, r], r] for r in range(3)] for k in range(40)]
    assert np.array_equal(TrainingSet(pools, mix).samples(), expected)


def test_a_mix_with_an_unknown_pool_or_row_fails(pools):
    with pytest.raises(KeyError):
        TrainingSet(pools, whole(5, 3)).gather(np.arange(3))
    with pytest.raises(IndexError):
        TrainingSet(pools, whole(0, 8)).gather(np.arange(8))


# Checks of a user's mix

PART = "paradigm=window (window.py: Window)"


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 3), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_correct_mix_passes(seed, n, replicates, weighted, common):
    weight = np.random.default_rng(seed).random((n, replicates)) + 0.01 if weighted else None
    mix = random_mix(seed, n, 1 if common else replicates, weight=None if common else weight)
    if common:
        mix = Mix(*(np.broadcast_to(a[:, :1], (n, replicates)) for a in (mix.origin, mix.row)), weight)
    check_mix(mix, SIZES, replicates, PART)


def altered(array: np.ndarray, at: tuple[int, int], value: float) -> np.ndarray:
    out = np.array(array, np.result_type(array, type(value)))
    out[at] = value
    return out


WRONG = {
    "a Mix": lambda m, at: (m.origin, m.row),
    "origin 9": lambda m, at: Mix(altered(m.origin, at, 9), m.row),
    "origin -2": lambda m, at: Mix(altered(m.origin, at, -2), m.row),
    "row -1": lambda m, at: Mix(m.origin, altered(m.row, at, -1)),
    "row 20": lambda m, at: Mix(altered(m.origin, at, 1), altered(m.row, at, 20)),
    "integers": lambda m, at: Mix(m.origin, m.row.astype(float)),
    "array of integers": lambda m, at: Mix(m.origin.tolist(), m.row),
    "replicate": lambda m, at: Mix(np.repeat(m.origin, 2, 1), np.repeat(m.row, 2, 1)),
    "at least one": lambda m, at: Mix(m.origin[:0], m.row[:0]),
    "weights of shape": lambda m, at: Mix(m.origin, m.row, np.ones(len(m) + 1)),
    "array of numbers": lambda m, at: Mix(m.origin, m.row, np.full(m.row.shape, "1")),
    "the weight -0.5": lambda m, at: Mix(m.origin, m.row, altered(np.ones(m.row.shape), at, -0.5)),
    "the weight nan": lambda m, at: Mix(m.origin, m.row, altered(np.ones(m.row.shape), at, float("nan"))),
    "the weight inf": lambda m, at: Mix(m.origin, m.row, altered(np.ones(m.row.shape), at, float("inf"))),
    "all 0": lambda m, at: Mix(m.origin, m.row, 1.0 * (np.indices(m.row.shape)[1] != at[1])),
}


@pytest.mark.parametrize("word", WRONG)
@given(seed=st.integers(0, 1000), n=st.integers(1, 30), replicates=st.integers(1, 3), data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_wrong_mix_is_refused_with_the_name_of_the_paradigm(word, seed, n, replicates, data):
    at = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, replicates - 1))
    mix = WRONG[word](random_mix(seed, n, replicates), at)
    with pytest.raises(UserError) as error:
        check_mix(mix, SIZES, replicates, PART)
    message = str(error.value)
    assert message.startswith(PART) and word in message and error.value.setting == "paradigm" and "\n" not in message


# Batches


def indices(training: TrainingSet, ks, batch=8, seed=1, t=2, **more) -> dict[int, list[int]]:
    """Positions of the batches `ks`, requested from one object in that order."""
    batches = Batches(training, seed, t, batch, **more)
    return {k: batches.index(k).tolist() for k in ks}


@given(n=st.integers(1, 50), batch=st.integers(1, 70), order=st.permutations(range(9)), weighted=st.booleans())
@settings(max_examples=60, deadline=None)
def test_batch_k_does_not_depend_on_earlier_requests(n, batch, order, weighted):
    weight = np.random.default_rng(n).random((n, 1)) + 0.1 if weighted else None
    training = plain_set(n, weight=weight)
    forward = indices(training, range(9), batch)
    assert indices(training, order, batch) == forward
    assert indices(training, [*range(9), *reversed(range(9))], batch) == forward  # backwards, too
    for k in (0, 5, 8):
        assert indices(training, [k], batch) == {k: forward[k]}  # as after resuming


@given(n=st.integers(1, 60), batch=st.integers(1, 80))
@settings(max_examples=80, deadline=None)
def test_every_epoch_is_a_permutation(n, batch):
    epochs = 4
    stream = np.concatenate(list(indices(plain_set(n), range(-(-epochs * n // batch)), batch).values()))
    assert len(stream) % batch == 0
    for e in range(epochs):
        assert sorted(stream[e * n : (e + 1) * n]) == list(range(n))


def test_epochs_generations_and_seeds_are_shuffled_differently():
    training = plain_set(64)
    orders = {tuple(indices(training, [k], 64, seed, t)[k]) for seed in (0, 1) for t in (0, 1) for k in range(3)}
    assert len(orders) == 12 and tuple(range(64)) not in orders
    weighted = plain_set(64, weight=np.ones((64, 1)))
    orders = {tuple(indices(weighted, [k], 64, seed, t)[k]) for seed in (0, 1) for t in (0, 1) for k in range(3)}
    assert len(orders) == 12


@pytest.mark.parametrize("resident", [0, 1e9])
def test_flips_mirror_half_of_the_images_and_depend_on_seed_generation_and_step_alone(resident):
    x = np.random.default_rng(0).integers(0, 256, (64, 3, 4, 4), np.uint8)
    training = TrainingSet({REAL: Pool(x, np.arange(64))}, Mix(np.full((64, 1), REAL), np.arange(64)[:, None]))

    def mirrored(seed, t, k, resident):
        plain, y = Batches(training, seed, t, 64, labelled=True)(k)
        flipped, labels = Batches(training, seed, t, 64, resident=resident, labelled=True, flip=True)(k)
        unchanged = (flipped == plain).flatten(1).all(1)
        assert torch.equal(flipped[~unchanged], plain[~unchanged].flip(3)) and torch.equal(y, labels)
        return tuple((~unchanged).tolist())

    keys = [(seed, t, k) for seed in (0, 1) for t in (0, 1) for k in range(5)]
    masks = [mirrored(*key, resident) for key in keys]
    assert len(set(masks)) == len(keys) and abs(np.mean(masks) - 0.5) < 0.06
    assert masks == [mirrored(*key, 0) for key in keys]


def test_a_shuffle_is_uniform():
    """Sample 0 is at each position of an epoch of 8 equally often."""
    batches = Batches(plain_set(8), 0, 0, 8)
    positions = np.bincount([batches.index(k).tolist().index(0) for k in range(1600)], minlength=8)
    assert chisquare(positions).pvalue > 1e-4


def test_a_batch_is_the_images_in_minus_one_to_one_with_their_labels(pools):
    mix = random_mix(5, 40)
    training = TrainingSet(pools, mix)
    batches = Batches(training, 1, 2, 16, labelled=True)
    for k in range(6):
        index = batches.index(k)
        x, y = batches(k)
        assert x.shape == (16, *SHAPE) and x.dtype == torch.float32 and y.dtype == torch.int64
        assert torch.equal(x, torch.from_numpy(training.gather(index).astype(np.float32)) / 127.5 - 1)
        assert y.tolist() == training.labels(index).tolist()
    assert Batches(training, 1, 2, 16)(0)[1] is None  # labels only if requested


def test_black_is_minus_one_and_white_is_one():
    x = np.array([0, 255, 51], np.uint8).reshape(3, 1, 1, 1)
    batch, _ = Batches(TrainingSet({0: Pool(x)}, whole(0, 3)), 0, 0, 3)(0)
    assert sorted(batch.flatten().tolist()) == pytest.approx([-1, -0.6, 1], abs=1e-6)


def test_resident_and_memory_mapped_batches_are_equal(pools):
    for training in (
        TrainingSet(pools, random_mix(6, 45)),
        TrainingSet(pools, random_mix(6, 45, weight=np.random.default_rng(0).random((45, 1)))),
    ):
        mapped, held = (Batches(training, 3, 1, 10, resident=size, labelled=True) for size in (0, 1e9))
        assert (
            mapped.resident_images is None
            and held.resident_images.dtype == torch.uint8
            and len(held.resident_images) == 45
        )
        for k in (0, 1, 7, 3):
            (x, y), (held_x, held_y) = mapped(k), held(k)
            assert torch.equal(x, held_x) and torch.equal(y, held_y)
            before = held_x.clone()
            held_x.zero_()  # a batch is a copy
            assert torch.equal(held(k)[0], before)


def test_a_large_resident_set_is_complete():
    training = plain_set(9000)  # filled in several pieces
    assert torch.equal(
        Batches(training, 0, 0, 64, resident=1e6).resident_images, torch.from_numpy(training.pools[REAL].x)
    )


def test_a_set_is_resident_up_to_the_size_given():
    training = plain_set(10)  # 10 images of 4 bytes
    assert Batches(training, 0, 0, 4, resident=40).resident_images is not None
    assert Batches(training, 0, 0, 4, resident=39).resident_images is None
    assert Batches(training, 0, 0, 4).resident_images is None


def test_a_weighted_mix_is_drawn_in_proportion_to_its_weights():
    weight = np.array([0.0, 1, 2, 3, 4])[:, None]
    for scale in (1, 0.01):  # weights need not sum to 1
        batches = Batches(plain_set(5, weight=weight * scale), 0, 0, 50)
        counts = np.bincount(np.concatenate([batches.index(k) for k in range(100)]), minlength=5)
        assert counts[0] == 0 and counts.sum() == 5000
        assert chisquare(counts[1:], 5000 * weight[1:, 0] / 10).pvalue > 1e-4


def test_equal_weights_are_drawn_with_replacement():
    """A weighted batch has independent draws, not an epoch: some sample occurs twice."""
    index = Batches(plain_set(30, weight=np.ones((30, 1))), 0, 0, 30).index(0)
    assert len(set(index.tolist())) < 30
