"""What a fit knows of its surroundings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def silent(done: int, total: int, **figures) -> None:
    """The progress of nobody: `done` of `total` images, and figures such as loss=0.1 to show beside it."""


def never() -> bool:
    return False


@dataclass(frozen=True)
class Task:
    """One fit: generation `t` of the chain with `seed`, to see `images` training images, starting from `start`.

    `scratch` is a folder of its own in which the fit keeps what it needs to resume; `progress(done, total, **figures)`
    is called now and then; when `stop()` turns true the fit saves where it stands and raises Stopped.
    """

    t: int
    seed: int
    images: int
    start: str
    scratch: Path
    progress: Callable = silent
    stop: Callable[[], bool] = never
