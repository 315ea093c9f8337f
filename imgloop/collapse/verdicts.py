"""A profile: one verdict for each condition and definition, as values, a table, JSON or a page."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from imgloop.collapse.scaling import ScalingLaw
from imgloop.conditions import resolved, short_names
from imgloop.thresholds import Frozen, Thresholds

DETECTED, EXCLUDED, UNDETERMINED = "detected", "excluded", "undetermined"
NOT_MEASURED, NO_VERDICT = "not measured", "no verdict"


@dataclass(frozen=True)
class Verdict:
    """One definition's verdict on one condition, up to generation `generations`.

    number: name of the number that a chain gives. effect: its mean over `seeds` chains, with the 95 % t interval low to
    high. bound: one-sided bound, below `margin` for an exclusion. p: of the paired one-sided t-test; p_holm: after Holm
    over the definitions measured; p_exact: of the step-down sign-flip test; exact: it confirms a detection. missing:
    how many more chains a verdict needs. rule: of the definition. reading: the effect in the measure's own units.
    reason: why there is no verdict, or remarks on it. left_out: chains without a number, and why.
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


UNFIT = "Generation 0 is not a model of the data: "


def unfit(why: str) -> str:
    """The note on a generation 0 that is no model of the data; `why` as thresholds.unlike_data gives it."""
    return (
        f"{UNFIT}{why}. What changes afterwards says little about models that are; nothing is excluded. Train longer "
        "(train.images), or with a larger network."
    )


@dataclass(frozen=True)
class Profile(Mapping[str, dict[int, Verdict]]):
    """The verdicts of a study, eight for each condition: a mapping of conditions to their verdicts by definition.

    notes: remarks by condition, "" for all of them. laws: scaling laws by condition (definition 5). frozen: the
    thresholds that the study stored before its chains ended. imported: whether another program drew the images.
    """

    control: str
    verdicts: tuple[Verdict, ...]
    notes: Mapping[str, tuple[str, ...]]
    thresholds: Thresholds
    frozen: Frozen | None = None
    laws: Mapping[str, ScalingLaw] = field(default_factory=dict)
    imported: bool = False

    @property
    def conditions(self) -> list[str]:
        return list(dict.fromkeys(v.condition for v in self.verdicts))

    def __getitem__(self, condition: str) -> dict[int, Verdict]:
        """One condition's verdicts by definition, by its long or short name; raises UserError for another name."""
        name = resolved(condition, self.conditions)
        return {v.definition: v for v in self.verdicts if v.condition == name}

    def __contains__(self, condition: object) -> bool:
        names, _ = short_names(self.conditions)
        return condition in names or condition in names.values()

    @property
    def unfit(self) -> list[str]:
        """The notes on generations 0 that are no model of the data, on which verdicts say little."""
        texts = (text for notes in self.notes.values() for text in notes)
        return list(dict.fromkeys(text for text in texts if text.startswith(UNFIT)))

    def __iter__(self) -> Iterator[str]:
        return iter(self.conditions)

    def __len__(self) -> int:
        return len(self.conditions)

    def get(self, condition: str, default: Any = None) -> Any:
        return self[condition] if condition in self else default

    def to_frame(self) -> Any:
        """The verdicts as a pandas table, one row for each condition and definition."""
        import pandas as pd

        rows = [asdict(v) | {"left_out": "; ".join(v.left_out)} for v in self.verdicts]
        return pd.DataFrame(rows, columns=[f.name for f in fields(Verdict)])

    def noted(self, text: str) -> Profile:
        """The profile with a further remark on all conditions."""
        return replace(self, notes={**self.notes, "": (*self.notes.get("", ()), text)})

    def of_imported(self, note: str) -> Profile:
        """The profile of imported chains, with a remark on what that means."""
        return replace(self.noted(note), imported=True)

    @property
    def against(self) -> str:
        """The control as heads of tables name it."""
        return f"over {self.control}{' (imported)' if self.imported else ''}"

    def to_dict(self) -> dict:
        """The profile as JSON-able values; NaN and infinity become None."""
        conditions = {}
        for name in self.conditions:
            rows = [{k: _plain(x) for k, x in asdict(v).items() if k != "condition"} for v in self[name].values()]
            law = self.laws.get(name)
            conditions[name] = {"verdicts": rows, "notes": list(self.notes.get(name, ()))}
            conditions[name] |= {"scaling_law": law.to_dict()} if law else {}
        return {
            "control": self.control,
            **({"imported": True} if self.imported else {}),
            "thresholds": asdict(self.thresholds),
            "thresholds_written": self.frozen.written if self.frozen else None,
            "notes": list(self.notes.get("", ())),
            "conditions": conditions,
        }

    def _repr_html_(self) -> str:
        """In a notebook: a row for each definition, a column for each condition."""
        from imgloop.collapse import show  # imports rich

        cells = self.to_frame().assign(
            definition=[f"{v.definition}. {v.title}" for v in self.verdicts],
            verdict=[": ".join(filter(None, (show.MARKS[v.verdict] + v.verdict, v.reading))) for v in self.verdicts],
        )
        frame = cells.pivot(index="definition", columns="condition", values="verdict")[self.conditions]
        return frame.rename_axis(index=None, columns=self.against).to_html(border=0)

    def __str__(self) -> str:
        from rich.console import Console

        from imgloop.collapse import show  # imports rich

        page = io.StringIO()
        show.page(
            self,
            Console(file=page, width=120, no_color=True, highlight=False, force_jupyter=False, force_terminal=False),
        )
        return page.getvalue().rstrip("\n")


def _plain(x):
    """A JSON-able value."""
    if isinstance(x, tuple):
        return list(x)
    return None if isinstance(x, float) and not np.isfinite(x) else x
