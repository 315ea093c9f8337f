"""Curations that rank samples, and release the best: nearest to real features, lowest or highest loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from imgloop.config.fields import setting
from imgloop.contracts import Context, Given, Release
from imgloop.curation import Fraction, features_of, highest
from imgloop.errors import UserError
from imgloop.pool import Pool


@dataclass(frozen=True)
class Nearest(Fraction):
    """Releases the samples whose nearest real training sample is nearest in feature space. It also favours copies:
    read it beside `authenticity`."""

    looks_at: ClassVar[str] = "distances to real training samples in feature space"

    def check(self, given: Given) -> None:
        super().check(given)
        if given.from_mix:
            raise UserError(
                "curation=nearest would select the real rows of a training set, each of which is nearest to itself: "
                "leave select_from=mix out, or use another curation, such as curation=verifier.",
                "select_from",
            )

    def __call__(self, drawn: Pool, context: Context, rng: np.random.Generator) -> Release:
        from imgloop.metrics.manifold import nearest_distances  # imports torch

        x, real = (features_of(images, context, self) for images in (drawn.x, context.real.x))
        apart = nearest_distances(x, real)[:, 0]
        rows = highest(-apart, self.released(len(drawn), context.t))
        return self.release(rows, mean_distance=float(apart.mean()), released_distance=float(apart[rows].mean()))


@dataclass(frozen=True)
class Loss(Fraction):
    """Releases the samples on which the newest generator has the lowest (`keep=low`) or highest loss: the one that drew
    them, or for a whole training set the one before.

    The denoising loss of diffusion models bounds the negative log-likelihood up to its weighting (Ho et al. 2020).
    Raises UserError for models without a loss.
    """

    looks_at: ClassVar[str] = "loss of the newest generator"

    keep: str = setting("low", choices=("low", "high"))

    def check(self, given: Given) -> None:
        super().check(given)
        if not given.risk:
            raise UserError(
                f"curation=loss ranks samples by the loss of the generator, and model={given.model} has none: use "
                "model=diffusion, or another curation.",
                "curation",
            )

    def __call__(self, drawn: Pool, context: Context, rng: np.random.Generator) -> Release:
        losses = context.generator.risk(drawn, int(rng.integers(2**31)))
        if losses is None:
            raise UserError(
                "curation=loss ranks samples by the loss of the generator, and this model has none: use "
                "model=diffusion, or another curation.",
                "curation",
            )
        loss = np.asarray(losses).reshape(len(drawn), -1).mean(1)
        rows = highest(loss if self.keep == "high" else -loss, self.released(len(drawn), context.t))
        return self.release(rows, mean_loss=float(loss.mean()), released_loss=float(loss[rows].mean()))
