"""Loggers: each holds what the run folder holds, every value once, and changes no chain."""

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import TINY

import imgloop
from imgloop import store
from imgloop.chain import loggers
from imgloop.chain.loggers import tagged
from imgloop.config import settings as config
from imgloop.errors import Stopped, UserError
from imgloop.measures import SIZES
from imgloop.study import trained as study
from imgloop.training.trainer import POINT, CheckpointCallback

SMALL = [*TINY, "train.images=3200", "model.batch=32"]  # 100 steps: two points of a loss curve
CHOICES = {  # settings of each logger; nothing leaves the machine
    "tensorboard": [],
    "wandb": ["logger.offline=true"],
    "mlflow": [],
}
HASHES = ("pool_hash", "mix_hash", "model_hash")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_MODE", os.environ.get("WANDB_MODE", "offline"))  # Lightning sets it, too
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(params=["tensorboard", *(pytest.param(n, marks=pytest.mark.nightly) for n in ("wandb", "mlflow"))])
def logger(request):
    """The name of each logger whose package is installed; the slow ones nightly."""
    package = loggers.PACKAGES[request.param]
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'imgloop[{request.param}]'")
    return request.param


def chain(out, name, *overrides):
    return imgloop.run([*SMALL, f"out={out}", f"logger={name}", *CHOICES.get(name, []), *overrides])


def hashes(folder):
    return [[store.read_json(g / "record.json")[h] for h in HASHES] for g in study.generations(folder)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Two generations with logger=none, in one run."""
    return imgloop.run([*SMALL, f"out={tmp_path_factory.mktemp('plain')}", "generations=2"])


def modified(folder):
    """When each file was last written, except logs and locks."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".log" and not p.name.endswith(".lock")]
    return {p: p.stat().st_mtime_ns for p in files}


# Each logger's own reader: values by (tag, step), pictures as (name, step), hyperparameters


def read_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "images": 0, "tensors": 0}).Reload()
    values, pictures = {}, []
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            values.setdefault((tag, event.step), []).append(event.value)
    for tag in events.Tags()["images"]:
        pictures += [(tag, event.step) for event in events.Images(tag)]
    assert "config/text_summary" in events.Tags()["tensors"]
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")  # the page that compares runs
    return values, sorted(pictures), yaml.safe_load((folder / "tensorboard" / "hparams.yaml").read_text())


def wandb_records(path):
    """The records of an offline run: LevelDB's log format, in blocks of 32 KiB, after a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        at += 7 + length
        if at > len(data):
            return  # still being written
        whole += data[at - length : at]
        if kind in (1, 4):  # whole, or the last part of several
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def wandb_runs(folder):
    """The records of each run once it is complete: wandb's finish() returns before its service closes the file."""
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        deadline = time.monotonic() + 60
        records = []
        while not any(r.HasField("exit") for r in records):
            assert time.monotonic() < deadline, f"{path} never ended"
            time.sleep(0.05)
            records = list(wandb_records(path))
        yield records


