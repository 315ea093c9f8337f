"""The diffusion generator: sampling, saving, presets, moving average, and settings that change no result."""

import functools
import re

import numpy as np
import pytest
import torch
from conftest import TINY
from torch._dynamo.testing import CompileCounter

import imgloop
from imgloop import store
from imgloop.errors import Stopped, UserError
from imgloop.models import load
from imgloop.models.diffusion import Diffusion, DiffusionGenerator, DiffusionModule
from imgloop.models.extrapolation import away
from imgloop.models.gan import GAN
from imgloop.models.gan_networks import check_widths
from imgloop.models.networks import PRESETS, CompactUNet, build_network
from imgloop.models.samplers import guided
from imgloop.pool import REAL, Mix, Pool, TrainingSet
from imgloop.training import trainer
from imgloop.training.tasks import Task, TrainerSettings


def training_set(n=64, channels=1, size=8, labels=None):
    rng = np.random.default_rng(0)
    pool = Pool(rng.integers(0, 256, (n, channels, size, size), np.uint8), labels)
    return TrainingSet({REAL: pool}, Mix(np.full((n, 1), REAL), np.arange(n)[:, None]))


def fitted(tmp_path, data=None, images=128, settings=None, **model):
    model = {"widths": [8, 16], "batch": 32, "sampler_steps": 2, **model}
    task = Task(0, 0, images, "scratch", tmp_path / "scratch", trainer=settings or TrainerSettings())
    return Diffusion(**model).fit(data or training_set(), task, None)


def test_sample_i_depends_only_on_seed_and_i(tmp_path):
    f = fitted(tmp_path)
    many = f.sample(300, seed=7).x
    assert np.array_equal(f.sample(5, seed=7).x, many[:5])  # not on the number of samples
    assert not np.array_equal(f.sample(5, seed=8).x, many[:5])
    assert len(np.unique(many.reshape(300, -1), axis=0)) == 300  # all different, also across chunks
    assert many.dtype == np.uint8 and many.shape == (300, 1, 8, 8)


@pytest.mark.parametrize("network", ["patch", "compact", "unet2d"])
@pytest.mark.parametrize("conditional", [False, True])
def test_saved_and_loaded_gives_the_same_samples_and_risk(tmp_path, network, conditional):
    y = np.arange(64) % 3 if conditional else None
    data = training_set(labels=y)
    f = fitted(tmp_path, data, network=network, conditional=conditional)
    f.save(tmp_path / "model")
    g = load(tmp_path / "model")
    a, b = f.sample(10, seed=1), g.sample(10, seed=1)
    assert np.array_equal(a.x, b.x) and (a.y is None) == (not conditional)
    real = data.pools[REAL]
    assert np.array_equal(f.risk(real, 0), g.risk(real, 0)) and f.risk(real, 0).shape == (64, 8)
    if conditional:
        assert np.array_equal(a.y, b.y)
        given = f.sample(10, seed=1, y=np.full(10, 2))
        assert np.array_equal(given.y, np.full(10, 2)) and not np.array_equal(given.x, a.x)


@pytest.mark.parametrize("kind", list(PRESETS))
@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_presets_for_four_sizes(kind, size):
    network = build_network(kind, size, 3, None, 5)
    x = torch.randn(2, 3, size, size)
    out = network(x, torch.tensor([0.0, 1000.0]), torch.tensor([0, 4]))
    assert getattr(out, "sample", out).shape == x.shape


def test_compact_network_has_half_the_parameters_of_unet2d():
    counts = [sum(p.numel() for p in build_network(k, 16, 3, (32, 64, 64)).parameters()) for k in ("compact", "unet2d")]
    assert 0.3 < counts[0] / counts[1] < 0.7, counts


def test_compact_network_uses_time_and_label():
    network = CompactUNet(8, 1, (8, 16), 3)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)
    x = torch.randn(1, 1, 8, 8)
    outputs = [network(x, torch.tensor([t]), torch.tensor([y])) for t, y in ((100.0, 0), (900.0, 0), (100.0, 1))]
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-3) and not torch.allclose(
        outputs[0], outputs[2], atol=1e-3
    )


