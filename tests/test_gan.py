"""The GAN: loss and penalties, what a sample depends on, saving, resuming, starting from weights, divergence."""

import copy
import re

import numpy as np
import pytest
import torch
from conftest import thinned

import imgloop
from imgloop import store
from imgloop.config.settings import parsed
from imgloop.errors import Stopped, UserError
from imgloop.models import adversarial
from imgloop.models.adversarial import LATENT, AdversarialModule, Watch, penalised, spread
from imgloop.models.gan import GAN, GANGenerator
from imgloop.models.gan_networks import PRESETS, Discriminator, Generator, check_widths
from imgloop.models.recipes import GANRecipe
from imgloop.pool import REAL, Mix, Pool, TrainingSet
from imgloop.report import page
from imgloop.training import trainer
from imgloop.training.batches import Batches
from imgloop.training.tasks import Task, TrainerSettings, never_stop


def training_set(n=64, channels=1, size=8, labels=None, x=None):
    x = np.random.default_rng(0).integers(0, 256, (n, channels, size, size), np.uint8) if x is None else x
    return TrainingSet({REAL: Pool(x, labels)}, Mix(np.full((len(x), 1), REAL), np.arange(len(x))[:, None]))


def fitted(
    tmp_path, data=None, images=96, start="scratch", t=0, previous=None, stop=never_stop, settings=None, **model
):
    model = {"widths": [8, 16], "batch": 16, **model}
    task = Task(t, 0, images, start, tmp_path / f"scratch{t}", stop=stop, trainer=settings or TrainerSettings())
    return GAN(**model).fit(data or training_set(), task, previous)


