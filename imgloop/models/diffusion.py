"""Diffusion: the training module, the fitted generator and the model as configured. Objectives are in objectives.py,
samplers in samplers.py."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor, nn

from imgloop import store
from imgloop.config.fields import check_settings, setting
from imgloop.contracts import Generator, Model, Progress, no_progress
from imgloop.data.real import RealData
from imgloop.errors import UserError, first_line
from imgloop.models.base import (
    CHUNK,
    check_description,
    check_images,
    label_frequencies,
    load_training,
    sample_images,
    sampling,
    save_training,
)
from imgloop.models.networks import PRESETS, build_network, check_widths_list, widths_of
from imgloop.models.objectives import OBJECTIVES
from imgloop.models.samplers import STEPS, draw, evaluations, guided, output
from imgloop.pool import Pool, TrainingSet
from imgloop.training.batches import Batches
from imgloop.training.tasks import History, Task
from imgloop.training.trainer import Trained, fit

NEEDED = (  # of the description of a saved generator
    "size", "channels", "embeddings", "objective", "sampler", "sampler_steps", "bias", "guidance", "label_frequencies",
    "trained_images",
)  # fmt: skip
RISK_LEVELS = 8  # noise levels of the held-out denoising loss


class DiffusionModule(L.LightningModule):
    """Trains one generation: the network and its moving average. Batches and noise are functions of the step."""

    def __init__(
        self,
        network: nn.Module,
        objective,
        batches: Batches,
        steps: int,
        lr: float,
        ema: float,
        drop: tuple[float, int] = (0.0, 0),
    ):
        super().__init__()
        self.automatic_optimization = False
        self.network, self.ema = network, copy.deepcopy(network).requires_grad_(False).eval()
        self.objective, self.batches, self.steps, self.lr, self.decay = objective, batches, steps, lr, ema
        self.drop, self.null = drop  # share of labels that training hides, for guidance, and the label in their place
        # what training calls, compiled or not; in a tuple, so that it is not registered as a second submodule
        self.called: tuple[Any, ...] = (network,)
        self.recent_loss = math.nan
        self.before = 0
        self.optimizer_state: Any = None  # steps and optimiser that weights_and_optimizer continues from

    def start_from(self, previous: DiffusionGenerator, optimizer: bool) -> None:
        """Start from the averaged weights of `previous`; with `optimizer`, continue its raw weights, average and
        optimiser."""
        averaged = previous.network.state_dict()
        self.ema.load_state_dict(averaged)
        self.network.load_state_dict(previous.training["network"] if optimizer and previous.training else averaged)
        if optimizer and previous.training:
            self.before, self.optimizer_state = previous.training["steps"], previous.training["optimizer"]

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.lr, weight_decay=0.01, betas=(0.9, 0.99), fused=True
        )
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
        return optimizer

    def training_step(self, chunk: tuple[int, int]):
        optimizer = self.optimizers(use_pl_optimizer=False)
        losses = torch.stack([self.step(k, optimizer) for k in range(*chunk)]).tolist()
        for k, loss in zip(range(*chunk), losses):
            if not math.isfinite(loss):
                raise UserError(
                    f"The loss became {loss} at step {k + 1} of {self.steps} in generation {self.batches.t}: lower "
                    f"model.lr (now {self.lr:g}). Earlier generations are kept."
                )
        self.recent_loss = sum(losses) / len(losses)

    def step(self, k: int, optimizer) -> Tensor:
        """One optimiser step; returns the loss, still on the device."""
        loss = self.loss(k)
        for group in optimizer.param_groups:
            group["lr"] = self.lr * self.lr_factor(k)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        age = self.before + k
        decay = min(self.decay, (1 + age) / (10 + age))  # warm-up: early averages discard the start quickly
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.network.parameters()), 1 - decay)
        return loss.detach()

    def loss(self, k: int) -> Tensor:
        """Mean squared error of the network's output for batch k, noised with its own noise and levels."""
        x, y = self.batches(k)
        g = torch.Generator(x.device).manual_seed(store.seed_of(self.batches.seed, self.batches.t, "noise", k))
        like = {"generator": g, "device": x.device, "dtype": x.dtype}
        e = torch.randn(x.shape, **like)
        s = self.objective.levels(len(x), like)
        if y is not None and self.drop:
            y = torch.where(torch.rand(len(y), **like) < self.drop, self.null, y)
        noised, timestep = self.objective.inputs(self.objective.noised(x, e, s), s)
        return (output(self.called[0], noised, timestep, y) - self.objective.target(x, e, s)).square().mean()

    def lr_factor(self, k: int) -> float:
        """Linear warm-up over the first twentieth, then a cosine to zero."""
        warm = max(1, self.steps // 20)
        return (k + 1) / warm if k < warm else 0.5 + 0.5 * math.cos(math.pi * (k - warm) / (self.steps - warm))


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
    ):
        self.network: Any = network.eval().to(device)
        self.description, self.device, self.training, self.history = description, device, training, history
        settings = dict(description["objective"])
        self.objective = OBJECTIVES[settings.pop("kind")](**settings)

    @property
    def facts(self) -> dict[str, Any]:
        """Training images seen, network evaluations a sample (NFE) and the settings of sampling."""
        d = self.description
        nfe = evaluations(d["sampler"], d["sampler_steps"], d["guidance"])
        return {"images_seen": d["trained_images"], "nfe": nfe, "sampling": sampling(d)}

    def sample(self, n: int, *, seed: int, y: np.ndarray | None = None, progress: Progress = no_progress) -> Pool:
        """Draw n images, uint8 (n, C, H, W); sample i is a function of (weights, seed, i, its label) alone.

        Labels of a class-conditional generator follow its label frequencies unless `y` int64 (n,) gives them.
        """
        d = self.description

        def images_of(latents: Tensor, labels: Tensor | None) -> Tensor:
            predict = guided(self.network, labels, d["guidance"], len(d["label_frequencies"] or ()))
            return draw(self.objective, predict, latents, d["sampler"], d["sampler_steps"])

        return sample_images(images_of, n, (d["channels"], d["size"], d["size"]), d, self.device, seed, y, progress)

    @torch.inference_mode()
    def risk(self, real: Pool, seed: int) -> np.ndarray:
        """Denoising loss of real images on a fixed grid of noise levels and noises, float64 (N, RISK_LEVELS)."""
        out = np.empty((len(real), RISK_LEVELS))
        conditional = self.description["label_frequencies"] is not None
        for first in range(0, len(real), CHUNK):
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
                error = output(self.network, noised, timestep, y) - self.objective.target(x, e, s)
                out[first : first + len(x), level] = error.square().flatten(1).mean(1).double().cpu().numpy()
        return out

    def save(self, folder: Path) -> None:
        """Write the weights (safetensors) and the description; with UNet2DModel in the layout that diffusers loads."""
        folder = Path(folder)
        store.write_json(folder / "imgloop.json", {"kind": "diffusion", **self.description})
        if self.description["network"] == "unet2d":
            self.save_pipeline(folder)
        else:
            store.write_arrays(
                folder / "network.safetensors", {k: v.cpu().numpy() for k, v in self.network.state_dict().items()}
            )
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
        try:
            network: Any = build_network(d["network"], d["size"], d["channels"], tuple(d["widths"]), d["embeddings"])
        except (UserError, TypeError, ValueError) as e:
            raise store.damaged(path, f"does not describe a network ({e})") from e
        try:
            if d["network"] == "unet2d":
                network = type(network).from_pretrained(folder / "unet", low_cpu_mem_usage=False)
            else:
                arrays = store.open_arrays(folder / "network.safetensors")
                network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in arrays.items()})
        except (RuntimeError, OSError) as e:
            raise store.damaged(folder, f"holds weights that cannot be loaded ({first_line(e)})") from e
        try:
            return cls(network, d, device, load_training(folder))
        except (TypeError, KeyError) as e:
            raise store.damaged(path, f"does not describe an objective ({e})") from e


