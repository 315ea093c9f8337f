"""The three objectives of diffusion models and their samplers, against closed forms and the loops of diffusers."""

from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
import torch
from conftest import thinned
from test_diffusion import fitted, training_set

from imgloop.errors import UserError
from imgloop.models import load
from imgloop.models.diffusion import Diffusion, DiffusionModule
from imgloop.models.objectives import DDPM, EDM, OBJECTIVES, Flow
from imgloop.models.recipes import recipe
from imgloop.models.samplers import draw, evaluations, guided, levels
from imgloop.pool import REAL

EACH = {
    "flow": Flow(),
    "preconditioned": Flow(mean=-0.5, sigma_data=0.5),
    "edm": EDM(),
    "v": DDPM("v"),
    "epsilon": DDPM("epsilon"),
}
PAIRS = [(name, sampler) for name, o in EACH.items() for sampler in o.samplers]
MEAN, SD = 0.3, 0.5


def scales(objective, s):
    """Signal and noise scales of x at level s, from noised images of ones and of zeros."""
    one, zero = torch.ones(len(s), 1, 1, 1, dtype=torch.double), torch.zeros(len(s), 1, 1, 1, dtype=torch.double)
    return objective.noised(one, zero, s), objective.noised(zero, one, s)


class Exact(torch.nn.Module):
    """The optimal network for data N(mean, sd^2): E[target | x], for any objective whose target is linear in x_0 and e.

    It computes the level from the timestep, to undo the scaling of its input.
    """

    def __init__(self, objective, mean=MEAN, sd=SD):
        super().__init__()
        self.objective, self.mean, self.sd = objective, mean, sd

    def forward(self, x, timestep, label=None):
        o = self.objective
        levels = {"Flow": lambda t: t / 1000, "EDM": lambda t: (4 * t).exp(), "DDPM": lambda t: t}
        s = levels[type(o).__name__](timestep)
        s = s.double()
        a, b = scales(o, s)
        one, zero = torch.ones_like(a), torch.zeros_like(a)
        x = x.double() / (o.inputs(one, s)[0])
        gain = a * self.sd**2 / (a**2 * self.sd**2 + b**2)
        clean = self.mean + gain * (x - a * self.mean)  # E[x_0 | x]
        noise = b / (a**2 * self.sd**2 + b**2) * (x - a * self.mean)  # E[e | x]
        return clean * o.target(one, zero, s) + noise * o.target(zero, one, s)


@pytest.mark.parametrize("name", EACH)
def test_a_perfect_output_gives_the_image_and_levels_are_in_range(name):
    o = EACH[name]
    g = torch.Generator().manual_seed(0)
    x, e = (torch.randn(256, 1, 4, 4, generator=g, dtype=torch.double) for _ in range(2))
    s = o.levels(256, {"generator": g, "device": "cpu", "dtype": torch.double})
    noised = o.noised(x, e, s)
    low = s < s.quantile(0.9)  # near pure noise x_0 cannot be recovered to this precision
    assert torch.allclose(o.denoised(noised, o.target(x, e, s), s)[low], x[low], atol=1e-5)
    assert (s.min() >= 0) and len(s.unique()) > 50 and len(o.quantiles(8).unique()) == 8
    scaled, timestep = o.inputs(noised, s)
    assert scaled.shape == x.shape and timestep.shape == (256,)


def test_the_levels_of_the_held_out_loss_are_midpoints():
    """Eight levels at the middle of eight equal shares, alike on both sides of the median."""
    flow, edm, ddpm = (OBJECTIVES[k]().quantiles(8) for k in ("flow", "edm", "ddpm"))
    assert torch.allclose(flow + flow.flip(0), torch.ones(8)) and flow[0] == 1 / 16
    both = edm.log() + edm.log().flip(0)
    assert torch.allclose(both, both[0].expand(8), atol=1e-4) and edm.isfinite().all() and edm.min() > 0
    assert (ddpm + ddpm.flip(0) == 999).all() and ddpm[0] == 62


