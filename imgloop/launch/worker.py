"""What a worker of any engine does: run one chain, and record how that ended."""

from __future__ import annotations

from collections.abc import Sequence

from imgloop.launch.jobs import Job
from imgloop.launch.outcome import Outcome, attempted


def work(job: Job, notes: Sequence[str] = ()) -> None:
    """Run the chain of a job and write its outcome; raises Stopped, without an outcome, when asked to stop."""
    from imgloop import devices  # imports the parts of a chain: the sweep itself does not need them

    job.write(Outcome(attempted(lambda: devices.run(job.settings, sweep=True)), tuple(notes)))
