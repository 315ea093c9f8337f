"""The networks of the GAN: a small residual generator and discriminator without normalisation, mirror images of each
other.

After R3GAN (Huang et al. 2024, arXiv 2501.05441, section 3): residual blocks with an initialisation as in Fixup (Zhang
et al. 2019) replace normalisation, resolutions change by linear resampling, and there are no styles, injected noise or
batch statistics. Two things differ from R3GAN. Blocks are two plain 3x3 convolutions: at these widths a step on a CPU
costs as much as with grouped convolutions of half the weights. Dense layers follow the latents and precede the logit:
without them, networks this small do not learn how distant parts of an image depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imgloop.models.networks import check_halving, preset

# Channels of each resolution level, by image size, full resolution first; each further level halves the resolution.
PRESETS = {8: (16, 32), 16: (16, 32, 64), 32: (16, 32, 64, 64), 64: (16, 32, 32, 64, 64)}
Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)
HIDDEN = 128  # width of the dense layers between latents and images, and between images and logits
SLOPE = 0.2  # negative slope of every leaky ReLU


def check_widths(size: int, widths: Sequence[int] | None) -> tuple[int, ...]:
    """The widths for `size`-pixel images, None meaning the preset; raises UserError if they are invalid for this
    size."""
    widths = preset(size, PRESETS) if widths is None else widths
    check_halving(size, widths)
    return tuple(widths)


class Block(nn.Module):
    """x + conv(act(conv(act(x)))); at initialisation the second convolution is zero, the first scaled by the depth."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        start(self.conv1, gain=depth**-0.5)  # Fixup with m = 2 layers per branch: depth^(-1 / (2m - 2))
        start(self.conv2, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, SLOPE)), SLOPE))


def start(layer: Layer, gain: float) -> Layer:
    """`layer`, initialised with weights of standard deviation gain * sqrt(2 / (1 + SLOPE^2) / fan_in) and zero bias."""
    if gain:
        nn.init.kaiming_normal_(layer.weight, SLOPE)
    with torch.no_grad():
        layer.weight.mul_(gain) if gain else layer.weight.zero_()
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def dense(*widths: int) -> nn.Sequential:
    """Linear layers of these widths, each followed by a leaky ReLU."""
    layers = (start(nn.Linear(a, b), 1.0) for a, b in pairwise(widths))
    return nn.Sequential(*(m for layer in layers for m in (layer, nn.LeakyReLU(SLOPE))))


def change(inside: int, outside: int) -> nn.Module:
    """A 1x1 convolution if the width changes, else the identity."""
    return nn.Identity() if inside == outside else start(nn.Conv2d(inside, outside, 1, bias=False), math.sqrt(0.5))


class Generator(nn.Module):
    """Latents z (B, latent), with labels y int64 (B,) if classes > 0, to images (B, channels, size, size).

    The data range is [-1, 1]; outputs are not clamped to it.
    """

    def __init__(self, size: int, channels: int, widths: tuple[int, ...], latent: int, blocks: int, classes: int = 0):
        super().__init__()
        self.base, depth, last = size >> (len(widths) - 1), len(widths) * blocks, widths[-1]
        self.label = nn.Embedding(classes, latent) if classes else None
        self.mapping = dense(latent * (2 if classes else 1), HIDDEN, HIDDEN)
        self.enter = start(nn.Linear(HIDDEN, last * self.base**2), math.sqrt(0.5))
        levels = list(reversed(widths))
        self.levels = nn.ModuleList(
            nn.Sequential(change(before, width), *(Block(width, depth) for _ in range(blocks)))
            for before, width in zip([last, *levels], levels)
        )
        self.leave = start(nn.Conv2d(widths[0], channels, 3, padding=1), 0.5)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        if self.label is not None:
            z = torch.cat((z, self.label(y)), 1)
        h = self.enter(self.mapping(z)).unflatten(1, (-1, self.base, self.base))
        for i, level in enumerate(self.levels):
            if i:
                h = F.interpolate(h, scale_factor=2.0, mode="bilinear")
            h = level(h)
        return self.leave(F.leaky_relu(h, SLOPE))


class Discriminator(nn.Module):
    """Images (B, channels, size, size), with labels y int64 (B,) if classes > 0, to logits float32 (B,).

    With classes the logit is the projection <features, embedding of y> / sqrt(width) (Miyato & Koyama 2018, without
    its unconditional term).
    """

    def __init__(self, size: int, channels: int, widths: tuple[int, ...], blocks: int, classes: int = 0):
        super().__init__()
        depth, last, base = len(widths) * blocks, widths[-1], size >> (len(widths) - 1)
        self.enter = start(nn.Conv2d(channels, widths[0], 3, padding=1), math.sqrt(0.5))
        self.levels = nn.ModuleList(
            nn.Sequential(*(Block(width, depth) for _ in range(blocks)), change(width, after))
            for width, after in zip(widths, [*widths[1:], last])
        )
        self.label = nn.Embedding(classes, last) if classes else None
        self.dense = dense(last * base**2, HIDDEN)
        self.leave = start(nn.Linear(HIDDEN, last if classes else 1), math.sqrt(0.5))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.enter(x)
        for i, level in enumerate(self.levels):
            if i:
                h = F.avg_pool2d(h, 2)
            h = level(h)
        with torch.autocast(x.device.type, enabled=False):  # the loss needs small differences of logits
            h = self.leave(self.dense(F.leaky_relu(h, SLOPE).flatten(1).to(self.leave.weight.dtype)))
            if self.label is None:
                return h.squeeze(1)
            return (h * self.label(y)).sum(1) / math.sqrt(h.shape[1])
