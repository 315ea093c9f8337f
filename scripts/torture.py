"""python scripts/torture.py [SCENARIO ...] [--every K [--first N]] [--faults kill,full,error]: the n-th file operation
fails.

Each scenario is a small command on a prepared study. It is run undisturbed, and its file operations below the study
are counted: opening for writing, fsync, rename, mkdir, unlink, rmdir, lock. Then, for each n, the n-th is where the
process is killed (kill: SIGKILL), where the disk is full from then on (full: ENOSPC), or where the disk reports an
error (error: EIO). The same command is run again without fault, and the study is compared with the undisturbed one:
every file, but for seconds, dates and logs. Prints a line a scenario, each difference, and exits with 1 if there is
one. --every K: only each K-th operation, from --first N on. Where the temporary folder is in memory (TMPDIR=/dev/shm),
it is faster.

Faults that leave equal states are tried once and counted all: a kill before an operation that changes nothing, a disk
that is full from an operation on that a full disk does not fail. Plots of equal tables are drawn once.
"""

from __future__ import annotations

import argparse
import atexit
import builtins
import csv
import errno
import fcntl
import gc
import hashlib
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

TINY = (
    "train.images=64 model.batch=32 n_samples=24 data.n=60 data.heldout=30 features=pixels threads=1 display=none out=."
)
DIFFUSION = f"imgloop {TINY} model.widths=[8,8] model.sampler_steps=1 trainer.checkpoint_seconds=0.000001"
GAN = f"imgloop {TINY} model=gan trainer.checkpoint_seconds=0.000001"
SOLVED = "imgloop model=gaussian data.n=9 model.replicates=3 display=none out=."
STUDY = "digits-diffusion"
# name: commands that prepare the study, and the command whose operations fail
SCENARIOS = {
    "diffusion": ([], f"{DIFFUSION} generations=2"),
    "gan": ([], f"{GAN} generations=2"),
    "analytic": ([], f"{SOLVED} generations=3"),
    "analytic-extended": ([f"{SOLVED} generations=2"], f"{SOLVED} generations=4"),
    "extended": ([f"{DIFFUSION} generations=1"], f"{DIFFUSION} generations=2"),
    "second": ([f"{DIFFUSION} generations=1"], f"{DIFFUSION} generations=1 paradigm=replace"),
    "overwritten": ([f"{DIFFUSION} generations=2"], f"{DIFFUSION} generations=1 overwrite=true"),
    "pruned": ([f"{DIFFUSION} generations=1"], f"{DIFFUSION} generations=3 keep_models=1"),
    "curated": ([], f"{DIFFUSION} generations=1 curation=random curation.fraction=0.5"),
    "forked": ([f"{DIFFUSION} generations=1 paradigm=replace"], f"{DIFFUSION} generations=2 fork=FORK"),
    "measured": ([f"{DIFFUSION} generations=2"], f"imgloop.measure {STUDY} features=random"),
    "reported": ([f"{SOLVED} generations=3"], "imgloop.report gaussian"),
    "archived": ([f"{SOLVED} generations=3"], "imgloop.report gaussian --archive"),
}
FAULTS = ("kill", "full", "error")
FILLING = ("open", "fsync", "mkdir")  # what a full disk fails
LIMIT = 300  # seconds of one command
REAL = {
    name: getattr(os, name) for name in ("open", "fsync", "replace", "rename", "mkdir", "unlink", "remove", "rmdir")
}
OPEN, FLOCK = builtins.open, fcntl.flock


