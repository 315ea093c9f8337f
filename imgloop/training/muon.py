"""Muon: momentum, made orthogonal, for the kernels of hidden layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration of Jordan et al. 2024
ITERATIONS = 5


def orthogonalized(g: Tensor) -> Tensor:
    """Matrices (N, rows, columns) with their singular values moved towards 1, by five Newton-Schulz steps (Jordan et
    al. 2024): about .7 to 1.2 for all but the smallest."""
    a, b, c = COEFFICIENTS
    wide = g.shape[1] <= g.shape[2]
    x = (g if wide else g.mT).contiguous()
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(ITERATIONS):
        square = torch.bmm(x, x.mT)
        x = a * x + torch.bmm(torch.baddbmm(square, square, square, beta=b, alpha=c), x)
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose matrices are made orthogonal (Jordan et al. 2024); a convolution's kernel is the matrix
    (outputs, inputs times pixels). Parameters of one shape are stacked, so that a step is a few large products.

    torch.optim.Muon takes matrices only, one at a time. Weight decay is decoupled, as in AdamW; a step is scaled by the
    square root of max(1, rows / columns).
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            grads = [p.grad for p in params]
            momenta = [self.state[p]["momentum"] for p in params]
            torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
            updates = torch._foreach_lerp(grads, momenta, group["momentum"])
            by_shape: dict[tuple[int, int], list[int]] = {}
            for i, p in enumerate(params):
                by_shape.setdefault((len(p), p.numel() // len(p)), []).append(i)
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            for (rows, columns), places in by_shape.items():
                stacked = orthogonalized(torch.stack([updates[i].reshape(rows, columns) for i in places]))
                scale = -group["lr"] * max(1.0, rows / columns) ** 0.5
                moved = [u.view_as(params[i]) for i, u in zip(places, stacked.contiguous())]
                torch._foreach_add_([params[i] for i in places], moved, alpha=scale)


def kernels(network: nn.Module) -> list[Tensor]:
    """The kernels of a network's convolutions but the first and the last: what Muon is for. The rest, first and last
    layer, embeddings, norms and biases, is for AdamW."""
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    return [m.weight for m in convolutions[1:-1]]
