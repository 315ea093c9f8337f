"""What a chain will do and cost, told before it starts: a dry run of the mixing rule, and a timed warm-up."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from imgloop import store
from imgloop.display import clock
from imgloop.errors import UserError
from imgloop.pool import REAL, Mix, Pool, TrainingSet
from imgloop.training.tasks import Task

FIGURES = 200 << 10  # bytes of a generation's pictures and records
WARM_SECONDS = 1.0  # about how long each half of the warm-up may take
WARM_SHARE = 0.05  # of the training to come, which a short chain's warm-up is not to exceed


@dataclass(frozen=True)
class Plan:
    """Per generation still to do: size of its mix, training images seen, samples drawn; and how long each takes."""

    label: str
    first: int
    generations: int
    trained_on: tuple[int, ...]
    images: tuple[int, ...]
    samples: tuple[int, ...]
    sample_bytes: int
    real_bytes: int
    model_bytes: int = 0
    train_rate: float = 0.0  # images a second
    sample_rate: float = 0.0
    measure_rate: float = 0.0
    device: str = ""

    @classmethod
    def of(cls, paradigm, chain, drawn: Callable[[int], int], generations: int) -> Plan:
        """Ask the paradigm for every mix to come, from sizes alone; raises UserError for one that cannot be made."""
        first = chain.done
        samples, images = (tuple(map(per, range(first, generations))) for per in (drawn, chain.settings.images))
        plan = cls(
            f"{chain.settings.condition}, seed {chain.seed_number}",
            first,
            generations,
            (),
            images,
            samples,
            chain.pools[REAL].x[:1].nbytes,
            0 if first else chain.pools[REAL].x.nbytes * 2,
        )
        free = shutil.disk_usage(store.existing(chain.folder)).free
        if plan.disk > free:
            raise UserError(
                f"This chain needs about {plan.disk >> 20:,} MiB for its samples, and {chain.folder} has "
                f"{free >> 20:,} MiB free: "
                "lower n_samples or generations, or set out=FOLDER to a larger disk."
            )
        sizes, mixes = dict(chain.sizes), []
        for t in range(first, generations):
            mixes.append(len(paradigm(sizes, t, chain.rng(t, "mix"))))
            sizes[t] = samples[t - first]
        return replace(plan, trained_on=tuple(mixes))

    def timed(self, model, chain, evaluator) -> Plan:
        """The plan with rates from a short fit and a short draw on the real machine, whose results are thrown away."""
        real = chain.pools[REAL]
        few = Pool(real.x[:512], None if real.y is None else real.y[:512])
        data = TrainingSet({REAL: few}, Mix(np.full((len(few), 1), REAL), np.arange(len(few))[:, None]))
        batch = getattr(model, "batch", 64)
        for t, images in enumerate(self.images, self.first):
            if 0 < images < batch:
                raise UserError(
                    f"train.images={images} is less than one batch of {batch}: raise train.images or lower model.batch."
                )
            if images == 0 and not chain.starts_from_weights(t):
                raise UserError(
                    f"train.images=0 would leave generation {t} untrained: give it images, or weights to start from "
                    "(start=weights, or start=PATH for generation 0)."
                )
        with tempfile.TemporaryDirectory() as tmp:

            def fit(images: int):
                began = time.perf_counter()
                f = model.fit(data, Task(0, 0, images, "scratch", Path(tmp) / str(images), stop=chain.stop), None)
                return f, time.perf_counter() - began

            fit(batch)  # first calls allocate, choose kernels, compile
            _, base = fit(2 * batch)
            images = batch * int(np.clip(min(2 * WARM_SECONDS / base, WARM_SHARE * sum(self.images) / batch), 4, 64))
            f, seconds = fit(images)
            train_rate = (images - 2 * batch) / max(seconds - base, 0.3 * seconds)
            f.save(Path(tmp) / "model")
            model_bytes = store.folder_size([Path(tmp) / "model"])
            n = min(256, self.samples[0])
            began = time.perf_counter()
            pool = f.sample(n, seed=0)
            sample_rate = 256 / (time.perf_counter() - began)  # samples are drawn 256 at a time
            began = time.perf_counter()
            evaluator(pool, f)
            measure_rate = 1 / (time.perf_counter() - began)
        return replace(
            self,
            train_rate=train_rate,
            sample_rate=sample_rate,
            measure_rate=measure_rate,
            model_bytes=model_bytes,
            device=f.device,
        )

    @property
    def disk(self) -> int:
        """Bytes that the generations to come will take."""
        return (
            sum(self.samples) * self.sample_bytes + len(self.samples) * (self.model_bytes + FIGURES) + self.real_bytes
        )

    def stage_seconds(self, t: int, stage: str) -> float:
        """Expected length of one stage of generation t."""
        i = t - self.first
        return {
            "train": self.images[i] / self.train_rate,
            "sample": self.samples[i] / self.sample_rate,
            "measure": 1 / self.measure_rate,
        }.get(stage, 0.3)

    def seconds(self) -> float:
        return sum(
            self.stage_seconds(t, s)
            for t in range(self.first, self.generations)
            for s in ("train", "sample", "measure", "write")
        )

    def lines(self, real, evaluator) -> list[str]:
        """The lines a run begins with."""
        facts = real.facts
        data = f"{facts.label}: {len(real.train):,} training images, {len(real.heldout):,} held out"
        close = (
            f" ({facts.near_duplicates} of them nearly equal to a training image)"
            if facts.near_duplicates and facts.available  # of drawn data, plain backgrounds are alike
            else ""
        )
        resumed = f", from generation {self.first}" if self.first else ""
        plural = "s" if len(self.images) > 1 else ""
        return [
            data + close,
            *([facts.warning] if facts.warning else []),
            evaluator.line,
            *(["a GPU is present: tier=gpu would use it"] if self.device == "cpu" and gpu_present() else []),
            f"{self.label}: {len(self.images)} generation{plural}{resumed}, {sum(self.images):,} training images "
            f"seen, {sum(self.samples):,} samples drawn, "
            f"{max(self.disk / 2**20, 0.1):,.1f} MiB on disk, about {clock(self.seconds())} on {self.device} "
            f"({self.train_rate:,.0f} images/s trained, {self.sample_rate:,.0f} drawn)",
        ]


def gpu_present() -> bool:
    import torch

    return torch.cuda.is_available()
