"""Generalisation score and entropy of the training mix: closed forms, and the values that chains record."""

import numpy as np
import pandas as pd
import pytest
from conftest import TINY

import imgloop
from imgloop import store
from imgloop.data.digits import Digits
from imgloop.measure import measure
from imgloop.metrics import memorisation
from imgloop.metrics.evaluator import Evaluator
from imgloop.metrics.features import pixels
from imgloop.metrics.memorisation import generalisation_score, knn_entropy, mix_features
from imgloop.pool import REAL, Mix, Pool, TrainingSet


def normal(seed, n, d):
    return np.random.default_rng(seed).standard_normal((n, d))


@pytest.mark.parametrize("d, scale", [(1, 1.0), (2, 3.0), (5, 0.2)])
@pytest.mark.parametrize("k", [1, 5])
def test_entropy_of_a_gaussian(d, scale, k):
    exact = d / 2 * np.log(2 * np.pi * np.e) + d * np.log(scale)
    assert knn_entropy(scale * normal(0, 4000, d), k) == pytest.approx(exact, abs=0.12)


def test_entropy_of_a_uniform_law_and_of_copies():
    assert knn_entropy(np.random.default_rng(1).random((5000, 2)) * 4) == pytest.approx(np.log(16), abs=0.08)
    x = normal(2, 50, 3)
    assert knn_entropy(np.concatenate([x, x[:1]])) is None
    assert knn_entropy(x + 100) == pytest.approx(knn_entropy(x), abs=1e-9)


def test_the_score_is_the_mean_distance_to_the_nearest_training_row():
    x, y = normal(3, 40, 4), normal(4, 60, 4)
    expected = np.linalg.norm(x[:, None] - y, axis=2).min(1).mean()
    assert generalisation_score(x, y) == pytest.approx(expected, rel=1e-6)
    assert generalisation_score(y[:7], y) == 0


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    real = Digits().load(folder)
    return Evaluator(pixels(real, folder, "cpu"), real, folder / "cache")


def mix_of(*parts):
    origin, row = (np.concatenate(a)[:, None] for a in zip(*((np.full(len(r), o), r) for o, r in parts)))
    return Mix(origin, row)


def test_features_of_a_mix_are_those_of_its_distinct_images(evaluator, monkeypatch):
    real, drawn = evaluator.real.train, Pool(evaluator.real.heldout.x[:30])
    data = TrainingSet({REAL: real, 0: drawn}, mix_of((REAL, np.arange(5, 20)), (0, np.arange(10)), (0, np.arange(3))))
    out = mix_features(data, evaluator.extractor, evaluator.train.features, False, 0)
    expected = evaluator.extractor(np.concatenate([real.x[5:20], drawn.x[:10]])).x
    assert np.array_equal(np.sort(out, 0), np.sort(expected, 0))
    both = mix_features(data, evaluator.extractor, evaluator.train.features, True, 0)
    assert len(both) == 50 and np.array_equal(both[:25], out)
    monkeypatch.setattr(memorisation, "ROWS", 8)
    assert len(mix_features(data, evaluator.extractor, evaluator.train.features, False, 0)) == 8


def test_a_memorising_generator_reads_0_and_fresh_images_their_null(evaluator):
    half = np.arange(len(evaluator.real.train) // 2)
    data = TrainingSet({REAL: evaluator.real.train}, mix_of((REAL, half)))
    copies = evaluator(Pool(evaluator.real.train.x[:200]), training=data)
    fresh = evaluator(Pool(evaluator.real.train.x[len(half) :]), training=data)
    null = fresh.notes["null"]
    assert copies.values["generalisation"] == 0 < null["generalisation"]
    assert fresh.values["generalisation"] == pytest.approx(null["generalisation"], rel=0.05)
    assert fresh.values["mix_entropy"] == pytest.approx(null["mix_entropy"], abs=1.0)  # in 64 dimensions
    assert evaluator(Pool(evaluator.real.train.x[:200])).values["generalisation"] is None


def test_a_chain_records_both_and_measuring_again_finds_the_same(tmp_path):
    result = imgloop.run([*TINY, "paradigm=accumulate", "generations=3", f"out={tmp_path}"])
    table = result.metrics
    assert table[["generalisation", "mix_entropy"]].notna().all().all()
    name = measure(result.folder, ["features=pixels"], again=True)
    again = pd.read_csv(result.folder / "metrics.csv")
    for column in ("generalisation", "mix_entropy"):
        assert table[column].to_numpy() == pytest.approx(again[column].to_numpy(), rel=1e-5)  # rounded in the file
    null = store.read_json(result.folder / "gen000" / "scores" / f"{name}.json")["notes"]["null"]
    assert null["generalisation"] > 0 and null["mix_entropy"] == pytest.approx(table["mix_entropy"][0])  # R itself
