"""A chain of trained models: where it stands, its pools, resuming, and generation 0 shared by content."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imgloop import store
from imgloop.chain.base import ChainFolder
from imgloop.chain.loggers import LOSSES
from imgloop.chain.plan import Plan
from imgloop.config.fork import Fork
from imgloop.config.schedule import Schedule
from imgloop.config.settings import Settings, build
from imgloop.errors import UserError
from imgloop.measure import measured
from imgloop.pool import REAL, Mix, Pool, TrainingSet
from imgloop.provenance import machine, versions
from imgloop.study.real import real_key, write_real
from imgloop.training.tasks import Task

LATENTS = 16  # columns of the evolution sheet: samples drawn from the same latents in every generation
STARTS = ("scratch", "weights", "weights_and_optimizer")


class Chain(ChainFolder):
    """Generations 0..G of a model that is trained: a folder each, renamed into place when it is whole."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.protocol: str | None = None  # of the scores that metrics.csv shows
        start = settings.config["start"]
        self.start_folder = None if start in STARTS else Path(start).expanduser()
        if self.start_folder is not None and not self.start_folder.is_dir():
            raise UserError(f"start={start}: choose {', '.join(STARTS)}, or give the folder of a saved model.")
        if self.start_folder is not None and (self.start_folder / "model").is_dir():
            self.start_folder = self.start_folder / "model"
        if self.start_folder is not None and not (self.start_folder / "imgloop.json").is_file():
            raise UserError(
                f"start={start} holds no saved model (imgloop.json): give a generation's folder, such as "
                "outputs/STUDY/CONDITION/seed0/gen000."
            )
        self.fork = None if settings.config["fork"] is None else Fork.of(settings.config["fork"])

    # -- where it stands ---------------------------------------------------------------------------------------------

    def scratch(self, t: int) -> Path:
        return self.folder / f".gen{t:03d}.scratch"

    @property
    def shared(self) -> Path:
        return self.study / "shared"

    @property
    def done(self) -> int:
        """How many generations exist; those of a fork exist before they are copied."""
        t = 0
        while self.generation(t).is_dir():
            t += 1
        return t if self.fork is None else max(t, self.fork.t + 1)

    @property
    def begun(self) -> bool:
        return self.generation(0).is_dir()

    def found(self, t: int) -> Path:
        """Where generation t is: in the chain's own folder or, not copied yet, in the one it is forked from."""
        own = self.generation(t)
        return own if self.fork is None or own.is_dir() else self.fork.generation(t)

    @property
    def sizes(self) -> dict[int, int]:
        """Rows of each pool by origin: what a paradigm sees."""
        return {origin: len(pool) for origin, pool in self.pools.items()}

    # -- opening -----------------------------------------------------------------------------------------------------

    def prepared(self, paradigm, generations: int, cache: Path):
        """The real data attached, every mix to come tried on sizes alone, the cost told: (model, evaluator, drawn),
        `drawn(t)` samples to draw in generation t. `cache` keeps decoded images between studies."""
        display, config = self.display, self.settings.config
        real = build(config["data"]).load(cache, display.reading("reading images"))
        self.attach(real)
        drawn = drawn_sizes(self.settings, paradigm.initial(self.sizes, 0))
        plan = Plan.of(paradigm, self, drawn, generations)

        from imgloop.metrics.evaluator import Evaluator  # torch and Lightning from here on
        from imgloop.training.trainer import TrainerSettings, use_threads

        use_threads(config["threads"], real.train.x.shape[-1])
        self.tell_changes()
        trainer = TrainerSettings(**config["trainer"])
        model = build(config["model"], trainer=trainer)
        if getattr(model, "conditional", False):
            real.check_classes()
        evaluator = Evaluator.of(
            config["features"], real, self.shared, display.reading("training the classifier"), trainer.device
        )
        self.stop.forget()  # all is imported: from here on a signal may stop us anywhere
        display.start(plan.timed(model, self, evaluator), real, evaluator)
        self.begin(real)
        if self.fork:
            self.take_over(evaluator, trainer.device)
        return model, evaluator, drawn

    def begin(self, real) -> None:
        """Keep the real data and write config.yaml: from here on the folder is a chain."""
        write_real(self.shared, real)
        self.write_config()

    def take_over(self, evaluator, device: str) -> None:
        """Copy what is forked, and measure it where our protocol has not yet."""
        from imgloop.metrics.evaluator import protocol_name

        self.fork.copy(self.folder)
        self.protocol = protocol_name(evaluator.protocol)
        for t in range(self.fork.t + 1):
            if not (self.generation(t) / "scores" / f"{self.protocol}.json").exists():
                self.display.say(f"measuring generation {t} of {self.fork.folder} by {self.protocol}")
                measured(self.generation(t), evaluator, device)

    def attach(self, real) -> None:
        """Give the chain its real data and open the pools of the generations that exist, checking each."""
        self.real_key = real_key(real)
        self.pools = {REAL: real.train}
        if self.fork:
            self.fork.check(self.real_key, self.folder)
        for t in range(self.done):
            record = self.record(t)
            if record["real"] != self.real_key:
                raise UserError(
                    f"{self.folder} was made from other real data than {self.settings.choices['data']} gives now "
                    "(the images "
                    "changed): restore them, or give study=NEW or overwrite=true."
                )
            path = self.found(t) / "pool.safetensors"
            arrays = store.open_arrays(path)
            if store.file_hash(path) != record["pool_hash"]:
                raise store.damaged(path, "is not what was written (its hash differs from record.json)")
            model = self.found(t) / "model"
            if model.is_dir() and store.file_hash(model) != record["model_hash"]:
                raise store.damaged(model, "is not what was written (its hash differs from record.json)")
            for scores in (self.found(t) / "scores").glob("*.json"):
                store.read_json(scores)
            self.pools[t] = Pool(arrays["x"], arrays.get("y"))

    def tell_changes(self) -> None:
        """Say what is not as it was when the newest generation was made: its bits would not be those of one sitting."""
        if self.done:
            was = self.record(self.done - 1)
            now = {**versions(), **machine()}
            before = {**was["versions"], **was["machine"]}
            changed = [
                f"{k} ({before.get(k)}, now {now.get(k)})" for k in {**before, **now} if before.get(k) != now.get(k)
            ]
            if changed:
                self.display.say(
                    f"resumed with another {', '.join(changed)}: as valid, but not bit for bit what one sitting gives"
                )

    def record(self, t: int) -> dict[str, Any]:
        return store.read_json(self.found(t) / "record.json")

    # -- going on ----------------------------------------------------------------------------------------------------

    @contextmanager
    def stage(self, t: int, name: str):
        """Time one stage of a generation and show it."""
        began = time.perf_counter()
        if self.display:
            self.display.stage(t, name)
        yield self.display.update if self.display else (lambda *a, **k: None)
        self.seconds.setdefault(name, time.perf_counter() - began)
        self.stop.forget()

    def task(self, t: int, scratch: Path, progress: Callable) -> Task:
        c = self.settings.config
        start = c["start"] if self.start_folder is None else "weights" if t == 0 else "scratch"

        def told(done: int, total: int, **figures) -> None:
            progress(done, total, **figures)
            self.log.follow(t, scratch)

        return Task(t, self.seed_number, self.settings.images(t), start, scratch, told, self.stop)

    def fitted(self, t: int, model, data: TrainingSet):
        """f_t: fitted now, resumed from where an interrupted fit stood, or for t = 0 taken from the study's shared
        folder."""
        with self.stage(t, "train") as progress:
            if t == 0:
                folder = self.shared / f"generation0-{self.first_key(data)}"

                def make(part: Path) -> None:
                    scratch, began = folder.with_name(f".{folder.name}.scratch"), time.perf_counter()
                    previous = model.load(self.start_folder) if self.start_folder else None
                    model.fit(data, self.task(0, scratch, progress), previous).save(part / "model")
                    keep_losses(scratch, part)
                    store.write_json(part / "cost.json", {"seconds": spent(scratch) or time.perf_counter() - began})
                    store.remove(scratch)

                store.once(
                    folder,
                    make,
                    waiting=lambda: (
                        self.display
                        and self.display.say("another process is training this generation 0; waiting for it")
                    ),
                )
                f = model.load(folder / "model")
                self.seconds["train"] = store.read_json(folder / "cost.json")["seconds"]
                self.losses = folder
                return f
            previous = (
                model.load(self.generation(t - 1) / "model") if self.settings.config["start"] in STARTS[1:] else None
            )
            f = model.fit(data, self.task(t, self.scratch(t), progress), previous)
            if seconds := spent(self.scratch(t)):
                self.seconds["train"] = seconds
            self.losses = self.scratch(t)
            return f

    def starts_from_weights(self, t: int) -> bool:
        """Whether generation t starts from a fitted model: the previous one's, or for t = 0 one that is given."""
        return self.start_folder is not None if t == 0 else self.settings.config["start"] in STARTS[1:]

    def first_key(self, data: TrainingSet) -> str:
        """All that the bits of generation 0's weights depend on: chains with equal keys share them."""
        c = self.settings.config
        trainer = {k: v for k, v in c["trainer"].items() if k not in ("checkpoint_seconds", "chunk", "resident_gib")}
        start = c["start"] if self.start_folder is None else store.file_hash(self.start_folder)
        return store.content_key(
            {
                "model": c["model"],
                "trainer": trainer,
                "seed": self.seed_number,
                "start": start,
                "images": self.settings.images(0),
                "real": self.real_key,
                "mix": store.array_hash(data.mix.origin, data.mix.row, data.mix.weight),
                "versions": versions(),
                "machine": machine(),
            }
        )

    def commit(self, t: int, f, mix: Mix, drawn: Pool, scores) -> None:
        """Make generation t exist: everything is written beside its place and renamed into it, all or none."""
        from imgloop import figures

        with self.stage(t, "write"):
            aged = f.sample(LATENTS, seed=self.seed(None, "evolution"))

            def make(part: Path) -> None:
                f.save(part / "model")
                pool_arrays = {"x": drawn.x} if drawn.y is None else {"x": drawn.x, "y": drawn.y}
                store.write_arrays(part / "pool.safetensors", pool_arrays)
                store.write_arrays(
                    part / "mix.safetensors",
                    {"origin": mix.origin, "row": mix.row} | ({} if mix.weight is None else {"weight": mix.weight}),
                )
                store.write_arrays(part / "evolution.safetensors", {"x": aged.x})
                scores.write(part / "scores")
                keep_losses(self.losses, part)
                store.write_bytes(part / "grid.png", figures.grid(self.pools[REAL].x, drawn.x, f"generation {t}"))
                store.write_json(part / "record.json", self.describe(t, f, mix, drawn, part))

            store.commit_folder(self.generation(t), make)
            store.remove(self.scratch(t))
            self.protocol = scores.name
            self.pools[t] = Pool(*map(store.open_arrays(self.generation(t) / "pool.safetensors").get, ("x", "y")))
            self.prune(t)
        self.seconds = {}
        self.display.finished(t, self, scores)
        self.log.update()

    def describe(self, t: int, f, mix: Mix, drawn: Pool, part: Path) -> dict[str, Any]:
        """record.json: what generation t was made of and by."""
        shares = mix.shares()
        return {
            "generation": t,
            "condition": self.settings.condition,
            "seed": self.seed_number,
            "n_train": len(mix),
            "n_pool": len(drawn),
            "real_share": shares.get(REAL, 0.0),
            "share_by_origin": {str(o): s for o, s in sorted(shares.items())},
            "train_images": self.settings.images(t),
            "images_seen": getattr(f, "description", {}).get("trained_images"),
            "start": self.settings.config["start"],
            "nfe": getattr(f, "nfe", None),
            "sampling": getattr(f, "sampling", None),
            "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
            "seeds": {p: self.seed(t, p) for p in ("mix", "sample")},
            "real": self.real_key,
            "pool_hash": store.file_hash(part / "pool.safetensors"),
            "mix_hash": store.file_hash(part / "mix.safetensors"),
            "model_hash": store.file_hash(part / "model"),
            "versions": versions(),
            "machine": machine(),
            "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }

    def prune(self, t: int) -> None:
        """keep_models=k keeps the weights of the newest k generations (the newest always, where the next starts from
        it)."""
        keep = self.settings.config["keep_models"]
        if keep is not None:
            needed = max(keep, 1 if self.settings.config["start"] in STARTS[1:] else 0)
            for old in range(0, t + 1 - needed):
                store.remove(*(p for p in [self.generation(old) / "model"] if p.exists()))


def keep_losses(source: Path, part: Path) -> None:
    """Copy the loss curve of a fit to where it is kept; a fit without images has none."""
    if (source / LOSSES).exists():
        store.write_bytes(part / LOSSES, (source / LOSSES).read_bytes())


def spent(scratch: Path) -> float | None:
    """Seconds that the fit with this scratch folder has trained, over all its sittings; None where it did not say."""
    path = scratch / "spent.json"
    return store.read_json(path)["seconds"] if path.exists() else None


def drawn_sizes(settings: Settings, initial: int) -> Callable[[int], int]:
    """How many samples each generation draws: n_samples, or as many as R."""
    schedule: Schedule | None = settings.n_samples
    return lambda t: initial if schedule is None else int(schedule(t))
