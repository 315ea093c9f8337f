"""The engine of hydra/launcher=ray: a Ray task per chain. Ray runs a task again whose worker or node has died."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

from imgloop.errors import Stopped, UserError, first_line
from imgloop.launch.jobs import Job, missing_extra
from imgloop.launch.processes import PATIENCE
from imgloop.launch.site import Logs, Site, run

TIMEOUT = 10.0  # seconds that a Ray cluster has to answer


class RayTasks:
    """Ray tasks of `num_cpus` and `num_gpus` each.

    address: of a cluster that runs (HOST:PORT, or auto); None: Ray is started on this machine. jobs: how many chains at
    a time; None: as many as the cluster has room for. retries: how often a chain is run again whose worker died.
    init: further arguments of ray.init. Raises UserError for an address that does not answer, or for more than a node
    has.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        address: str | None,
        at_once: int | None,
        num_cpus: float,
        num_gpus: float | None,
        retries: int,
        init: dict[str, Any],
    ):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
            import ray.exceptions
        except ImportError as e:
            raise missing_extra("ray", "ray") from e
        self.ray, self.at_once, self.logs = ray, at_once, Logs()
        self.running: dict[Any, Job] = {}
        if num_gpus is None:
            num_gpus = float(any(j.settings.config["trainer"]["accelerator"] == "gpu" for j in jobs))
        self.needs = {"CPU": num_cpus, "GPU": num_gpus}
        connect(ray, address, init)
        self.check_room(address)
        self.site = Site.here(jobs)
        self.task = ray.remote(run).options(
            num_cpus=num_cpus, num_gpus=num_gpus, max_retries=retries, retry_exceptions=[Stopped]
        )

    def check_room(self, address: str | None) -> None:
        """Raise UserError if no node has what one chain needs."""
        nodes = [n["Resources"] for n in self.ray.nodes() if n["Alive"]]
        for what, number in self.needs.items():
            most = max((n.get(what, 0) for n in nodes), default=0)
            if number > most:
                raise UserError(
                    f"hydra.launcher.num_{what.lower()}s={number:g}: no node of the Ray cluster"
                    f"{f' at {address}' if address else ''} has more than {most:g} {what}s; give at most that many.",
                    f"num_{what.lower()}s",
                )

    @property
    def free(self) -> int:
        room = self.at_once
        if room is None:
            total = self.ray.cluster_resources()
            room = int(min(total.get(what, 0) / number for what, number in self.needs.items() if number))
        return max(room, 1) - len(self.running)  # at least one, for which a cluster may start its first node

    def start(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self.logs.follow(job)
            self.running[self.task.remote(job, self.site)] = job

    def ended(self) -> list[tuple[Job, str | None]]:
        found = []
        references = list(self.running)
        ready = self.ray.wait(references, num_returns=len(references), timeout=0)[0] if references else []
        for reference in ready:
            job = self.running.pop(reference)
            try:
                lost = self.ray.get(reference)
            except self.ray.exceptions.RayError as e:
                lost = f"Ray could not run it to its end ({first_line(e)}); the same command continues it"
            self.logs.finish(job)
            found.append((job, lost))
        return found

    def output(self) -> list[tuple[Job, str]]:
        return self.logs.lines()

    def stop(self, number: int) -> None:
        for reference in self.running:
            self.ray.cancel(reference)
        if self.running:
            self.ray.wait(list(self.running), num_returns=len(self.running), timeout=PATIENCE)
        self.ray.shutdown()


def connect(ray: Any, address: str | None, init: dict[str, Any]) -> None:
    """Start Ray here, or join the cluster at an address; raises UserError for one that does not answer."""
    if address is None:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning", **init)
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    answer = f"hydra.launcher.address={address}: no Ray cluster answers there"
    mend = "start it with `ray start --head`, or leave the address out to start Ray on this machine."
    try:
        if port.isdecimal():
            socket.create_connection((host, int(port)), TIMEOUT).close()
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    except (OSError, RuntimeError, ValueError) as e:  # ConnectionError is an OSError; RuntimeError: other versions
        raise UserError(f"{answer} ({first_line(e)}): {mend}", "address") from e
