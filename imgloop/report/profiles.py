"""The collapse profile for the page, its thresholds, and the list of what the study cannot answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from imgloop import store
from imgloop.collapse.definitions import SHORT
from imgloop.collapse.profile import collapse_profile
from imgloop.collapse.verdicts import NOT_MEASURED, UNDETERMINED, Profile, unfit
from imgloop.conditions import short_names
from imgloop.errors import UserError, printable
from imgloop.report.panels import displayed
from imgloop.report.text import listed, plural
from imgloop.report.timescales import Timescale
from imgloop.study import tables
from imgloop.study.frozen import frozen
from imgloop.study.imported import NOTE
from imgloop.study.plain import systems
from imgloop.study.progress import Progress
from imgloop.study.study import Study
from imgloop.thresholds import Frozen, Thresholds, unlike_data


@dataclass(frozen=True)
class Question:
    """What to judge a study by, as arguments of collapse_profile; None is its own choice."""

    control: str = "real_only"
    quarter: str | None = None
    risk: str | None = None
    generation: int | None = None
    subjects: Mapping[str, str] = field(default_factory=dict)


def profiled(study: Study, question: Question, incomplete: str = "") -> tuple[Profile | None, str]:
    """The study's profile, and "" or, in a sentence, why there is none. incomplete: which chains are missing."""
    try:
        written = stored(study)
        frame = systems(study.path) if study.solvable and not study.single else study.table
        profile = collapse_profile(
            frame,
            question.control,
            thresholds=used(study, written),
            quarter=question.quarter,
            risk=study.resolved(question.risk),
            generation=question.generation,
            frozen=written,
            measures=study.measures,
            subjects={role: study.resolved(c) or c for role, c in question.subjects.items()},
        )
        profile = profile.of_imported(NOTE) if study.imported else profile
        return (profile.noted(f"{incomplete}.") if incomplete else profile), ""
    except UserError as e:
        if e.setting == "control":
            names = map(printable, short_names(study.conditions)[0].values())
            more = (
                "Import one with --condition real_only=FOLDER"
                if study.imported
                else "Run the same command with paradigm=real_only"
            )
            return None, (
                f"No control, so no profile: no condition is {question.control} (the study has {listed([*names], 6)}). "
                f"{more}, or name another control with --control CONDITION."
            )
        one_seed = len(study.seeds()) == 1 and not study.solvable
        return None, "1 seed: no verdicts. " * one_seed + str(e)


def configured(study: Study) -> list[Thresholds]:
    """The distinct thresholds in the chains' configurations."""
    settings = []
    for chain in () if study.is_csv else study.chains:
        values = study.config(chain)["config"].get("collapse")
        if isinstance(values, Mapping) and values not in settings:
            settings.append(dict(values))
    return list(dict.fromkeys(map(Thresholds.of, settings)))


def stored(study: Study) -> Frozen | None:
    """The thresholds that the study began with, where they were stored."""
    return None if study.is_csv else frozen(study.root)


def used(study: Study, written: Frozen | None) -> Thresholds:
    """The thresholds of its verdicts: those that it began with, or its chains'."""
    return written.thresholds if written else agreed(configured(study))


def agreed(thresholds: list[Thresholds]) -> Thresholds:
    """The thresholds of all chains; the defaults of conf/collapse where chains differ."""
    return thresholds[0] if len(thresholds) == 1 else Thresholds.of()


def weak_starts(study: Study, names: Mapping[str, str]) -> list[str]:
    """The notes on generations 0 that are no model of the data, for a study that has no profile to say so."""
    if study.solvable:
        return []
    try:
        thresholds = used(study, stored(study))
    except UserError:  # which says why there is no profile
        return []
    table: Any = study.table
    first = table[table["generation"] == 0]
    scores = (first[first["condition"] == c].mean(numeric_only=True).dropna().to_dict() for c in names)
    return [unfit(why) for why in dict.fromkeys(unlike_data(s, thresholds) for s in scores) if why]


def threshold_lines(study: Study, profile: Profile | None) -> list[str]:
    """When the thresholds were set, and how the chains' configurations differ from them."""
    if profile is None:
        return ["There are no verdicts, so no threshold was used."]
    written = profile.frozen
    if written is None:
        lines = ["They were not recorded before these chains finished: today's values are used."]
    else:
        n = written.ended
        when = f"after {plural(n, 'chain')} had finished" if n else "before the first chain finished"
        lines = [f"They were set at {written.written}, {when}."]
    try:
        own = configured(study)
        used = written.thresholds if written is not None else agreed(own)
        whose = "some chains" if len(own) > 1 else "the chains"
        changes = dict.fromkeys(c for other in own for c in used.changes(other))
        lines += [f"The configuration of {whose} differs: {c}." for c in changes]
    except UserError as e:
        lines.append(str(e))
    return lines


