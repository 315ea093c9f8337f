"""Objectives of diffusion models: noising, the target of the network, and from its output the denoised image and the
derivative for sampling. The three objectives have the same methods; a level is a number that grows with the noise.

    flow  x = (1 - s) x_0 + s e, 0 <= s <= 1; the output is v = e - x_0          Lipman et al. 2023, Liu et al. 2023
    edm   x = x_0 + s e, s = sigma up to 80; the preconditioned F of D           Karras et al. 2022, table 1
    ddpm  x = a_t x_0 + b_t e, s = t of 1,000 steps; e, or v = a_t e - b_t x_0   Ho et al. 2020; Salimans & Ho 2022
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

STEPS = 1000  # noise levels of ddpm, and the range of timesteps
Predict = Callable[[Tensor, Tensor], Tensor]  # (scaled image, timestep (B,)) -> output of the network


def per_image(level: Tensor, x: Tensor) -> Tensor:
    """Levels (B,) in a shape that broadcasts with images (B, C, H, W)."""
    return level.view(-1, *[1] * (x.ndim - 1))


@dataclass(frozen=True)
class Flow:
    """Straight paths from noise to data.

    time: the distribution of levels in training, logit_normal | uniform; mean: of its logit (Esser et al. 2024, section
    3.1), below 0 nearer to the data. sigma_data: None, or the root mean square of the data, for which the network's
    input and task get unit variance, since the best linear estimate of v is left out (Karras et al. 2022, appendix B.6,
    here for v; the loss is that of v).
    """

    time: str = "logit_normal"
    mean: float = 0.0
    sigma_data: float | None = None
    samplers: ClassVar[tuple[str, ...]] = ("heun", "euler", "dpmpp")
    highest: ClassVar[float] = 1.0  # level
    first_scale: ClassVar[float] = 1.0  # standard deviation of the noise at the first level of the grid

    def levels(self, n: int, like: dict) -> Tensor:
        """Levels (n,) for training."""
        if self.time == "uniform":
            return torch.rand(n, **like)
        return torch.sigmoid(torch.randn(n, **like) + self.mean)

    def noised(self, x: Tensor, e: Tensor, s: Tensor) -> Tensor:
        """Images x with noise e at levels s (B,)."""
        return torch.lerp(x, e, per_image(s, x))

    def scales(self, s: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in, shaped for x: v = c_skip x + c_out F(c_in x)."""
        assert self.sigma_data is not None
        s = per_image(s, x)
        variance = ((1 - s) * self.sigma_data) ** 2 + s**2
        skip = (s - (1 - s) * self.sigma_data**2) / variance
        return skip, self.sigma_data / variance.sqrt(), 1 / variance.sqrt()

    def target(self, x: Tensor, e: Tensor, s: Tensor) -> Tensor:
        """The target of the network for noised(x, e, s)."""
        if self.sigma_data is None:
            return e - x
        c_skip, c_out, _ = self.scales(s, x)
        return (e - x - c_skip * self.noised(x, e, s)) / c_out

    def residual(self, x: Tensor, e: Tensor, s: Tensor, out: Tensor) -> Tensor:
        """The error whose mean square is the loss and the held-out risk: of v, preconditioned or not."""
        if self.sigma_data is None:
            return out - (e - x)
        return self.derivative(self.noised(x, e, s), out, s) - (e - x)

    def inputs(self, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of the network: the scaled noised image, and the timestep (B,)."""
        return (x if self.sigma_data is None else self.scales(s, x)[2] * x), s * STEPS

    def level(self, timestep: Tensor) -> Tensor:
        """The levels (B,) of timesteps, as `inputs` gives them to the network."""
        return timestep / STEPS

    def denoised(self, x: Tensor, out: Tensor, s: Tensor) -> Tensor:
        """The estimate of x_0 from a noised image and the network's output."""
        return x - per_image(s, x) * self.derivative(x, out, s)

    def derivative(self, x: Tensor, out: Tensor, s: Tensor) -> Tensor:
        """dx/ds along the path that sampling follows, v."""
        if self.sigma_data is None:
            return out
        c_skip, c_out, _ = self.scales(s, x)
        return c_skip * x + c_out * out

    def grid(self, steps: int) -> list[float]:
        """Levels from the first to 0, in even steps."""
        return torch.linspace(1, 0, steps + 1).tolist()

    def quantiles(self, n: int) -> Tensor:
        """n levels at which the held-out loss is measured, in float32 (n,)."""
        return (torch.arange(n) + 0.5) / n

    def for_scheduler(self, predict: Predict) -> Predict:
        """`predict` as the schedulers of diffusers expect it: of a preconditioned flow, v for the unscaled image."""
        if self.sigma_data is None:
            return predict

        def velocity(x: Tensor, timestep: Tensor) -> Tensor:
            s = self.level(timestep)
            return self.derivative(x, predict(*self.inputs(x, s)), s)

        return velocity

    def scheduler(self, sampler: str):
        """The scheduler of diffusers for the same path and sampler, which is saved with a model."""
        from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

        if sampler == "dpmpp":
            return DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
        return FlowMatchEulerDiscreteScheduler()


@dataclass(frozen=True)
class EDM:
    """Variance exploding, preconditioned so that input and target have unit variance; symbols as in Karras et al.
    2022."""

    sigma_data: float = 0.5
    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    samplers: ClassVar[tuple[str, ...]] = ("heun", "euler", "dpmpp")

    @property
    def highest(self) -> float:
        return self.sigma_max

    @property
    def first_scale(self) -> float:
        return self.sigma_max

    def levels(self, n, like):
        return torch.exp(self.p_mean + self.p_std * torch.randn(n, **like))

    def noised(self, x, e, s):
        return x + per_image(s, x) * e

    def scales(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in."""
        total = s**2 + self.sigma_data**2
        return self.sigma_data**2 / total, s * self.sigma_data / total.sqrt(), 1 / total.sqrt()

    def target(self, x, e, s):
        c_skip, c_out, _ = (per_image(c, x) for c in self.scales(s))  # the loss weight 1 / c_out^2 makes it unit
        return (x - c_skip * self.noised(x, e, s)) / c_out

    def residual(self, x, e, s, out):
        return out - self.target(x, e, s)

    def inputs(self, x, s):
        return per_image(self.scales(s)[2], x) * x, s.log() / 4  # c_noise

    def level(self, timestep):
        return (4 * timestep).exp()

    def denoised(self, x, out, s):
        c_skip, c_out, _ = (per_image(c, x) for c in self.scales(s))
        return c_skip * x + c_out * out

    def derivative(self, x, out, s):
        return (x - self.denoised(x, out, s)) / per_image(s, x)  # equation 3

    def grid(self, steps):
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        ends = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return [*((ends[0] + ramp * (ends[1] - ends[0])) ** self.rho).tolist(), 0.0]  # equation 5

    def quantiles(self, n):
        return torch.exp(self.p_mean + self.p_std * torch.special.ndtri((torch.arange(n) + 0.5) / n))

    def for_scheduler(self, predict):
        return predict

    def scheduler(self, sampler):
        from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler

        kind = EDMDPMSolverMultistepScheduler if sampler == "dpmpp" else EDMEulerScheduler
        return kind(sigma_min=self.sigma_min, sigma_max=self.sigma_max, sigma_data=self.sigma_data, rho=self.rho)


@dataclass(frozen=True)
class DDPM:
    """Variance preserving in 1,000 steps, linear betas; `prediction` v | epsilon.

    v uses betas rescaled to zero signal at the last step (Lin et al. 2024). There e has no information about x_0, so
    epsilon uses the original betas.
    """

    prediction: str = "v"
    samplers: ClassVar[tuple[str, ...]] = ("ddim", "dpmpp")
    highest: ClassVar[float] = STEPS - 1

    @cached_property
    def alphas(self) -> Tensor:
        """a_t^2, float32 (1,000,), as in the schedulers of diffusers."""
        return self.scheduler("ddim").alphas_cumprod

    def scales(self, s: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and b_t, shaped for x."""
        square = per_image(self.alphas.to(x.device)[s.long()], x)
        return square.sqrt(), (1 - square).sqrt()

    def levels(self, n, like):
        return torch.randint(STEPS, (n,), generator=like["generator"], device=like["device"]).to(like["dtype"])

    def noised(self, x, e, s):
        a, b = self.scales(s, x)
        return a * x + b * e

    def target(self, x, e, s):
        a, b = self.scales(s, x)
        return a * e - b * x if self.prediction == "v" else e

    def residual(self, x, e, s, out):
        return out - self.target(x, e, s)

    def inputs(self, x, s):
        return x, s

    def level(self, timestep):
        return timestep

    def denoised(self, x, out, s):
        a, b = self.scales(s, x)
        return a * x - b * out if self.prediction == "v" else (x - b * out) / a

    def quantiles(self, n):
        return ((torch.arange(n) + 0.5) / n * STEPS).floor()

    def for_scheduler(self, predict):
        return predict

    def scheduler(self, sampler):
        from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

        kind = DPMSolverMultistepScheduler if sampler == "dpmpp" else DDIMScheduler
        zero = self.prediction == "v"
        return kind(
            prediction_type="v_prediction" if zero else "epsilon",
            rescale_betas_zero_snr=zero,
            timestep_spacing="trailing",
            num_train_timesteps=STEPS,
        )


OBJECTIVES = {"flow": Flow, "edm": EDM, "ddpm": DDPM}