def test_chunk_and_residence_change_no_bit(tmp_path, monkeypatch):
    samples = []
    for i, (chunk, resident_gib) in enumerate(((1, 0.0), (5, 0.0), (5, 1.0))):
        monkeypatch.setitem(trainer.CHUNK, "cpu", chunk)
        f = fitted(tmp_path / str(i), images=32 * 9, settings=TrainerSettings(resident_gib=resident_gib))
        samples.append(f.sample(4, seed=0).x)
    assert np.array_equal(samples[0], samples[1]) and np.array_equal(samples[0], samples[2])


def test_flips_train_another_model_that_resumes_bit_by_bit(tmp_path):
    """Interrupted after three of nine steps and resumed, as in one run."""

    def task(name, flip, last=None):
        steps = []
        scratch = tmp_path / name
        return Task(
            *(0, 0, 32 * 9, "scratch", scratch),
            progress=lambda done, total, **figures: steps.append(done),
            stop=lambda: last is not None and len(steps) >= last,
            chunk=1,
            flip=flip,
        )

    model = Diffusion(widths=[8, 16], batch=32, sampler_steps=2)
    plain, flipped = (
        model.fit(training_set(), task(str(flip), flip), None).sample(4, seed=0).x for flip in (False, True)
    )
    with pytest.raises(Stopped):
        model.fit(training_set(), task("parts", True, 3), None)
    assert np.array_equal(model.fit(training_set(), task("parts", True), None).sample(4, seed=0).x, flipped)
    assert not np.array_equal(plain, flipped)


def test_ema_follows_its_recursion(tmp_path):
    """e <- d e + (1 - d) w with d = min(ema, (1 + k) / (10 + k))."""
    weights, step = [], DiffusionModule.step

    def spy(self, k, optimizers):
        loss = step(self, k, optimizers)
        weights.append(next(self.network.parameters()).detach().clone())
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiffusionModule, "step", spy)
        first, init = [], DiffusionModule.__init__

        def initialised(self, network, *arguments):
            first.append(next(network.parameters()).detach().clone())
            init(self, network, *arguments)

        patch.setattr(DiffusionModule, "__init__", initialised)
        f = fitted(tmp_path, images=32 * 30, ema=0.6)
    e = first[0]
    for k, w in enumerate(weights):
        d = min(0.6, (1 + k) / (10 + k))
        e = d * e + (1 - d) * w
    assert torch.allclose(next(f.network.parameters()), e, atol=1e-6) and not torch.allclose(e, weights[-1], atol=1e-6)
    assert not next(f.network.parameters()).requires_grad


def test_learning_lowers_the_loss_and_the_held_out_risk(tmp_path):
    rng = np.random.default_rng(0)
    x = np.clip(rng.normal(60, 10, (128, 1, 8, 8)), 0, 255).astype(np.uint8)
    data = TrainingSet({REAL: Pool(x)}, Mix(np.full((128, 1), REAL), np.arange(128)[:, None]))
    early, late = fitted(tmp_path / "a", data, images=64), fitted(tmp_path / "b", data, images=32 * 300)
    assert late.risk(Pool(x), 0).mean() < 0.6 * early.risk(Pool(x), 0).mean()
    assert abs(late.sample(100, seed=0).x.mean() - 60) < 15


def test_start_policies(tmp_path):
    """weights: network and average start at the previous average, the optimiser is new. weights_and_optimizer: all
    three continue."""
    model, data = Diffusion(widths=[8, 16], batch=32), training_set()
    first = model.fit(data, Task(0, 0, 128, "weights_and_optimizer", tmp_path / "0"), None)
    first.save(tmp_path / "m")
    first = model.load(tmp_path / "m")
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        configure = DiffusionModule.configure_optimizers

        def spy(self):
            optimizers = configure(self)
            seen.update(
                network=[p.detach().clone() for p in self.network.parameters()],
                ema=[p.clone() for p in self.ema.parameters()],
                state=min(len(o.state_dict()["state"]) for o in optimizers),
            )
            return optimizers

        patch.setattr(DiffusionModule, "configure_optimizers", spy)
        for start in ("weights", "weights_and_optimizer"):
            model.fit(data, Task(1, 0, 64, start, tmp_path / start), first)
            average = list(first.network.parameters())
            assert all(torch.equal(a, b) for a, b in zip(seen["ema"], average))
            same = all(torch.equal(a, b) for a, b in zip(seen["network"], average))
            assert (same, seen["state"] > 0) == ((True, False) if start == "weights" else (False, True))
    with pytest.raises(UserError, match="optimiser") as error:
        model.fit(data, Task(1, 0, 64, "weights_and_optimizer", tmp_path / "x"), fitted(tmp_path / "y"))
    assert error.value.setting == "start"


