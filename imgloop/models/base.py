"""What all generators of images share: drawing in chunks, the labels drawn with, and the state of their training."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imgloop import store
from imgloop.errors import UserError
from imgloop.pool import REAL, Pool, TrainingSet

CHUNK = 256  # samples drawn at once, always full: sample i depends on (seed, i) alone, not on how many are drawn


@torch.inference_mode()
def drawn(
    images_of: Callable[[Tensor, Tensor | None], Tensor],
    n: int,
    latent: tuple[int, ...],
    description: dict,
    device: str,
    seed: int,
    y: np.ndarray | None,
    progress: Callable,
) -> Pool:
    """Draw n images: `images_of` turns latents (CHUNK, *latent) and labels int64 (CHUNK,) or None into images.

    Latents are N(0, bias I): `bias`, the sampling bias lambda of Alemohammad et al. 2023 (arXiv 2307.01850), scales the
    variance of what a generator starts from. Labels are drawn by `label_frequencies` of the description where it has
    them, unless `y` int64 (n,) gives them.
    """
    d, frequencies = description, description["label_frequencies"]
    if frequencies is None:
        y = None
    elif y is None:
        y = np.random.default_rng(store.seed_of(seed, "labels")).choice(len(frequencies), n, p=frequencies)
    else:
        y = np.asarray(y, np.int64)
        if y.shape != (n,) or (n and not 0 <= y.min() <= y.max() < len(frequencies)):
            raise UserError(f"Labels to draw must be {n} whole numbers from 0 to {len(frequencies) - 1}.")
    out = np.empty((n, d["channels"], d["size"], d["size"]), np.uint8)
    for first in range(0, n, CHUNK):
        g = torch.Generator().manual_seed(store.seed_of(seed, "latents", first // CHUNK))
        z = torch.randn((CHUNK, *latent), generator=g).to(device) * d["bias"] ** 0.5
        count = min(CHUNK, n - first)
        labels = None if y is None else torch.from_numpy(np.resize(y[first : first + count], CHUNK)).to(device)
        x = images_of(z, labels)[:count]
        out[first : first + count] = x.clamp(-1, 1).add(1).mul(127.5).round().byte().cpu().numpy()
        progress(first + count, n)
    return Pool(out, y)


def sampling(description: dict) -> dict:
    """What of a description says how samples are drawn: bias and, where they apply, labels, sampler, guidance."""
    keys = ["bias", "sampler", "sampler_steps"]
    if description["label_frequencies"] is not None:
        keys += ["guidance", "labels", "label_frequencies"]
    return {k: description[k] for k in keys if k in description}


def label_frequencies(data: TrainingSet, labels: str) -> list[float]:
    """Class frequencies by which a class-conditional generator draws its labels: of the mix (`training`), or of the
    real data (`real`). Raises UserError where the data have no labels."""
    real = data.pools[REAL].y
    if real is None:
        raise UserError(
            "model.conditional=true needs labelled data: give images in one sub-folder a class, or "
            "model.conditional=false."
        )
    y = data.labels() if labels == "training" else real
    if y is None:
        raise UserError(
            "model.conditional=true needs a training mix with labels, and samples in this one have none: they were "
            "drawn by a model without labels (fork a class-conditional chain)."
        )
    return (np.bincount(y, minlength=int(real.max()) + 1) / len(y)).tolist()


def save_training(folder: Path, state: dict | None) -> None:
    """Keep what `start=weights_and_optimizer` goes on from: raw weights, optimisers, steps; nothing where None."""
    if state is not None:
        data = io.BytesIO()
        torch.save(state, data)
        store.write_bytes(Path(folder) / "training.pt", data.getvalue())


def load_training(folder: Path) -> dict | None:
    """Undoes `save_training`; raises UserError where the file is damaged."""
    path = Path(folder) / "training.pt"
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch names a dozen kinds for a file that is cut short or not its own
        raise store.damaged(path, f"cannot be read ({type(e).__name__})") from e
