"""The rates of a recipe on this machine: two chains of one short generation each, run as any chain, in a temporary
study; and the floating-point operations of one training step and one batch of samples."""

from __future__ import annotations

import contextlib
import io
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch.utils.flop_counter import FlopCounterMode

from imgloop import loop, multirun, store
from imgloop.chain.plan import first_rows
from imgloop.config.settings import Settings, parsed
from imgloop.guards import guarded
from imgloop.models.base import CHUNK
from imgloop.study.generation import generations, read_record
from imgloop.training.tasks import Task, TrainerSettings

SECONDS = 2.0  # of training, about, in the longer of the two chains
LEAST, MOST = 4, 400  # optimiser steps of the longer one
BESIDE = ("pool.safetensors", "drawn.safetensors", "mix.safetensors")  # files that grow with the rows


@dataclass(frozen=True)
class Rates:
    """Times in seconds, sizes in bytes, operations in FLOP, of one recipe on this machine.

    batch: images a step. step_flop, sample_flop: of one step, and of one sample with all its nfe evaluations of the
    network. fit, step: of a fit beside its steps, and of each step. chunk: of CHUNK samples. measure: seconds by number
    of samples, as (samples, seconds) of two trials. write: of a generation's files. first, chain: of a study's first
    chain, and of each further one, beside its generations. report: at the end of a sweep. busy: CPU seconds a second
    of a generation; cpu: of all else.
    """

    batch: int
    step_flop: float
    sample_flop: float
    nfe: int
    model_bytes: int
    fit: float
    step: float
    chunk: float
    measure: tuple[tuple[int, float], tuple[int, float]]
    write: float
    first: float
    chain: float
    report: float
    busy: float
    cpu: float
    threads: int
    sample_bytes: float
    feature_bytes: float
    generation_bytes: int
    chain_bytes: int
    shared_bytes: int
    report_bytes: int
    host: int
    device: int

    def measuring(self, n: int) -> float:
        """Seconds to measure n samples: a straight line through the two trials, never below the smaller's."""
        (n0, s0), (n1, s1) = self.measure
        if n1 > n0:
            return s0 + max(0.0, (s1 - s0) / (n1 - n0)) * (n - n0)
        return (s0 + s1) / 2 * max(1.0, n / n0)


@dataclass(frozen=True)
class Run:
    """A chain of the trial: its folder, its record, the wall seconds that it took beside its stages, and CPU seconds in
    all."""

    folder: Path
    record: dict[str, Any]
    beside: float
    cpu: float

    @property
    def stages(self) -> float:
        """Wall seconds of its generation."""
        return sum(self.record["seconds"].values())


