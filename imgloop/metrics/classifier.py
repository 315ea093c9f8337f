"""The classifier that extracts features of labelled data: a small convolutional network and its training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imgloop import store
from imgloop.pool import Pool

BATCH = 256
LR, MOMENTUM, DECAY, SMOOTHING = 0.2, 0.9, 2e-3, 0.1
WARM = 0.2  # share of the steps in which the learning rate rises linearly; then it falls linearly to zero
WHITENED = 4000  # images whose patches set the first layer


class Classifier(nn.Module):
    """Returns (features (B, D), logits (B, K)) of images (B, C, S, S) in [-1, 1]; D is 64 at 8 pixels, 128 from 12.

    The first layer whitens patches and is not trained; blocks of two convolutions halve the image until it is at most
    4 pixels wide; features are means over the image, as in Inception. After Jordan 2024 (arXiv:2404.00498).
    """

    def __init__(self, channels: int, size: int, classes: int):
        super().__init__()
        patch = 2 if channels == 3 else 3
        self.whiten = nn.Conv2d(channels, 2 * channels * patch**2, patch, padding=patch // 2, bias=False)
        layers: list[nn.Module] = []
        inside, width, size = self.whiten.out_channels, 32, size + 1 - patch % 2
        while size > 4:
            layers += [nn.Conv2d(inside, width, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(width)]
            layers += [nn.GELU(), nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU()]
            inside, width, size = width, min(2 * width, 128), size // 2
        layers += [nn.Conv2d(inside, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(F.gelu(self.whiten(x))).mean((2, 3))
        return h, self.head(h)

    @torch.no_grad()
    def set_whitening(self, x: Tensor) -> None:
        """Set the first layer to the eigenvectors of patches of `x` (B, C, S, S), both signs, each of unit variance."""
        k = self.whiten.kernel_size[0]
        patches = F.unfold(x, k).transpose(1, 2).flatten(0, 1).double()
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values + 5e-4).sqrt()).T.reshape(-1, *self.whiten.weight.shape[1:]).float()
        self.whiten.weight.copy_(torch.cat([filters, -filters]))
        self.whiten.weight.requires_grad_(False)


def train_classifier(
    train: Pool,
    classes: int,
    images: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Classifier:
    """Train a classifier on labelled images uint8 (N, C, S, S), deterministically for equal versions and threads.

    `images` is the number of training images seen. Each is shifted by up to a sixteenth of its width (at least one
    pixel); colour images are mirrored with probability 1/2, grey ones are not, since they often show characters.
    """
    _, channels, size, _ = train.x.shape
    x, y = torch.from_numpy(np.array(train.x)), torch.from_numpy(np.array(train.y))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(store.seed_of(seed, "classifier"))
        network = Classifier(channels, size, classes)
        network.set_whitening(scaled(x[:WHITENED]))
        network.to(memory_format=torch.channels_last).train()
        batch = min(BATCH, max(16, len(x) // 8))
        steps, shift = max(1, images // batch), max(1, size // 16)
        optimizer = torch.optim.SGD(
            [
                {"params": [p for p in network.parameters() if p.requires_grad and p.ndim > 1], "weight_decay": DECAY},
                {"params": [p for p in network.parameters() if p.requires_grad and p.ndim == 1], "weight_decay": 0.0},
            ],
            LR * (batch / BATCH) ** 0.5,
            momentum=MOMENTUM,
            nesterov=True,
        )
        rate = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s: min((s + 1) / (WARM * steps + 1), (steps - s) / (steps * (1 - WARM)))
        )
        order = torch.empty(0, dtype=torch.long)
        for step in range(steps):
            while len(order) < batch:  # each epoch without replacement
                order = torch.cat([order, torch.randperm(len(x))])
            index, order = order[:batch], order[batch:]
            part = scaled(augmented(x[index], shift, mirror=channels == 3)).contiguous(
                memory_format=torch.channels_last
            )
            loss = F.cross_entropy(network(part)[1], y[index], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            if progress and (step + 1) % 10 == 0:
                progress((step + 1) * batch, steps * batch)
    return network.to(memory_format=torch.contiguous_format).eval()


def scaled(x: Tensor) -> Tensor:
    """uint8 images as float32 in [-1, 1]."""
    return x.float().div_(127.5).sub_(1)


def augmented(x: Tensor, shift: int, mirror: bool) -> Tensor:
    """Images (B, C, S, S), each shifted by up to `shift` pixels with repeated edges, and mirrored at random if
    `mirror`."""
    n, size = len(x), x.shape[-1]
    shifts = torch.randint(-shift, shift + 1, (2, n, 1))
    rows, columns = (torch.arange(size) + shifts).clamp_(0, size - 1)
    if mirror:
        columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
    image = torch.arange(n)[:, None, None]
    return x.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.inference_mode()
def accuracy(network: nn.Module, pool: Pool) -> float:
    """Share of images uint8 (N, C, S, S) whose label is the class that the network finds most probable."""
    assert pool.y is not None
    right = 0
    for first in range(0, len(pool), 512):
        rows = slice(first, first + 512)
        predicted = network(scaled(torch.from_numpy(np.array(pool.x[rows]))))[1].argmax(1).numpy()
        right += int((predicted == np.asarray(pool.y[rows])).sum())
    return right / len(pool)
