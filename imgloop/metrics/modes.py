"""Which modes a generator still makes: counts corrected for the classifier's confusions, lost modes by an exact test,
modes that confusions do not explain, the paper's count, and the distance of the class mix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from imgloop.errors import UserError
from imgloop.metrics.confusion import Confusion


@dataclass(frozen=True)
class ModeScores:
    """`covered` modes and the indices of the `lost`; None where undetermined, with the `reason` in a sentence.

    `hit`: modes with at least one sample, the count in papers. `present`: modes with more samples than the classifier's
    confusions explain. `kl`: see `mode_coverage`. `needed`: the samples with which the absence of any mode can be seen.
    `shares` (K,): of the modes, corrected for confusions, with standard deviations `share_sd` (K,); `smallest`: the
    least share over its real share, and `smallest_null` what it is on average where nothing differs.
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


def mode_coverage(
    real_counts,
    generated_counts,
    *,
    confusion: Confusion | Sequence | None = None,
    alpha: float = 0.05,
    lost_below: float = 0.1,
    false_present: float = 0.001,
    seed: int = 0,
) -> ModeScores:
    """Modes kept and lost of `generated_counts` (K,), integers, against `real_counts` (K,), counts or shares.

    Counts are a classifier's; `confusion`, a `Confusion` or the integer counts (K, K) that one is made of (row: true
    class, column: predicted), says how it errs on held-out real samples; without it the classifier is taken to be
    right. The corrected shares p minimise |C'p - f|^2 over the simplex, f the observed shares and C the confusion
    rates; draws of C and f carry the sampling error of both.

    A mode is lost when a share of `lost_below` times its real one, plus what is confused with it, would rarely give as
    few samples (for a perfect classifier: when the exact one-sided upper bound of Clopper and Pearson is at most
    `lost_below` times its real share), by Holm over the modes at `alpha` in total; real shares are taken as known. It
    is kept when such a share would as rarely give as many. `covered` counts the kept, and is None where a mode is
    neither: its samples may be confusions of others. The absence of a mode can be seen only with n >= ln(alpha/K) /
    ln(1 - lost_below q) samples, q the smallest real share (for uniform classes about 10 K ln(K/.05): 528 for 10,
    99,030 for 1,000), and with a classifier that confuses less; with fewer samples `covered` and `lost` are None.

    A mode is present when confusions alone would rarely give as many samples: a Poisson test, by Benjamini and Hochberg
    at `false_present`, so that less than one of a thousand such modes is expected to be none. In every test the draws
    of C are those under which it rejects less: for lost modes confusions never seen are none, for kept and present ones
    they are possible.

    `kl` is KL(generated || real class mix) of the observed shares in nats, minus its expectation (K-1)/2n where nothing
    differs; so it is slightly negative about half of the time then. Raises UserError where a mode has no real sample,
    or lengths differ.
    Source: Clopper and Pearson 1934; Holm 1979; Benjamini and Hochberg 1995; the count of modes hit: Metz et al. 2017.
    """
    from scipy.stats import binom, poisson

    q, f, counts = per_class_shares(real_counts), per_class_shares(generated_counts), np.asarray(generated_counts)
    if len(q) != len(f):
        raise UserError(f"There are {len(q)} real and {len(f)} generated classes; count both over the same ones.")
    if (q == 0).any():
        raise UserError(f"Class {int(np.argmin(q))} has no real sample: a mode needs a real rate above zero.")
    if counts.dtype.kind not in "iu":
        raise UserError(f"Generated counts have dtype {counts.dtype}; expected integers, since the test is on counts.")
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
    likely = seen.corrected(observed)
    strays = confusion.drawn(rng, draws, unseen=True)
    explained = n * strays.confused(strays.corrected(observed))
    chance = poisson.sf(counts - 1, explained).mean(0)
    alike = seen.corrected(rng.multinomial(n, confusion.read(q[None])[0], size=draws) / n)
    found = dict(
        hit=int(hit.sum()),
        present=int(_benjamini_hochberg(np.where(hit, chance, 1.0), false_present).sum()),
        kl=kl,
        needed=needed,
        smallest=float((shares / q).min()),
        smallest_null=float((alike / q).min(1).mean()),
        shares=shares,
        share_sd=likely.std(0, ddof=1),
    )
    if n < needed:
        reason = f"{k} modes, the rarest at a rate of {q.min():.3g}, need {needed:,} samples; there are {n:,}."
        return ModeScores(None, None, reason, **found)
    # <= a exactly when the upper bound at level 1 - a is <= lost_below q, for a classifier that never errs
    gone = _holm(binom.cdf(counts, n, lost_below * q * seen.correct + seen.confused(likely)).mean(0), alpha)
    rate = np.minimum(lost_below * q * strays.correct + explained / n, 1)
    there = _holm(binom.sf(counts - 1, n, rate).mean(0), alpha)
    lost, open_ = tuple(map(int, np.flatnonzero(gone))), np.flatnonzero(~gone & ~there)
    if len(open_):
        named = ", ".join(map(str, open_[:5])) + (", ..." if len(open_) > 5 else "")
        reason = (
            f"{len(open_)} of {k} modes ({named}) are neither shown to be lost nor to be kept: their samples may be "
            "confusions of the classifier; more samples or held-out images tell."
        )
        return ModeScores(None, lost, reason, **found)
    return ModeScores(int(there.sum()), lost, None, **found)


def _holm(chance: np.ndarray, level: float) -> np.ndarray:
    """Which of the p-values (K,) are rejected at a family-wise error of `level`, bool (K,) (Holm 1979)."""
    order, k = np.argsort(chance, kind="stable"), len(chance)
    out = np.zeros(k, bool)
    out[order] = np.logical_and.accumulate(chance[order] <= level / (k - np.arange(k)))
    return out


def _benjamini_hochberg(chance: np.ndarray, level: float) -> np.ndarray:
    """Which of the p-values (K,) are discoveries at a false-discovery rate of `level`, bool (K,)."""
    order, k = np.argsort(chance, kind="stable"), len(chance)
    below = np.flatnonzero(chance[order] <= level * np.arange(1, k + 1) / k)
    out = np.zeros(k, bool)
    out[order[: below[-1] + 1 if len(below) else 0]] = True
    return out
