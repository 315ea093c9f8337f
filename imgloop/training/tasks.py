"""What a fit is asked to do and where: the task of one generation, and the settings of the trainer."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from imgloop.config.fields import check_settings, setting
from imgloop.contracts import Progress, no_progress
from imgloop.errors import UserError

PRECISIONS = ("32-true", "bf16-mixed")


def never_stop() -> bool:
    """A stop request that never comes."""
    return False


def no_loss(images: int, loss: float) -> None:
    """No-op callback for points of the loss curve."""


@dataclass(frozen=True)
class TrainerSettings:
    """Where and how to train (conf/trainer): what Lightning's Trainer and the networks are given.

    channels_last: memory format of the networks. compile: torch.compile of the network; `graphs` also replays its
    forward and backward pass as CUDA graphs, for networks so small that the GPU waits for the CPU to launch kernels.
    resident_gib: training sets up to this size are held on the device, larger ones memory-mapped. checkpoint_seconds:
    how often a generation in training is saved for resuming. devices: on each of `nodes` machines, a process for each,
    which share every batch; this changes results by rounding. Raises UserError for a wrong value, or for a GPU that
    PyTorch does not see.
    """

    accelerator: str = setting("cpu", choices=("cpu", "gpu"))
    precision: str = setting("32-true", choices=PRECISIONS)
    channels_last: bool = setting(False)
    compile: bool | str = setting(False, choices=(False, True, "graphs"))
    resident_gib: float = setting(0.0, low=0)
    checkpoint_seconds: float = setting(30.0, above=0)
    devices: int = setting(1, low=1)
    nodes: int = setting(1, low=1)

    def __post_init__(self):
        check_settings(self, "trainer")
        if self.accelerator == "cpu" and self.precision != "32-true":
            raise UserError(
                f"trainer.precision={self.precision} on a CPU can be 80 times slower than fp32: use "
                "trainer.precision=32-true.",
                "trainer.precision",
            )
        if self.accelerator == "cpu" and self.compile == "graphs":
            raise UserError(
                "trainer.compile=graphs needs a GPU, since a CPU has no CUDA graphs: use trainer.compile=false or "
                "trainer=gpu.",
                "trainer.compile",
            )
        if self.accelerator == "gpu":
            import torch  # takes seconds: only where a GPU is asked for

            if not torch.cuda.is_available():
                raise UserError(
                    "trainer=gpu, but PyTorch sees no GPU on this machine: use trainer=cpu, or check the driver with "
                    "nvidia-smi.",
                    "trainer",
                )
            there = torch.cuda.device_count()
        else:
            there = os.cpu_count() or 1
        if self.devices > there:
            what = "GPUs that PyTorch sees" if self.accelerator == "gpu" else "processors"
            raise UserError(
                f"trainer.devices={self.devices}: this machine has {there} {what}; give at most that many.",
                "trainer.devices",
            )

    @property
    def device(self) -> str:
        return "cuda" if self.accelerator == "gpu" else "cpu"


@dataclass(frozen=True)
class Task:
    """One fit: generation `t` of the chain with `seed`, to see `images` training images, starting from `start`.

    `scratch`: a folder of its own in which the fit keeps what it needs to resume. `progress(done, total, **figures)` is
    called now and then, `on_loss(images, loss)` for each point of the loss curve. When `stop()` is true the fit saves
    its state and raises Stopped. `chunk`: optimiser steps between two calls of `progress`, which changes no result;
    None: as the trainer chooses. `flip`: mirror training images horizontally at random.
    """

    t: int
    seed: int
    images: int
    start: str
    scratch: Path
    progress: Progress = no_progress
    stop: Callable[[], bool] = never_stop
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    on_loss: Callable[[int, float], None] = no_loss
    chunk: int | None = None
    flip: bool = False


@dataclass(frozen=True)
class History:
    """How a fit went: `losses`, a list of [images seen, mean loss since the point before], and `seconds` of training,
    over all the runs of an interrupted fit."""

    losses: list[list[float]]
    seconds: float
