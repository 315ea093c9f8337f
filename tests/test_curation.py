"""What of the drawn samples is released: curation and correction between sampling and the pool, with closed forms."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, ttest_ind

import imgloop
from imgloop import store
from imgloop.config.parts import Part
from imgloop.config.settings import parsed
from imgloop.contracts import Context, Given, Release
from imgloop.correction import Centroid, Nothing
from imgloop.curation import Confident, Everything, Random, log_probabilities, release, select
from imgloop.curation.choice import Choice
from imgloop.curation.ranked import Loss, Nearest
from imgloop.curation.spread import Farthest, Threshold
from imgloop.curation.verifier import Verifier
from imgloop.errors import UserError
from imgloop.guards import GuardedCuration
from imgloop.metrics.features import Features
from imgloop.pool import REAL, Mix, Pool, TrainingSet
from imgloop.report.page import shares
from imgloop.study.progress import progress
from imgloop.study.study import Study

QUICK = [*TINY, "display=none", "generations=2"]
IMAGES = Pool(np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), np.uint8), np.arange(40) % 4)


def rng(purpose="any"):
    return np.random.default_rng(len(purpose))


def context(features=None, t=1):
    return Context(t, None, IMAGES, features)


def test_without_curation_the_pool_is_what_was_drawn():
    released = release(IMAGES, Nothing(), Everything(), context(), rng)
    assert released.pool is IMAGES and released.rows is None and released.corrected is None


@pytest.mark.parametrize("fraction, count", [(0.5, 20), (1.0, 40), (0.02, 1), (0.26, 10)])
def test_random_curation_releases_a_share_without_repeats(fraction, count):
    curation = Random(fraction)
    released = release(IMAGES, Nothing(), curation, context(), rng)
    assert len(released.pool) == count == curation.released(40, 0)
    if fraction < 1:
        assert len(set(released.rows.tolist())) == count
        assert np.array_equal(released.pool.x, IMAGES.x[released.rows])
        assert np.array_equal(released.pool.y, IMAGES.y[released.rows])


def test_random_curation_draws_each_replicate_a_subset_of_its_own():
    drawn = Pool(np.random.default_rng(1).standard_normal((30, 50, 2)))
    released = release(drawn, Nothing(), Random(0.3), context(), rng)
    assert released.pool.x.shape == (9, 50, 2) and released.rows.shape == (9, 50)
    assert len({tuple(column) for column in released.rows.T}) > 40
    for r in (0, 49):
        assert np.array_equal(released.pool.x[:, r], drawn.x[released.rows[:, r], r])


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "half", float("nan")])
def test_a_fraction_outside_its_range_is_refused(wrong):
    with pytest.raises(UserError, match="fraction") as error:
        Random(wrong)
    assert error.value.setting == "curation.fraction"


def test_the_share_that_is_released_may_follow_a_schedule(tmp_path):
    stricter = Random({"start": 0.8, "factor": 0.5})
    stricter.check(GIVEN)
    assert [stricter.released(40, t) for t in range(3)] == [32, 16, 8] and len(
        stricter(IMAGES, context(t=2), rng()).rows
    ) == 8
    with pytest.raises(UserError, match="fraction=1 releases every sample"):
        Nearest([1, 1]).check(GIVEN)
    Nearest([1, 0.5]).check(GIVEN)
    result = imgloop.run([*QUICK, "paradigm=replace", "curation=random", "curation.fraction=[0.75,0.5]",
                          f"out={tmp_path}"])  # fmt: skip
    assert list(result.metrics["n_pool"]) == [36, 24] and "fraction=0.75,0.5" in result.folder.parent.name
    with pytest.raises(UserError, match="lists 1 values") as error:  # before anything is trained
        imgloop.run([*QUICK, "curation=random", "curation.fraction=[0.5]", f"out={tmp_path / 'b'}"])
    assert error.value.setting == "curation.fraction" and not list((tmp_path / "b").rglob("config.yaml"))


def test_confident_curation_releases_the_samples_with_the_surest_class():
    logits = np.random.default_rng(2).standard_normal((40, 5)).astype(np.float32)
    released = release(IMAGES, Nothing(), Confident(0.25), context(lambda x: Features(np.zeros((40, 1)), logits)), rng)
    best = np.exp(logits - logits.max(1, keepdims=True))
    best = (best / best.sum(1, keepdims=True)).max(1)
    assert set(released.rows.tolist()) == set(np.argsort(-best)[:10].tolist())
    assert np.allclose(np.exp(log_probabilities(logits)), best, rtol=1e-6)
    parts = np.stack([logits, logits[::-1]], 1)  # of stacked digits, probabilities multiply
    assert np.allclose(np.exp(log_probabilities(parts)), best * best[::-1], rtol=1e-6)


@pytest.mark.parametrize("features", [None, lambda x: Features(np.zeros((40, 1)))])
def test_confident_curation_needs_a_classifier(features):
    with pytest.raises(UserError, match="classifier") as error:
        release(IMAGES, Nothing(), Confident(), context(features), rng)
    assert error.value.setting == "curation"


class Weighted(Everything):
    """Releases all, with weights that fall."""

    def __call__(self, drawn, context, rng):
        n = len(drawn)
        return Release(np.arange(n), np.linspace(1, 0, n))


def test_weights_of_a_curation_reach_the_mix_and_its_batches():
    from imgloop.training.batches import Batches

    released = release(IMAGES, Nothing(), Weighted(), context(), rng)
    pools = {REAL: IMAGES, 0: released.pool}
    mix = Mix(np.repeat([[REAL], [0]], 40, 0), np.tile(np.arange(40), 2)[:, None])
    data = TrainingSet.of(pools, mix)
    assert np.allclose(data.mix.weight[:, 0], [*np.ones(40), *np.linspace(1, 0, 40)])
    assert TrainingSet.of({REAL: IMAGES, 0: IMAGES}, mix).mix.weight is None
    batches = Batches(data, 0, 1, 4000)
    shares = np.bincount(batches.index(0), minlength=80) / 4000
    assert abs(shares[:40].sum() - 2 / 3) < 0.04 and shares[79] == 0


@dataclass(frozen=True)
class Chosen:
    """Releases the rows and weights that it is given."""

    rows: np.ndarray
    weight: np.ndarray

    def released(self, n, t):
        return len(self.rows)

    def __call__(self, drawn, context, rng):
        return Release(self.rows, self.weight)


@pytest.mark.parametrize("replicates", [None, 2])
def test_released_samples_keep_their_weights_and_whether_they_were_corrected(replicates):
    shape = (6,) if replicates is None else (6, replicates)
    x = np.random.default_rng(3).random((*shape, 1) if replicates else (6, 1, 2, 2))
    rows = np.argsort(np.random.default_rng(4).random(shape), axis=0)[:4]
    weight = np.random.default_rng(5).random(rows.shape)
    moved = np.random.default_rng(6).random(shape) < 0.5

    def correction(x, context, rng):
        return x + moved.reshape(*shape, *[1] * (x.ndim - len(shape)))

    released = release(Pool(x), correction, Chosen(rows, weight), context(), rng)
    assert np.array_equal(released.pool.weight, weight) and np.array_equal(released.rows, rows)
    assert np.array_equal(released.corrected, np.take_along_axis(moved, rows, 0))


def test_weights_that_a_solvable_system_would_drop_are_refused():
    x = np.zeros((3, 2, 1))
    with pytest.raises(UserError, match="weights"):
        TrainingSet({REAL: Pool(x)}, Mix(np.full((3, 2), REAL), np.zeros((3, 2), int), np.ones((3, 2)))).samples()


# -- selections in feature space, by loss, by reward and by a verifier ------------------------------------------------

PLANE = np.random.default_rng(7).standard_normal((40, 2))  # features of IMAGES


def seen(x):
    """Features by the images' rows in IMAGES: the first pixel tells them apart."""
    rows = [int(np.flatnonzero((IMAGES.x == image).all((1, 2, 3)))[0]) for image in x]
    return Features(PLANE[rows])


