"""What of the drawn samples is released: curation and correction between sampling and the pool, with closed forms."""

from dataclasses import dataclass

import numpy as np
import pytest
from conftest import TINY
from scipy.stats import norm, ttest_ind

import imgloop
from imgloop import store
from imgloop.config.parts import Part
from imgloop.config.settings import parsed
from imgloop.contracts import Context, Release
from imgloop.correction import Nothing
from imgloop.curation import Confident, Everything, Random, log_probability, release
from imgloop.errors import UserError
from imgloop.guards import GuardedCuration
from imgloop.metrics.features import Features
from imgloop.pool import REAL, Mix, Pool, TrainingSet

QUICK = [*TINY, "display=none", "generations=2"]
IMAGES = Pool(np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), np.uint8), np.arange(40) % 4)


def rng(purpose="any"):
    return np.random.default_rng(len(purpose))


def context(features=None):
    return Context(1, None, IMAGES, features)


def test_without_curation_the_pool_is_what_was_drawn():
    released = release(IMAGES, Nothing(), Everything(), context(), rng)
    assert released.pool is IMAGES and released.rows is None and released.corrected is None


@pytest.mark.parametrize("fraction, count", [(0.5, 20), (1.0, 40), (0.01, 1), (0.26, 10)])
def test_random_curation_releases_a_share_without_repeats(fraction, count):
    curation = Random(fraction)
    released = release(IMAGES, Nothing(), curation, context(), rng)
    assert len(released.pool) == count == curation.released(40)
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


def test_confident_curation_releases_the_samples_with_the_surest_class():
    logits = np.random.default_rng(2).standard_normal((40, 5)).astype(np.float32)
    released = release(IMAGES, Nothing(), Confident(0.25), context(lambda x: Features(np.zeros((40, 1)), logits)), rng)
    best = np.exp(logits - logits.max(1, keepdims=True))
    best = (best / best.sum(1, keepdims=True)).max(1)
    assert set(released.rows.tolist()) == set(np.argsort(-best)[:10].tolist())
    assert np.allclose(np.exp(log_probability(logits)), best, rtol=1e-6)
    parts = np.stack([logits, logits[::-1]], 1)  # of stacked digits, probabilities multiply
    assert np.allclose(np.exp(log_probability(parts)), best * best[::-1], rtol=1e-6)


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

    def released(self, n):
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


# -- closed forms ----------------------------------------------------------------------------------------------------

WITHIN = """
import numpy as np
from imgloop import Curation, Release

class Within(Curation):
    keep = 40

    def released(self, n):
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
