"""One generation's training: a fresh Lightning Trainer, checkpoints, resuming."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from imgloop import ranks, store
from imgloop.errors import Stopped, UserError
from imgloop.training.tasks import History, Task, TrainerSettings

CHECKPOINT = "checkpoint.pt"
POINT = 50  # optimiser steps, at least, whose mean is a point of the loss curve
CHUNK = {"cpu": 16, "cuda": 64}  # optimiser steps in one Lightning training_step; changes no result


@dataclass(frozen=True)
class Trained:
    """The end of a fit: state dicts of its optimisers, and its history."""

    optimizer_states: list[dict[str, Any]]
    history: History


class Chunks(IterableDataset):
    """The numbers of the optimiser steps still to do, `chunk` at a time: (first, last)."""

    def __init__(self, steps: int, chunk: int):
        self.steps, self.chunk, self.position = steps, chunk, 0

    def __iter__(self):
        while self.position < self.steps:
            first = self.position
            self.position = min(first + self.chunk, self.steps)
            yield first, self.position


class CheckpointCallback(L.Callback):
    """Saves the state of a generation in training, now and then and when asked to stop, and reports progress."""

    def __init__(self, task: Task, chunks: Chunks, batch: int):
        self.task, self.chunks, self.batch = task, chunks, batch
        self.started = self.saved = time.monotonic()
        self.done, self.saved_at, self.seconds_before = 0, 0, 0.0
        self.losses: list[list[float]] = []  # [images seen, mean loss since the point before]
        self.loss_sum, self.loss_steps = 0.0, 0  # since the last point

    @property
    def state_key(self) -> str:
        return "imgloop"  # not the class name: a renamed class still resumes

    @property
    def seconds(self) -> float:
        """Seconds of training, over all runs."""
        return self.seconds_before + time.monotonic() - self.started

    def state_dict(self):
        return {
            "done": self.done,
            "seconds": self.seconds,
            "losses": self.losses,
            "since": [self.loss_sum, self.loss_steps],
        }

    def load_state_dict(self, state_dict):
        state = state_dict
        self.done = self.saved_at = self.chunks.position = state["done"]
        self.seconds_before, self.losses = state["seconds"], state["losses"]
        self.loss_sum, self.loss_steps = state["since"]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        module: Any = pl_module
        self.done = batch[1]
        steps = batch[1] - batch[0]
        self.loss_sum, self.loss_steps = self.loss_sum + steps * module.recent_loss, self.loss_steps + steps
        if self.loss_steps >= POINT or self.done == self.chunks.steps:
            self.losses.append([self.done * self.batch, self.loss_sum / self.loss_steps])
            self.loss_sum, self.loss_steps = 0.0, 0
            self.task.on_loss(int(self.losses[-1][0]), self.losses[-1][1])
        self.task.progress(self.done * self.batch, self.chunks.steps * self.batch, loss=module.recent_loss)
        stop = ranks.anywhere(self.task.stop())
        late = time.monotonic() - self.saved > self.task.trainer.checkpoint_seconds
        if stop or self.done == self.chunks.steps or late:
            self.save(trainer)
        trainer.should_stop = stop

    def on_exception(self, trainer, pl_module, exception):
        if isinstance(exception, SIGTERMException) and self.done > self.saved_at:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        if ranks.rank() == 0:
            store.write_file(self.task.scratch / CHECKPOINT, trainer.save_checkpoint)
        self.saved, self.saved_at = time.monotonic(), self.done


def fit(module: L.LightningModule, task: Task, steps: int, batch: int) -> Trained:
    """Train `module` in place for `steps` optimiser steps of `batch` images, resuming from the task's scratch folder.

    The module's training_step is given (first, last), does the steps first..last - 1 itself (manual optimisation) and
    keeps `recent_loss`. Raises Stopped when the task asks to stop, after saving.
    """
    silence_lightning()
    settings = task.trainer
    chunks = Chunks(steps, task.chunk or CHUNK[settings.device])
    checkpoints = CheckpointCallback(task, chunks, batch)
    path = task.scratch / CHECKPOINT
    resume = path.exists()
    if resume:
        state, callback = read_checkpoint(path)
        checkpoints.load_state_dict(callback)
        if callback["done"] >= steps:
            module.load_state_dict(state["state_dict"])
            module.to(settings.device)
            return Trained(state["optimizer_states"], History(callback["losses"], callback["seconds"]))
    trainer = L.Trainer(
        accelerator=settings.accelerator,
        devices=[ranks.local()] if settings.accelerator == "gpu" else 1,
        precision=settings.precision,  # pyright: ignore[reportArgumentType]
        max_epochs=1,
        logger=False,
        callbacks=[checkpoints],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[LightningEnvironment()],  # the module itself averages gradients over ranks, after every backward pass
    )
    loader = DataLoader(chunks, batch_size=None)
    try:
        trainer.fit(module, loader, ckpt_path=path if resume else None, weights_only=True if resume else None)
    except SIGTERMException:  # Lightning handles SIGTERM as well
        raise Stopped(signal.SIGTERM) from None
    if checkpoints.done < steps:
        raise Stopped
    module.to(settings.device)
    states = [optimizer.state_dict() for optimizer in trainer.optimizers]
    return Trained(states, History(checkpoints.losses, checkpoints.seconds))


def compiled(network: nn.Module, settings: TrainerSettings) -> Callable[..., Any]:
    """What training calls: the network, or torch.compile of it. All batches of a fit have one shape, so that it is
    compiled once. Gradients must be None at each call, since CUDA graphs reuse the memory of those of the last."""
    if not settings.compile:
        return network
    if settings.compile is True:
        return torch.compile(network, dynamic=False)
    replayed = torch.compile(network, dynamic=False, mode="reduce-overhead")

    def step(*inputs: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return replayed(*inputs)

    return step


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state that an interrupted fit left, and that of CheckpointCallback; raises UserError if it is damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        (callback,) = (c for c in state["callbacks"].values() if "done" in c)
        return state, {k: callback[k] for k in ("done", "seconds", "losses", "since")}
    except Exception as e:  # torch raises many kinds of errors for a truncated or foreign file
        raise UserError(
            f"{path} cannot be read ({type(e).__name__}): the checkpoint of a generation in training is damaged. "
            "Delete it: the generation is then trained from its start; earlier ones are kept."
        ) from e


def silence_lightning() -> None:
    """Silence Lightning's notes on hardware, workers and loggers."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