@pytest.mark.parametrize("name, sampler", PAIRS)
def test_samplers_draw_from_the_distribution_of_gaussian_data(name, sampler):
    """With the exact network, latents e become mean + sd e as steps grow."""
    o, e = EACH[name], torch.randn(512, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    errors = []
    for steps in (16, 64):
        x = draw(o, guided(Exact(o), None, 1, 0), e, sampler, steps).double()
        errors.append((x - (MEAN + SD * e)).abs().mean().item())
    assert errors[1] < 0.6 * errors[0] or errors[1] < 0.01, errors
    assert errors[1] < (0.02 if sampler in ("heun", "dpmpp") else 0.06), errors


@pytest.mark.parametrize("sampler, order", [("euler", 1), ("heun", 2)])
def test_flow_samplers_converge_at_their_order(sampler, order):
    e = torch.randn(64, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    predict = guided(Exact(Flow()), None, 1, 0)
    errors = [(draw(Flow(), predict, e, sampler, n) - (MEAN + SD * e)).abs().mean().item() for n in (16, 32, 64)]
    rates = np.log2(np.divide(errors[:-1], errors[1:]))
    assert errors[-1] < (0.02, 0.001)[order - 1] and np.all(np.abs(rates - order) < 0.35), (errors, rates)


@pytest.mark.parametrize("name", EACH)
def test_the_loss_is_smallest_at_the_exact_network(name):
    class Gaussian:
        seed, t = 0, 0

        def __call__(self, k):
            g = torch.Generator().manual_seed(k)
            return MEAN + SD * torch.randn(4096, 1, 2, 2, generator=g, dtype=torch.double), None

    def loss(mean, sd):
        o = EACH[name]
        return DiffusionModule(Exact(o, mean, sd), o, cast(Any, Gaussian()), 10, recipe(8)).loss(0).item()

    assert loss(MEAN, SD) < min(loss(0.2, SD), loss(MEAN, 0.6), loss(MEAN, 0.4))


# Agreement with diffusers


def test_edm_equals_the_preconditioning_and_the_euler_loop_of_diffusers():
    from diffusers import EDMEulerScheduler  # pyright: ignore[reportPrivateImportUsage]

    o, e = EDM(), torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    scheduler = EDMEulerScheduler()
    scheduler.set_timesteps(12)
    assert np.allclose(scheduler.sigmas.numpy(), o.grid(12), rtol=1e-5)
    network = Exact(o)
    theirs = e * o.sigma_max
    for t in scheduler.timesteps:
        out = network(scheduler.scale_model_input(theirs, t), t.expand(8)).float()
        theirs = scheduler.step(out, t, theirs, return_dict=False)[0]
    assert torch.allclose(draw(o, lambda *a: network(*a).float(), e, "euler", 12), theirs, atol=1e-5)


PIPELINES = [
    ("flow", "euler", {}, "DDPMPipeline"),
    ("flow", "dpmpp", {}, "ConsistencyModelPipeline"),
    ("edm", "dpmpp", {}, "ConsistencyModelPipeline"),
    ("edm", "euler", {"conditional": True}, "ConsistencyModelPipeline"),
    ("ddpm", "ddim", {}, "DDIMPipeline"),
    ("ddpm", "ddim", {"prediction": "epsilon"}, "DDIMPipeline"),
    ("ddpm", "ddim", {"conditional": True}, "ConsistencyModelPipeline"),
    ("ddpm", "dpmpp", {"conditional": True}, "ConsistencyModelPipeline"),
]


@pytest.mark.parametrize("objective, sampler, more, kind", PIPELINES)
def test_diffusers_loads_a_saved_generation_and_draws_the_same(tmp_path, objective, sampler, more, kind):
    """The loop of DiffusionPipeline.from_pretrained gives the images of our sampler."""
    from diffusers import DiffusionPipeline  # pyright: ignore[reportPrivateImportUsage]

    data = training_set(labels=np.arange(64) % 3) if more.get("conditional") else None
    f = fitted(tmp_path, data, network="unet2d", objective=objective, sampler=sampler, sampler_steps=6, **more)
    f.save(tmp_path / "model")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "model", low_cpu_mem_usage=False)
    assert type(pipeline).__name__ == kind
    e = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2]) if more.get("conditional") else None
    ours = draw(f.objective, guided(f.network, y, 1, 0), e, sampler, 6)
    scheduler = pipeline.scheduler
    if kind == "DDPMPipeline":
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 6, 6).tolist())  # its default steps are uneven
        theirs = e
    else:
        scheduler.set_timesteps(6)
        theirs = e * (f.objective.sigma_max if (objective, sampler) == ("edm", "euler") else scheduler.init_noise_sigma)
    with torch.no_grad():
        for t in scheduler.timesteps:
            scaled = theirs if kind == "DDPMPipeline" else scheduler.scale_model_input(theirs, t)
            theirs = scheduler.step(pipeline.unet(scaled, t, class_labels=y).sample, t, theirs).prev_sample
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_ddpm_has_no_signal_at_the_last_level_with_v_and_some_with_epsilon():
    last = torch.tensor([999.0])
    assert scales(DDPM("v"), last)[0].item() == 0 < scales(DDPM("epsilon"), last)[0].item()