@dataclass
class Diffusion(Model):
    """The model as configured (conf/model/diffusion.yaml, which says what each setting is)."""

    network: str = setting("compact", choices=tuple(PRESETS))
    widths: Sequence[int] | None = None
    conditional: bool = setting(False)
    batch: int = setting(64, low=1)
    lr: float = setting(3e-3, above=0, below=1)
    ema: float = setting(0.999, low=0, below=1)
    objective: str = setting("flow", choices=tuple(OBJECTIVES))
    time: str = setting("logit_normal", choices=("logit_normal", "uniform"))
    prediction: str | None = setting(None, choices=(None, "v", "epsilon"))
    sampler: str | None = None
    sampler_steps: int | None = setting(None, kind=int, low=1, high=1000)  # diffusers' schedulers have 1000 levels
    bias: float = setting(1.0, above=0)
    labels: str = setting("training", choices=("training", "real"))
    guidance: float = setting(1.0, low=0)
    label_drop: float = setting(0.1, low=0, below=1)

    weighted = True

    def __post_init__(self):
        check_settings(self, "model")
        for name, usual, of in (("time", "logit_normal", "flow"), ("prediction", None, "ddpm")):
            if getattr(self, name) != usual and self.objective != of:
                raise UserError(
                    f"model.{name} has no effect with model.objective={self.objective}; it is a setting of {of}.",
                    f"model.{name}",
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
        check_widths_list(self.widths)
        own = {"flow": {"time": self.time}, "edm": {}, "ddpm": {"prediction": self.prediction or "v"}}[self.objective]
        self.objective_settings = {"kind": self.objective, **own}

    def check(self, real: RealData, images: tuple[int, ...]) -> None:
        """Raise UserError for images or a budget that this model cannot be trained with."""
        check_images(self.batch, self.conditional, real, images)
        _, channels, size, _ = real.train.x.shape
        build_network(self.network, size, channels, self.widths and tuple(self.widths))

    def fit(self, data: TrainingSet, task: Task, previous: DiffusionGenerator | None) -> DiffusionGenerator:
        """Train on `data` for the task's images; `start` says whether from `previous` (its averaged weights) or
        from scratch."""
        n, channels, size, _ = (len(data), *data.gather(np.arange(1)).shape[1:])
        steps, device = -(-task.images // self.batch), task.trainer.device
        frequencies = label_frequencies(data, self.labels) if self.conditional else None
        embeddings = len(frequencies) + (self.label_drop > 0) if frequencies else 0  # the last means no label
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(store.seed_of(task.seed, task.t, "init"))
            network = build_network(self.network, size, channels, self.widths and tuple(self.widths), embeddings)
        resident = task.trainer.resident_gib * 2**30
        batches = Batches(data, task.seed, task.t, self.batch, device, resident, self.conditional)
        if task.trainer.channels_last:
            network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        drop = (self.label_drop if self.conditional else 0.0, len(frequencies or ()))
        objective = OBJECTIVES[self.objective](**{k: v for k, v in self.objective_settings.items() if k != "kind"})
        module = DiffusionModule(network, objective, batches, steps, self.lr, self.ema, drop)
        if task.trainer.compile:
            module.called = (torch.compile(network),)
        if previous is not None:
            self.check_start(previous, network, task)
            module.start_from(previous, task.start == "weights_and_optimizer")
        trained = fit(module, task, steps, self.batch) if steps else Trained([module.optimizer_state], History([], 0.0))
        training = None
        if task.start == "weights_and_optimizer":
            training = {
                "network": module.network.state_dict(),
                "optimizer": trained.optimizer_states[0],
                "steps": module.before + steps,
            }
        description = {
            "network": self.network,
            "size": size,
            "channels": channels,
            "widths": widths_of(network),
            "embeddings": embeddings,
            "objective": self.objective_settings,
            "sampler": self.sampler,
            "sampler_steps": self.sampler_steps,
            "bias": self.bias,
            "guidance": self.guidance,
            "label_frequencies": frequencies,
            "labels": self.labels,
            "trained_images": steps * self.batch,
            "trained_on": n,
        }
        return DiffusionGenerator(module.ema, description, device, training, trained.history)

    def check_start(self, previous: DiffusionGenerator, network: nn.Module, task: Task) -> None:
        """Raise UserError if the weights to start from are of another network, or lack what `start` asks for."""
        there, here = previous.network.state_dict(), network.state_dict()
        d = previous.description
        if d["objective"] != self.objective_settings:
            raise UserError(
                f"The model to start from was trained with objective {d['objective']}, here it is "
                f"{self.objective_settings}: give the same model.objective, model.prediction and model.time.",
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
