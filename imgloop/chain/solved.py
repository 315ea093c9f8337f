"""The chain of a solvable system: R replicates at once, kept as one table of replicate by generation.

It runs through the same loop as images. Its pools stay in memory for as long as a mix can reach them; every quantity of
every replicate and generation is stored. Seeds reproduce it bit for bit: a chain that is extended, or was interrupted,
is replayed from them.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from imgloop import contracts, figures, store
from imgloop.analytic.course import PARADIGMS, Course
from imgloop.analytic.system import Law, System
from imgloop.chain.base import ChainFolder, Fit, Parts, Surroundings
from imgloop.chain.trained import sample_sizes
from imgloop.chain.written import LATENTS
from imgloop.config.settings import MIXING, Settings
from imgloop.contracts import Curation, Given, Paradigm
from imgloop.curation import Everything, Random, Released
from imgloop.curation.verifier import Verifier
from imgloop.errors import UserError
from imgloop.guards import call, check_weighted, guarded, what
from imgloop.pool import REAL, Pool, TrainingSet
from imgloop.provenance import versions
from imgloop.study import solved
from imgloop.study.compare import compare
from imgloop.study.tables import chains, csv_text, is_solved, joined

SAVE_SECONDS = 20.0  # a long chain writes the generations that it has this often


class SolvedChain(ChainFolder):
    """A chain of R replicates of a solvable system. Its folder holds config.yaml, metrics.csv, record.json and
    replicates.safetensors (each quantity, float64 (G, R)), and no folder a generation."""

    system: System
    paradigm: Paradigm
    curation: Curation
    plain: bool  # whether the pool is what was drawn, or a random part of it

    def __init__(self, settings: Settings, surroundings: Surroundings):
        super().__init__(settings, surroundings)
        self.values: dict[str, list[np.ndarray]] = {}
        self.rows: dict[int, int] = {}  # of every pool, in memory or not
        self.generation_facts: list[dict[str, Any]] = []
        self.selections: list[dict[str, Any]] = []  # what the curation recorded of each generation
        self.evolution: list[tuple[int, Pool]] = []  # of a system on images: samples of the same latents
        self.absorbed, self.saved, self.generations = False, time.monotonic(), 0
        self.newest: Any = None

    # -- progress so far ---------------------------------------------------------------------------------------------

    @property
    def stored(self) -> dict[str, Any] | None:
        """record.json, if the chain has one."""
        return solved.record(self.folder) if is_solved(self.folder) else None

    @property
    def done(self) -> int:
        stored = self.stored
        return stored["generations"] if stored else 0

    def remaining(self, generations: int) -> range:
        """All generations, since a chain continues by replay; none if they are there, or nothing can change."""
        stored = self.stored
        enough = stored and stored["complete"] and (stored["generations"] >= generations or stored["absorbed"])
        done = enough and not self.generation_facts and solved.whole(self.folder)
        return range(0) if done else range(generations)

    def nothing_to_do(self) -> str:
        stored = self.stored
        if stored and stored["absorbed"]:
            return f"{self.folder}: every replicate was absorbed by generation {self.done - 1}: nothing to do"
        return super().nothing_to_do()

    @property
    def sizes(self) -> dict[int, int]:
        return self.rows

    # -- opening -----------------------------------------------------------------------------------------------------

    def prepared(self, generations: int, cache: Path) -> Parts:
        paradigm, curation, correction = (
            guarded(self.settings.part(g), self.settings.build(g)) for g in ("paradigm", "curation", "correction")
        )
        system, source = self.settings.build("model"), self.settings.build("data")
        part = self.settings.part("model")
        if not isinstance(system, System):
            raise part.error(
                "is declared _solvable_ in its YAML; expected a subclass of imgloop.analytic.system.System."
            )
        self.replicates = system.replicates
        real = None
        if isinstance(source, Law):
            n = source.n
        elif not system.takes_images:
            raise UserError(
                f"model={self.settings.choices['model']} draws its real data from its own true law: use data=law; of "
                "our solvable systems only model=gaussian takes images.",
                "data",
            )
        else:
            source = guarded(self.settings.part("data"), source)
            images = source.load(cache, self.display.reading("reading images")).train.x
            n = len(images)
            system, real = system.images(images, paradigm.initial({REAL: n}, 0))
        self.paradigm, self.curation, self.generations, self.system = paradigm, curation, generations, system
        random = isinstance(curation, Random) and system.exchangeable
        verified = isinstance(curation, Verifier) and curation.error == 0 and system.verified
        plain = isinstance(curation, Everything) or random or verified
        self.plain = plain and self.settings.choices["correction"] == "none"
        initial = paradigm.initial({REAL: n}, 0)
        given = Given(self.settings.choices["model"], None, None, logits=False, risk=False, n_real=initial)
        for stage in (correction, curation):
            stage.check(given)
        n_drawn = sample_sizes(self.settings, initial)
        drawn = [n_drawn(t) for t in range(generations)]
        sizes = {REAL: n} | {t: curation.released(k, t) for t, k in enumerate(drawn)}
        self.check_memory(sizes, max(drawn))
        call(part, "checking sizes", system.check, self.rows_fitted(sizes), drawn, n)
        if isinstance(source, Law):
            real = call(part, "drawing real data", source.pool, system, self.rng(0, "real"))
        self.check_pool(real, n, "draw")
        assert real is not None
        self.pools, self.rows = {REAL: real}, {REAL: n}
        return Parts(paradigm, curation, correction, system, self.measured, real, n_drawn)

    def begin(self, parts: Parts) -> None:
        stored, code = self.stored, self.settings.code
        if stored and stored["versions"] != versions():
            self.display.say(f"{self.folder} was made with other versions of packages: its values may change")
        if stored and stored.get("code", code) != code:
            self.display.say(f"{self.folder} was made with other code of its parts: its values may change")
        self.show = self.display.reading(f"{self.settings.condition}, {self.replicates:,} replicates")
        self.write_config()

    def check_pool(self, pool: Any, n: int, method: str) -> None:
        """Raise UserError unless a user's system drew a pool of n rows for every replicate."""
        part = self.settings.part("model")
        if part.ours:
            return
        shape = (n, self.replicates)
        if not isinstance(pool, Pool) or pool.x.ndim != 3 or pool.x.shape[:2] != shape:
            shown = what(pool.x) if isinstance(pool, Pool) else what(pool)
            raise part.error(f"returned {shown} from {method}; expected a Pool of numbers {(*shape, 'd')}.")
        if pool.x.dtype.kind == "f" and not np.isfinite(pool.x).all():
            raise part.error(f"returned NaN or infinity from {method}; expected finite numbers.")

    def measured(self, pool: Pool, fit: Any, training: TrainingSet | None = None) -> dict[str, np.ndarray]:
        """The system's quantities of a fit, float (R,) each."""
        part = self.settings.part("model")
        values = call(part, "measuring", self.system.measure, fit)
        for name in () if part.ours else self.system.quantities:
            if name not in values or np.shape(values[name]) != (self.replicates,):
                shown = what(np.asarray(values[name])) if name in values else "nothing"
                raise part.error(f"measured {shown} as {name}; expected floats ({self.replicates},).")
        return values

    def course(self) -> Course | None:
        """What the closed forms need to know of the generations so far; None if they do not cover the rule."""
        drawn = tuple(f["n_pool"] for f in self.generation_facts)
        initial = [self.paradigm.initial({REAL: self.rows[REAL]}, t) for t in range(len(drawn))]
        if self.settings.choices["paradigm"] not in PARADIGMS or len(set(initial)) > 1 or not self.plain:
            return None
        knobs = {name: getattr(self.paradigm, name, None) for name in MIXING[1:]}
        given = {k: tuple(s(t) for t in range(len(drawn))) for k, s in knobs.items() if s is not None}
        if isinstance(self.curation, Verifier):
            given["verifier"] = self.curation.bias, self.curation.radius
        return Course(self.settings.choices["paradigm"], initial[0], drawn, **given)

    def rows_fitted(self, sizes: dict[int, int]) -> list[int]:
        """Rows that generations are fitted to, from sizes alone; raises UserError for a mix that cannot be made.

        Where mixes reach back to any pool, those after the first 500 but the last are not tried: each trial takes time
        in proportion to its pools.
        """
        last, rows, known = self.generations - 1, [], {}
        for t in range(self.generations):
            known[t - 1] = sizes[t - 1]  # those before t; a copy for each t would take quadratic time
            if not self.paradigm.keeps_all or t < 500 or t == last:
                mix = self.paradigm(known, t, self.rng(t, "mix"))
                check_weighted(self.settings, self.system, mix.weight is not None)
                rows.append(len(mix))
            if self.stop():
                self.stop.end_of_fit()
        return rows

    def check_memory(self, sizes: dict[int, int], drawn: int) -> None:
        """Raise UserError if pools and mixes would not fit into this machine's memory."""
        newest = max(drawn, *(n for s, n in sizes.items() if s != REAL))
        rows = sum(sizes.values()) if self.paradigm.keeps_all else sizes[REAL] + 2 * newest  # kept; a mix has no more
        needed = self.replicates * 8 * (rows * (2 * self.system.width + 3) + 4 * self.system.state)
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > 0.8 * there:
            raise UserError(
                f"{self.replicates:,} replicates of up to {rows:,} rows need about {needed / 2**30:,.0f} GiB of "
                f"memory, and this machine has {there / 2**30:.0f}: lower model.replicates, data.n, n_samples or "
                "generations.",
                "model.replicates",
            )

    # -- a generation ------------------------------------------------------------------------------------------------

    @contextmanager
    def stage(self, t: int, name: str) -> Iterator[contracts.Progress]:
        started = time.perf_counter()
        yield contracts.no_progress
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        if self.stop():
            self.save(complete=False)
            self.stop.end_of_fit()

    def fitted(self, t: int, model: System, data: TrainingSet) -> Fit:
        with self.stage(t, "train"):
            self.newest = call(
                self.settings.part("model"), f"fitting generation {t}", model.fit, data, None, self.newest
            )
        return Fit(self.newest, 0.0, [])

    def commit(
        self,
        t: int,
        fit: Fit,
        data: TrainingSet,
        drawn: Pool,
        released: Released,
        scores: dict[str, np.ndarray],
        parts: Parts,
    ) -> None:
        """Keep generation t's quantities, and its pool for as long as a mix can reach it."""
        pool, mix = released.pool, data.mix
        self.check_pool(drawn, len(drawn), "sample")
        for name, values in scores.items():
            self.values.setdefault(name, []).append(values)
        sizes = {"n_train": len(mix), "n_drawn": len(drawn), "n_pool": len(pool)}
        self.generation_facts.append({**sizes, "real_share": mix.shares().get(REAL, 0.0)})
        self.selections.append({"share": len(pool) / len(drawn), **released.facts})
        self.pools[t], self.rows[t] = pool, len(pool)
        if t > 0 and not self.paradigm.keeps_all:
            self.pools.pop(t - 1, None)
        self.absorbed = self.paradigm.closed and fit.generator.absorbed
        if self.system.pictures(drawn) is not None:
            pictures = self.system.pictures(fit.generator.sample(LATENTS, seed=self.seed(None, "evolution")))
            assert pictures is not None
            self.evolution.append((t, Pool(pictures)))
        self.show(t + 1, self.generations)
        if t + 1 == self.generations or self.absorbed:
            self.save(complete=True)
        elif time.monotonic() - self.saved > SAVE_SECONDS:
            self.save(complete=False)

    def save(self, complete: bool) -> None:
        """Write what there is: replicates.safetensors, metrics.csv, and record.json last, which makes them count."""
        kept = len(self.generation_facts)
        if kept == 0 or (not complete and self.done >= kept):  # a replay that is shorter than the table
            return
        arrays = {name: np.stack(values[:kept]).astype(np.float64) for name, values in self.values.items()}
        path = self.folder / "replicates.safetensors"
        store.write_arrays(path, arrays)
        quantities = {name: q for name, q in self.system.quantities.items() if name in arrays}
        course, curation = self.course(), self.settings.choices["curation"]
        exact = {} if course is None else self.system.theory(course, self.pools[REAL].x)
        comparable = self.system.comparable(course, exact) if course and exact else {}
        frame = solved.frame(self.generation_facts, arrays, quantities, exact, comparable)
        store.write_text(self.folder / "metrics.csv", csv_text(frame))
        pictures = solved.PICTURES if self.evolution else {}
        if pictures:
            title = f"{self.settings.condition}, first replicate"
            store.write_bytes(self.folder / "evolution.png", figures.evolution(self.evolution, title))
            store.write_bytes(self.folder / "evolution.webp", figures.animation(self.evolution))
        store.write_sealed(
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
                **({"curation": curation, "selection": self.selections[:kept]} if curation != "none" else {}),
                "quantities": {name: asdict(q) for name, q in quantities.items()},
                "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
                "seeds": {p: [self.seed(t, p) for t in range(kept)] for p in ("mix", "sample")}
                | {"real": self.seed(0, "real")},
                "real": store.array_hash(self.pools[REAL].x[:, :1]),
                "replicates_hash": store.file_hash(path),
                "metrics_hash": store.file_hash(self.folder / "metrics.csv"),
                **({f"{k}_hash": store.file_hash(self.folder / n) for k, n in pictures.items()}),
                "versions": versions(),
                "code": self.settings.code,
                "machine": {"machine": platform.machine(), "processors": os.cpu_count()},
                "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            },
        )
        self.saved = time.monotonic()

    # -- its end -----------------------------------------------------------------------------------------------------

    def finish(self):
        """Write the chain's figure and the study's, print its summary, and say where to look."""
        frame = joined([self.folder], None)
        solved.write_figure(self.folder)
        for line in solved.lines(solved.summary(frame, solved.quantities([self.folder]))):
            self.display.say(line)
        several = len(chains(self.study)) > 1
        if several:
            compare(self.study, sparing=self.sparing)
        self.display.say(
            f"look at {self.folder}: {'evolution.png and .webp, ' if self.evolution else ''}curves.png, metrics.csv"
            + (f"; and at {self.study / 'comparison.png'}" if several else "")
        )
        return frame.drop(columns=["condition", "seed"]).dropna(axis=1, how="all")
