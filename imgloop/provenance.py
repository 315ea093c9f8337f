"""Versions and hardware, on which exact results depend: recorded with every generation, and part of cache keys."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from imgloop import ranks

PACKAGES = ("imgloop", "torch", "numpy", "lightning", "diffusers", "safetensors", "scipy", "scikit-learn", "pillow")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def machine() -> dict[str, Any]:
    """Hardware on which exact results depend: processor kind, PyTorch's CPU kernels, number of threads, GPU."""
    import torch

    several = {"number of devices": ranks.count()} if ranks.count() > 1 else {}
    return {
        "machine": platform.machine(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **several,
    }
