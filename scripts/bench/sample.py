"""Sampling by imgloop against the pipeline of diffusers that loads the same saved model, at equal evaluations."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from imgloop.models.diffusion import Diffusion
from imgloop.pool import REAL, Mix, Pool, TrainingSet
from imgloop.training.tasks import Task


def sample(a) -> None:
    """Draw `a.n` images on both sides in each round, 16 Euler steps each; ratios are taken within a round."""
    from diffusers import DiffusionPipeline  # pyright: ignore[reportPrivateImportUsage]

    torch.set_num_threads(a.threads)
    channels = 1 if a.size == 8 else 3
    x = np.random.default_rng(0).integers(0, 256, (64, channels, a.size, a.size), np.uint8)
    data = TrainingSet({REAL: Pool(x)}, Mix(np.full((64, 1), REAL), np.arange(64)[:, None]))
    with tempfile.TemporaryDirectory() as tmp:
        model = Diffusion(network="unet2d", sampler="euler", sampler_steps=16)
        generator = model.fit(data, Task(0, 0, 64, "scratch", Path(tmp) / "scratch"), None)
        generator.save(Path(tmp) / "model")
        pipeline = DiffusionPipeline.from_pretrained(Path(tmp) / "model", low_cpu_mem_usage=False)
        pipeline.set_progress_bar_config(disable=True)

        def theirs() -> None:
            for first in range(0, a.n, 256):
                pipeline(batch_size=min(256, a.n - first), num_inference_steps=16, output_type="np")

        times: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(a.rounds + 1):
            for name, run in (("ours", lambda: generator.sample(a.n, seed=0)), ("theirs", theirs)):
                began = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - began)
    ours, peer = (np.array(times[k][1:]) for k in ("ours", "theirs"))
    print(
        f"UNet2DModel, {a.size} pixels, {a.n} images, 16 evaluations, {a.threads} threads: ours "
        f"{statistics.median(ours):.2f} s, diffusers {statistics.median(peer):.2f} s, ours as fast "
        f"{statistics.median(peer / ours):.2f} times ({(peer / ours).min():.2f} to {(peer / ours).max():.2f}, "
        f"{a.rounds} rounds)"
    )