def rows_of(curation, features=seen, drawn=IMAGES, **more):
    chosen = curation(drawn, Context(1, more.get("generator"), more.get("real", IMAGES), features), rng())
    assert chosen.facts["looked_at"]
    return chosen.rows


SELECTIONS = [Farthest, Threshold, Nearest, Verifier]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(SELECTIONS), st.floats(0.03, 0.5))
def test_a_selection_releases_its_share_without_repeats(kind, fraction):
    curation = kind(fraction, radius=50.0) if kind is Verifier else kind(fraction)
    rows = rows_of(curation)
    assert len(set(rows.tolist())) == len(rows) == curation.released(40, 0) and (np.diff(rows) > 0).all()


@pytest.mark.parametrize("kind", [Farthest, Threshold])
def test_spread_samples_are_farther_apart_than_random_ones(kind):
    def least(rows):
        apart = np.linalg.norm(PLANE[rows][:, None] - PLANE[rows], axis=2)
        return np.sort(apart + 99 * np.eye(len(rows)), axis=1)[:, 0].min()

    spread = least(rows_of(kind(0.25)))
    assert spread > 1.5 * max(least(rng("x" * i).permutation(40)[:10]) for i in range(20))


def test_farthest_is_within_twice_the_best_covering_radius():
    """Gonzalez 1985: no ten points cover the others within less than half of the radius that greedy selection needs."""
    line = np.array([0.0, 1.0, 10.0, 11.0, 20.0, 21.0])[:, None]
    chosen = Farthest(0.5)(Pool(IMAGES.x[:6]), context(lambda x: Features(line)), rng()).rows
    assert len({int(line[r, 0] // 10) for r in chosen}) == 3  # one of each pair


@pytest.mark.parametrize("kind", [Farthest, Threshold])
def test_copies_are_released_last_and_once(kind):
    copies = Features(np.repeat([[0.0], [1.0], [5.0]], [6, 1, 1], 0))
    rows = kind(0.5)(Pool(IMAGES.x[:8]), context(lambda x: copies), rng()).rows
    assert len(set(rows.tolist())) == 4 and {6, 7} <= set(rows.tolist())


def test_nearest_releases_the_samples_nearest_to_real_ones():
    drawn = Pool(IMAGES.x[20:])
    real = Pool(IMAGES.x[:20])
    apart = np.linalg.norm(PLANE[20:, None] - PLANE[:20], axis=2).min(1)
    assert set(rows_of(Nearest(0.25), drawn=drawn, real=real).tolist()) == set(np.argsort(apart)[:5].tolist())


@pytest.mark.parametrize("keep", ["low", "high"])
def test_loss_ranks_by_the_mean_over_noise_levels(keep):
    losses = np.random.default_rng(8).random((40, 3))

    class Model:
        def risk(self, real, seed):
            return losses

    order = np.argsort(losses.mean(1) * (1 if keep == "low" else -1))
    assert set(rows_of(Loss(0.25, keep), generator=Model()).tolist()) == set(order[:10].tolist())


def test_choice_follows_the_softmax_of_the_reward():
    """Of a pair with rewards a and b the first is chosen with probability 1 / (1 + exp(b - a))."""
    logits = np.log(np.array([[0.9, 0.1], [0.4, 0.6]]))
    pair = Pool(IMAGES.x[:2])
    share = np.mean(
        [
            Choice(2, 3.0, 0)(pair, context(lambda x: Features(PLANE[:2], logits)), np.random.default_rng(i)).rows[0]
            == 0
            for i in range(4000)
        ]
    )
    p = 1 / (1 + np.exp(3.0 * (0.4 - 0.9)))
    assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / 4000)


def test_a_choice_by_a_reward_of_scale_0_is_random():
    """Rewards do not count: the same rows are chosen whatever the classifier says, and each equally often."""
    sure, unsure = (np.log([[p, 1 - p], [1 - p, p]]) for p in (0.99, 0.6))
    pair, chosen = Pool(IMAGES.x[:2]), []
    for i in range(2000):
        rows = [
            Choice(2, 0.0, 0)(pair, context(lambda x, o=o: Features(PLANE[:2], o)), np.random.default_rng(i)).rows[0]
            for o in (sure, unsure)
        ]
        assert rows[0] == rows[1]
        chosen.append(rows[0])
    assert abs(np.mean(chosen) - 0.5) < 4 * 0.5 / np.sqrt(2000)


@given(st.integers(0, 26))
@settings(max_examples=10, deadline=None)
def test_the_reward_of_a_class_of_several_parts_is_the_product_of_its_digits(c):
    logits = np.random.default_rng(9).standard_normal((5, 3, 3))
    p = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    product = p[:, 0, c // 9] * p[:, 1, c // 3 % 3] * p[:, 2, c % 3]
    assert np.allclose(np.exp(log_probabilities(logits, c)), product)


@pytest.mark.parametrize("error", [0.0, 0.2])
@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_a_verifier_accepts_at_its_rate(error, bias):
    """d² / s² of N(0, 1) samples from a reference at b: p is a Gaussian integral."""
    real, drawn = (Pool(np.random.default_rng(i).standard_normal((n, 50, 1))) for i, n in ((0, 2000), (1, 4000)))
    facts = Verifier(0.1, 1.0, bias, error)(drawn, Context(0, None, real), rng()).facts
    p = np.sqrt(0.5) * np.exp(-(bias**2) / 4)
    assert facts["accepted"] == pytest.approx(p + error * (1 - 2 * p), abs=0.01)


def test_a_verifier_that_accepts_too_few_is_refused_in_one_sentence():
    with pytest.raises(
        UserError, match=r"accepted \d+ of the 40 samples of generation 1.*lower curation.fraction.*radius.$"
    ) as error:
        rows_of(Verifier(0.9, radius=0.1))
    assert error.value.setting == "curation.fraction"


def test_a_chain_that_its_curation_ended_has_failed(tmp_path, monkeypatch):
    given = [*QUICK, "curation=verifier", "curation.radius=0.01", f"out={tmp_path}"]
    with pytest.raises(UserError, match="accepted 0 of the 48 samples of generation 0") as error:
        imgloop.run(given)
    (chain,) = progress(next(tmp_path.iterdir()))
    assert chain.state == "failed" and chain.failed == str(error.value)
    monkeypatch.setattr(Verifier, "__call__", lambda self, drawn, *_: Release(np.arange(12)))
    imgloop.run(given)
    (chain,) = progress(next(tmp_path.iterdir()))
    assert chain.state == "finished" and not chain.failed


def test_a_verifier_without_a_reference_is_refused():
    alike = Pool(np.zeros((5, 2, 1)))
    with pytest.raises(UserError, match="no reference"):
        Verifier()(Pool(np.ones((8, 2, 1))), Context(0, None, alike), rng())


def test_a_correction_moves_images_to_the_nearest_class_centroid():
    real = Pool(np.repeat(np.array([10, 200], np.uint8), 6).reshape(12, 1, 1, 1) + np.zeros((1, 1, 2, 2), np.uint8),
                np.repeat([0, 1], 6))  # fmt: skip
    x = np.array([20, 100, 120, 255], np.uint8).reshape(4, 1, 1, 1) + np.zeros((1, 1, 2, 2), np.uint8)
    moved = Centroid(0.5)(x, Context(0, None, real), rng())
    assert moved.dtype == np.uint8 and moved[:, 0, 0, 0].tolist() == [15, 55, 160, 228]


GIVEN = Given("diffusion", "classifier", 10, logits=True, risk=True, n_real=100)
SOLVABLE = Given("gaussian", None, None, logits=False, risk=False, n_real=100)
UNLABELLED = Given("diffusion", "random", None, logits=False, risk=True, n_real=100)


@pytest.mark.parametrize(
    "stage, chain, words",
    [
        (Confident(), UNLABELLED, "curation=confident needs a classifier"),
        (Choice(), UNLABELLED, "curation=choice needs a classifier"),
        (Choice(of_class=10), GIVEN, "of_class=10: the data have 10 classes"),
        (Farthest(), SOLVABLE, "curation=farthest looks at images, and model=gaussian is a solvable system"),
        (Confident(), SOLVABLE, "curation=confident looks at images, and model=gaussian is a solvable system"),
        (Choice(), SOLVABLE, "curation=choice looks at images, and model=gaussian is a solvable system"),
        (Threshold(1.0), GIVEN, "fraction=1 releases every sample"),
        (Confident([0.5, 1, 1]), replace(GIVEN, from_mix=True), "fraction=1 releases every sample"),
        (Verifier(1.0), SOLVABLE, "fraction=1 releases every sample"),
        (Verifier(), Given("gaussian", None, None, False, False, 1), "there are 1"),
        (Loss(), Given("gan", "classifier", 10, True, False, 100), "model=gan has none"),
        (Nearest(), replace(GIVEN, from_mix=True), "nearest to itself"),
        (Farthest([0.5, 1, 1]), replace(GIVEN, from_mix=True), "fraction=1 releases every sample"),
        (Centroid(), UNLABELLED, "these data have no labels"),
        (Centroid(), SOLVABLE, "model=gaussian is a solvable system"),
    ],
)
def test_what_a_chain_lacks_is_named_before_anything_is_trained(stage, chain, words):
    with pytest.raises(UserError, match=words) as error:
        stage.check(chain)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize(
    "stage", [Confident(), Choice(), Farthest(), Loss(), Verifier(), Centroid(), Random(1.0), Farthest([0.5, 1, 1])]
)
def test_a_chain_that_has_all_is_accepted(stage):
    stage.check(GIVEN)


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["model=gan", "curation=loss"], "model=gan has none"),
        (["features=random", "curation=choice"], "curation=choice needs a classifier"),
        (["model=gaussian", "paradigm=augment", "real_weight=2"], "model=gaussian does not use the weights"),
        (["paradigm=augment", "real_weight=-1"], "real_weight=-1"),
        (["paradigm=augment", "real_weight=0", "n_synthetic=0"], "real_weight=0 would leave generation 1 without any"),
        (["paradigm=replace", "real_weight=2"], "real_fraction"),
        (["paradigm=real_only", "real_weight=2"], "real_weight has no effect under paradigm=real_only"),
        (["curation=choice", "curation.k=99"], "curation.k=99 chooses one of 99 samples"),
        (
            ["curation=random", "curation.fraction=0.01"],
            "fraction=0.01 of the 48 samples of generation 0 releases none",
        ),
        (["curation=loss", "curation.fraction={start: 0.5, factor: 0.01}"], "of generation 1 releases none: .*by min"),
        (["curation=verifier", "n_initial=1"], "there are 1: raise n_initial"),
    ],
)
def test_a_chain_that_cannot_be_selected_from_is_refused_before_it_begins(tmp_path, overrides, words):
    own = [o for o in QUICK if "gan" not in "".join(overrides) or not o.startswith("model.sampler")]
    own = own if "model=gaussian" not in overrides else ["display=none", "generations=2"]
    with pytest.raises(UserError, match=words):
        imgloop.run([*own, *overrides, f"out={tmp_path}"])
    assert not list(tmp_path.rglob("record.json"))


