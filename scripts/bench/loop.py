"""A small study by imgloop, and by a script that a user would write around diffusers, torchmetrics and prdc."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections import defaultdict
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

PARADIGMS = ("replace", "accumulate")
SEEDS = (0, 1)
IMPORTED = (  # on no clock: what takes long to import, of both sides
    "diffusers.training_utils",
    "imgloop.figures",
    "imgloop.metrics.evaluator",
    "imgloop.models.diffusion",
    "matplotlib.pyplot",
    "pandas",
    "prdc",
    "torchmetrics.image.fid",
)
NFE = 15  # network evaluations a sample on both sides


@contextlib.contextmanager
def stage(seconds: dict[str, float], name: str):
    began = time.perf_counter()
    yield
    seconds[name] += time.perf_counter() - began


class Classifier(torch.nn.Module):
    """Features of our classifier as torchmetrics asks for them."""

    def __init__(self, extractor):
        super().__init__()
        self.extractor = extractor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.extractor(x.numpy()).x)


def script(a, settings, data, folder: Path) -> dict[str, float]:
    """The script: UNet2DModel, a DDPM loop with AdamW and EMAModel as in diffusers' unconditional example, DDIM
    samples; torchmetrics and prdc on features of one classifier, the same as ours, which it trains too. Seconds by
    stage."""
    from diffusers import DDIMScheduler, DDPMScheduler
    from diffusers.optimization import get_cosine_schedule_with_warmup
    from diffusers.training_utils import EMAModel
    from prdc import compute_prdc
    from torchmetrics.image.fid import FrechetInceptionDistance

    from imgloop.models.networks import PRESETS, unet2d

    seconds: dict[str, float] = defaultdict(float)
    real, heldout = data.train.x, data.heldout.x
    with stage(seconds, "job"):
        classifier = Classifier(settings.build("features", real=data, shared=folder, device="cpu"))
    size, channels = real.shape[-1], real.shape[1]
    batch, noise = 64, DDPMScheduler(num_train_timesteps=1000)
    steps = a.images // batch
    for paradigm in PARADIGMS:
        for seed in SEEDS:
            torch.manual_seed(seed)
            pools = [real]
            for t in range(a.generations):
                data = real if t == 0 else pools[-1] if paradigm == "replace" else np.concatenate(pools)
                with stage(seconds, "training"):
                    images = torch.utils.data.TensorDataset(torch.tensor(data).float() / 127.5 - 1)
                    loader = torch.utils.data.DataLoader(images, batch, shuffle=True, drop_last=True)
                    network = unet2d(size, channels, PRESETS["unet2d"][size])
                    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)
                    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
                    ema, done = EMAModel(network.parameters(), decay=0.999, use_ema_warmup=True), 0
                    while done < steps:
                        for (x,) in loader:
                            e, at = torch.randn_like(x), torch.randint(0, 1000, (len(x),))
                            noised: torch.Tensor = noise.add_noise(x, e, at)  # pyright: ignore
                            loss = (network(noised, at).sample - e).square().mean()
                            loss.backward()
                            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                            optimizer.step()
                            schedule.step()
                            optimizer.zero_grad()
                            ema.step(network.parameters())
                            done += 1
                            if done == steps:
                                break
                    ema.copy_to(network.parameters())
                with stage(seconds, "sampling"), torch.no_grad():
                    scheduler, parts = DDIMScheduler(num_train_timesteps=1000), []
                    for first in range(0, len(real), 256):
                        scheduler.set_timesteps(NFE)
                        x = torch.randn(min(256, len(real) - first), channels, size, size)
                        for at in scheduler.timesteps:
                            x = scheduler.step(network(x, at).sample, at, x).prev_sample  # pyright: ignore
                        parts.append(((x.clamp(-1, 1) + 1) * 127.5).round().byte().numpy())
                    pools.append(np.concatenate(parts))
                with stage(seconds, "measuring"), torch.no_grad():
                    features = [classifier(torch.from_numpy(p)) for p in (heldout, pools[-1])]
                    fid = FrechetInceptionDistance(classifier, input_img_size=(channels, size, size))  # pyright: ignore
                    fid.update(torch.from_numpy(heldout), real=True)
                    fid.update(torch.from_numpy(pools[-1]), real=False)
                    fid.compute()
                    with contextlib.redirect_stdout(None):  # it prints the numbers of images
                        compute_prdc(features[0].numpy(), features[1].numpy(), nearest_k=5)
    return dict(seconds)


def ours(a, network: str, out: str) -> dict[str, float]:
    """The same study by imgloop: its chains one after another; seconds by stage, what is left is `job`."""
    import imgloop

    seconds: dict[str, float] = defaultdict(float)
    began = time.perf_counter()
    given = [f"train.images={a.images}", f"generations={a.generations}", f"model.network={network}", f"out={out}"]
    for paradigm in PARADIGMS:
        for seed in SEEDS:
            more = [f"paradigm={paradigm}", f"seed={seed}", "display=none", f"threads={a.threads}", f"data.n={a.n}"]
            frame = imgloop.run(given + more).metrics
            for t in range(a.generations):
                shared = t == 0 and paradigm != PARADIGMS[0]  # generation 0 is trained once for each seed
                seconds["training"] += 0 if shared else frame["seconds_train"][t]
                seconds["sharing saved"] += frame["seconds_train"][t] if shared else 0
                seconds["sampling"] += frame["seconds_sample"][t]
                seconds["measuring"] += frame["seconds_measure"][t]
    seconds["job"] = time.perf_counter() - began - sum(v for k, v in seconds.items() if k != "sharing saved")
    return dict(seconds)


def total(seconds: dict[str, float]) -> float:
    return sum(v for k, v in seconds.items() if k != "sharing saved")


def loop(a) -> None:
    """Run both, ours with the equal and with the recipe's network, in turn; print seconds by stage and the ratios."""
    torch.set_num_threads(a.threads)
    for module in IMPORTED:  # on no clock
        import_module(module)
    from imgloop.config.settings import parsed

    with tempfile.TemporaryDirectory() as tmp:
        settings = parsed([f"data.n={a.n}"])
        data = settings.build("data").load(Path(tmp) / "cache")
        rows = {}
        for k in range(a.rounds):
            for name, run in (
                ("script", lambda k=k: script(a, settings, data, Path(tmp) / f"script{k}")),
                ("imgloop, equal network", lambda k=k: ours(a, "unet2d", f"{tmp}/a{k}")),
                ("imgloop, recipe's network", lambda k=k: ours(a, "null", f"{tmp}/b{k}")),
            ):
                rows.setdefault(name, []).append(run())
    stages = ["training", "sampling", "measuring", "job", "sharing saved"]
    print(
        f"{len(PARADIGMS)} paradigms, {len(SEEDS)} seeds, {a.generations} generations of {a.images:,} training images, "
        f"{a.n:,} real images, {a.threads} threads: seconds, median of {a.rounds} rounds"
    )
    totals = {name: statistics.median(map(total, r)) for name, r in rows.items()}
    for name, r in rows.items():
        parts = ", ".join(f"{s} {statistics.median(x.get(s, 0.0) for x in r):.1f}" for s in stages)
        print(f"  {name}: {totals[name]:.1f} ({parts}); {totals['script'] / totals[name]:.2f} times as fast")
