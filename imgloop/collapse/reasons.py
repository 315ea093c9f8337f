"""The words beside a verdict's numbers: why it is what it is, and its effect in the measure's own units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from imgloop.collapse import definitions, statistics
from imgloop.collapse.definitions import Judged, Number, Question
from imgloop.collapse.subjects import BESIDE
from imgloop.collapse.verdicts import DETECTED, EXCLUDED, UNDETERMINED

if TYPE_CHECKING:
    from imgloop.collapse.profile import Comparison


@dataclass(frozen=True)
class Absent:
    """Chains without a number for a question.

    left_out: one phrase for each. failed: the one that may itself be a case of collapse, such as a risk that became
    infinite, so that nothing is excluded; "" if there is none. few: measures that too few chains have.
    """

    left_out: tuple[str, ...]
    failed: str
    few: tuple[str, ...]


def reasons(c: Comparison, q: Question, j: Judged, verdict: str, chains: int, absent: Absent) -> list[str]:
    """Remarks on a verdict on `chains` chains."""
    k, remarks = q.definition, []
    if verdict != DETECTED:
        remarks += withheld(c, q, j, verdict, chains, absent)
    elif j.excluded and not absent.failed:
        remarks.append("significant, but inside the margin: by its size it would be excluded")
    if k == 2 and not np.isfinite(j.margin) and np.isfinite(c.pair(c.risk)[0][:, 0]).all():
        remarks.append(f"never excluded: the {c.risk} at generation 0 is not above 0, and the margin is a share of it")
    if len(c.seeds) > 1 and j.effect and j.low == j.high:
        remarks.append("all chains have the same number: do they use different seeds?")
    if measure := c.ratio(k):
        remarks += floored(c, measure)
    if k == 3:
        remarks.append(growth(c, q, verdict))
    if k == 5 and c.law:
        remarks.append(c.law.said())
    if k in BESIDE:
        remarks += beside(c, k)
    if k in (4, 6, 7, 8):
        remarks += crossing(c, k, q.numbers[int(j.lead)], verdict)
    return remarks


def withheld(c: Comparison, q: Question, j: Judged, verdict: str, chains: int, absent: Absent) -> list[str]:
    """Why a definition was neither detected nor excluded."""
    if verdict != UNDETERMINED:
        return []
    remarks, missing = [], c.h.chains - chains
    if missing > 0:
        remarks.append(f"{missing} more chain{'s' * (missing > 1)} needed")
    measure = c.ratio(q.definition)
    if measure and (definitions.late(c.pair(measure)[1] < c.subjects.floor(measure), c.h.window) > 0).any():
        remarks.append(f"not excluded: a control has itself lost its {measure}")
    elif q.definition != 3 and q.bar is not None and q.bar and j.bound < j.margin:
        where = "of one size" if q.definition == 5 else f"at generation {c.G}"
        remarks.append(f"not excluded: the mean {where} is beyond the margin")
    if c.unfit and j.excluded:
        remarks.append("not excluded: generation 0 is not a model of the data")
    if q.definition == 1 and ((c.swayed == EXCLUDED and j.excluded) or (c.swayed == DETECTED and j.detected)):
        remarks.append(f"not {c.swayed}: the model with a quarter of the data drew another number of samples")
    if absent.failed and j.excluded:
        remarks.append(f"not excluded: {absent.failed} was left out")
    if absent.few and missing <= 0:
        remarks.append(f"not excluded: too few chains have {' and '.join(absent.few)}")
    if q.definition == 2 and not np.isfinite(c.pair(c.risk)[0][:, 0]).all():
        remarks.append(f"some chains have no {c.risk} at generation 0, and the margin is a share of it")
    return remarks


def reading(c: Comparison, k: int, number: Number, effect: float) -> str:
    """The effect of definition k in the measure's own units."""
    if c.ratio(k):
        return f"x{np.exp(-effect):.2f} of the control's"
    if k == 5:
        return f"risk x{np.exp(effect):.2f}"
    if k == 8:
        return f"{100 * effect:+.2g} percentage points, {number.measure}"
    if k == 3:
        return f"C {effect:+.3g} of {c.risk}"
    start = float(statistics.Moments.of(c.condition.series(c.risk, c.seeds, c.G)[:, 0]).mean)
    if not start > 0:
        return ""
    share = round(100 * effect / start, 1) + 0.0  # no -0
    return f"{share:+.{0 if abs(share) >= 10 else 1}f}% of the {c.risk} at generation 0"


def floored(c: Comparison, measure: str) -> list[str]:
    """How many values of a ratio were below its floor."""
    floor = c.subjects.floor(measure)
    below = sum(int((definitions.newest(x, c.h.window) < floor).sum()) for x in c.pair(measure))
    return [f"{below} values below {floor:g} count as {floor:g}"] if below else []


def growth(c: Comparison, q: Question, verdict: str) -> str:
    """The growth of the risk in definition 3, and its last two thirds."""
    text = f"growth {span(q.numbers[1].x)}"
    if verdict == DETECTED:
        text += f"; still growing faster than logarithmically through generation {c.G}"
    if verdict == EXCLUDED:
        text += f"; slower than 1 + 1/2 + 1/3 + ... through generation {c.G}"
    if not q.gate:
        text += "; the contrast of the last two thirds is not positive"
    elif q.bar and verdict == UNDETERMINED:
        text += "; the last two thirds grow faster than logarithmically: not excluded"
    return text


def beside(c: Comparison, k: int) -> list[str]:
    """The measures that are shown beside definition k, over control."""
    remarks = []
    for measure in [m for m in BESIDE[k] if m != c.risk and c.measured(m)]:
        treated, control = c.pair(measure)
        remarks.append(f"for comparison, {measure} {span(definitions.late(treated - control, c.h.window))}")
    return remarks


def crossing(c: Comparison, k: int, number: Number, verdict: str) -> list[str]:
    """When the mean over chains passes the threshold, the number being computed at each generation in turn.

    Beyond G only where chains still grow significantly in the second half: noise has a slope, too.
    """
    treated, control = c.pair(number.measure)
    if k != 8:
        floor = c.subjects.floor(number.measure)
        treated, control = definitions.losses(treated, floor), definitions.losses(control, floor)
    series = treated - control
    at = definitions.crossing(statistics.Moments.of(series.T).mean, number.above)
    text = f"the mean passes the threshold at about generation {at or 0:.1f}"
    if at is not None and at <= c.G and verdict != EXCLUDED:
        return [text]
    growing = statistics.greater(series[:, -1] - series[:, c.G // 2]) <= c.h.exclusion
    return [f"{text}, extrapolated beyond generation {c.G}"] if at is not None and at > c.G and growing else []


def span(x: np.ndarray) -> str:
    """A mean over chains with its 95 % interval, if there are at least two chains."""
    mean, low, high = statistics.interval(x)
    return f"{mean:+.3g}" if np.isnan(low) else f"{mean:+.3g} [{low:.3g}, {high:.3g}]"
