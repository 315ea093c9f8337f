"""report.html: one self-contained page of a study; all text that comes from its files is escaped."""

from __future__ import annotations

import base64
import hashlib
import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import jinja2
import numpy as np

from imgloop import store
from imgloop.collapse.definitions import FARTHEST, SHORT, TITLES, rules
from imgloop.collapse.verdicts import NO_VERDICT, NOT_MEASURED, Profile
from imgloop.errors import UserError
from imgloop.report import bibliography, reproduce, sizes, svg
from imgloop.report.panels import Panel, panels, split
from imgloop.report.profiles import Question, profiled, threshold_lines, unknown
from imgloop.report.progress import Progress, progress, waiting
from imgloop.report.sheets import Ages, ages
from imgloop.report.text import TIMES, figure, plural, ranges, short_names, spread
from imgloop.report.timescales import Timescale, timescales
from imgloop.study import tables as folders
from imgloop.study.study import Study

HERE = Path(__file__).parent
BESIDE = "report"  # the folder of tables and figures beside report.html
MARKS = {"detected": "●", "excluded": "○", "undetermined": "?", "not measured": "-", "no verdict": "-"}


@dataclass(frozen=True)
class Report:
    """All that a study's report says, before it is drawn."""

    study: Study
    names: Mapping[str, str]  # conditions, and as they are printed
    common: tuple[str, ...]  # settings that all of them share
    profile: Profile | str
    panels: tuple[Panel, ...]
    ages: Ages | str
    chains: tuple[Progress, ...]
    times: tuple[Timescale, ...]
    origin: reproduce.Origin
    works: tuple[bibliography.Work, ...]
    unknown: tuple[str, ...]
    thresholds: tuple[str, ...]

    @property
    def finished(self) -> bool:
        return all(p.ended or p.fault for p in self.chains)

    @property
    def unjudged(self) -> bool:
        """Whether there is one seed, whose effects are told without verdicts."""
        verdicts = () if isinstance(self.profile, str) else self.profile.verdicts
        return NO_VERDICT in (found := {v.verdict for v in verdicts}) and found <= {NO_VERDICT, NOT_MEASURED}

    def compared(self, condition: str) -> str:
        """The chains that a condition's verdicts are of, and how far they go."""
        verdicts = self.profile[condition].values()
        n, what = max(v.seeds for v in verdicts), f"generations 0 to {next(iter(verdicts)).generations}"
        if self.study.solvable:
            seeds = self.study.seeds(condition)
            replicates = self.study.record(condition, seeds[0])["replicates"]
            return f"{plural(n, 'chain')} ({plural(len(seeds), 'seed')} {TIMES} {replicates:,} replicates), {what}"
        at = sizes.several(self.study.table).get(condition)
        return f"{plural(n, 'seed')}{f' at {at[-1]:,} real samples' if at else ''}, {what}"


def report(path: str | Path, asked: Question | None = None, protocol: str | None = None, seed: int | None = None):
    """Read a study, one chain or a CSV table: a Report. Raises UserError where nothing of it can be read."""
    study = Study(path, protocol, tolerant=True)
    names, common = short_names(study.conditions)
    profile = profiled(study, asked or Question())
    chains = () if study.is_csv else tuple(progress(study.root))
    chains = tuple(p for p in chains if p.chain in study.chains) if study.single else chains
    times = tuple(timescales(study, names))
    reference = None if study.is_csv or study.solvable else folders.reference(study.root, study.table)
    try:
        sheets = ages(study, names, seed)
    except UserError as e:
        if seed is not None:
            raise
        sheets = str(e)
    base = (asked or Question()).control
    control = next((c for c in names if base in (c, c.split(",")[0])), None)
    judged = not isinstance(profile, str) and any(np.isfinite(v.p) for v in profile.verdicts)
    return Report(
        study,
        names,
        tuple(common),
        profile,
        tuple(split(panels(study, names, reference), control)),
        sheets,
        chains,
        times,
        reproduce.origin(study, names),
        tuple(bibliography.used(study, judged, bool(getattr(profile, "laws", None)))),
        tuple(unknown(study, names, profile, chains, list(times))),
        tuple(threshold_lines(study, profile)),
    )


