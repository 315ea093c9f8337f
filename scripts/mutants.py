"""python scripts/mutants.py [--only SUBSTRING] [--jobs N] [--check]: how many of 64 planted faults the tests catch.

Each fault is a replacement of text in one file, made in a temporary copy of the package. The tests that cover the file
run until the first failure. The script prints each fault with the test that caught it, or SURVIVED, then the share
caught, and exits with 1 if that is under 95 %. --check only checks that each text occurs exactly once in its file.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, cast

from hypothesis import Phase, settings

ROOT = Path(__file__).resolve().parent.parent
PRELOADED = "pytest scipy.stats pandas torch._dynamo torchmetrics lightning.pytorch hydra.main matplotlib.pyplot"
TIMEOUT = 400  # seconds for one fault; one that runs longer counts as survived

# "# file: tests, the fastest first", then a fault a line: "old text => new text".
FAULTS = """
# paradigm: paradigm
row = np.arange(first, first + n, dtype=np.int64) => row = np.arange(first + 1, first + n + 1, dtype=np.int64)
np.take_along_axis(mix.row, chosen, 0), weight) => np.take_along_axis(mix.row, chosen, 0))
chosen[repeated] = rng.integers(total, size => chosen[repeated] = rng.integers(total - 1, size
[np.ones(m.row.shape) if m.weight is None => [np.zeros(m.row.shape) if m.weight is None
for s in range(t))) => for s in range(t - 1)))
n_real = round(fraction * len(newest)) => n_real = int(fraction * len(newest))
any(a.values or (a.start,)) => all(a.values or (a.start,))
int(value_at(self.budget, t)) => int(value_at(self.budget, t - 1))
for s in range(1, t + 1)] => for s in range(t)]
int(share * n + 1e-9) => int(share * n)
# pool: pool curation
int(counts[o]) / origin.size => int(counts[o]) / len(origin)
weight[here] *= own[rows] if => weight[here] = own[rows] if
own[rows, np.nonzero(here)[1]] => own[rows, np.nonzero(here)[0]]
stacked[index, np.arange(index.shape[1])] => stacked[index, 0]
if not (weight.max(0) > 0).all(): => if not weight.max() > 0:
# curation: curation
max(1, round(self.fraction * n)) => round(self.fraction * n)
np.argsort(-confidence, kind => np.argsort(confidence, kind
np.asarray(drawn.y)[rows] => np.asarray(drawn.y)[: len(rows)]
rows, changed[rows]) => rows, changed[: len(rows)])
rows[:, :, None], 0), None, choice.weight) => rows[:, :, None], 0))
# collapse/statistics: collapse_statistics collapse
(n - 1) / n) => n / n)
np.maximum.accumulate(np.minimum(ranked * left, 1.0), axis=-1) => np.minimum(ranked * left, 1.0)
left = (~np.isnan(p)).sum(-1, keepdims=True) - np => left = p.shape[-1] - np
p = np.maximum.accumulate(p, axis=-1) => pass
t[..., 0] < -stats.t.ppf(level => t[..., 0] < stats.t.ppf(level
# collapse/definitions: collapse
x.shape[-1] - 1) :] => x.shape[-1]) :]
half = first + (last - first) // 2 => half = first + (last - first + 1) // 2
np.take_along_axis(p, lead[None], 0)[0] * np.maximum(measured, 1), 1.0) => np.take_along_axis(p, lead[None], 0)[0], 1.0)
m.bound(0.975, s) => m.bound(0.95, s)
(t := int(below[-1])) => (t := int(below[0]))
# metrics/frechet: metrics
upper = torch.from_numpy(upper) / (len(x) - 1) => upper = torch.from_numpy(upper) / len(x)
shift * (n / (self.n + n)) => shift * (self.n / (self.n + n))
# metrics/kernel: metrics
np.std(values, ddof=1) * np.sqrt(1 / (smaller => np.std(values) * np.sqrt(1 / (smaller
# metrics/manifold: metrics tails
distance2[:, 0] > train.other2 => distance2[:, 0] >= train.other2
j = np.arange(1, k + 1) => j = np.arange(k)
# metrics/tails: tails
descending[int(TAIL * (len(self.b) + 1)) - 1] => descending[int(TAIL * (len(self.b) + 1))]
np.sort(self.ratio)[-self.rank] => np.sort(self.ratio)[-self.rank - 1]
# metrics/modes: modes metrics
np.logical_and.accumulate(p_values[order] <= level / (k - np.arange(k))) => p_values[order] <= level / k
level * np.arange(1, k + 1) / k => level * np.arange(k) / k
# metrics/variance: metrics
weights = [(sides[0][1] == c) => weights = [(sides[1][1] == c)
# store: store
part = path.with_name(f".{path.name}.{HOST}-{os.getpid()}.part") => part = path
part = folder.with_name(f".{folder.name}.part") => part = folder
hashlib.file_digest(f, "sha256").digest() => hashlib.sha256(f.read(1 << 16)).digest()
part.relative_to(path).as_posix() => part.name
f"{a.dtype}{a.shape}" => f"{a.shape}"
json.dumps(value, sort_keys=True, default=str) => json.dumps(value, default=str)
end - begin != dtype.itemsize => end - begin > dtype.itemsize
held.acquire(poll_interval=0.2) => pass
with lock(folder.with_name(f".{folder.name}.lock"), waiting=waiting): => if True:
Path(path).rglob("*") if p => Path(path).glob("*") if p
# training/batches: pool
store.seed_of(self.seed, self.t, "epoch", epoch) => store.seed_of(self.seed, "epoch", epoch)
torch.from_numpy(self.y[index]) => torch.from_numpy(self.y[: len(index)])
# training/trainer: trainer diffusion gan
self.chunks.position = state["done"] => self.chunks.position = 0
self.loss_sum + steps * module.recent_loss => self.loss_sum + module.recent_loss
self.loss_sum, self.loss_steps = state["since"] => self.loss_sum, self.loss_steps = 0.0, 0
# training/muon: muon
max(1.0, rows / columns) ** 0.5 => 1.0
if isinstance(m, nn.Conv2d)] => if isinstance(m, nn.Conv2d | nn.Linear)]
# chain/threads: threads
seconds[n] * GAIN < seconds[best] => seconds[n] < seconds[best]
# models/denoising: muon diffusion
** (EMA_POWER + 1) => ** EMA_POWER
# models/base: generator diffusion
store.seed_of(seed, "latents", first // CHUNK) => store.seed_of(seed, "latents")
len(y) if weight is None else weight.sum() => len(y)
.mul(127.5).round().byte() => .mul(127.5).byte()
# models/samplers: objectives
d = (d + derivative(ahead, after)) / 2 => d = derivative(ahead, after)
# models/objectives: objectives diffusion
return (torch.arange(n) + 0.5) / n => return torch.arange(n) / n
"""


class Fault(NamedTuple):
    file: str
    old: str
    new: str
    tests: list[str]


def faults(only: str) -> Iterator[Fault]:
    """The faults above with `only` in file or text; exits with a message if a text does not occur exactly once."""
    file, tests = "", []
    for line in FAULTS.strip().split("\n"):
        if line.startswith("# "):
            name, _, names = line[2:].partition(": ")
            file, tests = f"imgloop/{name}.py", [f"tests/test_{word}.py" for word in names.split()]
            continue
        old, _, new = line.partition(" => ")
        if (count := (ROOT / file).read_text().count(old)) != 1:
            sys.exit(f"{file} contains {old!r} {count} times; a fault needs a text that occurs once.")
        if only in f"{file}: {line}":
            yield Fault(file, old, new, tests)


def run_pytest(copy: Path, arguments: list[str], output: Path) -> None:
    """pytest in a copy of the repository, in a process of its own that already has the heavy imports."""
    os.setsid()
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(copy)
    os.environ.update({"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"})
    sys.dont_write_bytecode, sys.path = True, [str(copy), *sys.path]
    options = "-q -n 0 --tb=no -rfE -p no:cacheprovider -m".split()
    sys.exit(import_module("pytest").main([*options, "not nightly", *arguments]))


class Run:
    """pytest in a copy of the repository, ended with every process that its tests leave."""

    def __init__(self, copy: Path, arguments: list[str]):
        self.copy, self.output, self.start = copy, copy / "output.txt", time.monotonic()
        self.process = get_context("fork").Process(target=run_pytest, args=(copy, arguments, self.output))
        self.process.start()

    def ended(self, wait: float) -> bool:
        self.process.join(wait)
        return not self.process.is_alive() or time.monotonic() - self.start > TIMEOUT

    def failures(self) -> set[str]:
        """The tests, as file::function, that failed; none if the run took longer than TIMEOUT."""
        code = self.process.exitcode
        with suppress(ProcessLookupError):
            os.killpg(cast(int, self.process.pid), signal.SIGKILL)
        text = self.output.read_text()
        if code not in (None, 0, 1, 2):
            sys.exit(f"pytest could not run:\n{text}")
        return set(re.findall(r"^(?:FAILED|ERROR) (tests/\S+?\.py(?:::\w+)?)", text, re.MULTILINE))


def try_all(chosen: list[Fault], copies: list[Path]) -> list[set[str]]:
    """The tests that fail with each fault; as many faults at the same time as there are copies."""
    results, free, waiting, running = [set()] * len(chosen), list(copies), list(enumerate(chosen)), {}
    while waiting or running:
        while waiting and free:
            (i, fault), copy = waiting.pop(0), free.pop()
            (copy / fault.file).write_text((ROOT / fault.file).read_text().replace(fault.old, fault.new))
            running[i] = Run(copy, ["-x", *fault.tests])
        for i in [i for i, run in running.items() if run.ended(0.2)]:
            run, (file, old, new, _) = running.pop(i), chosen[i]
            results[i], seconds = run.failures(), time.monotonic() - run.start
            shutil.copy(ROOT / file, run.copy / file)
            free.append(run.copy)
            print(f"{file}: {old} => {new}\n    {', '.join(results[i]) or 'SURVIVED'} ({seconds:.0f} s)", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="faults with this in their file or text")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="faults at the same time")
    parser.add_argument("--check", action="store_true", help="run no test")
    a = parser.parse_args()
    chosen, start = list(faults(a.only)), time.monotonic()
    print(f"{len(chosen)} faults", flush=True)
    if a.check or not chosen:
        return
    for module in PRELOADED.split():
        import_module(module)
    settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate))  # a failure is enough: no shrinking
    settings.load_profile("mutants")
    with TemporaryDirectory() as folder:
        copies = [Path(folder) / str(i) for i in range(a.jobs)]
        for copy in copies:
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "outputs", "build", "dist", "__pycache__"))
        results = try_all(chosen, copies)
        broken: set[str] = set()
        if caught_by := sorted(set().union(*results)):  # a test that fails without a fault as well catches nothing
            run = Run(copies[0], caught_by)
            run.ended(TIMEOUT)
            broken = run.failures()
    caught = sum(bool(failed - broken) for failed in results)
    print(f"Tests that fail without a fault as well and count for nothing: {', '.join(sorted(broken)) or 'none'}")
    print(f"{caught} of {len(chosen)} caught ({caught / len(chosen):.0%}) in {(time.monotonic() - start) / 60:.0f} min")
    sys.exit(caught < 0.95 * len(chosen))


if __name__ == "__main__":
    main()
