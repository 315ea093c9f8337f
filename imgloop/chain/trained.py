"""A chain of trained models: a folder a generation, resuming, and generation 0 shared by content."""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from imgloop import ranks, store
from imgloop.chain.base import ChainFolder, Fit, Parts, Surroundings
from imgloop.chain.fork import check_fork, copy_fork
from imgloop.chain.plan import Plan
from imgloop.chain.written import write, write_losses
from imgloop.config.fork import Fork
from imgloop.config.schedule import check_schedules
from imgloop.config.settings import STARTS, Settings
from imgloop.contracts import Context, Given
from imgloop.curation import Released, select
from imgloop.errors import UserError
from imgloop.guards import check_flips, check_weighted, guarded, user_measures
from imgloop.measures import MEASURES
from imgloop.pool import REAL, Pool, TrainingSet
from imgloop.provenance import machine, versions
from imgloop.study.compare import compare
from imgloop.study.generation import check_files, check_numbers, generations, read_pool, read_record, read_scores
from imgloop.study.real import real_key, write_real
from imgloop.study.tables import chains
from imgloop.study.trained import LOSSES, write_files
from imgloop.thresholds import Thresholds, unlike_data
from imgloop.training.tasks import History, Task, TrainerSettings

KEY_FORMAT = 3  # of the key of a shared generation 0: raise it when what the key holds changes


