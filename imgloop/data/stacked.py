"""Three handwritten digits in the colour channels: a thousand modes from 1,797 small images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgloop.config.fields import check_settings, setting
from imgloop.data.digits import COUNT, scaled
from imgloop.data.procedural import cached_pools, uniform
from imgloop.data.real import Facts, RealData, order

FORMAT = 1  # increase it when equal settings give different images
CLASSES = tuple(f"{k:03}" for k in range(1000))
HELDOUT_DIGITS = 400  # of the 1,797, for the held-out rows; training rows use the others


@dataclass(frozen=True)
class StackedDigits:
    """Digits in red, green and blue as uint8 (N, 3, 8, 8), labelled 100 R + 10 G + B; every mode equally frequent.

    After Stacked MNIST (Metz et al. 2017, arXiv:1611.02163), from scikit-learn's digits. Row i of either part is a
    function of (seed, i); no digit of a training row occurs in a held-out row. Settings as in
    conf/data/stacked_digits.yaml; raises UserError for impossible ones.
    """

    size: int = setting(8, choices=(8,), why="the size of the digits")
    n: int = setting(20_000, low=1)
    heldout: int = setting(2000, low=1)
    seed: int = setting(0, low=0)

    def __post_init__(self):
        check_settings(self, "data")

    def rows(self, part: str, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows begin..end - 1 of "train" or "heldout": uint8 (N, 3, 8, 8) and modes int64 (N,)."""
        x, y = scaled()
        split = order(COUNT, self.seed)
        sources = split[:HELDOUT_DIGITS] if part == "heldout" else split[HELDOUT_DIGITS:]
        u = uniform((self.seed, "stacked digits", part), begin, end, 6)
        digit = (10 * u[:, :3]).astype(np.int64)
        source = np.empty_like(digit)
        for c in range(10):
            images, here = sources[y[sources] == c], digit == c
            source[here] = images[(len(images) * u[:, 3:][here]).astype(np.int64)]
        return x[source, 0], digit @ [100, 10, 1]

    def load(self, cache: Path, progress: Callable[[int, int], None] | None = None) -> RealData:
        """Both parts, memory-mapped from a folder below `cache`; `progress(done, total)` is called meanwhile."""
        key = ["stacked digits", FORMAT, self.seed]
        train, heldout, measured = cached_pools(
            cache, key, self.rows, (3, 8, 8), CLASSES, self.n, self.heldout, progress
        )
        facts = Facts(
            label="stacked digits",
            set="stacked digits",
            source="three of scikit-learn's digits in the colour channels, 8x8: "
            f"{COUNT - HELDOUT_DIGITS} digits for training rows, {HELDOUT_DIGITS} others for held-out rows",
            seed=self.seed,
            **measured,
        )
        return RealData(train, heldout, CLASSES, facts)