# Guidance, bias, steps


def test_guidance_moves_away_from_the_unlabelled_output():
    class Label(torch.nn.Module):
        def forward(self, x, timestep, y):
            return x * 0 + y.view(-1, 1, 1, 1).float()

    network = Label()
    x, y = torch.zeros(2, 1, 1, 1), torch.tensor([0, 1])
    assert guided(network, y, 1, 3)(x, torch.zeros(2)).flatten().tolist() == [0, 1]
    assert guided(network, y, 2, 3)(x, torch.zeros(2)).flatten().tolist() == [-3, -1]  # 3 + 2 (y - 3)
    assert guided(network, y, 0, 3)(x, torch.zeros(2)).flatten().tolist() == [3, 3]
    assert [evaluations(Flow(), "heun", 8), evaluations(DDPM(), "ddim", 25, 2.0)] == [15, 50]


class Counting(torch.nn.Module):
    """A network with labels that counts its evaluations by row."""

    def __init__(self, objective):
        super().__init__()
        self.exact, self.rows = Exact(objective), 0

    def forward(self, x, timestep, y):
        self.rows += len(x)
        return (self.exact(x, timestep) + 0.1 * y.view(-1, 1, 1, 1)).float()


@pytest.mark.parametrize("name, sampler", PAIRS)
def test_guidance_in_an_interval_of_noise_levels(name, sampler):
    """All levels: full guidance; none: a conditional sample without guidance; else guidance at the levels inside."""
    o, e, y = EACH[name], torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    at = sorted(levels(o, sampler, 6))
    middle = [at[1] * 1.01, at[-1] * 0.99]

    def drawn(guidance, interval=None):
        network = Counting(o)
        x = draw(o, guided(network, y, guidance, 2, o, interval), e, sampler, 6)
        assert network.rows == 2 * evaluations(o, sampler, 6, guidance, interval)
        return x, network.rows // 2

    (plain, n_plain), (full, n_full), (part, n_part) = drawn(1), drawn(2), drawn(2, middle)
    assert torch.equal(drawn(2, [0, o.highest])[0], full) and n_full == 2 * n_plain == 2 * len(at)
    between = next((a + b) / 2 for a, b in pairwise(at) if b > a * 1.1)
    assert torch.equal(drawn(2, [between, between])[0], plain)
    assert n_plain < n_part < n_full and not torch.equal(part, plain) and not torch.equal(part, full)