def unknown(
    study: Study,
    names: Mapping[str, str],
    profile: Profile | None,
    reason: str,
    chains: Sequence[Progress],
    times: Sequence[Timescale],
) -> list[str]:
    """What this study does not show, in sentences; `reason`: why it has no profile."""
    lines = [f"Left out: {fault}" for fault in study.damaged]
    unfinished = [p for p in chains if not p.ended and not p.fault]
    if unfinished:
        states = [
            f"{p.chain.parent.name}/{p.chain.name} ({p.done} of {p.planned or '?'}, {p.state})" for p in unfinished
        ]
        lines.append(f"Not finished: {listed(states, 8)}.")
    lines += [reason] if profile is None else _verdicts(profile, names)
    seeds = {c: study.seeds(c) for c in names}
    if len({tuple(s) for s in seeds.values()}) > 1:
        counts = ", ".join(f"{names[c]} {len(s)}" for c, s in seeds.items())
        lines.append(f"Conditions have different seeds ({counts}): their means are over different chains.")
    if len(study.seeds()) == 1 and not study.solvable:
        lines.append("With one seed, differences cannot be separated from retraining noise.")
    if any(t.extrapolated for t in times):
        lines.append("Timescales marked as extrapolated lie beyond the generations that were run.")
    if study.solvable:
        lines.append(
            "A solvable system's numbers hold for that system; they do not show that image models do the same."
        )
    elif not study.is_csv:
        lines += _scores(study)
    return lines


def _verdicts(profile: Profile, names: Mapping[str, str]) -> list[str]:
    """Definitions without a verdict, grouped by reason, and the profile's own notes, each once."""
    groups: dict[tuple[str, str], dict[str, list[int]]] = {}
    for v in profile.verdicts:
        if v.verdict in (UNDETERMINED, NOT_MEASURED):
            reason = v.reason if v.verdict == NOT_MEASURED else ""
            by_name = groups.setdefault((v.verdict, reason), {})
            by_name.setdefault(names.get(v.condition, v.condition), []).append(v.definition)
    lines = []
    for (verdict, reason), by_name in groups.items():
        by_definitions: dict[tuple[int, ...], list[str]] = {}
        for name, definitions in by_name.items():
            by_definitions.setdefault(tuple(definitions), []).append(name)
        parts = [
            f"definition{'s' * (len(ks) > 1)} {', '.join(f'{k} ({SHORT[k]})' for k in ks)} for {', '.join(those)}"
            for ks, those in by_definitions.items()
        ]
        lines.append(f"{verdict.capitalize()}: {'; '.join(parts)}{f': {reason}' if reason else ''}.")
    lines += profile.notes.get("", ())
    by_note: dict[str, list[str]] = {}
    for c, notes in profile.notes.items():
        for note in notes if c else ():
            by_note.setdefault(note, []).append(names.get(c, c))
    return lines + [f"{', '.join(those)}: {note}" for note, those in by_note.items()]


def _scores(study: Study) -> list[str]:
    """What the scores lack, as the evaluator noted it."""
    notes: dict[str, dict[str, int]] = {}  # by text, the measures and in how many generations
    name = f"{study.shown_protocol}.json"
    for chain in study.chains:
        for folder in tables.generations(chain):
            if (folder / "scores" / name).exists():
                scores = store.read_json(folder / "scores" / name)
                values = scores.get("notes") if isinstance(scores, Mapping) else None
                for key, value in (values if isinstance(values, Mapping) else {}).items():
                    if isinstance(value, str):
                        counts = notes.setdefault(value, {})
                        counts[key] = counts.get(key, 0) + 1
    lines = [
        f"{', '.join(counts)}: {note.rstrip('.')} ({plural(max(counts.values()), 'generation')})."
        for note, counts in list(notes.items())[:20]
    ]
    if "fd" in study.table and not str(study.shown_protocol).startswith("inception"):
        lines.append(
            "The Frechet distance uses other features than Inception's: it is not FID and cannot be compared with FID. "
            "Finite samples bias it upwards, equally for all conditions of equal size."
        )
    table: Any = study.table
    gaps = [info.label for info in displayed(study) if table[info.name].isna().any()]
    if gaps:
        lines.append(f"Not measured in every generation: {'; '.join(gaps)}.")
    return lines
