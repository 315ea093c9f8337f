"""python scripts/scale.py loop | constants | chains: what imgloop takes where pools, mixes and studies are large.

loop: the loop itself with a stub in the place of model and evaluator, by default over five generations of `accumulate`
with 10 million images of 8 pixels in each pool, its heap limited to 4 GiB. Prints time and memory a generation.
constants: bytes and nanoseconds a row of each step, on which the formulas of docs/scale.md rest.
chains: a study of 500 solvable chains: seconds to list it, to report it, and to compare one more chain.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

SHAPE = (1, 8, 8)
BATCH = 4096
CHUNK = 1 << 16  # samples that the stub draws at a time
HELDOUT = 1000


# -- the stub ---------------------------------------------------------------------------------------------------------


@dataclass
class Stub:
    """A generator of independent pixels around the mean of those that it was fitted to; and the model that fits it, by
    one pass over its training set in the batches and the order of any other model."""

    mean: float = 128.0
    weighted: bool = True
    absorbed: bool = False
    device: str = "cpu"
    history: Any = None
    facts: dict[str, Any] = field(default_factory=dict)

    def fit(self, data, task, previous) -> Stub:
        from imgloop.training.batches import Batches

        batches, total = Batches(data, task.seed, task.t, BATCH), 0.0
        steps = -(-len(data) // BATCH)
        for k in range(steps):
            total += float(data.gather(batches.index(k)).mean())
        return Stub(total / steps)

    def sample(self, n: int, *, seed: int, y=None, progress=None):
        from imgloop.pool import Pool

        x, low = np.empty((n, *SHAPE), np.uint8), int(np.clip(self.mean - 40, 0, 175))
        for first in range(0, n, CHUNK):
            part = x[first : first + CHUNK]
            part[:] = np.random.default_rng([seed, first]).integers(low, low + 81, part.shape, np.uint8)
        return Pool(x)

    def save(self, folder: Path) -> None:
        from imgloop import store

        store.write_json(Path(folder) / "imgloop.json", {"mean": self.mean})

    def load(self, folder: Path, device: str = "cpu") -> Stub:
        from imgloop import store

        return Stub(store.read_json(Path(folder) / "imgloop.json")["mean"])


def moments(pool, generator=None, *, training=None):
    """Scores of a pool from its streamed moments alone: the variance over that of the whole range of pixels."""
    from imgloop.measures import SCORES
    from imgloop.metrics.evaluator import Scores

    total = square = 0.0
    for first in range(0, len(pool), CHUNK):
        part = pool.x[first : first + CHUNK].astype(np.float32)
        total, square = total + float(part.sum(dtype=np.float64)), square + float(np.square(part).sum(dtype=np.float64))
    mean = total / pool.x.size
    values: dict[str, Any] = dict.fromkeys(SCORES)
    return Scores({"features": "moments"}, values, {"mean": mean, "variance": square / pool.x.size - mean**2})


# -- the loop ---------------------------------------------------------------------------------------------------------


class Memory(threading.Thread):
    """The largest heap (anonymous memory) and the largest resident memory since the last `reset`, in MiB, every 20 ms;
    resident memory holds pages of mapped pool files, too, which the system takes back when it needs them."""

    def __init__(self):
        super().__init__(daemon=True)
        self.heap = self.resident = 0.0
        self.start()

    def run(self) -> None:
        while True:
            lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            heap, resident = (int(lines[k].split()[0]) / 1024 for k in ("RssAnon", "VmRSS"))
            self.heap, self.resident = max(self.heap, heap), max(self.resident, resident)
            time.sleep(0.02)

    def reset(self) -> None:
        self.heap = self.resident = 0.0


def run_loop(images: int, generations: int, folder: Path) -> None:
    """The loop over the stub, with a line a generation; the child process of `loop`."""
    import matplotlib.pyplot  # noqa: F401  (here, so that generation 0 does not pay for slow imports)
    import pandas  # noqa: F401

    import imgloop.models.diffusion
    import imgloop.training.batches  # noqa: F401
    from imgloop import loop
    from imgloop.chain.base import Parts, Surroundings
    from imgloop.chain.trained import Chain
    from imgloop.config.settings import parsed
    from imgloop.correction import Nothing
    from imgloop.curation import Everything
    from imgloop.data.real import Facts, RealData
    from imgloop.pool import Pool
    from imgloop.study.real import write_real

    chosen = [f"out={folder}", "study=scale", "paradigm=accumulate", f"generations={generations}", "threads=1"]
    settings = parsed([*chosen, "display=none", f"n_samples={images}"])
    chain = Chain(settings, Surroundings.of(settings))
    x = np.lib.format.open_memmap(folder / "real.npy", "w+", np.uint8, (images, *SHAPE))
    for first in range(0, images, CHUNK):
        part = x[first : first + CHUNK]
        part[:] = np.random.default_rng([7, first]).integers(0, 256, part.shape, np.uint8)
    x.flush()
    del x
    real = RealData(
        Pool(np.load(folder / "real.npy", mmap_mode="r")),
        Pool(np.random.default_rng(8).integers(0, 256, (HELDOUT, *SHAPE), np.uint8)),
        None,
        Facts("uniform noise"),
    )
    memory = Memory()
    names = "generation", "rows of the mix", "s", "processor s", "fit", "draw", "processor s a million rows"
    print("| " + " | ".join([*names, "heap, MiB", "resident, MiB"]) + " |\n" + "|---" * 9 + "|")
    with chain.opened(), chain.display:
        chain.open_pools(real)
        write_real(chain.shared, real)
        chain.write_config()
        parts = Parts(
            settings.build("paradigm"), Everything(), Nothing(), Stub(), moments, real, lambda t: images, features=None
        )
        for t in range(generations):
            memory.reset()
            began, cpu = time.perf_counter(), time.process_time()
            loop.advance(chain, parts, t + 1)
            seconds, cpu, record = time.perf_counter() - began, time.process_time() - cpu, chain.record(t)
            rows, stages = record["n_train"], record["seconds"]
            moved = (rows + images) / 1e6  # rows that are mixed and gathered, and rows that are drawn and written
            print(
                f"| {t} | {rows:,} | {seconds:.1f} | {cpu:.1f} | {stages['train']:.1f} | {stages['sample']:.1f} | "
                f"{cpu / moved:.2f} | {memory.heap:,.0f} | {memory.resident:,.0f} |",
                flush=True,
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak resident memory, mapped pool files included (ru_maxrss): {peak:,.0f} MiB")


def loop_command(a: argparse.Namespace) -> None:
    """Run the loop in a process whose heap is limited."""
    limit = int(a.limit_gib * 2**30)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    with tempfile.TemporaryDirectory(dir=a.out, prefix="imgloop-scale-") as tmp:
        here = [sys.executable, __file__, "loop", "--child", tmp, "--images", str(a.images)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [*here, "--generations", str(a.generations)]
        if subprocess.run(command, env=env, preexec_fn=limited, check=False).returncode:
            sys.exit(f"the loop did not end within {a.limit_gib:g} GiB of heap")
        print(f"heap limited to {a.limit_gib:g} GiB (RLIMIT_DATA)")


# -- constants --------------------------------------------------------------------------------------------------------


def timed(do, *arguments: Any) -> tuple[float, Any]:
    """Processor seconds of a call, and its result."""
    began = time.process_time()
    result = do(*arguments)
    return time.process_time() - began, result


def constants(a: argparse.Namespace) -> None:
    """Nanoseconds and bytes a row, at `a.images` rows: processor time, which other programs change little."""
    from imgloop import store
    from imgloop.metrics.frechet import RealMoments
    from imgloop.metrics.manifold import RealManifold
    from imgloop.paradigm import Accumulate, AccumulateSubsample
    from imgloop.pool import REAL, STORED, Pool, TrainingSet, permutation
    from imgloop.study.generation import read_pool

    n, rng = a.images, np.random.default_rng(0)
    sizes = {REAL: n // 2, 0: n // 2}
    rows: list[tuple[str, float, float | None]] = []
    spent, mix = timed(Accumulate(), sizes, 1, rng)
    rows.append(("mix of everything (origin and row)", spent / n, (mix.origin.nbytes + mix.row.nbytes) / n))
    spent, _ = timed(AccumulateSubsample(n_initial=n // 2), sizes, 1, rng)
    rows.append(("subsample of half", spent / n, None))
    spent, order = timed(permutation, n, rng)
    rows.append(("order of an epoch", spent / n, order.nbytes / n))
    with tempfile.TemporaryDirectory(dir=a.out) as tmp:
        path, pools = Path(tmp) / "pool.safetensors", {}
        x = rng.integers(0, 256, (n // 2, *SHAPE), np.uint8)
        spent, _ = timed(store.write_arrays, path, {"x": x})
        rows.append(("pool written and synced", spent / (n // 2), path.stat().st_size / (n // 2)))
        stored = Path(tmp) / "mix.safetensors"
        spent, _ = timed(store.write_arrays, stored, mix.arrays(), STORED)
        rows.append(("mix written and synced", spent / n, stored.stat().st_size / n))
        spent, _ = timed(store.file_hash, path)
        rows.append(("hash of a pool", spent / (n // 2), None))
        pools = {REAL: Pool(x), 0: read_pool(path)}
        data = TrainingSet.of(pools, mix)
        spent, _ = timed(lambda: [data.gather(order[i : i + BATCH]) for i in range(0, n, BATCH)])
        rows.append((f"gather in batches of {BATCH:,}, in random order", spent / n, 64.0))
    m = min(n, 20_000)
    features = rng.standard_normal((m, 64)).astype(np.float32)
    spent, _ = timed(RealMoments.of, features)
    rows.append(("moments of 64 features", spent / m, 256.0))
    print("| step | ns a row | bytes a row |\n|---|---|---|")
    for name, spent, size in rows:
        print(f"| {name} | {1e9 * spent:,.0f} | {'' if size is None else f'{size:.0f}'} |")
    spent, _ = timed(RealManifold.of, features[:m], 5)
    print(f"| neighbours among {m:,} rows of 64 features, a pair | {1e9 * spent / m**2:.2f} | |")


# -- many chains ------------------------------------------------------------------------------------------------------


def made(settings) -> None:
    """Run a solvable chain, but for the pictures and the comparison at its end."""
    from imgloop import loop, store
    from imgloop.chain.base import Surroundings

    around, generations = Surroundings.of(settings, sweep=True), settings.config["generations"]
    chain = loop.chain_of(settings, around)
    with chain.opened(), around.display, around.log:
        parts = chain.prepared(generations, store.cache_folder())
        chain.begin(parts)
        loop.advance(chain, parts, generations)


def chains(a: argparse.Namespace) -> None:
    """Make a study of `a.chains` solvable chains, in `a.out` or a temporary folder, and time what reads all of it."""
    import imgloop
    from imgloop.config.settings import parsed
    from imgloop.report.__main__ import main as report

    paradigms = ("replace", "accumulate", "accumulate_subsample", "augment", "real_only")
    common = ["model=gaussian", "data=law", "data.n=20", "model.replicates=10", "generations=3", "display=none"]
    with tempfile.TemporaryDirectory() as tmp:
        out = a.out or tmp
        study = Path(out) / "many"
        began, cpu = time.perf_counter(), time.process_time()
        for paradigm in paradigms:
            usual = parsed([*common, f"paradigm={paradigm}", f"out={out}", "study=many"])
            for seed in range(-(-a.chains // len(paradigms))):
                settings = replace(usual, config={**usual.config, "seed": seed})
                if not (settings.folder / "record.json").exists():
                    made(settings)
        total = len(list(study.glob("*/seed*/record.json")))
        print(
            f"{total} chains made in {time.process_time() - cpu:.1f} s ({time.perf_counter() - began:.1f} by the clock)"
        )
        print("| what | processor s | s by the clock |\n|---|---|---|")
        for name, do in (
            ("`python -m imgloop.report --list`", lambda: report([out, "--list"])),
            ("the report", lambda: report([str(study)])),
            ("one further chain, with its comparison",
             lambda: imgloop.run([*common, "paradigm=replace", f"seed={10_000 + total}", f"out={out}", "study=many"])),
            ("the same command again", lambda: imgloop.run(
                [*common, "paradigm=replace", f"seed={10_000 + total}", f"out={out}", "study=many"])),
        ):  # fmt: skip
            began, cpu = time.perf_counter(), time.process_time()
            with contextlib.redirect_stdout(io.StringIO()):
                do()
            print(f"| {name} | {time.process_time() - cpu:.1f} | {time.perf_counter() - began:.1f} |", flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(required=True)
    for name, do in (("loop", loop_command), ("constants", constants), ("chains", chains)):
        one = sub.add_parser(name)
        one.set_defaults(do=do)
        one.add_argument("--out", help="where the study goes; default: a temporary folder")
        if name != "chains":
            one.add_argument("--images", type=int, default=10_000_000, help="images of a pool (10,000,000)")
    loop = sub.choices["loop"]
    loop.add_argument("--generations", type=int, default=5)
    loop.add_argument("--limit-gib", type=float, default=4.0, help="limit of the heap (4)")
    loop.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    sub.choices["chains"].add_argument("--chains", type=int, default=500)
    a = p.parse_args()
    if getattr(a, "child", None):
        run_loop(a.images, a.generations, a.child)
    else:
        a.do(a)


if __name__ == "__main__":
    main()
