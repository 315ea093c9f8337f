"""Training of a GAN: losses and penalties, the training module, and the watch for divergence.

Generator G and discriminator D play (x real, z latent noise; Huang et al. 2024, arXiv 2501.05441, section 2)

    D minimises  E softplus(D(G(z)) - D(x)) + gamma / 2 (E |grad_x D(x)|^2 + E |grad_x D(G(z))|^2)    (R1 and R2)
    G minimises  E softplus(D(x) - D(G(z)))

over pairs (x, z) that share a label where there are labels. The pairing is Jolicoeur-Martineau's (2019), R1 and R2 are
Mescheder et al.'s (2018).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imgloop import ranks, store
from imgloop.errors import UserError
from imgloop.models.denoising import decay_of
from imgloop.models.recipes import GANRecipe
from imgloop.training.batches import Batches

if TYPE_CHECKING:
    from imgloop.models.gan import GANGenerator

LATENT = 64  # dimensions of z
ANNEALED = 0.1  # gamma, learning rate and FORGETS fall to this share of themselves by a cosine, then stay
# 1 - beta2 of Adam, .9 to .99 as in R3GAN; .99 from the start lets one large gradient move a weight by ten steps
FORGETS = 0.1

# The watch for divergence, on averages over about MEMORY steps (calibrated in docs/ladder.md).
MEMORY = 100
ALIKE = 0.25  # below this share of the training images' spread, generated images are nearly all alike
RAN_AWAY = 2.0  # spread of generated images: no images in [-1, 1] have one above 1
LOST = 5.0  # of either loss: one player wins outright, or both explode
CUT = 100.0  # larger figures count as this, so that one outlier is soon forgotten


def penalised(discriminator: Callable, x: Tensor, fake: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of x and of fake, both (B, C, H, W), float (B,) each, and R1 + R2: the mean over pairs of
    |grad D(x)|^2 + |grad D(fake)|^2, differentiable in the discriminator's weights."""
    both = torch.cat((x, fake)).requires_grad_()
    logits = discriminator(both, None if y is None else torch.cat((y, y)))
    (gradient,) = torch.autograd.grad(logits.sum(), both, create_graph=True)
    return *logits.chunk(2), 2 * gradient.square().flatten(1).sum(1).mean()


@dataclass
class Watch:
    """Whether training is diverged, by averages over about MEMORY steps: of the losses of D and of G, and of the
    spreads of generated and of training images. since: the step from which on it is; None: it is not, or it recovered.
    """

    recent: list[float] = field(default_factory=lambda: [math.log(2), math.log(2), 1.0, 1.0])
    since: int | None = None

    def update(self, k: int, figures: Sequence[float]) -> None:
        """Take in the figures of step k, in the order of `recent`."""
        self.recent = [a + (min(value, CUT) - a) / MEMORY for a, value in zip(self.recent, figures, strict=True)]
        self.since = None if not self.trouble() else k if self.since is None else self.since

    def trouble(self) -> str:
        """What is wrong, "" if nothing."""
        loss_d, loss_g, generated, real = self.recent
        share = generated / real
        if share < ALIKE:
            return f"the generated images are nearly all alike (they vary {share:.1%} as much as real ones)"
        if generated > RAN_AWAY:
            return f"the generated images are far out of range (they vary {share:.3g} times as much as real ones)"
        if max(loss_d, loss_g) > LOST:
            losses = f"discriminator {loss_d:.3g}, generator {loss_g:.3g}"
            return f"the losses ({losses}) are far from those of an even game (log 2, 0.69)"
        return ""


