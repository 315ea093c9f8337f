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
from imgloop.models.objectives import Flow
from imgloop.models.recipes import Recipe
from imgloop.pool import REAL, Mix, Pool, TrainingSet
from imgloop.training.muon import Muon, kernels
from imgloop.training.tasks import Task, TrainerSettings


def bare_loop(network, x: torch.Tensor, steps: int, recipe: Recipe, objective: Flow, device: str, bf16: bool) -> None:
    """The same network, loss, optimisers, average and batch size in a minimal loop: a lower bound on the cost."""
    average = copy.deepcopy(network).requires_grad_(False)
    muon = kernels(network) if recipe.optimizer == "muon" else []
    taken = {id(p) for p in muon}
    rest = [p for p in network.parameters() if id(p) not in taken]
    optimizers: list = [torch.optim.AdamW(rest, lr=1e-3, weight_decay=0.01, betas=(0.9, 0.99), fused=True)]
    optimizers += [Muon(muon, 1e-2)] if muon else []
    for _ in range(steps):
        x0 = x[torch.randint(len(x), (recipe.batch,), device=device)].float() / 127.5 - 1
        e, s = torch.randn_like(x0), torch.sigmoid(torch.randn(recipe.batch, device=device) + objective.mean)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            out = network(*objective.inputs(torch.lerp(x0, e, s.view(-1, 1, 1, 1)), s))
            loss = (getattr(out, "sample", out) - objective.target(x0, e, s)).square().mean()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
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
    recipe = model.recipe(a.size)
    objective = Flow(mean=recipe.mean)
    resident = torch.from_numpy(images).to(device)
    layout = torch.channels_last if a.gpu else torch.contiguous_format

    def ours(steps: int) -> None:
        with tempfile.TemporaryDirectory() as tmp:
            model.fit(data, Task(0, 0, steps * recipe.batch, "scratch", Path(tmp), trainer=trainer), None)
            if a.gpu:
                torch.cuda.synchronize()

    def bare(steps: int) -> None:
        network = build_network(recipe.network, a.size, channels, None).to(device, memory_format=layout)
        bare_loop(network, resident, steps, recipe, objective, device, precision == "bf16-mixed")

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
        f"{recipe.network}, {recipe.optimizer}, {a.size} pixels, batch {recipe.batch}, "
        f"{torch.get_num_threads()} threads, {device}, {a.rounds} "
        f"rounds of {a.steps} steps"
    )
    for name, t in times.items():
        print(
            f"  {name}: {statistics.median(t):.2f} ms a step (median; {min(t):.2f} to {max(t):.2f}), "
            f"{1000 * recipe.batch / statistics.median(t):,.0f} images/s"
        )
    print(
        f"  ratio ours/bare: {statistics.median(ratios):.3f} (median of the rounds; {min(ratios):.3f} to "
        f"{max(ratios):.3f})"
    )
