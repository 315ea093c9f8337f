"""What a chain will do and cost, shown before it starts: a dry run of the mixing rule, and a timed trial."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgloop import store
from imgloop.display import duration
from imgloop.errors import UserError, existing
from imgloop.pool import REAL, Mix, Pool, TrainingSet
from imgloop.training.tasks import Task

if TYPE_CHECKING:
    from imgloop.chain.trained import Chain

FIGURES = 200 << 10  # bytes of a generation's pictures and records
CHECKPOINTS = 4  # sizes of a model that a checkpoint has
LARGEST_DEFAULT = 128  # images in a batch, where none is given
TRIAL_SECONDS = 1.0  # about how long each half of the trial may take
TRIAL_SHARE = 0.05  # of the training to come, which a short chain's trial may not exceed
STAGES = ("train", "sample", "measure", "write")


@dataclass(frozen=True)
class Plan:
    """Per generation still to do: size of its mix, training images seen, samples drawn; and the rates of a trial."""

    label: str
    first: int
    generations: int
    trained_on: tuple[int, ...]
    images: tuple[int, ...]
    samples: tuple[int, ...]
    sample_bytes: int
    real_bytes: int
    model_bytes: int = 0
    weighted: bool = False  # whether a mix has weights
    train_rate: float = 1.0  # images a second
    sample_rate: float = 1.0
    measure_rate: float = 1.0
    device: str = ""

    @classmethod
    def of(cls, chain: Chain, paradigm, curation, n_drawn, generations: int, runs: bool = True) -> Plan:
        """Ask the paradigm for every mix to come, from sizes alone; raises UserError for one that cannot be made, and,
        if the chain `runs`, for a disk too small, before a mix that is too large for any memory."""
        first = chain.done
        samples = tuple(n_drawn(t) for t in range(first, generations))
        images = tuple(int(chain.settings.images(t)) for t in range(first, generations))
        real = chain.real_pool.x
        label = f"{chain.settings.condition}, seed {chain.seed_number}"
        real_bytes = 0 if first else real.nbytes * 2
        plan = cls(label, first, generations, (), images, samples, real[:1].nbytes, real_bytes)
        if runs:
            plan.check_disk(chain.folder)
        for t, budget in enumerate(images, first):
            if budget == 0 and not chain.starts_from_weights(t):
                raise UserError(
                    f"train.images=0 would leave generation {t} untrained: give it images, or weights to start from "
                    "(start=weights, or start=PATH for generation 0).",
                    "train.images",
                )
        sizes, mixes, weighted = dict(chain.sizes), [], False
        for t in range(first, generations):
            try:
                mix = paradigm(sizes, t, chain.rng(t, "mix"))
            except MemoryError:
                raise UserError(
                    f"The training set of generation {t}, of pools of {max(sizes.values()):,} images, is too large for "
                    "this machine's memory: lower n_samples.",
                    "n_samples",
                ) from None
            n, from_mix = len(mix), chain.settings.selects_mix
            mixes.append(curation.released(n, t) if from_mix and t > 0 else n)
            weighted = weighted or mix.weight is not None
            sizes[t] = samples[t - first] if from_mix else curation.released(samples[t - first], t)
        plan = replace(plan, trained_on=tuple(mixes), weighted=weighted)
        if mixes and chain.settings.part("model").ours:
            plan.check_batch(chain.settings.config["model"].get("batch"))
        return plan

    def check_batch(self, batch: int | None) -> None:
        """Raise UserError for a batch larger than a training set to come, and than any default."""
        smallest = min(self.trained_on, default=LARGEST_DEFAULT)
        if batch is not None and batch > max(smallest, LARGEST_DEFAULT):
            t = self.first + self.trained_on.index(smallest)
            raise UserError(
                f"model.batch={batch} is more than the {smallest} images of the training set of generation {t}: a step "
                "would see images twice; lower it.",
                "model.batch",
            )

    def timed(self, chain: Chain, model: Any, evaluator: Any, trainer: Any) -> Plan:
        """The plan with rates from a short fit and a short draw on this machine, whose results are thrown away."""
        data = first_rows(chain.real_pool, 512)
        batch = 64
        with tempfile.TemporaryDirectory() as tmp:

            def fit(images: int) -> tuple[Any, float]:
                started = time.perf_counter()
                scratch = Path(tmp) / str(images)
                task = Task(0, 0, images, "scratch", scratch, stop=chain.stop, trainer=trainer)
                return model.fit(data, task, None), time.perf_counter() - started

            fit(batch)  # first calls allocate, choose kernels, compile
            _, once = fit(batch)
            _, base = fit(2 * batch)
            step = max(base - once, 0.1 * base)  # a fit may do more than its steps, such as draw its own samples
            share = TRIAL_SHARE * sum(self.images) / batch
            images = batch * int(np.clip(min(TRIAL_SECONDS / step, share), 4, 64))
            generator, seconds = fit(images)
            train_rate = (images - 2 * batch) / max(seconds - base, 0.3 * seconds)
            generator.save(Path(tmp) / "model")
            model_bytes = store.folder_size([Path(tmp) / "model"])
            started = time.perf_counter()
            pool = generator.sample(min(256, self.samples[0]), seed=0)
            sample_rate = 256 / (time.perf_counter() - started)  # samples are drawn 256 at a time
            started = time.perf_counter()
            evaluator(pool, generator, training=data)
            measure_rate = 1 / (time.perf_counter() - started)
        rates = {"train_rate": train_rate, "sample_rate": sample_rate, "measure_rate": measure_rate}
        return replace(self, **rates, model_bytes=model_bytes, device=generator.device)

    @property
    def last(self) -> int:
        return self.generations - 1

    @property
    def disk(self) -> int:
        """Bytes that the generations to come will take, with generation 0 in the shared folder and the checkpoint of
        the one in training: weights, their average and two moments."""
        per_generation = len(self.samples) * (self.model_bytes + FIGURES)
        beside = (self.first == 0) * self.model_bytes + CHECKPOINTS * self.model_bytes
        return sum(self.samples) * self.sample_bytes + per_generation + self.real_bytes + beside

    def check_disk(self, folder: Path) -> None:
        """Raise UserError if the disk has less space than the generations to come will take."""
        free = shutil.disk_usage(existing(folder)).free
        if self.disk > free:
            raise UserError(
                f"This chain needs about {self.disk >> 20:,} MiB for samples, models and a checkpoint, and {folder} "
                f"has {free >> 20:,} MiB free: lower n_samples or generations, set keep_models, or set out=FOLDER to a "
                "larger disk.",
                "out",
            )

    def sized(self, chain: Chain, model: Any) -> Plan:
        """The plan with the size of a saved model, from a fit without images."""
        data = first_rows(chain.real_pool, 2)
        with tempfile.TemporaryDirectory() as tmp:
            task = Task(0, 0, 0, "scratch", Path(tmp) / "scratch", stop=chain.stop, trainer=chain.trainer)
            model.fit(data, task, None).save(Path(tmp) / "model")
            return replace(self, model_bytes=store.folder_size([Path(tmp) / "model"]))

    def stage_seconds(self, t: int, stage: str) -> float:
        """Expected length of one stage of generation t."""
        i = t - self.first
        return {
            "train": self.images[i] / self.train_rate,
            "sample": self.samples[i] / self.sample_rate,
            "measure": 1 / self.measure_rate,
        }.get(stage, 0.3)

    def seconds(self) -> float:
        return sum(self.stage_seconds(t, s) for t in range(self.first, self.generations) for s in STAGES)

    def lines(self, real: Any, evaluator: Any) -> list[str]:
        """The lines that a run begins with."""
        resumed = f", from generation {self.first}" if self.first else ""
        plural = "s" if len(self.images) > 1 else ""
        cost = f"{max(self.disk / 2**20, 0.1):,.1f} MiB on disk"
        if self.device:
            cost += f", about {duration(self.seconds())} on {self.device} "
            cost += f"({self.train_rate:,.0f} images/s trained, {self.sample_rate:,.0f} drawn)"
        return [
            *real.lines(),
            *([real.facts.warning] if real.facts.warning else []),
            evaluator.line,
            *(["a GPU is present: trainer=gpu would use it"] if self.device == "cpu" and gpu_present() else []),
            f"{self.label}: {len(self.images)} generation{plural}{resumed}, {sum(self.images):,} training images "
            f"seen, {sum(self.samples):,} samples drawn, {cost}",
        ]


def first_rows(real: Pool, n: int) -> TrainingSet:
    """The first n real images, or all, as a training set."""
    few = Pool(real.x[:n], None if real.y is None else real.y[:n])
    return TrainingSet({REAL: few}, Mix(np.full((len(few), 1), REAL), np.arange(len(few))[:, None]))


def gpu_present() -> bool:
    import torch  # takes seconds: after the quick checks

    return torch.cuda.is_available()
