"""Variance of generated features: total variance, variance within classes, and effective rank."""

from __future__ import annotations

import numpy as np
import torch

from imgloop.errors import UserError
from imgloop.metrics.frechet import EPS, as_features, covariance_of, mean_of, variance_of


def variance_ratio(real, generated) -> float:
    """tr Sigma_g / tr Sigma_r of `real` (N, D) and `generated` (M, D), unbiased, float64; 1 for equal distributions.

    Raises UserError if the real features do not vary, on too few samples, different widths, NaN or infinity.
    """
    x = as_features(real, "real")
    y = as_features(generated, "generated", width=x.shape[1])
    return _variance(y) / _positive(_variance(x))


def within_class_variance_ratio(real, real_labels, generated, generated_labels) -> float:
    """Mean over classes of tr Sigma_g within the class, over that of the real side; labels are integer (N,), (M,).

    Both means weight a class by its real frequency, so that a change of class frequencies alone gives 1. Classes with
    fewer than two samples on a side are left out of both. Raises UserError if none remains, and as `variance_ratio`.
    """
    x = as_features(real, "real")
    y = as_features(generated, "generated", width=x.shape[1])
    sides = [(x, np.asarray(real_labels)), (y, np.asarray(generated_labels))]
    if any(labels.shape != (len(z),) for z, labels in sides):
        raise UserError(
            f"There are {len(x)} and {len(y)} features with labels of shapes "
            f"{sides[0][1].shape} and {sides[1][1].shape}; expected one label per sample."
        )
    classes = [c for c in np.unique(sides[0][1]) if all((labels == c).sum() >= 2 for _, labels in sides)]
    if not classes:
        raise UserError("No class has two real and two generated samples, so the variance within classes is undefined.")
    weights = [(sides[0][1] == c).sum() for c in classes]
    of_real, of_generated = (
        sum(w * _variance(z[torch.from_numpy(labels == c)]) for w, c in zip(weights, classes)) for z, labels in sides
    )
    return float(of_generated / _positive(of_real))


def effective_rank(features) -> float:
    """exp of the entropy of the normalised eigenvalues of the covariance, from 1 to min(N - 1, D); 0 without variance.

    `features` (N, D); computed in float64. It measures how evenly variance is spread over directions, not its size.
    Raises UserError on fewer than two samples, wrong shape, NaN or infinity.
    Source: Roy and Vetterli 2007, "The effective rank", definition 1, of the covariance matrix.
    """
    x = as_features(features, "generated")
    mean = mean_of(x)
    if len(x) <= x.shape[1]:  # the Gram matrix has the same eigenvalues and is smaller
        centred = x.double() - mean
        values = torch.linalg.eigvalsh(centred @ centred.T / (len(x) - 1))
    else:
        values = torch.linalg.eigvalsh(covariance_of(x, mean))
    rounding = x.shape[1] * (len(x) * EPS * float(x.abs().max())) ** 2  # variance due to rounding of the mean
    values = values[values > max(rounding, 1e-14 * float(values[-1]))]
    shares = values / values.sum()
    return float(torch.exp(-(shares * shares.log()).sum())) if len(values) else 0.0


def _variance(x: torch.Tensor) -> float:
    return variance_of(x, mean_of(x))


def _positive(variance: float) -> float:
    if not variance > 0:
        raise UserError("The real features do not vary, so their variance cannot be compared.")
    return variance
