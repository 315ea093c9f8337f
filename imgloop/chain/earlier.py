"""Studies begun by an earlier version: they go on with the recipe that they were begun with."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

from imgloop.config.settings import FORMAT, Settings, earlier_recipe
from imgloop.errors import UserError
from imgloop.study.generation import read_config
from imgloop.study.tables import chains


def continued(settings: Settings) -> Settings:
    """The settings of a chain, given the study that it belongs to.

    If a chain there was made before there were recipes, null stands for what it stood for then, so that all chains of
    the study are made alike. Names of conditions stay. Without such a chain the settings themselves are returned.
    """
    if settings.choices["model"] != "diffusion" or not begun_earlier(settings):
        return settings
    config, defaults = deepcopy(settings.config), deepcopy(settings.defaults)
    for key, value in earlier_recipe(config["model"]).items():
        if config["model"][key] is None:
            config["model"][key] = defaults["model"][key] = value
    return replace(settings, config=config, defaults=defaults)


def begun_earlier(settings: Settings) -> bool:
    """Whether the study holds a diffusion chain from before format 3, apart from one that is to be overwritten."""
    for chain in (settings.folder, *chains(settings.study)):
        if settings.config["overwrite"] and chain == settings.folder:
            continue
        try:
            with open(chain / "config.yaml", encoding="utf-8") as f:
                if f.readline() == f"format: {FORMAT}\n":  # the first line, so that most are not parsed
                    continue
            stored = read_config(chain)
        except (OSError, UserError, ValueError):  # a damaged one is named when it is opened
            continue
        if stored.get("format", 1) < 3 and stored["choices"].get("model") == "diffusion":
            return True
    return False
