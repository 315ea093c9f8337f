"""One chain on several devices: results, resuming, faults and refusals, with two processes on a CPU."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch.multiprocessing
from safetensors.numpy import load_file

import imgloop
from imgloop import devices, ranks, store
from imgloop.config.settings import parsed
from imgloop.metrics.features import Extractor, Random
from imgloop.models import load
from imgloop.pool import Pool

TINY = (
    "data.n=300 data.heldout=100 n_samples=300 train.images=640 model.batch=32 features=pixels threads=1 display=none"
).split()
MODELS = {
    "diffusion": ["model.widths=[8,8]", "model.sampler_steps=1"],
    # few steps: after twenty, one thread and two differ by 30 grey levels, since Adam divides small gradients by themselves
    "gan": ["model=gan", "train.images=64"],
}


def chain(out: Path) -> Path:
    (folder,) = out.glob("*/*/seed0")
    return folder


@pytest.mark.nightly  # a process a device
@pytest.mark.parametrize("model", ["diffusion", "gan"])
def test_two_devices_give_the_results_of_one_to_rounding(tmp_path, model):
    for count in (1, 2):
        settings = [
            *TINY,
            *MODELS[model],
            "generations=2",
            f"trainer.devices={count}",
            f"out={tmp_path / str(count)}",
        ]
        imgloop.run(settings)
    one, two = (chain(tmp_path / str(count)) for count in (1, 2))
    for generation in ("gen000", "gen001"):
        a, b = (load_file(f / generation / "pool.safetensors")["x"].astype(int) for f in (one, two))
        assert np.abs(a - b).max() <= 2 and (a != b).mean() < 0.02
        a, b = (load_file(f / generation / "mix.safetensors") for f in (one, two))
        assert (a["origin"] == b["origin"]).all() and (a["row"] == b["row"]).all()
    a, b = (pandas.read_csv(f / "metrics.csv").set_index("generation")["fd"] for f in (one, two))
    np.testing.assert_allclose(a, b, rtol=0.01)
    a, b = (store.read_json(f / "gen001" / "record.json") for f in (one, two))
    assert "number of devices" not in a["machine"] and b["machine"]["number of devices"] == 2


@pytest.mark.nightly
def test_a_resumed_chain_says_that_the_number_of_devices_changed(tmp_path):
    settings = [*TINY, *MODELS["diffusion"], "train.images=64", f"out={tmp_path}"]
    imgloop.run([*settings, "generations=1", "trainer.devices=2"])
    imgloop.run([*settings, "generations=2"])
    assert "resumed with another number of devices (2, now 1)" in " ".join(
        (chain(tmp_path) / "run.log").read_text().split()
    )


def share(rank: int, folder: str) -> None:
    with ranks.joined(ranks.World(rank, 2, rank, 2), "cpu", f"file://{folder}/meeting"):
        save(folder, str(rank))


def save(folder: str, name: str) -> None:
    """Samples, features and losses of a saved model."""
    generator = load(Path(folder) / "model", "cpu")
    pool = generator.sample(600, seed=3)
    features = Extractor("random", Random(1, 8), chunk=128)(pool.x)
    np.savez(f"{folder}/{name}.npz", x=pool.x, features=features.x, risk=generator.risk(Pool(pool.x[:300]), 5))


@pytest.mark.nightly
def test_samples_features_and_losses_do_not_depend_on_the_number_of_processes(tmp_path):
    imgloop.run([*TINY, *MODELS["diffusion"], "train.images=64", "generations=1", f"out={tmp_path}"])
    (chain(tmp_path) / "gen000" / "model").rename(tmp_path / "model")
    save(str(tmp_path), "alone")
    torch.multiprocessing.spawn(share, (str(tmp_path),), nprocs=2)
    alone, *both = (np.load(tmp_path / f"{name}.npz") for name in ("alone", "0", "1"))
    for of_rank in both:
        for key in ("x", "risk"):
            np.testing.assert_array_equal(of_rank[key], alone[key])


def command(*settings: str) -> list[str]:
    return [sys.executable, "-m", "imgloop", *settings]


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(p) for p in found.split()]


@pytest.mark.nightly
@pytest.mark.parametrize("fault", ["kill the second", "terminate", "kill the first"])
def test_a_fault_in_training_costs_nothing_but_time(tmp_path, fault):
    long = [*TINY, *MODELS["diffusion"], "train.images=20000", "generations=1", "trainer.devices=2"]
    long += ["trainer.checkpoint_seconds=0.1"]
    process = subprocess.Popen(command(*long, f"out={tmp_path / 'a'}"), stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "a").glob("*/shared/.generation0*/checkpoint.pt")):
        assert process.poll() is None
        time.sleep(0.05)
    (second,) = children(process.pid)
    if fault == "terminate":
        process.terminate()
    else:
        os.kill(second if fault == "kill the second" else process.pid, signal.SIGKILL)
    error = process.communicate(timeout=120)[1]
    if fault == "kill the second":
        assert process.returncode == 1 and "process 1 of 2 ended with status -9" in error and "Traceback" not in error
    if fault == "terminate":
        assert process.returncode == 143 and "the same command continues" in error
    for _ in range(600):
        if not Path(f"/proc/{second}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{second}").exists()
    for out in ("a", "b"):
        subprocess.run(command(*long, f"out={tmp_path / out}"), check=True, timeout=300)
    a, b = (load_file(chain(tmp_path / out) / "gen000" / "pool.safetensors")["x"] for out in ("a", "b"))
    assert (a == b).all()


@pytest.mark.nightly
def test_torchrun_starts_the_processes_of_a_chain(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "imgloop"]
    settings = [*TINY, *MODELS["diffusion"], "train.images=64", "generations=2"]
    wrong = subprocess.run([*torchrun, *settings, f"out={tmp_path / 'a'}"], capture_output=True, text=True)
    assert wrong.returncode != 0 and "give trainer.devices=2 trainer.nodes=1" in wrong.stderr
    assert not (tmp_path / "a").exists()
    right = [*torchrun, *settings, "trainer.devices=2", f"out={tmp_path / 'a'}"]
    subprocess.run(right, check=True, timeout=300)
    imgloop.run([*settings, "trainer.devices=2", f"out={tmp_path / 'b'}"])
    a, b = (load_file(chain(tmp_path / out) / "gen001" / "pool.safetensors")["x"] for out in ("a", "b"))
    assert (a == b).all()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["trainer.devices=4096"], "give at most that many"),
        (["trainer.devices=2", "trainer.nodes=2"], "torchrun --nnodes 2 --nproc-per-node 2"),
        ([*TINY, "trainer.devices=2", "model.batch=33"], "model.batch=33 cannot be divided among 2 devices"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_is_trained(tmp_path, settings, sentence):
    with pytest.raises(imgloop.UserError, match=sentence):
        imgloop.run([*settings, f"out={tmp_path / 'out'}"])
    assert not list(tmp_path.glob("out/*"))


def test_a_model_whose_training_does_not_share_a_batch_is_refused():
    settings = parsed([*TINY, "trainer.devices=2"])
    own = replace(settings, choices=settings.choices | {"model": "own"})
    with pytest.raises(imgloop.UserError, match="model=own is not trained on several devices"):
        devices.run(own)


@pytest.mark.parametrize("launcher", ["joblib", "parallel", "ray", "submitit_slurm"])
def test_a_launcher_that_gives_each_chain_one_device_is_refused(launcher):
    settings = parsed(["trainer.devices=2"])
    devices.check_launcher(settings, "basic")
    devices.check_launcher(parsed(), launcher)
    with pytest.raises(imgloop.UserError, match=f"hydra/launcher={launcher} gives each chain one"):
        devices.check_launcher(settings, launcher)


def test_a_batch_is_divided_without_gap_or_overlap(monkeypatch):
    for size in (1, 2, 3, 5):
        found, blocks = [], []
        for rank in range(size):
            monkeypatch.setattr(ranks, "_world", [ranks.World(rank, size)])
            found += list(range(*ranks.rows(17).indices(17)))
            blocks += list(ranks.turns(17, 4))
        assert found == list(range(17)) and sorted(blocks) == [0, 4, 8, 12, 16]
