"""Multirun: each job leaves a line on how it ended; at the end the studies' comparisons are printed and their reports
written, failures last."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from hydra.experimental.callback import Callback

from imgloop import store
from imgloop.errors import UserError


def leave(hydra, study: str | None, failed: str | None) -> None:
    """Say, in the sweep's folder, how this job ended: any launcher's workers can write a file."""
    store.write_json(
        Path(hydra.sweep.dir) / f"job{int(hydra.job.num):04d}.json",
        {"name": ",".join(hydra.overrides.task), "study": study, "failed": failed},
    )


def report(study: Path) -> bool:
    """Write a study's report and print its profile; False where that failed, which costs no result."""
    from rich.console import Console

    from imgloop.report import files, page, terminal

    try:
        told = page.report(study)
        path = files.write(told)
    except UserError as e:
        print(f"no report: {e}", file=sys.stderr)
        return False
    except Exception:  # a fault of ours: shown whole, after the chains and before their failures are told
        traceback.print_exc()
        return False
    console = Console(highlight=False)
    print()
    terminal.profile(told, console if console.is_terminal else Console(width=120, highlight=False))
    print(f"look at {path}", flush=True)
    return True


class StudyCallback(Callback):
    """Named in conf/config.yaml; Hydra calls it when all jobs of a multirun have ended."""

    def on_multirun_end(self, config, **kwargs) -> None:
        from imgloop.study.compare import comparison_lines, spread_text
        from imgloop.study.tables import chains

        reported = True
        jobs = [store.read_json(p) for p in sorted(Path(config.hydra.sweep.dir).glob("job*.json"))]
        for study in dict.fromkeys(j["study"] for j in jobs if j["study"]):
            if (Path(study) / "comparison.csv").exists():
                print(
                    "\n".join(
                        [
                            "",
                            f"{study}, at the last generation (± {spread_text(study)})",
                            *comparison_lines(study),
                            f"look at {Path(study) / 'comparison.png'} and comparison.csv",
                        ]
                    ),
                    flush=True,
                )
            if chains(Path(study)):
                reported = report(Path(study)) and reported
        failed = [j for j in jobs if j["failed"]]
        if failed:
            print(f"\n{len(failed)} of {len(jobs)} runs failed:", file=sys.stderr)
            for j in failed:
                print(f"  {j['name']}: {j['failed']}", file=sys.stderr)
        if failed or not reported:
            sys.exit(1)