def tensors(value):
    """Every tensor of a nested state, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [x for v in values for x in tensors(v)]


def weights(f):
    """All that a fitted GAN holds: averaged generator, discriminator, and what weights_and_optimizer goes on from."""
    return [
        t.detach().clone() for t in tensors([f.network.state_dict(), f.discriminator.state_dict(), f.training or {}])
    ]


def equal(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


@pytest.mark.parametrize("size", list(PRESETS))
@pytest.mark.parametrize("classes", [0, 3])
def test_networks_map_latents_to_images_and_images_to_logits(size, classes):
    widths, y = check_widths(size, None), torch.tensor([0, 2]) if classes else None
    generator, discriminator = (
        Generator(size, 3, widths, LATENT, 1, classes),
        Discriminator(size, 3, widths, 1, classes),
    )
    x = generator(torch.randn(2, LATENT), y)
    assert x.shape == (2, 3, size, size) and discriminator(x, y).shape == (2,)
    with torch.autocast("cpu", torch.bfloat16):
        assert discriminator(x, y).dtype == torch.float32


def test_networks_of_a_size_without_preset_and_of_several_blocks():
    generator, discriminator = Generator(12, 1, (4, 6, 8), LATENT, 2), Discriminator(12, 1, (4, 6, 8), 2)
    assert discriminator(generator(torch.randn(5, LATENT))).shape == (5,) and generator.base == 3


def test_residual_branches_start_at_zero_and_signals_neither_vanish_nor_explode():
    torch.manual_seed(0)
    for size, widths in PRESETS.items():
        generator, discriminator = Generator(size, 3, widths, LATENT, 3), Discriminator(size, 3, widths, 3)
        block = generator.levels[0][1]
        h = torch.randn(2, widths[-1], 4, 4)
        assert torch.equal(block(h), h)
        x = generator(torch.randn(16, LATENT))
        assert 0.1 < spread(x) < 2 and 0.01 < discriminator(torch.randn(16, 3, size, size)).std() < 10


@pytest.mark.parametrize("y", [None, torch.tensor([0, 1, 1, 0])])
def test_penalties_of_a_known_function(y):
    """D(x) = a_y / 2 |x|^2 has the gradient a_y x. Hence R1 + R2 = mean a^2 |x|^2 + mean a^2 |fake|^2; its derivative
    with respect to a is 2 / a times that."""
    g = torch.Generator().manual_seed(0)
    x, fake = torch.randn((2, 4, 3, 2, 2), generator=g, dtype=torch.double)
    a = torch.tensor([1.5, 0.5], dtype=torch.double, requires_grad=True)

    def discriminator(x, y):
        return (a[0] if y is None else a[y]) / 2 * x.square().flatten(1).sum(1)

    real_logit, fake_logit, penalty = penalised(discriminator, x, fake, y)
    scale = (a[0].expand(4) if y is None else a[y]).detach()
    squares = [v.square().flatten(1).sum(1) for v in (x, fake)]
    assert torch.allclose(real_logit, scale / 2 * squares[0]) and torch.allclose(fake_logit, scale / 2 * squares[1])
    assert torch.allclose(penalty, sum((scale**2 * s).mean() for s in squares))
    (gradient,) = torch.autograd.grad(penalty, a)
    expected = [
        sum((2 * scale * s * (scale == v)).mean() for s in squares)
        if (scale == v).any()
        else torch.tensor(0.0).double()
        for v in a.detach()
    ]
    assert torch.allclose(gradient, torch.stack(expected))


def test_penalties_agree_with_finite_differences_of_the_real_discriminator():
    torch.manual_seed(0)
    discriminator = Discriminator(4, 1, (4, 4), 1).double()
    for p in discriminator.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x, fake, h = *torch.randn(2, 3, 1, 4, 4, dtype=torch.double), 1e-6
    slopes = torch.zeros(2, dtype=torch.double)
    for i in range(16):
        e = torch.zeros(16, dtype=torch.double).index_fill(0, torch.tensor(i), h).view(1, 1, 4, 4)
        for j, v in enumerate((x, fake)):
            slopes[j] += ((discriminator(v + e) - discriminator(v - e)) / (2 * h)).square().mean().detach()
    assert torch.isclose(penalised(discriminator, x, fake, None)[2], slopes.sum(), rtol=1e-6)


def test_one_step_follows_the_two_loss_equations(tmp_path):
    """Against the paper's equations, by torch.autograd and plain gradient steps: D first, then G; one label a pair."""
    torch.manual_seed(0)
    data = training_set(labels=np.arange(64) % 3)
    generator, discriminator = Generator(8, 1, (8, 16), LATENT, 1, 3), Discriminator(8, 1, (8, 16), 1, 3)
    batches = Batches(data, 5, 2, 16, labelled=True)
    recipe = GANRecipe(16, 0.01, 0.7, 0.9)
    module = AdversarialModule(copy.deepcopy(generator), copy.deepcopy(discriminator), batches, 10, recipe)
    optimizers = [torch.optim.SGD(p.parameters()) for p in (module.generator, module.discriminator)]
    loss_d, loss_g, generated, real = module.step(0, *optimizers)

    x, y = batches(0)
    g = torch.Generator().manual_seed(store.seed_of(5, 2, "noise", 0))
    z = torch.randn((2, 16, LATENT), generator=g)
    optimizers = [torch.optim.SGD(p.parameters(), 0.01) for p in (generator, discriminator)]
    x, fake = x.requires_grad_(), generator(z[0], y).detach().requires_grad_()
    difference = discriminator(x, y) - discriminator(fake, y)
    r1, r2 = (
        torch.autograd.grad(discriminator(v, y).sum(), v, create_graph=True)[0].square().sum() / 16 for v in (x, fake)
    )
    expected = torch.log1p(torch.exp(-difference)).mean() + 0.7 / 2 * (r1 + r2)
    assert torch.isclose(loss_d, expected, rtol=1e-5)
    expected.backward()
    optimizers[1].step()
    expected = torch.log1p(torch.exp(discriminator(x, y) - discriminator(generator(z[1], y), y))).mean()
    assert torch.isclose(loss_g, expected, rtol=1e-5)
    optimizers[0].zero_grad()
    expected.backward()
    optimizers[0].step()
    for ours, theirs in ((module.generator, generator), (module.discriminator, discriminator)):
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(ours.parameters(), theirs.parameters()))
    assert torch.isclose(generated, spread(fake)) and torch.isclose(real, spread(x))


