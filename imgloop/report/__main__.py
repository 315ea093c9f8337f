"""python -m imgloop.report STUDY: report.html, tables and figures; --list, --watch, --check and --archive."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from imgloop.collapse.__main__ import add_columns
from imgloop.errors import UserError, status
from imgloop.measures import ROLES
from imgloop.report.serve import PORT, Server

EVERY = 5.0  # seconds between checks of a running study
SHARE = 4  # a page that takes s seconds to make is made again after SHARE s at the earliest
DAY = 86_400  # seconds
IDLE = 60.0  # seconds without a process that runs the study, after which that is said


def main(arguments: Sequence[str] | None = None) -> int:
    os.environ.setdefault("MPLBACKEND", "Agg")
    return status("imgloop.report", command, arguments)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m imgloop.report",
        description="Write the report of a study: report.html, one page that needs no network, and in report/ the "
        "collapse profile as JSON, CSV and LaTeX table, the figures as PDF, and references as BibTeX.",
    )
    p.add_argument(
        "study", nargs="?", type=Path, help="a study's folder, one chain's (CONDITION/seedK), or a CSV table"
    )
    mode = p.add_mutually_exclusive_group()
    mode.add_argument("--list", action="store_true", help="list studies and chains in a folder (outputs)")
    mode.add_argument(
        "--watch", action="store_true",
        help="show a running study as a page of this machine that follows it, and rewrite report.html; Ctrl-C ends it",
    )  # fmt: skip
    mode.add_argument("--check", action="store_true", help="compare every file of a study with its hash")
    mode.add_argument("--archive", action="store_true", help="pack the study without weights (STUDY.tar.gz, or --out)")
    p.add_argument("--out", type=Path, help="where to write, if not the study's folder")
    add_columns(p)
    p.add_argument("--control", default="real_only", help="the condition to compare with (real_only)")
    p.add_argument("--quarter", help="the condition of a real-only model trained on a quarter of the data")
    p.add_argument("--risk", help="the column that is the population risk (risk, else excess, fd)")
    p.add_argument(
        "--subject", action="append", metavar="ROLE=COLUMN", default=[],
        help=f"the column that a definition is judged by, such as mode=COLUMN; roles: {', '.join(ROLES)}; repeatable",
    )  # fmt: skip
    p.add_argument("--generation", type=int, help="the last generation to judge (where most chains end)")
    p.add_argument("--protocol", help="the protocol of the scores to show (a file name in scores/)")
    p.add_argument(
        "--measures",
        type=lambda text: text.split(","),
        default=(),
        metavar="A,B,...",
        help="the curves to show first, and together in comparison.pdf (fd,risk,variance_ratio,recall)",
    )
    p.add_argument(
        "--forget",
        metavar="CHAIN",
        help="take a planned chain, CONDITION or CONDITION/seedK, out of the plan",
    )
    p.add_argument("--seed", type=int, help="the seed whose images are shown (the smallest that most conditions have)")
    p.add_argument("--every", type=float, default=EVERY, help=f"seconds between checks of --watch ({EVERY:g})")
    p.add_argument("--port", type=int, default=PORT, help=f"port of the page of --watch, 0 for any free one ({PORT})")
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
        raise UserError("Give a study's folder, for example outputs/digits-diffusion, or --list to see all studies.")
    if a.check:
        return check(a.study)
    if a.forget:
        from imgloop.study.progress import forget

        return print(f"{a.study}: forgot {', '.join(forget(a.study, a.forget))}")
    if a.archive:
        from imgloop.report.archive import archive
        from imgloop.report.progress import readable, size

        path = archive(a.study, a.out)
        sizes = f"{readable(path.stat().st_size)} without weights (before: {readable(size([a.study]))})"
        return console.print(f"{path}: {sizes}", markup=False)
    if not 0 < a.every <= DAY:
        raise UserError(f"--every {a.every:g}: give a number of seconds above 0, up to {DAY}.", "every")
    return watch(a, console) if a.watch else write(a, console)


def check(study: Path) -> None:
    """Print how many files of a study are as they were written; raises UserError, with a line for each that is not."""
    from imgloop.report.check import check as checked

    found = checked(study)
    for fault in found.faults:
        print(f"damaged: {fault}")
    if found.faults:
        files = "file is" if len(found.faults) == 1 else "files are"
        raise UserError(f"{study}: {len(found.faults)} {files} damaged, {found.files} as they were written.")
    print(f"{study}: all {found.files} files with a hash are as they were written")


def write(a: argparse.Namespace, console) -> None:
    """Write one report; print its profile and where it is."""
    _write(_read(a), a, console)


def _write(report, a: argparse.Namespace, console) -> None:
    from imgloop.report import files, page, terminal

    path = files.write(report, a.out)
    terminal.profile(report, console)
    for fault in report.study.damaged:
        print(f"left out: {fault}", file=sys.stderr)
    console.print(
        f"look at {path}; tables and figures are in {path.parent / page.BESIDE}", markup=False, soft_wrap=True
    )


def subjects(options: Iterable[str]) -> dict[str, str]:
    """Columns by role, from ROLE=COLUMN; raises UserError for another form, an unknown role or one given twice."""
    columns: dict[str, str] = {}
    for option in options:
        role, _, column = option.partition("=")
        if role not in ROLES or not column or role in columns:
            raise UserError(
                f"--subject {option}: give ROLE=COLUMN, each role once, with a role of {', '.join(ROLES)}.", "subject"
            )
        columns[role] = column
    return columns


def _read(a: argparse.Namespace):
    from imgloop.report import page
    from imgloop.report.profiles import Question
    from imgloop.study.columns import Columns

    question = Question(a.control, a.quarter, a.risk, a.generation, subjects(a.subject))
    return page.report(a.study, question, a.protocol, a.seed, a.measures, Columns.of(a.columns, a.first))


def watch(a: argparse.Namespace, console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Serve the page of a study, which may not exist yet, and keep it and report.html up to date until Ctrl-C; whenever
    every chain has ended, write the whole report.

    Raises UserError for a file, a port that cannot be had, and a study that cannot be read when the watch begins.
    """
    from imgloop.report import page

    if a.study.is_file():
        raise UserError(f"{a.study} is a file: --watch needs the folder of a study.", "watch")
    server = Server(a.study, a.port)
    server.publish(page.waiting_html(a.study.absolute().name, "The study is being read.", []))
    with server:
        console.print(f"{server.address} shows {a.study} (Ctrl-C ends)", markup=False, soft_wrap=True)
        try:
            _follow(a, console, server, sleep)
        except KeyboardInterrupt:
            return


