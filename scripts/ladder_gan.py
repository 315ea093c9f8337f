"""The ladder's rungs for the GAN: from the recipe of version 0.1.0 to today's (scripts/ladder.py --model gan)."""

from __future__ import annotations

from typing import Any

BEFORE = {"batch": 32, "lr": 0.002, "gamma": 2.0, "ema": 0.999}
STEPS: dict[str, dict[str, dict[str, Any]]] = {
    "digits": {"0.1.0": {}, "average tied to the run": {"ema": None}},
    "cifar16": {"0.1.0": {}, "average tied to the run": {"ema": None}},
    "cifar32": {},
    "shapes": {},
    "stacked": {},
}
SIDES: dict[str, dict[str, dict[str, Any]]] = {
    "digits": {
        "last, batch 64": {"batch": 64},
        "last, learning rate .004": {"lr": 0.004},
        "last, gamma .3": {"gamma": 0.3},
        "last, gamma 10": {"gamma": 10.0},
    },
    "cifar16": {"last, gamma .3": {"gamma": 0.3}},
}
RECIPE = "the recipe"  # every setting null; the only rung where there is no ladder
SETTINGS = {
    "shapes": ["data=shapes", "data.size=16", "n_samples=1000"],
    "stacked": ["data=stacked_digits", "n_samples=1000"],
}
SHAPES = {"shapes": (16, 3), "stacked": (8, 3)}  # size and channels of images


def rungs(data: str) -> dict[str, dict[str, Any]]:
    """Settings of model=gan by rung: each adds its change to the one before; sides change the last."""
    chosen, now = {}, dict(BEFORE)
    for name, change in STEPS[data].items():
        now = now | change
        chosen[name] = now
    sides = {name: now | change for name, change in SIDES.get(data, {}).items()}
    return chosen | sides | {RECIPE: dict.fromkeys(BEFORE)}


if __name__ == "__main__":
    raise SystemExit("this file holds the rungs: run python scripts/ladder.py --model gan")
