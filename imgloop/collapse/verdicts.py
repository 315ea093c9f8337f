"""A profile: one verdict a condition and definition, as values, a table, JSON or a page."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

import numpy as np

from imgloop.collapse.scaling import ScalingLaw
from imgloop.errors import UserError
from imgloop.thresholds import Frozen, Thresholds

DETECTED, EXCLUDED, UNDETERMINED = "detected", "excluded", "undetermined"
NOT_MEASURED, NO_VERDICT = "not measured", "no verdict"


@dataclass(frozen=True)
class Verdict:
    """One definition's verdict on one condition, within `generations` generations after 0.

    `number` is what a chain was reduced to, `effect` its mean over `seeds` chains, [low, high] its 95 % t interval, and
    `bound` the one-sided bound that must lie below `margin` for an exclusion. `p` is the paired one-sided t-test's,
    `p_holm` that after Holm over the definitions measured, `p_exact` the step-down sign-flip's; `exact`: it confirms a
    detection. `missing`: how many more chains a verdict needs. `reason`: why there is none, or what to know of it.
    """

    condition: str
    definition: int
    title: str
    verdict: str
    number: str = ""
    effect: float = np.nan
    low: float = np.nan
    high: float = np.nan
    bound: float = np.nan
    margin: float = np.nan
    p: float = np.nan
    p_holm: float = np.nan
    p_exact: float = np.nan
    exact: bool = False
    seeds: int = 0
    missing: int = 0
    generations: int = 0
    rule: str = ""
    reading: str = ""
    reason: str = ""
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """The verdicts of a study, eight a condition; `notes` by condition ("" for all): what to know of them."""

    control: str
    verdicts: tuple[Verdict, ...]
    notes: Mapping[str, tuple[str, ...]]
    thresholds: Thresholds
    frozen: Frozen | None = None
    laws: Mapping[str, ScalingLaw] = field(default_factory=dict)

    @property
    def conditions(self) -> list[str]:
        return list(dict.fromkeys(v.condition for v in self.verdicts))

    def __getitem__(self, condition: str) -> dict[int, Verdict]:
        """One condition's verdicts by definition; raises UserError for a condition that was not profiled."""
        found = {v.definition: v for v in self.verdicts if v.condition == condition}
        if not found:
            raise UserError(f"{condition} was not profiled; these were: {', '.join(self.conditions)}.")
        return found

    def to_frame(self):
        """The verdicts as a pandas table, one row a condition and definition."""
        import pandas as pd

        rows = [asdict(v) | {"left_out": "; ".join(v.left_out)} for v in self.verdicts]
        return pd.DataFrame(rows, columns=[f.name for f in fields(Verdict)])

    def to_dict(self) -> dict:
        """All of it as JSON can hold it: what is not a number is None."""
        conditions = {}
        for name in self.conditions:
            rows = [{k: _plain(x) for k, x in asdict(v).items() if k != "condition"} for v in self[name].values()]
            law = self.laws.get(name)
            conditions[name] = {"verdicts": rows, "notes": list(self.notes.get(name, ()))}
            conditions[name] |= {"scaling_law": law.to_dict()} if law else {}
        return {
            "control": self.control,
            "thresholds": asdict(self.thresholds),
            "thresholds_written": self.frozen.written if self.frozen else None,
            "notes": list(self.notes.get("", ())),
            "conditions": conditions,
        }

    def __str__(self) -> str:
        from rich.console import Console

        from imgloop.collapse import show

        page = io.StringIO()
        show.page(
            self,
            Console(file=page, width=120, no_color=True, highlight=False, force_jupyter=False, force_terminal=False),
        )
        return page.getvalue().rstrip("\n")


def _plain(x):
    """A value as JSON has it."""
    if isinstance(x, tuple):
        return list(x)
    return None if isinstance(x, float) and not np.isfinite(x) else x
