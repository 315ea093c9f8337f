"""Vendi score: the effective number of distinct samples in a set."""

from __future__ import annotations

import torch
from torch import Tensor

from imgloop.metrics.frechet import ROWS, as_features


def vendi_score(features) -> float:
    """exp of the entropy of the eigenvalues of K / N, K the cosine similarities of `features` (N, D), from 1 to N.

    1 if all samples are equal, N if all are orthogonal. It grows with N: compare at equal sizes. For D < N the
    eigenvalues are those of the D x D matrix of normalised features; float64. Rows of zeros count as equal to each
    other and orthogonal to all others. Raises UserError on no samples, wrong shape, NaN or infinity.
    Source: Friedman and Dieng 2022, definition 3.1 and section 3.3.
    """
    x = as_features(features, "generated", at_least=1)
    zeros = int((~x.bool().any(1)).sum())
    if len(x) <= x.shape[1]:
        unit = _unit(x)
        values = torch.linalg.eigvalsh(unit @ unit.T / len(x))
    else:
        gram = sum(u.T @ u for u in map(_unit, x.split(ROWS)))
        values = torch.linalg.eigvalsh(gram / len(x))
    values = torch.cat([values, values.new_tensor([zeros / len(x)])])
    values = values[values > 0]  # 0 log 0 = 0; negative ones are rounding
    return float(torch.exp(-(values * values.log()).sum()))


def _unit(x: Tensor) -> Tensor:
    """Rows scaled to length 1, float64; rows of zeros stay zero."""
    x = x.double()
    x = x / x.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return x / x.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