def test_a_selected_chain_records_what_it_looked_at(tmp_path):
    result = imgloop.run([*QUICK, "paradigm=accumulate", "curation=farthest", "correction=centroid", f"out={tmp_path}"])
    records = [store.read_json(result.folder / f"gen{t:03d}" / "record.json") for t in range(2)]
    first = records[0]["selection"]
    assert first["share"] == 0.5 and first["looked_at"] == Farthest.looks_at and first["least_distance"] > 0
    assert records[0]["n_corrected"] > 0 and records[1]["real_share"] == pytest.approx(
        records[0]["n_train"] / (records[0]["n_train"] + 24)
    )


def test_a_curation_and_a_correction_know_no_real_image_outside_r(tmp_path):
    given = [*QUICK, "generations=1", "n_initial=12", "features=pixels", "correction=centroid", f"out={tmp_path}"]
    result = imgloop.run([*given, "curation=nearest", "curation.fraction=0.25"])
    generation = result.folder / "gen000"
    drawn = store.open_arrays(generation / "drawn.safetensors")["x"]
    real = parsed(given).build("data").load(tmp_path).train
    centroids = np.stack([real.x[:12][real.y[:12] == c].mean(0) for c in np.unique(real.y[:12])])
    nearest = ((drawn[:, None] - centroids.astype(float)) ** 2).sum((2, 3, 4)).argmin(1)
    moved = np.rint(drawn + 0.1 * (centroids[nearest] - drawn)).astype(np.uint8)
    pool = store.open_arrays(generation / "pool.safetensors")
    assert np.array_equal(pool["x"], moved[pool["row"]]) and len(pool["x"]) == 12
    apart = np.sqrt(((moved[:, None] / 255.0 - real.x[None, :12] / 255.0) ** 2).sum((2, 3, 4))).min(1)
    selection = store.read_json(generation / "record.json")["selection"]
    scale = selection["mean_distance"] / apart.mean()  # features of pixels have a scale of their own
    assert selection["released_distance"] == pytest.approx(scale * np.sort(apart)[:12].mean(), rel=1e-4)
    assert set(np.argsort(apart)[:12]) == set(pool["row"].tolist())


