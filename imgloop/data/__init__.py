"""Real data: each source is a dataclass with `load(cache) -> RealData`, found by Hydra's `_target_`."""

from collections.abc import Callable, Mapping

from imgloop.data.real import RealData

__all__ = ["RealData", "judge_of"]


def judge_of(facts: Mapping) -> Callable | None:
    """The judge of rule-checkable data by its `facts`, images uint8 (N, C, H, W) -> Judgement; None for other data.

    Raises UserError for rules that this version does not know.
    """
    name = facts.get("rules")
    if name is None:
        return None
    if name != "shapes":
        from imgloop.errors import UserError

        raise UserError(
            f"The data's rules {name!r} are not known here; known are: shapes. Use the version it was made by."
        )
    from imgloop.data.judge import judge

    return judge
