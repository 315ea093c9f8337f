"""scripts/ladder.py: what it is asked and keeps; scripts/ladder_trials.py: changes of the recipe that only it makes."""

import ladder
import ladder_trials
import numpy as np
import pandas as pd
import pytest
import torch

from imgloop import store
from imgloop.models import networks
from imgloop.models.diffusion import Diffusion
from imgloop.models.objectives import Flow
from imgloop.pool import REAL, Mix, Pool, TrainingSet
from imgloop.training.batches import Batches
from imgloop.training.tasks import Task

N = 64


@pytest.fixture
def training():
    x = np.random.default_rng(0).integers(0, 256, (N, 1, 8, 8), np.uint8)
    rows = np.arange(N)[:, None]
    return TrainingSet({REAL: Pool(x, np.arange(N) % 10)}, Mix(np.full((N, 1), REAL), rows))


def test_stratified_levels_have_one_in_each_quantile():
    flow, g = Flow(mean=-0.5), torch.Generator().manual_seed(0)
    like = {"generator": g, "device": torch.device("cpu"), "dtype": torch.float32}
    with ladder_trials.made("stratified"):
        levels = flow.levels(1000, like)
    quantiles = torch.special.ndtr(torch.logit(levels) + 0.5)
    assert ((quantiles * 1000).long() == torch.arange(1000)).float().mean() > 0.99
    assert not (flow.levels(1000, like).diff() > 0).all()  # only within the trial


def test_transport_pairs_the_same_images_with_nearer_noise(training):
    settings = (training, 3, 1, 32, "cpu", 0, True)
    (x, y), (moved, labels) = Batches(*settings)(5), ladder_trials.Transported(*settings)(5)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(store.seed_of(3, 1, "noise", 5)))
    assert (moved - noise).square().sum() < (x - noise).square().sum()
    order = torch.cdist(moved.flatten(1), x.flatten(1)).argmin(1)
    assert sorted(order.tolist()) == list(range(32)) and torch.equal(moved, x[order]) and torch.equal(labels, y[order])


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--rungs", "Muon", "Muno"], "--rungs 'Muno' is no rung: choose among '0.1.0'"),
        (["--data", "conditional", "--rungs", "last, guidance 2"], "name that as well, such as 'a tenth of labels"),
        (["--data", "shapes"], "--data shapes: with --model diffusion choose among digits"),
    ],
)
def test_rungs_that_do_not_exist_are_refused(arguments, words, capsys):
    with pytest.raises(SystemExit):
        ladder.main(arguments)
    assert words in capsys.readouterr().err


def test_results_are_kept_beside_earlier_ones(tmp_path):
    def rows(rung, *fd):
        same = {"data": "digits", "rung": rung, "seconds": 25.0, "images": 640}
        return pd.DataFrame([same | {"seed": k, "fd": x} for k, x in enumerate(fd)])

    path = tmp_path / "results.csv"
    for given in (rows("Muon", 1.0, 2.0), rows("patches", 3.0), rows("Muon", 1.5)):
        ladder.kept(given, path)
    table = pd.read_csv(path)
    assert sorted(zip(table["rung"], table["seed"], table["fd"])) == [
        ("Muon", 0, 1.5),
        ("Muon", 1, 2.0),
        ("patches", 0, 3.0),
    ]


@pytest.mark.parametrize("trial", ladder_trials.TRIALS)
def test_a_trial_changes_what_is_trained(training, trial, tmp_path):
    def sampled(name):
        task = Task(0, 0, 256, "scratch", tmp_path / name)
        return Diffusion(batch=32, network="patch").fit(training, task, None).sample(4, seed=0).x

    whole, plain = networks.PatchUNet, sampled("plain")
    with ladder_trials.made(trial):
        changed = sampled("changed")
    assert not np.array_equal(plain, changed) and networks.PatchUNet is whole
