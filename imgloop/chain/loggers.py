"""Loggers: a chain mirrored in TensorBoard, Weights & Biases or MLflow.

Everything that a logger shows was first written to the run folder. A logger's run is sent whatever it lacks whenever
the chain runs: after an interruption, after a server was away, or when a chain takes up a logger late. logged.json in
the chain's folder holds how much each logger has received.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from imgloop import store
from imgloop.config.settings import Settings, flat
from imgloop.display import Display
from imgloop.errors import Stopped, UserError
from imgloop.measures import SIZES
from imgloop.study import solved, trained
from imgloop.study.tables import is_solved, table

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}  # option -> module; an extra each
NO_HYPERPARAMETERS = ("logger", "display", "overwrite", "generations")
LOSS_SECONDS = 5.0  # points of the loss curve are sent together this often


class Log:
    """A chain's run in the logger of its settings; with logger=none, nothing.

    A context manager: entering raises UserError if the logger's package is missing, leaving ends the run in the logger
    (not the chain: the same command continues both).
    """

    def __init__(self, settings: Settings, display: Display):
        self.settings, self.display, self.folder = settings, display, settings.folder
        self.node, self.name = settings.config["logger"], settings.choices.get("logger", "none")
        self.adapter: LoggerAdapter | None = None
        self.marks: dict[str, Any] = {}
        self.points: list[tuple[int, float]] = []  # of the loss curve, not sent yet
        self.sent = 0.0

    def __enter__(self) -> Log:
        if self.node:
            self.marks = self.read().get(self.name, {})
            if self.lacking() or count(self.folder) < self.settings.config["generations"]:
                check_importable(self.name)
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self.adapter:
            adapter, self.adapter = self.adapter, None
            status = "success" if kind is None else "KILLED" if issubclass(kind, Stopped) else "failed"
            self.attempt(adapter.end, status)

    # -- what is sent ------------------------------------------------------------------------------------------------

    def begin(self, protocol: str | None = None) -> None:
        """Open the run, or continue it; raises UserError if that fails, before anything is trained."""
        if not self.node or self.adapter:
            return
        try:
            silence_loggers()
            self.adapter = self.settings.build("logger", settings=self.settings, run=self.marks.get("run"))
            assert self.adapter is not None
            if not self.adapter.continued:
                self.marks = {"run": self.adapter.run, "generations": 0, "losses": 0}
                self.adapter.begin(hyperparameters(self.settings))
                self.save()
        except (UserError, Stopped):
            raise
        except Exception as e:
            hint = f" To log the chain as a new run, delete {self.path}." if self.marks else ""
            raise UserError(f"logger={self.name} could not begin: {brief(e)}{hint}", "logger") from e
        self.display.say(f"logger: {self.adapter.where}")
        self.attempt(self.send, protocol)

    def loss(self, t: int, images: int, loss: float) -> None:
        """Send a point of the loss curve of generation t, together with others of the last seconds."""
        if self.adapter and t == self.marks["generations"]:
            self.points.append((images, loss))
            if time.monotonic() - self.sent > LOSS_SECONDS:
                self.sent = time.monotonic()
                points, self.points = self.points, []
                self.attempt(self.send_losses, t, points)

    def update(self, protocol: str | None) -> None:
        """Send the generations that the run lacks; a failure is reported, and made up for the next time."""
        self.points = []
        if self.adapter:
            self.attempt(self.send, protocol)

    def finish(self, protocol: str | None = None) -> None:
        """At a chain's end: send all that the run lacks; raises UserError if the logger does not take it."""
        if self.node and self.lacking():
            self.begin(protocol)
            try:
                assert self.adapter is not None
                self.send(protocol)
                path, last = self.folder / "evolution.png", self.marks["generations"]
                if path.exists():
                    self.adapter.picture("evolution", path, last - 1)
                self.marks["finished"] = last
                self.save()
            except (UserError, Stopped):
                raise
            except Exception as e:
                raise UserError(
                    f"logger={self.name} did not take all of {self.folder}: {brief(e)} The chain is whole; the same "
                    "command sends what is missing.",
                    "logger",
                ) from e

    def lacking(self) -> bool:
        """Whether the chain holds what its run does not."""
        return self.marks.get("finished") != count(self.folder)

    def send(self, protocol: str | None) -> None:
        assert self.adapter is not None
        for t, values, picture, losses in self.rows(self.marks["generations"], protocol):
            self.send_losses(t, losses)
            if picture.exists():
                self.adapter.picture("samples", picture, t)
            self.adapter.row(values, t)
            self.adapter.flush()
            self.marks |= {"generations": t + 1, "losses": 0}
            self.save()

    def send_losses(self, t: int, points: Sequence[Sequence[float]]) -> None:
        assert self.adapter is not None
        new = [(int(images), loss) for images, loss in points if images > self.marks["losses"]]
        for images, loss in new:
            self.adapter.logger.log_metrics({f"loss/gen{t:03d}": loss}, images)
        if new:
            self.adapter.flush()
            self.marks["losses"] = new[-1][0]
            self.save()

    def rows(self, first: int, protocol: str | None) -> Iterator[tuple[int, dict[str, float], Path, list[list[float]]]]:
        """(generation, values by tag, sample grid, loss curve) of the chain's generations from `first` on."""
        if is_solved(self.folder):
            frame = table(self.folder)
            for row in frame[frame["generation"] >= first].to_dict("records"):
                yield int(row["generation"]), tagged(row, "measures"), self.folder / "grid.png", []
            return
        newest = reversed(trained.protocols(self.folder))
        wanted = (self.marks.get("protocol"), protocol, *newest)
        for generation in trained.generations(self.folder)[first:]:
            measured = {p.stem for p in (generation / "scores").glob("*.json")}
            shown = next((p for p in wanted if p in measured), None)
            self.marks.setdefault("protocol", shown)
            row = trained.row(generation, shown)
            group = "measures" if shown == self.marks["protocol"] else str(shown)  # other features: other curves
            yield row["generation"], tagged(row, group), generation / "grid.png", trained.loss_curve(generation)

    # -- how much was sent -------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        return self.folder / "logged.json"

    def read(self) -> dict[str, dict]:
        try:
            return {str(k): dict(v) for k, v in json.loads(self.path.read_text()).items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError, OSError) as e:
            raise store.damaged(self.path, f"cannot be read ({e})", "delete it to log the chain as new runs") from e

    def save(self) -> None:
        store.write_json(self.path, self.read() | {self.name: self.marks})

    def attempt(self, action: Callable[..., None], *arguments: Any) -> None:
        """Do something with the logger; a failure stops no training: it is reported, and tried again later."""
        try:
            action(*arguments)
        except (UserError, Stopped):
            raise
        except Exception as e:
            self.display.say(f"logger={self.name} failed, and is tried again later: {brief(e)}")


