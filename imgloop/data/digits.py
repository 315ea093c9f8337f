"""The embedded data: scikit-learn's 1,797 handwritten digits, 8 x 8 grey, which need no download."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgloop.data.real import RealData, check_integer, order, pair_facts, size_facts, sizes, split
from imgloop.errors import UserError
from imgloop.pool import Pool

COUNT = 1797


@dataclass(frozen=True)
class Digits:
    """Digits 0-9 as uint8 (N, 1, 8, 8): the 17 levels of the original, scaled to 0..255.

    Settings as in conf/data/digits.yaml; raises UserError for those that are not possible.
    """

    size: int = 8
    n: int | None = None
    heldout: int = 400
    seed: int = 0

    def __post_init__(self):
        if type(self.size) is not int or self.size != 8:
            raise UserError(
                f"data.size={self.size!r} is not possible: the digits are 8 pixels wide, never enlarged; "
                "use data.size=8, or data=folder for other images."
            )
        check_integer("n", self.n, 1, optional=True)
        check_integer("heldout", self.heldout, 1)
        check_integer("seed", self.seed, 0)
        sizes(COUNT, None, self.n, self.heldout)

    def load(self, cache: Path, progress: Callable[[int, int], None] | None = None) -> RealData:
        """The split digits; nothing is cached and no progress is told, since it takes a fraction of a second."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        drawn = order(COUNT, self.seed)
        x = np.rint(digits.images * (255 / 16)).astype(np.uint8)[drawn, None]
        train, heldout = split(Pool(x, digits.target.astype(np.int64)[drawn]), None, self.n, self.heldout)
        classes = tuple("0123456789")
        facts = {
            "label": "digits",
            "source": "scikit-learn's handwritten digits (UCI optdigits test set), 8x8 grey",
            "available": COUNT,
            "seed": self.seed,
        }
        facts |= size_facts(train, heldout, classes) | pair_facts(train, heldout) | {"ignored": {}, "skipped": 0}
        return RealData(train, heldout, classes, facts)