def test_a_damaged_model_is_refused_by_name(tmp_path):
    fitted(tmp_path).save(tmp_path / "model")
    path = tmp_path / "model" / "network.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"network\.safetensors"):
        load(tmp_path / "model")
    (tmp_path / "model" / "imgloop.json").write_text('{"kind": "os.system"}')
    with pytest.raises(UserError, match="kind"):
        load(tmp_path / "model")


@pytest.mark.parametrize("kind", ["patch", "compact", "gan"])
@pytest.mark.parametrize("size", [6, 7, 12, 15, 20, 24, 48, 100])
def test_widths_named_for_a_size_without_a_preset_fit_it(kind, size):
    def build(widths, network):
        return check_widths(size, widths) if kind == "gan" else build_network(network, size, 1, widths)

    with pytest.raises(UserError, match=f"no preset for {size}-pixel") as error:
        build(None, kind)
    widths = re.search(r"model.widths=\[([\d,]+)\]", str(error.value))
    network = re.search(r"model.network=(\w+) and", str(error.value))
    build([int(w) for w in widths[1].split(",")], network[1] if network else kind)
    if kind == "patch":
        with pytest.raises(UserError, match="needs at least two") as error:
            build([16], kind)
        named = re.search(r"for example \[(\d+),(\d+)\]", str(error.value))
        build(*(([int(w) for w in named.groups()], kind) if named else ([16], "compact")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine has a GPU")
def test_a_missing_gpu_is_refused():
    with pytest.raises(UserError, match="no GPU") as error:
        TrainerSettings(accelerator="gpu")
    assert error.value.setting == "trainer"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("channels_last", [False, True])
def test_compiled_and_eager_gradients_agree_on_a_gpu(channels_last):
    network = build_network("compact", 16, 3, None).cuda()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.05)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    x, t = torch.randn(16, 3, 16, 16, device="cuda"), torch.rand(16, device="cuda") * 1000
    gradients = []
    for run in (network, torch.compile(network)):
        network.zero_grad()
        run(x, t).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]).clone())
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.9999
    assert (gradients[0] - gradients[1]).norm() / gradients[0].norm() < 1e-2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "32-true"},
        {"precision": "bf16-mixed", "channels_last": True, "resident_gib": 1.0},
        {"precision": "bf16-mixed", "compile": True},
        {"precision": "bf16-mixed", "channels_last": True, "resident_gib": 1.0, "compile": "graphs"},
    ],
)
def test_a_generation_on_a_gpu(tmp_path, settings):
    f = fitted(tmp_path, images=640, settings=TrainerSettings(accelerator="gpu", **settings))
    assert isinstance(f, DiffusionGenerator) and f.sample(8, seed=0).x.std() > 0


@pytest.mark.parametrize("network", ["patch", pytest.param("unet2d", marks=pytest.mark.nightly)])
def test_a_network_is_compiled_once_whatever_the_size_of_the_training_set(tmp_path, monkeypatch, network):
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    torch._dynamo.reset()
    frames = []
    for images in (32, 320):  # 50 rows by batches of 32: several epochs, none of which ends with a batch
        data = training_set(50)
        fitted(tmp_path / str(images), data, images, TrainerSettings(compile=True), network=network)
        frames.append(counter.frame_count)
        torch._dynamo.reset()
    assert frames[0] > 0 and frames[1] == 2 * frames[0]


