"""Diffusion: the fitted generator and the model as configured. Its training is in denoising.py, objectives are in
objectives.py, samplers in samplers.py, and what settings are by default in recipes.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from imgloop import ranks, store
from imgloop.config.fields import check_settings, setting
from imgloop.config.schedule import Knob
from imgloop.contracts import Generator, Model, Progress, no_progress
from imgloop.data.real import RealData
from imgloop.errors import UserError, first_line
from imgloop.models.base import (
    CHUNK,
    bias_schedule,
    check_description,
    check_images,
    label_frequencies,
    load_training,
    sample_images,
    sampling,
    save_training,
)
from imgloop.models.denoising import DiffusionModule
from imgloop.models.extrapolation import (
    EXTRAPOLATE_SHARE,
    OWN_LR,
    PLAIN,
    away,
    by_scores,
    check_extrapolation,
    move_away,
    weight_schedule,
)
from imgloop.models.networks import PRESETS, build_network, check_widths_list, widths_of
from imgloop.models.objectives import OBJECTIVES
from imgloop.models.recipes import Recipe, recipe
from imgloop.models.samplers import STEPS, draw, evaluations, guided, levels, output, within
from imgloop.pool import Pool, TrainingSet
from imgloop.training.batches import Batches
from imgloop.training.memory import check_fits
from imgloop.training.tasks import History, Task
from imgloop.training.trainer import Trained, compiled, fit

NEEDED = (  # of the description of a saved generator
    "size", "channels", "embeddings", "objective", "sampler", "sampler_steps", "bias", "guidance", "label_frequencies",
    "trained_images",
)  # fmt: skip
RISK_LEVELS = 8  # noise levels of the held-out denoising loss


class DiffusionGenerator(Generator):
    """A fitted model: samples, saves, and computes its denoising loss on real data.

    `description` is JSON-able and holds all that loading needs: network, shape, objective, sampler, label frequencies.
    """

    def __init__(
        self,
        network: nn.Module,
        description: dict[str, Any],
        device: str = "cpu",
        training: dict[str, Any] | None = None,
        history: History | None = None,
        own: nn.Module | None = None,  # after training on own samples; scores are moved away from its scores
    ):
        self.network: Any = network.eval().to(device)
        self.own = None if own is None else own.eval().to(device)
        self.description, self.device, self.training, self.history = description, device, training, history
        settings = dict(description["objective"])
        self.objective = OBJECTIVES[settings.pop("kind")](**settings)

    @property
    def facts(self) -> dict[str, Any]:
        """Training images seen, network evaluations a sample (NFE) and the settings of sampling."""
        d = self.description
        interval = d.get("guidance_interval")
        nfe = evaluations(self.objective, d["sampler"], d["sampler_steps"], d["guidance"], interval)
        nfe *= 1 if self.own is None else 2
        own = {k: d[k] for k in ("extrapolated",) if k in d}
        return {"images_seen": d["trained_images"], "nfe": nfe, "sampling": sampling(d), **own}

    def sample(self, n: int, *, seed: int, y: np.ndarray | None = None, progress: Progress = no_progress) -> Pool:
        """Draw n images, uint8 (n, C, H, W); sample i is a function of (weights, seed, i, its label) alone.

        Labels of a class-conditional generator follow its label frequencies unless `y` int64 (n,) gives them.
        """
        d = self.description

        def images_of(latents: Tensor, labels: Tensor | None) -> Tensor:
            classes, interval = len(d["label_frequencies"] or ()), d.get("guidance_interval")
            predict, *own = (
                guided(network, labels, d["guidance"], classes, self.objective, interval)
                for network in (self.network, self.own)
                if network is not None
            )
            if own:
                predict = away(predict, own[0], d["extrapolated"]["weight"])
            return draw(self.objective, predict, latents, d["sampler"], d["sampler_steps"])

        return sample_images(images_of, n, (d["channels"], d["size"], d["size"]), d, self.device, seed, y, progress)

    @torch.inference_mode()
    def risk(self, real: Pool, seed: int) -> np.ndarray:
        """Denoising loss of real images on a fixed grid of noise levels and noises, float64 (N, RISK_LEVELS)."""
        out = np.zeros((len(real), RISK_LEVELS))
        conditional = self.description["label_frequencies"] is not None
        for first in ranks.turns(len(real), CHUNK):
            x = torch.from_numpy(np.array(real.x[first : first + CHUNK])).to(self.device).float().div_(127.5).sub_(1)
            y = None
            if conditional:
                assert real.y is not None
                y = torch.from_numpy(np.array(real.y[first : first + CHUNK])).to(self.device)
            for level, value in enumerate(self.objective.quantiles(RISK_LEVELS)):
                g = torch.Generator().manual_seed(store.seed_of(seed, "risk", first // CHUNK, level))
                e = torch.randn((CHUNK, *x.shape[1:]), generator=g)[: len(x)].to(self.device)
                s = x.new_full((len(x),), float(value))
                noised, timestep = self.objective.inputs(self.objective.noised(x, e, s), s)
                residual = self.objective.residual(x, e, s, output(self.network, noised, timestep, y))
                out[first : first + len(x), level] = residual.square().flatten(1).mean(1).double().cpu().numpy()
        return ranks.summed(out)

    def save(self, folder: Path) -> None:
        """Write the weights (safetensors) and the description; with UNet2DModel in the layout that diffusers loads."""
        folder = Path(folder)
        store.write_json(folder / "imgloop.json", {"kind": "diffusion", **self.description})
        if self.description["network"] == "unet2d":
            self.save_pipeline(folder)
        else:
            for name, network in (("network", self.network), ("own", self.own)):
                if network is not None:
                    weights = {k: v.cpu().numpy() for k, v in network.state_dict().items()}
                    store.write_arrays(folder / f"{name}.safetensors", weights)
        save_training(folder, self.training)

    def save_pipeline(self, folder: Path) -> None:
        """Write the layout that diffusers loads by itself: a stock pipeline that samples this model, or, for a flow
        with labels, which has none, network and scheduler."""
        from diffusers import ConsistencyModelPipeline, DDIMPipeline, DDPMPipeline

        d, labelled = self.description, self.description["label_frequencies"] is not None
        scheduler = self.objective.scheduler(d["sampler"])
        path_by_path = d["objective"]["kind"] == "flow" and d["sampler"] != "dpmpp"  # such a scheduler scales no input
        if path_by_path and labelled:
            self.network.save_pretrained(folder / "unet")
            scheduler.save_pretrained(folder / "scheduler")
        elif path_by_path:
            DDPMPipeline(self.network, scheduler).save_pretrained(folder)
        elif d["sampler"] == "ddim" and not labelled:
            DDIMPipeline(self.network, scheduler).save_pretrained(folder)
        else:
            ConsistencyModelPipeline(self.network, scheduler).save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> DiffusionGenerator:
        """The generator saved in `folder`; raises UserError, naming the file, if one is missing or damaged."""
        folder = Path(folder)
        path = folder / "imgloop.json"
        d = store.read_json(path)
        if not isinstance(d, dict) or d.pop("kind", None) != "diffusion":
            raise UserError(f"{path} does not describe a diffusion model.")
        check_description(d, path, ("network", "widths", *NEEDED))
        kind = d["objective"].get("kind") if isinstance(d["objective"], dict) else None
        if not isinstance(kind, str) or kind not in OBJECTIVES or d["sampler"] not in OBJECTIVES[kind].samplers:
            raise store.damaged(path, "does not describe an objective and its sampler")
        if (interval := d.get("guidance_interval")) is not None and not is_interval(interval):
            raise store.damaged(path, f"has guidance_interval {str(interval)[:40]}, which is not two noise levels")
        own = None
        try:
            network: Any = build_network(d["network"], d["size"], d["channels"], tuple(d["widths"]), d["embeddings"])
            if by_scores(d, path):
                own = build_network(d["network"], d["size"], d["channels"], tuple(d["widths"]), d["embeddings"])
        except (UserError, TypeError, ValueError) as e:
            raise store.damaged(path, f"does not describe a network ({e})") from e
        try:
            if d["network"] == "unet2d":
                network = type(network).from_pretrained(folder / "unet", low_cpu_mem_usage=False)
            else:
                for name, built in (("network", network), ("own", own)):
                    if built is not None:
                        arrays = store.open_arrays(folder / f"{name}.safetensors")
                        built.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in arrays.items()})
        except (RuntimeError, OSError) as e:
            raise store.damaged(folder, f"holds weights that cannot be loaded ({first_line(e)})") from e
        try:
            return cls(network, d, device, load_training(folder), own=own)
        except (TypeError, KeyError) as e:
            raise store.damaged(path, f"does not describe an objective ({e})") from e


@dataclass
class Diffusion(Model):
    """The model as configured (conf/model/diffusion.yaml, which says what each setting is)."""

    network: str | None = setting(None, choices=(None, *PRESETS))
    widths: Sequence[int] | None = None
    conditional: bool = setting(False)
    batch: int | None = setting(None, kind=int, low=1)
    optimizer: str | None = setting(None, choices=(None, "adamw", "muon"))
    lr: float | None = setting(None, kind=float, above=0, below=1)
    ema: float | None = setting(None, kind=float, low=0, below=1)
    objective: str = setting("flow", choices=tuple(OBJECTIVES))
    time: str = setting("logit_normal", choices=("logit_normal", "uniform"))
    time_mean: float | None = setting(None, kind=float, low=-5, high=5)
    precondition: bool = setting(False)
    prediction: str | None = setting(None, choices=(None, "v", "epsilon"))
    sampler: str | None = None
    sampler_steps: int | None = setting(None, kind=int, low=1, high=1000)  # diffusers' schedulers have 1000 levels
    bias: Knob = 1.0
    extrapolate: Knob = 0.0
    extrapolate_by: str = setting("weights", choices=("weights", "scores"))
    extrapolate_share: float = setting(EXTRAPOLATE_SHARE, above=0, high=1)
    labels: str = setting("training", choices=("training", "real"))
    guidance: float = setting(1.0, low=0)
    guidance_interval: Sequence[float] | None = None
    label_drop: float = setting(0.1, low=0, below=1)

    weighted = flips = True

    def __post_init__(self):
        check_settings(self, "model")
        self.bias_at, self.extrapolate_at = bias_schedule(self.bias), weight_schedule(self.extrapolate)
        of_flow = (("time", "logit_normal"), ("time_mean", None), ("precondition", False))
        for name, usual, of in (*((n, u, "flow") for n, u in of_flow), ("prediction", None, "ddpm")):
            if getattr(self, name) != usual and self.objective != of:
                raise UserError(
                    f"model.{name} has no effect with model.objective={self.objective}; it is a setting of {of}.",
                    f"model.{name}",
                )
        check_extrapolation(self)
        if self.time_mean is not None and self.time != "logit_normal":
            raise UserError(
                f"model.time_mean has no effect with model.time={self.time}; it is a setting of logit_normal.",
                "model.time_mean",
            )
        if self.precondition and self.network == "unet2d":
            raise UserError(
                "model.precondition=true is not for model.network=unet2d, whose flow diffusers samples without it: "
                "leave it out, or use model.objective=edm, which has it.",
                "model.precondition",
            )
        samplers = OBJECTIVES[self.objective].samplers
        if self.sampler not in (None, *samplers):
            raise UserError(
                f"model.sampler={self.sampler}: model.objective={self.objective} is sampled by "
                f"{', '.join(samplers)}; choose one.",
                "model.sampler",
            )
        self.sampler = self.sampler or samplers[0]
        self.sampler_steps = STEPS[self.sampler] if self.sampler_steps is None else self.sampler_steps
        for name, usual in (("labels", "training"), ("guidance", 1), ("label_drop", 0.1)):
            if not self.conditional and getattr(self, name) != usual:
                raise UserError(
                    f"model.{name} has no effect without labels: add model.conditional=true, or leave it out.",
                    f"model.{name}",
                )
        if self.guidance != 1 and self.label_drop == 0:
            raise UserError(
                "model.guidance needs a model that is also trained without labels: set model.label_drop above 0.",
                "model.label_drop",
            )
        if self.guidance_interval is not None:
            objective = OBJECTIVES[self.objective]()
            self.check_interval(
                self.guidance_interval, objective.highest, levels(objective, self.sampler, self.sampler_steps)
            )
        check_widths_list(self.widths)

    def check_interval(self, interval: Any, highest: float, visited: Sequence[float]) -> None:
        """Raise UserError unless `interval` is two levels [low, high] of the objective with one of those that sampling
        visits between them, and there is guidance."""
        if self.guidance == 1:
            raise UserError(
                "model.guidance_interval has no effect without guidance: set model.guidance to another number than 1, "
                "with model.conditional=true, or leave it out.",
                "model.guidance_interval",
            )
        if not (is_interval(interval) and interval[1] <= highest):
            raise UserError(
                f"model.guidance_interval={interval}: give two noise levels [low,high] of "
                f"model.objective={self.objective}, from 0 to {highest:g}, or null for all.",
                "model.guidance_interval",
            )
        if not any(within(s, interval) for s in visited):
            shown = ", ".join(f"{s:.3g}" for s in sorted(set(visited))[:8])
            raise UserError(
                f"model.guidance_interval={interval} has no effect: sampling evaluates the network at none of its "
                f"levels, but at {shown}{', ...' * (len(set(visited)) > 8)}; give a wider interval.",
                "model.guidance_interval",
            )

    def recipe(self, size: int) -> Recipe:
        """How images of `size` pixels are trained: what is set, and the recipe's values for the rest."""
        usual = recipe(size, self.network, self.optimizer)
        given = {"batch": self.batch, "lr": self.lr, "ema": self.ema, "mean": self.time_mean}
        return replace(usual, **{k: v for k, v in given.items() if v is not None})

    def objective_of(self, r: Recipe, data: TrainingSet, previous: DiffusionGenerator | None) -> dict[str, Any]:
        """The objective's kind and settings, as a saved generator describes them. A preconditioned flow takes the scale
        of the images from the training set, or goes on with that of the model it starts from."""
        flow: dict[str, Any] = {"time": self.time}
        if self.time == "logit_normal" and r.mean:
            flow["mean"] = float(r.mean)
        if self.precondition:
            flow["sigma_data"] = previous.description["objective"].get("sigma_data") if previous else scale_of(data)
        own = {"flow": flow, "edm": {}, "ddpm": {"prediction": self.prediction or "v"}}[self.objective]
        return {"kind": self.objective, **own}

    def check(self, real: RealData, images: tuple[int, ...]) -> None:
        """Raise UserError for images or a budget that this model cannot be trained with."""
        _, channels, size, _ = real.train.x.shape
        r = self.recipe(size)
        check_images(r.batch, self.conditional, real, images)
        with torch.device("meta"):
            network = build_network(r.network, size, channels, self.widths and tuple(self.widths))
        check_fits([network], "model.widths")

    def fit(self, data: TrainingSet, task: Task, previous: DiffusionGenerator | None) -> DiffusionGenerator:
        """Train on `data` for the task's images; `start` says whether from `previous` (its averaged weights) or
        from scratch."""
        n, channels, size, _ = (len(data), *data.gather(np.arange(1)).shape[1:])
        r = self.recipe(size)
        steps, device = -(-task.images // r.batch), task.trainer.device
        frequencies = label_frequencies(data, self.labels) if self.conditional else None
        embeddings = len(frequencies) + (self.label_drop > 0) if frequencies else 0  # the last means no label
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(store.seed_of(task.seed, task.t, "init"))
            network = build_network(r.network, size, channels, self.widths and tuple(self.widths), embeddings)
        resident = task.trainer.resident_gib * 2**30
        batches = Batches(data, task.seed, task.t, r.batch, device, resident, self.conditional, task.flip)
        if task.trainer.channels_last:
            network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        drop = (self.label_drop if self.conditional else 0.0, len(frequencies or ()))
        settings = self.objective_of(r, data, previous)
        objective = OBJECTIVES[self.objective](**{k: v for k, v in settings.items() if k != "kind"})
        module = DiffusionModule(network, objective, batches, steps, r, drop)
        module.called = (compiled(network, task.trainer),)
        if previous is not None:
            self.check_start(previous, network, task, settings)
            module.start_from(previous.network, previous.training, task.start == "weights_and_optimizer")
        trained = fit(module, task, steps, r.batch) if steps else Trained(module.optimizer_states, History([], 0.0))
        training = None
        if task.start == "weights_and_optimizer":
            training = {
                "network": module.network.state_dict(),
                "optimizers": trained.optimizer_states,
                "steps": module.before + steps,
            }
        description = {
            "network": r.network,
            "size": size,
            "channels": channels,
            "widths": widths_of(network),
            "embeddings": embeddings,
            "objective": settings,
            "sampler": self.sampler,
            "sampler_steps": self.sampler_steps,
            "bias": self.bias_at(task.t),
            "guidance": self.guidance,
            "label_frequencies": frequencies,
            "labels": self.labels,
            "trained_images": steps * r.batch,
            "trained_on": n,
        }
        if self.guidance_interval is not None:
            description["guidance_interval"] = [float(s) for s in self.guidance_interval]
        generator = DiffusionGenerator(module.ema, description, device, training, trained.history)
        if (weight := self.extrapolate_at(task.t)) and steps:
            plain = replace(self, lr=OWN_LR * r.lr, **PLAIN)
            move_away(generator, plain, data, task, r.batch, weight, self.extrapolate_by, self.extrapolate_share)
        return generator

    def check_start(self, previous: DiffusionGenerator, network: nn.Module, task: Task, settings: dict) -> None:
        """Raise UserError if the weights to start from are of another network, or lack what `start` asks for."""
        there, here = previous.network.state_dict(), network.state_dict()
        d = previous.description
        if d["objective"] != settings:
            raise UserError(
                f"The model to start from was trained with objective {d['objective']}, here it is {settings}: give the "
                "same model.objective, model.prediction, model.time, model.time_mean and model.precondition.",
                "model.objective",
            )
        if {k: v.shape for k, v in there.items()} != {k: v.shape for k, v in here.items()}:
            raise UserError(
                f"The model to start from is {d['network']} {d['widths']} for {d['size']}-pixel images with "
                f"{d['channels']} channels, which is not the network configured here: give the same model.network, "
                "model.widths, data and model.conditional.",
                "model.widths",
            )
        if task.start == "weights_and_optimizer" and previous.training is None:
            raise UserError(
                "start=weights_and_optimizer needs generations that were saved with their optimiser: start the "
                "chain so, or use start=weights.",
                "start",
            )

    def load(self, folder: Path, device: str = "cpu") -> DiffusionGenerator:
        return DiffusionGenerator.load(folder, device)


def is_interval(value: Any) -> bool:
    """Whether a value is two ascending noise levels [low, high]."""
    numbers = isinstance(value, list | tuple) and len(value) == 2 and all(type(s) in (int, float) for s in value)
    return numbers and 0 <= value[0] <= value[1]


def scale_of(data: TrainingSet) -> float:
    """The root mean square of images in [-1, 1], of up to 4,096 of the training set, to two digits."""
    x = data.gather(np.arange(min(len(data), 4096))) / 127.5 - 1
    return max(round(float(np.sqrt(np.mean(x**2))), 2), 0.01)
