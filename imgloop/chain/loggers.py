"""Loggers: a chain's run in TensorBoard, Weights & Biases, MLflow or Lightning's CSV, as a mirror of its run folder.

Whatever a logger shows was first written to the run folder, so that a run is given what it lacks whenever there is
one: after an interruption, after a server was away, or when a chain takes up a logger late. How far each logger's run
has come stands in the chain's logged.json.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from imgloop import store
from imgloop.config.settings import Settings, build, flat
from imgloop.errors import Stopped, UserError
from imgloop.measures import SIZES
from imgloop.study import tables as study
from imgloop.study import trained
from imgloop.study.trained import LOSSES, loss_curve

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}  # option -> what it imports; an extra
UNSAID = ("logger", "display", "overwrite", "generations")  # no hyperparameters: they say nothing of the chain


class Log:
    """A chain's run in the logger of its settings; with logger=none, nothing.

    A context manager for the time that the chain is run: entering raises UserError where the logger's package is
    missing, leaving ends the run in the logger (not the chain: the same command continues both).
    """

    def __init__(self, chain):
        self.chain, self.settings = chain, chain.settings
        self.node, self.name = self.settings.config["logger"], self.settings.choices.get("logger")
        self.sink: Sink | None = None
        self.marks: dict[str, Any] = {}
        self.followed = 0  # when the loss curve that was last looked at was saved, ns

    def __enter__(self) -> Log:
        if self.node:
            self.marks = self.read().get(self.name, {})
            if self.chain.remaining(self.settings.config["generations"]) or self.lacking():
                importable(self.name)
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self.sink:
            sink, self.sink = self.sink, None
            status = "success" if kind is None else "KILLED" if issubclass(kind, Stopped) else "failed"
            self.tried(sink.end, status)

    # -- what is sent ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Open the run, or continue it; raises UserError where that fails, before anything is trained."""
        if not self.node or self.sink:
            return
        try:
            quiet()
            self.sink = build(self.node, settings=self.settings, run=self.marks.get("run"))
            if not self.sink.continued:
                self.marks = {"run": self.sink.run, "generations": 0, "losses": 0}
                self.sink.begin(hyperparameters(self.settings))
                self.keep()
        except (UserError, Stopped):
            raise
        except Exception as e:
            hint = f" To log the chain as a new run, delete {self.path}." if self.marks else ""
            raise UserError(f"logger={self.name} could not begin: {brief(e)}{hint}") from e
        self.chain.display.say(f"logger: {self.sink.where}")
        self.tried(self.send)

    def follow(self, t: int, scratch: Path) -> None:
        """Send what the fit of generation t has newly saved of its loss curve to its scratch folder."""
        if self.sink and t == self.marks["generations"] and (scratch / LOSSES).exists():
            saved = (scratch / LOSSES).stat().st_mtime_ns
            if saved != self.followed:
                self.followed = saved
                self.tried(self.send_losses, t, loss_curve(scratch))

    def update(self) -> None:
        """Send the generations that the run lacks; a failure is told, and made good the next time."""
        if self.sink:
            self.tried(self.send)

    def finish(self) -> None:
        """At a chain's end: all that the run lacks; raises UserError where the logger does not take it."""
        if self.node and self.lacking():
            self.begin()
            try:
                self.send()
                path, last = self.chain.folder / "evolution.png", self.marks["generations"]
                if path.exists():
                    self.sink.picture("evolution", path, last - 1)
                self.marks["finished"] = last
                self.keep()
            except (UserError, Stopped):
                raise
            except Exception as e:
                raise UserError(
                    f"logger={self.name} did not take all of {self.chain.folder}: {brief(e)} The chain is whole; the "
                    "same command sends what is missing."
                ) from e

    def lacking(self) -> bool:
        """Whether the chain holds what its run does not."""
        return self.marks.get("finished") != written(self.chain.folder)

    def send(self) -> None:
        for t, values, picture in self.rows(self.marks["generations"]):
            self.send_losses(t, loss_curve(self.chain.generation(t)))
            if picture.exists():
                self.sink.picture("samples", picture, t)
            self.sink.row(values, t)
            self.sink.flush()
            self.marks |= {"generations": t + 1, "losses": 0}
            self.keep()

    def send_losses(self, t: int, points: Sequence[Sequence[float]]) -> None:
        new = [(images, loss) for images, loss in points if images > self.marks["losses"]]
        for images, loss in new:
            self.sink.logger.log_metrics({f"loss/gen{t:03d}": loss}, images)
        if new:
            self.sink.flush()
            self.marks["losses"] = new[-1][0]
            self.keep()

    def rows(self, first: int):
        """(generation, values by tag, sample grid) of the generations from `first` on that the chain holds."""
        folder = self.chain.folder
        if study.is_solved(folder):
            frame = study.table(folder)
            for row in frame[frame["generation"] >= first].to_dict("records"):
                yield int(row["generation"]), tagged(row, "measures"), folder / "grid.png"
            return
        newest = reversed(study.protocols(folder))
        wanted = (self.marks.get("protocol"), self.chain.protocol, *newest)
        for generation in study.generations(folder)[first:]:
            found = {p.stem for p in (generation / "scores").glob("*.json")}
            protocol = next((p for p in wanted if p in found), None)
            self.marks.setdefault("protocol", protocol)
            row = trained.row(generation, protocol)
            group = "measures" if protocol == self.marks["protocol"] else protocol  # other features: other curves
            yield row["generation"], tagged(row, group), generation / "grid.png"

    # -- how far it has come -----------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        return self.chain.folder / "logged.json"

    def read(self) -> dict[str, dict]:
        try:
            return {str(k): dict(v) for k, v in json.loads(self.path.read_text()).items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError, OSError) as e:
            raise store.damaged(self.path, f"cannot be read ({e})", "delete it to log the chain as new runs") from e

    def keep(self) -> None:
        store.write_json(self.path, self.read() | {self.name: self.marks})

    def tried(self, act, *arguments) -> None:
        """A logger that fails stops no training: it is told, and what it lacks is sent later."""
        try:
            act(*arguments)
        except (UserError, Stopped):
            raise
        except Exception as e:
            self.chain.display.say(f"logger={self.name} failed, and is tried again later: {brief(e)}")


