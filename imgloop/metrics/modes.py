"""Which classes a generator still makes: lost modes by an exact test, the paper's count, and distance of the class mix.

Counts are the classifier's own: its confusions are in them, and no correction is applied here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imgloop.errors import UserError


@dataclass(frozen=True)
class ModeScores:
    """`covered` modes and the indices of the `lost`, both None where undetermined, with the `reason` in a sentence.

    `hit`: modes with at least one sample, the count in papers. `kl`: see `mode_coverage`. `needed`: the samples with
    which the absence of any mode can be seen.
    """

    covered: int | None
    lost: tuple[int, ...] | None
    reason: str | None
    hit: int
    kl: float
    needed: int


def class_counts(labels, classes: int) -> np.ndarray:
    """Samples a class, int64 (K,), of integer `labels` (N,) in 0..K-1; raises UserError on any other label."""
    labels = np.asarray(labels)
    inside = labels.size == 0 or (labels.min() >= 0 and labels.max() < classes)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not inside:
        raise UserError(
            f"Labels must be one row of integers from 0 to {classes - 1}; got shape {labels.shape}, "
            f"dtype {labels.dtype}."
        )
    return np.bincount(labels, minlength=classes)


def per_class_shares(counts) -> np.ndarray:
    """Shares that sum to 1, float64 (K,), of `counts` (K,); raises UserError where one is negative or all are zero."""
    counts = np.asarray(counts)
    numbers = counts.ndim == 1 and counts.dtype.kind in "iuf" and bool(np.isfinite(counts).all())
    if not numbers or (counts < 0).any() or counts.sum() <= 0:
        raise UserError("Class counts must be one row of numbers from 0 up, not all zero.")
    return counts / counts.sum()


def mode_coverage(real_counts, generated_counts, *, alpha: float = 0.05, lost_below: float = 0.1) -> ModeScores:
    """Modes kept and lost of `generated_counts` (K,), integers, against `real_counts` (K,), counts or shares.

    A mode is lost when the exact (Clopper-Pearson) one-sided upper bound of its rate is at most `lost_below` times its
    real rate, by Holm over the modes at `alpha` in total; the real rates are taken as known. The absence of a mode can
    be seen only with n >= ln(alpha/K) / ln(1 - lost_below q) samples, q the smallest real rate (for uniform classes
    about 10 K ln(K/.05): 528 for 10, 99,030 for 1,000); with fewer, `covered` and `lost` are None.

    `kl` is KL(generated || real class mix) in nats minus its expectation (K-1)/2n where nothing differs; so it is
    slightly negative about half of the time then. Raises UserError where a mode has no real sample, or lengths differ.
    Source: Clopper and Pearson 1934; Holm 1979; the count of modes hit: Metz et al. 2017.
    """
    from scipy.stats import binom

    q, p, counts = per_class_shares(real_counts), per_class_shares(generated_counts), np.asarray(generated_counts)
    if len(q) != len(p):
        raise UserError(f"There are {len(q)} real and {len(p)} generated classes; count both over the same ones.")
    if (q == 0).any():
        raise UserError(f"Class {int(np.argmin(q))} has no real sample: a mode needs a real rate above zero.")
    if counts.dtype.kind not in "iu":
        raise UserError(f"Generated counts have dtype {counts.dtype}; expected integers, since the test is on counts.")
    n, k = int(counts.sum()), len(q)
    needed = int(np.ceil(np.log(alpha / k) / np.log1p(-lost_below * q.min())))
    present = p > 0
    kl = float(np.sum(p[present] * np.log(p[present] / q[present]))) - (k - 1) / (2 * n)
    hit = int(present.sum())
    if n < needed:
        reason = f"{k} modes, the rarest at a rate of {q.min():.3g}, need {needed:,} samples; there are {n:,}."
        return ModeScores(None, None, reason, hit, kl, needed)
    chance = binom.cdf(counts, n, lost_below * q)  # <= a exactly when the upper bound at level 1 - a is <= lost_below q
    order = np.argsort(chance, kind="stable")
    rejected = np.logical_and.accumulate(chance[order] <= alpha / (k - np.arange(k)))
    lost = tuple(sorted(int(m) for m in order[rejected]))
    return ModeScores(k - len(lost), lost, None, hit, kl, needed)
