"""Training of a diffusion model: loss, optimisers and the moving average of the weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from imgloop import ranks, store
from imgloop.errors import UserError
from imgloop.models.recipes import MUON_TO_ADAMW, Recipe
from imgloop.models.samplers import output
from imgloop.training.batches import Batches
from imgloop.training.muon import Muon, kernels

EMA_POWER = 6.94  # of the average tied to the run's length: its width is a tenth of the run (Karras et al. 2024)


def decay_of(k: int, ema: float | None) -> float:
    """The moving average's decay at step k: a constant with a warm-up, in which the start is soon forgotten, or, for
    None, that of the power function average of Karras et al. 2024 (arXiv 2312.02696, equation 123), whose width grows
    with the run."""
    if ema is None:
        return (1 - 1 / (k + 1)) ** (EMA_POWER + 1)
    return min(ema, (1 + k) / (10 + k))


class DiffusionModule(L.LightningModule):
    """Trains one generation: the network and its moving average. Batches and noise are functions of the step."""

    def __init__(
        self,
        network: nn.Module,
        objective,
        batches: Batches,
        steps: int,
        recipe: Recipe,
        drop: tuple[float, int] = (0.0, 0),
    ):
        super().__init__()
        self.automatic_optimization = False
        self.network, self.ema = network, copy.deepcopy(network).requires_grad_(False).eval()
        self.objective, self.batches, self.steps, self.recipe = objective, batches, steps, recipe
        self.drop, self.null = drop  # share of labels that training hides, for guidance, and the label in their place
        # what training calls, compiled or not; in a tuple, so that it is not registered as a second submodule
        self.called: tuple[Any, ...] = (network,)
        self.recent_loss = math.nan
        self.before = 0
        self.optimizer_states: list[Any] = []  # that weights_and_optimizer continues from, as it does the steps before

    def start_from(self, average: nn.Module, training: dict[str, Any] | None, optimizer: bool) -> None:
        """Start from averaged weights; with `optimizer`, continue the raw weights, average and optimisers of
        `training`, if there is any."""
        averaged = average.state_dict()
        self.ema.load_state_dict(averaged)
        self.network.load_state_dict(training["network"] if optimizer and training else averaged)
        if optimizer and training:
            # before 0.2.0 there was one optimiser
            states = training["optimizers"] if "optimizers" in training else [training["optimizer"]]
            self.before, self.optimizer_states = training["steps"], states

    def configure_optimizers(self):
        """AdamW, or Muon for the kernels of hidden layers and AdamW for the rest."""
        muon = kernels(self.network) if self.recipe.optimizer == "muon" else []
        taken = {id(p) for p in muon}
        rest = [p for p in self.network.parameters() if id(p) not in taken]
        lr = self.recipe.lr * (MUON_TO_ADAMW if muon else 1)
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=lr, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
        ]
        if muon:
            optimizers.append(Muon(muon, self.recipe.lr))
        self.rates = [o.defaults["lr"] for o in optimizers]
        if self.optimizer_states:
            for optimizer, state in zip(optimizers, self.optimizer_states, strict=True):
                optimizer.load_state_dict(state)
        return optimizers

    def training_step(self, chunk: tuple[int, int]):
        optimizers: Any = self.optimizers(use_pl_optimizer=False)
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        losses = torch.stack([self.step(k, optimizers) for k in range(*chunk)])
        ranks.average([losses])
        losses = losses.tolist()
        for k, loss in zip(range(*chunk), losses):
            if not math.isfinite(loss):
                raise UserError(
                    f"The loss became {loss} at step {k + 1} of {self.steps} in generation {self.batches.t}: lower "
                    f"model.lr (now {self.recipe.lr:g}). Earlier generations are kept."
                )
        self.recent_loss = sum(losses) / len(losses)

    def step(self, k: int, optimizers: list[torch.optim.Optimizer]) -> Tensor:
        """One optimiser step; returns the loss, still on the device."""
        for optimizer, rate in zip(optimizers, self.rates):
            for group in optimizer.param_groups:
                group["lr"] = rate * self.lr_factor(k)
            optimizer.zero_grad()
        loss = self.loss(k)
        loss.backward()
        ranks.gradients(self.network.parameters())
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            decay = decay_of(self.before + k, self.recipe.ema)
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.network.parameters()), 1 - decay)
        return loss.detach()

    def loss(self, k: int) -> Tensor:
        """Mean squared error for batch k, noised with its own noise and levels."""
        x, y = self.batches(k)
        g = torch.Generator(x.device).manual_seed(store.seed_of(self.batches.seed, self.batches.t, "noise", k))
        like = {"generator": g, "device": x.device, "dtype": x.dtype}
        n = len(x) * ranks.size()  # each rank draws the noise of all, and takes its own
        mine = ranks.rows(n)
        e = torch.randn((n, *x.shape[1:]), **like)[mine]
        s = self.objective.levels(n, like)[mine]
        if y is not None and self.drop:
            y = torch.where(torch.rand(n, **like)[mine] < self.drop, self.null, y)
        noised, timestep = self.objective.inputs(self.objective.noised(x, e, s), s)
        return self.objective.residual(x, e, s, output(self.called[0], noised, timestep, y)).square().mean()

    def lr_factor(self, k: int) -> float:
        """Linear warm-up over the first twentieth, then a cosine to zero."""
        warm = max(1, self.steps // 20)
        return (k + 1) / warm if k < warm else 0.5 + 0.5 * math.cos(math.pi * (k - warm) / (self.steps - warm))
