"""Generators of images. A saved one is loaded by its kind, the name of a model option, never by code it names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imgloop import store
from imgloop.config.parts import model_of_kind
from imgloop.contracts import Generator

DESCRIPTION = "imgloop.json"  # of a saved generator; its "kind" is the name of the model option that loads it


def save(generator: Generator, folder: Path, kind: str) -> None:
    """Save a generator into `folder`, with the kind that `load` finds its model by."""
    folder.mkdir(parents=True, exist_ok=True)
    generator.save(folder)
    path = folder / DESCRIPTION
    description = store.read_json(path) if path.exists() else {}
    if description.get("kind") != kind:
        store.write_json(path, {**description, "kind": kind})


def load(folder: Path, device: str = "cpu", config_dirs: Sequence[Path] = ()) -> Generator:
    """The generator saved in `folder`. Its kind is looked up among our models, those of installed packages and those of
    `config_dirs`; raises UserError for a kind that is in none of them, and for a damaged file, which it names."""
    description = store.read_json(Path(folder) / DESCRIPTION)
    kind = description.get("kind") if isinstance(description, dict) else None
    return model_of_kind(kind, Path(folder), config_dirs).load(Path(folder), device)
