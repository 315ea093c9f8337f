"""Real data: each source is a dataclass with `load(cache) -> RealData`, named by `_target_` in conf/data."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from imgloop.data.real import Facts, RealData
from imgloop.errors import UserError

if TYPE_CHECKING:
    from imgloop.data.judge import Judgement

__all__ = ["Facts", "RealData", "judge_of"]


def judge_of(facts: Facts) -> "Callable[[np.ndarray], Judgement] | None":
    """The judge of data with rules, from images uint8 (N, C, H, W) to a Judgement; None for data without rules.

    Raises UserError for rules that this version does not know.
    """
    if facts.rules is None:
        return None
    if facts.rules != "shapes":
        raise UserError(
            f"This version does not know the data's rules {facts.rules!r}, only shapes: use the version that made them."
        )
    from imgloop.data.judge import judge  # its tables take time: only for data with rules

    return judge