def test_learning_rate_and_gamma_fall_to_a_tenth_and_stay_there_for_later_generations(tmp_path):
    seen, beta2, step = [], [], AdversarialModule.step
    with pytest.MonkeyPatch.context() as patch:

        def spy(self, k, *optimizers):
            out = step(self, k, *optimizers)
            seen.append([o.param_groups[0]["lr"] for o in optimizers])
            beta2.append(optimizers[1].param_groups[0]["betas"][1])
            return out

        patch.setattr(AdversarialModule, "step", spy)
        first = fitted(tmp_path, images=16 * 10, start="weights_and_optimizer", lr=1e-3)
        fitted(tmp_path, images=16 * 5, start="weights_and_optimizer", t=1, previous=first, lr=1e-3)
        fitted(tmp_path, images=16 * 5, start="weights", t=2, previous=first, lr=1e-3)
    rates = [r for r, _ in seen]
    assert all(a == b for a, b in seen) and rates[0] == 1e-3 and rates == sorted(rates[:10], reverse=True) + rates[10:]
    assert np.isclose(rates[5], 5.5e-4) and np.allclose(rates[10:15], 1e-4) and rates[15] == 1e-3
    assert np.allclose(1 - np.array(beta2), 100 * np.array(rates))  # .9 to .99


def test_ema_follows_its_recursion(tmp_path):
    """e <- d e + (1 - d) w with d = min(ema, (1 + k) / (10 + k))."""
    seen, step = [], AdversarialModule.step
    with pytest.MonkeyPatch.context() as patch:

        def spy(self, k, *optimizers):
            seen.append(self.generator.enter.weight.detach().clone())  # before the step
            out = step(self, k, *optimizers)
            last.append(self.generator.enter.weight.detach().clone())
            return out

        last = []
        patch.setattr(AdversarialModule, "step", spy)
        f = fitted(tmp_path, images=16 * 20, ema=0.6)
    e = seen[0]
    for k, w in enumerate(last):
        d = min(0.6, (1 + k) / (10 + k))
        e = d * e + (1 - d) * w
    assert torch.allclose(f.network.enter.weight, e, atol=1e-6) and not torch.allclose(e, last[-1], atol=1e-6)
    assert not f.network.enter.weight.requires_grad


def test_sample_i_depends_only_on_seed_and_i(tmp_path):
    f = fitted(tmp_path)
    many = f.sample(300, seed=7).x
    assert np.array_equal(f.sample(5, seed=7).x, many[:5])  # not on the number of samples
    assert not np.array_equal(f.sample(5, seed=8).x, many[:5])
    assert len(np.unique(many.reshape(300, -1), axis=0)) == 300  # all different, also across chunks
    assert many.dtype == np.uint8 and many.shape == (300, 1, 8, 8) and f.facts["nfe"] == 1


def test_fits_are_functions_of_seed_and_generation(tmp_path):
    a, b, c = (fitted(tmp_path / name, t=t) for name, t in (("a", 0), ("b", 0), ("c", 1)))
    assert equal(weights(a), weights(b)) and not equal(weights(a), weights(c))


def test_a_label_changes_its_own_sample_and_no_other(tmp_path):
    f = fitted(tmp_path, training_set(labels=np.arange(64) % 3), conditional=True, images=320)
    y = np.arange(300) % 3
    samples, other = f.sample(300, seed=1, y=y), f.sample(300, seed=1, y=np.where(np.arange(300) == 4, 2, y))
    assert samples.y is not None and np.array_equal(samples.y, y) and samples.y.dtype == np.int64
    assert list(np.flatnonzero((samples.x != other.x).any((1, 2, 3)))) == [4]
    assert np.array_equal(f.sample(6, seed=1, y=y[:6]).x, samples.x[:6])
    labels = f.sample(3000, seed=2).y
    assert labels is not None and np.abs(np.bincount(labels) / 3000 - np.array([22, 21, 21]) / 64).max() < 0.04
    x = torch.randn(2, 1, 8, 8)
    logits = [f.discriminator(x, torch.full((2,), k)) for k in range(3)]
    assert not torch.allclose(logits[0], logits[1]) and not torch.allclose(logits[1], logits[2])


