"""Corrections: samples moved between sampling and the pool."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imgloop.config.fields import check_settings, setting
from imgloop.contracts import Context, Given
from imgloop.errors import UserError


class Nothing:
    """Leaves every sample as it was drawn."""

    def check(self, given: Given) -> None:
        """Any chain."""

    def __call__(self, x: np.ndarray, context: Context, rng: np.random.Generator) -> np.ndarray:
        return x


@dataclass(frozen=True)
class Centroid:
    """Moves each image a share `strength` of the way to the mean image of the nearest real class, in pixels.

    The self-correction of Gillman et al. 2024 (arXiv 2402.07087), whose gamma is strength / (1 - strength), with class
    centroids in place of k-means clusters. Needs labelled images; raises UserError for others.
    """

    strength: float = setting(0.1, above=0, below=1)

    def __post_init__(self):
        check_settings(self, "correction")

    def check(self, given: Given) -> None:
        if given.features is None or given.classes is None:
            what = (
                f"model={given.model} is a solvable system" if given.features is None else "these data have no labels"
            )
            raise UserError(
                f"correction=centroid moves images to the centroids of real classes, and {what}: use labelled images, "
                "or correction=none.",
                "correction",
            )

    def __call__(self, x: np.ndarray, context: Context, rng: np.random.Generator) -> np.ndarray:
        real, n = context.real, len(x)
        assert real.y is not None  # by check
        centroids = np.stack([real.x[real.y == c].reshape(-1, x[0].size).mean(0) for c in np.unique(real.y)])
        samples = x.reshape(n, -1).astype(float)
        distances2 = (centroids**2).sum(1) - 2 * samples @ centroids.T  # less the squared norm of the sample
        moved = samples + self.strength * (centroids[distances2.argmin(1)] - samples)
        return np.rint(moved).astype(np.uint8).reshape(x.shape)
