"""Multirun: each job leaves a record of how it ended; at the end, comparisons are printed and reports written."""

from __future__ import annotations

import sys
import time
import traceback
from pathlib import Path

from hydra.experimental.callback import Callback

from imgloop import store
from imgloop.conditions import short_names
from imgloop.display import duration
from imgloop.errors import UserError
from imgloop.launch.jobs import command, labels

OURS = "hydra_plugins.imgloop_launchers."


def outcomes(sweep: Path) -> list[dict]:
    """The records of the jobs of a sweep that have ended."""
    return [store.read_json(p) for p in sorted(sweep.glob("job*.json"))]


def write_report(study: Path) -> bool:
    """Write a study's report and print its profile; False if that failed, which costs no result."""
    from imgloop.collapse import show
    from imgloop.report import files, page, terminal

    try:
        report = page.report(study)
        path = files.write(report)
    except UserError as e:
        print(f"no report: {e}", file=sys.stderr)
        return False
    except Exception:  # a fault of imgloop: shown whole, after the chains and before their failures are listed
        traceback.print_exc()
        return False
    print()
    terminal.profile(report, show.console())
    print(f"look at {path}", flush=True)
    return True


def end(sweep: Path) -> bool:
    """Compare the chains of a sweep that has ended, write reports, and list failures with the commands that go on.

    sweep: the folder with the outcomes of its jobs. Returns whether all succeeded.
    """
    from imgloop.study.compare import compare, comparison_lines, spread_text
    from imgloop.study.progress import write_states
    from imgloop.study.tables import chains

    reported = True
    jobs = outcomes(sweep)
    for study in dict.fromkeys(Path(j["study"]) for j in jobs if j["study"]):
        try:
            if len(chains(study)) > 1:
                compare(study)
        except UserError as e:
            print(f"no comparison: {e}", file=sys.stderr)
            reported = False
        if (study / "comparison.csv").exists():
            head = f"{study}, at the last generation (± {spread_text(study)})"
            look = f"look at {study / 'comparison.png'} and comparison.csv"
            print("\n".join(["", head, *comparison_lines(study), look]), flush=True)
        if study.is_dir():
            write_states(study)
        if chains(study):
            reported = write_report(study) and reported
    failed = [j for j in jobs if j["failed"]]
    if failed:
        print(
            f"\n{len(failed)} of {len(jobs)} runs failed, each with the command that continues it alone:",
            file=sys.stderr,
        )
        names = labels([Path(j["chain"]) for j in failed if j["chain"]])
        for j in failed:
            head = f"{names[Path(j['chain'])]}: " if j["chain"] else ""
            print(f"  {head}{j['failed']}\n    {command(j['arguments'])}", file=sys.stderr)
        print("The same command again continues all of them.", file=sys.stderr)
    return not failed and reported


class StudyCallback(Callback):
    """Named in conf/config.yaml; Hydra calls it before the first job of a multirun, after each that it runs itself, and
    when all have ended."""

    def __init__(self) -> None:
        self.jobs, self.began = 0, 0.0

    def on_multirun_start(self, config, **kwargs) -> None:
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        from imgloop.launch.check import check, jobs_of, note

        try:
            jobs = jobs_of(config)
            check(jobs)
            if not config.hydra.launcher._target_.startswith(OURS):  # which note the jobs when their engine is there
                note(jobs)
            self.jobs, self.began = len(jobs), time.monotonic()
        except UserError as e:
            sys.exit(f"imgloop: {e}")
        except (HydraException, OmegaConfBaseException):  # the sweeper raises it again, for command() to print
            return
        except Exception:  # Hydra would only warn
            traceback.print_exc()
            sys.exit(1)

        for study in dict.fromkeys(j.settings.study for j in jobs):
            mine = (j.settings.condition for j in jobs if j.settings.study == study)
            _, common = short_names(list(dict.fromkeys(mine)))
            if common and any(j.settings.config["display"] != "none" for j in jobs):
                print(f"{study}: all chains with {', '.join(common)}", flush=True)

    def on_job_end(self, config, job_return, **kwargs) -> None:
        if not self.jobs or config.display == "none":
            return
        ended = outcomes(Path(config.hydra.sweep.dir))
        failed = sum(j["failed"] is not None for j in ended)
        line = f"sweep: {len(ended) - failed} of {self.jobs} chains done, {failed} failed"
        if (left := self.jobs - len(ended)) and len(ended) > failed:
            line += f", about {duration((time.monotonic() - self.began) / len(ended) * left)} left"
        print(line, flush=True)

    def on_multirun_end(self, config, **kwargs) -> None:
        if not end(Path(config.hydra.sweep.dir)):
            sys.exit(1)
