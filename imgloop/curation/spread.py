"""Curations that spread the released samples over feature space: greedy farthest points, and a decaying threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from imgloop.config.fields import setting
from imgloop.contracts import Context, Release
from imgloop.curation import Fraction, features_of
from imgloop.pool import Pool


@dataclass(frozen=True)
class Farthest(Fraction):
    """Releases samples one after another, each the one whose nearest released sample is farthest, from a random start.

    Greedy selection of Shi et al. 2025 (arXiv 2509.16499, section 4); the farthest-first traversal of Gonzalez 1985.
    """

    looks_at: ClassVar[str] = "distances between samples in feature space"

    def __call__(self, drawn: Pool, context: Context, rng: np.random.Generator) -> Release:
        x, count = features_of(drawn.x, context, self), self.released(len(drawn), context.t)
        rows, gap = [int(rng.integers(len(x)))], 0.0
        apart = distances(x, x[rows[0]])
        while len(rows) < count:
            rows.append(int(apart.argmax()))
            gap = float(apart[rows[-1]])
            apart = np.minimum(apart, distances(x, x[rows[-1]]))
            apart[rows] = -1  # released, also among exact copies
        return self.release(np.sort(rows), **({"least_distance": gap} if count > 1 else {}))


@dataclass(frozen=True)
class Threshold(Fraction):
    """Releases samples, in random order, that are at least a threshold away from those released before; the threshold
    falls by the factor `decay` whenever no sample is left that passes, until enough are released.

    Threshold decay filter of Shi et al. 2025 (arXiv 2509.16499, section 4). The first threshold is the largest distance
    to the first sample.
    """

    looks_at: ClassVar[str] = "distances between samples in feature space"

    decay: float = setting(0.95, above=0, below=1)

    def __call__(self, drawn: Pool, context: Context, rng: np.random.Generator) -> Release:
        order = rng.permutation(len(drawn))
        x, count = features_of(drawn.x, context, self)[order], self.released(len(drawn), context.t)
        taken, apart = [0], distances(x, x[0])
        threshold = float(apart.max())
        while len(taken) < count:
            apart[taken] = -1
            farthest = apart.max()
            if farthest <= 0:  # exact copies alone are left
                taken += np.flatnonzero(apart == 0)[: count - len(taken)].tolist()
                threshold = 0.0
                break
            while threshold > farthest:
                threshold *= self.decay
            taken.append(int((apart >= threshold).argmax()))
            apart = np.minimum(apart, distances(x, x[taken[-1]]))
        return self.release(np.sort(order[taken]), last_threshold=threshold)


def distances(x: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Euclidean distances (N,) of rows (N, D) to a point (D,)."""
    return np.linalg.norm(x - point, axis=1)
