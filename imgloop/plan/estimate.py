"""What a set of chains costs in all: counts from their plans, times and sizes from the rates of their recipes."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from imgloop.chain.plan import CHECKPOINTS
from imgloop.models.base import CHUNK
from imgloop.plan import devices
from imgloop.plan.chains import Work
from imgloop.plan.trial import Rates

ROW = 12  # bytes that a stored mix takes a row, without weights
HELD = 14  # bytes of memory that a mix and the order of an epoch take a row
WATTS_A_THREAD = 4.0  # of a processor: what codecarbon takes where it does not know the processor


@dataclass(frozen=True)
class Startup:
    """Seconds from the command to the first chain (imports, settings), by the clock and of the processor."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Estimate:
    """The cost of all chains. Times in seconds, sizes in bytes, operations in FLOP; generation 0 is counted once for
    all chains that share it. elsewhere: seconds on the named device, None without one; parallel: of either, on
    `workers` of them."""

    chains: int
    generations: int
    shared: int
    images: int
    samples: int
    evaluations: int
    train_flop: float
    sample_flop: float
    disk: dict[str, int]
    host: int
    device: int
    seconds: float
    cpu_seconds: float
    elsewhere: float | None
    workers: int
    parallel: float

    @property
    def disk_bytes(self) -> int:
        return sum(self.disk.values())


def estimate(
    works: Sequence[Work], rates: Mapping[str, Rates], startup: Startup, name: str | None, workers: int, sweep: bool
) -> Estimate:
    """Add up the chains. rates: by recipe. name: of a device, or None. workers: how many chains run at a time."""
    first = firsts(works, rates)
    images = samples = evaluations = 0
    train_flop = sample_flop = 0.0
    for i, w in enumerate(works):
        r, t0 = rates[w.recipe], w.plan.first
        trained = [n for t, n in enumerate(w.plan.images, t0) if t > 0 or i in first]
        images, samples = images + sum(trained), samples + sum(w.plan.samples)
        evaluations += sum(w.plan.samples) * r.nfe
        train_flop += sum(-(-n // r.batch) for n in trained) * r.step_flop
        sample_flop += sum(w.plan.samples) * r.sample_flop
    report = max((r.report for r in rates.values()), default=0.0) if sweep else 0.0
    here = tasks(works, rates, None)
    total = startup.wall + report + makespan(here, 1)
    share = max((r.cpu for r in rates.values()), default=1.0)
    cpu = startup.cpu + report * share
    for w, (_, seconds, rest), own in zip(works, here, beside(works, rates)):
        r = rates[w.recipe]
        cpu += r.busy * (seconds + rest - own) + r.cpu * own
    there = None if name is None else startup.wall + report + makespan(tasks(works, rates, name), 1)
    several = makespan(tasks(works, rates, name), workers) + startup.wall + report
    return Estimate(
        len(works), sum(len(w.plan.images) for w in works), len(works) - len(first), images, samples, evaluations,
        train_flop, sample_flop, disk(works, rates, len(first), workers, sweep),
        max((memory(w, rates[w.recipe]) for w in works), default=0), max((r.device for r in rates.values()), default=0),
        total, cpu, there, workers, several,
    )  # fmt: skip


def firsts(works: Sequence[Work], rates: Mapping[str, Rates]) -> set[int]:
    """The chains, by position, that train the generation 0 of their key."""
    keys: dict[str, int] = {}
    for i, w in enumerate(works):
        torch.set_num_threads(rates[w.recipe].threads)  # which a key names
        if w.first_key is not None:
            keys.setdefault(w.first_key, i)
    return set(keys.values())


def tasks(works: Sequence[Work], rates: Mapping[str, Rates], name: str | None) -> list[tuple[str | None, float, float]]:
    """For each chain the key of its generation 0, the seconds to train that (0 for all but the first of a key), and all
    other seconds, here or on a named device, where measuring, pictures and the start are taken to last as here."""
    first, out = firsts(works, rates), []
    for i, (w, rest) in enumerate(zip(works, beside(works, rates))):
        r, plan = rates[w.recipe], w.plan
        trained = [training(r, n, name) for n in plan.images]
        rest += sum(trained[1:] if plan.first == 0 else trained)
        rest += sum(sampling(r, n, name) + r.measuring(n) + r.write for n in plan.samples)
        out.append((w.first_key, trained[0] if i in first else 0.0, rest))
    return out


def beside(works: Sequence[Work], rates: Mapping[str, Rates]) -> list[float]:
    """For each chain its seconds beside its generations, which are more for the first of a study."""
    studies, seconds = set(), []
    for w in works:
        seconds.append(rates[w.recipe].chain if w.settings.study in studies else rates[w.recipe].first)
        studies.add(w.settings.study)
    return seconds


def training(r: Rates, images: int, name: str | None) -> float:
    """Seconds of a fit."""
    steps = -(-images // r.batch)
    return r.fit + (steps * r.step if name is None else devices.seconds(name, steps * r.step_flop, steps))


def sampling(r: Rates, n: int, name: str | None) -> float:
    """Seconds to draw n samples, in whole chunks."""
    chunks = -(-n // CHUNK)
    if name is None:
        return chunks * r.chunk
    return devices.seconds(name, chunks * CHUNK * r.sample_flop, chunks * r.nfe * devices.PASS)


def makespan(tasks: Sequence[tuple[str | None, float, float]], workers: int) -> float:
    """Seconds until the last of the tasks ends, each started in order by the first free of `workers`. A chain whose
    generation 0 another one trains waits for it."""
    free, ready = [0.0] * max(1, min(workers, len(tasks))), dict[str, float]()
    for key, first, rest in tasks:
        start = heapq.heappop(free)
        if key is not None:
            start = ready.setdefault(key, start + first) if first or key not in ready else max(start, ready[key])
        heapq.heappush(free, start + rest)
    return max(free)


def disk(works: Sequence[Work], rates: Mapping[str, Rates], firsts: int, workers: int, sweep: bool) -> dict[str, int]:
    """Bytes that will be written, by kind. `checkpoints`: of the generations in training, which are removed."""
    kinds = "pools", "mixes", "models", "features and real data", "records and pictures", "checkpoints"
    total: dict[str, float] = dict.fromkeys(kinds, 0.0)
    studies, largest = set(), 0
    for w in works:
        r, count = rates[w.recipe], len(w.plan.images)
        kept = w.settings.config["keep_models"]
        total["pools"] += sum(w.plan.samples) * r.sample_bytes
        total["mixes"] += sum(w.plan.trained_on) * ROW
        total["models"] += (count if kept is None else min(count, kept)) * r.model_bytes
        total["records and pictures"] += count * r.generation_bytes + r.chain_bytes
        if w.settings.study not in studies and not (w.settings.study / "shared").is_dir():
            total["features and real data"] += r.shared_bytes
        studies.add(w.settings.study)
        largest = max(largest, r.model_bytes)
    total["models"] += firsts * largest
    total["checkpoints"] = min(workers, len(works)) * CHECKPOINTS * largest
    total["records and pictures"] += len(studies) * max((r.report_bytes for r in rates.values()), default=0) * sweep
    return {k: int(v) for k, v in total.items()}


def memory(w: Work, r: Rates) -> int:
    """Peak bytes of a process: that of the trial, and what further samples and rows take beside it."""
    more = max(0, max(w.plan.samples) - r.measure[1][0])
    return int(r.host + more * (2 * r.sample_bytes + 3 * r.feature_bytes) + max(w.plan.trained_on) * HELD)
