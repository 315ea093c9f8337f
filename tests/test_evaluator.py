"""The evaluator: one extraction pass for all scores; what is computed of the real data is stored by content."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from imgloop import store
from imgloop.data.digits import Digits
from imgloop.data.real import RealData
from imgloop.data.shapes import Shapes
from imgloop.data.stacked import StackedDigits
from imgloop.measures import SCORES
from imgloop.metrics import evaluator as module
from imgloop.metrics import features as extractors
from imgloop.metrics.evaluator import Evaluator
from imgloop.metrics.features import Extractor
from imgloop.metrics.manifold import RealManifold, manifold_scores
from imgloop.metrics.modes import mode_coverage
from imgloop.metrics.tails import RealTails, tail_scores
from imgloop.metrics.vendi import vendi_score
from imgloop.pool import Pool

TAILS = ("tail_mass", "off_support", "ambiguity", "tail_risk")


class Nearest(nn.Module):
    """Classifies by the nearest mean training image; with three channels, each digit of the label by its channel."""

    def __init__(self, real, channels=1):
        super().__init__()
        x, y = (torch.from_numpy(np.array(a)) for a in (real.train.x, real.train.y))
        x, y = x[:, :1].float() / 127.5 - 1, y // 10 ** (channels - 1) % 10
        self.means: torch.Tensor
        self.register_buffer("means", torch.stack([x[y == c].mean(0).flatten() for c in range(10)]))
        self.channels = channels

    def forward(self, x):
        parts = [-torch.cdist(c.flatten(1), self.means) for c in x.split(1, dim=1)]
        return x.flatten(1), parts[0] if self.channels == 1 else torch.stack(parts, 1)


class Neighbour(Nearest):
    """Classifies by the nearest training image."""

    def __init__(self, real):
        super().__init__(real)
        self.images = torch.from_numpy(np.array(real.train.x)).flatten(1) / 127.5 - 1
        self.classes = torch.from_numpy(np.array(real.train.y))

    def forward(self, x):
        distances = torch.cdist(x.flatten(1), self.images)
        return x.flatten(1), -torch.stack([distances[:, self.classes == c].amin(1) for c in range(10)], 1)


class WithRisk:
    """A generator whose loss on an image is the image's brightness, at two levels."""

    def risk(self, pool, seed):
        bright = np.asarray(pool.x).mean((1, 2, 3)) / 255
        return np.stack([bright, 3 * bright], 1)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Any:
    return Digits().load(tmp_path_factory.mktemp("digits"))


def build(real: Any, cache, extractor=None) -> Any:
    return Evaluator(extractor or Extractor("nearest", Nearest(real)), real, cache)


@pytest.fixture(scope="module")
def evaluator(digits, tmp_path_factory):
    return build(digits, tmp_path_factory.mktemp("cache"))


def changed_data(real, **changes) -> Any:
    return RealData(**{**vars(real), **changes})


def test_every_score_is_that_of_the_public_function(evaluator, digits):
    pool = Pool(digits.train.x[::2])
    got = evaluator(pool, WithRisk())
    x, held = evaluator.extractor(pool.x), evaluator.heldout
    tails = tail_scores(RealTails.of(held, centroids=evaluator.tails.centroids), x.x)
    manifold = manifold_scores(held, x.x, 5, k_precision=3, train=evaluator.train)
    modes = mode_coverage(evaluator.class_shares, np.bincount(x.labels, minlength=10), confusion=evaluator.confusion)
    expected = {
        **{n: getattr(tails, n) for n in ("tail_mass", "off_support", "ambiguity")},
        **vars(manifold),
        "vendi": vendi_score(x.x),
        "modes_covered": modes.covered,
        "modes_present": modes.present,
        "mode_share_min": modes.smallest,
    }
    assert {n: got.values[n] for n in expected} == expected and set(got.values) == set(SCORES)
    assert got.values["authenticity"] == 0  # these are training images
    unknown = {"rule_violations", "generalisation", "mix_entropy"}  # without what the generator was trained on
    assert {n for n in SCORES if got.values[n] is None} == unknown


def test_each_null_stands_in_the_notes(evaluator, digits):
    null: dict[str, Any] = evaluator(digits.train).notes["null"]
    assert null["off_support"] == null["ambiguity"] == 10 / 201 == null["zone_rate"]
    assert (null["density"], null["tail_mass"]) == (1, 1) and 0.2 < null["tail_mass_sd"] < 0.4
    own: Any = manifold_scores(evaluator.heldout, evaluator.heldout, train=evaluator.train).authenticity
    assert null["authenticity"] == own == evaluator.reference["authenticity"] and 0.3 < own < 0.9
    assert null["kd"] == 0 and null["variance_ratio"] == 1
    assert null["modes_covered"] == 10 and 0.5 < null["mode_share_min"] < 1
    assert {c: null[c] for c in ("precision", "recall")} == evaluator.reference["halves"]
    notes = evaluator(Pool(255 - np.asarray(digits.train.x[:300]))).notes  # negatives: far from every digit
    assert notes["off_support_p"] < 1e-10 and 0 <= notes["ambiguity_p"] <= 1


