"""Training loops of other programs around one of our networks: what each does in a step, and with which data.

Each peer is `peer(network, work)`: it trains a `Plain` network for `work.steps` steps, with its own noise, loss,
optimiser, average and loader.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

INSTALL = "pip install -e '.[bench]'"


@dataclass(frozen=True)
class Work:
    """What a peer is asked to do. images: uint8 (N, C, S, S); folder: the same as PNG files. own_data: images are read
    as the program reads them, from files or PIL images with its transforms, else from one float tensor in memory."""

    images: np.ndarray
    folder: Path
    steps: int
    batch: int
    device: str
    bf16: bool
    own_data: bool

    def loader(self) -> DataLoader:
        """Batches of images in [-1, 1], float32 (batch, C, S, S)."""
        tensors = TensorDataset(torch.from_numpy(self.images).float() / 127.5 - 1)
        data = Pictures(self.images) if self.own_data else tensors
        return DataLoader(data, self.batch, shuffle=True, drop_last=True)


def pictures(images: np.ndarray) -> list[Image.Image]:
    """uint8 (N, C, S, S) as PIL images."""
    return [Image.fromarray(x[0] if len(x) == 1 else x.transpose(1, 2, 0)) for x in images]


class Plain(nn.Module):
    """One of our networks by the conventions of all peers: the output is a tensor; it has the fields that
    GaussianDiffusion reads."""

    self_condition = False

    def __init__(self, network: nn.Module, channels: int):
        super().__init__()
        self.network, self.channels, self.out_dim = network, channels, channels

    def forward(self, x: Tensor, timestep: Tensor, condition: None = None) -> Tensor:
        out = self.network(x, timestep)
        return out if isinstance(out, Tensor) else out.sample


class Pictures(Dataset):
    """PIL images in memory with torchvision's transforms, in one process, as datasets.Image and CIFAR10 give them."""

    def __init__(self, images: np.ndarray):
        from torchvision import transforms as tf

        channels = images.shape[1]
        self.images = pictures(images)
        steps = [tf.RandomHorizontalFlip(), tf.ToTensor(), tf.Normalize([0.5] * channels, [0.5] * channels)]
        self.transform = tf.Compose(steps)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor]:
        return (self.transform(self.images[i]),)


def endless(loader) -> Iterator[Tensor]:
    """Batch after batch, epoch after epoch."""
    while True:
        for (x,) in loader:
            yield x


def diffusers_example(network: Plain, work: Work) -> None:
    """The step of examples/unconditional_image_generation of diffusers: accelerate, epsilon prediction, AdamW, gradient
    clipping, a cosine schedule, EMAModel, a progress bar, and the loss as a number at every step."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel
    from torch.nn import functional as F
    from tqdm import tqdm

    accelerator = Accelerator(mixed_precision="bf16" if work.bf16 else "no")
    noising = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", prediction_type="epsilon")
    ema = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    ema.to(accelerator.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    warmup = min(500, work.steps // 2)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=warmup, num_training_steps=work.steps)
    model, optimizer, loader, schedule = accelerator.prepare(network, optimizer, work.loader(), schedule)
    batches = endless(loader)
    with open(os.devnull, "w") as nowhere, tqdm(total=work.steps, file=nowhere) as bar:
        for _ in range(work.steps):
            clean = next(batches)
            noise = torch.randn_like(clean)
            timesteps = torch.randint(0, 1000, (len(clean),), device=clean.device)
            noised: Tensor = noising.add_noise(clean, noise, timesteps)  # pyright: ignore
            with accelerator.accumulate(model):
                loss = F.mse_loss(model(noised, timesteps).float(), noise)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            ema.step(model.parameters())
            bar.update(1)
            bar.set_postfix(loss=loss.detach().item(), lr=schedule.get_last_lr()[0])


def lucidrains(network: Plain, work: Work) -> None:
    """GaussianDiffusion and Trainer of denoising-diffusion-pytorch as its README calls them, without pictures and FID.
    Its Trainer reads files with one worker process a core; without `own_data`, its loader is replaced."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer

    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
        trainer = Trainer(
            GaussianDiffusion(network, image_size=work.images.shape[-1], timesteps=1000),
            str(work.folder),
            train_batch_size=work.batch,
            gradient_accumulate_every=1,
            train_lr=8e-5,
            train_num_steps=work.steps,
            ema_decay=0.995,
            amp=work.bf16,
            mixed_precision_type="bf16",
            save_and_sample_every=work.steps + 1,
            calculate_fid=False,
            results_folder=str(work.folder.parent / "results"),
        )
        if not work.own_data:
            trainer.dl = ((x + 1) / 2 for x in endless(work.loader()))  # it expects images in [0, 1]
        trainer.train()


def torchcfm_example(network: Plain, work: Work) -> None:
    """The step of examples/images/cifar10 of torchcfm, with its ConditionalFlowMatcher: Adam, gradient clipping, a
    warm-up, and an average by a loop over state dicts. Its times, 0 to 1, are scaled to the network's."""
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

    average = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step, 5000) / 5000)
    matcher = ConditionalFlowMatcher(sigma=0.0)
    batches = endless(work.loader())
    for _ in range(work.steps):
        optimizer.zero_grad()
        x1 = next(batches).to(work.device)
        t, xt, ut = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
        with torch.autocast(work.device, torch.bfloat16, enabled=work.bf16):
            loss = (network(xt, 1000 * t) - ut).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            new = network.state_dict()
            for name, value in average.state_dict().items():
                value.copy_(0.9999 * value + (1 - 0.9999) * new[name])


PEERS: dict[str, tuple[Callable[[Plain, Work], None], tuple[str, ...]]] = {
    "diffusers example": (diffusers_example, ("accelerate",)),
    "denoising-diffusion-pytorch": (lucidrains, ("denoising_diffusion_pytorch",)),
    "torchcfm": (torchcfm_example, ("torchcfm",)),
}


def installed() -> dict[str, Callable[[Plain, Work], None]]:
    """The peers whose packages are installed; names the others."""
    peers = {}
    for name, (run, modules) in PEERS.items():
        missing = [m for m in modules if find_spec(m) is None]
        if missing:
            print(f"  {name}: skipped, {', '.join(missing)} is not installed ({INSTALL})")
        else:
            peers[name] = run
    return peers