@pytest.mark.parametrize("conditional", [False, True])
def test_truncation_narrows_samples_and_is_recorded(tmp_path, conditional):
    data = training_set(labels=np.arange(64) % 3)
    fits = [fitted(tmp_path / str(b), data, bias=b, conditional=conditional) for b in (1.0, 0.5, 0.1)]
    assert equal(weights(fits[0]), weights(fits[2]))  # it changes sampling, not training
    y = np.zeros(256, int)
    spreads = [f.sample(256, seed=1, y=y).x.astype(float).std(0).mean() for f in fits]
    assert spreads[1] < 0.9 * spreads[0] and spreads[2] < 0.6 * spreads[1], spreads
    assert [f.description["bias"] for f in fits] == [1.0, 0.5, 0.1]
    fits[2].save(tmp_path / "m")
    loaded = GANGenerator.load(tmp_path / "m")
    assert np.array_equal(loaded.sample(256, seed=1, y=y).x, fits[2].sample(256, seed=1, y=y).x)


@pytest.mark.parametrize("conditional", [False, True])
def test_saving_and_loading_keeps_every_bit(tmp_path, conditional):
    data = training_set(labels=np.arange(64) % 3)
    f = fitted(tmp_path, data, conditional=conditional, start="weights_and_optimizer")
    f.save(tmp_path / "model")
    g = GAN().load(tmp_path / "model")
    assert equal(weights(f), weights(g)) and f.description == g.description and f.training and f.training["steps"] == 6
    a, b = f.sample(10, seed=1), g.sample(10, seed=1)
    assert np.array_equal(a.x, b.x) and (a.y is None) == (not conditional)
    assert store.read_json(tmp_path / "model" / "imgloop.json")["kind"] == "gan"


@pytest.mark.parametrize(
    "name", thinned(["imgloop.json", "generator.safetensors", "discriminator.safetensors", "training.pt"], 2)
)
@pytest.mark.parametrize("how", ["cut", "missing", "foreign"])
def test_damaged_and_foreign_files_are_named(tmp_path, name, how):
    fitted(tmp_path, start="weights_and_optimizer").save(tmp_path / "model")
    path = tmp_path / "model" / name
    if how == "missing" and name == "training.pt":
        path.unlink()
        assert GANGenerator.load(tmp_path / "model").training is None  # start=weights keeps none
        return
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif name.endswith("json"):
        path.write_text('{"kind": "gan", "size": 8, "widths": "all"}')
    elif name.endswith("pt"):
        torch.save({"x": Mix}, path)  # a class: only tensors and numbers may be read
    else:
        store.write_arrays(path, {"enter.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        GANGenerator.load(tmp_path / "model")


def test_other_kinds_of_models_are_refused(tmp_path):
    store.write_json(tmp_path / "imgloop.json", {"kind": "diffusion"})
    with pytest.raises(UserError, match="GAN"):
        GANGenerator.load(tmp_path)


@pytest.mark.parametrize("start", ["scratch", "weights_and_optimizer"])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, start, monkeypatch):
    """Both networks, average, optimisers and watch are resumed, and only the remaining batches are seen."""
    monkeypatch.setitem(trainer.CHUNK, "cpu", 2)
    monkeypatch.setattr(adversarial, "LOST", 0.694)  # passed in the first steps: the warning names one
    previous = fitted(tmp_path, start="weights_and_optimizer")
    seen, call = [], Batches.__call__

    def fit(name, stop):
        seen.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Batches, "__call__", lambda self, k: (seen.append(k), call(self, k))[1])
            return fitted(
                tmp_path / name,
                images=16 * 20,
                start=start,
                t=1,
                previous=previous if start != "scratch" else None,
                stop=stop,
            )

    whole = fit("whole", lambda: False)
    for last in (6, 14):
        with pytest.raises(Stopped):
            fit("parts", lambda last=last: seen[-1] + 1 >= last)
        assert seen[-1] + 1 == last
    parts = fit("parts", lambda: False)
    assert seen == list(range(14, 20)) and equal(weights(whole), weights(parts))
    again = fit("parts", lambda: False)  # finished, but not yet committed
    assert seen == [] and equal(weights(whole), weights(again))
    assert whole.facts["warning"] == parts.facts["warning"] == again.facts["warning"]


