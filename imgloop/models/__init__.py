"""Generators of images. A saved one is loaded by its kind, out of ours: a folder never says what code runs."""

from __future__ import annotations

from pathlib import Path

from imgloop import store
from imgloop.errors import UserError


def load(folder: Path, device: str = "cpu"):
    """The generator saved in `folder`; raises UserError for a kind that is not ours, or a damaged file, which it
    names."""
    from imgloop.models.diffusion import DiffusionGenerator
    from imgloop.models.gan import GANGenerator

    kinds = {"diffusion": DiffusionGenerator, "gan": GANGenerator}
    kind = store.read_json(Path(folder) / "imgloop.json").get("kind")
    if kind not in kinds:
        raise UserError(f"{folder} holds a model of kind {kind!r}; known are {', '.join(kinds)}.")
    return kinds[kind].load(folder, device)