def importable(name: str) -> None:
    """Raise UserError, naming the extra, where the package of a logger cannot be imported."""
    if name in PACKAGES:
        try:
            import_module(PACKAGES[name])
        except Exception as e:
            raise UserError(
                f"logger={name} needs the package {PACKAGES[name]}, which cannot be imported ({brief(e)}): "
                f"pip install 'imgloop[{name}]', or choose another logger."
            ) from e


def quiet() -> None:
    """One display, ours: what packages say of their own doing is no news here."""
    from imgloop.training.trainer import quiet as quiet_lightning

    quiet_lightning()
    for name in ("mlflow", "alembic", "wandb"):
        logging.getLogger(name).setLevel(logging.ERROR)


def brief(error: Exception) -> str:
    """The first line of an error, as a sentence of at most 200 characters."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return (line if len(line) <= 200 else f"{line[:196]} ...").rstrip(".") + "."


def written(folder: Path) -> int:
    """How many generations a chain's folder holds."""
    if study.is_solved(folder):
        return store.read_json(folder / "record.json")["generations"]
    return len(study.generations(folder))


def hyperparameters(settings: Settings) -> dict[str, Any]:
    """The chain's config, flat: the choice of each group, its condition and seed, and every setting."""
    kept = flat({k: v for k, v in settings.config.items() if k not in UNSAID})
    chosen = {g: o for g, o in settings.choices.items() if g != "logger"}
    found = {"condition": settings.condition, **chosen, **kept}
    return {k: v for k, v in found.items() if not k.endswith("_target_")}


def tagged(row: Mapping[str, Any], group: str) -> dict[str, float]:
    """A row of metrics.csv by tag, as measures/fd, sizes/n_train and seconds/train; without what was not measured."""
    tags = {}
    for column, value in row.items():
        if isinstance(value, int | float) and not math.isnan(value) and column != "generation":
            sized, (head, _, tail) = column in SIZES, column.partition("_")
            name = f"sizes/{column}" if sized else f"seconds/{tail}" if head == "seconds" else f"{group}/{column}"
            tags[name] = float(value)
    return tags


# -- one class a logger ----------------------------------------------------------------------------------------------


class Sink:
    """A chain's run in one of Lightning's loggers.

    `run` names it, so that it can be continued; `continued` is whether it was; `where` is a line on how to look at it.
    """

    logger: Any
    run: str | None = None
    continued = False
    where = ""

    def begin(self, hyperparameters: Mapping[str, Any]) -> None:
        self.logger.log_hyperparams(dict(hyperparameters))

    def row(self, values: Mapping[str, float], t: int) -> None:
        self.logger.log_metrics(dict(values), t)

    def picture(self, name: str, png: Path, t: int) -> None:
        """Show a picture, where the logger can."""

    def flush(self) -> None:
        self.logger.save()

    def end(self, status: str) -> None:
        self.logger.finalize(status)