def test_a_record_tells_the_share_of_the_weight_that_real_images_have(tmp_path, capsys):
    given = [o for o in QUICK if not o.startswith("display")]
    result = imgloop.run(
        [*given, "display=lines", "paradigm=augment", "n_initial=48", "real_weight=3", f"out={tmp_path}"]
    )
    first, second = (store.read_json(result.folder / f"gen{t:03d}" / "record.json") for t in range(2))
    assert "weight_by_origin" not in first and second["share_by_origin"] == {"-1": 0.5, "0": 0.5}
    assert second["weight_by_origin"] == {"-1": 0.75, "0": 0.25}
    condition = result.folder.parent.name
    drawn = shares(Study(result.folder.parents[1]), {condition: condition})  # in the report
    assert [bar[2] for bar in drawn[0][1]] == [{"real": 1.0}, {"real": 0.75, "0": 0.25}]
    assert "(50% real, 75% by weight)" in capsys.readouterr().out


def test_a_solvable_chain_records_its_selection(tmp_path):
    given = ["model=gaussian_mean", "data.n=50", "n_samples=200", "generations=3", "display=none", f"out={tmp_path}"]
    result = imgloop.run(
        [*given, "curation=verifier", "curation.fraction={start: 0.4, factor: 0.5}", "curation.error=0.1"]
    )
    record = store.read_json(result.folder / "record.json")
    assert record["curation"] == "verifier" and [s["share"] for s in record["selection"]] == [0.4, 0.2, 0.1]
    assert all(0.1 < s["accepted"] < 0.9 and "mean" in s["looked_at"] for s in record["selection"])
    assert "selection" not in store.read_json(imgloop.run(given).folder / "record.json")


