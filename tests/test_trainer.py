"""The loss curve and the state of one generation's training, over interruptions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from imgloop.training.trainer import CheckpointCallback, Chunks

STEPS, CHUNK, BATCH = 100, 16, 4
LOSSES = np.random.default_rng(0).random(7)  # the mean loss of each chunk


def callback(folder) -> CheckpointCallback:
    task = SimpleNamespace(
        scratch=folder,
        trainer=SimpleNamespace(checkpoint_seconds=1e9),
        stop=lambda: False,
        progress=lambda *counts, **values: None,
        on_loss=lambda *point: None,
    )
    return CheckpointCallback(cast(Any, task), Chunks(STEPS, CHUNK), BATCH)


def train(checkpoints: CheckpointCallback, chunks: int) -> None:
    """Go through the next `chunks` chunks, as Lightning does, and save nothing."""
    trainer = SimpleNamespace(should_stop=False, save_checkpoint=lambda path: path.touch())
    for _, chunk in zip(range(chunks), checkpoints.chunks):
        module = SimpleNamespace(recent_loss=LOSSES[chunk[0] // CHUNK])
        checkpoints.on_train_batch_end(cast(Any, trainer), cast(Any, module), None, chunk, 0)


def test_chunks_end_at_the_last_step():
    assert list(Chunks(40, 16)) == [(0, 16), (16, 32), (32, 40)]


def test_a_point_of_the_loss_curve_is_the_mean_over_its_steps(tmp_path):
    checkpoints = callback(tmp_path)
    train(checkpoints, 7)
    last = np.average(LOSSES[4:], weights=[16, 16, 4])  # the last chunk has 4 steps
    assert np.allclose(checkpoints.losses, [[64 * BATCH, LOSSES[:4].mean()], [STEPS * BATCH, last]])


@pytest.mark.parametrize("chunks", [2, 5])
def test_a_resumed_training_has_the_loss_curve_and_the_time_of_the_whole(tmp_path, chunks):
    whole, first, second = (callback(tmp_path) for _ in range(3))
    train(whole, 7)
    train(first, chunks)
    second.load_state_dict(first.state_dict() | {"seconds": 1000.0})
    assert second.done == chunks * CHUNK and 1000 <= second.seconds < 1100
    train(second, 7 - chunks)
    assert second.done == STEPS and second.losses == whole.losses
