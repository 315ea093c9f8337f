"""The embedded data: scikit-learn's 1,797 handwritten digits, 8 x 8 grey, which need no download."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from imgloop.data.classes import chosen, only
from imgloop.data.real import (
    RealData,
    check_choice,
    check_integer,
    order,
    pair_facts,
    size_facts,
    sizes,
    split,
)
from imgloop.errors import UserError
from imgloop.pool import Pool

COUNT = 1797
CLASSES = tuple("0123456789")


@dataclass(frozen=True)
class Digits:
    """Digits 0-9 as uint8 (N, 1, 8, 8): the 17 levels of the original, scaled to 0..255.

    Settings as in conf/data/digits.yaml; raises UserError for those that are not possible.
    """

    size: int = 8
    n: int | None = None
    heldout: int = 400
    seed: int = 0
    classes: Sequence[str | int] | None = None
    imbalance: float | None = None

    def __post_init__(self):
        if type(self.size) is not int or self.size != 8:
            raise UserError(
                f"data.size={self.size!r} is not possible: the digits are 8 pixels wide, never enlarged; "
                "use data.size=8, or data=folder for other images."
            )
        check_integer("n", self.n, 1, optional=True)
        check_integer("heldout", self.heldout, 1)
        check_integer("seed", self.seed, 0)
        check_choice(self.classes, self.imbalance)
        chosen(CLASSES, self.classes)
        sizes(COUNT, None, self.n, self.heldout)

    def load(self, cache: Path, progress: Callable[[int, int], None] | None = None) -> RealData:
        """The split digits; nothing is cached and no progress is told, since it takes a fraction of a second."""
        x, y = scaled()
        classes, kept = CLASSES, chosen(CLASSES, self.classes)
        if kept is not None:
            x, y, classes = only(x, y, CLASSES, kept)
        drawn = order(len(x), self.seed)
        pool = Pool(x[drawn], None if y is None else y[drawn])
        train, heldout = split(pool, None, self.n, self.heldout, classes, self.imbalance)
        facts = {
            "label": "digits" if classes == CLASSES else f"digits {', '.join(CLASSES[k] for k in kept)}",
            "set": "digits",
            "source": "scikit-learn's handwritten digits (UCI optdigits test set), 8x8 grey",
            "available": len(x),
            "seed": self.seed,
            **({} if self.imbalance is None else {"imbalance": self.imbalance}),
        }
        facts |= size_facts(train, heldout, classes) | pair_facts(train, heldout) | {"ignored": {}, "skipped": 0}
        return RealData(train, heldout, classes, facts)


@cache
def scaled() -> tuple[np.ndarray, np.ndarray]:
    """All digits in their own order: uint8 (1797, 1, 8, 8) and labels int64 (1797,)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None], digits.target.astype(np.int64)
