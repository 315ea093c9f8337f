"""Studies begun by an earlier version: they go on with the recipe that they were begun with."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

from imgloop.config.earlier import FORMAT, RECIPES, before_recipes, earlier_recipe
from imgloop.config.settings import Settings
from imgloop.errors import UserError
from imgloop.study.generation import read_config
from imgloop.study.tables import chains


def continued(settings: Settings) -> Settings:
    """The settings of a chain, given the study that it belongs to.

    If a chain there was made before there were recipes, null stands for what it stood for then, so that all chains of
    the study are made alike. Names of conditions stay. Without such a chain the settings themselves are returned.
    """
    kind = settings.choices["model"]
    if kind not in RECIPES or not begun_earlier(settings, kind):
        return settings
    config, defaults = deepcopy(settings.config), deepcopy(settings.defaults)
    for key, value in earlier_recipe(kind, config["model"]).items():
        if config["model"][key] is None:
            config["model"][key] = defaults["model"][key] = value
    return replace(settings, config=config, defaults=defaults)


def begun_earlier(settings: Settings, kind: str) -> bool:
    """Whether the study holds a chain of this kind of model from before its recipes, apart from one that is to be
    overwritten."""
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
        if stored["choices"].get("model") == kind and before_recipes(kind, stored):
            return True
    return False