def test_a_checkpoint_holds_each_network_once_and_the_watch():
    module = module_of(9)
    assert {k.split(".")[0] for k in module.state_dict()} == {"generator", "discriminator", "ema", "_extra_state"}
    for k in range(50):
        module.check(k, (0.7, 9.0, 0.1, 0.5))
    other = module_of(9)
    other.load_state_dict(copy.deepcopy(module.state_dict()))
    assert other.watch == module.watch != Watch()
    earlier = {k: v for k, v in module.state_dict().items() if k != "_extra_state"} | {"spreads": torch.ones(2)}
    other.load_state_dict(earlier)  # of version 0.1.0
    assert other.watch == Watch()


def test_chunk_and_residence_change_no_bit(tmp_path, monkeypatch):
    fits = []
    for i, (chunk, resident_gib) in enumerate(((1, 0.0), (5, 0.0), (5, 1.0))):
        monkeypatch.setitem(trainer.CHUNK, "cpu", chunk)
        fits.append(fitted(tmp_path / str(i), images=16 * 9, settings=TrainerSettings(resident_gib=resident_gib)))
    assert equal(weights(fits[0]), weights(fits[1])) and equal(weights(fits[0]), weights(fits[2]))


def test_start_policies(tmp_path):
    """weights: raw and averaged generator start at the previous average, the discriminator at the previous one, the
    optimisers new. With the optimisers: the raw generator, both optimisers and the annealing continue."""
    first = fitted(tmp_path, start="weights_and_optimizer")
    first.save(tmp_path / "m")
    first, seen, configure = GAN().load(tmp_path / "m"), {}, AdversarialModule.configure_optimizers

    def spy(self):
        optimizers = configure(self)
        seen.update(
            {k: tensors(copy.deepcopy(getattr(self, k).state_dict())) for k in ("generator", "ema", "discriminator")},
            states=tensors([copy.deepcopy(o.state_dict()["state"]) for o in optimizers]),
            before=self.before,
        )
        return optimizers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AdversarialModule, "configure_optimizers", spy)
        average = tensors(first.network.state_dict())
        for start in ("weights", "weights_and_optimizer"):
            second = fitted(tmp_path, start=start, t=1, previous=first)
            assert equal(seen["ema"], average)
            assert equal(seen["discriminator"], tensors(first.discriminator.state_dict()))
            if start == "weights":
                assert equal(seen["generator"], average) and seen["states"] == [] and seen["before"] == 0
            else:
                assert equal(seen["generator"], tensors(first.training["generator"])) and seen["before"] == 6
                assert not equal(seen["generator"], average)
                assert equal(seen["states"], tensors([o["state"] for o in first.training["optimizers"]]))
                assert second.training["steps"] == 12
            store.remove(tmp_path / "scratch1")
    assert fitted(tmp_path, start="weights", t=2, previous=first).training is None


def test_a_model_to_start_from_must_be_the_same(tmp_path):
    first = fitted(tmp_path)
    with pytest.raises(UserError, match="optimisers") as error:
        fitted(tmp_path, start="weights_and_optimizer", t=1, previous=first)
    assert error.value.setting == "start"
    for settings in ({"widths": [8, 8]}, {"blocks": 2}, {"conditional": True}):
        with pytest.raises(UserError, match="start from") as error:
            data = training_set(labels=np.arange(64) % 3)
            fitted(tmp_path, data, start="weights", t=1, previous=first, **settings)
        assert error.value.setting == "model.widths"


@pytest.mark.parametrize("start", ["weights", "weights_and_optimizer"])
def test_generations_without_images_keep_every_weight(tmp_path, start):
    first = f = fitted(tmp_path, start=start)
    for t in range(1, 4):
        f = fitted(tmp_path, images=0, start=start, t=t, previous=f)
        f.save(tmp_path / f"m{t}")
        f = GAN().load(tmp_path / f"m{t}")
    assert equal(weights(first), weights(f)) and f.description["trained_images"] == 0
    assert np.array_equal(first.sample(4, seed=0).x, f.sample(4, seed=0).x)


