"""One generation's training: a fresh Lightning Trainer, batches that are functions of their number, resume."""

from __future__ import annotations

import logging
import os
import signal
import time
import warnings
from dataclasses import dataclass

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from imgloop import store
from imgloop.chain.loggers import LOSSES
from imgloop.errors import Stopped, UserError
from imgloop.pool import TrainingSet
from imgloop.training.tasks import Task

CHECKPOINT = "checkpoint.pt"
POINT = 50  # optimiser steps, at least, that a point of the loss curve is the mean of
SPENT = "spent.json"  # seconds of training so far, over all the sittings of an interrupted fit
PRECISIONS = ("32-true", "bf16-mixed")


@dataclass(frozen=True)
class TrainerSettings:
    """Where and how to train (conf/trainer): what Lightning's Trainer and the networks are given."""

    accelerator: str = "cpu"  # cpu | gpu
    precision: str = "32-true"  # 32-true | bf16-mixed
    channels_last: bool = False
    compile: bool = False  # torch.compile of the network
    resident_gib: float = 0.0  # training sets up to this size are held on the device; larger ones memory-mapped
    checkpoint_seconds: float = 30.0  # how often a generation in training is saved for resuming
    chunk: int = 16  # optimiser steps in one Lightning training_step; changes no result

    def __post_init__(self):
        if self.accelerator not in ("cpu", "gpu"):
            raise UserError(f"trainer.accelerator={self.accelerator}: choose cpu or gpu.")
        if self.precision not in PRECISIONS:
            raise UserError(f"trainer.precision={self.precision}: choose one of {', '.join(PRECISIONS)}.")
        if self.accelerator == "cpu" and self.precision != "32-true":
            raise UserError(
                f"trainer.precision={self.precision} on a CPU can be 80 times slower than fp32: use "
                "trainer.precision=32-true."
            )
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise UserError(
                "trainer=gpu, but PyTorch sees no GPU on this machine: use trainer=cpu, or check the driver with "
                "nvidia-smi."
            )
        if self.chunk < 1 or self.checkpoint_seconds <= 0 or self.resident_gib < 0:
            raise UserError(
                "trainer.chunk must be at least 1, trainer.checkpoint_seconds above 0 and trainer.resident_gib "
                "not negative."
            )

    @property
    def device(self) -> str:
        return "cuda" if self.accelerator == "gpu" else "cpu"


class Batches:
    """Batch k of a generation as a function of (seed, t, k): resuming needs a position, not a stream's state.

    An epoch is a permutation of the training set keyed by its number; a weighted mix is drawn with replacement. Sets
    of at
    most `resident` bytes are held on the device as uint8; larger ones are gathered from the memory-mapped pools.
    """

    def __init__(
        self,
        data: TrainingSet,
        seed: int,
        t: int,
        batch: int,
        device: str = "cpu",
        resident: float = 0,
        labelled: bool = False,
    ):
        self.data, self.seed, self.t, self.batch, self.device, self.labelled = data, seed, t, batch, device, labelled
        self.epoch, self.order, self.held = -1, None, None
        n, one = len(data), data.gather(np.arange(1))
        self.y = data.labels() if labelled else None
        if one.nbytes * n <= resident:
            self.held = torch.empty((n, *one.shape[1:]), dtype=torch.uint8, device=device)
            for first in range(0, n, 4096):
                index = np.arange(first, min(first + 4096, n))
                self.held[first : first + len(index)] = torch.from_numpy(data.gather(index)).to(device)

    def index(self, k: int) -> np.ndarray:
        """Positions in the mix of batch k, int64 (batch,)."""
        n, weight = len(self.data), self.data.mix.weight
        if weight is not None:
            p = weight[:, 0] / weight[:, 0].sum()
            return np.random.default_rng(store.seed_of(self.seed, self.t, "batch", k)).choice(n, self.batch, p=p)
        out, at = [], k * self.batch
        while at < (k + 1) * self.batch:
            epoch, first = divmod(at, n)
            if epoch != self.epoch:
                rng = np.random.default_rng(store.seed_of(self.seed, self.t, "epoch", epoch))
                self.epoch, self.order = epoch, rng.permutation(n)
            out.append(self.order[first : first + (k + 1) * self.batch - at])
            at += len(out[-1])
        return np.concatenate(out)

    def __call__(self, k: int) -> tuple[Tensor, Tensor | None]:
        """Images of batch k in [-1, 1], float32 (batch, C, H, W) on the device, and labels int64 (batch,) or None."""
        index = self.index(k)
        if self.held is not None:
            x = self.held[torch.from_numpy(index).to(self.device)]
        else:
            x = torch.from_numpy(self.data.gather(index)).to(self.device)
        y = None if self.y is None else torch.from_numpy(self.y[index]).to(self.device)
        return x.float().div_(127.5).sub_(1), y


