"""A sweep as a whole, before any work begins: its jobs, what is wrong or contradictory in them, and the note that they
are planned."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from imgloop import loop, store
from imgloop.chain.base import Surroundings
from imgloop.chain.earlier import continued
from imgloop.chain.trained import start_folder
from imgloop.config.compose import expanded
from imgloop.data.archive import check_exists
from imgloop.errors import UserError
from imgloop.guards import guarded
from imgloop.launch.jobs import Job, job_of
from imgloop.study import progress, tables
from imgloop.study.generation import read_config
from imgloop.study.imported import refuse_imported

PARTS = ("paradigm", "curation", "correction", "data", "model")  # that are built before a sweep, to check them


def jobs_of(config: Any) -> list[Job]:
    """The jobs of a multirun, in the order of Hydra's sweeper; raises UserError for the first with a wrong setting."""
    from hydra.core.global_hydra import GlobalHydra

    if not config.hydra.sweeper._target_.endswith("BasicSweeper"):
        return []  # another sweeper chooses its jobs while they run
    loader = GlobalHydra.instance().config_loader()
    jobs = []
    for number, words in enumerate(expanded(config.hydra.sweeper.params, config.hydra.overrides.task, loader)):
        try:
            jobs.append(job_of(loader.load_sweep_config(config, words), number))
        except UserError as e:
            raise UserError(f"{e} This is of {' '.join(words)}; nothing was started.", e.setting) from e
    return jobs


def check(jobs: Sequence[Job]) -> None:
    """Raise UserError, naming the settings, where those of a sweep are wrong, contradict each other or what the studies
    hold; nothing has been started or changed then."""
    check_different(jobs)
    for study in dict.fromkeys(j.settings.study for j in jobs):
        mine = [j for j in jobs if j.settings.study == study]
        refuse_imported(study)
        check_kinds(mine)
        check_features(mine)
    for job in jobs:
        settings = continued(job.settings)
        if (settings.folder / "config.yaml").exists() and not settings.config["overwrite"]:
            loop.chain_of(settings, Surroundings.of(settings)).check_config()
    check_parts(jobs)


def note(jobs: Sequence[Job]) -> None:
    """Note in the studies of a sweep that its chains are planned."""
    for study in dict.fromkeys(j.settings.study for j in jobs):
        mine = [j.settings for j in jobs if j.settings.study == study]
        progress.plan(study, {f"{s.condition}/{s.folder.name}": s.config["generations"] for s in mine})
        progress.write_states(study)


def check_parts(jobs: Sequence[Job]) -> None:
    """Raise UserError for a part with a wrong setting, and for a folder of images or a model that does not exist. What
    else the data or the hardware can show fails the chain that it concerns."""
    seen = set()
    for job in jobs:
        s = job.settings
        if (key := store.content_key([s.choices, {g: s.config[g] for g in (*PARTS, "start", "fork")}])) in seen:
            continue
        seen.add(key)
        try:
            for group in PARTS:
                guarded(s.part(group), s.build(group))
            if not s.solvable and s.config["fork"] is None:
                start_folder(s.config["start"])
            if root := s.config["data"].get("root"):
                check_exists(Path(root).expanduser())
        except UserError as e:
            raise UserError(f"{e} This is of {' '.join(job.arguments)}; nothing was started.", e.setting) from e


def check_different(jobs: Sequence[Job]) -> None:
    """Raise UserError for two jobs that would run the same chain."""
    first: dict[Any, Job] = {}
    for job in jobs:
        other = first.setdefault(job.settings.folder, job)
        if other is not job:
            both = (set(a) - set(b) for a, b in ((other.arguments, job.arguments), (job.arguments, other.arguments)))
            one, two = (" ".join(sorted(b)) for b in both)
            which = f"{one} and {two} are" if two else f"{' '.join(job.arguments)} is given twice:"
            raise UserError(
                f"{which} one chain, {job.settings.folder}: a sweep runs each chain once. Give one value, or a "
                "study=NAME for each.",
                two.split("=")[0] or None,
            )


def check_kinds(jobs: Sequence[Job]) -> None:
    """Raise UserError for trained and solvable chains in one study, planned or there."""
    settings = jobs[0].settings
    kinds = {j.settings.solvable: f"model={j.settings.choices['model']}" for j in jobs}
    kinds |= {tables.is_solved(c): str(c) for c in tables.chains(settings.study)[:1] if not jobs_overwrite(jobs)}
    if len(kinds) > 1:
        raise UserError(
            f"{settings.study}: solvable systems and trained models are not compared in one study ({kinds[True]}, "
            f"{kinds[False]}); give study=NEW.",
            "study",
        )


def check_features(jobs: Sequence[Job]) -> None:
    """Raise UserError if the chains of a study would be measured by different features, so that none could be
    compared."""
    if jobs[0].settings.solvable or jobs_overwrite(jobs):
        return
    names = {j.settings.choices["features"]: "this sweep" for j in jobs}
    for chain in tables.chains(jobs[0].settings.study):
        with suppress(UserError):  # a damaged chain is named when it is read
            names.setdefault(str(read_config(chain)["choices"]["features"]), str(chain))
    names.pop("auto", None)  # the data's own, which may be one of the others
    if len(names) > 1:
        one, two, *_ = (f"features={name} of {whose}" for name, whose in names.items())
        raise UserError(
            f"{one} and {two} differ: such scores are not compared. Give the same features, or study=NEW; "
            "python -m imgloop.measure measures finished chains again.",
            "features",
        )


def jobs_overwrite(jobs: Sequence[Job]) -> bool:
    return any(j.settings.config["overwrite"] for j in jobs)
