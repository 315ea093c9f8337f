"""Multirun: each job leaves a line on how it ended; at the end the studies' comparisons are printed, failures last."""

from __future__ import annotations

import sys
from pathlib import Path

from hydra.experimental.callback import Callback

from imgloop import store


def leave(hydra, study: str | None, failed: str | None) -> None:
    """Say, in the sweep's folder, how this job ended: any launcher's workers can write a file."""
    store.write_json(
        Path(hydra.sweep.dir) / f"job{int(hydra.job.num):04d}.json",
        {"name": ",".join(hydra.overrides.task), "study": study, "failed": failed},
    )


class StudyCallback(Callback):
    """Named in conf/config.yaml; Hydra calls it when all jobs of a multirun have ended."""

    def on_multirun_end(self, config, **kwargs) -> None:
        from imgloop.study import comparison_lines, spread

        jobs = [store.read_json(p) for p in sorted(Path(config.hydra.sweep.dir).glob("job*.json"))]
        for study in dict.fromkeys(j["study"] for j in jobs if j["study"]):
            if (Path(study) / "comparison.csv").exists():
                print(
                    "\n".join(
                        [
                            "",
                            f"{study}, at the last generation (± {spread(study)})",
                            *comparison_lines(study),
                            f"look at {Path(study) / 'comparison.png'} and comparison.csv",
                        ]
                    ),
                    flush=True,
                )
        failed = [j for j in jobs if j["failed"]]
        if failed:
            print(f"\n{len(failed)} of {len(jobs)} runs failed:", file=sys.stderr)
            for j in failed:
                print(f"  {j['name']}: {j['failed']}", file=sys.stderr)
            sys.exit(1)
