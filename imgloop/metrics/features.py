"""Feature extractors: one pass over a pool gives the features, and the classifier's logits, that every metric reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imgloop import ranks, store
from imgloop.errors import UserError
from imgloop.metrics.trained import fitted
from imgloop.provenance import versions
from imgloop.training.memory import in_parts

CHUNK = 256  # images of up to 64 pixels a forward pass
LEAST_CHUNK = 8


@dataclass(frozen=True)
class Features:
    """What one pass extracts: `x` float32 (N, D), and `logits` where the extractor classifies.

    Logits are float32 (N, K), or (N, P, K) where P parts of an image are read apart, each as one of K digits of the
    label: three channels of a stacked digit, most significant first.
    """

    x: np.ndarray
    logits: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray | None:
        """Most probable class of each sample, int64 (N,)."""
        if self.logits is None:
            return None
        best = self.logits.argmax(-1)
        if best.ndim == 1:
            return best
        return best @ self.logits.shape[2] ** np.arange(best.shape[1])[::-1]


class Extractor:
    """A network in evaluation mode that turns uint8 images (N, C, H, W) into Features, in chunks of fixed size.

    Chunks are always full (the last is padded), so that no digit depends on how many images are asked for. `name` is
    the option of the `features` group, `key` hashes everything that the features depend on, and `facts` enter the
    protocol of every score. The network is given float32 in [-1, 1], or with `scaled=False` the uint8 images.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        device: str = "cpu",
        facts: dict | None = None,
        *,
        chunk: int | None = None,
        scaled: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ):
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"Measuring on {device}, but PyTorch sees no GPU on this machine: measure on the cpu.")
        self.name, self.network, self.device = name, network.eval().to(device), device
        self.key = store.content_key(
            [name, [(k, store.array_hash(v.cpu().numpy())) for k, v in network.state_dict().items()]]
        )
        self.facts, self.chunk, self.scaled = facts or {}, chunk, scaled
        # all that the bits of features depend on
        self.made_by = [self.key, chunk, scaled, device, *versions().values()]
        self.progress = progress  # of passes that are given none

    @torch.inference_mode()
    def __call__(self, x: np.ndarray, progress: Callable[[int, int], None] | None = None) -> Features:
        """Features of images uint8 (N, C, H, W); raises UserError for others. `progress(done, total)`: of images."""
        if len(x) == 0 or np.ndim(x) != 4 or x.dtype != np.uint8:
            raise UserError(f"Images have shape {np.shape(x)} and dtype {x.dtype}; expected uint8 (N, C, H, W).")
        chunk, outs, progress = self.chunk or chunk_of(x.shape[-1]), [], progress or self.progress
        for first in ranks.turns(len(x), chunk):
            part = torch.from_numpy(np.array(x[first : first + chunk]))
            n = len(part)
            part = F.pad(part, (0,) * 7 + (chunk - n,)).to(self.device)
            part = part.float().div_(127.5).sub_(1) if self.scaled else part
            out = in_parts(self.network, part, doing="measuring")
            outs.append((first, [o[:n].float().cpu().numpy() for o in out]))
            if progress:
                progress(min(first + chunk, len(x)), len(x))
        return Features(*(np.concatenate(parts) for parts in zip(*ranks.gathered(outs))))


def chunk_of(size: int) -> int:
    """Images of `size` pixels a forward pass: as many as keep the memory that 256 of 64 pixels take."""
    return int(np.clip(CHUNK * 64**2 // size**2, LEAST_CHUNK, CHUNK))


class Random(nn.Module):
    """A convolutional network with random weights of fixed seed; returns features (B, 128) of images scaled to [-1, 1].

    Random features distinguish distributions without labels or training (Naeem et al. 2020, section 4).
    """

    def __init__(self, channels: int, size: int):
        super().__init__()
        layers, inside, outside = [], channels, 32
        while size >= 4:
            layers += [nn.Conv2d(inside, outside, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
            inside, outside, size = outside, min(2 * outside, 64), size // 2
        self.body = nn.Sequential(*layers)
        self.inside = inside
        for layer in self.body[::2]:
            nn.init.kaiming_normal_(layer.weight, 0.2)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return torch.cat((h.mean((2, 3)), h.std((2, 3), unbiased=False)), 1)


# -- the options of conf/features: called with the real data, the study's shared folder, a device and a progress --


def classifier(real, shared: Path, device: str, progress=None, *, images: int | None = None) -> Extractor:
    """A classifier of the real data: one that comes with the package where it fits them, else one trained on the
    labelled training images, once a study and data, and then read from `shared`.

    `images`, the number of training images seen, forces training; None leaves both choices to the data. Raises
    UserError for data without labels. Facts: see `imgloop.metrics.trained.fitted`.
    """
    if real.classes is None:
        raise UserError(
            "features=classifier needs labelled data, which has one sub-folder a class: use features=random or "
            "features=pixels."
        )
    if images is not None and (isinstance(images, bool) or not isinstance(images, int) or images < 1):
        raise UserError(f"features.images={images}: give a whole number of at least 1, or null.")
    network, facts = fitted(real, Path(shared), images, progress)
    extractor = Extractor("classifier", network, device, facts)
    if "digit_accuracy" in facts:  # of stacked digits: all three digits must be right
        facts["heldout_accuracy"] = float((extractor(real.heldout.x).labels == np.asarray(real.heldout.y)).mean())
    return extractor


def pixels(real, shared: Path, device: str, progress=None) -> Extractor:
    """Flattened pixels in [-1, 1]: for small images and closed-form checks."""
    return Extractor("pixels", nn.Flatten(), device)


def random(real, shared: Path, device: str, progress=None) -> Extractor:
    """Features of a network with random weights of fixed seed: needs neither labels nor downloads."""
    _, channels, size, _ = real.train.x.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(store.seed_of("features", "random"))
        network = Random(channels, size)
    return Extractor("random", network, device)


def auto(real, shared: Path, device: str, progress=None, *, images: int | None = None) -> Extractor:
    """The classifier where the data have labels, else the random network; the protocol of every score names which."""
    if real.classes is None:
        if images is not None:
            raise UserError(
                f"features.images={images} is of a classifier, and these data have no labels for one: leave it out."
            )
        return random(real, shared, device, progress)
    return classifier(real, shared, device, progress, images=images)
