"""The jobs of a sweep: one chain each, its settings checked before any work begins."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from imgloop import store
from imgloop.conditions import short_names
from imgloop.config.compose import CONF
from imgloop.config.settings import Settings, checked
from imgloop.devices import check_launcher
from imgloop.errors import UserError
from imgloop.launch.outcome import Outcome, outcome_path
from imgloop.study.progress import planned


@dataclass(frozen=True)
class Job:
    """One chain of a sweep. number: its place in the sweep. arguments: those of the command that runs it alone.
    record: where its outcome is written."""

    number: int
    settings: Settings
    arguments: tuple[str, ...]
    record: Path

    @cached_property
    def first_group(self) -> str | None:
        """A key that jobs share if one of them can train generation 0 for all; None where nothing is shared."""
        s, c = self.settings, self.settings.config
        if s.solvable or c["fork"] is not None:
            return None
        data, model = ([s.choices[g], c[g]] for g in ("data", "model"))
        return store.content_key(
            [str(s.study), data, model, c["trainer"], c["seed"], c["start"], c["train"], c["n_initial"]]
        )

    @property
    def has_first(self) -> bool:
        """Whether the chain has a generation 0."""
        return (self.settings.folder / "gen000").is_dir()

    def write(self, outcome: Outcome) -> None:
        """Record how the job ended."""
        outcome.write(self.record, self.arguments, self.settings.folder)


def job_of(sweep_config: Any, number: int) -> Job:
    """The job of a composed config that has Hydra's own settings; raises UserError for a setting that is wrong."""
    hydra = sweep_config.hydra
    overrides = tuple(hydra.overrides.task)
    settings = checked(sweep_config, hydra.runtime.choices, overrides)
    check_launcher(settings, hydra.runtime.choices["hydra/launcher"])
    folders = [a for folder in settings.config_dirs for a in ("--config-dir", str(folder))]
    return Job(number, settings, (*folders, *overrides), outcome_path(hydra.sweep.dir, number))


def labels(chains: Sequence[Path]) -> dict[Path, str]:
    """CONDITION/seedK of planned chains, without the settings that all planned conditions of their study share."""
    found = {}
    for study in dict.fromkeys(c.parents[1] for c in chains):
        mine = [c for c in chains if c.parents[1] == study]
        conditions = [name.rsplit("/", 1)[0] for name in planned(study)] + [c.parent.name for c in mine]
        names, _ = short_names(list(dict.fromkeys(conditions)))
        found |= {c: f"{names[c.parent.name]}/{c.name}" for c in mine}
    return found


def command(arguments: Sequence[str]) -> str:
    """The command line that runs one chain."""
    return shlex.join(["python", "-m", "imgloop", *arguments])


def check_options(launcher: str, engine: str, options: Iterable[str]) -> None:
    """Raise UserError unless the options are those of a preset of this engine (a class of the plugin): of the preset
    with the launcher's name, or, for a launcher of the user's own, of the most similar one."""
    presets = {p.stem: store.read_yaml(p) for p in (CONF / "hydra" / "launcher").glob("*.yaml")}
    known = {name: set(v) - {"_target_"} for name, v in presets.items() if v["_target_"].endswith(f".{engine}")}
    like = launcher if launcher in known else max(sorted(known), key=lambda name: len(known[name] & set(options)))
    if unknown := sorted(set(options) - known[like]):
        raise UserError(
            f"hydra.launcher.{unknown[0]} is not a setting of hydra/launcher={launcher}; it has "
            f"{', '.join(sorted(known[like]))}.",
            unknown[0],
        )
    if lacking := sorted(known[like] - set(options)):
        raise UserError(
            f"hydra/launcher={launcher} lacks {', '.join(lacking)}: begin its file with the line defaults: [{like}], "
            "and set what differs.",
            "launcher",
        )


def missing_extra(launcher: str, extra: str) -> UserError:
    """The error for a launcher whose package is not installed."""
    return UserError(
        f"hydra/launcher={launcher} needs the extra {extra}: pip install 'imgloop[{extra}]', or use "
        "hydra/launcher=parallel, which needs none.",
        "launcher",
    )


def cores() -> int:
    """CPU cores that this process may use: affinity and cgroup limits count."""
    from joblib import cpu_count

    return cpu_count()


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def slots(jobs: Sequence[Job], at_once: int | None, per_gpu: int) -> list[str | None]:
    """The device of each chain that runs at one time: a GPU's name, or None for a CPU core.

    at_once: how many chains; None: as many as devices allow. Raises UserError for more than there are.
    """
    for name, value in (("jobs", at_once), ("chains_per_gpu", per_gpu)):
        if value is not None and value < 1:
            raise UserError(f"hydra.launcher.{name}={value}: give a whole number of at least 1.", name)
    if all(j.settings.config["trainer"]["accelerator"] == "cpu" for j in jobs):
        threads = max(j.settings.config["threads"] or 1 for j in jobs)
        return [None] * (at_once or max(1, cores() // threads))
    found = gpus()
    if not found:
        raise UserError("trainer=gpu: no GPU was found on this machine; give trainer=cpu.", "trainer")
    devices = [gpu for _ in range(per_gpu) for gpu in found]
    if at_once is not None and at_once > len(devices):
        raise UserError(
            f"hydra.launcher.jobs={at_once}: this machine has {len(found)} GPUs with {per_gpu} chains each; give at "
            f"most {len(devices)}, or a larger hydra.launcher.chains_per_gpu.",
            "jobs",
        )
    return list(devices[:at_once])
