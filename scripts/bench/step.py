"""Training step of imgloop against a bare PyTorch loop and the loops of other programs over the same network."""

from __future__ import annotations

import copy
import os
import resource
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.peers import Plain, Work, installed, pictures
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


def step(a) -> None:
    """Time `a.steps` steps of each loop in each round, one after the other; ratios are taken within a round, so that
    drift cancels."""
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    device = "cuda" if a.gpu else "cpu"
    os.environ["ACCELERATE_USE_CPU"] = str(not a.gpu).lower()
    trainer = TrainerSettings(
        accelerator="gpu" if a.gpu else "cpu",
        precision="bf16-mixed" if a.gpu else "32-true",
        channels_last=a.gpu,
        compile={"true": True, "graphs": "graphs"}.get(a.compile, False),
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

    def network():
        return build_network(recipe.network, a.size, channels, None).to(device, memory_format=layout)

    def ours(steps: int) -> None:
        with tempfile.TemporaryDirectory() as tmp:
            model.fit(data, Task(0, 0, steps * recipe.batch, "scratch", Path(tmp), trainer=trainer), None)

    def bare(steps: int) -> None:
        bare_loop(network(), resident, steps, recipe, objective, device, a.gpu)

    def peer(run, folder: Path, steps: int) -> None:
        run(Plain(network(), channels), Work(images, folder, steps, recipe.batch, device, a.gpu, a.own_data))

    print(
        f"{recipe.network}, {recipe.optimizer}, {a.size} pixels, batch {recipe.batch}, "
        f"{torch.get_num_threads()} threads, {device}, {a.rounds} rounds of {a.steps} steps"
    )
    times: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp) / "images"
        folder.mkdir()
        for i, picture in enumerate(pictures(images)):
            picture.save(folder / f"{i}.png")
        runs = {"ours": ours, "bare": bare} | {n: partial(peer, run, folder) for n, run in installed().items()}
        for run in runs.values():
            run(min(a.steps, 20))
        for _ in range(a.rounds):
            for name, run in runs.items():
                began, cpu_began = time.perf_counter(), cpu_seconds()
                run(a.steps)
                if a.gpu:
                    torch.cuda.synchronize()
                times.setdefault(name, []).append((time.perf_counter() - began) / a.steps * 1000)
                cpu.setdefault(name, []).append((cpu_seconds() - cpu_began) / a.steps * 1000)
    for name, t in times.items():
        middle = statistics.median(t)
        print(
            f"  {name}: {middle:.2f} ms a step ({min(t):.2f} to {max(t):.2f}), {1000 * recipe.batch / middle:,.0f} "
            f"images/s; over ours {ratio(t, times['ours'])}; CPU {statistics.median(cpu[name]):.2f} ms, over ours "
            f"{ratio(cpu[name], cpu['ours'])}"
        )


def ratio(times: list[float], ours: list[float]) -> str:
    """Median and range of the ratios within each round."""
    ratios = [other / own for other, own in zip(times, ours)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended; other programs' load changes them little."""
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in uses)
