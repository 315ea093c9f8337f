"""Numbers of a script's command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def least(low: float, kind: Callable[[str], float] = int) -> Callable[[str], float]:
    """A type for argparse: a number of `low` or more."""

    def number(text: str) -> float:
        value = kind(text)
        if not low <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text}: give {low:g} or more")
        return value

    number.__name__ = f"{'whole ' if kind is int else ''}number"  # argparse names it where the text is no number
    return number


if __name__ == "__main__":
    raise SystemExit("this file holds what other scripts share")
