"""The networks of diffusion models: two residual U-Nets for CPUs, and UNet2DModel of diffusers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imgloop.errors import UserError

# Channels of each resolution level, by image size; each further level halves the resolution.
PRESETS = {
    "patch": {8: (16, 48), 16: (16, 48, 64), 32: (16, 48, 64, 96), 64: (16, 48, 64, 96, 128)},
    "compact": {8: (16, 32), 16: (32, 64, 64), 32: (32, 64, 96), 64: (32, 64, 96, 128)},
    "unet2d": {8: (32, 64), 16: (32, 64, 64), 32: (32, 64, 128), 64: (32, 64, 128, 128)},
}
GROUPS = 8  # groups of every GroupNorm


def build_network(kind: str, size: int, channels: int, widths: Sequence[int] | None, classes: int = 0) -> nn.Module:
    """A network that maps (x, timestep, label) to an image of the shape of x; see `CompactUNet.forward`.

    `widths` None means the preset for `size`; `classes` 0 means unconditional. Raises UserError if `kind` or `widths`
    are invalid for this size.
    """
    if kind not in PRESETS:
        raise UserError(f"model.network={kind}: give one of {', '.join(PRESETS)}.", "model.network")
    widths = preset(size, PRESETS[kind], kind) if widths is None else widths
    if not widths or any(w < GROUPS or w % GROUPS for w in widths):
        raise UserError(
            f"model.widths={list(widths)}: give one or more multiples of {GROUPS}, for example [32,64].", "model.widths"
        )
    if kind == "patch" and len(widths) < 2:
        even = "" if size % 2 or size < 4 else "give for example [16,48], or "
        raise UserError(
            f"model.widths={list(widths)}: model.network=patch needs at least two, the first at full resolution, the "
            f"others on patches of 2x2 pixels, and an even size of 4 or more: {even}model.network=compact.",
            "model.widths",
        )
    check_halving(size, widths, kind)
    kinds = {"compact": CompactUNet, "patch": PatchUNet, "unet2d": unet2d}
    return kinds[kind](size, channels, tuple(widths), classes)


def preset(size: int, presets: Mapping[int, tuple[int, ...]], kind: str = "compact") -> tuple[int, ...]:
    """The preset widths for `size`-pixel images; raises UserError, naming widths that fit, where there are none."""
    if size not in presets:
        raise UserError(
            f"model.widths has no preset for {size}-pixel images (presets: {', '.join(map(str, presets))}); "
            f"set data.size to one of them, or give {example(size, kind)}.",
            "model.widths",
        )
    return presets[size]


def check_halving(size: int, widths: Sequence[int], kind: str = "compact") -> None:
    """Raise UserError unless `size`-pixel images can be halved once for each width after the first."""
    if size % 2 ** (len(widths) - 1) or size >> (len(widths) - 1) < 2:
        raise UserError(
            f"model.widths={list(widths)}: each width after the first halves the {size}-pixel images, which must leave "
            f"a whole number of pixels, at least 2: give fewer widths, for example {example(size, kind)}, or another "
            "data.size.",
            "model.widths",
        )


def example(size: int, kind: str = "compact") -> str:
    """Widths for images of `size` pixels, as settings to give: some 32 and 64, as far as the size can be halved."""
    widths = [32, 64, 64]
    while len(widths) > 1 and (size % 2 ** (len(widths) - 1) or size >> (len(widths) - 1) < 4):
        widths.pop()
    network = "model.network=compact and " if kind == "patch" and len(widths) < 2 else ""
    return f"{network}model.widths=[{','.join(map(str, widths))}]"


def unet2d(size: int, channels: int, widths: tuple[int, ...], classes: int = 0) -> nn.Module:
    """UNet2DModel of diffusers without attention; `forward` takes the arguments of CompactUNet and returns an object
    whose `.sample` is the result."""
    from diffusers import UNet2DModel

    n = len(widths)
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) * n,
        up_block_types=("UpBlock2D",) * n,
        norm_num_groups=GROUPS,
        add_attention=False,
        num_class_embeds=classes or None,
    )


class Embedded(nn.Module):
    """A U-Net with an embedding of timestep and label, of `width` numbers."""

    down: nn.ModuleList
    middle: nn.Module
    joins: nn.ModuleList  # of what comes from below and the skip connection, before each block of `up`
    up: nn.ModuleList

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.frequencies = 16
        self.embed = nn.Sequential(
            nn.Linear(2 * self.frequencies, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.label = nn.Embedding(classes, width) if classes else None

    def embedding(self, timestep: Tensor, label: Tensor | None) -> Tensor:  # (B, width)
        steps = torch.arange(self.frequencies, device=timestep.device)
        rates = torch.exp(steps * (math.log(1000.0) / self.frequencies))
        angle = timestep[:, None] / 1000 * rates
        e = self.embed(torch.cat((angle.sin(), angle.cos()), 1))
        if self.label is not None:
            assert label is not None
            e = F.silu(e + self.label(label))
        return e

    def levels(self, h: Tensor, e: Tensor) -> Tensor:
        """Down the resolution levels and up again with the skip connections; h (B, C, S, S) at the first level."""
        skips = []
        for level, block in enumerate(self.down):
            h = block(F.avg_pool2d(h, 2) if level else h, e)
            skips.append(h)
        h = self.middle(h, e)
        for level, (join, block) in reversed(list(enumerate(zip(self.joins, self.up)))):
            h = block(join(torch.cat((h, skips.pop()), 1)), e)
            if level:
                h = F.interpolate(h, scale_factor=2.0)
        return h


class CompactUNet(Embedded):
    """A residual U-Net with FiLM timestep embedding and one block per level and direction: half the parameters of
    UNet2DModel at equal widths (Ho et al. 2020, with the scale-and-shift norm of Dhariwal & Nichol 2021, appendix
    A)."""

    def __init__(self, size: int, channels: int, widths: tuple[int, ...], classes: int = 0):
        embed = 4 * widths[0]
        super().__init__(embed, classes)
        self.config = {"size": size, "channels": channels, "widths": list(widths), "classes": classes}
        self.enter = nn.Conv2d(channels, widths[0], 3, padding=1)
        before = (widths[0], *widths[:-1])
        self.down = nn.ModuleList(Block(a, b, embed) for a, b in zip(before, widths))
        self.middle = Block(widths[-1], widths[-1], embed)
        # Each block takes b channels from below and b from the skip connection.
        self.joins = nn.ModuleList(nn.Identity() for _ in widths)
        self.up = nn.ModuleList(Block(b + b, a, embed) for a, b in zip(before, widths))
        last = nn.Conv2d(widths[0], channels, 3, padding=1)
        self.leave = nn.Sequential(nn.GroupNorm(GROUPS, widths[0]), nn.SiLU(), last)
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, C, size, size) float; timestep (B,) in [0, 1000], as in diffusers; label (B,) int64 or None."""
        e = self.embedding(timestep, label)
        return self.leave(self.levels(self.enter(x), e))


