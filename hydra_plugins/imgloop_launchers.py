"""The launchers of imgloop, where Hydra looks for plugins; the work is in imgloop/launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf, open_dict


class _Launcher(Launcher):
    """Runs the chains of a sweep on the engine that `engine` makes for its jobs."""

    def __init__(self, **options: Any) -> None:
        self.options: Any = OmegaConf.to_container(OmegaConf.create(options), resolve=True)

    def setup(self, *, hydra_context, task_function, config) -> None:
        self.loader, self.config = hydra_context.config_loader, config

    def engine(self, jobs: Sequence[Any]) -> Any:
        raise NotImplementedError

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from imgloop.launch.check import note
        from imgloop.launch.jobs import check_options, job_of
        from imgloop.launch.scheduler import Sweep

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        check_options(self.config.hydra.runtime.choices["hydra/launcher"], type(self).__name__, self.options)
        jobs = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            config = self.loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            jobs.append(job_of(config, number))
        engine = self.engine(jobs)
        note(jobs)
        outcomes = Sweep(jobs, engine).run()
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


class Ray(_Launcher):
    """hydra/launcher=ray: tasks of a Ray cluster, or of Ray on this machine."""

    def engine(self, jobs: Sequence[Any]) -> Any:
        from imgloop.launch.ray_tasks import RayTasks

        o = self.options
        return RayTasks(jobs, o["address"], o["jobs"], o["num_cpus"], o["num_gpus"], o["max_retries"], o["init"] or {})


class Submitit(_Launcher):
    """hydra/launcher=submitit_slurm and submitit_local: jobs of a queue."""

    def engine(self, jobs: Sequence[Any]) -> Any:
        from imgloop.launch.queues import Queue

        o = dict(self.options)
        return Queue(jobs, o.pop("cluster"), o.pop("jobs"), o.pop("max_num_timeout"), o)
