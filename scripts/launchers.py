"""python scripts/launchers.py [--only NAME ...] [--out FOLDER]: one study by each launcher, compared bit for bit.

The study has 4 paradigms, 2 seeds (--seeds) and 3 generations of a tiny model on digits. It is run by the basic
launcher, by parallel, by submitit's local executor with one job that is told to stop (SIGUSR2, as at its time limit),
and on real Ray clusters on this machine, of which one loses a worker and one a node in the middle of the run. Prints a
line a launcher: seconds, what was lost, whether pools, mixes, weights and scores equal those of the basic launcher.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from imgloop import store

NAMES = ("basic", "parallel", "submitit_local", "ray-worker", "ray-node")
SMALL = [
    "train.images=64", "model.batch=32", "n_samples=24", "data.n=60", "data.heldout=30", "features=pixels", "threads=1",
    "model.widths=[8,8]", "model.sampler_steps=1", "display=none",
]  # fmt: skip
PARADIGMS = "paradigm=replace,accumulate,accumulate_subsample,real_only"
MEMORY = 80_000_000  # bytes of each Ray node's object store


def commands(out: Path, launcher: str, *more: str, seeds: int = 2) -> list[str]:
    """The command line of the study."""
    study = ["-m", PARADIGMS, f"seed=range(0,{seeds})", "generations=3", *SMALL, f"out={out}"]
    return [sys.executable, "-m", "imgloop", *study, f"hydra/launcher={launcher}", *more]


def results(out: Path) -> dict[str, list[str]]:
    """The hashes of pool, mix, weights and scores of each generation."""
    found = {}
    for path in sorted(out.glob("*/*/seed*/gen*/record.json")):
        record = store.read_json(path)
        scores = [store.read_json(p) for p in sorted((path.parent / "scores").glob("*.json"))]
        values = store.content_key([{k: v for k, v in s.items() if "seconds" not in k} for s in scores])
        hashes = [record[k] for k in ("pool_hash", "mix_hash", "model_hash", "evolution_hash")]
        found["/".join(path.parts[-4:-1])] = [*hashes, values]
    return found


def begun(out: Path) -> bool:
    """Whether the second generation of a chain exists."""
    return any(out.glob("*/*/seed*/gen001"))


def wait_for(condition: Callable[[], object], process: subprocess.Popen) -> None:
    while not condition() and process.poll() is None:
        time.sleep(0.1)


def children(name: str, since: float) -> list[int]:
    """Processes of this user, younger than `since`, whose command line has `name`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if name in (path / "cmdline").read_text() and path.stat().st_mtime >= since:
                found.append(int(path.name))
        except OSError:
            continue
    return found


def local(out: Path, seeds: int) -> str:
    """Submitit's local executor; the first job is told to stop, and is queued again."""
    process = subprocess.Popen(commands(out, "submitit_local", seeds=seeds), stdout=subprocess.DEVNULL)
    wait_for(lambda: any(out.glob("*/*/seed*/gen000")), process)
    tasks = [p for p in children("submitit.core._submit", 0) if str(out) in Path(f"/proc/{p}/cmdline").read_text()]
    for pid in tasks[:1]:
        os.kill(pid, signal.SIGUSR2)
    assert process.wait() == 0
    logs = "".join(p.read_text() for p in out.rglob("*_log.err")) + "".join(
        p.read_text() for p in out.rglob("*_log.out")
    )
    return f"{logs.count('Requeued job')} of {len(tasks)} running jobs stopped by SIGUSR2 and queued again"


def ray_loses(what: str) -> Callable[[Path, int], str]:
    """A Ray cluster of two nodes on this machine, one CPU each, that loses a worker or a node."""

    def run(out: Path, seeds: int) -> str:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        other = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
        argv = commands(out, "ray", f"hydra.launcher.address='{cluster.address}'", seeds=seeds)
        began = time.time()
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        try:
            wait_for(lambda: begun(out), process)
            if what == "node":
                cluster.remove_node(other, allow_graceful=False)
            else:
                wait_for(lambda: children("ray::run", began), process)
                os.kill(children("ray::run", began)[0], signal.SIGKILL)
            assert process.wait() == 0
        finally:
            ray.shutdown()
            cluster.shutdown()
        return f"a {what} killed while its chain ran"

    return run


def plain(launcher: str) -> Callable[[Path, int], str]:
    def run(out: Path, seeds: int) -> str:
        subprocess.run(commands(out, launcher, seeds=seeds), check=True, stdout=subprocess.DEVNULL)
        return "nothing"

    return run


RUNS = {
    "basic": plain("basic"),
    "parallel": plain("parallel"),
    "submitit_local": local,
    "ray-worker": ray_loses("worker"),
    "ray-node": ray_loses("node"),
}


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    p.add_argument("--seeds", type=int, default=2)
    p.add_argument("--out", type=Path, help="keep the studies here")
    a = p.parse_args()
    root, expected, different = a.out or Path(tempfile.mkdtemp()), None, 0
    for name in a.only:
        began = time.monotonic()
        lost = RUNS[name](root / name, a.seeds)
        found = results(root / name)
        expected = expected or found
        same = sum(found.get(k) == v for k, v in expected.items())
        different += len(expected) - same
        print(
            f"{name}: {time.monotonic() - began:.0f} s, lost: {lost}; {same} of {len(expected)} generations equal "
            f"{a.only[0]}'s to the last bit",
            flush=True,
        )
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
