"""A GAN by R3GAN's recipe (Huang et al. 2024, arXiv 2501.05441): the fitted generator and the model as configured. Its
training is in adversarial.py, its networks are in gan_networks.py, and what settings are by default in recipes.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from imgloop import contracts, store
from imgloop.config.fields import check_settings, setting
from imgloop.config.schedule import Knob
from imgloop.contracts import Progress, no_progress
from imgloop.data.real import RealData
from imgloop.errors import UserError, first_line
from imgloop.models.adversarial import LATENT, AdversarialModule
from imgloop.models.base import (
    bias_schedule,
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
from imgloop.models.recipes import GAN_RECIPE, GANRecipe
from imgloop.pool import Pool, TrainingSet
from imgloop.training.batches import Batches
from imgloop.training.memory import check_fits
from imgloop.training.tasks import History, Task
from imgloop.training.trainer import Trained, compiled, fit


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
        """Training images seen, network evaluations a sample (NFE), the settings of sampling and, where training
        diverged, a warning."""
        d = self.description
        warning = {"warning": d["warning"]} if "warning" in d else {}
        return {"images_seen": d["trained_images"], "nfe": 1, "sampling": sampling(d), **warning}

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
    blocks: int = setting(1, low=1, high=64)
    conditional: bool = setting(False)
    labels: str = setting("training", choices=("training", "real"))
    batch: int | None = setting(None, kind=int, low=2)
    lr: float | None = setting(None, kind=float, above=0, below=1)
    gamma: float | None = setting(None, kind=float, above=0)
    ema: float | None = setting(None, kind=float, low=0, below=1)
    bias: Knob = 1.0

    weighted = flips = True
    has_risk = False

    def __post_init__(self):
        check_settings(self, "model")
        self.bias_at = bias_schedule(self.bias)
        if self.labels != "training" and not self.conditional:
            raise UserError(
                "model.labels has no effect without labels: add model.conditional=true, or leave it out.",
                "model.labels",
            )
        check_widths_list(self.widths)

    @property
    def recipe(self) -> GANRecipe:
        """How images are trained on: what is set, and the recipe's values for the rest."""
        given = {"batch": self.batch, "lr": self.lr, "gamma": self.gamma, "ema": self.ema}
        return replace(GAN_RECIPE, **{k: v for k, v in given.items() if v is not None})

    def check(self, real: RealData, images: tuple[int, ...]) -> None:
        """Raise UserError for images or a budget that this model cannot be trained with."""
        channels, size = real.train.x.shape[1:3]
        check_images(self.recipe.batch, self.conditional, real, images)
        sizes = {"size": size, "channels": channels, "widths": check_widths(size, self.widths), "blocks": self.blocks}
        with torch.device("meta"):
            check_fits(networks_of(sizes | {"label_frequencies": None}), "model.widths")

    def fit(self, data: TrainingSet, task: Task, previous: GANGenerator | None) -> GANGenerator:
        """Train until the discriminator has seen the task's images of `data`; `start` says whether from `previous`
        (its averaged generator and its discriminator) or from scratch."""
        channels, size = data.gather(np.arange(1)).shape[1:3]
        r = self.recipe
        steps, device = -(-task.images // r.batch), task.trainer.device
        description = {
            "size": size,
            "channels": channels,
            "widths": list(check_widths(size, self.widths)),
            "blocks": self.blocks,
            "bias": self.bias_at(task.t),
            "label_frequencies": label_frequencies(data, self.labels) if self.conditional else None,
            "labels": self.labels,
            "trained_images": steps * r.batch,
            "trained_on": len(data),
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(store.seed_of(task.seed, task.t, "init"))
            generator, discriminator = networks_of(description)
        resident = task.trainer.resident_gib * 2**30
        batches = Batches(data, task.seed, task.t, r.batch, device, resident, self.conditional, task.flip)
        if task.trainer.channels_last:
            for network in (generator, discriminator):
                network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        module = AdversarialModule(generator, discriminator, batches, steps, r)
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
        trained = fit(module, task, steps, r.batch) if steps else Trained(states, History([], 0.0))
        training = None
        if task.start == "weights_and_optimizer":
            training = {
                "generator": module.generator.state_dict(),
                "optimizers": trained.optimizer_states,
                "steps": module.before + steps,
            }
        if warning := module.warning():
            description["warning"] = warning
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
