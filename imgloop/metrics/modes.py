"""Modes that a generator covers or lost, from a classifier's counts corrected for its confusions; distance of the class
shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from imgloop.errors import UserError
from imgloop.metrics.confusion import Confusion


@dataclass(frozen=True)
class ModeScores:
    """Number of `covered` modes and indices of the `lost`; None if undetermined, with the `reason` in a sentence.

    `hit`: modes with at least one sample, the count in papers. `present`: modes with more samples than the classifier's
    confusions explain. `kl`: see `mode_coverage`. `needed`: number of samples from which the absence of any mode can be
    detected. `shares` (K,): mode shares corrected for confusions, with standard deviations `share_sd` (K,). `smallest`:
    smallest ratio of a share to its real share; `smallest_null`: its expectation for equal distributions.
    """

    covered: int | None
    lost: tuple[int, ...] | None
    reason: str | None
    hit: int
    present: int
    kl: float
    needed: int
    smallest: float
    smallest_null: float
    shares: np.ndarray = field(repr=False, compare=False)
    share_sd: np.ndarray = field(repr=False, compare=False)


def class_counts(labels, classes: int) -> np.ndarray:
    """Samples per class, int64 (K,), of integer `labels` (N,) in 0..K-1; raises UserError on any other label."""
    labels = np.asarray(labels)
    inside = labels.size == 0 or (labels.min() >= 0 and labels.max() < classes)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not inside:
        raise UserError(
            f"Labels must be a vector of integers from 0 to {classes - 1}; got shape {labels.shape}, "
            f"dtype {labels.dtype}."
        )
    return np.bincount(labels, minlength=classes)


def per_class_shares(counts) -> np.ndarray:
    """Shares that sum to 1, float64 (K,), of `counts` (K,); raises UserError if one is negative or all are zero."""
    counts = np.asarray(counts)
    numbers = counts.ndim == 1 and counts.dtype.kind in "iuf" and bool(np.isfinite(counts).all())
    if not numbers or (counts < 0).any() or counts.sum() <= 0:
        raise UserError("Class counts must be a vector of numbers of at least 0, not all zero.")
    return counts / counts.sum()


def mode_coverage(
    real_counts,
    generated_counts,
    *,
    confusion: Confusion | Sequence | np.ndarray | None = None,
    alpha: float = 0.05,
    lost_below: float = 0.1,
    false_present: float = 0.001,
    seed: int = 0,
) -> ModeScores:
    """Modes covered and lost by `generated_counts` (K,), integers, against `real_counts` (K,), counts or shares.

    The counts come from a classifier. `confusion` describes its errors on held-out real samples: a `Confusion`, or
    integer counts (K, K) (row: true class, column: predicted); without it the classifier counts as perfect. The
    corrected shares p minimise |C'p - f|^2 over the simplex, f the observed shares and C the confusion rates; draws of
    C and f account for the sampling error of both.

    H0 is a share of `lost_below` times the real share, plus confusions of other modes; real shares count as known. A
    mode is lost if so few samples are improbable under H0, and covered if so many are, each by Holm over the modes at
    `alpha`. For a perfect classifier a mode is lost if the exact one-sided upper bound of Clopper and Pearson is at
    most `lost_below` times its real share. `covered` is None if a mode is neither: its samples may be confusions of
    others. The absence of a mode can be detected only with n >= ln(alpha/K) / ln(1 - lost_below q) samples, q the
    smallest real share (for uniform classes about 10 K ln(K/.05): 528 for 10, 99,030 for 1,000), and a classifier with
    few confusions; with fewer samples `covered` and `lost` are None.

    A mode is present if so many samples are improbable from confusions alone: a Poisson test, by Benjamini and Hochberg
    at `false_present`, so that less than one in a thousand such modes is expected to be absent. Every test uses the
    draws of C under which it rejects less: unobserved confusions are impossible for lost modes, and possible for
    covered and present ones.

    `kl` is KL(generated || real) of the observed class shares in nats, minus its expectation (K-1)/2n for equal
    distributions, under which it is negative about half of the time. Raises UserError if a mode has no real sample, or
    lengths differ.
    Source: Clopper and Pearson 1934; Holm 1979; Benjamini and Hochberg 1995; the count of modes hit: Metz et al. 2017.
    """
    from scipy.stats import binom, poisson

    q, f, counts = per_class_shares(real_counts), per_class_shares(generated_counts), np.asarray(generated_counts)
    if len(q) != len(f):
        raise UserError(f"There are {len(q)} real and {len(f)} generated classes; count both over the same classes.")
    if (q == 0).any():
        raise UserError(f"Class {int(np.argmin(q))} has no real sample: a mode needs a real share above zero.")
    if counts.dtype.kind not in "iu":
        raise UserError(f"Generated counts have dtype {counts.dtype}; expected integers.")
    n, k = int(counts.sum()), len(q)
    if not isinstance(confusion, Confusion):
        confusion = Confusion.perfect(k) if confusion is None else Confusion.of_counts(confusion)
    if confusion.modes != k:
        raise UserError(f"The confusions are of {confusion.modes} modes; there are {k}.")
    needed = int(np.ceil(np.log(alpha / k) / np.log1p(-lost_below * q.min())))
    hit = f > 0
    kl = float(np.sum(f[hit] * np.log(f[hit] / q[hit]))) - (k - 1) / (2 * n)

    shares = confusion.corrected(f[None])[0]
    rng, draws = np.random.default_rng([seed, k]), int(np.clip(min(40_000 // k, 10**6 // confusion.cells), 10, 400))
    observed = rng.multinomial(n, f, size=draws) / n
    seen = confusion.drawn(rng, draws)
    share_draws = seen.corrected(observed)
    with_unseen = confusion.drawn(rng, draws, unseen=True)
    explained = n * with_unseen.confused(with_unseen.corrected(observed))  # samples expected from other modes
    p_present = poisson.sf(counts - 1, explained).mean(0)
    null_shares = seen.corrected(rng.multinomial(n, confusion.read(q[None])[0], size=draws) / n)
    scores = partial(
        ModeScores,
        hit=int(hit.sum()),
        present=int(_benjamini_hochberg(np.where(hit, p_present, 1.0), false_present).sum()),
        kl=kl,
        needed=needed,
        smallest=float((shares / q).min()),
        smallest_null=float((null_shares / q).min(1).mean()),
        shares=shares,
        share_sd=share_draws.std(0, ddof=1),
    )
    if n < needed:
        reason = f"{k} modes, the rarest with a share of {q.min():.3g}, need {needed:,} samples; there are {n:,}."
        return scores(None, None, reason)
    # For a perfect classifier <= a exactly if the upper bound at level 1 - a is <= lost_below q.
    p_lost = binom.cdf(counts, n, lost_below * q * seen.correct + seen.confused(share_draws)).mean(0)
    rate = np.minimum(lost_below * q * with_unseen.correct + explained / n, 1)
    is_lost, is_covered = _holm(p_lost, alpha), _holm(binom.sf(counts - 1, n, rate).mean(0), alpha)
    lost, undecided = tuple(map(int, np.flatnonzero(is_lost))), np.flatnonzero(~is_lost & ~is_covered)
    if len(undecided):
        listed = ", ".join(map(str, undecided[:5])) + (", ..." if len(undecided) > 5 else "")
        reason = (
            f"{len(undecided)} of {k} modes ({listed}) are neither shown to be lost nor to be covered: their samples "
            "may be confusions of the classifier; add samples or held-out images."
        )
        return scores(None, lost, reason)
    return scores(int(is_covered.sum()), lost, None)


def _holm(p_values: np.ndarray, level: float) -> np.ndarray:
    """Which of the p-values (K,) are rejected at a family-wise error of `level`, bool (K,) (Holm 1979)."""
    order, k = np.argsort(p_values, kind="stable"), len(p_values)
    rejected = np.zeros(k, bool)
    rejected[order] = np.logical_and.accumulate(p_values[order] <= level / (k - np.arange(k)))
    return rejected


def _benjamini_hochberg(p_values: np.ndarray, level: float) -> np.ndarray:
    """Which of the p-values (K,) are discoveries at a false-discovery rate of `level`, bool (K,)."""
    order, k = np.argsort(p_values, kind="stable"), len(p_values)
    below = np.flatnonzero(p_values[order] <= level * np.arange(1, k + 1) / k)
    rejected = np.zeros(k, bool)
    rejected[order[: below[-1] + 1 if len(below) else 0]] = True
    return rejected
