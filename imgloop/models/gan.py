"""A GAN by R3GAN's recipe: the relativistic loss with both gradient penalties, its training module, the generator.

Generator G and discriminator D play (x real, z latent noise; Huang et al. 2024, arXiv 2501.05441, section 2)

    D minimises  E softplus(D(G(z)) - D(x)) + gamma / 2 (E |grad_x D(x)|^2 + E |grad_x D(G(z))|^2)    (R1 and R2)
    G minimises  E softplus(D(x) - D(G(z)))

over pairs (x, z) that share a label where there are labels. The pairing is Jolicoeur-Martineau's (2019), R1 and R2 are
Mescheder et al.'s (2018).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imgloop import contracts, store
from imgloop.config.fields import check_settings, setting
from imgloop.contracts import Progress, no_progress
from imgloop.data.real import RealData
from imgloop.errors import UserError, first_line
from imgloop.models.base import (
    check_description,
    check_images,
    label_frequencies,
    load_training,
    sample_images,
    sampling,
    save_training,
)
from imgloop.models.gan_networks import Discriminator, Generator, check_widths
from imgloop.models.networks import check_widths_list
from imgloop.pool import Pool, TrainingSet
from imgloop.training.batches import Batches
from imgloop.training.tasks import History, Task
from imgloop.training.trainer import Trained, compiled, fit

LATENT = 64  # dimensions of z
ANNEALED = 0.1  # gamma, learning rate and FORGETS fall to this share of themselves by a cosine, then stay
# 1 - beta2 of Adam, .9 to .99 as in R3GAN; .99 from the start lets one large gradient move a weight by ten steps
FORGETS = 0.1
COLLAPSED = 0.02  # below this share of the training images' spread, generated images are all alike
RAN_AWAY = 2.0  # no images in [-1, 1] have a spread above 1
MEMORY = 100  # steps over which spreads are averaged


def penalised(discriminator: Callable, x: Tensor, fake: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of x and of fake, both (B, C, H, W), float (B,) each, and R1 + R2: the mean over pairs of
    |grad D(x)|^2 + |grad D(fake)|^2, differentiable in the discriminator's weights."""
    both = torch.cat((x, fake)).requires_grad_()
    logits = discriminator(both, None if y is None else torch.cat((y, y)))
    (gradient,) = torch.autograd.grad(logits.sum(), both, create_graph=True)
    return *logits.chunk(2), 2 * gradient.square().flatten(1).sum(1).mean()


class AdversarialModule(L.LightningModule):
    """Trains one generation: generator, discriminator and the generator's moving average. Batches and noise are
    functions of the step. One step is one update of D, then one of G, on the same real images."""

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        batches: Batches,
        steps: int,
        lr: float,
        gamma: float,
        ema: float,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = generator, discriminator
        self.ema = copy.deepcopy(generator).requires_grad_(False).eval()
        self.spreads: Tensor
        self.register_buffer("spreads", torch.ones(2, dtype=torch.float64))  # recent: generated and training images'
        self.batches, self.steps, self.lr, self.gamma, self.decay = batches, steps, lr, gamma, ema
        self.called: tuple[Any, ...] = (generator,)  # what training calls, compiled or not
        self.recent_loss = math.nan
        self.before, self.optimizer_states = 0, None  # steps and optimisers that weights_and_optimizer continues from

    def start_from(self, previous: GANGenerator, optimizers: bool) -> None:
        """Start from the averaged generator of `previous` and its discriminator; with `optimizers`, continue its raw
        generator, average, both optimisers and the annealing."""
        averaged = previous.network.state_dict()
        self.ema.load_state_dict(averaged)
        self.generator.load_state_dict(previous.training["generator"] if optimizers and previous.training else averaged)
        self.discriminator.load_state_dict(previous.discriminator.state_dict())
        if optimizers and previous.training:
            self.before, self.optimizer_states = previous.training["steps"], previous.training["optimizers"]

    def configure_optimizers(self):
        networks = (self.generator, self.discriminator)
        optimizers = [torch.optim.Adam(p.parameters(), self.lr, betas=(0.0, 1 - FORGETS), fused=True) for p in networks]
        for optimizer, state in zip(optimizers, self.optimizer_states or ()):
            optimizer.load_state_dict(copy.deepcopy(state))  # else it would update the very tensors it is given
        return optimizers

    def training_step(self, chunk: tuple[int, int]):
        optimizers: Any = self.optimizers(use_pl_optimizer=False)
        figures_of_steps = torch.stack([self.step(k, *optimizers) for k in range(*chunk)]).tolist()
        for k, figures in zip(range(*chunk), figures_of_steps):
            self.check(k, *figures)
        self.recent_loss = sum(loss_d for loss_d, *_ in figures_of_steps) / len(figures_of_steps)

    def check(self, k: int, loss_d: float, loss_g: float, generated: float, real: float) -> None:
        """Raise UserError if training diverged: a non-finite loss, or generated images that are all alike or far out of
        range. `generated` and `real` are spreads."""
        self.spreads.lerp_(self.spreads.new_tensor((generated, real)), 1 / MEMORY)
        generated, real = self.spreads.tolist()
        if not (math.isfinite(loss_d) and math.isfinite(loss_g)):
            what = f"the losses became {loss_d:g} and {loss_g:g}"
        elif generated < COLLAPSED * real:
            what = f"the generator collapsed to one image (its images vary {generated / real:.1%} as much as real ones)"
        elif generated > RAN_AWAY:
            what = f"the generated images are far out of range (they vary {generated / real:.3g} times as much as real)"
        else:
            return
        raise UserError(
            f"The GAN diverged at step {k + 1} of {self.steps} in generation {self.batches.t}: {what}. Lower model.lr "
            f"(now {self.lr:g}) or raise model.gamma (now {self.gamma:g}). Earlier generations are kept."
        )

    def step(self, k: int, optimizer_g, optimizer_d) -> Tensor:
        """One update of D, of G and of the average; returns D's loss, G's loss and the spread of generated and of
        training images, (4,) on the device."""
        x, y = self.batches(k)
        g = torch.Generator(x.device).manual_seed(store.seed_of(self.batches.seed, self.batches.t, "noise", k))
        z = torch.randn((2, len(x), LATENT), generator=g, device=x.device, dtype=x.dtype)
        age = self.before + k
        share = ANNEALED + (1 - ANNEALED) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, age / self.steps)))
        for group in (*optimizer_g.param_groups, *optimizer_d.param_groups):
            group["lr"], group["betas"] = self.lr * share, (0.0, 1 - FORGETS * share)

        with torch.no_grad():
            fake = self.called[0](z[0], y)
        real_logit, fake_logit, penalty = penalised(self.discriminator, x, fake, y)
        loss_d = F.softplus(fake_logit - real_logit).mean() + self.gamma * share / 2 * penalty
        optimizer_d.zero_grad()
        loss_d.backward(inputs=list(self.discriminator.parameters()))
        optimizer_d.step()

        with torch.no_grad():
            real_logit = self.discriminator(x, y)
        loss_g = F.softplus(real_logit - self.discriminator(self.called[0](z[1], y), y)).mean()
        optimizer_g.zero_grad()
        loss_g.backward(inputs=list(self.generator.parameters()))
        optimizer_g.step()

        decay = min(self.decay, (1 + age) / (10 + age))  # warm-up: early averages discard the start quickly
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.generator.parameters()), 1 - decay)
        return torch.stack((loss_d.detach(), loss_g.detach(), spread(fake), spread(x)))