def test_selection_from_a_mix_gives_rows_of_it_and_multiplies_weights():
    @dataclass(frozen=True)
    class Bright(Everything):
        def __call__(self, drawn, context, rng):
            light = drawn.x.reshape(len(drawn), -1).mean(1)
            rows = np.argsort(-light)[:10]
            return Release(rows, 1.0 + drawn.y[rows], {"looked_at": "brightness"})

    pools = {REAL: IMAGES, 0: Pool(255 - np.asarray(IMAGES.x), IMAGES.y)}
    origin, row = np.repeat([REAL, 0], 20)[:, None], np.tile(np.arange(20), 2)[:, None]
    data = TrainingSet(pools, Mix(origin, row, np.linspace(1, 2, 40)[:, None]))
    chosen = select(data, Bright(), context(), rng())
    light = data.gather(np.arange(40)).reshape(40, -1).mean(1)
    expected = np.sort(np.argsort(-light)[:10])
    assert np.array_equal(chosen.mix.origin, origin[expected]) and np.array_equal(chosen.mix.row, row[expected])
    assert np.array_equal(chosen.mix.weight, data.mix.weight[expected] * (1.0 + IMAGES.y[row[expected]]))
    assert chosen.selection == {
        "of": "mix", "n_before": 40, "share": 0.25, "real_share_before": 0.5, "looked_at": "brightness"
    }  # fmt: skip
    assert (data.mix.origin[expected] == REAL).mean() not in (0, 0.5, 1)  # else the test would see no origin


