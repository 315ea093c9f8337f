"""How a trained diffusion model is sampled: Euler and Heun along the objective's path; DDIM and DPM-Solver++ by
diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

STEPS = {"heun": 8, "euler": 16, "dpmpp": 12, "ddim": 25}  # where a setting does not say
Predict = Callable[[Tensor, Tensor], Tensor]  # (image at the network's scale, clock (B,)) -> the network's output


def output(network: nn.Module, x: Tensor, clock: Tensor, y: Tensor | None) -> Tensor:
    """The network's output for x (B, C, H, W), clock (B,), labels y (B,) or None; both networks serve."""
    out = network(x, clock, y)
    return getattr(out, "sample", out)


def guided(network: nn.Module, y: Tensor | None, guidance: float, null: int) -> Predict:
    """Classifier-free guidance (Ho & Salimans 2022): out = out_null + guidance (out_y - out_null); 1 is none."""

    def predict(x: Tensor, clock: Tensor) -> Tensor:
        if guidance == 1 or y is None:
            return output(network, x, clock, y)
        both = output(network, x.repeat(2, 1, 1, 1), clock.repeat(2), torch.cat((y, torch.full_like(y, null))))
        given, free = both.chunk(2)
        return torch.lerp(free, given, guidance)

    return predict


@torch.inference_mode()
def draw(objective, predict: Predict, latents: Tensor, sampler: str, steps: int) -> Tensor:
    """Images (B, C, H, W), about -1 to 1, from standard normal latents of that shape."""
    if sampler in ("euler", "heun"):
        return integrate(objective, predict, latents * objective.first_scale, sampler, steps)
    return scheduled(objective.scheduler(sampler), predict, latents, steps)


@torch.inference_mode()
def integrate(objective, predict: Predict, x: Tensor, sampler: str, steps: int) -> Tensor:
    """Follow dx/ds from the objective's first level to 0 along its grid.

    `euler` costs `steps` evaluations; `heun` (second order) 2 steps - 1, its last step being an Euler step: Karras et
    al. 2022, algorithm 1.
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
    """The loop of diffusers' pipelines over one of its schedulers."""
    scheduler.set_timesteps(steps, device=latents.device)
    x = latents * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        out = predict(scheduler.scale_model_input(x, t), t.to(x.dtype).expand(len(x)))
        x = scheduler.step(out, t, x).prev_sample
    return x


def evaluations(sampler: str, steps: int, guidance: float = 1.0) -> int:
    """Network evaluations a sample (NFE)."""
    return (2 * steps - 1 if sampler == "heun" else steps) * (1 if guidance == 1 else 2)
