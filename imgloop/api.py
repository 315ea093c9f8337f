"""imgloop.run: one chain from Python, with the settings of the command line."""

from __future__ import annotations

from collections.abc import Sequence


def run(overrides: Sequence[str] = ()):
    """Run, resume or extend the chain that `overrides` describe, for example run(["paradigm=accumulate",
    "generations=3"]).

    Returns a Result: `folder` (Path) and `metrics` (pandas table, one row a generation). Raises imgloop.UserError,
    whose message says what to mend, for a wrong setting.
    """
    from imgloop import loop
    from imgloop.config import settings as config

    return loop.run(config.parsed(overrides))
