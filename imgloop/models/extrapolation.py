"""Weights moved away from what training on its own samples makes of a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from imgloop import store
from imgloop.config.schedule import Knob, Schedule
from imgloop.contracts import Generator
from imgloop.pool import REAL, Mix, TrainingSet
from imgloop.training.tasks import Task, no_loss

EXTRAPOLATE_SHARE = 0.1  # images of training on own samples, of those before, by default
OWN_LR = 0.02  # its learning rate, of the recipe's: at the whole of it, the noise of its steps is all that counts


def weight_schedule(extrapolate: Knob) -> Schedule:
    """The weight of each generation's extrapolation, a number of at least 0 or a schedule of such; raises UserError."""
    return Schedule.of("model.extrapolate", extrapolate, 0, whole=False)


def own_samples(generator: Generator, data: TrainingSet, task: Task) -> TrainingSet:
    """A training set of the generator's own samples, as many as it was trained on."""
    n = len(data)
    pool = generator.sample(n, seed=store.seed_of(task.seed, task.t, "extrapolate"))
    mix = Mix(np.full((n, 1), task.t, np.int32), np.arange(n)[:, None])
    return TrainingSet({REAL: data.pools[REAL], task.t: pool}, mix)


def self_training(task: Task, share: float, batch: int) -> Task:
    """The task of going on with own samples: `share` of the images, at least one batch, in a folder of its own."""
    images, seed = max(batch, round(share * task.images)), store.seed_of(task.seed, task.t, "own")
    return replace(task, images=images, seed=seed, start="weights", scratch=task.scratch / "own", on_loss=no_loss)


@torch.no_grad()
def extrapolate(network: nn.Module, own: nn.Module, weight: float) -> None:
    """Move the weights of `network` in place: theta + weight (theta - theta_own), where theta_own are those after
    training on own samples. Source: Neon, negative extrapolation from self-training (arXiv 2510.03597)."""
    for theta, theta_own in zip(network.parameters(), own.parameters(), strict=True):
        theta.add_(theta - theta_own, alpha=weight)