def read_wandb(folder):
    values, pictures, parameters, runs = {}, [], {}, set()
    for records in wandb_runs(folder):
        for record in records:
            if record.HasField("run"):
                runs.add((record.run.run_id, record.run.project, record.run.run_group, record.run.display_name))
            for item in record.config.update:
                parameters[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            step = row.get("trainer/global_step")
            for name in ("samples", "evolution"):
                pictures += [(name, step)] if f"{name}/filenames" in row or name in row else []
            for tag, value in row.items():
                if tag.split("/")[0] in ("measures", "sizes", "seconds", "loss"):
                    values.setdefault((tag, step), []).append(value)
    assert len(runs) == 1, runs  # one run, however often the command was started
    assert runs.pop()[1:] == (folder.parents[1].name, folder.parent.name, f"{folder.parent.name}, {folder.name}")
    return values, sorted(pictures), parameters


def read_mlflow(folder):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.parents[2] / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(folder.parents[1].name)
    runs = [
        r
        for r in client.search_runs([experiment.experiment_id])
        if (r.data.tags["condition"], r.data.tags["seed"]) == (folder.parent.name, folder.name[4:])
    ]
    assert len(runs) == 1 and runs[0].info.run_name == f"{folder.parent.name}, {folder.name}"
    values, pictures, run = {}, [], runs[0].info.run_id
    for tag in runs[0].data.metrics:
        for metric in client.get_metric_history(run, tag):
            values.setdefault((tag, metric.step), []).append(metric.value)
    for name in ("samples", "evolution"):
        files = client.list_artifacts(run, name)
        pictures += [(name, int(Path(f.path).stem[3:])) for f in files]
    assert Path(runs[0].info.artifact_uri.removeprefix("file://")).is_relative_to(folder.parents[2])  # not the cwd
    return values, sorted(pictures), runs[0].data.params


def read(name, folder):
    return globals()[f"read_{name}"](folder)


def expected_values(folder):
    """What a logger must hold: metrics.csv and the loss curves, by (tag, step)."""
    values = {}
    for row in pd.read_csv(folder / "metrics.csv").to_dict("records"):
        values |= {(tag, int(row["generation"])): value for tag, value in tagged(row, "measures").items()}
    for t, generation in enumerate(study.generations(folder)):
        curve = store.read_json(generation / "loss.json")
        values |= {(f"loss/gen{t:03d}", images): loss for images, loss in curve}
    return values


def check(name, folder, evolutions=None):
    """The logger holds exactly what the folder holds, each value once."""
    values, pictures, parameters = read(name, folder)
    assert {k: len(v) for k, v in values.items()} == dict.fromkeys(expected_values(folder), 1)
    for key, value in expected_values(folder).items():
        assert values[key][0] == pytest.approx(value, rel=1e-5), key  # metrics.csv has six digits
    generations = len(study.generations(folder))
    expected = [("evolution", t) for t in (evolutions or [generations - 1])]
    assert pictures == sorted(expected + [("samples", t) for t in range(generations)])
    assert str(parameters["seed"]) == "0" and parameters["condition"] == folder.parent.name
    assert parameters["model"] == "diffusion"
    assert str(parameters["model.batch"]) == "32" and str(parameters["train.images"]) == "3200"
    assert not any(k.startswith("logger") or k.endswith("_target_") for k in parameters)


# Every logger


def test_it_holds_what_the_run_folder_holds_over_several_runs_of_the_command(logger, plain, tmp_path):
    """A chain started, extended, and run again when finished: one run, every value once, no bit changed."""
    folder = chain(tmp_path, logger, "generations=1").folder
    check(logger, folder)
    chain(tmp_path, logger, "generations=2")
    check(logger, folder, evolutions=[0, 1])
    before = modified(tmp_path)
    chain(tmp_path, logger, "generations=2")
    assert modified(tmp_path) == before
    assert hashes(folder) == hashes(plain.folder)


def test_interrupted_in_a_generation_it_continues_where_it_stopped(logger, plain, tmp_path, monkeypatch, capsys):
    """Points sent before the interruption are not sent again, those after it are not missing."""
    ended = CheckpointCallback.on_train_batch_end

    def stopping(self, trainer, module, outputs, batch, index):
        if self.task.t == 1 and batch[1] > 80:
            object.__setattr__(self.task, "stop", lambda: True)
        ended(self, trainer, module, outputs, batch, index)

    often = ["generations=2", "trainer.checkpoint_seconds=0.001", "display=lines"]
    monkeypatch.setattr(loggers, "LOSS_SECONDS", -1.0)  # send each point at once
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(CheckpointCallback, "on_train_batch_end", stopping)
        chain(tmp_path, logger, *often)
    assert "failed" not in capsys.readouterr().out
    folder = next(tmp_path.glob("digits-diffusion/*/seed0"))
    values = read(logger, folder)[0]
    assert [s for tag, s in values if tag == "loss/gen001"] == [2048]  # sent during training
    assert max(step for tag, step in values if tag == "measures/fd") == 0
    chain(tmp_path, logger, *often)
    check(logger, folder)
    assert hashes(folder) == hashes(plain.folder)
    for a, b in zip(study.generations(folder), study.generations(plain.folder)):
        assert store.read_json(a / "loss.json") == store.read_json(b / "loss.json")


def test_a_logger_added_later_is_filled_without_training(logger, plain, tmp_path, monkeypatch):
    """A finished chain, run again with a logger, is logged from its folder."""
    out = tmp_path / "out"
    shutil.copytree(plain.folder.parents[2], out)
    monkeypatch.setattr(CheckpointCallback, "__init__", lambda *a: pytest.fail("trained"))
    check(logger, chain(out, logger, "generations=2").folder)


def test_a_missing_package_is_refused_before_anything_is_done(logger, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, loggers.PACKAGES[logger], None)
    with pytest.raises(UserError, match=rf"pip install 'imgloop\[{logger}\]'") as error:
        chain(tmp_path, logger)
    assert error.value.setting == "logger"
    assert not list(tmp_path.rglob("*seed0*"))


# Common to all


def test_each_generation_stores_its_loss_curve(plain):
    for generation in study.generations(plain.folder):
        curve = store.read_json(generation / "loss.json")
        assert [images for images, _ in curve] == [64 * 32, 3200]  # the first chunk's end after POINT steps; the end
        assert 64 >= POINT and 0.2 < curve[1][1] < curve[0][1] < 2


@pytest.mark.nightly
def test_chains_that_share_generation_0_both_show_its_loss(tmp_path):
    both = ("paradigm=replace", "paradigm=real_only")
    folders = [chain(tmp_path, "tensorboard", "generations=1", p).folder for p in both]
    assert len(list((tmp_path / "digits-diffusion" / "shared").glob("generation0-*"))) == 1
    first, second = (read_tensorboard(f)[0] for f in folders)
    assert first["loss/gen000", 3200] == second["loss/gen000", 3200]


@pytest.mark.nightly
def test_a_chain_changes_its_logger(plain, tmp_path):
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'imgloop[mlflow]'")
    folder = chain(tmp_path, "tensorboard", "generations=1").folder
    before = modified(folder / "tensorboard")
    chain(tmp_path, "mlflow", "generations=2")
    check("mlflow", folder)
    assert modified(folder / "tensorboard") == before
    chain(tmp_path, "none", "generations=2")
    chain(tmp_path, "tensorboard", "generations=2")
    check("tensorboard", folder, evolutions=[0, 1])
    assert hashes(folder) == hashes(plain.folder)
    assert "logger" not in (folder / "config.yaml").read_text()
    assert store.read_json(folder / "logged.json").keys() == {"mlflow", "tensorboard"}


@pytest.mark.nightly
def test_chains_of_one_process_are_runs_of_their_own(tmp_path):
    """As in a multirun; wandb's library would by itself continue the first run."""
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'imgloop[wandb]'")
    for seed in (0, 1):
        folder = chain(tmp_path, "wandb", "generations=1", f"seed={seed}").folder
        values, _, parameters = read_wandb(folder)
        assert parameters["seed"] == seed and values["measures/fd", 0] == [
            pytest.approx(pd.read_csv(folder / "metrics.csv")["fd"][0], rel=1e-5)
        ]


@pytest.mark.nightly
def test_overwrite_starts_another_run(tmp_path):
    folder = chain(tmp_path, "tensorboard", "generations=2").folder
    chain(tmp_path, "tensorboard", "generations=1", "overwrite=true")
    check("tensorboard", folder)


def test_a_failing_logger_is_reported_and_stops_no_training(plain, tmp_path, monkeypatch, capsys):
    def unreachable(self, values, t):
        raise ConnectionError("no route to host")

    with monkeypatch.context() as patch:
        patch.setattr(loggers.TensorBoard, "row", unreachable)
        with pytest.raises(UserError, match="no route to host") as error:
            chain(tmp_path, "tensorboard", "generations=2", "display=lines")
    assert error.value.setting == "logger"
    assert "tried again later: no route" in capsys.readouterr().out
    folder = next(tmp_path.glob("digits-diffusion/*/seed0"))
    assert hashes(folder) == hashes(plain.folder) and (folder / "metrics.csv").exists()
    chain(tmp_path, "tensorboard", "generations=2")
    values = read_tensorboard(folder)[0]
    assert {k: v[-1] for k, v in values.items()} == pytest.approx(expected_values(folder), rel=1e-5)


def test_a_logger_that_cannot_start_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(loggers.TensorBoard, "begin", lambda *a: 1 / 0)
    with pytest.raises(UserError, match="division by zero") as error:
        chain(tmp_path, "tensorboard")
    assert error.value.setting == "logger"
    assert not list(tmp_path.rglob("gen000"))


@pytest.mark.nightly
def test_other_features_are_other_curves(tmp_path):
    folder = chain(tmp_path, "tensorboard", "generations=1").folder
    chain(tmp_path, "tensorboard", "generations=2", "features=random")
    values = read_tensorboard(folder)[0]
    assert [s for tag, s in values if tag == "measures/fd"] == [0]
    other = study.protocols(folder)[-1]
    assert [s for tag, s in values if tag == f"{other}/fd"] == [1] and other.startswith("random")


def test_solvable_chains_log_their_table(logger, tmp_path):
    settings = ["model=gaussian", "data=law", "model.replicates=8", "data.n=20", f"out={tmp_path}", "display=none"]
    given = [*settings, f"logger={logger}", *CHOICES[logger]]
    folder = imgloop.run([*given, "generations=3"]).folder
    imgloop.run([*given, "generations=5"])
    values, pictures, parameters = read(logger, folder)
    frame = pd.read_csv(folder / "metrics.csv")
    for column in set(frame) - {"generation", *SIZES}:
        logged = {s: v for (tag, s), v in values.items() if tag == f"measures/{column}"}
        expected = {t: [pytest.approx(v, rel=1e-5)] for t, v in zip(frame["generation"], frame[column]) if v == v}
        assert logged == expected, column
    assert not pictures and parameters["model"] == "gaussian"


# Settings


def test_a_logger_is_no_part_of_a_chain():
    usual = config.parsed([])
    for name in CHOICES:
        s = config.parsed([f"logger={name}"])
        assert (s.identity, s.condition, s.folder) == (usual.identity, usual.condition, usual.folder)
    assert usual.choices["logger"] == "none" and not usual.config["logger"]


@pytest.mark.parametrize(
    "overrides, name, what",
    [
        (["logger=comet"], "logger", "mlflow, none, tensorboard, wandb"),
        (["logger=wandb", "logger.projects=x"], "logger.projects", "did you mean project"),
        (["logger=wandb", "+logger.projects=x"], "logger.projects", "not a setting"),
        (["logger.offline=true"], "logger.offline", "not a setting"),
        (["logger=wandb", "logger.offline=7"], "logger.offline", "true or false"),
        (["logger=tensorboard", "logger._target_=os.abort"], "logger._target_", "cannot be overridden"),
        (["logger=[mlflow,tensorboard]"], "logger", "one option"),
    ],
)
def test_wrong_settings_are_refused(overrides, name, what):
    with pytest.raises(UserError, match=what) as error:
        config.parsed(overrides)
    assert error.value.setting == name


def test_a_damaged_record_of_runs_is_refused_by_name(tmp_path):
    folder = chain(tmp_path, "tensorboard", "generations=1").folder
    (folder / "logged.json").write_text("[")
    with pytest.raises(UserError, match=r"logged\.json .*delete it"):
        chain(tmp_path, "tensorboard", "generations=2")


def test_no_op_imports_nothing_for_a_logger(tmp_path):
    folder = chain(tmp_path, "tensorboard", "generations=1").folder
    arguments = [*SMALL, f"out={tmp_path}", "logger=tensorboard", "generations=1"]
    code = (
        f"import sys, imgloop; imgloop.run({arguments!r}); sys.exit('torch' in sys.modules or "
        "'tensorboard' in sys.modules)"
    )
    assert folder.exists() and subprocess.run([sys.executable, "-c", code]).returncode == 0
