"""python -m imgloop.collapse STUDY_OR_CSV: the collapse profile; python -m imgloop.collapse power: its statistical
power; python -m imgloop.collapse protocols: whether it depends on the features; python -m imgloop.collapse correlate:
whether two measures move together."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from imgloop.errors import UserError, status
from imgloop.measures import ROLES
from imgloop.thresholds import Frozen, Thresholds

if TYPE_CHECKING:
    from imgloop.collapse.pilot import Pilot
    from imgloop.collapse.verdicts import Profile
    from imgloop.study.columns import Named

EPILOG = (
    "python -m imgloop.collapse power --help: how many seeds and generations a definition needs; "
    "python -m imgloop.collapse protocols --help: whether verdicts depend on the features; "
    "python -m imgloop.collapse correlate --help: whether two measures move together over generations"
)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"power": planned, "protocols": compared, "correlate": correlated}
    if arguments and arguments[0] in commands:
        return status("imgloop.collapse", commands[arguments[0]], arguments[1:])
    return status("imgloop.collapse", profiled, arguments)


def profiled(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m imgloop.collapse",
        description="Eight definitions of model collapse, eight verdicts for each condition, from a study's folder or "
        "a CSV or parquet table with columns condition, seed, generation and measures.",
        epilog=EPILOG,
    )
    parser.add_argument("path", metavar="STUDY_OR_CSV", type=Path)
    add_columns(parser)
    parser.add_argument("--control", default="real_only", help="the condition to compare with (real_only)")
    parser.add_argument("--quarter", help="the condition of a real-only model trained on a quarter of the data")
    parser.add_argument("--risk", help="the column of the population risk (default: risk, else excess, fd, kd)")
    parser.add_argument(
        "--subject",
        action="append",
        default=[],
        metavar="ROLE=COLUMN",
        help=f"the column to judge for a role ({', '.join(ROLES)}); can be repeated",
    )
    parser.add_argument("--generation", type=int, help="the last generation to read (the one at which most chains end)")
    parser.add_argument("--noise-risk", type=float, help="the risk of a model of pure noise, for the severity")
    parser.add_argument(
        "--threshold", nargs="+", default=[], metavar="NAME=VALUE", help="thresholds that differ from conf/collapse"
    )
    parser.add_argument("--json", action="store_true", help="print the profile as JSON")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the verdicts as a table")
    a = parser.parse_args(arguments)

    from imgloop import store
    from imgloop.collapse import show
    from imgloop.collapse.profile import collapse_profile
    from imgloop.study.frozen import frozen
    from imgloop.study.imported import NOTE, is_imported
    from imgloop.study.progress import incomplete, progress
    from imgloop.study.tables import chains, csv_text, measures

    stored = frozen(a.path) if a.path.is_dir() else None
    table = opened(a)
    profile = collapse_profile(
        table.frame,
        a.control,
        thresholds=overridden(a.threshold, stored),
        quarter=a.quarter,
        risk=table.resolved(a.risk),
        generation=a.generation,
        noise_risk=a.noise_risk,
        frozen=stored,
        measures=measures(chains(a.path)) if a.path.is_dir() else None,
        subjects={role: table.resolved(column) or column for role, column in by_role(a.subject).items()},
    )
    if a.path.is_dir() and is_imported(a.path):
        profile = profile.of_imported(NOTE)
    if a.path.is_dir() and (note := incomplete(progress(a.path))):
        profile = profile.noted(f"{note}.")
    if a.csv:
        store.write_text(a.csv, csv_text(profile.to_frame()))
    if a.json:
        print(json.dumps(profile.to_dict(), indent=1, allow_nan=False))
    else:
        show.page(profile, show.console())


def add_columns(parser: argparse.ArgumentParser) -> None:
    """The options of tables whose columns have other names."""
    parser.add_argument(
        "--columns", action="append", default=[], metavar="OURS=THEIRS,...",
        help="columns of a table with other names: condition=method,seed=run,fd=FID; condition=A+B joins several",
    )  # fmt: skip
    parser.add_argument(
        "--first", type=int, metavar="N", help="of a table: the number of the generation trained on real data alone (0)"
    )


def opened(a: argparse.Namespace) -> Named:
    """The table that the arguments name; chains that are left out, and what was assumed of columns, are printed."""
    from imgloop.study.columns import Columns, Named
    from imgloop.study.plain import read_table
    from imgloop.study.tables import table_file

    def say(text: str) -> None:
        print(f"imgloop.collapse: {text}", file=sys.stderr)

    columns = Columns.of(a.columns, a.first)
    if a.path.is_dir():
        if a.columns or a.first is not None:
            raise UserError(f"{a.path} is a study, whose columns are ours: leave --columns and --first out.")
        return Named(read_table(a.path, lambda fault: say(f"left out: {fault}")), {})
    table = table_file(a.path, columns)
    for note in table.notes:
        say(note)
    return table


def by_role(texts: Sequence[str]) -> dict[str, str]:
    """Columns to judge by role, written ROLE=COLUMN; raises UserError for another form, or a role given twice."""
    subjects: dict[str, str] = {}
    for text in texts:
        role, _, column = text.partition("=")
        if not column:
            raise UserError(f"--subject {text}: write ROLE=COLUMN, for example variance=my_ratio.", "subjects")
        if subjects.setdefault(role, column) != column:
            raise UserError(f"--subject {text}: {role} is already {subjects[role]}; give a role once.", "subjects")
    return subjects


def overridden(texts: Sequence[str], stored: Frozen | None) -> Thresholds:
    """The stored thresholds of a study, else those of conf/collapse, with changes written NAME=VALUE."""
    values = asdict(stored.thresholds) if stored else {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError as e:
            raise UserError(f"--threshold {text}: write NAME=VALUE, for example tail_kept=0.7.", "collapse") from e
        values[name] = int(number) if number.is_integer() else number
    return Thresholds.of(values)


def planned(arguments: list[str]) -> None:
    from imgloop.collapse import power
    from imgloop.collapse.definitions import TITLES

    parser = argparse.ArgumentParser(
        prog="python -m imgloop.collapse power",
        description="How many seeds and generations a definition needs: the share of simulated studies in which it is "
        "detected, and excluded. Errors accumulate along a chain.",
        epilog="; ".join(f"{k} {title}" for k, title in TITLES.items()),
    )
    parser.add_argument("--definition", type=int, default=2, help="1 to 8 (2)")
    parser.add_argument(
        "--effect",
        type=float,
        default=2.0,
        help="mean over threshold at generation --at, in standard deviations between chains; negative: below (2)",
    )
    parser.add_argument("--shape", default="linear", help=f"over generations: {', '.join(power.SHAPES)} (linear)")
    parser.add_argument(
        "--at", type=int, help="the last generation of the pilot that estimated the effect (that of --pilot, else 4)"
    )
    parser.add_argument(
        "--accumulated", type=float, default=0.5, help="share of the noise variance that accumulates (0.5)"
    )
    parser.add_argument("--noise", default="normal", help=f"{', '.join(power.NOISES)} (normal)")
    parser.add_argument("--measured", type=int, default=8, help="definitions that Holm corrects for (8)")
    parser.add_argument(
        "--spread",
        type=float,
        help="that standard deviation in the number's own units: for definitions 4, 6, 7, 8 (thresholds above 0)",
    )
    parser.add_argument(
        "--pilot", dest="path", type=Path, metavar="STUDY_OR_CSV",
        help="read that standard deviation from a study or table",
    )  # fmt: skip
    parser.add_argument("--condition", help="of the pilot, if it has several")
    parser.add_argument(
        "--control", default="real_only", help="of the pilot: the condition to compare with (real_only)"
    )
    parser.add_argument("--risk", help="of the pilot: the column of the population risk")
    add_columns(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[4, 5, 6, 8, 12, 16])
    parser.add_argument("--generations", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--wanted", type=float, default=0.8, help="probability of a verdict to reach (0.8)")
    parser.add_argument("--studies", type=int, default=2_000, help="simulated studies for each row (2000)")
    a = parser.parse_args(arguments)
    if a.studies < 1 or not 0 < a.wanted < 1:
        raise UserError("Give --studies of at least 1 and --wanted between 0 and 1.")
    read = piloted(a)
    if read and a.at not in (None, read.at):
        raise UserError(f"--at {a.at}: the pilot's spread is that at its generation {read.at}: leave --at out.")
    at = a.at if a.at is not None else read.at if read else 4
    spread = read.spread if read else a.spread
    plan = power.Plan(a.definition, a.effect, a.shape, at, a.accumulated, a.noise, a.measured, spread)
    outcomes = [power.power(plan, s, g, a.studies) for g in a.generations for s in a.seeds]
    print(
        f"definition {a.definition}, {TITLES[a.definition]}: {a.shape} signal, {a.effect:+g} sd over threshold at "
        f"generation {at}, {a.noise} noise, {a.accumulated:.0%} of it accumulated; {a.measured} definitions measured"
    )
    if read:
        print("\n".join(read.lines()))
    if a.definition in power.MARGINLESS:
        print(power.MARGINLESS[a.definition].format(**asdict(Thresholds.of())))
    print(f"{'generations':>11}  {'seeds':>5}  {'detected':>13}  {'excluded':>13}  {'undetermined':>12}")
    for o in outcomes:
        cells = [f"{p:.2f} ± {s:.2f}" for p, s in zip((o.detected, o.excluded), o.sem)]
        rest = 1 - o.detected - o.excluded
        print(f"{o.generations:>11}  {o.seeds:>5}  {cells[0]:>13}  {cells[1]:>13}  {rest:>12.2f}")
    print("\n".join(["", f"for a probability of {a.wanted:g}:", *power.needed(outcomes, a.wanted)]))


def piloted(a: argparse.Namespace) -> Pilot | None:
    """The pilot that the arguments of `power` name; raises UserError for one beside --spread."""
    if a.path is None:
        alone = {"--condition": a.condition, "--risk": a.risk, "--columns": a.columns, "--first": a.first}
        if given := [flag for flag, value in alone.items() if value not in (None, [])]:
            raise UserError(f"{given[0]} is of a pilot: give --pilot STUDY_OR_CSV.")
        return None
    if a.spread is not None:
        raise UserError("--pilot and --spread both give the spread: leave one out.")
    from imgloop.collapse.pilot import pilot
    from imgloop.study.frozen import frozen
    from imgloop.study.tables import chains, measures

    table, folder = opened(a), a.path.is_dir()
    stored = frozen(a.path) if folder else None
    return pilot(
        table.frame,
        a.definition,
        a.condition,
        a.control,
        risk=table.resolved(a.risk),
        measures=measures(chains(a.path)) if folder else None,
        thresholds=stored.thresholds if stored else None,
    )


def compared(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m imgloop.collapse protocols",
        description="The verdicts of a study under each protocol (features) by which all its chains were measured, and "
        "a warning where they differ. The samples are the same.",
    )
    parser.add_argument("path", metavar="STUDY", type=Path)
    parser.add_argument("--control", default="real_only", help="the condition to compare with (real_only)")
    parser.add_argument(
        "--features", metavar="A,B", help="measure by these features first, where that was not done: pixels,random"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the verdicts as a table")
    a = parser.parse_args(arguments)
    from imgloop.collapse import protocols, show

    if not a.path.is_dir():
        raise UserError(f"{a.path} is no folder: give a study's folder, such as outputs/digits-diffusion.")
    if a.features:
        from imgloop.measure import measure, protocol_settings

        wanted = [[f"features={features}"] for features in dict.fromkeys(a.features.split(","))]
        for overrides in wanted:  # all names first: measuring takes minutes
            protocol_settings(overrides)
        for overrides in wanted:
            measure(a.path, overrides)
    profiles = by_protocol(a.path, a.control)
    found = protocols.rows(profiles)
    if a.csv:
        write_table(a.csv, [row.cells() for row in found])
    protocols.show(found, list(profiles), show.console())


def by_protocol(path: Path, control: str) -> dict[str, Profile]:
    """The profile of a study by protocol; raises UserError for a study that has fewer than two in all its chains."""
    from imgloop.collapse.profile import collapse_profile
    from imgloop.study.frozen import frozen
    from imgloop.study.study import Study
    from imgloop.study.tables import chains, is_solved, measures, protocols

    folders = chains(path)
    if folders and all(map(is_solved, folders)):
        raise UserError(f"{path} holds solvable systems, whose quantities have no protocol.")
    have = [protocols(c) for c in folders]
    common = [p for p in have[0] if all(p in h for h in have)] if have else []
    if len(common) < 2:
        raise UserError(
            f"{path} was measured by {' and '.join(common) or 'no protocol'} in all its chains, and a comparison needs "
            "two: measure it by others with --features pixels,random."
        )
    stored = frozen(path)
    given = {"thresholds": overridden((), stored), "frozen": stored}
    return {
        p: collapse_profile(Study(path, protocol=p).table, control, measures=measures(folders, p), **given)
        for p in common
    }


def correlated(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m imgloop.collapse correlate",
        description="Pearson's correlation of two measures over the generations of each chain, and of their changes, "
        "with intervals over chains; for example of generalisation and mix_entropy.",
    )
    parser.add_argument("path", metavar="STUDY_OR_CSV", type=Path)
    parser.add_argument("measures", metavar="COLUMN", nargs=2, help="the two measures")
    add_columns(parser)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the correlations as a table")
    a = parser.parse_args(arguments)
    from imgloop.collapse import correlation, show

    table = opened(a)
    first, second = (table.resolved(name) or name for name in a.measures)
    rows = correlation.correlations(table.frame, first, second)
    if a.csv:
        write_table(a.csv, [row.cells() for row in rows])
    correlation.show(rows, first, second, show.console())


def write_table(path: Path, rows: Sequence[dict]) -> None:
    """Write rows as a CSV table."""
    import pandas as pd

    from imgloop import store
    from imgloop.study.tables import csv_text

    store.write_text(path, csv_text(pd.DataFrame(list(rows))))


if __name__ == "__main__":
    sys.exit(main())