def networks(classes=0):
    torch.manual_seed(0)
    return Generator(8, 1, (8, 16), LATENT, 1, classes), Discriminator(8, 1, (8, 16), 1, classes)


def module_of(steps):
    return AdversarialModule(*networks(), Batches(training_set(), 0, 0, 16), steps, GANRecipe(16, 1e-3, 1.0, 0.9))


@pytest.mark.parametrize("figures, what", [((np.nan, 0.7, 0.5, 0.5), "nan"), ((0.7, np.inf, 1, 1), "inf")])
def test_losses_that_are_not_finite_are_refused(figures, what):
    with pytest.raises(UserError, match=rf"step 5 of 9 in generation 0.*{what}.*model\.lr"):
        module_of(9).check(4, figures)


@pytest.mark.parametrize(
    "loss, generated, real, what",
    [
        (0.7, 1e-2, 0.5, "alike"),
        (0.7, 8.0, 0.5, "out of range"),
        (30.0, 0.5, 0.5, "even game"),
        (1.0, 0.2, 0.5, None),
        (1.0, 1e-3, 1e-3, None),
    ],
)
def test_divergence_is_reported_once_it_lasts_and_until_it_recovers(loss, generated, real, what):
    """A single unusual batch is none, and neither are training images that are all alike."""
    module = module_of(999)
    module.check(0, (0.7, loss, generated, real))
    assert module.warning() is None
    for k in range(1, 999):
        module.check(k, (0.7, loss, generated, real))
    if what is None:
        assert module.warning() is None
        return
    warning = module.warning() or ""
    assert what in warning and "model.gamma (now 1)" in warning, warning
    since = re.search(r"from step (\d+) of 999", warning)
    assert since and 2 < int(since[1]) < 400, warning
    for k in range(999):
        module.check(k, (0.7, 0.7, 0.5, 0.5))
    assert module.warning() is None


@pytest.mark.parametrize("settings", thinned([{"lr": 0.05, "gamma": 1e-6}, {"lr": 0.9}], 2))
def test_a_broken_training_is_told(tmp_path, settings):
    """At rates that no GAN stands, without and with penalties."""
    try:
        f = fitted(tmp_path, training_set(x=blobs(256)), images=16 * 200, **settings)
    except UserError as e:  # losses that are not finite
        assert "diverged" in str(e)
    else:
        assert "diverged" in f.facts["warning"]


@pytest.mark.nightly
def test_a_healthy_training_has_no_warning(tmp_path):
    assert "warning" not in fitted(tmp_path, training_set(x=blobs(256)), images=16 * 200).facts


def test_learning_reaches_both_modes_of_the_data(tmp_path):
    rng = np.random.default_rng(0)
    level = rng.choice([40, 200], (256, 1, 1, 1))  # dark and bright images
    x = np.clip(level + rng.normal(0, 10, (256, 1, 8, 8)), 0, 255).astype(np.uint8)
    f = fitted(tmp_path, training_set(x=x), images=32 * 300, batch=32, ema=0.97)
    brightness = f.sample(256, seed=0).x.mean((1, 2, 3))
    assert 0.2 < (brightness > 120).mean() < 0.8, brightness
    assert np.minimum(abs(brightness - 40), abs(brightness - 200)).mean() < 25  # grey images: 80


@pytest.mark.parametrize(
    "settings, what",
    [
        ({"lr": 0}, "model.lr=0"),
        ({"lr": "fast"}, "model.lr="),
        ({"batch": 1}, "at least 2"),
        ({"batch": 8.5}, "model.batch"),
        ({"blocks": 0}, "model.blocks"),
        ({"gamma": 0}, "model.gamma=0"),
        ({"gamma": float("nan")}, "model.gamma"),
        ({"ema": 1}, "model.ema=1"),
        ({"bias": 0}, "model.bias=0"),
        ({"bias": True}, "model.bias"),
        ({"labels": "none"}, "training"),
        ({"labels": "real"}, "no effect"),
        ({"widths": []}, "model.widths"),
        ({"widths": [8, "a"]}, "model.widths"),
        ({"widths": 8}, "model.widths"),
    ],
)
def test_wrong_settings_are_refused(settings, what):
    with pytest.raises(UserError, match=what) as error:
        GAN(**settings)
    assert error.value.setting == f"model.{next(iter(settings))}"


