"""Loggers: what each holds, read back by its own reader, is what the run folder holds, once; and no chain changes."""

import json
import math
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
from imgloop.study import tables as study
from imgloop.training.trainer import POINT, Keeper

SMALL = [*TINY, "train.images=6400"]  # 100 steps: two points of a loss curve
CHOICES = {  # settings of each logger; nothing leaves the machine
    "csv": [],
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


@pytest.fixture(params=CHOICES)
def logger(request):
    """The name of each logger whose package is installed."""
    if request.param in loggers.PACKAGES:
        package = loggers.PACKAGES[request.param]
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'imgloop[{request.param}]'")
    return request.param


def chain(out, name, *overrides):
    return imgloop.run([*SMALL, f"out={out}", f"logger={name}", *CHOICES.get(name, []), *overrides])


def hashes(folder):
    return [[store.read_json(g / "record.json")[h] for h in HASHES] for g in study.generations(folder)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Two generations with logger=none, in one sitting."""
    return imgloop.run([*SMALL, f"out={tmp_path_factory.mktemp('plain')}", "generations=2"])


def written(folder):
    """When each file was last written, but for those that every command touches."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".log" and not p.name.endswith(".lock")]
    return {p: p.stat().st_mtime_ns for p in files}


# Each logger's own reader: (values by (tag, step), in the order written; pictures as (name, step); hyperparameters)


def read_csv(folder):
    frame = pd.read_csv(folder / "csv" / "metrics.csv")
    values = {}
    for row in frame.to_dict("records"):
        for tag, value in row.items():
            if tag != "step" and not math.isnan(value):
                values.setdefault((tag, int(row["step"])), []).append(value)
    return values, None, yaml.safe_load((folder / "csv" / "hparams.yaml").read_text())


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
            return  # it is still being written
        whole += data[at - length : at]
        if kind in (1, 4):  # whole, or the last part of several
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def wandb_runs(folder):
    """The records of each run, once it is whole: wandb's finish() returns before its service has closed the file."""
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        deadline = time.monotonic() + 60
        records = []
        while not any(r.HasField("exit") for r in records):
            assert time.monotonic() < deadline, f"{path} never ended"
            time.sleep(0.05)
            records = list(wandb_records(path))
        yield records


def read_wandb(folder):
    values, pictures, told, runs = {}, [], {}, set()
    for records in wandb_runs(folder):
        for record in records:
            if record.HasField("run"):
                runs.add((record.run.run_id, record.run.project, record.run.run_group, record.run.display_name))
            for item in record.config.update:
                told[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            step = row.get("trainer/global_step")
            for name in ("samples", "evolution"):
                pictures += [(name, step)] if f"{name}/filenames" in row or name in row else []
            for tag, value in row.items():
                if tag.split("/")[0] in ("measures", "sizes", "seconds", "loss"):
                    values.setdefault((tag, step), []).append(value)
    assert len(runs) == 1, runs  # all sittings are one run
    assert runs.pop()[1:] == (folder.parents[1].name, folder.parent.name, f"{folder.parent.name}, {folder.name}")
    return values, sorted(pictures), told


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


def of_the_folder(folder):
    """What a logger ought to hold: metrics.csv and the loss curves, by (tag, step)."""
    values = {}
    for row in pd.read_csv(folder / "metrics.csv").to_dict("records"):
        values |= {(tag, int(row["generation"])): value for tag, value in tagged(row, "measures").items()}
    for t, generation in enumerate(study.generations(folder)):
        curve = store.read_json(generation / "loss.json")
        values |= {(f"loss/gen{t:03d}", images): loss for images, loss in curve}
    return values


def check(name, folder, evolutions=None):
    """All that the folder holds is in the logger, each value once, and nothing else is."""
    values, pictures, told = read(name, folder)
    assert {k: len(v) for k, v in values.items()} == dict.fromkeys(of_the_folder(folder), 1)
    for key, value in of_the_folder(folder).items():
        assert values[key][0] == pytest.approx(value, rel=1e-5), key  # metrics.csv has six digits
    generations = len(study.generations(folder))
    if pictures is not None:
        expected = [("evolution", t) for t in (evolutions or [generations - 1])]
        assert pictures == sorted(expected + [("samples", t) for t in range(generations)])
    assert str(told["seed"]) == "0" and told["condition"] == folder.parent.name and told["model"] == "diffusion"
    assert str(told["model.batch"]) == "64" and str(told["train.images"]) == "6400"
    assert not any(k.startswith("logger") or k.endswith("_target_") for k in told)


# What every logger does


def test_it_holds_what_the_run_folder_holds_over_several_sittings(logger, plain, tmp_path):
    """A chain begun, extended, and run again when it is finished: one run, every value once, no bit changed."""
    folder = chain(tmp_path, logger, "generations=1").folder
    check(logger, folder)
    chain(tmp_path, logger, "generations=2")
    check(logger, folder, evolutions=[0, 1])
    before = written(tmp_path)
    chain(tmp_path, logger, "generations=2")
    assert written(tmp_path) == before
    assert hashes(folder) == hashes(plain.folder)


def test_interrupted_in_a_generation_it_goes_on_where_it_stood(logger, plain, tmp_path, monkeypatch):
    """The points sent before the interruption are not sent again, those after it are not missing."""
    ended = Keeper.on_train_batch_end

    def stopping(self, trainer, module, outputs, batch, index):
        if self.task.t == 1 and batch[1] > 80:
            object.__setattr__(self.task, "stop", lambda: True)
        ended(self, trainer, module, outputs, batch, index)

    often = ["generations=2", "trainer.checkpoint_seconds=0.001"]
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Keeper, "on_train_batch_end", stopping)
        chain(tmp_path, logger, *often)
    folder = next(tmp_path.glob("digits-diffusion/*/seed0"))
    values = read(logger, folder)[0]
    assert [s for tag, s in values if tag == "loss/gen001"] == [4096]  # live, before the generation is there
    assert max(step for tag, step in values if tag == "measures/fd") == 0
    chain(tmp_path, logger, *often)
    check(logger, folder)
    assert hashes(folder) == hashes(plain.folder)
    for a, b in zip(study.generations(folder), study.generations(plain.folder)):
        assert store.read_json(a / "loss.json") == store.read_json(b / "loss.json")


def test_a_chain_takes_up_a_logger_late_and_trains_nothing(logger, plain, tmp_path, monkeypatch):
    """A finished chain, run again with a logger, is logged from its folder."""
    out = tmp_path / "out"
    shutil.copytree(plain.folder.parents[2], out)
    monkeypatch.setattr(Keeper, "__init__", lambda *a: pytest.fail("it trains"))
    check(logger, chain(out, logger, "generations=2").folder)


def test_a_missing_package_is_told_before_anything_is_done(logger, tmp_path, monkeypatch):
    if logger not in loggers.PACKAGES:
        pytest.skip("it is Lightning's own")
    monkeypatch.setitem(sys.modules, loggers.PACKAGES[logger], None)
    with pytest.raises(UserError, match=rf"logger={logger} needs .*pip install 'imgloop\[{logger}\]'"):
        chain(tmp_path, logger)
    assert not list(tmp_path.rglob("*seed0*"))


# What holds for any


def test_the_loss_curve_is_kept_with_each_generation(plain):
    for generation in study.generations(plain.folder):
        curve = store.read_json(generation / "loss.json")
        assert [images for images, _ in curve] == [64 * 64, 6400]  # the first chunk's end after POINT steps; the end
        assert 64 >= POINT and 0.2 < curve[1][1] < curve[0][1] < 2


def test_chains_that_share_generation_0_both_show_its_loss(tmp_path):
    folders = [chain(tmp_path, "csv", "generations=1", p).folder for p in ("paradigm=replace", "paradigm=real_only")]
    assert len(list((tmp_path / "digits-diffusion" / "shared").glob("generation0-*"))) == 1
    first, second = (read_csv(f)[0] for f in folders)
    assert first["loss/gen000", 6400] == second["loss/gen000", 6400]


def test_a_chain_changes_its_logger(plain, tmp_path):
    folder = chain(tmp_path, "csv", "generations=1").folder
    before = (folder / "csv" / "metrics.csv").read_text()
    chain(tmp_path, "tensorboard", "generations=2")
    check("tensorboard", folder)
    assert (folder / "csv" / "metrics.csv").read_text() == before
    chain(tmp_path, "none", "generations=2")
    chain(tmp_path, "csv", "generations=2")
    check("csv", folder)
    assert hashes(folder) == hashes(plain.folder)
    assert "logger" not in (folder / "config.yaml").read_text()
    assert store.read_json(folder / "logged.json").keys() == {"csv", "tensorboard"}


def test_chains_of_one_process_are_runs_of_their_own(tmp_path):
    """As a multirun's are; wandb's library would go on in the first one's run."""
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'imgloop[wandb]'")
    for seed in (0, 1):
        folder = chain(tmp_path, "wandb", "generations=1", f"seed={seed}").folder
        values, _, told = read_wandb(folder)
        assert told["seed"] == seed and values["measures/fd", 0] == [
            pytest.approx(pd.read_csv(folder / "metrics.csv")["fd"][0], rel=1e-5)
        ]


def test_overwrite_begins_another_run(tmp_path):
    folder = chain(tmp_path, "tensorboard", "generations=2").folder
    chain(tmp_path, "tensorboard", "generations=1", "overwrite=true")
    check("tensorboard", folder)


def test_a_logger_that_fails_stops_no_training_and_is_told(plain, tmp_path, monkeypatch, capsys):
    def away(self, values, t):
        raise ConnectionError("no route to host")

    with monkeypatch.context() as patch:
        patch.setattr(loggers.TensorBoard, "row", away)
        with pytest.raises(UserError, match=r"no route to host.*The chain is whole; the same command sends"):
            chain(tmp_path, "tensorboard", "generations=2")
    assert "logger=tensorboard failed, and is tried again later: no route" in capsys.readouterr().out
    folder = next(tmp_path.glob("digits-diffusion/*/seed0"))
    assert hashes(folder) == hashes(plain.folder) and (folder / "metrics.csv").exists()
    chain(tmp_path, "tensorboard", "generations=2")
    values = read_tensorboard(folder)[0]
    assert {k: v[-1] for k, v in values.items()} == pytest.approx(of_the_folder(folder), rel=1e-5)


def test_a_logger_that_cannot_begin_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(loggers.TensorBoard, "begin", lambda *a: 1 / 0)
    with pytest.raises(UserError, match="logger=tensorboard could not begin: division by zero"):
        chain(tmp_path, "tensorboard")
    assert not list(tmp_path.rglob("gen000"))


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
    values, pictures, told = read(logger, folder)
    frame = pd.read_csv(folder / "metrics.csv")
    for column in set(frame) - {"generation", *SIZES}:
        logged = {s: v for (tag, s), v in values.items() if tag == f"measures/{column}"}
        expected = {t: [pytest.approx(v, rel=1e-5)] for t, v in zip(frame["generation"], frame[column]) if v == v}
        assert logged == expected, column
    assert not pictures and told["model"] == "gaussian"


# Settings


def test_a_logger_is_no_part_of_a_chain():
    usual = config.parsed([])
    for name in CHOICES:
        s = config.parsed([f"logger={name}"])
        assert (s.identity, s.condition, s.folder) == (usual.identity, usual.condition, usual.folder)
    assert usual.choices["logger"] == "none" and not usual.config["logger"]


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["logger=comet"], "logger=comet does not exist: choose one of csv, mlflow, none, tensorboard, wandb"),
        (["logger=wandb", "logger.projects=x"], "did you mean project"),
        (["logger=wandb", "+logger.projects=x"], "logger.projects is not a setting of logger=wandb"),
        (["logger.offline=true"], "logger.offline is not a setting"),
        (["logger=wandb", "logger.offline=7"], "logger.offline=7: give true or false"),
        (["logger=csv", "logger._target_=os.abort"], "names code and is no setting"),
        (["logger=[csv,tensorboard]"], "logger takes one option"),
    ],
)
def test_wrong_settings_are_refused(overrides, said):
    with pytest.raises(UserError) as e:
        config.parsed(overrides)
    assert said in str(e.value)


def test_a_damaged_record_of_runs_is_named(plain, tmp_path):
    folder = chain(tmp_path, "csv", "generations=1").folder
    (folder / "logged.json").write_text("[")
    with pytest.raises(UserError, match=r"logged\.json .*delete it to log the chain as new runs"):
        chain(tmp_path, "csv", "generations=2")


def test_no_op_imports_nothing_for_a_logger(tmp_path):
    folder = chain(tmp_path, "tensorboard", "generations=1").folder
    arguments = [*SMALL, f"out={tmp_path}", "logger=tensorboard", "generations=1"]
    code = (
        f"import sys, imgloop; imgloop.run({arguments!r}); sys.exit('torch' in sys.modules or "
        "'tensorboard' in sys.modules)"
    )
    assert folder.exists() and subprocess.run([sys.executable, "-c", code]).returncode == 0
