"""The number of CPU threads, by a timed trial: once for each study, network and machine."""

from __future__ import annotations

import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from imgloop import ranks, store
from imgloop.chain.plan import first_rows
from imgloop.errors import Stopped
from imgloop.provenance import machine
from imgloop.training.tasks import Task

if TYPE_CHECKING:
    from imgloop.chain.trained import Chain

MOST = torch.get_num_threads()  # PyTorch's own default, which the environment or a script may have set
SECONDS = 0.4  # of each fit of the trial
STEPS = 12  # optimiser steps, at least, that each fit of the trial takes, unless LONGEST is over
LONGEST = 20.0  # seconds of a fit of the trial
TOO_LONG = 2 * LONGEST  # of a fit, which ends between two steps
ROUNDS = 4  # the speed of a shared machine changes within seconds
GAIN = 1.05  # what a larger number must gain
QUANTILE = 0.8  # of the durations of steps: it grows before the median does where other programs use the cores


def use_threads(chain: Chain, model: Any, real: Any) -> None:
    """Compute with `threads` CPU threads; null: with the number that trains fastest here, by a trial whose result the
    study keeps, so that its chains are equal to the last bit. On a GPU, or with one core, nothing is tried; several
    processes on a machine share its cores."""
    given = chain.settings.config["threads"]
    if given is None and ranks.local_size() > 1:
        given = max(1, MOST // ranks.local_size())
    if given is None and chain.trainer.device == "cpu" and MOST > 1:
        given = kept(chain, model, real)
    torch.set_num_threads(given or MOST)


def kept(chain: Chain, model: Any, real: Any) -> int:
    """The number that the study's shared folder holds for this network and machine, else that of a trial."""
    s = chain.settings
    torch.set_num_threads(MOST)  # `machine` names it
    where = {**machine(), "cores": os.cpu_count(), "size": real.train.x.shape[1:], "model": s.choices["model"]}
    settings = {k: v for k, v in s.config["model"].items() if not k.startswith("_")}
    folder = chain.shared / f"threads-{store.content_key({**where, **settings})}"

    def make(part: Path) -> None:
        chain.display.say(f"timing training steps on 1 to {MOST} threads")
        seconds = trial(model, real, chain)
        store.write_json(part / "threads.json", {"threads": fastest(seconds), "seconds a step": seconds})

    store.once(folder, make)
    content = store.read_json(folder / "threads.json")
    threads = content.get("threads") if isinstance(content, dict) else None
    if type(threads) is not int or not 1 <= threads <= MOST:
        raise store.damaged(folder / "threads.json", f"does not say how many of {MOST} threads to use")
    return threads


def counts() -> list[int]:
    """Numbers to try: powers of two, and the most."""
    return sorted({1 << i for i in range(MOST.bit_length()) if 1 << i <= MOST} | {MOST})


def trial(model: Any, real: Any, chain: Chain) -> dict[int, float]:
    """Seconds of a training step by number of threads: a high quantile over a few fits, all numbers in turn. A model
    that reports no steps is timed as a whole. Where one fit takes far too long, the most threads are used untried."""
    data = first_rows(real.train, 512)
    durations: dict[int, list[float]] = {n: [] for n in reversed(counts())}
    for _ in range(ROUNDS):
        for n in durations:
            torch.set_num_threads(n)
            began = time.perf_counter()
            durations[n] += steps(model, data, chain)
            if time.perf_counter() - began > TOO_LONG:
                chain.display.say(
                    f"training steps are too slow to be timed: using {MOST} threads; threads=N sets another number"
                )
                return {MOST: float(np.quantile(durations[n], QUANTILE))}
    return {n: float(np.quantile(d, QUANTILE)) for n, d in durations.items()}


def steps(model: Any, data: Any, chain: Chain) -> list[float]:
    """Seconds of each step of a short fit, whose result is thrown away."""
    times: list[float] = []
    began = time.perf_counter()

    def progress(done: int, total: int, **figures: Any) -> None:
        times.append(time.perf_counter())

    def enough() -> bool:
        spent = time.perf_counter() - began
        return chain.stop() or (spent > SECONDS and len(times) > STEPS) or spent > LONGEST

    images = max(1, int(chain.settings.images(chain.done)))
    with tempfile.TemporaryDirectory() as tmp:
        task = Task(0, 0, images, "scratch", Path(tmp) / "scratch", progress, enough, chain.trainer, chunk=1)
        try:
            model.fit(data, task, None)
        except Stopped:
            if chain.stop():
                raise
    whole = time.perf_counter() - began
    return [b - a for a, b in pairwise(times[1:])] or [whole]  # the first steps allocate memory and choose kernels


def fastest(seconds: dict[int, float]) -> int:
    """The smallest number of threads that no larger one beats by GAIN."""
    best = min(seconds)
    for n in sorted(seconds):
        if seconds[n] * GAIN < seconds[best]:
            best = n
    return best