class AdversarialModule(L.LightningModule):
    """Trains one generation: generator, discriminator and the generator's moving average. Batches and noise are
    functions of the step. One step is one update of D, then one of G, on the same real images."""

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        batches: Batches,
        steps: int,
        recipe: GANRecipe,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = generator, discriminator
        self.ema = copy.deepcopy(generator).requires_grad_(False).eval()
        self.watch = Watch()
        self.batches, self.steps, self.recipe = batches, steps, recipe
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
        optimizers = [
            torch.optim.Adam(p.parameters(), self.recipe.lr, betas=(0.0, 1 - FORGETS), fused=True) for p in networks
        ]
        for optimizer, state in zip(optimizers, self.optimizer_states or ()):
            optimizer.load_state_dict(copy.deepcopy(state))  # else it would update the very tensors it is given
        return optimizers

    def training_step(self, chunk: tuple[int, int]):
        optimizers: Any = self.optimizers(use_pl_optimizer=False)
        figures_of_steps = torch.stack([self.step(k, *optimizers) for k in range(*chunk)])
        ranks.average([figures_of_steps])
        figures_of_steps = figures_of_steps.tolist()
        for k, figures in zip(range(*chunk), figures_of_steps):
            self.check(k, figures)
        self.recent_loss = sum(loss_d for loss_d, *_ in figures_of_steps) / len(figures_of_steps)

    def get_extra_state(self) -> dict[str, Any]:
        """The watch's state, for checkpoints."""
        return asdict(self.watch)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.watch = Watch(**state)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """Also of a checkpoint of version 0.1.0, which has two spreads and no watch."""
        state = {"_extra_state": asdict(Watch()), **state_dict}
        state.pop("spreads", None)
        return super().load_state_dict(state, strict, assign)

    def check(self, k: int, figures: Sequence[float]) -> None:
        """Raise UserError for a loss that is not finite, else let the watch take in the figures of step k."""
        loss_d, loss_g, *_ = figures
        if not (math.isfinite(loss_d) and math.isfinite(loss_g)):
            raise UserError(
                f"The GAN diverged at step {k + 1} of {self.steps} in generation {self.batches.t}: the losses became "
                f"{loss_d:g} and {loss_g:g}. {self.advice()}. Earlier generations are kept."
            )
        self.watch.update(k, figures)

    def warning(self) -> str | None:
        """A sentence on a training that is diverged at its end, else None."""
        if self.watch.since is None:
            return None
        since = f"from step {self.watch.since + 1} of {self.steps} on"
        return f"The GAN diverged {since}: {self.watch.trouble()}. {self.advice()}."

    def advice(self) -> str:
        r = self.recipe
        return f"Lower model.lr (now {r.lr:g}) or raise model.gamma (now {r.gamma:g})"

    def step(self, k: int, optimizer_g, optimizer_d) -> Tensor:
        """One update of D, of G and of the average; returns D's loss, G's loss and the spread of generated and of
        training images, (4,) on the device."""
        x, y = self.batches(k)
        g = torch.Generator(x.device).manual_seed(store.seed_of(self.batches.seed, self.batches.t, "noise", k))
        n = len(x) * ranks.size()  # each rank draws the noise of all, and takes its own
        z = torch.randn((2, n, LATENT), generator=g, device=x.device, dtype=x.dtype)[:, ranks.rows(n)]
        age = self.before + k
        share = ANNEALED + (1 - ANNEALED) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, age / self.steps)))
        for group in (*optimizer_g.param_groups, *optimizer_d.param_groups):
            group["lr"], group["betas"] = self.recipe.lr * share, (0.0, 1 - FORGETS * share)

        with torch.no_grad():
            fake = self.called[0](z[0], y)
        real_logit, fake_logit, penalty = penalised(self.discriminator, x, fake, y)
        loss_d = F.softplus(fake_logit - real_logit).mean() + self.recipe.gamma * share / 2 * penalty
        optimizer_d.zero_grad()
        loss_d.backward(inputs=list(self.discriminator.parameters()))
        ranks.gradients(self.discriminator.parameters())
        optimizer_d.step()

        with torch.no_grad():
            real_logit = self.discriminator(x, y)
        loss_g = F.softplus(real_logit - self.discriminator(self.called[0](z[1], y), y)).mean()
        optimizer_g.zero_grad()
        loss_g.backward(inputs=list(self.generator.parameters()))
        ranks.gradients(self.generator.parameters())
        optimizer_g.step()

        with torch.no_grad():
            decay = decay_of(age, self.recipe.ema)
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.generator.parameters()), 1 - decay)
        return torch.stack((loss_d.detach(), loss_g.detach(), spread(fake), spread(x)))


def spread(x: Tensor) -> Tensor:
    """Root mean square deviation of images (B, C, H, W) from their mean image; 1e-3 where they are all alike."""
    return x.float().var(0, unbiased=False).mean().sqrt() + 1e-3
