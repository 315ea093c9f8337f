"""What pools, mixes and studies cost where they are large: bytes a row, and equal results by cheaper ways."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from conftest import REPO
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from imgloop import store
from imgloop.paradigm import Accumulate, AccumulateSubsample, rows_of
from imgloop.pool import REAL, STORED, Mix, Pool, TrainingSet, permutation
from imgloop.training.batches import Batches, cumulative

N = 400_000
SIZES = {REAL: N // 2, 0: N // 2}


def peak(do, *arguments):
    """Bytes that a call holds at most beside what there was before, and its result."""
    tracemalloc.start()
    try:
        result = do(*arguments)
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


# -- bytes a row ------------------------------------------------------------------------------------------------------


def test_a_mix_of_everything_takes_six_bytes_a_row():
    held, mix = peak(Accumulate(), SIZES, 1, np.random.default_rng(0))
    assert mix.origin.nbytes + mix.row.nbytes == 6 * N and held < 13 * N


@pytest.mark.parametrize("of", [Mix.counts, Mix.shares], ids=["counts", "shares"])
def test_what_is_read_from_a_mix_does_not_copy_it(of):
    mix = Accumulate()({REAL: 4 * N, 0: 4 * N}, 1, np.random.default_rng(0))
    held, _ = peak(of, mix)
    assert held < 17 << 20 and dict(mix.counts()) == {REAL: 4 * N, 0: 4 * N}


def test_a_mix_and_a_pool_are_written_in_blocks(tmp_path):
    mix = Accumulate()({REAL: 4 * N, 0: 4 * N}, 1, np.random.default_rng(0))
    held, _ = peak(store.write_arrays, tmp_path / "mix.safetensors", mix.arrays(), STORED)
    assert held < 40 << 20 < (tmp_path / "mix.safetensors").stat().st_size * 2
    x = np.zeros((N, 1, 16, 16), np.uint8)
    held, _ = peak(store.write_arrays, tmp_path / "pool.safetensors", {"x": x})
    assert held < 20 << 20 < x.nbytes


def test_the_order_of_an_epoch_takes_four_bytes_a_row():
    held, order = peak(permutation, N, np.random.default_rng(0))
    assert order.nbytes == 4 * N and held < 5 * N


def test_pools_beyond_two_billion_rows_keep_their_numbers():
    last = rows_of(3, 2, 1, first=2**31 - 2)
    assert last.row.dtype == np.int64 and last.row[-1, 0] == 2**31 - 1
    assert rows_of(2**15 - 1, 1, 1).origin[0, 0] == 2**15 - 1
    many = Mix(np.array([[2**15 - 2], [-1]], np.int16), np.zeros((2, 1), int))
    assert many.counts() == {-1: 1, 2**15 - 2: 1}


# -- equal results ----------------------------------------------------------------------------------------------------


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_orders_and_weighted_batches_are_those_of_numpy(n, seed):
    draw = np.random.default_rng(seed)
    weight = draw.random(n) * (draw.random(n) > 0.3)
    weight[0] += 1
    weight = weight.astype(np.float32) if seed % 2 else weight
    usual = np.random.default_rng(seed).choice(n, 64, p=weight / weight.sum())
    assert np.array_equal(
        np.searchsorted(cumulative(weight), np.random.default_rng(seed).random(64), side="right"), usual
    )
    assert np.array_equal(np.random.default_rng(seed).permutation(n), permutation(n, np.random.default_rng(seed)))


def test_a_batch_of_a_weighted_mix_is_the_one_of_before():
    mix = Mix(np.full((5, 1), REAL), np.arange(5)[:, None], np.array([[0.0], [1], [2], [3], [0]]))
    batches = Batches(TrainingSet({REAL: Pool(np.zeros((5, 1, 2, 2), np.uint8))}, mix), 3, 1, 8)
    rng = np.random.default_rng(store.seed_of(3, 1, "batch", 7))
    assert np.array_equal(batches.index(7), rng.choice(5, 8, p=mix.weight[:, 0] / 6))


ARRAYS = {
    **{f"é{name}": (np.arange(15).reshape(5, 3) % 2).astype(dtype) for name, dtype in store.DTYPES.items()},
    'a"b': np.zeros((0, 3)),
    "number": np.array(3),
    "repeated": np.broadcast_to(np.arange(4)[:, None], (4, 2)),
    "empty": np.zeros((2, 0)),
    "strided": np.arange(6.0)[::2],
}


@pytest.mark.parametrize("block", [7, 1 << 24])
def test_arrays_are_written_byte_for_byte_as_safetensors_writes_them(tmp_path, monkeypatch, block):
    monkeypatch.setattr(store, "BLOCK", block)
    store.write_arrays(tmp_path / "x", ARRAYS)
    wanted = save({k: np.ascontiguousarray(v) for k, v in ARRAYS.items()})
    assert (tmp_path / "x").read_bytes() == wanted
    stored = store.open_arrays(tmp_path / "x")
    assert all(np.array_equal(stored[k], np.atleast_1d(v)) for k, v in ARRAYS.items())


def test_a_mix_is_stored_and_hashed_with_the_types_of_before(tmp_path):
    mix = AccumulateSubsample()({REAL: 50, 0: 50}, 1, np.random.default_rng(0))
    before = {"origin": mix.origin.astype(np.int32), "row": mix.row.astype(np.int64)}
    store.write_arrays(tmp_path / "mix", mix.arrays(), STORED)
    assert (tmp_path / "mix").read_bytes() == save({k: np.ascontiguousarray(v) for k, v in before.items()})
    assert store.array_hash(*mix.stored()) == store.array_hash(before["origin"], before["row"], None)
    wide = Mix(mix.origin.astype(np.int64), mix.row, np.ones(mix.row.shape, np.float32))
    assert wide.stored()[0].dtype == np.int64, "no number of a user's mix is cut"


# -- the script -------------------------------------------------------------------------------------------------------


def script(*arguments):
    ran = subprocess.run(
        [sys.executable, REPO / "scripts" / "scale.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=590,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return [[c.strip() for c in line.split("|")[1:-1]] for line in ran.stdout.splitlines() if line.startswith("| ")]


@pytest.mark.nightly  # a minute, half a gigabyte on disk
def test_memory_of_the_loop_grows_by_a_few_bytes_a_row(tmp_path):
    heaps = []
    for images in (200_000, 1_200_000):
        rows = script("loop", "--images", images, "--generations", 3, "--out", tmp_path)
        assert [r[1] for r in rows[1:]] == [f"{k * images:,}" for k in (1, 2, 3)] and not list(tmp_path.iterdir())
        heaps.append(float(rows[-1][7].replace(",", "")))
    grown = (heaps[1] - heaps[0]) * 2**20 / 1_000_000  # bytes an image of a pool, whose last mix has three rows for it
    assert grown < 64 + 3 * 20, "the images that are drawn, and twenty bytes a row"
