"""python -m imgloop.report STUDY: report.html, tables and figures; --list, --watch and --archive."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from imgloop.errors import UserError, status

EVERY = 30  # seconds between two looks at a running study


def main(arguments: Sequence[str] | None = None) -> int:
    os.environ.setdefault("MPLBACKEND", "Agg")
    return status("imgloop.report", command, arguments)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m imgloop.report",
        description="The report of a study: report.html, one page that needs no network, and in report/ the collapse "
        "profile as JSON, CSV and LaTeX table, the figures as PDF and BibTeX of what was used.",
    )
    p.add_argument(
        "study", nargs="?", type=Path, help="a study's folder, one chain's (CONDITION/seedK), or a CSV table"
    )
    doing = p.add_mutually_exclusive_group()
    doing.add_argument("--list", action="store_true", help="list studies and chains in a folder (outputs)")
    doing.add_argument("--watch", action="store_true", help="write the page anew whenever a running study has more")
    doing.add_argument("--archive", action="store_true", help="pack the study without weights (STUDY.tar.gz, or --out)")
    p.add_argument("--out", type=Path, help="where to write instead of the study's folder")
    p.add_argument("--control", default="real_only", help="the condition to compare with (real_only)")
    p.add_argument("--quarter", help="the condition of a real-only model trained on a quarter of the data")
    p.add_argument("--risk", help="the column that is the population risk (risk, else excess, fd)")
    p.add_argument("--generation", type=int, help="the last generation to judge (the one at which most chains end)")
    p.add_argument("--protocol", help="the protocol of the scores to show (a file name in scores/)")
    p.add_argument("--seed", type=int, help="the seed whose images are shown (the smallest that most conditions have)")
    p.add_argument("--every", type=float, default=EVERY, help=f"seconds between two looks of --watch ({EVERY})")
    return p


def command(arguments: Sequence[str] | None) -> None:
    a = parser().parse_args(arguments)
    from rich.console import Console

    console = Console(highlight=False, force_jupyter=False)
    console = console if console.is_terminal else Console(width=120, highlight=False, force_jupyter=False)
    if a.list:
        from imgloop.report.terminal import listing

        return listing(a.study or Path("outputs"), console)
    if a.study is None:
        raise UserError(
            "Give a study's folder, for example outputs/digits-diffusion, or --list to see which there are."
        )
    if a.archive:
        from imgloop.report.archive import archive
        from imgloop.report.progress import size, weight

        path = archive(a.study, a.out)
        console.print(
            f"{path}: {weight(path.stat().st_size)}, without weights ({weight(size([a.study]))} before)", markup=False
        )
        return None
    if a.every <= 0:
        raise UserError(f"--every {a.every:g}: give a number of seconds above 0.")
    if a.watch:
        return watch(a, console)
    return written(a, console)


def written(a: argparse.Namespace, console) -> None:
    """One report, its profile in the terminal, and where to look."""
    from imgloop.report import files, page, terminal

    report = _read(a)
    path = files.write(report, a.out)
    terminal.profile(report, console)
    for fault in report.study.damaged:
        print(f"left out: {fault}", file=sys.stderr)
    console.print(
        f"look at {path}; tables and figures are in {path.parent / page.BESIDE}", markup=False, soft_wrap=True
    )


def _read(a: argparse.Namespace):
    from imgloop.report import page
    from imgloop.report.profiles import Question

    return page.report(a.study, Question(a.control, a.quarter, a.risk, a.generation), a.protocol, a.seed)


def watch(a: argparse.Namespace, console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Keep report.html as fresh as the study, until every chain has ended; then write the whole report."""
    from imgloop.report import files
    from imgloop.report.progress import fingerprint, progress

    if not a.study.is_dir():
        raise UserError(f"{a.study} is no folder: --watch follows a study that runs.")
    before, waiting, idle = None, False, 0
    while True:
        now = fingerprint(a.study)
        if now != before:
            try:
                report = _read(a)
            except UserError as e:
                if any(p.done for p in progress(a.study)):
                    raise
                if not waiting:
                    console.print(f"waiting for a first generation ({e})", markup=False, soft_wrap=True)
                waiting = True
            else:
                if report.finished:
                    return written(a, console)
                path = files.write(report, a.out, refresh=max(int(a.every), 5), whole=False)
                done = sum(p.done for p in report.chains)
                planned = sum(p.planned or p.done for p in report.chains)
                console.print(f"{time.strftime('%H:%M:%S')}  {path}: {done} of {planned} generations", markup=False)
            before = now
        unfinished = [p for p in progress(a.study) if not p.ended]
        at_rest = bool(unfinished) and all(p.running is False for p in unfinished)
        idle = idle + 1 if at_rest else 0
        if idle == 2:  # not between the chains of a multirun
            console.print(
                f"no process runs {a.study}: {len(unfinished)} of its chains wait for the command that began them; "
                "watching on (Ctrl-C ends)",
                markup=False,
                soft_wrap=True,
            )
        sleep(a.every)


if __name__ == "__main__":
    sys.exit(main())