def half_real(weight=None):
    """A training set of 200 equal images, of which the first half is real."""
    same = Pool(np.zeros((100, 1, 8, 8), np.uint8), np.zeros(100, int))
    mix = Mix(np.repeat([REAL, 0], 100)[:, None], np.tile(np.arange(100), 2)[:, None], weight)
    return TrainingSet({REAL: same, 0: same}, mix)


@dataclass(frozen=True)
class First(Everything):
    def __call__(self, drawn, context, rng):
        return Release(np.arange(20))


def test_a_curation_that_takes_the_first_rows_of_a_mix_does_not_prefer_real_ones():
    shares = [select(half_real(), First(), context(), np.random.default_rng(i)).mix.shares()[REAL] for i in range(50)]
    assert abs(np.mean(shares) - 0.5) < 4 * 0.5 / np.sqrt(50 * 20) and np.ptp(shares) > 0


def test_a_selection_that_leaves_no_weight_is_refused():
    weight = np.repeat([0.0, 1.0], 100)[:, None]
    assert select(half_real(weight), First(), context(), rng()).mix.weight.sum() > 0

    @dataclass(frozen=True)
    class Real(Everything):  # knows a real row by its label
        def __call__(self, drawn, context, rng):
            return Release(np.flatnonzero(drawn.y == 1)[:20])

    data = half_real(weight)
    pools = {REAL: Pool(data.pools[REAL].x, np.ones(100, int)), 0: data.pools[0]}
    with pytest.raises(UserError, match="all have the weight 0") as error:
        select(TrainingSet(pools, data.mix), Real(), context(), rng())
    assert error.value.setting == "real_weight"


def test_one_farthest_sample_has_no_distance_to_record():
    chosen = Farthest(0.02)(IMAGES, context(lambda x: Features(x.reshape(len(x), -1).astype(float))), rng())
    assert len(chosen.rows) == 1 and "least_distance" not in chosen.facts