def check_importable(name: str) -> None:
    """Raise UserError, naming the extra, if the package of a logger cannot be imported."""
    if name in PACKAGES:
        try:
            import_module(PACKAGES[name])
        except Exception as e:
            raise UserError(
                f"logger={name} needs the package {PACKAGES[name]}, which cannot be imported ({brief(e)}): "
                f"pip install 'imgloop[{name}]', or choose another logger.",
                "logger",
            ) from e


def silence_loggers() -> None:
    """Silence third-party log output."""
    from imgloop.training.trainer import silence_lightning  # imports torch

    silence_lightning()
    for name in ("mlflow", "alembic", "wandb"):
        logging.getLogger(name).setLevel(logging.ERROR)


def brief(error: Exception) -> str:
    """The first line of an error, as a sentence of at most 200 characters."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return (line if len(line) <= 200 else f"{line[:196]} ...").rstrip(".") + "."


def count(folder: Path) -> int:
    """How many generations a chain's folder holds."""
    return solved.record(folder)["generations"] if is_solved(folder) else len(trained.generations(folder))


def hyperparameters(settings: Settings) -> dict[str, Any]:
    """The chain's config, flat: the choice of each group, its condition and seed, and every setting."""
    kept = flat({k: v for k, v in settings.config.items() if k not in NO_HYPERPARAMETERS})
    chosen = {g: o for g, o in settings.choices.items() if g != "logger"}
    return {"condition": settings.condition, **chosen, **kept}


def tagged(row: Mapping[str, Any], group: str) -> dict[str, float]:
    """A row of metrics.csv by tag, as measures/fd, sizes/n_train and seconds/train; without what was not measured."""
    tags = {}
    for column, value in row.items():
        if isinstance(value, int | float) and not math.isnan(value) and column != "generation":
            head, _, tail = column.partition("_")
            name = (
                f"sizes/{column}"
                if column in SIZES
                else f"seconds/{tail}"
                if head == "seconds"
                else f"{group}/{column}"
            )
            tags[name] = float(value)
    return tags


# -- one class for each logger -------------------------------------------------------------------------------------


class LoggerAdapter:
    """A chain's run in one of Lightning's loggers.

    `run` is its name, by which it is continued; `continued`: whether it was; `where`: a line on how to look at it.
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
        """Show a picture, if the logger can."""

    def flush(self) -> None:
        self.logger.save()

    def end(self, status: str) -> None:
        self.logger.finalize(status)


class TensorBoard(LoggerAdapter):
    """Lightning's TensorBoardLogger; each run of the command adds an event file."""

    def __init__(self, settings: Settings, run: str | None):
        from lightning.pytorch.loggers import TensorBoardLogger

        folder = settings.folder / "tensorboard"
        self.continued = run is not None and any(folder.glob("events.out.tfevents.*"))
        self.run, self.where = "tensorboard", f"tensorboard --logdir {settings.study}"
        self.logger = TensorBoardLogger(settings.folder, "tensorboard", "", max_queue=100)
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


class WandB(LoggerAdapter):
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
            settings={"silent": True, "console": "off"},  # imgloop has the one display
        )
        live = self.logger.experiment
        self.where = f"wandb sync {settings.folder}/wandb/offline-run-*" if live.offline else f"wandb, {live.url}"

    def picture(self, name: str, png: Path, t: int) -> None:
        self.logger.log_image(name, [str(png)], t)

    def end(self, status: str) -> None:
        self.logger.experiment.finish(exit_code=int(status != "success"))  # else the next chain would continue in it


class MLflow(LoggerAdapter):
    """Lightning's MLFlowLogger: experiment = study; a database beside the studies if no server is named."""

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
