"""Diffusion by flow matching: the loss, the training module, the samplers and the generator that a fit returns.

x_s = (1 - s) x_0 + s e interpolates data x_0 (s = 0) and noise e (s = 1); the network learns the velocity v = e - x_0
(Lipman et al. 2023, rectified flow of Liu et al. 2023; s is the sigma of diffusers' FlowMatchEulerDiscreteScheduler).
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor, nn

from imgloop import store
from imgloop.errors import UserError
from imgloop.models.networks import build_network
from imgloop.pool import REAL, Pool, TrainingSet
from imgloop.task import Task, silent
from imgloop.train import Batches, TrainerSettings, fit

CHUNK = 256  # samples drawn at once, always full: sample i depends on (seed, i) alone, not on how many are drawn
RISK_LEVELS = 8  # noise levels of the held-out denoising loss, evenly spaced in (0, 1)
SAMPLERS = {"euler": 1, "heun": 2}


def velocity(network: nn.Module, x: Tensor, s: Tensor, y: Tensor | None) -> Tensor:
    """v(x, s): the network's output for x (B, C, H, W), s (B,) in [0, 1], labels y (B,) or None. Both networks
    serve."""
    out = network(x, s * 1000, y)
    return getattr(out, "sample", out)


class FlowMatching(L.LightningModule):
    """The training of one generation: network and its moving average, whose batches and noise are functions of the
    step."""

    def __init__(self, network: nn.Module, batches: Batches, steps: int, lr: float, ema: float, time: str):
        super().__init__()
        self.automatic_optimization = False
        self.network, self.ema = network, copy.deepcopy(network).requires_grad_(False).eval()
        self.batches, self.steps, self.lr, self.decay, self.time = batches, steps, lr, ema, time
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
        """|v(x_s, s) - (e - x_0)|^2, mean over batch and pixels, for batch k with its own noise e and levels s."""
        x, y = self.batches(k)
        g = torch.Generator(x.device).manual_seed(store.seed_of(self.batches.seed, self.batches.t, "noise", k))
        like = {"generator": g, "device": x.device, "dtype": x.dtype}
        e = torch.randn(x.shape, **like)
        s = torch.sigmoid(torch.randn(len(x), **like)) if self.time == "logit_normal" else torch.rand(len(x), **like)
        return (velocity(self.called[0], interpolate(x, e, s), s, y) - (e - x)).square().mean()

    def lr_factor(self, k: int) -> float:
        """Linear warm-up over the first twentieth, then a cosine to zero."""
        warm = max(1, self.steps // 20)
        return (k + 1) / warm if k < warm else 0.5 + 0.5 * math.cos(math.pi * (k - warm) / (self.steps - warm))


def interpolate(x: Tensor, e: Tensor, s: Tensor) -> Tensor:
    """x_s = (1 - s) x_0 + s e."""
    s = s.view(-1, *[1] * (x.ndim - 1))
    return torch.lerp(x, e, s)


@torch.inference_mode()
def integrate(network: nn.Module, x: Tensor, y: Tensor | None, sampler: str, steps: int) -> Tensor:
    """Follow dx/ds = v(x, s) from noise x at s = 1 to data at s = 0 in even steps.

    `euler` costs `steps` evaluations; `heun` (second order) 2 steps - 1, its last step being an Euler step, as in
    Karras et al. 2022, algorithm 1.
    """
    grid = torch.linspace(1, 0, steps + 1).tolist()
    for s, after in pairwise(grid):
        v = velocity(network, x, x.new_full((len(x),), s), y)
        ahead = x + (after - s) * v
        if sampler == "heun" and after > 0:
            v = (v + velocity(network, ahead, x.new_full((len(x),), after), y)) / 2
            ahead = x + (after - s) * v
        x = ahead
    return x


class DiffusionGenerator:
    """A fitted flow: samples, saves, and gives its denoising loss on real data.

    `description` is JSON-able and holds all that loading needs: network, shape, sampler, label frequencies.
    """

    absorbed = False

    def __init__(self, network: nn.Module, description: dict, device: str = "cpu", training: dict | None = None):
        self.network = network.eval().to(device)
        self.description, self.device, self.training = description, device, training

    @property
    def nfe(self) -> int:
        """Network evaluations a sample."""
        steps = self.description["sampler_steps"]
        return steps if self.description["sampler"] == "euler" else 2 * steps - 1

    def sample(self, n: int, *, seed: int, y: np.ndarray | None = None, progress: Callable = silent) -> Pool:
        """Draw n images, uint8 (n, C, H, W); sample i is a function of (weights, seed, i, its label) alone.

        A class-conditional generator draws labels by its label frequencies unless `y` int64 (n,) gives them.
        """
        d, frequencies = self.description, self.description["label_frequencies"]
        if frequencies is not None and y is None:
            y = np.random.default_rng(store.seed_of(seed, "labels")).choice(len(frequencies), n, p=frequencies)
        y = None if frequencies is None else np.asarray(y, np.int64)
        shape = (d["channels"], d["size"], d["size"])
        out = np.empty((n, *shape), np.uint8)
        for first in range(0, n, CHUNK):
            g = torch.Generator().manual_seed(store.seed_of(seed, "latents", first // CHUNK))
            x = torch.randn((CHUNK, *shape), generator=g).to(self.device)
            count = min(CHUNK, n - first)
            labels = None
            if y is not None:
                labels = torch.from_numpy(np.resize(y[first : first + count], CHUNK)).to(self.device)
            x = integrate(self.network, x, labels, d["sampler"], d["sampler_steps"])
            out[first : first + count] = x[:count].clamp(-1, 1).add(1).mul(127.5).round().byte().cpu().numpy()
            progress(first + count, n)
        return Pool(out, y)

    @torch.inference_mode()
    def risk(self, real: Pool, seed: int) -> np.ndarray:
        """Denoising loss of real images on a fixed grid of noise levels and noises, float64 (N, RISK_LEVELS)."""
        out = np.empty((len(real), RISK_LEVELS))
        conditional = self.description["label_frequencies"] is not None
        for first in range(0, len(real), CHUNK):
            x = torch.from_numpy(np.array(real.x[first : first + CHUNK])).to(self.device).float().div_(127.5).sub_(1)
            y = torch.from_numpy(np.array(real.y[first : first + CHUNK])).to(self.device) if conditional else None
            for level in range(RISK_LEVELS):
                g = torch.Generator().manual_seed(store.seed_of(seed, "risk", first // CHUNK, level))
                e = torch.randn((CHUNK, *x.shape[1:]), generator=g)[: len(x)].to(self.device)
                s = x.new_full((len(x),), (level + 0.5) / RISK_LEVELS)
                error = velocity(self.network, interpolate(x, e, s), s, y) - (e - x)
                out[first : first + len(x), level] = error.square().flatten(1).mean(1).double().cpu().numpy()
        return out

    def save(self, folder: Path) -> None:
        """Write the weights (safetensors) and the description; with UNet2DModel in the layout that diffusers loads."""
        folder = Path(folder)
        store.write_json(folder / "imgloop.json", {"kind": "diffusion", **self.description})
        if self.description["network"] == "unet2d":
            from diffusers import DDPMPipeline, FlowMatchEulerDiscreteScheduler

            scheduler = FlowMatchEulerDiscreteScheduler()
            if self.description["label_frequencies"] is None:
                DDPMPipeline(self.network, scheduler).save_pretrained(folder)
            else:  # no stock pipeline passes labels to a flow
                self.network.save_pretrained(folder / "unet")
                scheduler.save_pretrained(folder / "scheduler")
        else:
            store.write_arrays(
                folder / "network.safetensors", {k: v.cpu().numpy() for k, v in self.network.state_dict().items()}
            )
        if self.training is not None:
            state = io.BytesIO()
            torch.save(self.training, state)
            store.write_bytes(folder / "training.pt", state.getvalue())

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> DiffusionGenerator:
        """The generator saved in `folder`; raises UserError, naming the file, where one is missing or damaged."""
        folder = Path(folder)
        d = store.read_json(folder / "imgloop.json")
        if d.pop("kind", None) != "diffusion":
            raise UserError(f"{folder / 'imgloop.json'} does not describe a diffusion model.")
        network = build_network(
            d["network"], d["size"], d["channels"], tuple(d["widths"]), len(d["label_frequencies"] or ())
        )
        try:
            if d["network"] == "unet2d":
                network = type(network).from_pretrained(folder / "unet", low_cpu_mem_usage=False)
            else:
                arrays = store.open_arrays(folder / "network.safetensors")
                network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in arrays.items()})
        except (RuntimeError, OSError) as e:
            raise store.damaged(folder, f"holds weights that cannot be loaded ({str(e).splitlines()[0]})") from e
        path = folder / "training.pt"
        training = torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None
        return cls(network, d, device, training)


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
        time: str = "logit_normal",
        sampler: str = "heun",
        sampler_steps: int = 8,
        labels: str = "training",
        trainer: TrainerSettings | dict | None = None,
    ):
        for name, value, low in (("batch", batch, 1), ("sampler_steps", sampler_steps, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise UserError(f"model.{name}={value}: give a whole number of at least {low}.")
        if not isinstance(lr, int | float) or not 0 < lr < 1 or not 0 <= ema < 1:
            raise UserError(f"model.lr={lr} and model.ema={ema}: lr must lie in (0, 1) and ema in [0, 1).")
        for name, value, allowed in (
            ("time", time, ("uniform", "logit_normal")),
            ("sampler", sampler, tuple(SAMPLERS)),
            ("labels", labels, ("training", "real")),
        ):
            if value not in allowed:
                raise UserError(f"model.{name}={value}: choose one of {', '.join(allowed)}.")
        if widths is not None and not (isinstance(widths, list | tuple) and all(type(w) is int for w in widths)):
            raise UserError(f"model.widths={widths}: give a list of whole numbers, for example [32,64], or null.")
        self.network, self.widths, self.conditional, self.batch = network, widths, bool(conditional), batch
        self.lr, self.ema, self.time, self.sampler, self.sampler_steps, self.labels = (
            lr,
            ema,
            time,
            sampler,
            sampler_steps,
            labels,
        )
        self.trainer = trainer if isinstance(trainer, TrainerSettings) else TrainerSettings(**(trainer or {}))

    def fit(self, data: TrainingSet, task: Task, previous: DiffusionGenerator | None) -> DiffusionGenerator:
        """Train on `data` for the task's images; `start` says whether from `previous` (its averaged weights) or
        anew."""
        n, channels, size, _ = (len(data), *data.gather(np.arange(1)).shape[1:])
        steps, device = max(1, -(-task.images // self.batch)), self.trainer.device
        frequencies = self.label_frequencies(data)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(store.seed_of(task.seed, task.t, "init"))
            network = build_network(
                self.network, size, channels, self.widths and tuple(self.widths), len(frequencies or ())
            )
        batches = Batches(
            data, task.seed, task.t, self.batch, device, self.trainer.resident_gib * 2**30, self.conditional
        )
        if self.trainer.channels_last:
            network = network.to(memory_format=torch.channels_last)
        module = FlowMatching(network, batches, steps, self.lr, self.ema, self.time)
        if self.trainer.compile:
            module.called = (torch.compile(network),)
        if previous is not None:
            self.check_start(previous, network, task)
            module.start_from(previous, task.start == "weights_and_optimizer")
        optimizers = fit(module, task, steps, self.batch, self.trainer)
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
            "sampler": self.sampler,
            "sampler_steps": self.sampler_steps,
            "label_frequencies": frequencies,
            "labels": self.labels,
            "trained_images": steps * self.batch,
            "trained_on": n,
        }
        return DiffusionGenerator(module.ema, description, device, training)

    def check_start(self, previous: DiffusionGenerator, network: nn.Module, task: Task) -> None:
        """Raise UserError where the weights to start from are of another network, or lack what `start` asks for."""
        there, here = previous.network.state_dict(), network.state_dict()
        if {k: v.shape for k, v in there.items()} != {k: v.shape for k, v in here.items()}:
            d = previous.description
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

    def label_frequencies(self, data: TrainingSet) -> list[float] | None:
        """Class frequencies by which a class-conditional generator draws its labels: of the mix, or of the real
        data."""
        if not self.conditional:
            return None
        real = data.pools[REAL].y
        if real is None:
            raise UserError(
                "model.conditional=true needs labelled data: give images in one sub-folder a class, or "
                "model.conditional=false."
            )
        y = data.labels() if self.labels == "training" else real
        return (np.bincount(y, minlength=int(real.max()) + 1) / len(y)).tolist()
