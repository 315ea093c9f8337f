"""The launchers of imgloop, where Hydra looks for plugins; the work is in imgloop/launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from omegaconf import open_dict


class _Launcher(Launcher):
    """Runs the chains of a sweep on the engine that `engine` makes for its jobs."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context, task_function, config) -> None:
        self.loader, self.config = hydra_context.config_loader, config

    def engine(self, jobs: Sequence[Any]) -> Any:
        raise NotImplementedError

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from imgloop.launch.jobs import job_of
        from imgloop.launch.scheduler import Sweep

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        jobs = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            config = self.loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            jobs.append(job_of(config, number))
        outcomes = Sweep(jobs, self.engine(jobs)).run()
        return [
            JobReturn(overrides=j.arguments, _return_value=o, status=JobStatus.COMPLETED)
            for j, o in zip(jobs, outcomes)
        ]


class Parallel(_Launcher):
    """hydra/launcher=parallel: processes of this machine."""

    def engine(self, jobs: Sequence[Any]) -> Any:
        from imgloop.launch.jobs import slots
        from imgloop.launch.processes import Processes

        return Processes(slots(jobs, self.options["jobs"], self.options["chains_per_gpu"]))