def test_selection_from_the_mix_trains_on_a_part_of_all_pools(tmp_path):
    given = [*QUICK, "paradigm=accumulate", "curation=loss", "curation.fraction=[1,0.5,0.25]", "select_from=mix"]
    whole = imgloop.run([*given, "generations=3", "keep_models=0", f"out={tmp_path / 'a'}"])
    records = [store.read_json(whole.folder / f"gen{t:03d}" / "record.json") for t in range(3)]
    n = records[0]["n_train"]
    assert [r["n_pool"] for r in records] == [48] * 3 and "selection" not in records[0]
    assert [r["n_train"] for r in records[1:]] == [round((n + 48) / 2), round((n + 96) / 4)]
    chosen = records[2]["selection"]
    assert chosen["of"] == "mix" and chosen["n_before"] == n + 96 and chosen["released_loss"] < chosen["mean_loss"]
    mix = store.open_arrays(whole.folder / "gen002" / "mix.safetensors")
    assert set(np.unique(mix["origin"])) == {REAL, 0, 1}
    assert np.isclose((mix["origin"] == REAL).mean(), records[2]["real_share"])
    imgloop.run([*given, "generations=2", "keep_models=0", f"out={tmp_path / 'b'}"])  # generation 2 needs f_1
    resumed = imgloop.run([*given, "generations=3", "keep_models=0", f"out={tmp_path / 'b'}"])
    for name in ("mix.safetensors", "pool.safetensors"):
        a, b = (r.folder / "gen002" / name for r in (whole, resumed))
        assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["select_from=mix"], "select_from=mix has no effect on curation=none"),
        (["select_from=all", "curation=random"], "select_from=all: choose one of pool, mix"),
        (["select_from=mix", "curation=random", "model=gaussian"], "select_from has no effect on model=gaussian"),
    ],
)
def test_a_place_of_selection_without_effect_is_refused(overrides, words):
    with pytest.raises(UserError, match=words) as error:
        parsed(overrides)
    assert error.value.setting == "select_from"


# -- closed forms ----------------------------------------------------------------------------------------------------

WITHIN = """
import numpy as np
from imgloop import Curation, Release

class Within(Curation):
    keep = 40

    def released(self, n, t):
        return self.keep

    def __call__(self, drawn, context, rng):
        f = context.generator
        inside = np.abs(drawn.x[:, :, 0] - f.mean[:, 0]) <= 1.5 * np.sqrt(f.covariance[:, 0, 0])
        return Release(np.argsort(~inside, axis=0, kind="stable")[: self.keep])
"""


def test_a_gaussian_that_keeps_samples_within_c_deviations_follows_the_truncated_variance(tmp_path):
    """The first 40 of 100 draws within c standard deviations are a sample of the truncated law, whose variance is
    1 - 2 c phi(c) / (2 Phi(c) - 1) of the whole one; unbiased fits then shrink by that factor a generation."""
    (tmp_path / "parts" / "curation").mkdir(parents=True)
    (tmp_path / "parts" / "within.py").write_text(WITHIN)
    (tmp_path / "parts" / "curation" / "within.yaml").write_text("_target_: within.Within\n")
    given = ["model=gaussian", "model.unbiased=true", "model.replicates=4000", "data.n=40", "n_samples=100"]
    given += ["paradigm=replace", "curation=within", "generations=4", "display=none", f"out={tmp_path}"]
    frame = imgloop.run(given, config_dir=tmp_path / "parts").metrics
    c = 1.5
    factor = 1 - 2 * c * norm.pdf(c) / (2 * norm.cdf(c) - 1)
    expected = factor ** np.arange(4)
    assert np.all(np.abs(frame["variance"] - expected) < 4 * frame["variance_sem"])
    assert factor < 0.56 and list(frame["n_drawn"]) == [100] * 4 and list(frame["n_pool"]) == [40] * 4
    assert frame.get("variance_theory", np.nan) is np.nan or frame["variance_theory"].isna().all()


def test_random_release_is_like_fewer_samples_and_keeps_its_closed_form(tmp_path):
    """Of n iid draws a random half is a sample of n / 2."""
    given = ["model=gaussian", "model.replicates=3000", "data.n=20", "paradigm=replace", "generations=5"]
    given += ["display=none", f"out={tmp_path}"]
    half = imgloop.run([*given, "n_samples=40", "curation=random", "curation.fraction=0.5"])
    fewer = imgloop.run([*given, "n_samples=20"])
    assert np.allclose(half.metrics["variance_theory"], fewer.metrics["variance_theory"])
    assert half.metrics["variance_z"].abs().max() < 4 and half.metrics["mean_part_z"].abs().max() < 4
    values = [store.open_arrays(r.folder / "replicates.safetensors")["variance"][4] for r in (half, fewer)]
    assert ttest_ind(*values).pvalue > 1e-4


