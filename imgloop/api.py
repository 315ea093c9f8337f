"""imgloop.run and imgloop.sweep: a chain, or a study of several, from Python, with the settings of the command line."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgloop.errors import UserError

if TYPE_CHECKING:
    from imgloop.loop import Result
    from imgloop.study.study import Study

Overrides = Sequence[str] | Mapping[str, Any]
Folders = str | Path | Sequence[str | Path] | None


def run(overrides: Overrides = (), config_dir: Folders = None, **settings: Any) -> Result:
    """Run, resume or extend the chain that settings describe, for example run(paradigm="accumulate", generations=3,
    train={"images": 3000}).

    overrides: settings as on the command line, ["paradigm=accumulate", "train.images=3000"], or a mapping of them,
    {"model": "gan", "model.lr": 0.001}. config_dir: a folder with options of your own (docs/extending.md), or several.
    Returns a Result: `folder` (Path) and `metrics` (pandas table, one row a generation). Raises imgloop.UserError for a
    wrong setting.
    """
    from imgloop import devices
    from imgloop.config.settings import parsed

    return devices.run(parsed(overrides_of("run", overrides, settings), folders(config_dir)))


def sweep(overrides: Overrides = (), config_dir: Folders = None, **settings: Any) -> Study:
    """Run a study, one chain for each combination of values, for example sweep(paradigm=["replace", "real_only"],
    seed=range(4)); chains run one after another in this process.

    Arguments are those of `run`; a list, tuple or range gives several values, and a value that is itself a list is
    written in another, as in model={"widths": [[8, 16]]}. At the end the comparison and the profile are printed, the
    report is written, and failed chains are listed, each with its command. Returns the Study. Raises imgloop.UserError
    for a wrong setting before anything is started, and if no chain of the study has a result.
    """
    from imgloop import multirun
    from imgloop.config.compose import config_folders
    from imgloop.config.settings import parsed
    from imgloop.launch.check import check, note
    from imgloop.launch.jobs import Job
    from imgloop.launch.outcome import outcome_path
    from imgloop.launch.worker import work
    from imgloop.plan import chains
    from imgloop.study.study import Study
    from imgloop.study.tables import chains as finished

    given, dirs = overrides_of("sweep", overrides, settings), config_folders(folders(config_dir))
    if launcher := next((w for w in given if w.startswith("hydra")), None):
        raise UserError(
            f"{launcher}: imgloop.sweep runs chains one after another in this process; launchers are for the command, "
            "python -m imgloop -m hydra/launcher=parallel.",
            launcher.partition("=")[0],
        )
    flags = [a for folder in dirs for a in ("--config-dir", str(folder))]
    place, jobs = time.strftime("%Y-%m-%d_%H-%M-%S-") + str(time.time_ns() % 10**9), []
    for number, own in enumerate(chains.jobs(given, dirs, multirun=True)[0]):
        try:
            chain = parsed(own, dirs)
        except UserError as e:
            raise UserError(f"{e} This is of {' '.join(own)}; nothing was started.", e.setting) from e
        record = outcome_path(Path(os.path.expanduser(chain.config["out"]), ".multirun", place), number)
        jobs.append(Job(number, chain, (*flags, *own), record))
    studies = list(dict.fromkeys(str(j.settings.study) for j in jobs))
    if len(studies) > 1:
        raise UserError(
            f"These chains belong to {len(studies)} studies, {', '.join(studies)}: give study=NAME to compare them in "
            "one, or call imgloop.sweep for each.",
            "study",
        )
    check(jobs)
    note(jobs)
    for job in jobs:
        work(job)
    multirun.end(jobs[0].record.parent)
    if not finished(Path(studies[0])):
        raise UserError(f"No chain of {studies[0]} has a result: see the failures listed above.")
    return Study(studies[0])


def folders(config_dir: Folders) -> list[str | Path]:
    return [config_dir] if isinstance(config_dir, str | Path) else list(config_dir or ())


def overrides_of(function: str, overrides: Overrides, settings: Mapping[str, Any]) -> list[str]:
    """The arguments of `function` as overrides of the command line; raises UserError for other forms."""
    if isinstance(overrides, Mapping):
        return [*overrides_of(function, (), overrides), *overrides_of(function, (), settings)]
    listed = [] if isinstance(overrides, str) else list(overrides)
    wrong = [overrides] if isinstance(overrides, str) else [o for o in listed if not isinstance(o, str)]
    if wrong:
        raise UserError(
            f'imgloop.{function}({wrong[0]!r}): give settings by name, {function}(paradigm="replace", generations=3), '
            f'or a list of overrides, {function}(["paradigm=replace", "generations=3"]).'
        )
    return listed + [word for key, value in settings.items() for word in spelt(function, str(key), value)]


def spelt(function: str, key: str, value: Any) -> list[str]:
    """A setting as overrides; a mapping gives one for each of its keys."""
    from imgloop.config import compose
    from imgloop.config.settings import is_schedule

    if isinstance(value, Mapping) and not is_schedule(value):
        return [word for name, inner in value.items() for word in spelt(function, f"{key}.{name}", inner)]
    if function == "sweep" and key in compose.GROUPS and isinstance(value, str) and "," in value:
        raise UserError(f"{key}={value!r}: give a list, {key}={value.split(',')}.", key)
    several = isinstance(value, Iterable) and not isinstance(value, str | os.PathLike | Mapping)
    if several and function == "sweep":
        values = list(value)
        if not values:
            raise UserError(f"{key}={value!r} gives no value: give at least one.", key)
        return [f"{key}={','.join(map(compose.spelt, values))}"]
    if isinstance(value, range):
        raise UserError(f"{key}={value} gives several values: imgloop.sweep({key}={value}) runs a chain for each.", key)
    return [f"{key}={compose.spelt(list(value) if several else value)}"]