@dataclass
class Disk:
    """The file operations below a folder: counted, and from the n-th on, or there alone, failing."""

    root: str
    n: int = -1
    fault: str = ""
    at: Callable[[int], None] | None = None  # called before each operation with its number
    names: list[str] = field(default_factory=list)

    def below(self, path, dir_fd=None) -> bool:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        path = os.fsdecode(path)
        if dir_fd is not None and not os.path.isabs(path):
            path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        return os.path.abspath(path).startswith(self.root + os.sep)

    def operation(self, name: str, path, dir_fd=None) -> None:
        if not self.below(path, dir_fd):
            return
        count = len(self.names)
        self.names.append(name)
        if self.at is not None:
            self.at(count)
        if self.fault == "kill" and count == self.n:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "full" and count >= self.n and name in FILLING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if self.fault == "error" and count == self.n:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    def watched(self) -> None:
        """Put the counting functions in the place of the system's, in this process."""

        def wrapped(name: str):
            def call(path, *arguments, **more):
                self.operation(name.replace("remove", "unlink"), path, more.get("dir_fd") or more.get("src_dir_fd"))
                return REAL[name](path, *arguments, **more)

            return call

        def os_open(path, flags, *arguments, **more):
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.operation("open", path, more.get("dir_fd"))
            return REAL["open"](path, flags, *arguments, **more)

        def opened(file, mode="r", *arguments, **more):
            if set(mode) & set("wax+") and not isinstance(file, int):
                self.operation("open", file)
            return OPEN(file, mode, *arguments, **more)

        def flock(handle, operation):
            if operation & fcntl.LOCK_EX:
                self.operation("lock", handle if isinstance(handle, int) else handle.fileno())
            return FLOCK(handle, operation)

        for name in REAL:
            setattr(os, name, os_open if name == "open" else wrapped(name))
        builtins.open = io.open = opened
        fcntl.flock = flock


def load(study: str) -> None:
    """Print the table of a study without times: the command `load STUDY`."""
    import imgloop
    from imgloop.errors import UserError

    try:
        frame = imgloop.load_study(study)
    except UserError as e:
        sys.exit(f"load: {e}")
    print(frame[[c for c in frame if not c.startswith("seconds")]].to_csv())


def run(command: str, folder: Path, disk: Disk | None = None, log: str = "") -> tuple[int, str, list[str]]:
    """Run a command in a forked process; its exit status (negative: the signal), output, and operations. log: the name
    of its output, beside the folder."""
    name = log or folder.name
    path, operations = folder.with_name(f"{name}.log"), folder.with_name(f"{name}.operations")
    child = os.fork()
    if child == 0:
        status = 70
        try:
            out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(out, 1), os.dup2(out, 2)
            sys.stdout, sys.stderr = (OPEN(n, "w", buffering=1, closefd=False) for n in (1, 2))
            os.chdir(folder)
            module, *words = command.split()
            sys.argv = [module, *words]
            if disk is not None:
                disk.watched()
            try:
                import runpy

                if module == "load":
                    load(*words)
                else:
                    runpy.run_module(module, run_name="__main__", alter_sys=True)
                status = 0
            except SystemExit as e:
                status = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
                if isinstance(e.code, str):
                    print(e.code, file=sys.stderr)
            except BaseException:
                import traceback

                traceback.print_exc()
                status = 1
            if disk is not None:
                OPEN(operations, "w").write("\n".join(disk.names))
        finally:
            os._exit(status)
    began = time.monotonic()
    while True:
        pid, ended = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() - began > LIMIT:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 99, f"no end after {LIMIT} s", []
        time.sleep(0.005)
    names = operations.read_text().split("\n") if operations.exists() else []
    operations.unlink(missing_ok=True)
    return os.waitstatus_to_exitcode(ended), path.read_text(errors="replace"), names


# What may differ between two runs: how long it took, and when


def plain(value):
    """JSON without seconds, dates and the hashes of files that hold them."""
    if isinstance(value, dict):
        drop = ("seconds", "written", "sealed", "key", "cost.json", "loss.json", "report", "timings", "comparison.csv")
        return {k: plain(v) for k, v in value.items() if k not in (*drop, "metrics.csv", "metrics_hash")}
    return [plain(v) for v in value] if isinstance(value, list) else value


