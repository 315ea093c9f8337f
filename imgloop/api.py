"""imgloop.run: one chain from Python, with the settings of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgloop.loop import Result


def run(overrides: Sequence[str] = (), config_dir: str | Path | Sequence[str | Path] | None = None) -> Result:
    """Run, resume or extend the chain that `overrides` describe, for example run(["paradigm=accumulate",
    "generations=3"]).

    config_dir: a folder with options of your own (docs/extending.md), or several. Returns a Result: `folder` (Path)
    and `metrics` (pandas table, one row a generation). Raises imgloop.UserError for a wrong setting.
    """
    from imgloop import devices
    from imgloop.config.settings import parsed

    dirs = [config_dir] if isinstance(config_dir, str | Path) else list(config_dir or ())
    return devices.run(parsed(overrides, dirs))