def spread(x: Tensor) -> Tensor:
    """Root mean square deviation of images (B, C, H, W) from their mean image; 1e-3 where they are all alike."""
    return x.float().var(0, unbiased=False).mean().sqrt() + 1e-3


class GANGenerator(contracts.Generator):
    """A fitted GAN: samples and saves; it has no likelihood and so no risk.

    `description` is JSON-able and holds all that loading needs: shape, widths, bias, label frequencies.
    """

    def __init__(
        self,
        network: nn.Module,
        discriminator: nn.Module,
        description: dict[str, Any],
        device: str = "cpu",
        training: dict[str, Any] | None = None,
        history: History | None = None,
    ):
        self.network, self.discriminator = network.eval().to(device), discriminator.eval().to(device)
        self.description, self.device, self.training, self.history = description, device, training, history

    @property
    def facts(self) -> dict[str, Any]:
        """Training images seen, network evaluations a sample (NFE) and the settings of sampling."""
        return {"images_seen": self.description["trained_images"], "nfe": 1, "sampling": sampling(self.description)}

    def sample(self, n: int, *, seed: int, y: np.ndarray | None = None, progress: Progress = no_progress) -> Pool:
        """Draw n images, uint8 (n, C, H, W); sample i is a function of (weights, seed, i, its label) alone.

        Labels of a class-conditional generator follow its label frequencies unless `y` int64 (n,) gives them.
        """
        return sample_images(self.network, n, (LATENT,), self.description, self.device, seed, y, progress)

    def save(self, folder: Path) -> None:
        """Write the weights of both networks (safetensors) and the description; the discriminator serves later
        generations that start from this one."""
        folder = Path(folder)
        store.write_json(folder / "imgloop.json", {"kind": "gan", **self.description})
        for name, network in (("generator", self.network), ("discriminator", self.discriminator)):
            arrays = {k: v.cpu().numpy() for k, v in network.state_dict().items()}
            store.write_arrays(folder / f"{name}.safetensors", arrays)
        save_training(folder, self.training)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> GANGenerator:
        """The generator saved in `folder`; raises UserError, naming the file, if one is missing or damaged."""
        folder = Path(folder)
        path = folder / "imgloop.json"
        d = store.read_json(path)
        if not isinstance(d, dict) or d.pop("kind", None) != "gan":
            raise UserError(f"{folder / 'imgloop.json'} does not describe a GAN.")
        check_description(d, path, ("size", "channels", "widths", "label_frequencies", "bias"))
        try:
            networks = networks_of(d)
        except (KeyError, TypeError, ValueError, RuntimeError) as e:
            raise store.damaged(folder / "imgloop.json", f"does not describe a network ({e!r})") from e
        for name, network in zip(("generator", "discriminator"), networks):
            path = folder / f"{name}.safetensors"
            try:
                network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in store.open_arrays(path).items()})
            except RuntimeError as e:
                raise store.damaged(path, f"holds weights that do not fit ({first_line(e)})") from e
        return cls(*networks, d, device, load_training(folder))


