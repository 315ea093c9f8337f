"""Muon, the optimiser for hidden layers, and the moving average of the weights."""

import numpy as np
import pytest
import torch

from imgloop.models.denoising import decay_of
from imgloop.models.networks import build_network
from imgloop.training.muon import Muon, kernels, orthogonalized


@pytest.mark.parametrize("shape", [(3, 16, 144), (1, 64, 64), (2, 96, 12)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape):
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalized(1e-3 * g))
    assert values.max() < 1.3 and (values > 0.5).float().mean() > 0.95  # all but the smallest
    u, _, vt = torch.linalg.svd(g, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(orthogonalized(g).flatten(), (u @ vt).flatten(), dim=0) > 0.95


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with PyTorch 2.9")
@pytest.mark.parametrize("shape", [(8, 20), (20, 8)])
def test_muon_is_that_of_pytorch_for_matrices(shape):
    """PyTorch's computes in bfloat16, of three digits."""
    ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    # their scale for "original" is sqrt(max(1, rows / columns)) as well
    optimizers = [
        Muon([ours], lr=0.1),
        torch.optim.Muon([theirs], lr=0.1, momentum=0.95, weight_decay=0.01, nesterov=True, adjust_lr_fn="original"),
    ]
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):
        gradient = torch.randn(shape, generator=rng)
        for p, optimizer in zip((ours, theirs), optimizers):
            p.grad = gradient.clone()
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=0.02) and (ours - 1).abs().max() > 0.1


def test_muon_treats_a_stack_of_kernels_as_each_alone_and_resumes_from_its_state():
    def after(steps, together, resume=False):
        rng = torch.Generator().manual_seed(0)
        params = [torch.nn.Parameter(torch.zeros(8, 4, 3, 3)) for _ in range(3)]
        groups = [params] if together else [[p] for p in params]
        optimizers = [Muon(g, lr=0.1) for g in groups]
        for k in range(steps):
            for p in params:
                p.grad = torch.randn(p.shape, generator=rng)
            if resume and k == 2:
                state = optimizers[0].state_dict()
                optimizers = [Muon(params, lr=0.1)]
                optimizers[0].load_state_dict(state)
            for optimizer in optimizers:
                optimizer.step()
        return torch.stack([p.detach() for p in params])

    assert torch.allclose(after(4, True), after(4, False), atol=1e-6)
    assert torch.equal(after(4, True), after(4, True, resume=True))


@pytest.mark.parametrize("kind", ["patch", "compact", "unet2d"])
def test_kernels_are_those_of_hidden_convolutions(kind):
    network = build_network(kind, 8, 1, (16, 32), 3)
    found = kernels(network)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(found) == len(convolutions) - 2 and all(p.ndim == 4 for p in found)
    assert convolutions[0].in_channels == 1 and convolutions[-1].out_channels == 1


def test_the_average_of_the_weights_grows_with_the_run():
    """Its width, the standard deviation of the steps that it averages, is a tenth of the run, whatever its length."""
    assert decay_of(0, None) == 0 and decay_of(10**6, 0.9) == 0.9
    for steps in (200, 2000):
        weight, left = [], 1.0
        for k in reversed(range(steps)):
            d = decay_of(k, None)
            weight.append(left * (1 - d))
            left *= d
        w, at = np.array(weight[::-1]), np.arange(steps) / steps
        mean = (w * at).sum()
        assert w.sum() == pytest.approx(1) and np.sqrt((w * (at - mean) ** 2).sum()) == pytest.approx(0.1, abs=0.005)
