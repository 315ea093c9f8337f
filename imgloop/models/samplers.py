"""Samplers of diffusion models: Euler and Heun along the path of the objective; DDIM and DPM-Solver++ by the
schedulers of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from imgloop.models.objectives import STEPS as TIMESTEPS
from imgloop.models.objectives import Flow

STEPS = {"heun": 8, "euler": 16, "dpmpp": 12, "ddim": 25}  # defaults
Predict = Callable[[Tensor, Tensor], Tensor]  # (scaled image, timestep (B,)) -> output of the network


def output(network: nn.Module, x: Tensor, timestep: Tensor, y: Tensor | None) -> Tensor:
    """The network's output for x (B, C, H, W), timestep (B,), labels y (B,) or None; for either network."""
    out = network(x, timestep, y)
    return getattr(out, "sample", out)


def guided(network: nn.Module, y: Tensor | None, guidance: float, null: int) -> Predict:
    """Classifier-free guidance (Ho & Salimans 2022): out = out_null + guidance (out_y - out_null); 1 means none."""

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        if guidance == 1 or y is None:
            return output(network, x, timestep, y)
        both = output(network, x.repeat(2, 1, 1, 1), timestep.repeat(2), torch.cat((y, torch.full_like(y, null))))
        labelled, unlabelled = both.chunk(2)
        return torch.lerp(unlabelled, labelled, guidance)

    return predict


@torch.inference_mode()
def draw(objective, predict: Predict, latents: Tensor, sampler: str, steps: int) -> Tensor:
    """Images (B, C, H, W), with values of about -1 to 1, from standard normal latents of that shape."""
    if sampler in ("euler", "heun"):
        return integrate(objective, predict, latents * objective.first_scale, sampler, steps)
    return scheduled(objective.scheduler(sampler), plain(objective, predict), latents, steps)


def plain(objective, predict: Predict) -> Predict:
    """What a scheduler of diffusers expects of a network: of a preconditioned flow, v for the unscaled image."""
    if not isinstance(objective, Flow) or objective.sigma_data is None:
        return predict

    def velocity(x: Tensor, timestep: Tensor) -> Tensor:
        level = timestep / TIMESTEPS
        return objective.derivative(x, predict(*objective.inputs(x, level)), level)

    return velocity


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


def evaluations(sampler: str, steps: int, guidance: float = 1.0) -> int:
    """Network evaluations per sample (NFE)."""
    return (2 * steps - 1 if sampler == "heun" else steps) * (1 if guidance == 1 else 2)
