"""The collapse profile for the page: a matrix of conditions by definitions, and what is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imgloop import store
from imgloop.collapse.definitions import SHORT
from imgloop.collapse.profile import collapse_profile
from imgloop.collapse.verdicts import NOT_MEASURED, UNDETERMINED, Profile
from imgloop.errors import UserError
from imgloop.report.panels import MEASURES
from imgloop.report.progress import Progress
from imgloop.report.text import listed, plural
from imgloop.report.timescales import Timescale
from imgloop.study import tables as study
from imgloop.study.frozen import frozen
from imgloop.study.study import Study
from imgloop.thresholds import Frozen, Thresholds


@dataclass(frozen=True)
class Question:
    """What to judge a study by; None is collapse_profile's own choice."""

    control: str = "real_only"
    quarter: str | None = None
    risk: str | None = None
    generation: int | None = None


def profiled(study_: Study, asked: Question) -> Profile | str:
    """The study's profile; or, in a sentence, why there is none."""
    from imgloop.study import plain

    try:
        began = None if study_.is_csv else frozen(study_.root)
        frame = plain.systems(study_.path) if study_.solvable and not study_.single else study_.table
        return collapse_profile(
            frame,
            asked.control,
            thresholds=began.thresholds if began else agreed(configured(study_)),
            quarter=asked.quarter,
            risk=asked.risk,
            generation=asked.generation,
            frozen=began,
        )
    except UserError as e:
        single = len(study_.seeds()) == 1 and not study_.solvable
        return "1 seed: no verdicts. " * single + str(e)


def configured(study_: Study) -> list[Thresholds]:
    """The thresholds in the chains' configurations, each once."""
    told = []
    for chain in () if study_.is_csv else study_.chains:
        values = study_.config(chain)["config"].get("collapse")
        if isinstance(values, Mapping) and values not in told:
            told.append(dict(values))
    return list(dict.fromkeys(map(Thresholds.of, told)))


def agreed(found: list[Thresholds]) -> Thresholds:
    """Those of all chains, or where they differ those of conf/collapse."""
    return found[0] if len(found) == 1 else Thresholds.of()


def threshold_lines(study_: Study, profile: Profile | str) -> list[str]:
    """The thresholds, and when they were set."""
    if isinstance(profile, str):
        return ["No verdict was given, so no threshold was used."]
    told: Frozen | None = profile.frozen
    if told is None:
        when = "They were not written down before these chains ended: they are today's."
    else:
        before = "before the first chain ended" if told.ended == 0 else f"after {plural(told.ended, 'chain')} had ended"
        when = f"They were set at {told.written}, {before}."
    lines = [when]
    try:
        said = configured(study_)
        used = told.thresholds if told is not None else agreed(said)
        changes = dict.fromkeys(c for other in said for c in used.changes(other))
        lines += [
            f"The configuration of {'some chains' if len(said) > 1 else 'the chains'} says otherwise: {c}."
            for c in changes
        ]
    except UserError as e:
        lines.append(str(e))
    return lines


def unknown(
    study_: Study, names: Mapping[str, str], profile: Profile | str, chains: Sequence[Progress], times: list[Timescale]
) -> list[str]:
    """What a reader of this study must not take for known."""
    told = [f"Left out: {fault}" for fault in study_.damaged]
    going = [p for p in chains if not p.ended and not p.fault]
    if going:
        steps = [f"{p.chain.parent.name}/{p.chain.name} ({p.done} of {p.planned or '?'}, {p.said})" for p in going]
        told.append(f"Not finished: {listed(steps, 8)}.")
    if isinstance(profile, str):
        told.append(f"No profile: {profile}")
    else:
        told += _verdicts(profile, names)
    seeds = {c: study_.seeds(c) for c in names}
    if len({tuple(s) for s in seeds.values()}) > 1:
        counts = ", ".join(f"{names[c]} {len(s)}" for c, s in seeds.items())
        told.append(f"Conditions have different seeds ({counts}): their means are of different chains.")
    if len(study_.seeds()) == 1 and not study_.solvable:
        told.append("One seed: how much of a difference is retraining noise is not known.")
    if any(t.extrapolated for t in times):
        told.append("Timescales marked as extrapolated lie beyond the generations that were run.")
    if not study_.solvable and not study_.is_csv:
        told += _scores(study_)
    elif study_.solvable:
        told.append("A solvable system's numbers hold for that system; that image models do the same is not shown.")
    return told


def _verdicts(profile: Profile, names: Mapping[str, str]) -> list[str]:
    """Definitions without a verdict, those of one reason together, and the profile's own remarks, each once."""
    groups: dict[tuple[str, str], dict[str, list[int]]] = {}
    for v in profile.verdicts:
        if v.verdict in (UNDETERMINED, NOT_MEASURED):
            why = v.reason if v.verdict == NOT_MEASURED else ""
            groups.setdefault((v.verdict, why), {}).setdefault(names.get(v.condition, v.condition), []).append(
                v.definition
            )
    told = []
    for (verdict, why), found in groups.items():
        alike: dict[tuple[int, ...], list[str]] = {}
        for name, ks in found.items():
            alike.setdefault(tuple(ks), []).append(name)
        parts = [
            f"definition{'s' * (len(ks) > 1)} {', '.join(f'{k} ({SHORT[k]})' for k in ks)} for {', '.join(those)}"
            for ks, those in alike.items()
        ]
        told.append(f"{verdict.capitalize()}: {'; '.join(parts)}{f': {why}' if why else ''}.")
    told += profile.notes.get("", ())
    remarks: dict[str, list[str]] = {}
    for c, notes in profile.notes.items():
        for note in notes if c else ():
            remarks.setdefault(note, []).append(names.get(c, c))
    return told + [f"{', '.join(those)}: {note}" for note, those in remarks.items()]


def _scores(study_: Study) -> list[str]:
    """What the scores could not say, and why, as the evaluator noted it."""
    told, name = {}, f"{study_.shown_protocol}.json"
    for chain in study_.chains:
        for folder in study.generations(chain):
            if (folder / "scores" / name).exists():
                found = store.read_json(folder / "scores" / name)
                notes = found.get("notes") if isinstance(found, Mapping) else None
                for key, value in (notes if isinstance(notes, Mapping) else {}).items():
                    if isinstance(value, str):
                        told.setdefault(f"{key}: {value}", None)
    lines = list(told)[:20]
    if "fd" in study_.table and not str(study_.shown_protocol).startswith("inception"):
        lines.append(
            "The Frechet distance is on other features than Inception's: it is no FID and compares with none; it is "
            "biased upwards by finite samples, equally for all conditions of equal size."
        )
    empty = [MEASURES[m][0].lower() for m in MEASURES if m in study_.table and study_.table[m].isna().any()]
    if empty:
        lines.append(f"Not measured in every generation: {', '.join(empty)}.")
    return lines
