"""Training step of imgloop against a bare PyTorch loop over the same network."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from imgloop.models.diffusion import Diffusion
from imgloop.models.networks import build_network
from imgloop.pool import REAL, Mix, Pool, TrainingSet
from imgloop.training.tasks import Task, TrainerSettings


def bare_loop(network, x: torch.Tensor, steps: int, batch: int, lr: float, device: str, precision: str) -> None:
    """The same network, loss, optimiser, moving average and batch size in a minimal loop: a lower bound on the cost."""
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    for _ in range(steps):
        x0 = x[torch.randint(len(x), (batch,), device=device)].float() / 127.5 - 1
        e, s = torch.randn_like(x0), torch.sigmoid(torch.randn(batch, device=device))
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed"):
            out = network(torch.lerp(x0, e, s.view(-1, 1, 1, 1)), s * 1000)
            loss = (getattr(out, "sample", out) - (e - x0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 0.01)
    if device == "cuda":
        torch.cuda.synchronize()


def step(a) -> None:
    """Time `a.steps` steps of both loops in each round, one after the other; ratios are taken within a round, so that
    drift cancels."""
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    device = "cuda" if a.gpu else "cpu"
    precision = "bf16-mixed" if a.gpu else "32-true"
    trainer = TrainerSettings(
        accelerator="gpu" if a.gpu else "cpu",
        precision=precision,
        channels_last=a.gpu,
        resident_gib=8.0 if a.gpu else 0.0,
    )
    channels = 1 if a.size == 8 else 3
    images = np.random.default_rng(0).integers(0, 256, (2000, channels, a.size, a.size), np.uint8)
    data = TrainingSet({REAL: Pool(images)}, Mix(np.full((2000, 1), REAL), np.arange(2000)[:, None]))
    model = Diffusion(network=a.network, batch=a.batch)
    resident = torch.from_numpy(images).to(device)
    layout = torch.channels_last if a.gpu else torch.contiguous_format

    def ours(steps: int) -> None:
        with tempfile.TemporaryDirectory() as tmp:
            model.fit(data, Task(0, 0, steps * a.batch, "scratch", Path(tmp), trainer=trainer), None)
            if a.gpu:
                torch.cuda.synchronize()

    def bare(steps: int) -> None:
        bare_loop(
            build_network(a.network, a.size, channels, None).to(device, memory_format=layout),
            resident,
            steps,
            a.batch,
            model.lr,
            device,
            precision,
        )

    ours(20)
    bare(20)
    times = {"ours": [], "bare": []}
    for _ in range(a.rounds):
        for name, run in (("ours", ours), ("bare", bare)):
            began = time.perf_counter()
            run(a.steps)
            times[name].append((time.perf_counter() - began) / a.steps * 1000)
    ratios = [o / b for o, b in zip(times["ours"], times["bare"])]
    print(
        f"{a.network}, {a.size} pixels, batch {a.batch}, {torch.get_num_threads()} threads, {device}, {a.rounds} "
        f"rounds of {a.steps} steps"
    )
    for name, t in times.items():
        print(
            f"  {name}: {statistics.median(t):.2f} ms a step (median; {min(t):.2f} to {max(t):.2f}), "
            f"{1000 * a.batch / statistics.median(t):,.0f} images/s"
        )
    print(
        f"  ratio ours/bare: {statistics.median(ratios):.3f} (median of the rounds; {min(ratios):.3f} to "
        f"{max(ratios):.3f})"
    )
