"""What all generators share: sampling in chunks, sampling bias, labels, the saved state of a training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from imgloop.contracts import no_progress
from imgloop.errors import UserError
from imgloop.models.base import (
    CHUNK,
    ROWS,
    chunks_at_once,
    label_frequencies,
    latents_of,
    load_training,
    sample_images,
    save_training,
)
from imgloop.models.gan_networks import Generator, check_widths
from imgloop.models.networks import PRESETS, build_network
from imgloop.models.samplers import output
from imgloop.pool import REAL, Mix, Pool, TrainingSet

DESCRIPTION = {"channels": 1, "size": 2, "bias": 1.0, "label_frequencies": None}


def latents(n, seed=3, y=None, **described):
    """Pool of a generator whose images are its latents over 5, and the batches it was asked for: (size, labels)."""
    batches = []

    def images_of(z, labels):
        batches.append((len(z), None if labels is None else labels.tolist()))
        return z.view(-1, 1, 2, 2) / 5

    description = DESCRIPTION | described
    return sample_images(images_of, n, (4,), description, "cpu", seed, y, no_progress), batches


def test_sample_i_is_a_function_of_the_seed_and_i():
    many, batches = latents(2 * CHUNK + 5)
    assert [count for count, _ in batches] == [CHUNK, CHUNK, ROWS]  # a whole number of rows of 16
    assert np.array_equal(latents(CHUNK + 1)[0].x, many.x[: CHUNK + 1])
    assert len(np.unique(many.x.reshape(len(many), -1), axis=0)) > 0.98 * len(many)
    assert not np.array_equal(latents(5, seed=4)[0].x, many.x[:5])


def predictor(kind, size):
    """A function of standard normal latents (B, ...) with weights that are nowhere zero; and the latents' shape."""
    torch.manual_seed(0)
    network = (
        Generator(size, 1, check_widths(size, None), 64, 1, 0) if kind == "gan" else build_network(kind, size, 1, None)
    )
    for p in network.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    network.eval()
    if kind == "gan":
        return network, (64,)
    return (lambda z: output(network, z, z.new_full((len(z),), 300.0), None)), (1, size, size)


@pytest.mark.parametrize("network", [*PRESETS, "gan"])
@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_sample_has_the_same_bits_in_every_batch_of_whole_rows(network, size, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        run, latent = predictor(network, size)
        z = latents_of(0, CHUNK, latent, 0)
        with torch.inference_mode():
            whole = run(z)
            assert whole.std() > 0
            for rows in (ROWS, 3 * ROWS, CHUNK // 2):
                assert torch.equal(run(z[:rows]), whole[:rows])
    finally:
        torch.set_num_threads(before)


def test_latents_of_several_chunks_are_those_of_each():
    whole = latents_of(0, 3 * CHUNK, (4,), 7)
    assert torch.equal(latents_of(CHUNK, ROWS, (4,), 7), whole[CHUNK : CHUNK + ROWS])
    assert torch.equal(latents_of(CHUNK, CHUNK + ROWS, (4,), 7), whole[CHUNK : 2 * CHUNK + ROWS])


def test_a_gpu_draws_as_many_chunks_as_an_eighth_of_its_memory_holds():
    gib = 2**30
    assert chunks_at_once(80 * gib, 3 * gib) == 2  # three would fit
    assert chunks_at_once(8 * gib, 3 * gib) == 1  # what does not fit is halved by in_parts
    assert chunks_at_once(80 * gib, gib // 100) == 64


@pytest.mark.parametrize("bias", [0.25, 1.0, 1.5])
def test_bias_is_the_variance_of_the_latents(bias):
    x = latents(4000, bias=bias)[0].x.astype(float) / 127.5 - 1
    assert np.var(x * 5) == pytest.approx(bias, rel=0.04)


def test_labels_are_drawn_by_their_frequencies_or_as_asked():
    pool, batches = latents(3000, label_frequencies=[0.7, 0.0, 0.3])
    assert (
        pool.y is not None
        and pool.y.dtype == np.int64
        and np.allclose(np.bincount(pool.y) / 3000, [0.7, 0, 0.3], atol=0.03)
    )
    assert np.array_equal(pool.y[:CHUNK], batches[0][1])
    asked = latents(3, y=[2, 2, 0], label_frequencies=[0.7, 0.0, 0.3])[0]
    assert asked.y is not None and asked.y.tolist() == [2, 2, 0] and latents(3, y=[0, 1, 2])[0].y is None
    for wrong in ([0, 1], [0, 1, 3], [-1, 0, 0]):
        with pytest.raises(UserError, match="from 0 to 2"):
            latents(3, y=wrong, label_frequencies=[0.7, 0.0, 0.3])


@pytest.mark.parametrize("value, byte", [(200.8, 201), (200.2, 200), (-9, 0), (300, 255)])
def test_images_are_rounded_to_the_nearest_byte(value, byte):
    pool = sample_images(
        lambda z, labels: torch.full((len(z), 1, 2, 2), value / 127.5 - 1),
        3,
        (4,),
        DESCRIPTION,
        "cpu",
        0,
        None,
        no_progress,
    )
    assert (pool.x == byte).all()


def test_labels_follow_the_weights_of_the_mix():
    real = Pool(np.zeros((4, 1, 8, 8), np.uint8), np.array([0, 1, 2, 2]))
    mix = Mix(np.full((4, 1), REAL), np.arange(4)[:, None], np.array([[3.0], [1.0], [0.5], [0.5]]))
    assert np.allclose(label_frequencies(TrainingSet({REAL: real}, mix), "training"), [0.6, 0.2, 0.2])


def test_labels_follow_the_mix_or_the_real_data():
    zeros = np.zeros((30, 1, 8, 8), np.uint8)
    real, samples = Pool(zeros, np.arange(30) % 3), Pool(zeros, np.zeros(30, np.int64))
    mix = Mix(np.repeat([REAL, 0], 30)[:, None], np.tile(np.arange(30), 2)[:, None])
    data = TrainingSet({REAL: real, 0: samples}, mix)
    assert np.allclose(label_frequencies(data, "training"), [40 / 60, 10 / 60, 10 / 60])
    assert np.allclose(label_frequencies(data, "real"), [1 / 3] * 3)
    unlabelled = TrainingSet({REAL: Pool(zeros)}, Mix(np.full((3, 1), REAL), np.arange(3)[:, None]))
    with pytest.raises(UserError, match="labelled") as error:
        label_frequencies(unlabelled, "real")
    assert error.value.setting == "model.conditional"


def test_the_state_of_a_training_is_restored_and_a_damaged_file_is_named(tmp_path):
    save_training(tmp_path, None)
    assert load_training(tmp_path) is None
    save_training(tmp_path, {"steps": 3, "weights": {"w": torch.arange(3)}})
    state = load_training(tmp_path)
    assert state is not None and state["steps"] == 3 and torch.equal(state["weights"]["w"], torch.arange(3))
    path = tmp_path / "training.pt"
    for data in (path.read_bytes()[:50], b"nothing"):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"training\.pt"):
            load_training(tmp_path)