class PatchUNet(Embedded):
    """A U-Net on patches of 2x2 pixels (widths[1:]) between a stem and one block at full resolution (widths[0]).

    The wide layers work on a quarter of the positions, where their products are large enough to use a core well.
    """

    def __init__(self, size: int, channels: int, widths: tuple[int, ...], classes: int = 0):
        super().__init__(64, classes)
        self.config = {"size": size, "channels": channels, "widths": list(widths), "classes": classes}
        width, inner = widths[0], widths[1:]
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.enter = nn.Conv2d(4 * width, inner[0], 1)
        before = (inner[0], *inner[:-1])
        self.down = nn.ModuleList(Block(a, b, 64) for a, b in zip(before, inner))
        self.middle = Block(inner[-1], inner[-1], 64)
        self.joins = nn.ModuleList(nn.Conv2d(2 * b, b, 1) for b in inner)
        self.up = nn.ModuleList(Block(b, a, 64) for a, b in zip(before, inner))
        self.leave = nn.Conv2d(inner[0], 4 * width, 1)
        self.join = nn.Conv2d(2 * width, width, 1)
        self.last = Block(width, width, 64)
        out = nn.Conv2d(width, channels, 3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), out)
        nn.init.zeros_(out.weight)

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor | None = None) -> Tensor:
        """As `CompactUNet.forward`."""
        e = self.embedding(timestep, label)
        fine = self.stem(x)
        h = F.pixel_shuffle(self.leave(self.levels(self.enter(F.pixel_unshuffle(fine, 2)), e)), 2)
        return self.out(self.last(self.join(torch.cat((fine, h), 1)), e))


class Block(nn.Module):
    """Two times norm, SiLU and convolution; the embedding scales and shifts the second norm (FiLM)."""

    def __init__(self, inside: int, outside: int, embed: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(GROUPS, inside), nn.Conv2d(inside, outside, 3, padding=1)
        self.film = nn.Linear(embed, 2 * outside)
        self.norm2, self.conv2 = nn.GroupNorm(GROUPS, outside), nn.Conv2d(outside, outside, 3, padding=1)
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(e)[:, :, None, None].chunk(2, 1)
        return self.skip(x) + self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))


def widths_of(network: nn.Module) -> list[int]:
    """Channels a resolution level of any of the networks."""
    if isinstance(network, CompactUNet | PatchUNet):
        return network.config["widths"]
    return list(network.config.block_out_channels)  # pyright: ignore


def check_widths_list(widths) -> None:
    """Raise UserError unless `widths` is None or a list of positive whole numbers."""
    if widths is not None and not (
        isinstance(widths, list | tuple) and widths and all(type(w) is int and w > 0 for w in widths)
    ):
        raise UserError(
            f"model.widths={widths}: give a list of whole numbers, for example [32,64], or null.", "model.widths"
        )