def test_bf16_steps_use_the_weights_of_the_step_before_in_chunks_of_any_size(tmp_path):
    settings = TrainerSettings()
    object.__setattr__(settings, "precision", "bf16-mixed")  # refused on a CPU, since it is slow there
    weights = []
    for chunk in (1, 16):
        task = Task(0, 0, 16 * 8, "scratch", tmp_path / str(chunk), trainer=settings, chunk=chunk)
        f = Diffusion(network="patch", widths=[8, 8], batch=8).fit(training_set(), task, None)
        weights.append(torch.cat([p.flatten() for p in f.network.parameters()]))
    assert weights[0].dtype == torch.float32 and torch.equal(*weights)
    exact = fitted(tmp_path / "exact", images=16 * 8, network="patch", widths=[8, 8], batch=8).network.parameters()
    exact = torch.cat([p.flatten() for p in exact])
    assert 0 < (weights[0] - exact).norm() < 0.1 * exact.norm()


def test_cuda_graphs_are_refused_where_they_have_no_use(tmp_path):
    with pytest.raises(UserError, match="needs a GPU") as error:
        TrainerSettings(compile="graphs")
    assert error.value.setting == "trainer.compile"
    with pytest.raises(UserError, match="give one of false, true, graphs"):
        TrainerSettings(compile="max")
    settings = TrainerSettings()
    object.__setattr__(settings, "compile", "graphs")
    with pytest.raises(UserError, match="model=diffusion"):
        GAN(batch=8).fit(training_set(), Task(0, 0, 8, "scratch", tmp_path, trainer=settings), None)


def test_the_sampling_bias_is_that_of_the_generation(tmp_path):
    result = imgloop.run(
        [*TINY, "paradigm=replace", "generations=2", "model.bias={start:1,factor:0.25}", f"out={tmp_path}"]
    )
    plain = imgloop.run([*TINY, "paradigm=replace", "generations=2", f"out={tmp_path}"])
    biases = [store.read_json(result.folder / f"gen{t:03d}" / "record.json")["sampling"]["bias"] for t in range(2)]
    assert biases == [1.0, 0.25]
    x = [
        [store.open_arrays(r.folder / f"gen{t:03d}" / "pool.safetensors")["x"] for r in (result, plain)] for t in (0, 1)
    ]
    assert np.array_equal(*x[0]) and not np.array_equal(*x[1])


@pytest.mark.parametrize(
    "bias, words", [([1, 0.5], "lists 2 values"), ([1, 0], "model.bias=0"), ("{speed:1}", "schedule")]
)
def test_a_schedule_of_the_sampling_bias_is_checked_before_training(tmp_path, bias, words):
    with pytest.raises(UserError, match=words):
        imgloop.run([*TINY, "generations=3", f"model.bias={bias}", f"out={tmp_path}"])
    assert not list(tmp_path.rglob("record.json"))


def test_a_list_too_short_for_an_extended_chain_is_refused_before_training(tmp_path, monkeypatch):
    given = [*TINY, "paradigm=replace", "model.bias=[1,0.9]", f"out={tmp_path}"]
    imgloop.run([*given, "generations=2"])
    monkeypatch.setattr(Diffusion, "fit", None)
    with pytest.raises(UserError, match="lists 2 values, but generation 2 needs one"):
        imgloop.run([*given, "generations=3"])


# -- Extrapolation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditional", [False, True])
def test_weights_move_away_from_those_after_training_on_own_samples(tmp_path, conditional):
    data = training_set(labels=np.arange(64) % 3 if conditional else None)
    given = {"data": data, "images": 256, "conditional": conditional}
    plain, one, three = (fitted(tmp_path / str(w), **given, extrapolate=w) for w in (0, 1, 3))
    weights = [dict(f.network.named_parameters()) for f in (plain, one, three)]
    moved = [{k: (w[k] - weights[0][k]).detach() for k in w} for w in weights[1:]]
    assert any(m.abs().max() > 1e-6 for m in moved[0].values())
    for k in weights[0]:
        assert torch.allclose(moved[1][k], 3 * moved[0][k], atol=1e-6), k
    model = Diffusion(widths=[8, 16], batch=32, sampler_steps=2, conditional=conditional)
    model.lr = 0.02 * model.recipe(8).lr
    own = TrainingSet({REAL: plain.sample(64, seed=store.seed_of(0, 0, "extrapolate"))}, data.mix)
    on = model.fit(own, Task(0, store.seed_of(0, 0, "own"), 32, "weights", tmp_path / "on"), plain)
    for k, v in on.network.named_parameters():
        assert torch.allclose(weights[0][k] - v, moved[0][k], atol=1e-6), k
    assert (
        one.facts["extrapolated"] == {"weight": 1, "images": 32, "by": "weights"} and "extrapolated" not in plain.facts
    )
    one.save(tmp_path / "model")
    assert np.array_equal(load(tmp_path / "model").sample(4, seed=0).x, one.sample(4, seed=0).x)