class Chunks(IterableDataset):
    """The numbers of the optimiser steps still to do, `chunk` at a time: (first, last)."""

    def __init__(self, steps: int, chunk: int):
        self.steps, self.chunk, self.position = steps, chunk, 0

    def __iter__(self):
        while self.position < self.steps:
            first = self.position
            self.position = min(first + self.chunk, self.steps)
            yield first, self.position


class Keeper(L.Callback):
    """Saves where the generation stands now and then and when asked to stop, and tells the progress."""

    def __init__(self, task: Task, chunks: Chunks, batch: int, seconds: float):
        self.task, self.chunks, self.batch, self.seconds = task, chunks, batch, seconds
        self.began = self.saved = time.monotonic()
        self.done, self.saved_at, self.before = 0, 0, 0.0
        self.losses: list[list[float]] = []  # [images seen, mean loss since the point before]
        self.summed, self.counted = 0.0, 0  # of the steps since then

    def state_dict(self):
        return {
            "done": self.done,
            "seconds": self.before + time.monotonic() - self.began,
            "losses": self.losses,
            "since": [self.summed, self.counted],
        }

    def load_state_dict(self, state):
        self.done = self.saved_at = self.chunks.position = state["done"]
        self.before = state["seconds"]
        self.losses = state.get("losses", [])  # a checkpoint of before they were kept has none
        self.summed, self.counted = state.get("since", (0.0, 0))

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.done = batch[1]
        steps = batch[1] - batch[0]
        self.summed, self.counted = self.summed + steps * module.recent_loss, self.counted + steps
        if self.counted >= POINT or self.done == self.chunks.steps:
            self.losses.append([self.done * self.batch, self.summed / self.counted])
            self.summed, self.counted = 0.0, 0
        self.task.progress(self.done * self.batch, self.chunks.steps * self.batch, loss=module.recent_loss)
        stop = self.task.stop()
        if stop or self.done == self.chunks.steps or time.monotonic() - self.saved > self.seconds:
            self.save(trainer)
        trainer.should_stop = stop

    def on_exception(self, trainer, module, exception):
        if isinstance(exception, SIGTERMException) and self.done > self.saved_at:
            self.save(trainer)

    def save(self, trainer):
        path, part = self.task.scratch / CHECKPOINT, self.task.scratch / f".{CHECKPOINT}.part"
        with store.writing(path):
            self.task.scratch.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(part)
            os.replace(part, path)
        store.write_json(self.task.scratch / SPENT, {"seconds": self.state_dict()["seconds"]})
        store.write_json(self.task.scratch / LOSSES, self.losses)
        self.saved, self.saved_at = time.monotonic(), self.done


def fit(module: L.LightningModule, task: Task, steps: int, batch: int, settings: TrainerSettings) -> list[dict]:
    """Train `module` in place for `steps` optimiser steps of `batch` images, resuming from the task's scratch folder.

    The module's training_step is given (first, last), does the steps first..last - 1 itself (manual optimisation) and
    keeps `recent_loss`. Returns the optimisers' state dicts. Raises Stopped when the task asks to stop, after saving.
    """
    quiet()
    chunks = Chunks(steps, settings.chunk)
    keeper = Keeper(task, chunks, batch, settings.checkpoint_seconds)
    path, saved = task.scratch / CHECKPOINT, None
    if path.exists():
        state = torch.load(path, map_location="cpu", weights_only=True)
        done = state["callbacks"][keeper.state_key]["done"]
        if done >= steps:
            module.load_state_dict(state["state_dict"])
            module.to(settings.device)
            return state["optimizer_states"]
        saved = path
    trainer = L.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        precision=settings.precision,
        max_epochs=1,
        logger=False,
        callbacks=[keeper],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    try:
        trainer.fit(module, DataLoader(chunks, batch_size=None), ckpt_path=saved, weights_only=True if saved else None)
    except SIGTERMException:  # Lightning hears SIGTERM as well as we do
        raise Stopped(signal.SIGTERM) from None
    if keeper.done < steps:
        raise Stopped
    module.to(settings.device)
    return [o.state_dict() for o in trainer.optimizers]


def use_threads(threads: int | None, size: int) -> None:
    """Compute with this many threads on the CPU; None takes one for images of up to 8 pixels, else PyTorch's default.

    At 8 pixels a second thread gains a quarter on an idle machine and loses up to a hundredfold on a busy one, where
    the two wait for each other in every small operation.
    """
    if threads is not None or size <= 8:
        torch.set_num_threads(threads or 1)


def quiet() -> None:
    """One display, ours: Lightning's notes on hardware, workers and loggers are not news to a user here."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
