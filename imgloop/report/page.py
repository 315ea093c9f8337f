"""report.html: one self-contained page of a study; all text from the study's files is escaped."""

from __future__ import annotations

import base64
import hashlib
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from imgloop import store
from imgloop.collapse.definitions import FARTHEST, SHORT, TITLES, rules
from imgloop.collapse.verdicts import NO_VERDICT, NOT_MEASURED, Profile
from imgloop.conditions import short_names
from imgloop.errors import UserError, printable_lines
from imgloop.figures import looks
from imgloop.report import bibliography, reproduce, serve, sizes, svg
from imgloop.report.panels import Panel, first, panels, split
from imgloop.report.profiles import Question, profiled, threshold_lines, unknown, weak_starts
from imgloop.report.progress import waiting
from imgloop.report.schedules import given
from imgloop.report.sheets import Evolution, evolution
from imgloop.report.text import TIMES, figure, plural, ranges, spread
from imgloop.report.timescales import Timescale, timescales
from imgloop.study import tables
from imgloop.study.columns import Columns
from imgloop.study.imported import NOTE
from imgloop.study.progress import Progress, incomplete, progress
from imgloop.study.study import Study

HERE = Path(__file__).parent
BESIDE = "report"  # the folder of tables and figures beside report.html
ORDER = ("running", "failed", "damaged", "interrupted", "waiting", "finished")  # of chains in their table
MARKS = {"detected": "●", "excluded": "○", "undetermined": "?", "not measured": "-", "no verdict": "-"}


@dataclass(frozen=True)
class Report:
    """The contents of a study's report, before rendering."""

    study: Study
    names: Mapping[str, str]  # condition -> the name that is printed
    common: tuple[str, ...]  # settings that all conditions share
    profile: Profile | None
    reason: str  # why there is no profile, or ""
    panels: tuple[Panel, ...]
    key: tuple[Panel, ...]  # those of `panels` that are shown first
    given: tuple[Panel, ...]  # that show schedules
    evolution: Evolution | str
    chains: tuple[Progress, ...]
    times: tuple[Timescale, ...]
    origin: reproduce.Origin
    works: tuple[bibliography.Work, ...]
    unknown: tuple[str, ...]
    warnings: tuple[str, ...]
    thresholds: tuple[str, ...]

    @property
    def finished(self) -> bool:
        return all(p.ended or p.fault or p.state == "failed" for p in self.chains)

    @property
    def incomplete(self) -> str:
        """Which planned chains are missing from the statistics, in a sentence; "" if none is."""
        return incomplete(self.chains)

    @property
    def unjudged(self) -> bool:
        """Whether there is one seed only, so that effects are shown without verdicts."""
        verdicts = {v.verdict for v in self.profile.verdicts} if self.profile else set()
        return NO_VERDICT in verdicts and verdicts <= {NO_VERDICT, NOT_MEASURED}

    def compared(self, condition: str) -> str:
        """Number of chains behind a condition's verdicts, and their generations."""
        assert self.profile is not None
        verdicts = list(self.profile[condition].values())
        n, what = max(v.seeds for v in verdicts), f"generations 0 to {verdicts[0].generations}"
        if self.study.solvable:
            seeds = self.study.seeds(condition)
            replicates = self.study.record(condition, seeds[0])["replicates"]
            return f"{plural(n, 'chain')} ({plural(len(seeds), 'seed')} {TIMES} {replicates:,} replicates), {what}"
        at = sizes.several(self.study.table).get(condition)
        planned = sum(p.chain.parent.name == condition for p in self.chains)
        of = f"{n} of {plural(planned, 'seed')}" if self.incomplete and planned > n else plural(n, "seed")
        return f"{of}{f' at {at[-1]:,} real samples' if at else ''}, {what}"


