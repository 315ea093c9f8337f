"""The words beside a verdict's numbers: why it is what it is, and its effect in the measure's own terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from imgloop.collapse import definitions, statistics
from imgloop.collapse.definitions import Judged, Number, Question
from imgloop.collapse.verdicts import DETECTED, EXCLUDED, UNDETERMINED

if TYPE_CHECKING:
    from imgloop.collapse.profile import Comparison

BESIDE = {2: ("fd", "kd"), 6: ("ambiguity",), 7: ("tail_risk",)}  # measures to see beside a verdict


@dataclass(frozen=True)
class Absent:
    """Chains that are left out of a question, in words; which of them may be what was asked for (a risk that went to
    infinity), and keeps the question from being excluded; the measures that too few chains have."""

    left_out: tuple[str, ...]
    failed: str
    few: tuple[str, ...]


def reasons(c: Comparison, q: Question, j: Judged, verdict: str, chains: int, absent: Absent) -> list[str]:
    """What to know of a verdict on `chains` chains."""
    k, told = q.definition, []
    if verdict != DETECTED:
        told += withheld(c, q, j, verdict, chains, absent)
    elif j.excluded and not absent.failed:
        told.append("significant, though inside the margin: excluded by its size")
    if k == 2 and not np.isfinite(j.margin) and np.isfinite(c.pair(c.risk)[0][:, 0]).all():
        told.append(f"never excluded: the {c.risk} at generation 0 is not above 0, and the margin a share of it")
    if len(c.seeds) > 1 and j.effect and j.low == j.high:
        told.append("the chains have one and the same number: have their seeds been used?")
    if k in definitions.RATIOS:
        told += floored(c, definitions.RATIOS[k])
    if k == 3:
        told.append(growth(c, q, verdict))
    if k == 5 and c.law:
        told.append(c.law.said())
    if k in BESIDE:
        told += beside(c, k)
    if k in (4, 6, 7, 8):
        told += crossing(c, q.numbers[int(j.lead)], verdict)
    return told


def withheld(c: Comparison, q: Question, j: Judged, verdict: str, chains: int, absent: Absent) -> list[str]:
    """What kept a definition from being detected or excluded."""
    if verdict != UNDETERMINED:
        return []
    told, missing = [], c.h.chains - chains
    if missing > 0:
        told.append(f"{missing} more chain{'s' * (missing > 1)} needed")
    measure = definitions.RATIOS.get(q.definition)
    if measure and (definitions.late(c.pair(measure)[1] < definitions.FLOORS[measure], c.h.window) > 0).any():
        told.append(f"not excluded: a control has itself lost its {measure}")
    elif q.definition != 3 and q.bar is not None and q.bar and j.bound < j.margin:
        where = "of one size" if q.definition == 5 else f"at generation {c.G}"
        told.append(f"not excluded: the mean {where} is beyond the margin")
    if absent.failed and j.excluded:
        told.append(f"not excluded: {absent.failed} was left out")
    if absent.few and missing <= 0:
        told.append(f"{' and '.join(absent.few)} of too few chains: not excluded")
    if q.definition == 2 and not np.isfinite(c.pair(c.risk)[0][:, 0]).all():
        told.append(f"chains without a {c.risk} at generation 0, of which the margin is a share")
    return told


def reading(c: Comparison, k: int, number: Number, effect: float) -> str:
    """The effect of definition k in the measure's own terms."""
    if k in definitions.RATIOS:
        return f"x{np.exp(-effect):.2f} of the control's"
    if k == 5:
        return f"risk x{np.exp(effect):.2f}"
    if k == 8:
        return f"{100 * effect:+.2g} percentage points, {number.name.split()[0]}"
    if k == 3:
        return f"C {effect:+.3g} of {c.risk}"
    start = statistics.Moments.of(c.condition.series(c.risk, c.seeds, c.G)[:, 0]).mean
    if not start > 0:
        return ""
    share = round(100 * effect / start, 1) + 0.0  # no -0
    return f"{share:+.{0 if abs(share) >= 10 else 1}f}% of the {c.risk} at generation 0"


def floored(c: Comparison, measure: str) -> list[str]:
    """That a ratio was too near 0 for its log."""
    floor = definitions.FLOORS[measure]
    below = sum(int((definitions.newest(x, c.h.window) < floor).sum()) for x in c.pair(measure))
    return [f"{below} values below {floor:g} count as {floor:g}"] if below else []


def growth(c: Comparison, q: Question, verdict: str) -> str:
    """How the risk of definition 3 has grown, and what its last two thirds say."""
    told = f"growth {span(q.numbers[1].x)}"
    if verdict == DETECTED:
        told += f"; still growing faster than logarithmically through generation {c.G}"
    if verdict == EXCLUDED:
        told += f"; slower than 1 + 1/2 + 1/3 + ... through generation {c.G}"
    if not q.gate:
        told += "; the contrast of the last two thirds is not positive"
    elif q.bar and verdict == UNDETERMINED:
        told += "; the last two thirds grow faster than logarithmically: not excluded"
    return told


def beside(c: Comparison, k: int) -> list[str]:
    """The measures that belong beside definition k, over control."""
    told = []
    for measure in [m for m in BESIDE[k] if m != c.risk and c.measured(m)]:
        treated, control = c.pair(measure)
        told.append(f"{measure} {span(definitions.late(treated - control, c.h.window))} beside it")
    return told


def crossing(c: Comparison, number: Number, verdict: str) -> list[str]:
    """When the mean over chains passes the threshold, from the number taken at each generation in turn; beyond G only
    where chains still grow significantly in the second half, since noise has a slope, too."""
    if number.name.split()[0] in definitions.RATES:
        treated, control = c.pair(number.name.split()[0])
    else:
        measure = number.name.split()[1]
        treated, control = (definitions.losses(x, measure) for x in c.pair(measure))
    series = treated - control
    at = definitions.crossing(statistics.Moments.of(series.T).mean, number.above)
    told = f"the mean passes the threshold at about generation {at or 0:.1f}"
    if at is not None and at <= c.G and verdict != EXCLUDED:
        return [told]
    growing = statistics.greater(series[:, -1] - series[:, c.G // 2]) <= c.h.exclusion
    return [f"{told}, extrapolated beyond generation {c.G}"] if at is not None and at > c.G and growing else []


def span(x: np.ndarray) -> str:
    """A mean over chains and its 95 % interval, where several chains give one."""
    mean, low, high = statistics.interval(x)
    return f"{mean:+.3g}" if np.isnan(low) else f"{mean:+.3g} [{low:.3g}, {high:.3g}]"
