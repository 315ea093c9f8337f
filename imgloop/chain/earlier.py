"""Studies begun by an earlier version: they go on with the recipe that they were begun with."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

from imgloop.config.settings import EARLIER_RECIPE, Settings, identity_of
from imgloop.errors import UserError
from imgloop.study.generation import read_config
from imgloop.study.tables import chains


def continued(settings: Settings) -> Settings:
    """The settings of a chain, given the study that it belongs to.

    If a chain there was made before there were recipes, settings that are null now take its values, so that all chains
    of the study are made alike. Names of conditions stay. Without such a chain nothing changes.
    """
    stored = earlier(settings)
    config, defaults = deepcopy(settings.config), deepcopy(settings.defaults)
    filled = [k for k in EARLIER_RECIPE if stored and config["model"].get(k) is None]
    for key in filled:
        config["model"][key] = defaults["model"][key] = stored[f"model.{key}"]
    return replace(settings, config=config, defaults=defaults) if filled else settings


def earlier(settings: Settings) -> dict[str, Any]:
    """The identity of a chain of the study, the own one first, that was made before recipes; empty if there is none."""
    if settings.choices["model"] != "diffusion" or settings.config["overwrite"] or not settings.study.is_dir():
        return {}
    own = [settings.folder] if (settings.folder / "config.yaml").exists() else []
    for chain in (*own, *chains(settings.study)):
        try:
            stored = read_config(chain)
        except UserError:  # a damaged one is named when it is opened
            continue
        identity = identity_of(stored)
        if stored.get("format", 1) < 3 and identity["model"] == "diffusion":
            return identity
    return {}