def report(
    path: str | Path,
    question: Question | None = None,
    protocol: str | None = None,
    seed: int | None = None,
    measures: Sequence[str] = (),
    columns: Columns | None = None,
) -> Report:
    """Read a study, one chain or a CSV table; `measures` are those whose curves come first. columns: of a table.

    Raises UserError if nothing of it can be read, or if it has no curve of one of the measures.
    """
    study, question = Study(path, protocol, tolerant=True, columns=columns), question or Question()
    names, common = short_names(study.conditions)
    chains = () if study.is_csv else tuple(progress(study.root))
    chains = tuple(p for p in chains if p.chain in study.chains) if study.single else chains
    profile, reason = profiled(study, question, incomplete(chains))
    times = tuple(timescales(study, names))
    reference = None if study.is_csv or study.solvable else tables.reference(study.root, study.table)
    try:
        images = evolution(study, names, seed)
    except UserError as e:
        if seed is not None:
            raise
        images = str(e)
    control = next((c for c in names if question.control in (c, c.split(",")[0])), None)
    tested = profile is not None and any(np.isfinite(v.p) for v in profile.verdicts)
    drawn = split(panels(study, names, reference), control)
    return Report(
        study,
        names,
        tuple(common),
        profile,
        reason,
        tuple(drawn),
        tuple(first(drawn, measures)),
        tuple(split(given(study, names, drawn), control)),
        images,
        chains,
        times,
        reproduce.origin(study, names),
        tuple(bibliography.used(study, tested, bool(profile and profile.laws))),
        tuple(unknown(study, names, profile, reason, chains, times)),
        (*warnings(study, names), *(profile.unfit if profile else weak_starts(study, names))),
        tuple(threshold_lines(study, profile)),
    )


