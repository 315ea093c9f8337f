"""Which columns of a table the definitions judge: our measures, a user's measures, and columns that the user names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from imgloop.errors import UserError
from imgloop.measures import MEASURES, ROLES, MeasureInfo, Role, of_role

BESIDE = {2: ("fd", "kd"), 6: ("ambiguity",), 7: ("tail_risk",)}  # measures shown beside a definition's verdict
DISTANCES = ("fd", "fid", "kd")  # risks of models that have no loss
BIASED = ("fd", "fid")  # those that fall with the number of samples, whatever the generator
ROLE_OF: dict[int, Role] = {
    **dict.fromkeys((1, 2, 3, 5), cast(Role, "risk")),
    4: "variance",
    6: "mode",
    7: "tail",
    8: "hallucination",
}
RATIO_ROLES: tuple[Role, ...] = ("variance", "mode", "tail")
FLOOR = 1e-3  # of a ratio whose MeasureInfo gives none


@dataclass(frozen=True)
class Subjects:
    """The measures that may be judged, by name, and the columns that the user chose, by role."""

    measures: Mapping[str, MeasureInfo]
    chosen: Mapping[Role, str]

    @classmethod
    def of(
        cls,
        measures: Mapping[str, MeasureInfo] | None = None,
        subjects: Mapping[str, str] | None = None,
        risk: str | None = None,
    ) -> Subjects:
        """Our list extended by `measures`, and `subjects`, role to column, with `risk` as a shorthand for its role.

        Raises UserError for an unknown role, or for two different risks.
        """
        chosen = dict(subjects or {})
        for role in chosen:
            if role not in ROLES:
                raise UserError(f"subjects: {role} is not a role: choose from {', '.join(ROLES)}.", "subjects")
        if risk is not None and chosen.setdefault("risk", risk) != risk:
            raise UserError(f"risk={risk}, but subjects names {chosen['risk']} as the risk: give one of them.", "risk")
        listed = dict(MEASURES)
        for name, info in (measures or {}).items():
            listed.setdefault(name, info)
        for role, column in chosen.items():
            listed.setdefault(column, MeasureInfo(column, column, role=cast(Role, role)))
        return cls(listed, cast("dict[Role, str]", chosen))

    def candidates(self, role: Role) -> tuple[str, ...]:
        """Columns that may be judged for a role, the preferred first: the chosen one, else ours, then a user's. For
        hallucination all of them are judged, together with the chosen one."""
        column, names = self.chosen.get(role), of_role(role, self.measures)
        if role == "hallucination":
            return names if column is None or column in names else (*names, column)
        return names if column is None else (column,)

    def floor(self, measure: str) -> float:
        """The smallest value of a ratio whose logarithm is taken."""
        floor = self.measures[measure].floor
        return FLOOR if floor is None else floor

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that a profile reads as a measure."""
        judged = [name for role in ROLES for name in (*of_role(role, self.measures), *self.candidates(role))]
        return tuple(dict.fromkeys([*judged, *(name for names in BESIDE.values() for name in names)]))

    def missing(self, role: Role) -> str:
        """Why a definition cannot be judged: no column of its role has values."""
        return f"no column {(', ' if role == 'hallucination' else ' or ').join(self.candidates(role))}"
