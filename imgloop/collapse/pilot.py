"""The spread between chains of a pilot study, for the power of a larger one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from imgloop.collapse import definitions, tables
from imgloop.collapse.profile import Asked, Comparison
from imgloop.collapse.subjects import Subjects
from imgloop.errors import UserError
from imgloop.measures import MeasureInfo
from imgloop.thresholds import Thresholds


@dataclass(frozen=True)
class Pilot:
    """What a pilot study says of one definition's number (`number`, in its own units) in one condition.

    spread: standard deviation between chains, n - 1 in the denominator. effect: mean over threshold, in `spread`s.
    seeds: how many chains with controls. at: the last generation.
    """

    condition: str
    control: str
    number: str
    spread: float
    effect: float
    seeds: int
    at: int

    def lines(self) -> list[str]:
        """Which spread it is, in sentences."""
        error = 1 / np.sqrt(2 * (self.seeds - 1))  # of a normal standard deviation, relative
        return [
            f"spread {self.spread:.3g} of {self.number}, between {self.seeds} seeds of {self.condition} over "
            f"{self.control} at generation {self.at}; its relative standard error is about {error:.0%}",
            f"the pilot's own effect is {self.effect:+.2g} sd over the threshold; --effect is the planned study's",
        ]


def pilot(
    frame: tables.Frame,
    definition: int,
    condition: str | None = None,
    control: str = "real_only",
    *,
    risk: str | None = None,
    measures: Mapping[str, MeasureInfo] | None = None,
    thresholds: Thresholds | None = None,
) -> Pilot:
    """The spread of a definition's number between the chains of a table (pandas, as `collapse_profile` reads it).

    condition: of several, the one to read. Raises UserError for a table without chains of it or of the control, for a
    definition that cannot be read there, and for fewer than two seeds, which have no spread.
    """
    h, chosen = thresholds or Thresholds.of(), Subjects.of(measures, None, risk)
    if definition not in definitions.TITLES:
        raise UserError(f"definition={definition}: choose one of {', '.join(map(str, definitions.TITLES))}.")
    known = tables.conditions(frame, chosen.columns)
    if risk is not None and risk not in frame:
        raise UserError(f"risk={risk}: the pilot has no such measure; it has {', '.join(map(str, frame.columns))}.")
    others = [c for c in known if control not in (c.name, c.base, c.given)]
    mine = [c for c in others if condition is None or condition in (c.name, c.base, c.given)]
    if len(others) == len(known) or not mine:
        missing = control if len(others) == len(known) else condition or f"other than {control}"
        raise UserError(f"The pilot has no condition {missing}: it has {tables.listed(known)}.")
    if len(mine) > 1:
        raise UserError(f"The pilot has several conditions, {tables.listed(mine)}: choose one with --condition.")
    comparison = Comparison(mine[0], known, Asked(control, None, None, None, chosen), [], h)
    question = comparison.question(definition)
    if isinstance(question, str):
        raise UserError(f"The pilot cannot be read for definition {definition}: {question}.")
    (judged,) = definitions.judge([question], h, exact=False)
    number = question.numbers[int(judged.lead)]
    x = number.x[np.isfinite(number.x)]
    if len(x) < 2 or not (spread := float(x.std(ddof=1))) > 0:
        raise UserError(
            f"The pilot has {len(x)} seed{'s' * (len(x) != 1)} of {mine[0].name} with a control and a value of "
            f"{number.name}, which show no spread: it needs two that differ, or give --spread."
        )
    name = number.name if number.measure else f"{number.name} ({comparison.risk})"
    effect = (float(x.mean()) - number.above) / spread
    return Pilot(mine[0].name, comparison.control.name, name, spread, effect, len(x), comparison.G)
