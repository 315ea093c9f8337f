"""The format of a chain's identity, and identities and recipes of earlier formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMAT = 4  # of an identity: raise it when its keys or their meaning change, and read the older one in `identity_of`
# Models with recipes: the format that introduced null for them, and what was used before, for all networks and sizes.
RECIPES: dict[str, tuple[int, dict[str, Any]]] = {
    "diffusion": (
        3,
        {
            "network": "compact",
            "batch": 64,
            "optimizer": "adamw",
            "lr": 0.003,
            "ema": 0.999,
            "time_mean": 0,
            "precondition": False,
        },
    ),
    "gan": (4, {"batch": 32, "lr": 0.002, "gamma": 2, "ema": 0.999}),
}


def identity_of(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The identity that a chain's config.yaml holds, in today's format. Format 1, of version 0.1.0, named classes in
    place of options and had neither curation nor correction; until format 2 diffusion had no recipes, until format 3
    the GAN had none."""
    identity = dict(stored["identity"])
    if stored.get("format", 1) == 1:
        identity = {k: v for k, v in identity.items() if not k.endswith("_target_")}
        identity |= {g: stored["choices"][g] for g in ("paradigm", "data", "model")}
        identity |= {"curation": "none", "correction": "none"}
    if before_recipes(identity["model"], stored):
        model = {k.removeprefix("model."): v for k, v in identity.items() if k.startswith("model.")}
        identity = {f"model.{k}": v for k, v in earlier_recipe(identity["model"], model).items()} | identity
    later = {"train.flip": False, "select_from": "pool"}  # settings that came later, at their default
    if identity["model"] == "diffusion":
        later |= {"model.extrapolate": 0, "model.extrapolate_share": 0.1, "model.extrapolate_by": "weights"}
    return later | identity


def before_recipes(kind: str, stored: Mapping[str, Any]) -> bool:
    """Whether a stored config is from before the recipes of this kind of model."""
    return kind in RECIPES and stored.get("format", 1) < RECIPES[kind][0]


def earlier_recipe(kind: str, model: Mapping[str, Any]) -> dict[str, Any]:
    """What null stood for before there were recipes of this kind of model, given its settings."""
    recipe = dict(RECIPES[kind][1])
    if kind == "diffusion" and (model["objective"], model["time"]) != ("flow", "logit_normal"):
        recipe["time_mean"] = None  # others have no mean of levels
    return recipe