def test_fresh_real_images_score_like_a_perfect_generator(digits, tmp_path):
    """Images that are in neither the training set nor the held-out set have the scores that the nulls predict."""
    fresh = Pool(digits.train.x[:400], digits.train.y[:400])
    rest = changed_data(digits, train=Pool(digits.train.x[400:], digits.train.y[400:]))
    got = build(rest, tmp_path)(fresh)
    null = got.notes["null"]
    assert got.notes["off_support_p"] > 0.01 and got.notes["ambiguity_p"] > 0.01
    assert abs(got.values["tail_mass"] - 1) < 3 * null["tail_mass_sd"]
    assert got.values["authenticity"] == pytest.approx(null["authenticity"], abs=0.1)
    assert got.values["vendi"] == pytest.approx(null["vendi"], rel=0.05)
    assert got.values["modes_present"] == 10 and got.values["mode_share_min"] > 0.5
    assert got.notes["variance_within_classes"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("features", ["neighbour", "random"])
def test_a_perfect_generator_of_flipped_images_reads_its_null_values(digits, tmp_path, features):
    """Fresh images, mirrored at random, score as the nulls predict; unmirrored ones do not, and neither do mirrored ones
    against the plain data: digits have an orientation."""
    x, y = np.asarray(digits.train.x), digits.train.y
    data = changed_data(digits, train=Pool(x[400:], y[400:]))
    flip = np.random.default_rng(5).random(400) < 0.5
    perfect = Pool(np.where(flip[:, None, None, None], x[:400, ..., ::-1], x[:400]), y[:400])
    mirrored = data.mirrored()
    scored: dict[str, Any] = {}
    for name, real in (("flipped", mirrored), ("plain", data)):
        classifier = Extractor("neighbour", Neighbour(real))
        random = extractors.random(real, tmp_path, "cpu")
        scored[name] = build(real, tmp_path, classifier if features == "neighbour" else random)
    evaluator = scored["flipped"]
    got = evaluator(perfect, WithRisk())
    null = got.notes["null"]
    assert evaluator.protocol["flipped"] is True and "flipped" not in scored["plain"].protocol
    assert evaluator.protocol_name != scored["plain"].protocol_name
    assert got.notes["off_support_p"] > 0.01 and got.notes["ambiguity_p"] > 0.01
    assert abs(got.values["tail_mass"] - 1) < 3 * null["tail_mass_sd"]
    for name, tolerance in {"density": 0.1, "coverage": 0.05, "authenticity": 0.1, "variance_ratio": 0.1}.items():
        assert got.values[name] == pytest.approx(null[name], abs=tolerance), name
    assert abs(got.values["kd"]) < 3 * got.values["kd_sem"]
    assert got.values["fd"] < 2 * evaluator.reference["fd"]
    assert got.values["vendi"] == pytest.approx(null["vendi"], rel=0.05)
    assert got.values["risk"] == pytest.approx(WithRisk().risk(data.heldout, 0).mean())  # brightness has no orientation
    if features == "neighbour":
        assert got.values["modes_present"] == 10 and got.values["mode_share_min"] > 0.5 * null["mode_share_min"]
    for wrong in (evaluator(Pool(x[:400], y[:400])), scored["plain"](perfect)):
        assert wrong.values["fd"] > 1.5 * got.values["fd"] and wrong.values["kd"] > 3 * wrong.values["kd_sem"]


def test_copies_of_training_images_in_either_orientation_are_copies(digits, tmp_path):
    evaluator = build(digits.mirrored(), tmp_path)
    x = np.asarray(digits.train.x[:300])
    assert [evaluator(Pool(images)).values["authenticity"] for images in (x, x[..., ::-1])] == [0, 0]


def test_tail_risk_is_the_loss_of_the_rarest_tenth(evaluator, digits):
    got = evaluator(digits.train, WithRisk())
    risk = WithRisk().risk(digits.heldout, 0)
    d = np.sort(np.linalg.norm(evaluator.heldout[:, None].astype(float) - evaluator.heldout, axis=2), 1)[:, 5]
    rarest = np.argsort(-d)[:40]
    assert got.values["tail_risk"] == pytest.approx(risk[rarest].mean(), rel=1e-9)
    assert got.values["risk"] == pytest.approx(risk.mean()) != got.values["tail_risk"]
    assert got.notes["tail_risk_images"] == 40 and "risk_rare_classes" not in got.notes
    assert evaluator(digits.train).values["tail_risk"] is None


def test_rare_classes_have_a_risk_of_their_own(tmp_path):
    real: Any = Digits(imbalance=30).load(tmp_path)
    got = build(real, tmp_path / "cache")(real.heldout, WithRisk())
    counts = np.bincount(real.train.y, minlength=10)
    rare = [int(c) for c in got.notes["rare_classes"]]
    assert counts[rare].sum() <= 0.1 * counts.sum() and set(counts[rare]) < set(np.sort(counts)[: len(rare) + 1])
    of_rare = WithRisk().risk(real.heldout, 0)[np.isin(real.heldout.y, rare)].mean()
    assert got.notes["risk_rare_classes"] == pytest.approx(of_rare)


def test_with_few_held_out_images_tail_columns_stay_empty_with_the_reason(digits, tmp_path):
    few = changed_data(digits, heldout=Pool(digits.heldout.x[:199], digits.heldout.y[:199]))
    got = build(few, tmp_path)(digits.train, WithRisk())
    for name in TAILS:
        assert got.values[name] is None and "199 held-out" in got.notes[name]
    assert got.values["risk"] > 0 and got.values["authenticity"] == 0 and got.values["recall"] is not None
    assert "tail_mass" not in got.notes["null"]
    flat = changed_data(
        digits, heldout=Pool(np.repeat(digits.heldout.x[:10], 40, 0), np.repeat(digits.heldout.y[:10], 40))
    )
    got = build(flat, tmp_path / "flat")(digits.train)  # every distance is 0: there is no tail
    assert got.values["tail_mass"] is None and "too few values" in got.notes["tail_mass"]


def test_data_without_classes_are_counted_in_bins(digits, tmp_path):
    bare = changed_data(digits, train=Pool(digits.train.x), heldout=Pool(digits.heldout.x), classes=None)
    evaluator = build(bare, tmp_path, extractors.pixels(bare, tmp_path, "cpu"))
    half = evaluator(Pool(digits.train.x[digits.train.y < 5]))
    whole = evaluator(Pool(digits.train.x))
    assert whole.values["modes_covered"] == whole.notes["bins"]["bins"] == 20 and abs(whole.values["mode_kl"]) < 0.05
    assert half.values["modes_covered"] < 14 and half.values["mode_kl"] > 0.2 and half.values["mode_share_min"] < 0.1
    assert half.values["ambiguity"] is None and "no classes" in half.notes["ambiguity"]
    labelled = build(digits, tmp_path, extractors.pixels(digits, tmp_path, "cpu"))(digits.train)
    assert labelled.values["modes_covered"] is None and "does not classify" in labelled.notes["modes_covered"]
    assert labelled.values["ambiguity"] is not None  # the classes are the data's, not the extractor's


@pytest.mark.nightly
def test_stacked_digits_are_read_channel_by_channel(tmp_path):
    real: Any = StackedDigits(n=4000, heldout=600).load(tmp_path)
    evaluator = build(real, tmp_path / "cache", Extractor("nearest", Nearest(real, 3)))
    assert [r.shape for r in evaluator.confusion.rates] == [(1, 10, 10)] * 3 and evaluator.confusion.modes == 1000
    true = np.stack([real.heldout.y // 100, real.heldout.y // 10 % 10, real.heldout.y % 10])
    for c, digit in zip(evaluator.confusion.counts, true):
        np.testing.assert_array_equal(c.sum(1), np.bincount(digit, minlength=10))
        assert c.trace() > 0.8 * c.sum()
    assert set(evaluator.class_shares) == {0.001}
    got = evaluator(real.train)
    assert got.values["modes_covered"] is None and "99,030" in got.notes["modes_covered"]
    one = evaluator(Pool(real.train.x[real.train.y // 100 == 3]))
    assert one.values["modes_present"] <= 100 < one.notes["modes_hit"] < got.notes["modes_hit"]


# What is computed once, and under which key it is stored


def folders(cache):
    return {p.name for p in cache.iterdir() if p.is_dir()}


def test_the_real_side_is_computed_once(digits, tmp_path, monkeypatch):
    first = build(digits, tmp_path)
    scores, kept = first(digits.train), folders(tmp_path)

    def never(*args, **kwargs):
        raise AssertionError("computed again")

    for name in ("RealMoments", "RealManifold", "RealTails", "RealBins"):
        monkeypatch.setattr(getattr(module, name), "of", never)
    extractor = Extractor("nearest", Nearest(digits))
    passes, forward = [], extractor.network.forward
    extractor.network.forward = lambda x: passes.append(len(x)) or forward(x)
    again = build(digits, tmp_path, extractor)
    assert not passes
    assert again(digits.train) == scores and folders(tmp_path) == kept
    assert sum(passes) == -(-len(digits.train) // passes[0]) * passes[0]  # one pass over the pool feeds every score


@pytest.mark.parametrize("changed", ["train", "heldout", "labels", "weights"])
def test_a_changed_byte_changes_every_key_that_it_touches(digits, tmp_path, changed):
    before = build(digits, tmp_path)
    extractor, real = None, digits
    if changed == "weights":
        network = Nearest(digits)
        network.means.view(-1)[0] += 1e-3
        extractor = Extractor("nearest", network)
    elif changed == "labels":
        y = digits.train.y.copy()
        y[0] = (y[0] + 1) % 10
        real = changed_data(digits, train=Pool(digits.train.x, y))
        extractor = before.extractor
    else:
        part = getattr(digits, changed)
        x = np.array(part.x)
        x[3, 0, 4, 4] ^= 1
        real = changed_data(digits, **{changed: Pool(x, part.y)})
        extractor = before.extractor
    seen = folders(tmp_path)
    build(real, tmp_path, extractor)
    new = [name.rsplit("-", 1)[0] for name in folders(tmp_path) - seen]
    assert {"moments", "manifold", "copies", "tails"} <= set(new)
    assert new.count("features") == {"weights": 2, "labels": 0}.get(changed, 1)


def test_two_runs_and_any_batch_size_give_the_same_digits(digits, tmp_path, monkeypatch):
    pool = Pool(digits.train.x[:300])
    first = build(digits, tmp_path / "a")(pool, WithRisk())
    assert build(digits, tmp_path / "b")(pool, WithRisk()) == first
    first.write(tmp_path / "one", "hash of the pool")
    monkeypatch.setattr("imgloop.metrics.neighbours.BLOCK", 5000)
    small = build(digits, tmp_path / "c")
    small.extractor.chunk = 17
    small(pool, WithRisk()).write(tmp_path / "two", "hash of the pool")
    one, two = (json.loads(next((tmp_path / n).glob("*.json")).read_text()) for n in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("name", ["tails", "moments", "manifold", "copies", "features"])
def test_damage_to_a_stored_array_is_an_error(name, digits, tmp_path):
    build(digits, tmp_path)
    path = next(tmp_path.glob(f"{name}-*/arrays.safetensors"))
    whole, data = path.read_bytes(), bytearray(path.read_bytes())
    data[-5] ^= 1  # inside a number
    for damaged in (bytes(data), whole[:50]):
        path.write_bytes(damaged)
        with pytest.raises(store.UserError, match=f"{name}-.*hash differs"):
            build(digits, tmp_path)
    store.remove(path.parent)
    build(digits, tmp_path)


def test_scores_of_real_images_do_not_depend_on_their_order(digits, tmp_path):
    """Files are sorted by class: halves of a sorted set would be different classes."""
    order = np.argsort(digits.heldout.y, kind="stable")
    sorted_ = build(changed_data(digits, heldout=Pool(digits.heldout.x[order], digits.heldout.y[order])), tmp_path)
    plain = build(digits, tmp_path / "plain")
    assert sorted_.reference["fd"] == pytest.approx(plain.reference["fd"], rel=0.3)
    fresh = Pool(digits.train.x[:200])
    null = [e(fresh).notes["null"]["vendi"] for e in (sorted_, plain)]
    assert null[0] == pytest.approx(null[1], rel=0.1)


def test_a_stored_manifold_of_other_features_is_refused(evaluator):
    arrays = evaluator.manifold.to_arrays()
    with pytest.raises(store.UserError, match="cached distances"):
        RealManifold.from_arrays(evaluator.heldout[:-1], arrays)


@pytest.mark.nightly
def test_a_classifiers_features_agree_with_the_rules_of_shapes_and_random_ones_do_not(tmp_path):
    real = Shapes(size=16, n=1500, heldout=600).load(tmp_path)
    fresh = Shapes(size=16).rows("train", 1500, 3500)[0].astype(np.float32)
    trained = extractors.classifier(real, tmp_path, "cpu", images=16_000)
    measures = [build(real, tmp_path, e) for e in (trained, extractors.random(real, tmp_path, "cpu"))]

    def measured(share):
        """Scores of images each blended with another one; at share 0.5 two modes overlap equally."""
        x = (1 - share) * fresh[:1000] + share * fresh[1000:]
        return [m(Pool(np.rint(x).astype(np.uint8))).values for m in measures]

    rows = [measured(share) for share in (0, 0.25, 0.5)]
    violations = [seen["rule_violations"] for seen, _ in rows]
    assert violations[0] == 0 and 0.5 < violations[1] < violations[2]
    for column in ("off_support", "ambiguity"):
        seen, blind = ([r[i][column] for r in rows] for i in (0, 1))
        assert seen[0] < 0.1 and 3 * seen[0] < seen[1] < seen[2] > 0.5, (column, seen)
        assert max(blind) < 0.1, (column, blind)