class Chain(ChainFolder):
    """Generations 0..G of a model that is trained: a folder each, renamed into place when it is whole."""

    def __init__(self, settings: Settings, surroundings: Surroundings):
        super().__init__(settings, surroundings)
        self.protocol: str | None = None  # of the newest scores, which metrics.csv shows
        self.start_folder = start_folder(settings.config["start"])
        self.fork = None if settings.config["fork"] is None else Fork.of(settings.config["fork"])

    # -- progress so far ---------------------------------------------------------------------------------------------

    def generation(self, t: int) -> Path:
        """The folder of generation t."""
        return self.folder / f"gen{t:03d}"

    def scratch(self, t: int) -> Path:
        """Where the fit of generation t keeps its checkpoint."""
        return self.folder / f".gen{t:03d}.scratch"

    @property
    def shared(self) -> Path:
        return self.study / "shared"

    @property
    def done(self) -> int:
        """How many generations exist; those of a fork exist before they are copied."""
        check_numbers(self.folder)
        t = len(generations(self.folder))
        return t if self.fork is None else max(t, self.fork.t + 1)

    @property
    def begun(self) -> bool:
        return self.generation(0).is_dir()

    def source(self, t: int) -> Path:
        """Where generation t is: in the chain's own folder or, not copied yet, in the one that it is forked from."""
        own = self.generation(t)
        return own if self.fork is None or own.is_dir() else self.fork.generation(t)

    @property
    def sizes(self) -> dict[int, int]:
        return {origin: len(pool) for origin, pool in self.pools.items()}

    def nothing_to_do(self) -> str:
        hint = f"python -m imgloop.measure {shlex.quote(str(self.study))} features=NAME or measure=NAME measures again"
        return f"{super().nothing_to_do()}; {hint}"

    def record(self, t: int) -> dict[str, Any]:
        """record.json of generation t."""
        return read_record(self.source(t))

    @property
    def needs_previous(self) -> bool:
        """Whether each generation needs the model of the one before: it starts from it or selects by it."""
        return self.settings.config["start"] in STARTS[1:] or self.settings.selects_mix

    def starts_from_weights(self, t: int) -> bool:
        """Whether generation t starts from a fitted model: the previous one's, or for t = 0 one that is given."""
        return self.start_folder is not None if t == 0 else self.settings.config["start"] in STARTS[1:]

    # -- opening -----------------------------------------------------------------------------------------------------

    def tidy(self) -> None:
        super().tidy()
        done = range(self.done)
        store.remove(*(p for t in done if (p := self.scratch(t)).is_dir()))
        for t in done:
            store.remove_parts(self.generation(t), self.generation(t) / "scores")
        for part in self.shared.glob(".*.part"):  # of a folder that exists: its making was interrupted before
            if part.is_dir() and (self.shared / part.name[1 : -len(".part")]).is_dir():
                store.remove(part)

    def outlined(self, generations: int, cache: Path, runs: bool = True) -> Parts:
        """The parts without model and evaluator, and the plan, from sizes alone. runs: whether the chain will run, so
        that the disk must have space for it. Raises UserError for what cannot be built, and for a mix to come that
        cannot be made."""
        paradigm, curation, correction, source = (
            guarded(self.settings.part(g), self.settings.build(g))
            for g in ("paradigm", "curation", "correction", "data")
        )
        real = source.load(cache, self.display.reading("reading images"))
        self.open_pools(real)
        initial = paradigm.initial(self.sizes, 0)
        n_drawn = sample_sizes(self.settings, initial)
        plan = Plan.of(self, paradigm, curation, n_drawn, generations, runs)
        return Parts(paradigm, curation, correction, None, None, real, n_drawn, plan)

    def checked_model(self, parts: Parts) -> Any:
        """The model; raises UserError for one that does not suit the outlined data, budgets, flips and weights."""
        model = guarded(self.settings.part("model"), self.settings.build("model"))
        model.check(parts.real, parts.plan.images)
        check_schedules(getattr(model, "inner", model), range(parts.plan.first, parts.plan.generations))
        check_flips(self.settings, model)
        check_weighted(self.settings, model, parts.plan.weighted)
        return model

    def prepared(self, generations: int, cache: Path) -> Parts:
        parts = self.outlined(generations, cache)
        real = parts.real

        from imgloop.chain.threads import use_threads  # torch and Lightning take seconds: after the quick checks
        from imgloop.metrics.evaluator import Evaluator  # likewise

        model = self.checked_model(parts)
        use_threads(self, model, real)
        progress, device = self.display.reading("training the classifier"), self.trainer.device
        compared = real.mirrored() if self.flip else real
        extractor = self.settings.build("features", real=compared, shared=self.shared, device=device, progress=progress)
        evaluator = Evaluator(extractor, compared, self.shared, measures=user_measures(self.settings))
        choices, classes = self.settings.choices, real.classes
        n_real = parts.paradigm.initial(self.sizes, 0)
        logits = evaluator.heldout_features.logits is not None
        from_mix = self.settings.selects_mix
        given = Given(
            choices["model"], extractor.name, classes and len(classes), logits, model.has_risk, n_real, from_mix
        )
        for stage in (parts.correction, parts.curation):
            stage.check(given)
        self.stop.end_of_fit()  # all is imported: from here on a signal may stop us anywhere
        return replace(parts, model=model, evaluator=evaluator, features=evaluator.extractor)

    def begin(self, parts: Parts) -> None:
        self.warn_changes()
        plan = parts.plan
        if not self.display.silent:
            plan = plan.timed(self, parts.model, parts.evaluator, self.trainer)
        elif self.settings.part("model").ours:
            plan = plan.sized(self, parts.model)
        plan.check_disk(self.folder)
        self.display.start(plan, plan.lines(parts.real, parts.evaluator))
        write_real(self.shared, parts.real)
        self.write_config()
        if self.fork is not None:
            copy_fork(self.fork, self.folder)
        self.measure_earlier(parts)

    def measure_earlier(self, parts: Parts) -> None:
        """Measure the generations without scores of our protocol: those of a fork, or of a chain that goes on with
        other features or measures; the table shows one protocol."""
        from imgloop.measure import measured  # imports torch

        protocol = parts.evaluator.protocol_name
        for t in range(self.done):
            if not (self.generation(t) / "scores" / f"{protocol}.json").exists():
                self.display.say(f"measuring generation {t} by {protocol}")
                measured(self.generation(t), parts.evaluator, self.trainer.device, self.settings.config_dirs)
                self.protocol = protocol

    def open_pools(self, real) -> None:
        """Open the real data and the pools of the generations that exist, checking each against its record."""
        self.real_key = real_key(real)
        self.pools = {REAL: real.train}
        check_numbers(self.folder)
        if self.fork is not None:
            check_fork(self.fork, self.real_key, self.folder, needs_model=self.needs_previous)
        for t in range(self.done):
            record, folder = self.record(t), self.source(t)
            if record["real"] != self.real_key:
                raise UserError(
                    f"{self.folder} was made from other real data than {self.settings.choices['data']} gives now (the "
                    "images changed): restore them, or give study=NEW or overwrite=true.",
                    "data",
                )
            check_files(folder, record)
            for path in (folder / "scores").glob("*.json"):
                read_scores(path, record)
            self.pools[t] = read_pool(folder / "pool.safetensors")

    def warn_changes(self) -> None:
        """Warn if versions, hardware or a user's part changed since the newest generation: results stay valid but are
        not bit-identical to an uninterrupted run."""
        if self.done:
            record = self.record(self.done - 1)
            one = {"number of devices": 1}
            now = {**versions(), **one, **machine(), **self.settings.code}
            before = {**record["versions"], **one, **record["machine"], **record.get("code", self.settings.code)}
            changed = [
                f"{k} ({before.get(k)}, now {now.get(k)})" for k in {**before, **now} if before.get(k) != now.get(k)
            ]
            code = [c for c in changed if c.startswith("code of ")]
            if code:
                self.display.say(
                    f"generations from {self.done} on are made by other code than those before: {', '.join(code)}; "
                    "give study=NEW where the change is one of the rule"
                )
            if others := [c for c in changed if c not in code]:
                self.display.say(
                    f"resumed with another {', '.join(others)}: results stay valid, but are not bit-identical to an "
                    "uninterrupted run"
                )

    @property
    def flip(self) -> bool:
        """Whether training images are mirrored at random, and those that scores compare with."""
        return self.settings.config["train"]["flip"]

    @property
    def trainer(self) -> TrainerSettings:
        return TrainerSettings(**self.settings.config["trainer"])

    # -- a generation ------------------------------------------------------------------------------------------------

    def task(self, t: int, scratch: Path, progress) -> Task:
        """What the fit of generation t is asked to do."""
        start = self.settings.config["start"]
        if self.start_folder is not None:
            start = "weights" if t == 0 else "scratch"

        def on_loss(images: int, loss: float) -> None:
            self.log.loss(t, images, loss)

        images = int(self.settings.images(t))
        common = progress, self.stop, self.trainer, on_loss
        return Task(t, self.seed_number, images, start, scratch, *common, flip=self.flip)

    def selected(self, t: int, data: TrainingSet, parts: Parts) -> TrainingSet:
        if t == 0 or not self.settings.selects_mix:
            return data
        with self.stage(t, "select"):
            generator = parts.model.load(self.generation(t - 1) / "model", self.trainer.device)
            context = Context(t, generator, self.real_in_use(t, parts), parts.features)
            return select(data, parts.curation, context, self.rng(t, "curation"))

    def fitted(self, t: int, model, data: TrainingSet) -> Fit:
        """f_t: fitted now, resumed from an interrupted fit, or for t = 0 taken from the study's shared folder."""
        if data.mix.weight is not None and not model.weighted:
            raise UserError(
                f"model={self.settings.choices['model']} does not use the weights that the mix of generation {t} has: "
                "use a paradigm and curation without weights, or another model; one of your own that uses them says so "
                "by weighted = True.",
                "model",
            )
        with self.stage(t, "train") as progress:
            if t == 0:
                return self.first_generation(model, data, progress)
            previous = None
            if self.starts_from_weights(t):
                previous = model.load(self.generation(t - 1) / "model", self.trainer.device)
            started = time.perf_counter()
            generator = model.fit(data, self.task(t, self.scratch(t), progress), previous)
            history = generator.history or History([], time.perf_counter() - started)
            self.seconds["train"] = history.seconds or time.perf_counter() - started
            return Fit(generator, self.seconds["train"], history.losses)

    def first_generation(self, model, data: TrainingSet, progress) -> Fit:
        """Generation 0, trained once for all chains of the study with equal key."""
        from imgloop.models import save  # imports torch

        folder = self.shared / f"generation0-{self.first_key(data)}"
        scratch = folder.with_name(f".{folder.name}.scratch")

        def train():
            previous = model.load(self.start_folder, self.trainer.device) if self.start_folder else None
            return model.fit(data, self.task(0, scratch, progress), previous)

        def make(part: Path) -> None:
            started, trained[:] = time.perf_counter(), [ranks.first(lambda: True)]
            generator = train()
            save(generator, part / "model", self.settings.choices["model"])
            history = generator.history or History([], 0.0)
            write_losses(part, history.losses)
            store.write_json(part / "cost.json", {"seconds": history.seconds or time.perf_counter() - started})

        def waiting() -> None:
            self.display.say("another process is training this generation 0; waiting for it")

        trained: list[bool] = []  # whether this run trains it
        if ranks.rank() == 0:
            store.once(folder, make, waiting=waiting)
        if not trained and ranks.first(lambda: False):  # of the other ranks, which train with the first
            train()
        ranks.first(lambda: store.remove(scratch))
        self.seconds["train"] = store.read_json(folder / "cost.json")["seconds"]
        losses = store.read_json(folder / LOSSES) if (folder / LOSSES).exists() else []
        return Fit(model.load(folder / "model", self.trainer.device), self.seconds["train"], losses)

    def first_key(self, data: TrainingSet) -> str:
        """All that the bits of generation 0's weights depend on: chains with equal keys share them."""
        c, s = self.settings.config, self.settings
        trainer = {k: v for k, v in c["trainer"].items() if k not in NO_BITS}
        return store.content_key(
            {
                "format": KEY_FORMAT,
                "model": [s.choices["model"], {k: v for k, v in c["model"].items() if not k.startswith("_")}],
                "trainer": trainer,
                "seed": self.seed_number,
                "start": c["start"] if self.start_folder is None else store.file_hash(self.start_folder),
                "images": s.images(0),
                **({"flip": True} if self.flip else {}),
                "real": self.real_key,
                "mix": store.array_hash(*data.mix.stored()),
                "code": {k: v for k, v in s.code.items() if k.startswith("code of model")},
                "versions": versions(),
                "machine": machine(),
            }
        )

    def commit(
        self, t: int, fit: Fit, data: TrainingSet, drawn: Pool, released: Released, scores, parts: Parts
    ) -> None:
        """Make generation t exist: everything is written beside its place and renamed into it, all or none."""
        with self.stage(t, "write"):
            ranks.first(lambda: write(self, t, fit, data, drawn, released, scores, parts.real.classes))
            self.protocol = scores.name
            self.pools[t] = read_pool(self.generation(t) / "pool.safetensors")
        self.seconds = {}
        headline = {
            n: v for n, v in scores.values.items() if v is not None and (n not in MEASURES or MEASURES[n].headline)
        }
        self.display.finished(t, self.record(t), headline)
        if isinstance(few := scores.notes.get("fd"), str):
            self.display.say(f"generation {t}: {few} (n_samples)")
        if warning := fit.generator.facts.get("warning"):
            self.display.say(f"generation {t}: {warning}")
        elif t == 0 and (why := unlike_data(scores.values, Thresholds.of(self.settings.config["collapse"]))):
            self.display.say(
                f"generation 0 is not a model of the data: {why}; what the loop does to it says little "
                "about models that are: raise train.images, or choose another model"
            )
        self.log.update(self.protocol)

    def prune(self, t: int) -> None:
        """keep_models=k keeps the weights of the newest k generations (the newest always, if the next needs it)."""
        keep = self.settings.config["keep_models"]
        if keep is not None:
            for old in range(0, t + 1 - max(keep, int(self.needs_previous))):
                store.remove(self.generation(old) / "model")

    # -- its end -----------------------------------------------------------------------------------------------------

    def finish(self):
        """Write metrics.csv and pictures, and the study's comparison; say where to look."""
        self.prune(self.done - 1)  # where it was interrupted before it had pruned
        frame = write_files(self.folder, self.protocol)
        several = len(chains(self.study)) > 1
        if several:
            compare(self.study, sparing=self.sparing)
        self.display.say(
            f"look at {self.folder}: grid.png of each generation, evolution.png and .webp, curves.png, metrics.csv"
            + (f"; and at {self.study / 'comparison.png'}" if several else "")
        )
        return frame


NO_BITS = ("checkpoint_seconds", "resident_gib", "devices", "nodes")  # of the trainer; `machine` has the devices


def start_folder(start: str) -> Path | None:
    """The folder of the saved model that generation 0 starts from; None for a start by name. Raises UserError."""
    if start in STARTS:
        return None
    folder = Path(start).expanduser()
    if not folder.is_dir():
        missing = f"there is no folder {start}; " if os.sep in start else ""
        names = ", ".join(STARTS)
        raise UserError(f"start={start}: {missing}choose {names}, or give the folder of a saved model.", "start")
    folder = folder / "model" if (folder / "model").is_dir() else folder
    if not (folder / "imgloop.json").is_file():
        raise UserError(
            f"start={start} contains no saved model (imgloop.json): give a generation's folder, such as "
            "outputs/STUDY/CONDITION/seed0/gen000.",
            "start",
        )
    return folder


def sample_sizes(settings: Settings, initial: int):
    """t -> how many samples generation t draws: n_samples, or as many as R."""
    schedule = settings.n_samples
    return lambda t: initial if schedule is None else int(schedule(t))
