"""Recipes: the network, optimiser and other settings of diffusion models and GANs that are used where they are null."""

from __future__ import annotations

from dataclasses import dataclass

NETWORKS = {8: "patch"}  # by image size; compact elsewhere
MUON_TO_ADAMW = 0.2  # learning rate of AdamW, for what is no kernel of a hidden layer, over that of Muon


@dataclass(frozen=True)
class Recipe:
    """How a diffusion model is trained (docs/ladder.md says what each choice gains).

    batch: images a step. optimizer: adamw | muon. lr: its peak rate. ema: decay of the moving average of the weights;
    None: an average tied to the length of the run. mean: of the logit of flow's noise levels in training.
    """

    network: str
    batch: int
    optimizer: str
    lr: float
    ema: float | None
    mean: float


def recipe(size: int, network: str | None = None, optimizer: str | None = None) -> Recipe:
    """The recipe for images of `size` pixels, with the network or optimiser that is given."""
    network = network or NETWORKS.get(size, "compact")
    optimizer = optimizer or ("adamw" if network == "unet2d" else "muon")
    lr = 0.03 if optimizer == "muon" else 0.012 if size <= 8 and network != "unet2d" else 0.003
    return Recipe(network, 128 if network == "patch" else 64, optimizer, lr, None, -0.5)


@dataclass(frozen=True)
class GANRecipe:
    """How a GAN is trained (docs/ladder.md says what each choice gains).

    batch: images a step. lr: the peak rate of Adam. gamma: peak weight of the gradient penalties. ema: decay of the
    generator's moving average; None: an average tied to the length of the run.
    """

    batch: int
    lr: float
    gamma: float
    ema: float | None


GAN_RECIPE = GANRecipe(32, 0.002, 2.0, None)  # for all sizes of image