def content(path: Path):
    """The content of a file as it is compared."""
    if path.name.endswith(".lock"):
        return "lock"
    if path.name in ("run.log", "cost.json") or path.suffix in (".html", ".gz", ".pdf", ".tex"):
        return path.stat().st_size > 0
    if path.suffix == ".json":
        return plain(json.loads(path.read_text()))
    if path.suffix == ".csv":
        rows = list(csv.DictReader(path.read_text().splitlines()))
        return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows]
    return path.read_bytes()


def tree(folder: Path, tolerant: bool = False) -> dict[str, object]:
    """What is compared of each file, and empty folders; tolerant: also of files that cannot be read."""
    found: dict[str, object] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() or (p.is_dir() and not any(p.iterdir()))):
        try:
            found[path.relative_to(folder).as_posix()] = "folder" if path.is_dir() else content(path)
        except ValueError:
            if not tolerant:
                raise
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def digest(folder: Path) -> bytes:
    """A hash of all files of a folder, by name and content."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(f"{path.relative_to(folder)}\0".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"")
    return found.digest()


def differences(expected: dict, found: dict) -> list[str]:
    lines = [f"missing {k}" for k in expected if k not in found] + [
        f"left over {k}" for k in found if k not in expected
    ]
    return lines + [f"differs {k}" for k in expected if k in found and expected[k] != found[k]]


@contextmanager
def copied(base: Path, name: str) -> Iterator[Path]:
    folder = base.with_name(name)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def scenario(name: str, faults: list[str], every: int, start: int, root: Path, say: Callable[[str], None]) -> list[str]:
    """Every fault at every operation of a scenario; the differences found."""
    before, command = SCENARIOS[name]
    base = root / "study"
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    for c in before:
        status, output, _ = run(c, base)
        assert status == 0, (c, output)
    if "FORK" in command:
        (chain,) = base.glob(f"{STUDY}/replace*/seed0")
        command = command.replace("FORK", f'"{chain.relative_to(base)}@0"')
    snapshots = root / "snapshots"
    with copied(base, "work") as work:
        disk = Disk(str(work))
        status, output, names = run(command, work, disk)
        assert status == 0 and "Traceback" not in output, (command, output)
        expected = tree(work)
        again, output, _ = run(command, work)
        found = [] if again == 0 or "overwrite" in command else [f"{name}: a second run ends with {again}: {output}"]
        if "overwrite" not in command and name != "archived":
            found += [f"{name}: a second run: {d}" for d in differences(expected, tree(work))]
    chosen, injected, began = range(start, len(names), every), 0, time.monotonic()
    filling = [n for n, operation in enumerate(names) if operation in FILLING]  # those that a full disk fails
    for fault in faults:
        if fault == "kill":  # one run leaves the state before every operation

            def keep(count: int) -> None:
                if count >= start and (count - start) % every == 0:
                    pid = os.fork()
                    if pid == 0:
                        for key, value in REAL.items():
                            setattr(os, key, value)
                        builtins.open = io.open = OPEN
                        shutil.copytree(root / "work", snapshots / str(count), dirs_exist_ok=True)
                        os._exit(0)
                    os.waitpid(pid, 0)

            shutil.rmtree(snapshots, ignore_errors=True)
            with copied(base, "work") as work:
                run(command, work, Disk(str(work), at=keep))
        tried: set[bytes | int] = set()
        for n in chosen:
            shown(f"{name}, {fault} at {n} of {len(names)}: {injected} faults, {len(found)} differences")
            if fault == "full":
                failing = next((k for k in filling if k >= n), None)
                if failing is None:
                    continue
                injected += failing in tried
                if failing in tried:
                    continue
                tried.add(failing)
            source = snapshots / str(n) if fault == "kill" else base
            if not source.is_dir():
                continue
            if fault == "kill":
                injected += 1
                state = digest(source)
                if state in tried:  # the study was in this state before an earlier operation, too
                    shutil.rmtree(source)
                    continue
                tried.add(state)
            with copied(source, "work") if fault != "kill" else moved(source, root / "work") as work:
                at = f"{name}, {fault} at {n} ({names[n]})"
                if fault != "kill":
                    status, output, _ = run(command, work, Disk(str(work), n, fault))
                    if "Traceback" in output or status < 0 or status == 99:
                        found.append(f"{at}: ends with {status}: {output[-800:]}")
                injected += fault != "kill"
                status, output, _ = run(command, work)
                if status != 0 or "Traceback" in output:
                    found.append(f"{at}: the same command again ends with {status}: {output[-800:]}")
                else:
                    found += [f"{at}: {d}" for d in differences(expected, tree(work))]
    shutil.rmtree(snapshots, ignore_errors=True)
    seconds = time.monotonic() - began
    shown("")
    say(f"{name}: {len(names)} operations, {injected} faults injected, {len(found)} differences, {seconds:.0f} s")
    return found


def shown(text: str) -> None:
    """Show progress where a terminal can: the line is written over by the next."""
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


@contextmanager
def moved(source: Path, folder: Path) -> Iterator[Path]:
    """A snapshot in the place where it was taken."""
    shutil.rmtree(folder, ignore_errors=True)
    source.rename(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def preload() -> None:
    """Import what the commands need, and read what is the same for all, once, before any process is forked."""
    import hydra.main  # noqa: F401
    import matplotlib.backends.backend_agg  # noqa: F401
    import PIL.Image
    import sklearn.datasets  # noqa: F401
    import torch
    import torch._dynamo

    import imgloop.measure
    import imgloop.metrics.evaluator
    import imgloop.models.gan
    import imgloop.report.page  # noqa: F401
    from imgloop.config.settings import parsed

    torch.set_num_threads(1)
    PIL.Image.init()
    for name in ("diffusion", "gan", "analytic"):  # composed configs and hashes of code stay in memory
        assert parsed(SCENARIOS[name][1].split()[1:]).code
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # else PyTorch's libraries count what is left as leaks


def draw_once(folder: Path) -> None:
    """Keep the curves of each table in a folder: drawing is most of what a small command takes, and has no file
    operations."""
    from imgloop import figures

    draw = figures.curves
    folder.mkdir()

    def curves(frame, title, reference, panels):
        columns = [c for c in ("condition", "seed", "generation", *(p[0] for p in panels)) if c in frame]
        table = (frame[columns].to_csv(), title, sorted((reference or {}).items()), list(panels))
        file = folder / hashlib.sha256(repr(table).encode()).hexdigest()
        if not file.exists():
            part = file.with_suffix(".part")
            part.write_bytes(draw(frame, title, reference, panels))
            part.rename(file)
        return file.read_bytes()

    figures.curves = curves


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="*", help=f"{', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--every", type=int, default=1, metavar="K")
    parser.add_argument("--first", type=int, default=0, metavar="N")
    parser.add_argument("--faults", default=",".join(FAULTS), help=", ".join(FAULTS))
    a = parser.parse_args(arguments)
    unknown = [s for s in a.scenario if s not in SCENARIOS] + [f for f in a.faults.split(",") if f not in FAULTS]
    if unknown:
        parser.error(f"{unknown[0]}: scenarios are {', '.join(SCENARIOS)}; faults {', '.join(FAULTS)}")
    preload()
    found: list[str] = []
    with tempfile.TemporaryDirectory() as tmp:
        os.environ["IMGLOOP_CACHE"] = f"{tmp}/cache"
        draw_once(Path(tmp) / "curves")
        for name in a.scenario or SCENARIOS:
            folder = Path(tmp) / name
            new = scenario(name, a.faults.split(","), a.every, a.first, folder, lambda text: print(text, flush=True))
            print("\n".join(f"  {re.sub(chr(10), ' / ', line)}" for line in new[:20]), end="\n" * bool(new), flush=True)
            found += new
    print(f"{len(found)} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
