"""The chains that a command would run: its overrides composed as a run composes them, and the work of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from imgloop import store
from imgloop.chain.base import Parts, Surroundings
from imgloop.chain.earlier import continued
from imgloop.chain.plan import Plan
from imgloop.chain.trained import Chain
from imgloop.config import compose
from imgloop.config.messages import sentence
from imgloop.config.settings import MIXING, Settings, flat, parsed
from imgloop.display import Display
from imgloop.errors import UserError
from imgloop.pool import TrainingSet

FREE = ("seed", "generations", "n_samples", "study", "out", "train.images", "paradigm", *MIXING)  # change no rate


@dataclass(frozen=True)
class Work:
    """The work of one chain of a trained model: its parts with their plan. recipe: equal for chains that train, draw
    and measure at equal rates."""

    overrides: tuple[str, ...]
    chain: Chain
    parts: Parts
    recipe: str

    @property
    def settings(self) -> Settings:
        return self.chain.settings

    @property
    def plan(self) -> Plan:
        return self.parts.plan

    @cached_property
    def first_key(self) -> str | None:
        """The key of the generation 0 that is to be trained, which chains of equal key share; None where there is none
        to train. It depends on PyTorch's number of threads: set that of the run first."""
        chain = self.chain
        if self.plan.first > 0:
            return None
        mix = self.parts.paradigm(chain.sizes, 0, chain.rng(0, "mix"))
        key = chain.first_key(TrainingSet.of(chain.pools, mix))
        return None if (chain.shared / f"generation0-{key}").is_dir() else f"{chain.study}/{key}"


def jobs(overrides: Sequence[str], dirs: Sequence[Path], multirun: bool) -> tuple[list[list[str]], bool]:
    """The overrides of each job of a command, and whether it is a multirun: by -m, or because the experiment is one.
    Sweeps are expanded by Hydra's own sweeper. Raises UserError for overrides that cannot be read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    parser, overrides = OverridesParser.create(), compose.with_paths_quoted(overrides)
    try:
        given = parser.parse_overrides(list(overrides))
        single = [str(o.input_line) for o in given if not o.is_sweep_override()]
        hydra = compose.compose(single, dirs).hydra
        if not multirun and str(hydra.mode) != "RunMode.MULTIRUN":
            return [list(overrides)], False
        every = compose.expanded(hydra.sweeper.get("params"), overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as e:  # ValueError: a group given a number or null
        raise e if isinstance(e, UserError) else UserError(*sentence(e, overrides, dirs)) from e
    return [[o for o in job if not o.startswith(("hydra.", "hydra/"))] for job in every], True


def settings_of(jobs: Sequence[Sequence[str]], dirs: Sequence[Path]) -> dict[tuple[str, ...], Settings]:
    """Checked settings by the overrides of each job; jobs of one chain count once."""
    folders: dict[Path, tuple[str, ...]] = {}
    settings: dict[tuple[str, ...], Settings] = {}
    for job in jobs:
        s = continued(parsed(job, dirs))
        if s.folder not in folders:
            folders[s.folder], settings[tuple(job)] = tuple(job), s
    return settings


def work_of(overrides: tuple[str, ...], settings: Settings) -> Work:
    """The work of a chain, from sizes alone, checked as a run checks it before it trains.

    Of a chain that exists, what is left to do; with overwrite=true, all. Raises UserError as the run would.
    """
    around = Surroundings.of(settings)
    chain = Chain(settings, replace(around, display=Display("none")))
    chain.check_study()
    if settings.config["overwrite"]:
        chain.folder = chain.folder / ".nothing"  # no generation is there
    elif chain.begun:
        chain.check_config()
    generations = settings.config["generations"]
    parts = chain.outlined(generations, store.cache_folder(), runs=False)
    chain.checked_model(parts)
    return Work(overrides, chain, parts, recipe(settings))


def recipe(settings: Settings) -> str:
    """A key of all that rates depend on: options and settings but those that say how much is done."""
    kept: dict[str, Any] = {k: v for k, v in flat(settings.config).items() if k not in FREE}
    kept = {k: v for k, v in kept.items() if not k.startswith("paradigm.")}
    return store.content_key([kept, {k: v for k, v in settings.choices.items() if k != "paradigm"}])
