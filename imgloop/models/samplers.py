"""Samplers of diffusion models: Euler and Heun along the path of the objective; DDIM and DPM-Solver++ by the
schedulers of diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from imgloop.models.objectives import Predict

ROUNDING = 1e-3  # of a level, relative, that comes back from a timestep in float32
STEPS = {"heun": 8, "euler": 16, "dpmpp": 12, "ddim": 25}  # defaults


def output(network: nn.Module, x: Tensor, timestep: Tensor, y: Tensor | None) -> Tensor:
    """The network's output for x (B, C, H, W), timestep (B,), labels y (B,) or None; for either network."""
    out = network(x, timestep, y)
    return getattr(out, "sample", out)


def guided(
    network: nn.Module,
    y: Tensor | None,
    guidance: float,
    null: int,
    objective: Any = None,
    interval: Sequence[float] | None = None,
) -> Predict:
    """Classifier-free guidance (Ho & Salimans 2022): out = out_null + guidance (out_y - out_null); 1 means none.

    `interval`: the levels [low, high] of `objective` at which to guide, at the cost of a second evaluation
    (Kynkaanniemi et al. 2024, arXiv 2404.07724); None: all.
    """

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        if guidance == 1 or y is None or (interval and not within(objective.level(timestep[0]).item(), interval)):
            return output(network, x, timestep, y)
        both = output(network, x.repeat(2, 1, 1, 1), timestep.repeat(2), torch.cat((y, torch.full_like(y, null))))
        labelled, unlabelled = both.chunk(2)
        return torch.lerp(unlabelled, labelled, guidance)

    return predict


def within(level: float, interval: Sequence[float]) -> bool:
    """Whether a level, known to float32, is in [low, high]."""
    low, high = interval
    return low * (1 - ROUNDING) <= level <= high * (1 + ROUNDING)


@torch.inference_mode()
def draw(objective, predict: Predict, latents: Tensor, sampler: str, steps: int) -> Tensor:
    """Images (B, C, H, W), with values of about -1 to 1, from standard normal latents of that shape."""
    if sampler in ("euler", "heun"):
        return integrate(objective, predict, latents * objective.first_scale, sampler, steps)
    return scheduled(objective.scheduler(sampler), objective.for_scheduler(predict), latents, steps)


@torch.inference_mode()
def integrate(objective, predict: Predict, x: Tensor, sampler: str, steps: int) -> Tensor:
    """Integrate dx/ds from the first level of the objective's grid to 0.

    `euler` needs `steps` evaluations; `heun` (second order) 2 steps - 1, since its last step is an Euler step. Source:
    Karras et al. 2022, algorithm 1.
    """

    def derivative(x: Tensor, s: float) -> Tensor:
        level = x.new_full((len(x),), s)
        return objective.derivative(x, predict(*objective.inputs(x, level)), level)

    for s, after in pairwise(objective.grid(steps)):
        d = derivative(x, s)
        ahead = x + (after - s) * d
        if sampler == "heun" and after > 0:
            d = (d + derivative(ahead, after)) / 2
            ahead = x + (after - s) * d
        x = ahead
    return x


@torch.inference_mode()
def scheduled(scheduler, predict: Predict, latents: Tensor, steps: int) -> Tensor:
    """The sampling loop of the pipelines of diffusers, for one of its schedulers."""
    scheduler.set_timesteps(steps, device=latents.device)
    x = latents * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        out = predict(scheduler.scale_model_input(x, t), t.to(x.dtype).expand(len(x)))
        x = scheduler.step(out, t, x).prev_sample
    return x


def levels(objective, sampler: str, steps: int) -> list[float]:
    """The noise levels at which a sampler evaluates the network, in order."""
    if sampler not in ("euler", "heun"):
        scheduler = objective.scheduler(sampler)
        scheduler.set_timesteps(steps)
        return objective.level(scheduler.timesteps).tolist()
    first, *later = objective.grid(steps)[:-1]
    return [first, *(s for s in later for _ in range(2 if sampler == "heun" else 1))]


def evaluations(
    objective, sampler: str, steps: int, guidance: float = 1.0, interval: Sequence[float] | None = None
) -> int:
    """Network evaluations per sample (NFE)."""
    at = levels(objective, sampler, steps)
    return len(at) + (guidance != 1) * sum(interval is None or within(s, interval) for s in at)
