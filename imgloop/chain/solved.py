"""The chain of a solvable system: R replicates at once, kept as one table of replicate by generation.

It runs through the loop that images run through. Its pools stay in memory for as long as a mix can reach them; what is
kept is every quantity of every replicate and generation. Seeds make it again bit for bit, so that a chain that is to
be longer, or was interrupted, is replayed from them.
"""

from __future__ import annotations

import os
import platform
import time
from contextlib import contextmanager
from dataclasses import asdict

import numpy as np

from imgloop import figures, store
from imgloop.analytic.course import PARADIGMS, Course
from imgloop.analytic.system import Law, System
from imgloop.chain.base import ChainFolder
from imgloop.chain.trained import LATENTS, drawn_sizes
from imgloop.config.settings import MIXING, build
from imgloop.errors import UserError
from imgloop.pool import REAL, Mix, Pool
from imgloop.provenance import versions
from imgloop.study import solved as results
from imgloop.study import tables as study

SAVE_SECONDS = 20.0  # a long chain writes the generations that it has this often


class Table(ChainFolder):
    """A chain of R replicates of a solvable system. Its folder holds config.yaml, metrics.csv, record.json and
    replicates.safetensors (each quantity, float64 (G, R)), and no folder a generation."""

    def __init__(self, settings):
        super().__init__(settings)
        self.replicates = settings.config["model"]["replicates"]
        self.values: dict[str, list[np.ndarray]] = {}
        self.rows: dict[int, int] = {}  # of every pool, in memory or not
        self.facts: list[dict] = []
        self.aged: list[tuple[int, np.ndarray]] = []  # of a system on images: what the same latents became
        self.absorbed, self.saved, self.newest = False, time.monotonic(), None

    # -- where it stands ---------------------------------------------------------------------------------------------

    @property
    def stored(self) -> dict | None:
        """record.json, where the chain has one."""
        return results.record(self.folder) if study.is_solved(self.folder) else None

    @property
    def done(self) -> int:
        return self.stored["generations"] if self.stored else 0

    def remaining(self, generations: int) -> range:
        """All generations, since a chain goes on by replay; none where they are there, or nothing can change."""
        stored = self.stored
        enough = stored and stored["complete"] and (stored["generations"] >= generations or stored["absorbed"])
        return range(0) if enough and not self.facts and results.whole(self.folder) else range(generations)

    def nothing_to_do(self) -> str:
        stored = self.stored
        if stored["absorbed"]:
            return f"{self.folder}: every replicate was absorbed by generation {self.done - 1}: nothing to do"
        return super().nothing_to_do()

    @property
    def sizes(self) -> dict[int, int]:
        return self.rows

    # -- going on ----------------------------------------------------------------------------------------------------

    def prepared(self, paradigm, generations: int, cache):
        """The system as (model, evaluator), and the sizes to draw, after every setting has been tried on sizes alone;
        raises UserError for one at which the system does not exist."""
        c = self.settings.config
        system, source = build(c["model"]), build(c["data"])
        if isinstance(source, Law):
            n = source.n
        elif type(system).images is System.images:
            raise UserError(
                f"model={self.settings.choices['model']} draws its real data from its own true law: use data=law; of "
                "the solvable systems only model=gaussian takes images."
            )
        else:
            images = source.load(cache, self.display.reading("reading images")).train.x
            n, initial = len(images), paradigm.initial({REAL: len(images)}, 0)
            system, real = system.images(images, initial)
        self.paradigm, self.generations, self.system = paradigm, generations, system
        drawn = drawn_sizes(self.settings, paradigm.initial({REAL: n}, 0))
        sizes = {REAL: n} | {t: drawn(t) for t in range(generations)}
        self.check_memory(sizes)
        system.check(self.trained(sizes), [sizes[t] for t in range(generations)], n)
        if isinstance(source, Law):
            real = source.pool(system, self.rng(0, "real"))
        self.pools, self.rows = {REAL: real}, {REAL: n}
        if self.stored and self.stored["versions"] != versions():
            self.display.say(f"{self.folder} was made with other versions of packages: its values may change")
        self.tell = self.display.reading(f"{self.settings.condition}, {self.replicates:,} replicates")
        self.write_config()
        return system, lambda pool, f: system.measure(f), drawn

    def course(self) -> Course | None:
        """What the closed forms need to know of the generations so far; None where they do not cover the rule."""
        drawn = tuple(f["n_pool"] for f in self.facts)
        initial = [self.paradigm.initial({REAL: self.rows[REAL]}, t) for t in range(len(drawn))]
        if self.settings.choices["paradigm"] not in PARADIGMS or len(set(initial)) > 1:
            return None
        knobs = {name: getattr(self.paradigm, name, None) for name in MIXING[1:]}
        given = {k: tuple(s(t) for t in range(len(drawn))) for k, s in knobs.items() if s is not None}
        return Course(self.settings.choices["paradigm"], initial[0], drawn, **given)

    def trained(self, sizes: dict[int, int]) -> list[int]:
        """Rows that generations are fitted to, from sizes alone; raises UserError for a mix that cannot be made.

        Where mixes reach back to any pool, those after the first 500 but the last are taken for granted: asking for
        each takes as long as its pools are many.
        """
        last, rows = self.generations - 1, []
        for t in range(self.generations):
            if not self.paradigm.keeps_all or t < 500 or t == last:
                rows.append(len(self.paradigm({s: n for s, n in sizes.items() if s < t}, t, self.rng(t, "mix"))))
            if self.stop():
                self.stop.forget()
        return rows

    def check_memory(self, sizes: dict[int, int]) -> None:
        """Raise UserError where pools and mixes would not fit into this machine's memory."""
        newest = max(n for s, n in sizes.items() if s != REAL)
        rows = sum(sizes.values()) if self.paradigm.keeps_all else sizes[REAL] + 2 * newest  # kept; a mix has no more
        needed = self.replicates * 8 * (rows * (2 * self.system.width + 3) + 4 * self.system.state)
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > 0.8 * there:
            raise UserError(
                f"{self.replicates:,} replicates of up to {rows:,} rows need about {needed / 2**30:,.0f} GiB of "
                f"memory, and this machine has {there / 2**30:.0f}: lower model.replicates, data.n, n_samples or "
                "generations."
            )

    @contextmanager
    def stage(self, t: int, name: str):
        began = time.perf_counter()
        yield lambda *a, **k: None
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        if self.stop():
            self.save(complete=False)
            self.stop.forget()

    def fitted(self, t: int, model, data):
        with self.stage(t, "train"):
            self.newest = model.fit(data, None, self.newest)
        return self.newest

    def commit(self, t: int, f, mix: Mix, pool: Pool, scores: dict[str, np.ndarray]) -> None:
        """Keep generation t's quantities, and its pool for as long as a mix can reach it."""
        for name, values in scores.items():
            self.values.setdefault(name, []).append(values)
        self.facts.append({"n_train": len(mix), "n_pool": len(pool), "real_share": mix.shares().get(REAL, 0.0)})
        self.pools[t], self.rows[t] = pool, len(pool)
        if t > 0 and not self.paradigm.keeps_all:
            self.pools.pop(t - 1, None)
        self.absorbed = self.paradigm.closed and f.absorbed
        if self.system.pictures(pool) is not None:
            aged = f.sample(LATENTS, seed=self.seed(None, "evolution"))
            self.aged.append((t, self.system.pictures(aged)))
        self.tell(t + 1, self.generations)
        if t + 1 == self.generations or self.absorbed:
            self.save(complete=True)
        elif time.monotonic() - self.saved > SAVE_SECONDS:
            self.save(complete=False)

    def save(self, complete: bool) -> None:
        """Write what there is: replicates.safetensors, metrics.csv, and record.json last, which makes them count."""
        kept = len(self.facts)
        if kept == 0 or (not complete and self.done >= kept):  # a replay has not yet come to where the table ends
            return
        arrays = {name: np.stack(values[:kept]).astype(np.float64) for name, values in self.values.items()}
        path = self.folder / "replicates.safetensors"
        store.write_arrays(path, arrays)
        quantities = {name: q for name, q in self.system.quantities.items() if name in arrays}
        course = self.course()
        exact = {} if course is None else self.system.theory(course, self.pools[REAL].x)
        comparable = self.system.comparable(course, exact) if exact else {}
        frame = results.frame(self.facts, arrays, quantities, exact, comparable)
        store.write_text(self.folder / "metrics.csv", study.csv_text(frame))
        if self.aged:
            title = f"{self.settings.condition}, first replicate"
            store.write_bytes(self.folder / "evolution.png", figures.evolution(self.aged, title))
        store.write_json(
            self.folder / "record.json",
            {
                "condition": self.settings.condition,
                "seed": self.seed_number,
                "model": self.settings.choices["model"],
                "replicates": self.replicates,
                "generations": kept,
                "complete": complete,
                "absorbed": self.absorbed,
                "timescale": self.system.timescale(course, arrays) if course and self.absorbed else None,
                "quantities": {name: asdict(q) for name, q in quantities.items()},
                "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
                "seeds": {p: [self.seed(t, p) for t in range(kept)] for p in ("mix", "sample")}
                | {"real": self.seed(0, "real")},
                "real": store.array_hash(self.pools[REAL].x[:, :1]),
                "replicates_hash": store.file_hash(path),
                "metrics_hash": store.file_hash(self.folder / "metrics.csv"),
                "versions": versions(),
                "machine": {"machine": platform.machine(), "processors": os.cpu_count()},
                "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            },
        )
        self.saved = time.monotonic()