def html(r: Report, refresh: int | None = None) -> str:
    """The page. `refresh`: seconds after which an open browser reads it again, for a study that runs."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"figure": figure, "spread": spread, "plural": plural}
    script = (HERE / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(
        r=r,
        name=r.study.name,
        summary=summary(r),
        style=jinja2.utils.markupsafe.Markup((HERE / "page.css").read_text()),
        script=jinja2.utils.markupsafe.Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        refresh=refresh,
        keys=[(svg.key(i), r.names[c]) for i, c in enumerate(r.names)],
        drawn=[(svg.panel(p, i), p, numbers(p)) for i, p in enumerate(r.panels)],
        waiting=waiting(r.chains),
        matrix=None if isinstance(r.profile, str) else matrix(r),
        laws=[] if isinstance(r.profile, str) else [(r.names.get(c, c), law) for c, law in r.profile.laws.items()],
        short=SHORT,
        titles=TITLES,
        rules=None if isinstance(r.profile, str) else rules(r.profile.thresholds),
        marks=MARKS,
        levels=[] if isinstance(r.profile, str) else [(k, figure(v)) for k, v in asdict(r.profile.thresholds).items()],
        ages=None if isinstance(r.ages, str) else r.ages,
        bars=[(r.names[c], svg.shares(r.names[c], b, i)) for i, (c, b) in enumerate(shares(r.study, r.names))],
        clocks=clocks(r),
        timed=[(c, name) for c, name in r.names.items() if any(t.condition == c for t in r.times)],
        farthest=FARTHEST,
        last=int(r.study.table["generation"].max()),
        collapse_times=collapse_times(r.study),
        bibtex="\n".join(w.bibtex for w in r.works),
        again=again(r.study),
    )


def summary(r: Report) -> list[str]:
    """The study in a few sentences."""
    study, table = r.study, r.study.table
    last = int(table["generation"].max())
    told = [
        f"{plural(len(r.names), 'condition')}, {plural(len(study.seeds()), 'seed')} ({ranges(study.seeds())}), "
        f"generations 0 to {last}."
    ]
    if study.solvable:
        record = study.record(study.conditions[0], study.seeds(study.conditions[0])[0])
        told.append(f"Solvable system {record['model']}, {record['replicates']:,} replicates a chain.")
    elif not study.is_csv:
        try:
            told.append(f"Real data: {study.real.facts.source or study.real.facts.label}.")
        except UserError:
            pass
        if study.shown_protocol:
            told.append(f"Scores under {study.shown_protocol}.")
    if r.common:
        told.append(f"All conditions have {', '.join(r.common)}.")
    if r.chains:
        done = sum(p.ended for p in r.chains)
        going = [p.said for p in r.chains if not p.ended and p.said != "interrupted"]
        states = [f"{n} {said}" for said, n in _counted(going).items()]
        told.append(f"{done} of {plural(len(r.chains), 'chain')} finished" + "".join(f", {s}" for s in states) + ".")
    told.append(f"Written {time.strftime('%Y-%m-%d %H:%M')}.")
    return told


def again(study: Study) -> str:
    """The command that writes this report, from where the commands of its chains are run."""
    out = study.root.parent
    for chain in () if study.is_csv else study.chains[:1]:
        try:
            out = study.config(chain)["config"].get("out") or out
        except UserError:
            continue
    return f"python -m imgloop.report {shlex.quote(str(Path(out) / study.root.name))}"


def _counted(items: list[str]) -> dict[str, int]:
    return {item: items.count(item) for item in dict.fromkeys(items)}


def matrix(r: Report) -> list[tuple[str, str, list]]:
    """Rows of the profile: condition's printed name, what was compared, and its eight verdicts."""
    return [(r.names.get(c, c), r.compared(c), list(r.profile[c].values())) for c in r.profile.conditions]


def numbers(p: Panel) -> tuple[list[int], list[tuple[str, list[str]]]]:
    """A panel as a table: generations, and a row of means with their spread for each condition."""
    every = sorted({int(x) for line in p.lines for x in line.x})
    every = every if len(every) <= 12 else sorted({every[round(k)] for k in np.linspace(0, len(every) - 1, 12)})
    rows = []
    for line in p.lines:
        at = {int(x): i for i, x in enumerate(line.x)}
        cells = [spread(line.mean[at[t]], (line.high[at[t]] - line.low[at[t]]) / 2) if t in at else "" for t in every]
        rows.append((line.name, cells))
    return every, rows


def shares(study: Study, names: Mapping[str, str]) -> list[tuple[str, list[tuple[int, int, dict[str, float]]]]]:
    """By condition, what each generation of its first chain was trained on: (generation, rows, share by origin)."""
    if study.is_csv:
        return []
    found = []
    for condition in names:
        chain = study.chain(condition, study.seeds(condition)[0])
        if study.solvable:
            rows = folders.table(chain)
            bars = [
                (int(t), int(n), {"real": float(real)} | ({"drawn": 1 - float(real)} if real < 1 else {}))
                for t, n, real in zip(rows["generation"], rows["n_train"], rows["real_share"])
            ]
        else:
            records = [store.read_json(g / "record.json") for g in folders.generations(chain)]
            bars = [(int(k["generation"]), int(k["n_train"]), by_origin(k["share_by_origin"])) for k in records]
        if len(bars) > 30:
            bars = [bars[round(k)] for k in np.linspace(0, len(bars) - 1, 30)]
        found.append((condition, bars))
    return found


def by_origin(share: Mapping[str, float]) -> dict[str, float]:
    """share_by_origin of a record, real first, then the generations that drew, oldest first."""
    ordered = sorted((int(origin), float(part)) for origin, part in share.items())
    return {"real" if origin < 0 else str(origin): part for origin, part in ordered}


def clocks(r: Report) -> list[tuple[str, str, dict[str, Timescale]]]:
    """Rows of the timescales: measure, what it does, and when by condition."""
    rows: dict[tuple[str, str], dict[str, Timescale]] = {}
    for t in r.times:
        rows.setdefault((t.label, t.change), {})[t.condition] = t
    return [(label, change, cells) for (label, change), cells in rows.items()]


def collapse_times(study: Study) -> list[dict]:
    """What chains that were followed to total collapse say of its time."""
    if not study.solvable:
        return []
    found = []
    for chain in study.chains:
        told = store.read_json(chain / "record.json").get("timescale")
        if isinstance(told, Mapping):
            cells = {k: v for k, v in told.items() if isinstance(v, int | float) and not isinstance(v, bool)}
            found.append({"condition": chain.parent.name, "seed": chain.name[4:], "cells": cells})
    return found
