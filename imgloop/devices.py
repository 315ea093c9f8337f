"""One chain on several devices: start a process for each, which run the same loop (imgloop/ranks.py)."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from imgloop import interrupt, loop, ranks
from imgloop.config.settings import Settings
from imgloop.errors import Stopped, UserError
from imgloop.training.tasks import TrainerSettings

GRACE = 10.0  # seconds that the other processes have to end
SHARING = ("diffusion", "gan")  # models whose training shares a batch between ranks


def run(settings: Settings, sweep: bool = False, launcher: str = "basic") -> loop.Result:
    """Run one chain, on trainer.devices devices of trainer.nodes machines. launcher: the one of a sweep, by Hydra's
    name. Raises UserError, or Stopped."""
    trainer, world = settings.config.get("trainer") or {}, ranks.given()
    devices, nodes = trainer.get("devices", 1), trainer.get("nodes", 1)
    if world is None and devices == nodes == 1:
        return loop.run(settings, sweep)
    check(settings, devices, nodes, world, launcher)
    trained = TrainerSettings(**trainer)
    if world is not None:
        with ranks.joined(world, trained.device):
            return loop.run(settings if world.rank == 0 else silent(settings), sweep)
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        with others(settings, sweep, devices, meeting), ranks.joined(member(0, devices), trained.device, uri(meeting)):
            return loop.run(settings, sweep)


def member(rank: int, devices: int) -> ranks.World:
    """One of the processes that this machine starts by itself."""
    return ranks.World(rank, devices, rank, devices)


def uri(meeting: Path) -> str:
    return f"file://{meeting}"


def silent(settings: Settings) -> Settings:
    """The settings for a rank that shows and logs nothing."""
    return replace(settings, config=settings.config | {"display": "none", "logger": None})


def check(settings: Settings, devices: int, nodes: int, world: ranks.World | None, launcher: str) -> None:
    """Raise UserError if these processes cannot share the chain that the settings describe."""
    model = settings.choices["model"]
    if model not in SHARING:
        raise UserError(
            f"model={model} is not trained on several devices; {' and '.join(SHARING)} are: use trainer.devices=1.",
            "trainer.devices",
        )
    check_launcher(settings, launcher)
    if world is None and nodes > 1:
        raise UserError(
            f"trainer.nodes={nodes} needs torchrun on each machine: torchrun --nnodes {nodes} --nproc-per-node "
            f"{devices} --rdzv-backend c10d --rdzv-endpoint HOST:PORT -m imgloop ...",
            "trainer.nodes",
        )
    if world is not None and (world.size, world.local_size) != (devices * nodes, devices):
        raise UserError(
            f"{world.size} processes were started, {world.local_size} on this machine, and trainer.devices={devices} "
            f"with trainer.nodes={nodes} means {devices * nodes}: give trainer.devices={world.local_size} "
            f"trainer.nodes={max(1, world.size // world.local_size)}.",
            "trainer.devices",
        )


def check_launcher(settings: Settings, launcher: str) -> None:
    """Raise UserError for a chain that takes several devices under a launcher that gives each chain one."""
    trainer = settings.config.get("trainer") or {}
    for name in ("devices", "nodes"):
        if launcher != "basic" and (count := trainer.get(name, 1)) > 1:
            raise UserError(
                f"trainer.{name}={count} splits one chain over several devices, and hydra/launcher={launcher} gives "
                f"each chain one: use hydra/launcher=basic, or trainer.{name}=1.",
                f"trainer.{name}",
            )


@contextmanager
def others(settings: Settings, sweep: bool, devices: int, meeting: Path) -> Iterator[None]:
    """Ranks 1 and up as processes of their own, meanwhile."""
    logs = [meeting.with_name(f"rank{r}.log") for r in range(1, devices)]
    processes = []
    for r, log in enumerate(logs, 1):
        with open(log, "wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "imgloop.devices"], stdin=subprocess.PIPE, stdout=out, stderr=out
            )
        processes.append(process)
        assert process.stdin is not None
        with process.stdin as pipe:
            pickle.dump((silent(settings), sweep, r, devices, str(meeting)), pipe)
    try:
        yield
    except UserError as e:
        if str(e) != ranks.ENDED:
            raise
        ends = []
        for r, (process, log) in enumerate(zip(processes, logs), 1):
            try:
                status = process.wait(GRACE)
            except subprocess.TimeoutExpired:
                continue
            last = log.read_text(errors="replace").strip().split("\n")[-1]
            ends.append(f"process {r} of {devices} ended with status {status}" + (f" ({last[:300]})" if last else ""))
        raise UserError(f"{'; '.join(ends) or 'the processes lost each other'}. {ranks.ENDED}") from None
    finally:
        end(processes)


def end(processes: list[subprocess.Popen]) -> None:
    """End processes that have not ended by themselves."""
    for process in processes:
        try:
            process.wait(GRACE if process.poll() is None else 0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def child() -> None:
    """Rank 1 and up: the same chain, told through standard input by the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches rank 0, which asks all to stop
    interrupt.end_with_parent()
    settings, sweep, rank, devices, meeting = pickle.load(sys.stdin.buffer)
    device = TrainerSettings(**settings.config["trainer"]).device
    try:
        with ranks.joined(member(rank, devices), device, uri(Path(meeting))):
            loop.run(settings, sweep)
    except Stopped as e:
        sys.exit(128 + e.signal)
    except UserError as e:
        sys.exit(str(e))


if __name__ == "__main__":
    child()
