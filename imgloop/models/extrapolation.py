"""Weights or scores moved away from what training on its own samples makes of a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from imgloop import store
from imgloop.config.schedule import Knob, Schedule
from imgloop.contracts import Generator, Model
from imgloop.errors import UserError
from imgloop.models.objectives import Predict
from imgloop.pool import REAL, Mix, TrainingSet
from imgloop.training.tasks import Task, no_loss

EXTRAPOLATE_SHARE = 0.1  # images of training on own samples, of those before, by default
PLAIN = {"extrapolate": 0, "extrapolate_by": "weights", "extrapolate_share": EXTRAPOLATE_SHARE}  # settings without it
OWN_LR = 0.02  # its learning rate, of the recipe's: at the whole of it, the noise of its steps is all that counts


def weight_schedule(extrapolate: Knob) -> Schedule:
    """The weight of each generation's extrapolation, a number of at least 0 or a schedule of such; raises UserError."""
    return Schedule.of("model.extrapolate", extrapolate, 0, whole=False)


def check_extrapolation(model: Any) -> None:
    """Raise UserError for settings of a model's extrapolation without effect, or that its network cannot have."""
    for name, usual in (("extrapolate_share", EXTRAPOLATE_SHARE), ("extrapolate_by", "weights")):
        if getattr(model, name) != usual and model.extrapolate_at.always(0):
            raise UserError(
                f"model.{name} has no effect without model.extrapolate: set that above 0, or leave it out.",
                f"model.{name}",
            )
    if model.extrapolate_by == "scores" and model.network == "unet2d":
        raise UserError(
            "model.extrapolate_by=scores is not for model.network=unet2d, whose files diffusers samples without it: "
            "choose model.network=compact, or model.extrapolate_by=weights.",
            "model.extrapolate_by",
        )


def move_away(
    generator: Any, plain: Model, data: TrainingSet, task: Task, batch: int, weight: float, by: str, share: float
) -> None:
    """Train a copy of a fitted generator on its own samples, and move the generator away from it, in place: its
    weights, or the scores that it samples by. `plain`: the model without extrapolation, which fits the copy."""
    own = plain.fit(own_samples(generator, data, task), self_training(task, share, batch), generator)
    images = own.description["trained_images"]
    generator.description["extrapolated"] = {"weight": weight, "images": images, "by": by}
    if by == "scores":
        generator.own = own.network
    else:
        extrapolate(generator.network, own.network, weight)


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


def away(predict: Predict, own: Predict, weight: float) -> Predict:
    """The network's output moved away from that of the network trained on own samples: out + weight (out - out_own).

    Outputs are affine in the score with equal coefficients, so that this extrapolates scores. Source: SIMS,
    Self-Improving Diffusion Models with Synthetic Data (arXiv 2408.16333).
    """

    def extrapolated(x: Tensor, timestep: Tensor) -> Tensor:
        return torch.lerp(own(x, timestep), predict(x, timestep), 1 + weight)

    return extrapolated


def by_scores(description: dict[str, Any], path: Path) -> bool:
    """Whether a described generator moves its scores away from a second network's; raises UserError, naming the file,
    for a description of another form."""
    facts = description.get("extrapolated")
    if facts is None:
        return False
    weight = facts.get("weight") if isinstance(facts, dict) else None
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 <= weight < float("inf"):
        raise store.damaged(path, f"has extrapolated {str(facts)[:40]}, which has no weight")
    scores = facts.get("by") == "scores"
    if scores and description["network"] == "unet2d":
        raise store.damaged(path, "has scores extrapolated with a network that has one set of weights")
    return scores
