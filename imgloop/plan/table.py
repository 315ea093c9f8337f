"""The cost of a command as a table to read, or as JSON."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from imgloop.config.settings import Settings
from imgloop.display import duration
from imgloop.errors import existing
from imgloop.plan import devices
from imgloop.plan.carbon import Intensity
from imgloop.plan.chains import Work
from imgloop.plan.estimate import WATTS_A_THREAD, Estimate
from imgloop.plan.trial import Rates


@dataclass(frozen=True)
class Shown:
    """What is printed: the estimate of the trained chains, `solved`: the settings of solvable ones, `finished`: how
    many chains have nothing left to do."""

    cost: Estimate
    works: Sequence[Work]
    rates: Mapping[str, Rates]
    solved: Sequence[Settings]
    finished: int
    device: str | None
    watts: float | None
    factor: Intensity

    @property
    def gpu_here(self) -> bool:
        return any(w.chain.trainer.device == "cuda" for w in self.works)

    @property
    def power(self) -> float | None:
        """Watts of one device; None where it is not known."""
        if self.watts is not None:
            return self.watts
        if self.device is not None:
            return devices.DEVICES[self.device].watts
        return None if self.gpu_here else WATTS_A_THREAD * (os.cpu_count() or 1)

    @property
    def kwh(self) -> float | None:
        seconds = self.cost.seconds if self.cost.elsewhere is None else self.cost.elsewhere
        return None if self.power is None else seconds / 3600 * self.power / 1000

    @cached_property
    def free(self) -> dict[Path, int]:
        """Bytes free by the folder of a study."""
        folders = {w.settings.study for w in self.works}
        return {f: shutil.disk_usage(existing(f)).free for f in sorted(folders)}

    def rows(self) -> list[tuple[str, str, str]]:
        """What, how much, and how it is known."""
        c = self.cost
        label = None if self.device is None else devices.DEVICES[self.device].label
        rows = [
            ("chains", f"{c.chains:,}", f"generation 0 of {c.shared:,} is another chain's" if c.shared else ""),
            ("generations", f"{c.generations:,}", "still to do"),
            ("training images seen", f"{c.images:,}", "train.images, in each generation trained"),
            ("samples drawn", f"{c.samples:,}", ""),
            ("network evaluations of sampling", f"{c.evaluations:,}", "one image each"),
            ("training", flop(c.train_flop), "PyTorch's counter on one real step"),
            ("sampling", flop(c.sample_flop), "the same, on 256 samples"),
            ("disk", size(c.disk_bytes), ", ".join(f"{k} {size(v)}" for k, v in c.disk.items())),
            ("peak memory of a process", size(c.host), "a trial's, and what further samples take"),
        ]
        if c.device:
            rows.append(("peak memory of the GPU", size(c.device), "a trial's"))
        threads = sorted({r.threads for r in self.rates.values()})
        how = (
            f"timed, {' and '.join(map(str, threads))} thread{'s' if threads != [1] else ''}; {duration(c.cpu_seconds)}"
        )
        rows.append(("time on this machine", duration(c.seconds), f"{how} of processor time"))
        if c.elsewhere is not None:
            known = "fitted to its measured rates" if self.device == devices.MEASURED else "estimate by peak throughput"
            rows.append((f"time on one {label}", duration(c.elsewhere), known))
        if c.workers > 1:
            on = f"{c.workers} x {label or 'this machine'}"
            rows.append((f"time on {on}", duration(c.parallel), "one chain each; a shared generation 0 is waited for"))
        if self.kwh is not None and self.power is not None:
            basis = f"{self.power:g} W for a {'processor' if label is None else 'GPU'}, without memory and cooling"
            rows.append(("energy", f"{self.kwh:.3g} kWh", basis))
            grams = self.kwh * self.factor.grams
            rows.append(("CO2-equivalent", f"{grams:.3g} g", f"{self.factor.grams:g} g/kWh: {self.factor.source}"))
        return rows

    def notes(self) -> list[str]:
        """What the table does not say, and warnings."""
        notes = []
        if self.solved:
            names = ", ".join(sorted({s.choices["model"] for s in self.solved}))
            notes.append(
                f"{plural(len(self.solved), 'chain')} of solvable systems ({names}): computed without training, cheap, "
                "and neither timed nor counted here."
            )
        if self.finished:
            notes.append(f"{plural(self.finished, 'chain')} finished already: nothing to do.")
        if self.kwh is None and self.works:
            notes.append("The power of this GPU is not known: give --watts for energy and CO2.")
        if self.device is not None:
            d, measured = devices.DEVICES[self.device], devices.DEVICES[devices.MEASURED]
            known = "" if d is measured else "; taken over here, not measured"
            notes.append(
                f"{d.label}: peak {d.peak:g} TFLOP/s ({d.source}), of which {devices.EFFICIENCY:.1%} is reached beside "
                f"{1000 * devices.LAUNCH:.3g} ms a step to launch kernels: fitted to {measured.label} "
                f"(docs/performance.md){known}. Measuring, pictures and the start are taken to last as on this machine."
            )
            if self.cost.device > d.gib * 2**30:
                taken = f"the trial took {size(self.cost.device)} of the GPU here"
                notes.append(f"Warning: {taken}, and {d.label} has {d.gib:g} GiB.")
        for folder, free in self.free.items():
            if self.cost.disk_bytes > free:
                notes.append(
                    f"Warning: {folder} has {size(free)} free, less than the {size(self.cost.disk_bytes)} that this "
                    "needs: lower n_samples or generations, set keep_models, or set out=FOLDER to a larger disk."
                )
        return notes

    def text(self) -> str:
        """The table and the notes."""
        from rich.console import Console
        from rich.table import Table

        out = io.StringIO()
        width = max(100, shutil.get_terminal_size().columns)
        console = Console(file=out, width=width, highlight=False)
        if self.works:
            table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
            for row in self.rows():
                table.add_row(*row)
            console.print(table, markup=False)
        for note in self.notes():
            console.print(note, markup=False)
        return out.getvalue().rstrip()

    def json(self) -> str:
        """All numbers by name: those of the estimate, the rates of each recipe, energy and notes."""
        values: dict[str, Any] = asdict(self.cost) | {"disk_bytes": self.cost.disk_bytes}
        values |= {"solvable": len(self.solved), "finished": self.finished, "gpu": self.device}
        values |= {"kwh": self.kwh, "grams_a_kwh": self.factor.grams}
        values |= {"co2_grams": None if self.kwh is None else self.kwh * self.factor.grams}
        values |= {"free_bytes": {str(k): v for k, v in self.free.items()}, "notes": self.notes()}
        return json.dumps(values | {"rates": [asdict(r) for r in self.rates.values()]}, indent=1)


def flop(count: float) -> str:
    """Operations to read: 12.3 GFLOP."""
    return f"{count / 1e9:,.0f} GFLOP" if count >= 1e11 else f"{count / 1e9:.3g} GFLOP"


def plural(n: int, noun: str) -> str:
    """A count with its noun: 1 chain, 2 chains."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def size(count: float) -> str:
    """Bytes to read: 3.2 MiB."""
    return f"{count / 2**30:,.3g} GiB" if count >= 2**30 else f"{count / 2**20:,.3g} MiB"