def test_regression_with_a_fixed_design_has_no_closed_form_under_random_release(tmp_path):
    given = ["model=regression", "model.replicates=20", "data.n=30", "curation=random", "generations=2"]
    frame = imgloop.run([*given, "paradigm=replace", "display=none", f"out={tmp_path}"]).metrics
    assert "excess_theory" not in frame


# -- chains of images ------------------------------------------------------------------------------------------------


def test_a_curated_chain_trains_on_what_was_released_and_measures_what_was_drawn(tmp_path):
    result = imgloop.run([*QUICK, "paradigm=replace", "curation=random", f"out={tmp_path}"])
    assert result.folder.parent.name.startswith("replace,curation=random")
    records = [store.read_json(result.folder / f"gen{t:03d}" / "record.json") for t in range(2)]
    assert [(r["n_drawn"], r["n_pool"]) for r in records] == [(48, 24)] * 2 and records[1]["n_train"] == 24
    assert all(r["curation"] == "random" and r["n_corrected"] == 0 for r in records)
    plain = imgloop.run([*QUICK, "paradigm=replace", f"out={tmp_path}"])
    assert plain.metrics["fd"][0] == result.metrics["fd"][0]  # generation 0 draws the same samples
    study = imgloop.Study(result.folder.parents[1])
    assert len(study.images(result.folder.parent.name, 0, 1)) == 48
    assert len(study.released(result.folder.parent.name, 0, 1)["row"]) == 24


@pytest.mark.nightly
def test_an_interrupted_curated_chain_equals_an_uninterrupted_one(tmp_path):
    given = [*QUICK, "curation=random", "curation.fraction=0.25"]
    whole = imgloop.run([*given, "generations=3", f"out={tmp_path / 'a'}"])
    imgloop.run([*given, "generations=1", f"out={tmp_path / 'b'}"])
    resumed = imgloop.run([*given, "generations=3", f"out={tmp_path / 'b'}"])
    for t in range(3):
        pools = [store.open_arrays(r.folder / f"gen{t:03d}" / "pool.safetensors") for r in (whole, resumed)]
        assert all(np.array_equal(pools[0][k], pools[1][k]) for k in ("x", "row"))


def test_curation_is_part_of_the_identity(tmp_path):
    assert parsed(["curation=random"]).identity["curation"] == "random"
    assert (
        parsed(["curation=random", "curation.fraction=0.3"]).condition
        == "accumulate,curation=random,curation.fraction=0.3"
    )
    with pytest.raises(UserError, match="budget") as error:  # a budget that the released samples do not reach
        imgloop.run([*QUICK, "paradigm=accumulate_subsample", "n_initial=40", "budget=80", "curation=random",
                     f"out={tmp_path}"])  # fmt: skip
    assert "64 samples" in str(error.value) and not (tmp_path / "digits-diffusion").exists()


def test_a_release_without_weight_in_one_replicate_is_refused(tmp_path):
    class Zero(Everything):
        def __call__(self, drawn, context, rng):
            rows = np.tile(np.arange(4)[:, None], 2)
            return Release(rows, np.array([[1.0, 0.0]] * 4))

    part = Part("curation", "zero", "zero.Zero", tmp_path / "parts" / "curation" / "zero.yaml")
    drawn = Pool(np.zeros((4, 2, 1)))
    with pytest.raises(UserError, match=r"curation=zero .*not all 0"):
        GuardedCuration(part, Zero())(drawn, context(), np.random.default_rng(0))


@pytest.mark.parametrize("facts", [{"gap": np.arange(3)}, {"gap": float("inf")}])
def test_facts_that_a_record_cannot_hold_are_refused(tmp_path, facts):
    class Odd(Everything):
        def __call__(self, drawn, context, rng):
            return Release(np.arange(4), facts=facts)

    part = Part("curation", "odd", "odd.Odd", tmp_path / "parts" / "curation" / "odd.yaml")
    with pytest.raises(UserError, match=r"curation=odd .*facts that JSON cannot hold"):
        GuardedCuration(part, Odd())(Pool(np.zeros((4, 1, 8, 8), np.uint8)), context(), np.random.default_rng(0))
