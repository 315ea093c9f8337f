"""Trials of the ladder: changes of the recipe for diffusion models that imgloop does not have (docs/ladder.md).
Each replaces one part of the training while a rung is trained (scripts/ladder.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from imgloop import store
from imgloop.models import networks
from imgloop.models.objectives import Flow
from imgloop.training.batches import Batches

HEADS = 4  # of attention


def stratified(flow: Flow, n: int, like: dict) -> Tensor:
    """Levels (n,) of the same distribution as Flow.levels, one in each of its n quantiles."""
    quantiles = (torch.arange(n, device=like["device"]) + torch.rand(n, **like)) / n
    return torch.sigmoid(torch.special.ndtri(quantiles.clamp(1e-6, 1 - 1e-6)) + flow.mean)


class Transported(Batches):
    """Batches whose images stand in the order of the noise that they will get, such that the sum of squared distances
    between image and noise is least: minibatch optimal transport (Tong et al. 2023, arXiv 2302.00482)."""

    def __call__(self, k: int) -> tuple[Tensor, Tensor | None]:
        x, y = super().__call__(k)
        g = torch.Generator(x.device).manual_seed(store.seed_of(self.seed, self.t, "noise", k))
        e = torch.randn(x.shape, generator=g, device=x.device, dtype=x.dtype)  # as DiffusionModule.loss draws it
        _, order = linear_sum_assignment(torch.cdist(e.flatten(1), x.flatten(1)).square().cpu().numpy())
        order = torch.from_numpy(order).to(x.device)
        return x[order], None if y is None else y[order]


class Attention(nn.Module):
    """A block, then self-attention over its positions, whose output is zero at the start."""

    def __init__(self, block: nn.Module, width: int):
        super().__init__()
        self.block, self.norm = block, nn.GroupNorm(networks.GROUPS, width)
        self.attention = nn.MultiheadAttention(width, HEADS, batch_first=True)
        nn.init.zeros_(self.attention.out_proj.weight)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.block(x, e)
        rows = self.norm(h).flatten(2).transpose(1, 2)
        return h + self.attention(rows, rows, rows, need_weights=False)[0].transpose(1, 2).view_as(h)


class Attentive(networks.PatchUNet):
    """A PatchUNet with attention in the middle."""

    def __init__(self, size: int, channels: int, widths: tuple[int, ...], classes: int = 0):
        super().__init__(size, channels, widths, classes)
        self.middle = Attention(self.middle, widths[-1])


class Twice(nn.Module):
    """Two blocks in place of one."""

    def __init__(self, inside: int, outside: int, embed: int, block: Callable = networks.Block):
        super().__init__()
        self.first, self.second = block(inside, outside, embed), block(outside, outside, embed)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return self.second(self.first(x, e), e)


class RootMeanSquare(nn.Module):
    """A norm over the channels of each position, in place of GroupNorm: to a root mean square of 1, then a scale and a
    shift of each channel (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, groups: int, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width, 1, 1)), nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, x * x.square().mean(1, keepdim=True).add(1e-5).rsqrt(), self.weight)


TRIALS = {  # what each replaces, and by what
    "stratified": (Flow, "levels", stratified),
    "transport": ("imgloop.models.diffusion", "Batches", Transported),
    "attention": (networks, "PatchUNet", Attentive),
    "blocks": (networks, "Block", Twice),
    "layer norm": (networks, "GROUPS", 1),
    "channel norm": (networks.nn, "GroupNorm", RootMeanSquare),
}


@contextlib.contextmanager
def made(trial: str | None) -> Iterator[None]:
    """Within it models are trained with a trial, or as they are where it is None."""
    if trial is None:
        yield
        return
    where, name, other = TRIALS[trial]
    patch = mock.patch(f"{where}.{name}", other) if isinstance(where, str) else mock.patch.object(where, name, other)
    with patch:
        yield


if __name__ == "__main__":
    raise SystemExit("this file holds trials: run python scripts/ladder.py --rungs 'last, transport'")