def _follow(a: argparse.Namespace, console, server: Server, sleep: Callable[[float], None]) -> None:
    from imgloop.report import files, page
    from imgloop.report.progress import fingerprint
    from imgloop.study.progress import Progress, progress

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    chains: list[Progress] = []
    before, now, first, said, idle = None, None, True, "", 0.0
    while True:
        started, report = time.monotonic(), None
        single = (a.study / "config.yaml").exists()
        server.study = a.study.resolve().parents[1] if single else a.study
        try:
            chains = [p for p in progress(server.study) if not single or p.chain == a.study.resolve()]
            states = [(p.done, p.planned, p.ended, p.running, p.fault, p.failed) for p in chains]
            now = fingerprint(server.study), states
            if now != before:
                report = _read(a)
                server.publish(page.html(report, live=True))
                before, said = now, ""
        except (UserError, FileNotFoundError) as e:  # a chain that is moved while it is read is read again
            done = any(p.done or p.fault for p in chains)
            if first and done and isinstance(e, UserError):
                raise
            missing = "has no finished generation yet" if a.study.is_dir() else "does not exist yet"
            reason = str(e) if done else f"{a.study} {missing}. The report appears here with its first generation."
            server.publish(page.waiting_html(a.study.absolute().name, reason, chains))
            if reason != said:
                say(f"no report: {reason}" if done else f"waiting: {reason}")
            before, said = now if isinstance(e, UserError) else None, reason
        try:
            if report is not None and report.finished:
                _write(report, a, console)
            elif report is not None:
                path = files.write(report, a.out, refresh=max(int(a.every), 5), whole=False)
                done, planned = sum(p.done for p in chains), sum(p.planned or p.done for p in chains)
                say(f"{time.strftime('%H:%M:%S')}  {path}: {done} of {planned} generations")
        except UserError as e:
            if first:
                raise
            say(f"not written: {e}")
        unfinished = [p for p in chains if not p.ended]
        stopped = bool(unfinished) and all(p.running is False for p in unfinished)
        if stopped and idle < IDLE <= idle + a.every:
            message = f"no process runs {a.study}: {len(unfinished)} chains unfinished; the command that started "
            say(f"{message}them continues them; still watching (Ctrl-C ends)")
        idle = idle + a.every if stopped else 0.0
        first = False
        sleep(max(a.every, SHARE * (time.monotonic() - started)))


if __name__ == "__main__":
    sys.exit(main())