@pytest.mark.parametrize("size, widths, what", [(28, None, "preset"), (8, [8] * 4, "2"), (9, [8, 8], "9-p")])
def test_widths_that_do_not_fit_are_refused(size, widths, what):
    with pytest.raises(UserError, match=what) as error:
        check_widths(size, widths)
    assert error.value.setting == "model.widths"


def test_conf_holds_the_defaults_of_the_class():
    assert vars(parsed(["model=gan"]).build("model")) == vars(GAN())


def test_a_chain_of_gans(tmp_path):
    """Conditional and truncated; a generation without training images keeps the weights of the one before it."""
    chain = imgloop.run(
        ["model=gan", "model.widths=[8,16]", "model.conditional=true", "model.bias=0.5", "start=weights", "threads=1"]
        + ["train.images=[640,640,0]", "generations=3", "n_samples=48", "features=pixels", "display=none"]
        + [f"out={tmp_path}"]
    )
    models = [GANGenerator.load(chain.folder / f"gen{t:03d}" / "model") for t in range(3)]
    assert not equal(weights(models[0]), weights(models[1])) and equal(weights(models[1]), weights(models[2]))
    record = store.read_json(chain.folder / "gen002" / "record.json")
    assert record["nfe"] == 1 and record["images_seen"] == 0 and models[2].description["bias"] == 0.5
    assert "risk" not in chain.metrics or chain.metrics["risk"].isna().all()


def test_a_warning_is_told_in_log_record_and_report_and_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(adversarial, "LOST", 0.1)  # below the losses of any game
    chain = imgloop.run(
        ["model=gan", "model.widths=[8,16]", "threads=1", "train.images=640", "generations=2", "n_samples=48"]
        + ["features=pixels", "display=none", f"out={tmp_path}"]
    )
    records = [store.read_json(chain.folder / f"gen00{t}" / "record.json") for t in (0, 1)]
    assert all("The GAN diverged from step" in r["warning"] for r in records)
    log = (chain.folder / "run.log").read_text()
    assert all(f"generation {r['generation']}: {r['warning']}" in log for r in records)
    line, weak = page.report(chain.folder.parents[1]).warnings
    assert weak.startswith("Generation 0 is not a model of the data: ")
    assert line.endswith(f"seed 0, generation 0: {records[0]['warning']} 1 more of its generations has a warning.")
    assert line.split(":")[0] in page.html(page.report(chain.folder.parents[1]))


def blobs(n):
    """Images of a blob near one of 5 x 5 centres, uint8 (n, 1, 8, 8): 25 modes."""
    rng = np.random.default_rng(0)
    centres = np.stack(np.divmod(rng.integers(0, 25, n), 5), 1) * 1.6 + 0.3 + rng.uniform(-0.15, 0.15, (n, 2))
    return images_of(centres)


def images_of(centres):
    rows, columns = ((np.arange(8) - centres[:, i, None]) ** 2 for i in (0, 1))
    return (255 * np.exp(-(rows[:, :, None] + columns[:, None, :]) / 0.9)).round().astype(np.uint8)[:, None]


@pytest.mark.nightly
def test_keeps_all_modes_of_25_blobs(tmp_path):
    x = blobs(2000)
    templates = images_of(np.stack(np.divmod(np.arange(25), 5), 1) * 1.6 + 0.3).reshape(25, -1) / 255

    def nearest(x):
        distance = np.linalg.norm(x.reshape(len(x), 1, -1) / 255 - templates, axis=2)
        return distance.argmin(1), distance.min(1)

    assert nearest(x)[1].max() < 0.5
    f = fitted(tmp_path, training_set(x=x), images=32 * 1000, widths=[16, 32], batch=32)
    modes, distance = nearest(f.sample(2000, seed=0).x)
    clean = distance < 0.5
    assert len(np.unique(modes[clean])) == 25 and clean.mean() > 0.15, np.bincount(modes[clean], minlength=25)
