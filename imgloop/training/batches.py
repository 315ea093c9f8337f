"""Batch k of a generation as a function of (seed, t, k): resuming needs a position, not a stream's state."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from imgloop import ranks, store
from imgloop.pool import TrainingSet, permutation

ROWS = 4096  # images copied to the device at a time


class Batches:
    """The batches of one generation.

    An epoch is a permutation of the training set keyed by its number. A weighted mix is sampled with replacement, by
    its weights: the expected loss is then the weighted one. With `flip`, each image of a batch is mirrored horizontally
    with probability 1/2. Sets of at most `resident` bytes are held on the device as
    uint8; larger ones are gathered from the memory-mapped pools.
    """

    def __init__(
        self,
        data: TrainingSet,
        seed: int,
        t: int,
        batch: int,
        device: str = "cpu",
        resident: float = 0,
        labelled: bool = False,
        flip: bool = False,
    ):
        self.data, self.seed, self.t, self.batch, self.device, self.flip = data, seed, t, batch, device, flip
        self.epoch, self.order = -1, np.empty(0, np.int64)
        weight = data.mix.weight
        self.cumulative = None if weight is None else cumulative(weight[:, 0])
        self.resident_images: Tensor | None = None
        n, one = len(data), data.gather(np.arange(1))
        self.y = data.labels() if labelled else None
        if one.nbytes * n <= resident:
            self.resident_images = torch.empty((n, *one.shape[1:]), dtype=torch.uint8, device=device)
            for first in range(0, n, ROWS):
                index = np.arange(first, min(first + ROWS, n))
                self.resident_images[first : first + len(index)] = torch.from_numpy(data.gather(index)).to(device)

    def index(self, k: int) -> np.ndarray:
        """Positions in the mix of batch k, int (batch,)."""
        n = len(self.data)
        if self.cumulative is not None:  # rng.choice(n, batch, p=weight) for a search in place of a pass over all rows
            rng = np.random.default_rng(store.seed_of(self.seed, self.t, "batch", k))
            return np.searchsorted(self.cumulative, rng.random(self.batch), side="right")
        parts, position = [], k * self.batch
        while position < (k + 1) * self.batch:
            epoch, first = divmod(position, n)
            if epoch != self.epoch:
                rng = np.random.default_rng(store.seed_of(self.seed, self.t, "epoch", epoch))
                self.epoch, self.order = epoch, permutation(n, rng)
            parts.append(self.order[first : first + (k + 1) * self.batch - position])
            position += len(parts[-1])
        return np.concatenate(parts)

    def __call__(self, k: int) -> tuple[Tensor, Tensor | None]:
        """This rank's images of batch k in [-1, 1], float32 (batch / ranks, C, H, W) on the device, and their labels
        int64 or None."""
        mine = ranks.rows(self.batch)
        index = self.index(k)[mine]
        if self.resident_images is not None:
            x = self.resident_images[torch.from_numpy(index).to(self.device)]
        else:
            x = torch.from_numpy(self.data.gather(index)).to(self.device)
        if self.flip:
            rng = np.random.default_rng(store.seed_of(self.seed, self.t, "flip", k))
            mirrored = torch.from_numpy((rng.random(self.batch) < 0.5)[mine]).to(self.device)
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        y = None if self.y is None else torch.from_numpy(self.y[index]).to(self.device)
        return x.float().div_(127.5).sub_(1), y


def cumulative(weight: np.ndarray) -> np.ndarray:
    """Distribution function of rows by weight, float64 (n,), rounded as `Generator.choice` rounds it."""
    total = np.cumsum(weight / weight.sum(), dtype=np.float64)
    return total / total[-1]