@pytest.mark.parametrize("name, sampler", PAIRS)
def test_the_level_of_a_timestep_is_the_one_that_it_was_made_from(name, sampler):
    o = EACH[name]
    s = o.quantiles(8)
    assert torch.allclose(o.level(o.inputs(torch.zeros(8, 1, 2, 2), s)[1]), s, rtol=1e-5)
    scheduler = o.scheduler(sampler)
    scheduler.set_timesteps(6)
    sigmas = {"flow": 1.0, "edm": o.highest}.get(name)  # of diffusers, in the same units
    if sigmas is not None and sampler == "dpmpp":
        assert np.allclose(levels(o, sampler, 6), scheduler.sigmas[:6], atol=1e-3)  # flow: whole timesteps


def test_a_saved_model_keeps_its_guidance_interval(tmp_path):
    data = training_set(labels=np.arange(64) % 3)
    settings: dict[str, Any] = {"conditional": True, "guidance": 3.0, "network": "compact"}
    whole, part = (fitted(tmp_path, data, **settings, guidance_interval=i) for i in (None, [0.3, 0.7]))
    part.save(tmp_path / "model")
    g = load(tmp_path / "model")
    assert np.array_equal(part.sample(4, seed=1).x, g.sample(4, seed=1).x)
    assert not np.array_equal(part.sample(4, seed=1).x, whole.sample(4, seed=1).x)
    assert g.facts["nfe"] < whole.facts["nfe"] and g.facts["sampling"]["guidance_interval"] == [0.3, 0.7]
    assert "guidance_interval" not in whole.description  # as before there were intervals
    path = tmp_path / "model" / "imgloop.json"
    path.write_text(path.read_text().replace("0.7", "[]"))
    with pytest.raises(UserError, match=r"imgloop.json.*guidance_interval"):
        load(tmp_path / "model")


