"""Chains one after another, as processes, and stacked in one process."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from torch import Tensor

from bench.step import cpu_seconds

STEPS = 10  # of each stacked or separate training that is timed


def chains(a) -> None:
    """The same multirun by Hydra's basic launcher, on all cores and on one thread, and by joblib with `a.jobs` workers;
    then training steps of `a.chains` networks, stacked and one by one."""
    joblib = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={a.jobs}"]
    trainer = ["trainer=gpu"] if a.gpu else []
    runs = {
        "one after another": [],
        "one after another, threads=1": ["threads=1"],
        f"{a.jobs} at a time": joblib,
    }
    seconds, cpu = {}, {}
    for name, more in runs.items():
        with tempfile.TemporaryDirectory() as tmp:
            given = [f"seed=range(0,{a.chains})", f"train.images={a.images}", "generations=2", "display=none", *trainer]
            began, cpu_began = time.perf_counter(), cpu_seconds()
            command = [sys.executable, "-m", "imgloop", "-m", *given, *more, f"out={tmp}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name], cpu[name] = time.perf_counter() - began, cpu_seconds() - cpu_began
    *slow, fast = seconds
    print(f"{a.chains} chains of 2 generations of {a.images:,} images, load {os.getloadavg()[0]:.1f} at the end")
    for name in seconds:
        print(f"  {name}: {seconds[name]:.0f} s, {cpu[name]:.0f} CPU s")
    for name in slow:
        print(f"  {fast}: {seconds[name] / seconds[fast]:.2f} times as fast as {name}")
    stacked(a.chains, "cuda" if a.gpu else "cpu")


def stacked(n: int, device: str) -> None:
    """Print the time of a training step of `n` networks of the recipe for 8 pixels by torch.func (vmap over stacked
    parameters, one fused AdamW), over that of `n` steps one by one; the loss is a plain mean squared error."""
    from torch.func import functional_call, grad, stack_module_state, vmap

    from imgloop.models.networks import build_network

    torch.manual_seed(0)
    networks = [build_network("patch", 8, 1, None).to(device) for _ in range(n)]
    stack, _ = stack_module_state(networks)
    stack = {k: v.detach() for k, v in stack.items()}
    x = torch.randn(n, 128, 1, 8, 8, device=device)
    t = 1000 * torch.rand(n, 128, device=device)

    def loss(parameters: dict[str, Tensor], x: Tensor, t: Tensor) -> Tensor:
        return (functional_call(networks[0], parameters, (x, t)) - x).square().mean()

    gradients = vmap(grad(loss))
    fused = torch.optim.AdamW(stack.values(), fused=True)
    separate = [torch.optim.AdamW(network.parameters(), fused=True) for network in networks]

    def together() -> None:
        for parameter, g in zip(stack.values(), gradients(stack, x, t).values()):
            parameter.grad = g
        fused.step()

    def one_by_one() -> None:
        for network, optimizer, images, timestep in zip(networks, separate, x, t):
            optimizer.zero_grad()
            (network(images, timestep) - images).square().mean().backward()
            optimizer.step()

    def timed(run) -> tuple[float, float]:
        began, cpu_began = time.perf_counter(), cpu_seconds()
        for _ in range(STEPS):
            run()
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / STEPS * 1000, (cpu_seconds() - cpu_began) / STEPS * 1000

    timed(together), timed(one_by_one)
    rounds = [(*timed(together), *timed(one_by_one)) for _ in range(3)]
    wall, cpu, wall_each, cpu_each = (statistics.median(r) for r in zip(*rounds))
    print(
        f"  a step of {n} networks, {torch.get_num_threads()} threads: stacked {wall:.1f} ms (CPU {cpu:.1f}), one by "
        f"one {wall_each:.1f} ms (CPU {cpu_each:.1f}): stacked {wall_each / wall:.2f} times as fast (by CPU seconds "
        f"{cpu_each / cpu:.2f})"
    )
