"""What all generators of images share: sampling in chunks, their labels, and the saved state of their training."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imgloop import ranks, store
from imgloop.config.schedule import Knob, Schedule
from imgloop.data.real import RealData
from imgloop.errors import UserError
from imgloop.pool import REAL, Pool, TrainingSet
from imgloop.training.memory import in_parts

CHUNK = 256  # samples whose latents have one seed; on a CPU, samples drawn at once
ROWS = 16  # batches are a multiple of it: then a sample has the same bits in all of them
MOST_CHUNKS = 64  # drawn at once on a GPU
GPU_SHARE = 1 / 8  # of a GPU's memory that drawing may take, so that several chains fit on one


@torch.inference_mode()
def sample_images(
    images_of: Callable[[Tensor, Tensor | None], Tensor],
    n: int,
    latent: tuple[int, ...],
    description: dict,
    device: str,
    seed: int,
    y: np.ndarray | None,
    progress: Callable,
) -> Pool:
    """Sample n images: `images_of` turns latents (B, *latent) and labels int64 (B,) or None into images.

    Sample i is a function of (weights, seed, i, its label) alone, not of how many are drawn; on a GPU, up to rounding.
    Latents are N(0, bias I): `bias`, the sampling bias lambda of Alemohammad et al. 2023 (arXiv 2307.01850), scales the
    variance of the latents. Labels follow `label_frequencies` of the description if it has them, unless `y` int64 (n,)
    gives them.
    """
    d, frequencies = description, description["label_frequencies"]
    if frequencies is None:
        y = None
    elif y is None:
        y = np.random.default_rng(store.seed_of(seed, "labels")).choice(len(frequencies), n, p=frequencies)
    else:
        y = np.asarray(y, np.int64)
        if y.shape != (n,) or (n and not 0 <= y.min() <= y.max() < len(frequencies)):
            raise UserError(f"Labels of samples must be {n} whole numbers from 0 to {len(frequencies) - 1}.")
    out = np.zeros((n, d["channels"], d["size"], d["size"]), np.uint8)
    mine = ranks.rows(-(-n // CHUNK))  # whole chunks
    first, last, at_once = mine.start * CHUNK, min(n, mine.stop * CHUNK), CHUNK
    trial = device == "cuda"  # the first batch shows how much memory one takes
    while first < last:
        count = min(at_once, last - first)
        rows = -(-count // ROWS) * ROWS
        z = latents_of(first, rows, latent, seed).to(device) * d["bias"] ** 0.5
        labels = None if y is None else torch.from_numpy(np.resize(y[first : first + count], rows)).to(device)
        if trial:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        (x,) = in_parts(images_of, z, labels, doing="sampling")
        if trial:
            trial, one = False, torch.cuda.max_memory_allocated() - before
            at_once = CHUNK * chunks_at_once(torch.cuda.get_device_properties(0).total_memory, one)
        x = x[:count]
        out[first : first + count] = x.clamp(-1, 1).add(1).mul(127.5).round().byte().cpu().numpy()
        first += count
        progress(first, n)
    return Pool(ranks.summed(out), y)


def latents_of(first: int, rows: int, latent: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal latents (rows, *latent) of the samples from `first` on, a multiple of CHUNK."""
    parts = []
    for chunk in range(first // CHUNK, -(-(first + rows) // CHUNK)):
        g = torch.Generator().manual_seed(store.seed_of(seed, "latents", chunk))
        parts.append(torch.randn((CHUNK, *latent), generator=g))
    return torch.cat(parts)[:rows]


def chunks_at_once(total: int, one: int) -> int:
    """Chunks to draw at once on a GPU of `total` bytes where one takes `one` bytes: a power of two up to MOST_CHUNKS,
    which depends on the GPU alone, not on what else uses it."""
    fitting = max(1, int(total * GPU_SHARE / max(one, 1)))
    return min(MOST_CHUNKS, 1 << (fitting.bit_length() - 1))


def sampling(description: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of sampling in a description: bias and, if they apply, labels, sampler, guidance."""
    keys = ["bias", "sampler", "sampler_steps"]
    if description["label_frequencies"] is not None:
        keys += ["guidance", "guidance_interval", "labels", "label_frequencies"]
    return {k: description[k] for k in keys if k in description}


def label_frequencies(data: TrainingSet, labels: str) -> list[float]:
    """Class frequencies of a class-conditional generator's samples: those of the mix (`training`), with its weights, or
    of the real data (`real`). Raises UserError if the data have no labels."""
    real = data.pools[REAL].y
    if real is None:
        raise UserError(
            "model.conditional=true needs labelled data: give images in one sub-folder a class, or "
            "model.conditional=false.",
            "model.conditional",
        )
    y = data.labels() if labels == "training" else real
    if y is None:
        raise UserError(
            "model.conditional=true needs a training mix with labels, and some samples of this one have none: a model "
            "without labels drew them. Fork a class-conditional chain.",
            "model.conditional",
        )
    weight = None if labels == "real" or data.mix.weight is None else data.mix.weight[:, 0]
    counts = np.bincount(y, weight, minlength=int(real.max()) + 1)
    return (counts / (len(y) if weight is None else weight.sum())).tolist()


def save_training(folder: Path, state: dict | None) -> None:
    """Save what `start=weights_and_optimizer` continues from: raw weights, optimisers, steps; None: nothing."""
    if state is not None:
        data = io.BytesIO()
        torch.save(state, data)
        store.write_bytes(Path(folder) / "training.pt", data.getvalue())


def load_training(folder: Path) -> dict | None:
    """Undo `save_training`; raises UserError if the file is damaged."""
    path = Path(folder) / "training.pt"
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises many kinds of errors for a truncated or foreign file
        raise store.damaged(path, f"cannot be read ({type(e).__name__})") from e


LIMITS = {  # the largest values that a saved generator's description may have: above them it is damaged or hostile
    "size": 4096,
    "channels": 64,
    "embeddings": 100_000,
    "sampler_steps": 1000,
    "widths": 8192,
    "blocks": 64,
}


def check_description(description: Any, path: Path, needed: Iterable[str]) -> dict[str, Any]:
    """The description of a saved generator; raises UserError unless it has what is needed, and sizes that a network can
    have, before one is built from them."""
    if not isinstance(description, dict):
        raise store.damaged(path, f"holds a {type(description).__name__} in place of named values")
    if lacks := [k for k in needed if k not in description]:
        raise store.damaged(path, f"lacks {', '.join(lacks)}")
    for key, most in LIMITS.items():
        value = description.get(key)
        numbers = value if isinstance(value, list) else [] if value is None else [value]
        whole = all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= most for v in numbers)
        if not whole or len(numbers) > 16:
            raise store.damaged(path, f"has {key} {str(value)[:40]}, which no network of ours has")
    frequencies = description.get("label_frequencies")
    if frequencies is not None and not (
        isinstance(frequencies, list) and all(isinstance(v, int | float) and 0 <= v <= 1 for v in frequencies)
    ):
        raise store.damaged(path, "has label_frequencies that are no shares")
    return description


def bias_schedule(bias: Knob) -> Schedule:
    """The sampling bias of each generation, a number above 0 or a schedule of such; raises UserError for others."""
    return Schedule.of("model.bias", bias, above=0, whole=False)


def check_images(batch: int, conditional: bool, real: RealData, images: tuple[int, ...]) -> None:
    """Raise UserError for a budget under one batch, for a batch that the devices cannot share, and for real data
    without the classes that `conditional` needs."""
    for budget in images:
        if 0 < budget < batch:
            raise UserError(
                f"train.images={budget} is less than one batch of {batch}: raise train.images or lower model.batch.",
                "train.images",
            )
    if batch % (devices := ranks.count()):
        raise UserError(
            f"model.batch={batch} cannot be divided among {devices} devices: choose a multiple of {devices}.",
            "model.batch",
        )
    if conditional:
        real.check_classes()
