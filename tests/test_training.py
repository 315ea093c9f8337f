"""The optimiser for hidden layers, the moving average, and the choice of the number of threads."""

import time

import numpy as np
import pytest
import torch
from conftest import TINY

import imgloop
from imgloop import store
from imgloop.chain import threads
from imgloop.errors import UserError
from imgloop.models.denoising import decay_of
from imgloop.models.networks import build_network
from imgloop.training.muon import Muon, kernels, orthogonalized

THREADED = [o for o in TINY if not o.startswith("threads")]


@pytest.mark.parametrize("shape", [(3, 16, 144), (1, 64, 64), (2, 96, 12)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape):
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalized(1e-3 * g))
    assert values.max() < 1.3 and (values > 0.5).float().mean() > 0.95  # all but the smallest
    u, _, vt = torch.linalg.svd(g, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(orthogonalized(g).flatten(), (u @ vt).flatten(), dim=0) > 0.95


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with PyTorch 2.9")
def test_muon_is_that_of_pytorch_for_matrices():
    """PyTorch's computes in bfloat16, of three digits."""
    ours, theirs = (torch.nn.Parameter(torch.ones(8, 20)) for _ in range(2))
    # their scale for "original" is sqrt(max(1, rows / columns)) as well
    optimizers = [
        Muon([ours], lr=0.1),
        torch.optim.Muon([theirs], lr=0.1, momentum=0.95, weight_decay=0.01, nesterov=True, adjust_lr_fn="original"),
    ]
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):
        gradient = torch.randn(8, 20, generator=rng)
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


# Threads


def test_more_threads_must_gain_more_than_noise():
    assert threads.fastest({1: 1.0, 2: 0.99}) == 1
    assert threads.fastest({1: 1.0, 2: 0.6}) == 2
    assert threads.fastest({1: 1.0, 2: 0.6, 4: 0.59, 8: 2.0}) == 2
    assert threads.fastest({1: 1.0, 2: 0.9, 4: 0.5}) == 4


class Timed:
    """A model whose steps take as long as a test says, by number of threads."""

    def __init__(self, seconds, reports=True):
        self.seconds, self.reports = seconds, reports

    def fit(self, data, task, previous):
        for k in range(40):
            duration = self.seconds(torch.get_num_threads(), k)
            time.sleep(duration)
            if self.reports:
                task.progress(k + 1, 40)
            if task.stop():
                raise imgloop.errors.Stopped


def chosen(monkeypatch, model, most=2):
    class Chain:
        done, trainer, stop = 0, None, staticmethod(lambda: False)

        class settings:
            images = staticmethod(lambda t: 64)

    from imgloop.pool import Pool

    monkeypatch.setattr(threads, "MOST", most)
    monkeypatch.setattr(threads, "SECONDS", 0.02)
    before = torch.get_num_threads()
    real = type("Real", (), {"train": Pool(np.zeros((4, 1, 8, 8), np.uint8))})()
    try:
        return threads.fastest(threads.trial(model, real, Chain()))
    finally:
        torch.set_num_threads(before)


def test_the_trial_takes_the_faster_number_and_avoids_erratic_steps(monkeypatch):
    assert chosen(monkeypatch, Timed(lambda n, k: 0.004 / n)) == 2
    assert chosen(monkeypatch, Timed(lambda n, k: 0.002)) == 1
    # two threads are faster in most steps, and wait for each other in some
    assert chosen(monkeypatch, Timed(lambda n, k: 0.003 if n == 1 else 0.02 if k % 3 == 2 else 0.001)) == 1
    assert chosen(monkeypatch, Timed(lambda n, k: 0.0005 / n, reports=False)) == 2  # as a whole


def test_a_study_keeps_the_number_and_its_chains_share_generation_0(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "MOST", 2)
    monkeypatch.setattr(threads, "SECONDS", 0.01)
    tried = []
    monkeypatch.setattr(threads, "trial", lambda *a: tried.append(1) or {1: 1.0, 2: 0.5})
    before = torch.get_num_threads()
    try:
        for paradigm in ("replace", "accumulate"):
            result = imgloop.run([*THREADED, f"out={tmp_path}", "generations=1", f"paradigm={paradigm}"])
            assert store.read_json(result.folder / "gen000" / "record.json")["machine"]["threads"] == 2
    finally:
        torch.set_num_threads(before)
    assert len(tried) == 1 and len(list(tmp_path.glob("*/shared/generation0-*"))) == 1
    (kept,) = tmp_path.glob("*/shared/threads-*")
    (kept / "threads.json").write_text('{"threads": 1}')
    with pytest.raises(UserError, match=r"threads\.json"):
        imgloop.run([*THREADED, f"out={tmp_path}", "generations=1", "paradigm=real_only"])


def test_given_threads_are_taken_without_a_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "trial", lambda *a: pytest.fail("a trial"))
    imgloop.run([*TINY, f"out={tmp_path}", "generations=1"])
    assert not list(tmp_path.glob("*/shared/threads-*"))