def shown(value: Any) -> Any:
    """A value as the page shows it: text from files without characters that a terminal or a page acts on."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable_lines(value)
    return value


def html(r: Report, refresh: int | None = None, live: bool = False) -> str:
    """The page. While a study runs, `refresh`: seconds after which a browser reads the file again; or `live`: as the
    server of `--watch` sends it, which replaces what has changed."""
    profile, others = r.profile, [p for p in r.panels if p not in r.key and p not in r.given]
    schedules = [p for p in r.given if p not in r.key]
    return rendered(
        "page",
        live,
        r=r,
        name=r.study.name,
        summary=summary(r),
        refresh=refresh,
        chains=states(r.chains) if refresh or live else [],
        counted=counted(r.chains),
        keys=[(svg.key(look), r.names[c]) for c, look in looks(list(r.names)).items()],
        first=[(svg.panel(p, i), p, numbers(p)) for i, p in enumerate(r.key)],
        further=[(svg.panel(p, i), p, numbers(p)) for i, p in enumerate(others, len(r.key) + len(schedules))],
        given=[(svg.panel(p, i), p, numbers(p)) for i, p in enumerate(schedules, len(r.key))],
        waiting=waiting(r.chains),
        incomplete=r.incomplete,
        matrix=matrix(r),
        laws=[(r.names.get(c, c), law) for c, law in profile.laws.items()] if profile else [],
        short=SHORT,
        titles=TITLES,
        rules=rules(profile.thresholds) if profile else {},
        marks=MARKS,
        levels=[(k, figure(v)) for k, v in asdict(profile.thresholds).items()] if profile else [],
        evolution=None if isinstance(r.evolution, str) else r.evolution,
        bars=[(r.names[c], svg.shares(r.names[c], b, i)) for i, (c, b) in enumerate(shares(r.study, r.names))],
        timescales=timescale_rows(r),
        timed=[(c, name) for c, name in r.names.items() if any(t.condition == c for t in r.times)],
        farthest=FARTHEST,
        last=last_generation(r.study),
        collapse_times=collapse_times(r.study),
        bibtex="\n".join(w.bibtex for w in r.works),
        command=report_command(r.study),
    )


def waiting_html(name: str, reason: str, chains: Sequence[Progress]) -> str:
    """The page of `--watch` while there is no report: why, and the chains that are planned or begun."""
    parts = {"reason": reason, "chains": states(chains), "counted": counted(chains)}
    return rendered("waiting", True, name=name, refresh=None, **parts)


def rendered(template: str, live: bool, **parts: Any) -> str:
    """A page from its template, with style and script inside."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, finalize=shown,
    )  # fmt: skip
    environment.filters |= {"figure": figure, "spread": spread, "plural": plural}
    script = "".join((HERE / name).read_text() for name in (*["live.js"] * live, "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return environment.get_template(f"{template}.html.j2").render(
        live=live,
        style=Markup((HERE / "page.css").read_text()),
        script=Markup(script),
        policy=policy + ("; connect-src 'self'" if live else ""),
        **parts,
    )


def states(chains: Sequence[Progress]) -> list[dict[str, Any]]:
    """The rows of the table of chains: those that run first, those that have finished last."""
    names, _ = short_names(list(dict.fromkeys(p.chain.parent.name for p in chains)))
    rows = []
    for p in sorted(chains, key=_rank):
        grid = p.chain / f"gen{p.done - 1:03d}" / "grid.png"
        rows.append(
            {
                "name": names[p.chain.parent.name],
                "seed": p.chain.name.removeprefix("seed"),
                "state": p.state,
                "kind": p.state if p.state in ORDER else "",
                "done": p.done,
                "planned": p.planned,
                "reason": p.fault or p.failed if p.state in ("damaged", "failed") else "",
                "grid": serve.link(p.chain.parents[1], grid) if grid.is_file() else "",
            }
        )
    return rows


def _rank(p: Progress) -> int:
    return ORDER.index(p.state if p.state in ORDER else "interrupted")


def counted(chains: Sequence[Progress], of: int | None = None) -> str:
    """How many chains are in which state, in a sentence; `of`: the number of all."""
    finished = sum(p.ended for p in chains)
    others = Counter(p.state for p in sorted(chains, key=_rank) if not p.ended)
    also = "".join(f", {n} {state}" for state, n in others.items())
    return f"{finished} of {plural(of or len(chains), 'chain')} finished{also}."


def last_generation(study: Study) -> int:
    table: Any = study.table
    return int(table["generation"].max())


def summary(r: Report) -> list[str]:
    """The study in a few sentences."""
    study, seeds = r.study, r.study.seeds()
    lines = [
        f"{plural(len(r.names), 'condition')}, {plural(len(seeds), 'seed')} ({ranges(seeds)}), "
        f"generations 0 to {last_generation(study)}."
    ]
    if study.solvable:
        record = study.record(study.conditions[0], study.seeds(study.conditions[0])[0])
        lines.append(f"Solvable system {record['model']}, {record['replicates']:,} replicates a chain.")
    elif not study.is_csv:
        try:
            lines.append(f"Real data: {study.real.facts.source or study.real.facts.label}.")
        except UserError:
            pass
        if study.shown_protocol:
            lines.append(f"Scores by protocol {study.shown_protocol}.")
    if r.common:
        lines.append(f"All conditions have {'; '.join(r.common)}.")
    if r.chains:
        lines.append(counted([p for p in r.chains if p.state != "interrupted"], len(r.chains)))
    lines.append(f"Written {time.strftime('%Y-%m-%d %H:%M')}.")
    return lines


def report_command(study: Study) -> str:
    """The command that writes this report, to be run where the chains' commands are run."""
    out = study.root.parent
    for chain in () if study.is_csv else study.chains[:1]:
        try:
            out = study.config(chain)["config"].get("out") or out
        except UserError:
            continue
    return f"python -m imgloop.report {shlex.quote(str(Path(out) / study.root.name))}"


def warnings(study: Study, names: Mapping[str, str]) -> list[str]:
    """What models warned of in their training: by condition, the first warning and the number of generations; and what
    is not known of imported chains."""
    lines = [NOTE] if study.imported else []
    for condition, name in names.items():
        given = []
        for seed in () if study.is_csv or study.solvable else study.seeds(condition):
            for folder in tables.generations(study.chain(condition, seed)):
                warning = store.read_json(folder / "record.json").get("warning")
                given += [(seed, int(folder.name[3:]), warning)] if isinstance(warning, str) else []
        if given:
            seed, t, warning = given[0]
            others = len(given) - 1
            more = f" {others} more of its generations {'has' if others == 1 else 'have'} a warning." if others else ""
            lines.append(f"{name}, seed {seed}, generation {t}: {warning}{more}")
    return lines


def matrix(r: Report) -> list[tuple[str, str, list]]:
    """Rows of the profile: a condition's printed name, the chains behind it, and its eight verdicts."""
    if r.profile is None:
        return []
    return [(r.names.get(c, c), r.compared(c), list(r.profile[c].values())) for c in r.profile.conditions]


def numbers(p: Panel) -> tuple[list[int], list[tuple[str, list[str]]]]:
    """A panel as a table: generations (at most 12), and one row of means with spread for each condition."""
    every = sorted({int(x) for line in p.lines for x in line.x})
    every = every if len(every) <= 12 else sorted({every[round(k)] for k in np.linspace(0, len(every) - 1, 12)})
    rows = []
    for line in p.lines:
        at = {int(x): i for i, x in enumerate(line.x)}
        cells = [spread(line.mean[at[t]], (line.high[at[t]] - line.low[at[t]]) / 2) if t in at else "" for t in every]
        rows.append((line.name, cells))
    return every, rows


def shares(study: Study, names: Mapping[str, str]) -> list[tuple[str, list[tuple[int, int, dict[str, float]]]]]:
    """By condition, the training sets of its first chain: (generation, rows, share by origin, of the loss weight where
    images have one), at most 30."""
    found = []
    for condition in () if study.is_csv or study.imported else names:
        chain = study.chain(condition, study.seeds(condition)[0])
        if study.solvable:
            rows: Any = tables.table(chain)
            bars = [
                (int(t), int(n), {"real": float(real)} | ({"drawn": 1 - float(real)} if real < 1 else {}))
                for t, n, real in zip(rows["generation"], rows["n_train"], rows["real_share"])
            ]
        else:
            records = [store.read_json(g / "record.json") for g in tables.generations(chain)]
            shares_of = [by_origin(k.get("weight_by_origin", k["share_by_origin"])) for k in records]
            bars = [(int(k["generation"]), int(k["n_train"]), s) for k, s in zip(records, shares_of)]
        if len(bars) > 30:
            bars = [bars[round(k)] for k in np.linspace(0, len(bars) - 1, 30)]
        found.append((condition, bars))
    return found


def by_origin(share: Mapping[str, float]) -> dict[str, float]:
    """share_by_origin or weight_by_origin of a record with real data first, then by generation."""
    ordered = sorted((int(origin), float(part)) for origin, part in share.items())
    return {"real" if origin < 0 else str(origin): part for origin, part in ordered}


def timescale_rows(r: Report) -> list[tuple[str, str, dict[str, Timescale]]]:
    """Rows of the timescales: label, change, and timescales by condition."""
    rows: dict[tuple[str, str], dict[str, Timescale]] = {}
    for t in r.times:
        rows.setdefault((t.label, t.change), {})[t.condition] = t
    return [(label, change, cells) for (label, change), cells in rows.items()]


def collapse_times(study: Study) -> list[dict]:
    """The times to total collapse of chains that were followed until then."""
    found = []
    for chain in study.chains if study.solvable else ():
        values = store.read_json(chain / "record.json").get("timescale")
        if isinstance(values, Mapping):
            cells = {k: v for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
            found.append({"condition": chain.parent.name, "seed": chain.name[4:], "cells": cells})
    return found