@pytest.mark.parametrize("objective", ["flow", "edm", "ddpm"])
def test_scores_move_away_from_those_after_training_on_own_samples(tmp_path, objective):
    data = training_set(labels=np.arange(64) % 3)
    given = {"data": data, "images": 256, "conditional": True, "objective": objective}
    plain, weights, scores = (
        fitted(tmp_path / f"{w}{by}", **given, extrapolate=w, extrapolate_by=by, guidance=2)
        for w, by in ((0, "weights"), (1, "weights"), (2, "scores"))
    )
    base, own = (dict(f.named_parameters()) for f in (scores.network, scores.own))
    for k, v in weights.network.named_parameters():  # the same training on own samples as for weights
        assert torch.allclose(v, 2 * base[k] - own[k], atol=1e-6), k
    assert scores.facts["nfe"] == 2 * plain.facts["nfe"] and scores.facts["extrapolated"]["by"] == "scores"

    x, y = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3
    level = x.new_full((4,), float(plain.objective.quantiles(3)[1]))
    both = [guided(f, y, 2, 3) for f in (scores.network, scores.own)]
    noised, timestep = plain.objective.inputs(x, level)
    with torch.inference_mode():
        if objective != "ddpm":  # which is sampled by the schedulers of diffusers
            of = [plain.objective.derivative(x, f(noised, timestep), level) for f in (*both, away(*both, 2))]
            assert (of[0] - of[1]).abs().max() > 1e-4
            assert torch.allclose(of[2], of[0] + 2 * (of[0] - of[1]), atol=1e-5)
        else:
            of = [f(noised, timestep) for f in (*both, away(*both, 2))]
            assert torch.allclose(of[2], of[0] + 2 * (of[0] - of[1]), atol=1e-5)
    scores.save(tmp_path / "model")
    drawn = scores.sample(4, seed=0).x
    assert np.array_equal(load(tmp_path / "model").sample(4, seed=0).x, drawn)
    assert not np.array_equal(plain.sample(4, seed=0).x, drawn)
    (tmp_path / "model" / "own.safetensors").unlink()
    with pytest.raises(UserError, match=r"own\.safetensors"):
        load(tmp_path / "model")


def test_scores_extrapolated_with_a_network_that_diffusers_samples_are_refused():
    with pytest.raises(UserError, match="unet2d, whose files diffusers samples"):
        Diffusion(extrapolate=1, extrapolate_by="scores", network="unet2d")
    with pytest.raises(UserError, match="extrapolate_by has no effect without"):
        Diffusion(extrapolate_by="scores")


@pytest.mark.parametrize("last", [3, 10])
def test_an_extrapolation_resumes_bit_by_bit(tmp_path, last):
    """Interrupted in the training on real images, and in that on own samples."""

    def task(name, last=None):
        seen = []
        return Task(
            *(0, 0, 32 * 8, "scratch", tmp_path / name),
            progress=lambda done, total, **figures: seen.append(done),
            stop=lambda: last is not None and len(seen) >= last,
            chunk=1,
        )

    model = Diffusion(widths=[8, 16], batch=32, sampler_steps=2, extrapolate=1, extrapolate_share=0.5)
    whole = model.fit(training_set(), task("whole"), None).sample(4, seed=0).x
    with pytest.raises(Stopped):
        model.fit(training_set(), task("parts", last), None)
    assert np.array_equal(model.fit(training_set(), task("parts"), None).sample(4, seed=0).x, whole)


def test_the_weight_of_an_extrapolation_is_checked():
    for wrong in (-1, "much", [0, -1], {"begin": 1}):
        with pytest.raises(UserError, match="extrapolate"):
            Diffusion(extrapolate=wrong)
    assert [Diffusion(extrapolate={"start": 2, "factor": 0.5}).extrapolate_at(t) for t in range(3)] == [2, 1, 0.5]