class CSV(Sink):
    """Lightning's CSVLogger. Opened on a file it erases it, so each sitting writes it anew, from the run folder."""

    def __init__(self, settings: Settings, run: str | None):
        from lightning.pytorch.loggers import CSVLogger

        folder = settings.folder / "csv"
        store.remove(*([folder] if folder.exists() else []))
        self.logger, self.where = CSVLogger(settings.folder, "csv", ""), str(folder / "metrics.csv")


class TensorBoard(Sink):
    """Lightning's TensorBoardLogger; a sitting adds an event file to those of the run."""

    def __init__(self, settings: Settings, run: str | None, max_queue: int):
        from lightning.pytorch.loggers import TensorBoardLogger

        folder = settings.folder / "tensorboard"
        self.continued = run is not None and any(folder.glob("events.out.tfevents.*"))
        self.run, self.where = "tensorboard", f"tensorboard --logdir {settings.study}"
        self.logger = TensorBoardLogger(settings.folder, "tensorboard", "", max_queue=max_queue)
        self.hyperparameters = hyperparameters(settings)

    def begin(self, hyperparameters: Mapping[str, Any]) -> None:
        self.logger.log_hyperparams(dict(hyperparameters), {})
        self.logger.experiment.add_text("config", "\n".join(f"    {k}: {v}" for k, v in hyperparameters.items()))

    def row(self, values: Mapping[str, float], t: int) -> None:
        if t == 0:  # the page that compares hyperparameters shows them by the measures that come with them
            self.logger.log_hyperparams(self.hyperparameters, dict(values), t)
        else:
            super().row(values, t)

    def picture(self, name: str, png: Path, t: int) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(png) as image:
            self.logger.experiment.add_image(name, np.asarray(image.convert("RGB")), t, dataformats="HWC")


class WandB(Sink):
    """Lightning's WandbLogger: project = study, group = condition."""

    def __init__(self, settings: Settings, run: str | None, project, entity, offline: bool):
        from lightning.pytorch.loggers import WandbLogger

        self.continued, self.run = run is not None, run or secrets.token_hex(4)
        self.logger = WandbLogger(
            name=f"{settings.condition}, {settings.folder.name}",
            save_dir=settings.folder,
            id=self.run,
            project=project or settings.study.name,
            offline=offline,
            group=settings.condition,
            entity=entity,
            settings={"silent": True, "console": "off"},  # one display, ours
        )
        run = self.logger.experiment
        self.where = f"wandb sync {settings.folder}/wandb/offline-run-*" if run.offline else f"wandb, {run.url}"

    def picture(self, name: str, png: Path, t: int) -> None:
        self.logger.log_image(name, [str(png)], t)

    def end(self, status: str) -> None:
        self.logger.experiment.finish(exit_code=int(status != "success"))  # else the next chain would go on in it


class MLflow(Sink):
    """Lightning's MLFlowLogger: experiment = study; a database beside the studies where no server is named."""

    def __init__(self, settings: Settings, run: str | None, experiment, tracking_uri):
        from lightning.pytorch.loggers import MLFlowLogger
        from mlflow.exceptions import MlflowException

        out = settings.study.parent.absolute()
        given = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        uri = given or f"sqlite:///{out / 'mlflow.db'}"
        with store.lock(out / ".mlflow.lock"):  # two chains would both make the tables and the experiment
            if run is not None:
                self.logger = MLFlowLogger(tracking_uri=uri, run_id=run)
                try:
                    self.logger.experiment.update_run(run, "RUNNING")
                    self.continued = True
                except MlflowException as e:
                    if e.error_code != "RESOURCE_DOES_NOT_EXIST":
                        raise
            if not self.continued:
                self.logger = MLFlowLogger(
                    experiment_name=experiment or settings.study.name,
                    run_name=f"{settings.condition}, {settings.folder.name}",
                    tracking_uri=uri,
                    tags={"condition": settings.condition, "seed": str(settings.config["seed"])},
                    artifact_location=None if given else (settings.study / "mlflow").absolute().as_uri(),
                )
            self.run = self.logger.run_id
        self.where = "mlflow at the tracking URI given" if given else f"mlflow ui --backend-store-uri {uri}"

    def picture(self, name: str, png: Path, t: int) -> None:
        from PIL import Image

        with Image.open(png) as image:
            self.logger.experiment.log_image(self.run, image.convert("RGB"), f"{name}/gen{t:03d}.png")
