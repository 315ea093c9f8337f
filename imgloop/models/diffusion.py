"""Diffusion: the training module, and the generator that a fit returns. What is learnt is in objectives.py, how it is
sampled in samplers.py."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor, nn

from imgloop import store
from imgloop.errors import UserError
from imgloop.models.base import CHUNK, drawn, label_frequencies, load_training, sampling, save_training
from imgloop.models.networks import build_network
from imgloop.models.objectives import OBJECTIVES
from imgloop.models.samplers import STEPS, draw, evaluations, guided, output
from imgloop.pool import Pool, TrainingSet
from imgloop.training.tasks import Task, silent
from imgloop.training.trainer import Batches, TrainerSettings, fit

RISK_LEVELS = 8  # noise levels of the held-out denoising loss


class Denoising(L.LightningModule):
    """The training of one generation: network and its moving average, whose batches and noise are functions of the
    step."""

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
        self.drop, self.null = drop  # share of labels that training hides, for guidance, and what stands for them
        self.called, self.recent_loss = (
            (network,),
            math.nan,
        )  # what training calls, compiled or not; no second submodule
        self.before, self.optimizer_state = 0, None  # steps and optimiser that weights_and_optimizer goes on from

    def start_from(self, previous: DiffusionGenerator, optimizer: bool) -> None:
        """Begin at the averaged weights of `previous`; with `optimizer`, go on from its raw weights, average and
        optimiser."""
        averaged = previous.network.state_dict()
        self.ema.load_state_dict(averaged)
        self.network.load_state_dict(previous.training["network"] if optimizer else averaged)
        if optimizer:
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
        decay = min(self.decay, (1 + age) / (10 + age))  # warm-up: early averages forget the start
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
        inputs = self.objective.inputs(self.objective.noised(x, e, s), s)
        return (output(self.called[0], *inputs, y) - self.objective.target(x, e, s)).square().mean()

    def lr_factor(self, k: int) -> float:
        """Linear warm-up over the first twentieth, then a cosine to zero."""
        warm = max(1, self.steps // 20)
        return (k + 1) / warm if k < warm else 0.5 + 0.5 * math.cos(math.pi * (k - warm) / (self.steps - warm))


class DiffusionGenerator:
    """A fitted model: samples, saves, and gives its denoising loss on real data.

    `description` is JSON-able and holds all that loading needs: network, shape, objective, sampler, label frequencies.
    """

    absorbed = False

    def __init__(self, network: nn.Module, description: dict, device: str = "cpu", training: dict | None = None):
        self.network = network.eval().to(device)
        self.description, self.device, self.training = description, device, training
        told = dict(description["objective"])
        self.objective = OBJECTIVES[told.pop("kind")](**told)

    @property
    def nfe(self) -> int:
        """Network evaluations a sample."""
        d = self.description
        return evaluations(d["sampler"], d["sampler_steps"], d["guidance"])

    @property
    def sampling(self) -> dict:
        """What was set about sampling, for the record."""
        return sampling(self.description)

    def sample(self, n: int, *, seed: int, y: np.ndarray | None = None, progress: Callable = silent) -> Pool:
        """Draw n images, uint8 (n, C, H, W); sample i is a function of (weights, seed, i, its label) alone.

        A class-conditional generator draws labels by its label frequencies unless `y` int64 (n,) gives them.
        """
        d = self.description

        def images_of(latents: Tensor, labels: Tensor | None) -> Tensor:
            predict = guided(self.network, labels, d["guidance"], len(d["label_frequencies"] or ()))
            return draw(self.objective, predict, latents, d["sampler"], d["sampler_steps"])

        return drawn(images_of, n, (d["channels"], d["size"], d["size"]), d, self.device, seed, y, progress)

    @torch.inference_mode()
    def risk(self, real: Pool, seed: int) -> np.ndarray:
        """Denoising loss of real images on a fixed grid of noise levels and noises, float64 (N, RISK_LEVELS)."""
        out = np.empty((len(real), RISK_LEVELS))
        conditional = self.description["label_frequencies"] is not None
        for first in range(0, len(real), CHUNK):
            x = torch.from_numpy(np.array(real.x[first : first + CHUNK])).to(self.device).float().div_(127.5).sub_(1)
            y = torch.from_numpy(np.array(real.y[first : first + CHUNK])).to(self.device) if conditional else None
            for level, value in enumerate(self.objective.quantiles(RISK_LEVELS)):
                g = torch.Generator().manual_seed(store.seed_of(seed, "risk", first // CHUNK, level))
                e = torch.randn((CHUNK, *x.shape[1:]), generator=g)[: len(x)].to(self.device)
                s = x.new_full((len(x),), float(value))
                inputs = self.objective.inputs(self.objective.noised(x, e, s), s)
                error = output(self.network, *inputs, y) - self.objective.target(x, e, s)
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
        """The layout that diffusers loads by itself: a stock pipeline that samples this model, or where there is none
        (a flow with labels) network and scheduler."""
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
        """The generator saved in `folder`; raises UserError, naming the file, where one is missing or damaged."""
        folder = Path(folder)
        d = store.read_json(folder / "imgloop.json")
        if d.pop("kind", None) != "diffusion":
            raise UserError(f"{folder / 'imgloop.json'} does not describe a diffusion model.")
        network = build_network(d["network"], d["size"], d["channels"], tuple(d["widths"]), d["embeddings"])
        try:
            if d["network"] == "unet2d":
                network = type(network).from_pretrained(folder / "unet", low_cpu_mem_usage=False)
            else:
                arrays = store.open_arrays(folder / "network.safetensors")
                network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in arrays.items()})
        except (RuntimeError, OSError) as e:
            raise store.damaged(folder, f"holds weights that cannot be loaded ({str(e).splitlines()[0]})") from e
        return cls(network, d, device, load_training(folder))


class Diffusion:
    """The model as configured (conf/model/diffusion.yaml): fits a generation, and loads a saved one."""

    def __init__(
        self,
        network: str = "compact",
        widths: list[int] | None = None,
        conditional: bool = False,
        batch: int = 64,
        lr: float = 3e-3,
        ema: float = 0.999,
        objective: str = "flow",
        time: str = "logit_normal",
        prediction: str | None = None,
        sampler: str | None = None,
        sampler_steps: int | None = None,
        bias: float = 1.0,
        labels: str = "training",
        guidance: float = 1.0,
        label_drop: float = 0.1,
        trainer: TrainerSettings | dict | None = None,
    ):
        for name, value, allowed in (
            ("objective", objective, tuple(OBJECTIVES)),
            ("time", time, ("logit_normal", "uniform")),
            ("prediction", prediction, (None, "v", "epsilon")),
            ("labels", labels, ("training", "real")),
        ):
            if value not in allowed:
                raise UserError(
                    f"model.{name}={value}: choose one of {', '.join('null' if a is None else a for a in allowed)}."
                )
        for name, value, usual, of in (
            ("time", time, "logit_normal", "flow"),
            ("prediction", prediction, None, "ddpm"),
        ):
            if value != usual and objective != of:
                raise UserError(
                    f"model.{name} has no effect with model.objective={objective}; it is a setting of {of}."
                )
        samplers = OBJECTIVES[objective].samplers
        if sampler not in (None, *samplers):
            raise UserError(
                f"model.sampler={sampler}: model.objective={objective} is sampled by {', '.join(samplers)}; choose one."
            )
        self.sampler = sampler or samplers[0]
        self.sampler_steps = STEPS[self.sampler] if sampler_steps is None else sampler_steps
        for name, value, low in (("batch", batch, 1), ("sampler_steps", self.sampler_steps, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise UserError(f"model.{name}={value}: give a whole number of at least {low}.")
        if self.sampler_steps > 1000:  # noise levels that diffusers' schedulers choose from
            raise UserError(f"model.sampler_steps={self.sampler_steps}: give at most 1000.")
        if not isinstance(lr, int | float) or not 0 < lr < 1 or not 0 <= ema < 1:
            raise UserError(f"model.lr={lr} and model.ema={ema}: lr must lie in (0, 1) and ema in [0, 1).")
        if not 0 < bias < math.inf or not 0 <= guidance < math.inf or not 0 <= label_drop < 1:
            raise UserError(
                f"model.bias={bias}, model.guidance={guidance} and model.label_drop={label_drop}: bias must be above "
                "0, guidance at least 0, label_drop in [0, 1)."
            )
        if not conditional:
            for name, value, usual in (
                ("labels", labels, "training"),
                ("guidance", guidance, 1),
                ("label_drop", label_drop, 0.1),
            ):
                if value != usual:
                    raise UserError(
                        f"model.{name} has no effect without labels: add model.conditional=true, or leave it out."
                    )
        elif guidance != 1 and label_drop == 0:
            raise UserError(
                "model.guidance needs a model that knows images without labels: give model.label_drop above 0."
            )
        if widths is not None and not (isinstance(widths, list | tuple) and all(type(w) is int for w in widths)):
            raise UserError(f"model.widths={widths}: give a list of whole numbers, for example [32,64], or null.")
        self.network, self.widths, self.conditional, self.batch = network, widths, bool(conditional), batch
        self.lr, self.ema, self.labels, self.bias, self.guidance = lr, ema, labels, bias, guidance
        self.label_drop = label_drop if conditional else 0.0
        self.told = {"kind": objective} | {
            "flow": {"time": time},
            "edm": {},
            "ddpm": {"prediction": prediction or "v"},
        }[objective]
        self.objective = OBJECTIVES[objective](**{k: v for k, v in self.told.items() if k != "kind"})
        self.trainer = trainer if isinstance(trainer, TrainerSettings) else TrainerSettings(**(trainer or {}))

    def fit(self, data: TrainingSet, task: Task, previous: DiffusionGenerator | None) -> DiffusionGenerator:
        """Train on `data` for the task's images; `start` says whether from `previous` (its averaged weights) or
        anew."""
        n, channels, size, _ = (len(data), *data.gather(np.arange(1)).shape[1:])
        steps, device = -(-task.images // self.batch), self.trainer.device
        frequencies = label_frequencies(data, self.labels) if self.conditional else None
        embeddings = len(frequencies) + (self.label_drop > 0) if frequencies else 0  # the last means no label
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(store.seed_of(task.seed, task.t, "init"))
            network = build_network(self.network, size, channels, self.widths and tuple(self.widths), embeddings)
        batches = Batches(
            data, task.seed, task.t, self.batch, device, self.trainer.resident_gib * 2**30, self.conditional
        )
        if self.trainer.channels_last:
            network = network.to(memory_format=torch.channels_last)
        drop = (self.label_drop, len(frequencies or ()))
        module = Denoising(network, self.objective, batches, steps, self.lr, self.ema, drop)
        if self.trainer.compile:
            module.called = (torch.compile(network),)
        if previous is not None:
            self.check_start(previous, network, task)
            module.start_from(previous, task.start == "weights_and_optimizer")
        optimizers = fit(module, task, steps, self.batch, self.trainer) if steps else [module.optimizer_state]
        training = None
        if task.start == "weights_and_optimizer":
            training = {
                "network": module.network.state_dict(),
                "optimizer": optimizers[0],
                "steps": module.before + steps,
            }
        widths = getattr(network, "config", {}).get("widths") or list(network.config.block_out_channels)
        description = {
            "network": self.network,
            "size": size,
            "channels": channels,
            "widths": widths,
            "embeddings": embeddings,
            "objective": self.told,
            "sampler": self.sampler,
            "sampler_steps": self.sampler_steps,
            "bias": self.bias,
            "guidance": self.guidance,
            "label_frequencies": frequencies,
            "labels": self.labels,
            "trained_images": steps * self.batch,
            "trained_on": n,
        }
        return DiffusionGenerator(module.ema, description, device, training)

    def check_start(self, previous: DiffusionGenerator, network: nn.Module, task: Task) -> None:
        """Raise UserError where the weights to start from are of another network, or lack what `start` asks for."""
        there, here = previous.network.state_dict(), network.state_dict()
        d = previous.description
        if d["objective"] != self.told:
            raise UserError(
                f"The model to start from was trained with objective {d['objective']}, here it is {self.told}: give "
                "the same model.objective, model.prediction and model.time."
            )
        if {k: v.shape for k, v in there.items()} != {k: v.shape for k, v in here.items()}:
            raise UserError(
                f"The model to start from is {d['network']} {d['widths']} for {d['size']}-pixel images with "
                f"{d['channels']} channels, "
                "which is not the network configured here: give the same model.network, model.widths, data and "
                "model.conditional."
            )
        if task.start == "weights_and_optimizer" and previous.training is None:
            raise UserError(
                "start=weights_and_optimizer needs generations that were saved with their optimiser: start the "
                "chain so, or use "
                "start=weights."
            )

    def load(self, folder: Path) -> DiffusionGenerator:
        return DiffusionGenerator.load(folder, self.trainer.device)
