"""How near samples are to what their generator was trained on, and how rich that is: memorisation as a series."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import digamma, gammaln

from imgloop.metrics.features import Extractor
from imgloop.metrics.frechet import as_features
from imgloop.metrics.neighbours import nearest2
from imgloop.pool import REAL, TrainingSet

ROWS = 10_000  # rows of a training mix that are looked at, at most, so that a growing mix costs no more


def generalisation_score(features, training, *, device: str = "cpu") -> float:
    """Mean distance of `features` (N, D) to their nearest rows of the `training` mix (M, D), in units of the features.

    0 for copies. It falls if a generator memorises, and also if the mix grows or samples gather in its dense parts:
    compare with the value of fresh real images for the same mix. Raises UserError for no samples, wrong shape, NaN or
    infinity. Source: Shi et al. 2025 (arXiv 2509.16499), section 3.1.
    """
    x, y = (as_features(f, name, at_least=1).to(device) for f, name in ((features, "generated"), (training, "real")))
    return float(np.sqrt(nearest2(x, y, 1)[0]).mean())


def knn_entropy(features, k: int = 1, *, device: str = "cpu") -> float | None:
    """Differential entropy of `features` (N, D) in nats by distances to the k-th nearest other row; None where it is at
    distance 0 for some row, since a law with atoms has none.

    psi(N) - psi(k) + log c_D + D/N sum log r_i, with c_D the volume of the unit ball. It is biased in many dimensions:
    compare at equal N and D. Raises UserError for k rows or fewer, wrong shape, NaN or infinity. Source: Kozachenko and
    Leonenko 1987; for mixes Shi et al. 2025, section 3.2.
    """
    x = as_features(features, "real", at_least=k + 1).to(device)
    n, d = x.shape
    radius2 = nearest2(x, x, k, leave_one_out=True)[0][:, -1]
    if not radius2.all():
        return None
    ball = d / 2 * np.log(np.pi) - gammaln(d / 2 + 1)
    return float(digamma(n) - digamma(k) + ball + d / 2 * np.log(radius2).mean())


def mix_features(
    training: TrainingSet, extractor: Extractor, real: torch.Tensor, flipped: bool, seed: int
) -> np.ndarray:
    """Features, float32 (M, D), of the distinct rows of a mix, at most ROWS of them chosen at random.

    real: features of the real training images, by row, so that these are not extracted again. flipped: images are
    trained on in both orientations, of which either may be copied; then M is twice the number of rows.
    """
    pairs = np.unique(np.stack([training.mix.origin[:, 0], training.mix.row[:, 0]]), axis=1, return_index=True)[1]
    pairs = np.sort(np.random.default_rng(seed).permutation(pairs)[:ROWS])
    if flipped:
        x = training.gather(pairs)
        return np.concatenate([extractor(part).x for part in (x, np.ascontiguousarray(x[..., ::-1]))])
    origin, row = training.mix.origin[pairs, 0], training.mix.row[pairs, 0].astype(np.int64)
    out = np.empty((len(pairs), real.shape[1]), np.float32)
    ours = origin == REAL
    out[ours] = real[torch.from_numpy(row[ours])].numpy()
    if not ours.all():
        out[~ours] = extractor(training.gather(pairs[~ours])).x
    return out
