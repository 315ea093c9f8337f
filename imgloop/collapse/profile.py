"""collapse_profile: the eight verdicts on every condition of a table of chains, with effect, interval and rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from imgloop.collapse import definitions, reasons, scaling, statistics, tables
from imgloop.collapse.definitions import Judged, Question
from imgloop.collapse.reasons import Absent
from imgloop.collapse.subjects import BIASED, DISTANCES, RATIO_ROLES, ROLE_OF, Subjects
from imgloop.collapse.tables import Condition
from imgloop.collapse.verdicts import (
    DETECTED,
    EXCLUDED,
    NO_VERDICT,
    NOT_MEASURED,
    UNDETERMINED,
    Profile,
    Verdict,
    unfit,
)
from imgloop.errors import UserError
from imgloop.measures import MeasureInfo
from imgloop.thresholds import Frozen, Thresholds, unlike_data


def collapse_profile(
    frame: tables.Frame,
    control: str = "real_only",
    *,
    thresholds: Thresholds | Mapping | None = None,
    quarter: str | None = None,
    risk: str | None = None,
    generation: int | None = None,
    noise_risk: float | None = None,
    frozen: Frozen | None = None,
    measures: Mapping[str, MeasureInfo] | None = None,
    subjects: Mapping[str, str] | None = None,
) -> Profile:
    """The collapse profile of chains: for each condition, eight definitions of model collapse and eight verdicts.

    Example: `collapse_profile(imgloop.load_study("outputs/digits-diffusion"))["replace"][2].verdict`.

    frame: pandas table, one row a condition, seed and generation (generation 0 is trained on real data), with any of
    the columns of tables.MEASURES; `size` where a condition was run at several numbers of real samples. A chain is
    paired with the chain of the same seed in the `control` condition; the two must share their random numbers.
    thresholds: those that differ from conf/collapse. quarter: the condition of a real-only model trained on a quarter
    of the data (definition 1); not needed where sizes are known. generation: the last generation G to read; by default
    the one at which most chains end. noise_risk: the risk of a model that predicts pure noise, for the severity.
    frozen: the thresholds that the study stored (imgloop.study.frozen).
    measures: users' measures by column, added to imgloop.measures.MEASURES. subjects: the column to judge for a role
    (risk, variance, mode, tail; hallucination: one more rate). By default it is ours, where the table has it, else the
    first of that role in `measures`; for risk `risk`, `excess`, `fd`, `kd` in this order. risk: the column of the role
    risk, short for subjects={"risk": ...}.
    Raises UserError for a table without chains or without the control, and for a subject that it does not have.
    """
    control = str(control)
    if generation is not None:
        if isinstance(generation, bool) or not generation >= 0 or generation % 1:
            raise UserError(f"generation={generation}: give the last generation to read, a whole number.", "generation")
        generation = int(generation)
    h = Thresholds.of(thresholds if thresholds is not None else frozen and frozen.thresholds)
    chosen = Subjects.of(measures, subjects, risk)
    known = tables.conditions(frame, chosen.columns)
    for role, column in chosen.chosen.items():
        if column in tables.KEYS or column not in frame:
            columns = ", ".join(map(str, frame.columns))
            name = "risk" if role == "risk" and risk is not None else f"subjects.{role}"
            raise UserError(f"{name}={column}: the table has no such measure; its columns are {columns}.", name)
    if quarter is not None and quarter == control:
        raise UserError(
            f"quarter={quarter} is the control: name the real-only condition with a quarter of its data.", "quarter"
        )
    paradigm = tables.settings(control)[0]
    if not any(control in (c.name, c.base) or tables.settings(c.base)[0] == paradigm for c in known):
        raise UserError(
            f"The table has no condition {control}, the control: name one with control= (--control); the table has "
            f"{tables.listed(known)}.",
            "control",
        )
    # Conditions of the control's paradigm are controls for other settings, unless the user names one with its settings.
    alike = {paradigm} if control == paradigm or paradigm == "real_only" else set()
    others = [c for c in known if tables.settings(c.base)[0] not in alike and control not in (c.name, c.base, c.given)]
    others = [c for c in others if quarter is None or c.name != quarter]
    if not others:
        raise UserError(f"The table has only the control ({tables.listed(known)}): there is nothing to compare.")
    verdicts, notes, laws = [], {"": (*_general(h, frozen), *tables.implausible(known, chosen))}, {}
    to_judge = judged(others, h)
    asked = Asked(control, quarter, generation, noise_risk, chosen)
    for c in to_judge:
        unread = [o.size for o in others if o.base == c.base and o not in to_judge]
        comparison = Comparison(c, known, asked, unread, h).profiled()
        verdicts += comparison.verdicts
        notes[c.given] = tuple(comparison.notes)
        if comparison.law:
            laws[c.given] = comparison.law
    return Profile(control, tuple(verdicts), notes, h, frozen, laws)


@dataclass(frozen=True)
class Asked:
    """The arguments of collapse_profile that every comparison needs."""

    control: str
    quarter: str | None
    generation: int | None
    noise_risk: float | None
    subjects: Subjects


def judged(conditions: list[Condition], h: Thresholds) -> list[Condition]:
    """The conditions that get verdicts: for each name the one with the most real samples; for the conditions of a
    scaling law, which differ in size alone, only the largest."""
    rising = sorted(conditions, key=lambda c: -np.inf if np.isnan(c.size) else c.size)
    of_name, of_law = {c.given: c for c in rising}, {c.base: c for c in rising}  # the last is the largest
    sizes = Counter(base for base, _ in {(c.base, c.size) for c in conditions})
    largest = (of_law[c.base] if sizes[c.base] >= h.sizes else of_name[c.given] for c in conditions)
    return list(dict.fromkeys(largest))


def _general(h: Thresholds, frozen: Frozen | None) -> tuple[str, ...]:
    """Notes that apply to every condition."""
    notes = ["Inference is conditional on the real sample: chains with the same data share its held-out images."]
    if frozen is None:
        notes.append("No thresholds were stored before these chains ended: the current ones are used.")
    else:
        when = "before the first chain ended" if frozen.ended == 0 else f"after {frozen.ended} chains had ended"
        notes.append(f"Thresholds were stored at {frozen.written}, {when}.")
        notes += [f"Changed since: {change}." for change in frozen.thresholds.changes(h)]
    return tuple(notes)


class Comparison:
    """One condition compared with its control: questions, then verdicts and notes."""

    def __init__(self, condition: Condition, known: list[Condition], asked: Asked, unread: list[float], h: Thresholds):
        self.condition, self.known, self.asked, self.unread, self.h = condition, known, asked, unread, h
        self.subjects = asked.subjects
        self.verdicts: list[Verdict] = []
        self.notes: list[str] = []
        self.law: scaling.ScalingLaw | None = None
        control, remark = tables.control_of(condition, known, asked.control)
        self.unpaired = "" if control else remark
        self._control = control
        if remark and control is not None:
            self.notes.append(remark + ".")
        last = condition.last
        theirs = {} if control is None else control.last
        usual = _usual([min(last[s], theirs.get(s, last[s])) for s in last])
        self.G = usual if asked.generation is None else asked.generation
        self.seeds = [s for s in last if last[s] >= self.G]
        self.left_out = tuple(f"seed {s} ends at generation {last[s]}" for s in last if last[s] < self.G)
        if control is not None:
            self.left_out += tuple(f"seed {s} has no control" for s in self.seeds if s not in theirs)
            short = [s for s in self.seeds if s in theirs and theirs[s] < self.G]
            self.left_out += tuple(f"the control of seed {s} ends at generation {theirs[s]}" for s in short)
            self.seeds = [s for s in self.seeds if theirs.get(s, -1) >= self.G]
        self.ended = [s for s in last if last[s] < self.G <= theirs.get(s, -1)]  # crashed, or not finished
        self.risk = self.subject(1) or ""
        self.unfit = self.start()
        self.swayed = ""  # verdict of definition 1 that different numbers of samples forbid
        self.compared = [condition] if control is None else [condition, control]  # whose values enter the numbers

    @property
    def control(self) -> Condition:
        assert self._control is not None  # without a control no question is asked
        return self._control

    def measured(self, measure: str) -> bool:
        return self._control is not None and self.condition.has(measure) and self._control.has(measure)

    def subject(self, definition: int) -> str | None:
        """The column that a definition judges: the one that the user chose, else the first that is measured."""
        role = ROLE_OF[definition]
        if role == "risk" and role in self.subjects.chosen:
            return self.subjects.chosen[role]
        return next((m for m in self.subjects.candidates(role) if self.measured(m)), None)

    def ratio(self, definition: int) -> str | None:
        """The column that is the ratio of definition 4, 6 or 7; None for other definitions."""
        return self.subject(definition) if ROLE_OF[definition] in RATIO_ROLES else None

    def pair(self, measure: str) -> definitions.Pair:
        """Series (S, G + 1) of the chains and of their controls."""
        return self.condition.series(measure, self.seeds, self.G), self.control.series(measure, self.seeds, self.G)

    # -- the questions -----------------------------------------------------------------------------------------------

    def profiled(self) -> Comparison:
        questions: dict[int, Question | str] = {k: self.question(k) for k in definitions.TITLES}
        asked = [q for q in questions.values() if isinstance(q, Question)]
        tests = dict(zip([q.definition for q in asked], definitions.judge(asked, self.h))) if asked else {}
        for k, q in questions.items():
            if isinstance(q, str):
                self.verdicts.append(self.verdict(k, NOT_MEASURED, reason=q))
            else:
                self.verdicts.append(self.judged(q, tests[k]))
        self.remarks()
        return self

    def question(self, k: int) -> Question | str:
        """A definition's question; or why it cannot be asked."""
        if self._control is None:
            return self.unpaired
        if self.G < 1:
            return "the chains end at generation 0"
        if not self.seeds:
            return f"no chain and control of one seed reach generation {self.G} ({_several(self.left_out)})"
        role, measure = ROLE_OF[k], self.subject(k)
        if role == "risk" and measure is None:
            return self.subjects.missing(role)
        if self.G < definitions.LEAST_G.get(k, 1):
            return f"needs {definitions.LEAST_G[k]} generations after 0, and there are {self.G}"
        if measure is None:
            return self.subjects.missing(role)
        if k == 8:
            rates = {r: self.pair(r) for r in self.subjects.candidates(role) if self.measured(r)}
            q = definitions.hallucination(rates, self.h)
        elif role in RATIO_ROLES:
            pair, floor = self.pair(measure), self.subjects.floor(measure)
            if (definitions.late(pair[1] < floor, self.h.window) == 1).all():
                return f"the control itself has lost its {measure} (below {floor:g})"
            q = definitions.loss(k, pair, self.h, self.subjects.measures[measure])
        elif k == 1:
            q = self.catastrophic()
        elif k == 5:
            q = self.scaling()
        else:
            q = {2: definitions.increase, 3: definitions.divergence}[k](self.pair(measure), self.h)
        if isinstance(q, Question) and not any(np.isfinite(n.x).any() for n in q.numbers):
            return "no chain and its control have a value at every generation that is read"
        return q

    def catastrophic(self) -> Question | str:
        quarter, why = tables.quarter_of(self.control, self.known, self.asked.quarter)
        if quarter is None:
            return why
        if not quarter.has(self.risk):
            return f"{quarter.name} has no {self.risk}"
        last = {s: min(self.G, quarter.last.get(s, 0)) for s in self.seeds}
        self.compared.append(quarter)
        theirs = quarter.series(self.risk, self.seeds, self.G)
        at = theirs[np.arange(len(self.seeds)), [last[s] for s in self.seeds]]
        short = sorted({g for s, g in last.items() if g < self.G and s in quarter.last})
        if short:
            self.notes.append(f"{quarter.name} ends at generation {short[0]}: its risk there is used for that at G.")
        mine = self.condition.series(self.risk, self.seeds, self.G)[:, -1]
        drew, own = quarter.drawn, self.condition.drawn
        if self.risk in BIASED and (drew < own or drew > own):  # neither where one is unknown
            self.swayed = EXCLUDED if drew < own else DETECTED
            self.notes.append(
                f"{quarter.name} drew {drew:,g} samples, {self.condition.given} {own:,g}: {self.risk} falls with this "
                f"number, so definition 1 is not {self.swayed}. Run it with n_samples={own:g}."
            )
        return definitions.catastrophic(mine, at)

    def scaling(self) -> Question | str:
        mine = {c.size: c for c in self.known if c.base == self.condition.base and not np.isnan(c.size)}
        theirs = {c.size: c for c in self.known if c.base == self.control.base and not np.isnan(c.size)}
        sizes = sorted(set(mine) & set(theirs))
        if len(sizes) < self.h.sizes:
            few = f"are {len(sizes)} sizes" if len(sizes) > 1 else "is one size"
            return f"needs chains and controls at {self.h.sizes} numbers of real samples, and there {few}"
        if not all(c[n].has(self.risk) for c in (mine, theirs) for n in sizes):
            return f"{self.risk} is not measured at every size"
        treated, control = (
            np.stack([c[n].series(self.risk, self.seeds, self.G) for n in sizes], 1) for c in (mine, theirs)
        )
        read = [definitions.read(p, self.h.window) for p in (treated, control)]
        with np.errstate(invalid="ignore"):
            if any((p <= 0).any() for p in read):
                return f"{self.risk} is not positive at every size, and has no logarithm"
        if np.logical_and.reduce([np.isfinite(p).all((1, 2)) for p in read]).any():
            self.law = scaling.scaling_law(np.array(sizes), treated, control, self.h)
        return definitions.scaling((treated, control), self.h)

    # -- the verdicts ------------------------------------------------------------------------------------------------

    def verdict(self, k: int, verdict: str, left_out: tuple[str, ...] | None = None, **values) -> Verdict:
        return Verdict(
            condition=self.condition.given,
            definition=k,
            title=definitions.TITLES[k],
            verdict=verdict,
            generations=self.G,
            rule=definitions.rules(self.h)[k],
            left_out=self.left_out if left_out is None else left_out,
            **values,
        )

    def judged(self, q: Question, j: Judged) -> Verdict:
        k, h, number = q.definition, self.h, q.numbers[int(j.lead)]
        chains = int(min(np.isfinite(n.x).sum() for n in q.numbers)) if q.every else int(j.chains)
        absent = self.absent(q)
        if len(self.seeds) == 1:
            verdict = NO_VERDICT
        elif chains < h.chains:
            verdict = UNDETERMINED
        elif j.detected:
            verdict = DETECTED
        else:
            verdict = EXCLUDED if j.excluded and not absent.failed and not self.unfit else UNDETERMINED
        if k == 1 and verdict == self.swayed:
            verdict = UNDETERMINED
        return self.verdict(
            k,
            verdict,
            number=number.name,
            **{name: float(getattr(j, name)) for name in ("effect", "low", "high", "bound", "margin")},
            **{name: float(getattr(j, name)) for name in ("p", "p_holm", "p_exact")},
            exact=verdict == DETECTED and bool(j.p_exact <= h.alpha),
            seeds=chains,
            missing=max(0, h.chains - chains),
            reading=reasons.reading(self, k, number, float(j.effect)),
            reason="; ".join(reasons.reasons(self, q, j, verdict, chains, absent)),
            left_out=absent.left_out,
        )

    def absent(self, q: Question) -> Absent:
        """The chains that have no number for a question."""
        left_out, failed, few = list(self.left_out), "a chain that ends before its control" if self.ended else "", []
        for n in (n for n in q.numbers if np.isfinite(n.x).any()):
            measure = n.measure or self.risk
            for s in (s for s, x in zip(self.seeds, n.x) if not np.isfinite(x)):
                infinite = any(c.infinite(measure, [s]) for c in self.compared if c.has(measure))
                what = "an infinite value" if infinite else "no value"
                if infinite or self.alone(measure, s):
                    failed = failed or f"a chain with {what}{'' if infinite else ', though its control has one,'}"
                left_out.append(f"seed {s} has {what} of {measure} at a generation that is read")
            if not q.every and np.isfinite(n.x).sum() < self.h.chains <= len(self.seeds):
                few.append(measure)
        return Absent(tuple(dict.fromkeys(left_out)), failed, tuple(few))

    def alone(self, measure: str, seed: int) -> bool:
        """Whether a chain has no value at a last generation where its control has one: its training may have failed
        because of the collapse that is tested."""
        both = (c.series(measure, [seed], self.G) for c in self.compared[:2])
        mine, theirs = (definitions.newest(x, self.h.window) for x in both)
        return bool((np.isnan(mine) & np.isfinite(theirs)).any())

    def start(self) -> str:
        """Why generation 0, on average over chains, is not a model of the data; "" where it may be one."""
        named = [m for m in ("off_support", "variance_ratio") if self.condition.has(m) and self.seeds]
        first = {m: self.condition.series(m, self.seeds, self.G)[:, 0] for m in named}
        return unlike_data({m: float(np.nanmean(x)) for m, x in first.items() if np.isfinite(x).any()}, self.h)

    def unlike(self) -> list[str]:
        """The measures that differ from the control's at generation 0, with the difference."""
        differing = []
        for measure in [m for m in self.subjects.columns if self.seeds and self.measured(m)]:
            treated, control = (x[:, 0] for x in self.pair(measure))
            mean, low, high = statistics.interval(treated - control, 0.999)
            if low > 0 or high < 0:
                differing.append(f"{measure} ({mean:+.3g})")
        return differing

    def remarks(self) -> None:
        """Add the notes of this condition."""
        if self.risk in DISTANCES and "risk" not in self.subjects.chosen:
            self.notes.append(f"There is no loss: {self.risk} is the risk (definitions 1, 2, 3 and 5).")
        if len({int(n) for c in self.compared[:2] for n in c.draws.unique()}) > 1:
            self.notes.append(
                "Generations drew different numbers of samples: fd falls and the smallest mode share rises with this "
                "number, whatever the generator."
            )
        longer = [g for g in self.condition.last.values() if g > self.G]
        if longer and self.asked.generation is None:
            self.notes.append(
                f"Most chains end at generation {self.G}, which is read as the last; {len(longer)} of "
                f"{len(self.condition.last)} continue to {max(longer)}."
            )
        if self.unread:
            sizes = ", ".join(f"{n:,g}" for n in sorted(set(self.unread)))
            self.notes.append(
                f"The verdicts are for the chains with {self.condition.size:,g} real samples; those with {sizes} have "
                f"none of their own (definition 5 reads {self.h.sizes} sizes or more)."
            )
        if self.unfit:
            self.notes.append(unfit(self.unfit))
        if unlike := self.unlike():
            self.notes.append(
                f"Generation 0 differs from the control's in {', '.join(unlike)}: chain and control should share it, "
                "so that the verdicts show the effect of the loop alone."
            )
        if 1 <= self.G < self.h.window:
            self.notes.append(f"Numbers are means of generations 1 to {self.G}, not of the last {self.h.window}.")
        if self.asked.noise_risk is not None and self.risk and self.G >= 1 and self.seeds:
            treated = self.condition.series(self.risk, self.seeds, self.G)
            with np.errstate(divide="ignore", invalid="ignore"):
                severity = (treated[:, -1] - treated[:, 0]) / (self.asked.noise_risk - treated[:, 0])
            if np.isfinite(severity).any():
                self.notes.append(f"Severity (R_G - R_0) / (R_noise - R_0): {reasons.span(severity)}; not tested.")
        if any(v.definition == 3 and v.verdict in (DETECTED, EXCLUDED, UNDETERMINED) for v in self.verdicts):
            self.notes.append(
                f"Definition 3 refers to generations 0 to {self.G}; the asymptote is extrapolated. A risk that "
                f"saturates on a scale much longer than {self.G} generations cannot be distinguished from divergence."
            )


def _usual(lasts: list[int]) -> int:
    """The generation at which most chains end; in a tie the smallest, so that no chain is left out."""
    counted = Counter(lasts)
    return min(counted, key=lambda g: (-counted[g], g))


def _several(texts: tuple[str, ...], most: int = 4) -> str:
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
