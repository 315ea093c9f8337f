"""Devices by name: peak throughput and power, with their sources, and what imgloop reaches of the peak."""

from __future__ import annotations

from dataclasses import dataclass

from imgloop.errors import UserError


@dataclass(frozen=True)
class Device:
    """A GPU. peak: dense bf16 (fp16 where it has no bf16) products, TFLOP/s; watts: its power limit; gib: its memory;
    source: where these numbers stand."""

    label: str
    peak: float
    watts: float
    gib: float
    source: str


DEVICES = {
    "t4": Device("NVIDIA T4 (fp16)", 65, 70, 16, "NVIDIA T4 data sheet"),
    "v100": Device("NVIDIA V100 SXM2 (fp16)", 125, 300, 32, "NVIDIA V100 data sheet"),
    "a100": Device("NVIDIA A100 SXM", 312, 400, 80, "NVIDIA A100 data sheet"),
    "l4": Device("NVIDIA L4", 121, 72, 24, "NVIDIA L4 data sheet, half of the figure with sparsity"),
    "l40s": Device("NVIDIA L40S", 362, 350, 48, "NVIDIA L40S data sheet"),
    "h100": Device("NVIDIA H100 SXM", 989, 700, 80, "NVIDIA H100 data sheet, half of the figure with sparsity"),
    "h200": Device("NVIDIA H200 SXM", 989, 700, 141, "NVIDIA H200 data sheet, half of the figure with sparsity"),
    "rtx4090": Device("NVIDIA GeForce RTX 4090", 165, 450, 24, "NVIDIA Ada whitepaper, fp32 accumulation"),
}

# Fitted to the three rates of docs/performance.md on an H200 (32 pixels, batch 128: 7,230 and 4,040 images/s with 83
# and 277 GFLOP a step; 8 pixels, batch 64: 5,300 images/s with 0.6): step = LAUNCH + FLOP / (EFFICIENCY peak).
MEASURED = "h200"
LAUNCH = 0.0117  # seconds that a step's kernels take to launch, whatever their size
EFFICIENCY = 0.014  # of the peak, beside that
PASS = 1 / 3  # of a step's kernels in one evaluation of the network: the forward of forward, backward and update


def device(name: str) -> Device:
    """The device of this name; raises UserError for another."""
    if name not in DEVICES:
        raise UserError(f"--device {name}: choose one of {', '.join(DEVICES)}.", "device")
    return DEVICES[name]


def seconds(name: str, flop: float, passes: float) -> float:
    """Seconds on a device: `passes` steps' worth of launches, and the operations at what is reached of its peak. For
    other devices than MEASURED an estimate: the same launches and the same share of the peak."""
    return passes * LAUNCH + flop / (EFFICIENCY * DEVICES[name].peak * 1e12)
