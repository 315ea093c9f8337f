"""Curation by a verifier that errs and is biased."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imgloop.config.fields import setting
from imgloop.config.schedule import Knob, knob, value_at
from imgloop.contracts import Context, Given, Release
from imgloop.curation import Fraction, features_of
from imgloop.errors import UserError
from imgloop.pool import Pool


@dataclass(frozen=True)
class Verifier(Fraction):
    """Releases the first samples that a verifier accepts, a share `fraction` of those drawn, or of the rows of a whole
    training set, which come in random order.

    The verifier accepts a sample with probability p = exp(-d² / (2 (radius s)²)), d its distance to the nearest
    reference and s the root mean square distance of real samples to theirs. References are the real class centroids in
    feature space, or the real mean where there are no classes; for solvable systems the mean of each replicate's real
    rows. `bias` displaces all references by `bias` s, along the first principal direction of the real features, or
    equally in every coordinate of a solvable system. `error` is the rate at which verdicts are reversed: a sample is
    accepted with probability p + error (1 - 2 p). Raises UserError if too few samples are accepted.
    Source: the verifier of Yi et al. 2025 (arXiv 2510.16657), whose bias the loop converges to, with a smooth
    acceptance in place of a ball.
    """

    fraction: Knob = knob(0.25, above=0, high=1, whole=False)
    radius: float = setting(1.5, above=0)
    bias: float = setting(0.0, low=-1000, high=1000)
    error: float = setting(0.0, low=0, below=0.5, why="since a verifier that errs half of the time decides nothing")

    def check(self, given: Given) -> None:
        self.check_share(given)
        if given.n_real < 2:
            raise UserError(
                f"curation=verifier takes its reference from real training samples, and there are {given.n_real}: "
                "raise n_initial or data.n.",
                "curation",
            )

    def __call__(self, drawn: Pool, context: Context, rng: np.random.Generator) -> Release:
        n, count, real = len(drawn), self.released(len(drawn), context.t), context.real
        if drawn.x.ndim == 3:  # (N, R, d)
            x, y = drawn.x, real.x
            groups, towards = np.zeros(len(y), int), np.full(y.shape[2], y.shape[2] ** -0.5)
        else:
            x, y = (features_of(images, context, self)[:, None] for images in (drawn.x, real.x))
            groups = np.zeros(len(y), int) if real.y is None else np.unique(real.y, return_inverse=True)[1]
            towards = principal(y[:, 0])
        centres = np.stack([y[groups == g].mean(0) for g in range(groups.max() + 1)])  # (K, R, d)
        scale = np.sqrt(((y - centres[groups]) ** 2).sum(2).mean(0))  # (R,)
        if not scale.all():
            raise UserError(
                "curation=verifier has no reference: all real training samples are equal to their class centroid; use "
                "real data that differ.",
                "curation",
            )
        centres = centres + self.bias * scale[:, None] * towards
        distance2 = np.min([((x - c) ** 2).sum(2) for c in centres], axis=0)  # (N, R)
        p = np.exp(-distance2 / (2 * (self.radius * scale) ** 2))
        accepted = rng.random(p.shape) < p + self.error * (1 - 2 * p)
        least = int(accepted.sum(0).min())
        if least < count:
            share, bias = value_at(self.fraction, context.t), ", or take curation.bias nearer to 0" * (self.bias != 0)
            raise UserError(
                f"curation=verifier accepted {least} of the {n} samples of generation {context.t}, and "
                f"curation.fraction={share:g} releases {count}: lower curation.fraction, raise curation.radius{bias}.",
                "curation.fraction",
            )
        rows = np.sort(np.argsort(~accepted, axis=0, kind="stable")[:count], axis=0)
        facts = {"accepted": float(accepted.mean()), "mean_probability": float(p.mean())}
        if drawn.x.ndim == 3:
            return Release(rows, facts={"looked_at": "distance to the mean of the real rows", **facts})
        looked_at = "class centroids" if real.y is not None else "mean"
        return Release(rows[:, 0], facts={"looked_at": f"distances to the real {looked_at} in feature space", **facts})


def principal(x: np.ndarray) -> np.ndarray:
    """First principal direction (D,) of rows (N, D), of length 1, with its largest entry positive."""
    direction = np.linalg.eigh(np.atleast_2d(np.cov(x.T)))[1][:, -1]
    return direction * np.sign(direction[np.abs(direction).argmax()])
