"""collapse_profile: the eight verdicts on every condition of a table of chains, with effect, interval and rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from imgloop.collapse import definitions, reasons, scaling, statistics, tables
from imgloop.collapse.definitions import Judged, Question
from imgloop.collapse.reasons import Absent
from imgloop.collapse.verdicts import DETECTED, EXCLUDED, NO_VERDICT, NOT_MEASURED, UNDETERMINED, Profile, Verdict
from imgloop.errors import UserError
from imgloop.thresholds import Frozen, Thresholds


def collapse_profile(
    frame,
    control: str = "real_only",
    *,
    thresholds: Thresholds | Mapping | None = None,
    quarter: str | None = None,
    risk: str | None = None,
    generation: int | None = None,
    noise_risk: float | None = None,
    frozen: Frozen | None = None,
) -> Profile:
    """The collapse profile of chains: for each condition, eight definitions of model collapse and eight verdicts.

    Example: `collapse_profile(imgloop.load_study("outputs/digits-diffusion"))["replace"][2].verdict`.

    frame: pandas table, one row a condition, seed and generation (0 is the model trained on real data), with any of the
    columns of tables.MEASURES; `size` where a condition was run at several numbers of real samples. Seeds pair a chain
    with its control: a condition and the `control` condition of one seed must share their random numbers.
    thresholds: those that differ from conf/collapse. quarter: the condition of a real-only model trained on a quarter
    of the data (definition 1); found by itself where sizes are known. risk: the column that is the risk; by default
    `risk`, then `excess`, and for models without a loss `fd`. generation: the last generation G to read; by default the
    one at which most chains end. noise_risk: the risk of a model that predicts pure noise, for the severity. frozen:
    what `study.frozen.freeze` wrote.
    Raises UserError for a table that holds no chains, or none of the control.
    """
    control = str(control)
    if generation is not None:
        if isinstance(generation, bool) or not generation >= 0 or generation % 1:
            raise UserError(f"generation={generation}: give a whole number, the last generation to read.")
        generation = int(generation)
    h = Thresholds.of(thresholds if thresholds is not None else frozen and frozen.thresholds)
    known = tables.conditions(frame)
    if risk is not None and risk not in frame:
        raise UserError(f"risk={risk}: the table has no such column; it has {', '.join(map(str, frame.columns))}.")
    if risk is not None and not any(c.numeric(risk) for c in known):
        raise UserError(f"risk={risk}: this column holds no numbers.")
    if quarter is not None and quarter == control:
        raise UserError(f"quarter={quarter} is the control: name the real-only condition with a quarter of its data.")
    rule = tables.settings(control)[0]
    if not any(control in (c.name, c.base) or tables.settings(c.base)[0] == rule for c in known):
        raise UserError(
            f"The table has no condition {control}, which the others are compared with: name the control with "
            f"control=; the table has {tables.listed(known)}."
        )
    # conditions of the control's rule are controls of other settings, unless another one is named with its settings
    alike = {rule} if control == rule or rule == "real_only" else set()
    others = [c for c in known if tables.settings(c.base)[0] not in alike and control not in (c.name, c.base, c.given)]
    others = [c for c in others if quarter is None or c.name != quarter]
    if not others:
        raise UserError(f"The table has no condition but the control ({tables.listed(known)}): nothing to compare.")
    verdicts, notes, laws = [], {"": (*_general(h, frozen), *tables.doubtful(known))}, {}
    chosen = judged(others, h)
    for c in chosen:
        unread = [o.size for o in others if o.base == c.base and o not in chosen]
        found = Comparison(c, known, control, quarter, risk, generation, noise_risk, unread, h).profiled()
        verdicts += found.verdicts
        notes[c.given] = tuple(found.notes)
        if found.law:
            laws[c.given] = found.law
    return Profile(control, tuple(verdicts), notes, h, frozen, laws)


def judged(conditions: list[tables.Condition], h: Thresholds) -> list[tables.Condition]:
    """The conditions that get verdicts: of each name the one of most real samples, and of a scaling law's, which are
    several names for as many sizes, the one of most alone."""
    rising = sorted(conditions, key=lambda c: -np.inf if np.isnan(c.size) else c.size)
    of_name, of_law = {c.given: c for c in rising}, {c.base: c for c in rising}  # the last is the largest
    sizes = Counter(base for base, _ in {(c.base, c.size) for c in conditions})
    found = (of_law[c.base] if sizes[c.base] >= h.sizes else of_name[c.given] for c in conditions)
    return list(dict.fromkeys(found))


def _general(h: Thresholds, frozen: Frozen | None) -> tuple[str, ...]:
    """What holds for every condition."""
    told = ["Inference is conditional on the real sample, unless each seed has its own (data.resplit=true)."]
    if frozen is None:
        told.append("No thresholds were written down before these chains ended: they are today's.")
    else:
        when = "before the first chain ended" if frozen.ended == 0 else f"after {frozen.ended} chains had ended"
        told.append(f"Thresholds were written at {frozen.written}, {when}.")
        told += [f"Changed since: {change}." for change in frozen.thresholds.changes(h)]
    return tuple(told)


class Comparison:
    """One condition beside its control, on the way to its verdicts."""

    def __init__(self, condition, known, control, quarter, risk, generation, noise_risk, unread, h: Thresholds):
        self.condition, self.known, self.unread, self.h = condition, known, unread, h
        self.control_name, self.quarter_name, self.noise_risk = control, quarter, noise_risk
        self.verdicts: list[Verdict] = []
        self.notes: list[str] = []
        self.law: scaling.ScalingLaw | None = None
        self.control, remark = tables.control_of(condition, known, control)
        self.unpaired = remark if self.control is None else ""
        if remark and self.control is not None:
            self.notes.append(remark + ".")
        last = condition.last
        theirs = self.control.last if self.control is not None else {}
        self.asked = generation is not None
        self.G = generation if generation is not None else _usual([min(last[s], theirs.get(s, last[s])) for s in last])
        self.seeds = [s for s in last if last[s] >= self.G]
        self.left_out = tuple(f"seed {s} ends at generation {last[s]}" for s in last if last[s] < self.G)
        if self.control is not None:
            self.left_out += tuple(f"seed {s} has no control" for s in self.seeds if s not in theirs)
            short = [s for s in self.seeds if s in theirs and theirs[s] < self.G]
            self.left_out += tuple(f"the control of seed {s} ends at generation {theirs[s]}" for s in short)
            self.seeds = [s for s in self.seeds if theirs.get(s, -1) >= self.G]
        self.ended = [s for s in last if last[s] < self.G <= theirs.get(s, -1)]  # crashed, or not finished
        self.risk = risk or next((r for r in tables.RISKS if self.measured(r)), None)
        self.risk_asked = risk is not None
        self.compared = [c for c in (condition, self.control) if c is not None]  # whose values enter the numbers

    def measured(self, measure: str) -> bool:
        return self.condition.has(measure) and self.control is not None and self.control.has(measure)

    def pair(self, measure: str) -> definitions.Pair:
        """Series (S, G + 1) of the chains and of their controls."""
        return tuple(c.series(measure, self.seeds, self.G) for c in (self.condition, self.control))

    # -- the questions -----------------------------------------------------------------------------------------------

    def profiled(self) -> Comparison:
        questions: dict[int, Question | str] = {k: self.question(k) for k in definitions.TITLES}
        asked = [q for q in questions.values() if isinstance(q, Question)]
        judged = dict(zip([q.definition for q in asked], definitions.judge(asked, self.h))) if asked else {}
        for k, q in questions.items():
            if isinstance(q, str):
                self.verdicts.append(self.verdict(k, NOT_MEASURED, reason=q))
            else:
                self.verdicts.append(self.judged(q, judged[k]))
        self.remarks()
        return self

    def question(self, k: int) -> Question | str:
        """A definition's question; or why it cannot be asked."""
        if self.control is None:
            return self.unpaired
        if self.G < 1:
            return "the chains end at generation 0"
        if not self.seeds:
            return f"no chain and control of one seed reach generation {self.G} ({_several(self.left_out)})"
        if k in (1, 2, 3, 5) and self.risk is None:
            return f"no column {' or '.join(tables.RISKS)}"
        if self.G < definitions.LEAST_G.get(k, 1):
            return f"needs {definitions.LEAST_G[k]} generations after 0, and there are {self.G}"
        if k == 8:
            rates = {r: self.pair(r) for r in tables.MEASURES if r in definitions.RATES and self.measured(r)}
            q = definitions.hallucination(rates, self.h) if rates else f"no column {', '.join(definitions.RATES)}"
        elif k in definitions.RATIOS:
            measure = definitions.RATIOS[k]
            if not self.measured(measure):
                return f"no column {measure}"
            pair, floor = self.pair(measure), definitions.FLOORS[measure]
            if (definitions.late(pair[1] < floor, self.h.window) == 1).all():
                return f"the control itself has lost its {measure} (below {floor:g})"
            q = definitions.loss(k, pair, self.h)
        elif k == 1:
            q = self.catastrophic()
        elif k == 5:
            q = self.scaling()
        else:
            q = {2: definitions.increase, 3: definitions.divergence}[k](self.pair(self.risk), self.h)
        if isinstance(q, Question) and not any(np.isfinite(n.x).any() for n in q.numbers):
            return "no chain and its control have a value at every generation that is read"
        return q

    def catastrophic(self) -> Question | str:
        quarter, why = tables.quarter_of(self.control, self.known, self.quarter_name)
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
            self.notes.append(f"{quarter.name} ends at generation {short[0]}: its risk there stands for that at G.")
        mine = self.condition.series(self.risk, self.seeds, self.G)[:, -1]
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
        pair = tuple(np.stack([c[n].series(self.risk, self.seeds, self.G) for n in sizes], 1) for c in (mine, theirs))
        read = [definitions.read(p, self.h.window) for p in pair]
        with np.errstate(invalid="ignore"):
            if any((p <= 0).any() for p in read):
                return f"{self.risk} is not positive at every size, and has no logarithm"
        if np.logical_and.reduce([np.isfinite(p).all((1, 2)) for p in read]).any():
            self.law = scaling.scaling_law(np.array(sizes), *pair, self.h)
        return definitions.scaling(pair, self.h)

    # -- the verdicts ------------------------------------------------------------------------------------------------

    def verdict(self, k: int, verdict: str, **more) -> Verdict:
        return Verdict(
            condition=self.condition.given,
            definition=k,
            title=definitions.TITLES[k],
            verdict=verdict,
            generations=self.G,
            rule=definitions.rules(self.h)[k],
            **({"left_out": self.left_out} | more),
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
            verdict = EXCLUDED if j.excluded and not absent.failed else UNDETERMINED
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
        """Which chains have no number to enter a question with."""
        left_out, failed, few = list(self.left_out), "a chain that ends before its control" if self.ended else "", []
        for n in (n for n in q.numbers if np.isfinite(n.x).any()):
            measure = n.name.split()[0] if q.definition == 8 else definitions.RATIOS.get(q.definition, self.risk)
            for s in (s for s, x in zip(self.seeds, n.x) if not np.isfinite(x)):
                endless = any(c.infinite(measure, [s]) for c in self.compared if c.has(measure))
                what = "an infinite value" if endless else "no value"
                if endless or self.alone(measure, s):
                    failed = failed or f"a chain with {what}{'' if endless else ', though its control has one,'}"
                left_out.append(f"seed {s} has {what} of {measure} at a generation that is read")
            if not q.every and np.isfinite(n.x).sum() < self.h.chains <= len(self.seeds):
                few.append(measure)
        return Absent(tuple(dict.fromkeys(left_out)), failed, tuple(few))

    def alone(self, measure: str, seed: int) -> bool:
        """Whether a chain lacks a value at the last generations where its control has one: its training may have failed
        because of what is asked."""
        both = (c.series(measure, [seed], self.G) for c in self.compared[:2])
        mine, theirs = (definitions.newest(x, self.h.window) for x in both)
        return bool((np.isnan(mine) & np.isfinite(theirs)).any())

    def unlike(self) -> list[str]:
        """The measures whose generation 0 is another than the control's, with the difference."""
        found = []
        for measure in [m for m in tables.MEASURES if self.seeds and self.measured(m)]:
            treated, control = (x[:, 0] for x in self.pair(measure))
            mean, low, high = statistics.interval(treated - control, 0.999)
            if low > 0 or high < 0:
                found.append(f"{measure} ({mean:+.3g})")
        return found

    def remarks(self) -> None:
        """What a reader of this condition's profile must know."""
        if self.risk in ("fd", "kd") and not self.risk_asked:
            self.notes.append(f"There is no loss: {self.risk} is the risk (definitions 1, 2, 3 and 5).")
        drawn = [c.frame["n_pool"].dropna().unique() for c in (self.condition, self.control) if c and c.has("n_pool")]
        if len({int(n) for sizes in drawn for n in sizes}) > 1:
            self.notes.append(
                "Generations drew different numbers of samples: fd falls and the smallest mode share rises with their "
                "number, whatever the generator."
            )
        longer = [g for g in self.condition.last.values() if g > self.G]
        if longer and not self.asked:
            self.notes.append(
                f"Most chains end at generation {self.G}, which is read as the last; {len(longer)} of "
                f"{len(self.condition.last)} go on to {max(longer)}."
            )
        if self.unread:
            told = ", ".join(f"{n:,g}" for n in sorted(set(self.unread)))
            self.notes.append(
                f"Verdicts are of the chains of {self.condition.size:,g} real samples; those of {told} have none of "
                f"their own (definition 5 reads {self.h.sizes} sizes or more)."
            )
        if unlike := self.unlike():
            self.notes.append(
                f"Generation 0 differs from the control's in {', '.join(unlike)}: the two should share it, so that the "
                "verdicts are of what the loop does."
            )
        if self.G < self.h.window and self.G >= 1:
            self.notes.append(f"Numbers are means of generations 1 to {self.G}, not of the last {self.h.window}.")
        if self.noise_risk is not None and self.risk is not None and self.G >= 1 and self.seeds:
            treated = self.condition.series(self.risk, self.seeds, self.G)
            with np.errstate(divide="ignore", invalid="ignore"):
                severity = (treated[:, -1] - treated[:, 0]) / (self.noise_risk - treated[:, 0])
            if np.isfinite(severity).any():
                self.notes.append(f"Severity (R_G - R_0) / (R_noise - R_0): {reasons.span(severity)}; not tested.")
        if any(v.definition == 3 and v.verdict in (DETECTED, EXCLUDED, UNDETERMINED) for v in self.verdicts):
            self.notes.append(
                f"Definition 3 speaks of generations 0 to {self.G}; the asymptote is extrapolated. A risk that "
                f"saturates on a scale much longer than {self.G} generations cannot be told from divergence."
            )


def _usual(lasts: list[int]) -> int:
    """The generation at which most chains end; of equals the smallest, which keeps them all."""
    counted = Counter(lasts)
    return min(counted, key=lambda g: (-counted[g], g))


def _several(texts: tuple[str, ...], most: int = 4) -> str:
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
