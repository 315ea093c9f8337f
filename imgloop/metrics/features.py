"""Feature extractors: one pass over a pool gives the features, and the classifier's logits, that every metric reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imgloop import store
from imgloop.chain import machine, versions
from imgloop.errors import UserError
from imgloop.pool import Pool

CHUNK = (
    256  # images a forward pass, always full (the last is padded), so that no digit depends on how many are asked for
)


@dataclass(frozen=True)
class Features:
    """What one pass extracts: `x` float32 (N, D), and `logits` float32 (N, K) where the extractor classifies."""

    x: np.ndarray
    logits: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray | None:
        """Most probable class of each sample, int64 (N,)."""
        return None if self.logits is None else self.logits.argmax(1)


class Extractor:
    """A network in evaluation mode that turns uint8 images (N, C, H, W) into Features, in chunks of fixed size.

    `name` is the option of the `features` group and `key` hashes everything that the features depend on.
    """

    def __init__(self, name: str, network: nn.Module, device: str = "cpu", facts: dict | None = None):
        self.name, self.network, self.device = name, network.eval().to(device), device
        self.key = store.content_key(
            [name, [(k, store.array_hash(v.cpu().numpy())) for k, v in network.state_dict().items()]]
        )
        self.facts = facts or {}

    @torch.inference_mode()
    def __call__(self, x: np.ndarray, progress: Callable[[int, int], None] | None = None) -> Features:
        outs = []
        for first in range(0, len(x), CHUNK):
            part = torch.from_numpy(np.array(x[first : first + CHUNK]))
            n = len(part)
            part = F.pad(part, (0,) * 7 + (CHUNK - n,)).to(self.device)
            out = self.network(part.float().div_(127.5).sub_(1))
            outs.append([o[:n].float().cpu().numpy() for o in (out if isinstance(out, tuple) else (out,))])
            if progress:
                progress(min(first + CHUNK, len(x)), len(x))
        return Features(*(np.concatenate(parts) for parts in zip(*outs)))


class Classifier(nn.Module):
    """A small CNN; returns (features (B, 64), logits (B, K)) of images scaled to [-1, 1]."""

    width = 64

    def __init__(self, channels: int, size: int, classes: int):
        super().__init__()
        w, layers = self.width, [nn.Conv2d(channels, self.width // 2, 3, padding=1)]
        inside = w // 2
        while True:
            layers += [nn.GroupNorm(8, inside), nn.ReLU(), nn.Conv2d(inside, w, 3, padding=1)]
            inside, size = w, size // 2
            layers += [nn.GroupNorm(8, w), nn.ReLU(), nn.Conv2d(w, w, 3, stride=2, padding=1)]
            if size <= 4:
                break
        self.body = nn.Sequential(*layers, nn.GroupNorm(8, w), nn.ReLU())
        self.features = nn.Linear(w, w)
        self.head = nn.Linear(w, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.features(self.body(x).mean((2, 3))))
        return h, self.head(h)


def train_classifier(
    train: Pool,
    heldout: Pool,
    classes: int,
    images: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Classifier, dict]:
    """Train the classifier on labelled real images, deterministically; returns it and facts such as its held-out
    accuracy.

    `images` is the number of training images seen, with shifts of up to an eighth of the image as augmentation.
    """
    _, channels, size, _ = train.x.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(store.seed_of(seed, "classifier"))
        network, batch = Classifier(channels, size, classes), 128
        x, y = torch.from_numpy(np.array(train.x)), torch.from_numpy(np.array(train.y))
        optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.05, fused=True)
        steps = max(1, images // batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps + 1)
        reach = max(1, size // 8)
        for step in range(steps):
            index = torch.randint(len(x), (batch,))
            part = F.pad(x[index].float().div_(127.5).sub_(1), (reach,) * 4, mode="replicate")
            dy, dx = torch.randint(2 * reach + 1, (2,)).tolist()
            loss = F.cross_entropy(
                network(part[:, :, dy : dy + size, dx : dx + size])[1], y[index], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if progress and (step + 1) % 10 == 0:
                progress((step + 1) * batch, steps * batch)
    guess = Extractor("classifier", network)(heldout.x).labels
    return network, {"heldout_accuracy": float((guess == np.asarray(heldout.y)).mean()), "trained_on": len(train)}


class Random(nn.Module):
    """A convolutional network with random weights of fixed seed; returns features (B, 128) of images scaled to [-1, 1].

    Random features tell distributions apart without labels or training (Naeem et al. 2020, section 4).
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
            nn.init.kaiming_normal_(layer.weight, 0.2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return torch.cat((h.mean((2, 3)), h.std((2, 3), unbiased=False)), 1)


# -- what conf/features names: called with the real data, the study's shared folder, a device and a progress --


def classifier(real, shared: Path, device: str, progress=None, *, images: int = 64_000) -> Extractor:
    """The classifier of the labelled real training images: trained once a study and data, then read from `shared`."""
    if real.classes is None:
        raise UserError(
            "features=classifier needs labelled data, which has one sub-folder a class: use features=random or "
            "features=pixels."
        )
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        raise UserError(f"features.images={images}: give a whole number of at least 1.")
    _, channels, size, _ = real.train.x.shape
    key = store.content_key(
        [
            "classifier",
            1,
            images,
            store.array_hash(real.train.x, real.train.y),
            len(real.classes),
            versions(),
            machine(),
        ]
    )

    def make(part: Path) -> None:
        network, facts = train_classifier(real.train, real.heldout, len(real.classes), images, progress=progress)
        store.write_arrays(part / "network.safetensors", {k: v.numpy() for k, v in network.state_dict().items()})
        store.write_json(part / "facts.json", facts)

    folder = store.once(Path(shared) / f"classifier-{key}", make)
    network = Classifier(channels, size, len(real.classes))
    network.load_state_dict(
        {k: torch.from_numpy(np.array(v)) for k, v in store.open_arrays(folder / "network.safetensors").items()}
    )
    return Extractor("classifier", network, device, store.read_json(folder / "facts.json"))


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


def auto(real, shared: Path, device: str, progress=None, *, images: int = 64_000) -> Extractor:
    """The classifier where the data have labels, else the random network; the protocol of every score names which."""
    if real.classes is None:
        return random(real, shared, device, progress)
    return classifier(real, shared, device, progress, images=images)
