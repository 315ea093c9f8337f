"""The engine of hydra/launcher=submitit_slurm and submitit_local: a job of the queue per chain, by submitit."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgloop.errors import UserError, first_line
from imgloop.launch.jobs import Job, missing_extra
from imgloop.launch.site import Logs, Site, run

ANY = ("timeout_min", "gpus_per_node", "cpus_per_task", "mem_gb")  # parameters of every queue; others are one's own


class Task:
    """What submitit pickles: a call that, at the time limit or at pre-emption, is queued again and continues."""

    def __call__(self, job: Job, site: Site) -> str | None:
        return run(job, site)

    def checkpoint(self, job: Job, site: Site) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job, site)


class Queue:
    """Jobs of a queue, submitted together where they can start together.

    cluster: slurm, or local for processes of this machine. at_once: how many at a time. timeouts: how often a chain is
    queued again after its time limit. parameters: submitit's own, such as timeout_min, mem_gb and partition. Raises
    UserError if submitit or SLURM is not there, or SLURM is given no partition.
    """

    def __init__(self, jobs: Sequence[Job], cluster: str, at_once: int, timeouts: int, parameters: dict[str, Any]):
        try:
            import submitit
        except ImportError as e:
            raise missing_extra(f"submitit_{cluster}", "slurm") from e
        if cluster == "slurm" and not parameters.get("partition"):
            raise UserError(
                "hydra/launcher=submitit_slurm needs a partition: give hydra.launcher.partition=NAME; see sinfo.",
                "partition",
            )
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise UserError(
                "hydra/launcher=submitit_slurm: this machine has no sbatch command; run it on a login node of a SLURM "
                "cluster, or use hydra/launcher=parallel here.",
                "launcher",
            )
        if parameters["gpus_per_node"] is None:
            wanted = any(j.settings.config["trainer"]["accelerator"] == "gpu" for j in jobs)
            parameters = {**parameters, "gpus_per_node": int(wanted)}
        self.cluster, self.at_once, self.site, self.logs = cluster, at_once, Site.here(jobs), Logs()
        self.running: list[tuple[Any, Job]] = []
        folder = self.site.lock.parent / ".submitit" / "%j"
        limit: dict[str, Any] = {f"{cluster}_max_num_timeout": timeouts}
        self.executor = submitit.AutoExecutor(folder, cluster=cluster, **limit)
        given = {k if k in ANY else f"{cluster}_{k}": v for k, v in parameters.items() if v is not None}
        try:
            self.executor.update_parameters(name="imgloop", **given)
        except (
            NameError,
            TypeError,
            AssertionError,
            ValueError,
        ) as e:  # submitit's, for unknown parameters
            raise UserError(f"hydra.launcher: {' '.join(str(e).split())}", "launcher") from e

    @property
    def free(self) -> int:
        return self.at_once - len(self.running)

    def start(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self.logs.follow(job)
        try:
            submitted = self.executor.map_array(Task(), jobs, [self.site] * len(jobs))
        except Exception as e:  # submitit passes on what sbatch says, such as an unknown partition
            raise UserError(f"The queue does not take the jobs: {' '.join(str(e).split())}", "launcher") from e
        self.running += list(zip(submitted, jobs))

    def ended(self) -> list[tuple[Job, str | None]]:
        found = []
        for entry in [e for e in self.running if e[0].done()]:
            self.running.remove(entry)
            task, job = entry
            self.logs.finish(job)
            found.append((job, lost(task, job)))
        return found

    def output(self) -> list[tuple[Job, str]]:
        return self.logs.lines()

    def stop(self, number: int) -> None:
        if self.cluster == "local":
            for task, _ in self.running:
                task.cancel()
        elif self.running:
            numbers = " ".join(task.job_id for task, _ in self.running)
            print(f"the jobs in the queue go on; `scancel {numbers}` ends them", flush=True)


def lost(task: Any, job: Job) -> str | None:
    """Why an ended task left no outcome, in a sentence; None if it left one."""
    from submitit.core.utils import UncompletedJobError

    try:
        error = task.exception()
        if error is None:
            return task.result()
    except UncompletedJobError as e:
        error = e
    if job.record.exists():
        return None
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    killed = f"job {task.job_id} left no result, as when its process is killed"
    why = next((line for line in reversed(said) if "Error" in line or "not requeued" in line), None)
    why = why or (killed if isinstance(error, UncompletedJobError) else first_line(error))
    return (
        f"the queue ended it ({why}; its output is in {Path(task.paths.stderr).parent}); the same command continues it"
    )