def trial(overrides: Sequence[str], dirs: Sequence[Path], settings: Settings, most: int, sweep: bool) -> Rates:
    """The rates of the recipe of one chain. most: samples of its largest generation. sweep: whether it ends in a
    report. What a run does with its own settings (threads, classifier, features, report) happens here as well."""
    with tempfile.TemporaryDirectory(prefix="imgloop-plan-") as tmp:
        batch, step_flop, sample_flop, nfe, step = counted(settings, Path(tmp))
        study, n = Path(tmp) / "trial", min(CHUNK, most)
        steps = int(np.clip(SECONDS / step, LEAST, MOST))

        def run(seed: int, steps: int, n: int) -> Run:
            few = [f"seed={seed}", f"train.images={steps * batch}", f"n_samples={n}", "generations=1", "fork=null"]
            few += [f"out={tmp}", "study=trial", "overwrite=false", "keep_models=null", "display=lines", "logger=none"]
            began, cpu = time.perf_counter(), time.process_time()
            folder = loop.run(parsed([*overrides, *few], dirs), sweep=sweep).folder
            wall, cpu = time.perf_counter() - began, time.process_time() - cpu
            record = read_record(generations(folder)[0])
            return Run(folder, record, wall - sum(record["seconds"].values()), cpu)

        with silent():
            short = run(0, max(1, steps // 4), n)
            room = n * max(1.0, SECONDS / max(short.record["seconds"]["sample"], 1e-3))
            long = run(1, steps, int(min(most, max(n, room // CHUNK * CHUNK))))
        threads = torch.get_num_threads()
        busy, cpu = shares(short, long, threads)
        seconds, before = long.record["seconds"], short.record["seconds"]
        ran = steps - max(1, steps // 4)
        each = max(seconds["train"] - before["train"], 0.3 * seconds["train"] * ran / steps) / ran
        generation = generations(long.folder)[0]
        own = store.folder_size([generation])
        growing = {f: (generation / f).stat().st_size for f in BESIDE if (generation / f).exists()}
        model, shared = store.folder_size([generation / "model"]), store.folder_size([study / "shared"])
        features = next((study / "shared").glob("features-*/arrays.safetensors"))
        reported = time.perf_counter()
        with silent():
            if sweep:
                multirun.write_report(study)
        reported = time.perf_counter() - reported
        beside = store.folder_size([p for p in study.iterdir() if p.name == "report"])
        return Rates(
            batch, step_flop, sample_flop, nfe, model,
            fit=max(0.0, seconds["train"] - each * steps), step=each,
            chunk=seconds["sample"] / -(-long.record["n_drawn"] // CHUNK),
            measure=((short.record["n_drawn"], before["measure"]), (long.record["n_drawn"], seconds["measure"])),
            write=seconds.get("write", 0.0), first=short.beside, chain=long.beside, report=reported,
            busy=busy, cpu=cpu, threads=threads,
            sample_bytes=sum(growing.get(f, 0) for f in BESIDE[:2]) / long.record["n_drawn"],
            feature_bytes=features.stat().st_size / long.record["n_train"],
            generation_bytes=own - sum(growing.values()) - model,
            chain_bytes=store.folder_size([long.folder]) - own,
            shared_bytes=shared - 2 * model,
            report_bytes=beside + sum(p.stat().st_size for p in study.iterdir() if p.is_file()),
            host=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10),
            device=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        )  # fmt: skip


def shares(short: Run, long: Run, threads: int) -> tuple[float, float]:
    """CPU seconds a wall second of a generation, and of what is beside it, which give the CPU seconds of both runs.
    On a busy machine both are small, and the wall seconds long."""
    wall = np.array([[r.stages, r.beside] for r in (short, long)])
    busy, cpu = nnls(wall, np.array([short.cpu, long.cpu]))[0]
    return min(float(busy), threads), min(float(cpu), threads)


def counted(settings: Settings, scratch: Path) -> tuple[int, float, float, int, float]:
    """Images of a training step, FLOP of a step and of a sample (PyTorch's counter on real ones), network evaluations
    of a sample, and seconds of a step. A step is the difference of two fits, which may do more than their steps."""
    real = guarded(settings.part("data"), settings.build("data")).load(store.cache_folder())
    model = guarded(settings.part("model"), settings.build("model"))
    data, trainer = first_rows(real.train, 512), TrainerSettings(**settings.config["trainer"])

    def fit(name: str, images: int) -> Any:
        return model.fit(data, Task(0, 0, images, "scratch", scratch / name, trainer=trainer), None)

    with Counter(display=False) as one:
        generator = fit("one", 1)
    with Counter(display=False) as sampling:
        generator.sample(CHUNK, seed=0)
    facts = generator.facts
    batch = int(facts.get("images_seen") or 1)
    with Counter(display=False) as two:
        fit("two", 2 * batch)
    clock = [time.perf_counter()]
    for steps in (1, 3):
        fit(f"time {steps}", steps * batch)
        clock.append(time.perf_counter())
    first, second = np.diff(clock)
    flop = float(two.get_total_flops() - one.get_total_flops()), sampling.get_total_flops() / CHUNK
    return batch, *flop, int(facts.get("nfe") or 1), max((second - first) / 2, 0.1 * first)


class Counter(FlopCounterMode):
    """PyTorch's counter without its counts by module, whose hooks do not bear a gradient penalty."""

    def __init__(self, display: bool):
        super().__init__(display=display)
        self.mod_tracker: Any = Total()


class Total(contextlib.nullcontext):
    """In place of a ModuleTracker: every operation counts for the whole alone."""

    parents = ("Global",)


@contextlib.contextmanager
def silent():
    """Discard what the chains of the trial print."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