def test_edm_is_table_1_of_karras_2022():
    """c_skip, c_out, c_in, c_noise and the weight of the loss; log-normal noise levels; sampling levels of equation
    5."""
    o, sd = EDM(), 0.5
    g = torch.Generator().manual_seed(0)
    s = o.levels(100_000, {"generator": g, "device": "cpu", "dtype": torch.double})
    assert s.log().mean().item() == pytest.approx(-1.2, abs=0.02) and s.log().std().item() == pytest.approx(1.2, 0.01)
    s = s[:64]
    x, e, out = (torch.randn(64, 1, 2, 2, generator=g, dtype=torch.double) for _ in range(3))
    sigma = s.view(-1, 1, 1, 1)
    noised = x + sigma * e
    scaled, c_noise = o.inputs(noised, s)
    assert torch.allclose(scaled, noised / (sigma**2 + sd**2).sqrt()) and torch.allclose(c_noise, s.log() / 4)
    denoised = sd**2 / (sigma**2 + sd**2) * noised + sigma * sd / (sigma**2 + sd**2).sqrt() * out
    assert torch.allclose(o.noised(x, e, s), noised) and torch.allclose(o.denoised(noised, out, s), denoised)
    weight = (sigma**2 + sd**2) / (sigma * sd) ** 2
    assert torch.allclose(o.residual(x, e, s, out).square(), weight * (denoised - x).square())
    steps = [(80 ** (1 / 7) + i / 9 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(10)]
    assert np.allclose(o.grid(10), [*steps, 0])


@pytest.mark.parametrize("name", ["flow", "edm", "v"])
def test_bias_scales_the_variance_of_samples(name):
    o, e = EACH[name], torch.randn(2000, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    variances = [draw(o, guided(Exact(o), None, 1, 0), e * b**0.5, o.samplers[0], 32).var().item() for b in (1, 0.5)]
    assert variances[1] / variances[0] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("conditional", [False, True])
def test_each_objective_trains_saves_loads_and_gives_its_risk(tmp_path, objective, conditional):
    data = training_set(labels=np.arange(64) % 3)
    f = fitted(tmp_path, data, objective=objective, conditional=conditional, guidance=2.0 if conditional else 1.0)
    f.save(tmp_path / "model")
    g = load(tmp_path / "model")
    assert np.array_equal(f.sample(6, seed=1).x, g.sample(6, seed=1).x) and f.facts == g.facts
    risk, loaded = f.risk(data.pools[REAL], 0), g.risk(data.pools[REAL], 0)
    assert risk is not None and loaded is not None and np.array_equal(risk, loaded)
    assert risk.shape == (64, 8) and np.isfinite(risk).all()


CHANGES = [
    {"objective": "edm"},
    {"objective": "ddpm"},
    {"time": "uniform"},
    {"time_mean": 1.0},
    {"precondition": True},
    {"optimizer": "adamw"},
    {"network": "compact"},
    {"ema": 0.9},
    {"batch": 16},
    {"sampler": "euler"},
    {"sampler": "dpmpp"},
    {"sampler_steps": 3},
    {"bias": 0.5},
    {"conditional": True},
]


@pytest.mark.parametrize("change", thinned(CHANGES, 2), ids=str)
def test_every_setting_has_an_effect(tmp_path, change):
    data = training_set(labels=np.arange(64) % 3)
    usual, changed = fitted(tmp_path / "a", data), fitted(tmp_path / "b", data, **change)
    assert not np.array_equal(usual.sample(4, seed=1).x, changed.sample(4, seed=1).x)


@pytest.mark.parametrize("change", [{"guidance": 2.0}, {"label_drop": 0.5}, {"labels": "real"}], ids=str)
def test_every_setting_of_conditional_models_has_an_effect(tmp_path, change):
    data = training_set(labels=np.minimum(np.arange(64) % 9, 3))
    part = type(data)(data.pools, type(data.mix)(data.mix.origin[:20], data.mix.row[:20]))  # other class frequencies
    usual, changed = (fitted(tmp_path / str(i), part, conditional=True, **c) for i, c in enumerate(({}, change)))
    a, b = usual.sample(40, seed=1), changed.sample(40, seed=1)
    assert not np.array_equal(a.x, b.x)


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"objective": "score"}, "flow, edm, ddpm"),
        ({"objective": "ddpm", "sampler": "heun"}, "ddim, dpmpp"),
        ({"sampler": "ddim"}, "heun, euler, dpmpp"),
        ({"objective": "edm", "time": "uniform"}, "setting of flow"),
        ({"prediction": "v"}, "setting of ddpm"),
        ({"objective": "edm", "time_mean": 0.5}, "setting of flow"),
        ({"time": "uniform", "time_mean": 0.5}, "setting of logit_normal"),
        ({"network": "unet2d", "precondition": True}, "without it"),
        ({"guidance": 2.0}, "conditional=true"),
        ({"label_drop": 0.5}, "conditional=true"),
        ({"labels": "real"}, "conditional=true"),
        ({"conditional": True, "guidance": 2.0, "label_drop": 0}, "label_drop above 0"),
        ({"guidance_interval": [0.2, 0.8]}, "set model.guidance"),
        ({"conditional": True, "guidance_interval": [0.2, 0.8]}, "set model.guidance"),
        (
            {"conditional": True, "guidance": 2.0, "guidance_interval": [0.2, 0.21], "sampler_steps": 2},
            "at none of its levels, but at 0.5, 1;",
        ),
        *(
            ({"conditional": True, "guidance": 2.0, "guidance_interval": i}, r"two noise levels.*from 0 to 1,")
            for i in ([0.8, 0.2], [0.2, 1.5], [-1, 0.5], [0.5], 0.5, [True, False], [0.1, float("nan")])
        ),
        ({"objective": "ddpm", "conditional": True, "guidance": 2.0, "guidance_interval": [0, 1000]}, "0 to 999"),
        ({"bias": 0}, "above 0"),
        ({"objective": "ddpm", "sampler_steps": 1001}, "1 to 1000"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_together_raise(settings, word):
    with pytest.raises(UserError, match=word):
        Diffusion(**settings)
