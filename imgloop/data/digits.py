"""The built-in data: scikit-learn's 1,797 handwritten digits, 8 x 8 grey, which need no download."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from imgloop.config.fields import check_settings, setting
from imgloop.data.classes import chosen, only
from imgloop.data.real import Facts, RealData, check_classes_settings, order, pair_facts, size_facts, sizes, split
from imgloop.pool import Pool

COUNT = 1797
CLASSES = tuple("0123456789")


@dataclass(frozen=True)
class Digits:
    """Digits 0-9 as uint8 (N, 1, 8, 8): the 17 levels of the original, scaled to 0..255.

    Settings as in conf/data/digits.yaml; raises UserError for impossible ones.
    """

    size: int = setting(8, choices=(8,), why="the size of the digits; use data=folder for other images")
    n: int | None = setting(None, kind=int, low=1)
    heldout: int = setting(400, low=1)
    seed: int = setting(0, low=0)
    classes: Sequence[str | int] | None = None
    imbalance: float | None = setting(None, kind=float, low=1, why="the ratio of the largest to the smallest class")

    def __post_init__(self):
        check_settings(self, "data")
        check_classes_settings(self.classes, self.imbalance)
        chosen(CLASSES, self.classes)
        sizes(COUNT, None, self.n, self.heldout)

    def load(self, cache: Path, progress: Callable[[int, int], None] | None = None) -> RealData:
        """The split digits; without cache or progress, since it takes a fraction of a second."""
        x, y = scaled()
        label, classes, selected = "digits", CLASSES, chosen(CLASSES, self.classes)
        if selected is not None:
            x, y, classes = only(x, y, CLASSES, selected)
            if classes != CLASSES:
                label = f"digits {', '.join(CLASSES[k] for k in selected)}"
        permutation = order(len(x), self.seed)
        pool = Pool(x[permutation], None if y is None else y[permutation])
        train, heldout = split(pool, None, self.n, self.heldout, classes, self.imbalance)
        facts = Facts(
            label=label,
            set="digits",
            source="scikit-learn's handwritten digits (UCI optdigits test set), 8x8 grey",
            available=len(x),
            seed=self.seed,
            imbalance=self.imbalance,
            ignored={},
            skipped=0,
            **size_facts(train, heldout, classes),
            **pair_facts(train, heldout),
        )
        return RealData(train, heldout, classes, facts)


@cache
def scaled() -> tuple[np.ndarray, np.ndarray]:
    """All digits in their own order: uint8 (1797, 1, 8, 8) and labels int64 (1797,)."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None], digits.target.astype(np.int64)