def networks_of(d: dict[str, Any]) -> tuple[Generator, Discriminator]:
    """The untrained generator and discriminator that a description names."""
    widths, classes = tuple(d["widths"]), len(d["label_frequencies"] or ())
    return (
        Generator(d["size"], d["channels"], widths, LATENT, d["blocks"], classes),
        Discriminator(d["size"], d["channels"], widths, d["blocks"], classes),
    )


@dataclass
class GAN(contracts.Model):
    """The model as configured (conf/model/gan.yaml, which says what each setting is)."""

    widths: Sequence[int] | None = None
    blocks: int = setting(1, low=1)
    conditional: bool = setting(False)
    labels: str = setting("training", choices=("training", "real"))
    batch: int = setting(32, low=2)
    lr: float = setting(2e-3, above=0, below=1)
    gamma: float = setting(2.0, above=0)
    ema: float = setting(0.999, low=0, below=1)
    bias: float = setting(1.0, above=0)

    weighted = True

    def __post_init__(self):
        check_settings(self, "model")
        if self.labels != "training" and not self.conditional:
            raise UserError(
                "model.labels has no effect without labels: add model.conditional=true, or leave it out.",
                "model.labels",
            )
        check_widths_list(self.widths)

    def check(self, real: RealData, images: tuple[int, ...]) -> None:
        """Raise UserError for images or a budget that this model cannot be trained with."""
        check_images(self.batch, self.conditional, real, images)
        check_widths(real.train.x.shape[-1], self.widths)

    def fit(self, data: TrainingSet, task: Task, previous: GANGenerator | None) -> GANGenerator:
        """Train until the discriminator has seen the task's images of `data`; `start` says whether from `previous`
        (its averaged generator and its discriminator) or from scratch."""
        channels, size = data.gather(np.arange(1)).shape[1:3]
        steps, device = -(-task.images // self.batch), task.trainer.device
        description = {
            "size": size,
            "channels": channels,
            "widths": list(check_widths(size, self.widths)),
            "blocks": self.blocks,
            "bias": float(self.bias),
            "label_frequencies": label_frequencies(data, self.labels) if self.conditional else None,
            "labels": self.labels,
            "trained_images": steps * self.batch,
            "trained_on": len(data),
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(store.seed_of(task.seed, task.t, "init"))
            generator, discriminator = networks_of(description)
        resident = task.trainer.resident_gib * 2**30
        batches = Batches(data, task.seed, task.t, self.batch, device, resident, self.conditional)
        if task.trainer.channels_last:
            for network in (generator, discriminator):
                network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        module = AdversarialModule(generator, discriminator, batches, steps, self.lr, self.gamma, self.ema)
        if task.trainer.compile == "graphs":
            raise UserError(
                "trainer.compile=graphs is for model=diffusion: a GAN keeps images of one call over the next, whose "
                "memory a CUDA graph would reuse; use trainer.compile=true.",
                "trainer.compile",
            )
        # the generator alone: a compiled network cannot be differentiated twice, as D must be
        module.called = (compiled(module.generator, task.trainer),)
        if previous is not None:
            self.check_start(previous, (generator, discriminator), task)
            module.start_from(previous, task.start == "weights_and_optimizer")
        states = module.optimizer_states or []
        trained = fit(module, task, steps, self.batch) if steps else Trained(states, History([], 0.0))
        training = None
        if task.start == "weights_and_optimizer":
            training = {
                "generator": module.generator.state_dict(),
                "optimizers": trained.optimizer_states,
                "steps": module.before + steps,
            }
        return GANGenerator(module.ema, module.discriminator, description, device, training, trained.history)

    def check_start(self, previous: GANGenerator, networks: Sequence[nn.Module], task: Task) -> None:
        """Raise UserError if the weights to start from are of other networks, or lack what `start` asks for."""
        for there, here in zip((previous.network, previous.discriminator), networks):
            shapes = [{k: v.shape for k, v in network.state_dict().items()} for network in (there, here)]
            if shapes[0] != shapes[1]:
                d = previous.description
                raise UserError(
                    f"The GAN to start from has widths {d['widths']} and {d['blocks']} blocks a level, for "
                    f"{d['size']}-pixel images with {d['channels']} channels and "
                    f"{len(d['label_frequencies'] or ()) or 'no'} classes, which is not the one configured here: give "
                    "the same model.widths, model.blocks, data and model.conditional.",
                    "model.widths",
                )
        if task.start == "weights_and_optimizer" and previous.training is None:
            raise UserError(
                "start=weights_and_optimizer needs generations that were saved with their optimisers: start the "
                "chain so, or use start=weights.",
                "start",
            )

    def load(self, folder: Path, device: str = "cpu") -> GANGenerator:
        return GANGenerator.load(folder, device)
