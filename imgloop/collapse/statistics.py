"""The tests behind the verdicts: paired t-tests over chains, Holm's correction, the step-down sign-flip test.

Arrays are float (..., S), one number for each chain along the last axis; the axes before it are arbitrary: one study,
or thousands of simulated ones. NaN marks a chain without a number, which is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

ENUMERATED = 12  # largest number of chains for which all 2^S sign patterns are used; above it, DRAWS random ones
DRAWS = 9_999
ROUNDING = 1e-12  # relative to the largest number: a smaller spread is rounding error


@dataclass(frozen=True)
class Moments:
    """Number of chains, mean and standard error of the mean, (...)."""

    n: np.ndarray
    mean: np.ndarray
    sem: np.ndarray

    @classmethod
    def of(cls, x: Sequence[float] | np.ndarray) -> Moments:
        x = np.asarray(x, float)
        finite = np.isfinite(x)
        n, filled = finite.sum(-1), np.where(finite, x, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = filled.sum(-1) / n
            spread = np.where(finite, filled - mean[..., None], 0.0)
            sem = np.sqrt((spread**2).sum(-1) / (n - 1) / n)
        sem = np.where(sem <= ROUNDING * np.abs(filled).max(-1, initial=0), 0.0, sem)
        return cls(n, mean, np.where(n > 1, sem, np.nan))

    def t(self, threshold: float | np.ndarray = 0.0) -> np.ndarray:
        """Student's t of the mean against a threshold; infinite where all chains are equal, NaN for fewer than two."""
        gap = self.mean - threshold
        gap = np.where(np.abs(gap) <= ROUNDING * np.maximum(np.abs(self.mean), np.abs(threshold)), 0.0, gap)
        with np.errstate(invalid="ignore", divide="ignore"):
            t = np.where((gap == 0) & (self.sem == 0), 0.0, gap / self.sem)
        return np.where(self.n > 1, t, np.nan)

    def bound(self, level: float, side: int = 1) -> np.ndarray:
        """One-sided t-bound of the mean at a confidence level: the upper one for side 1, the lower one for side -1."""
        return self.mean + side * stats.t.ppf(level, np.maximum(self.n - 1, 1)) * self.sem


def greater(x: np.ndarray, threshold: float | np.ndarray = 0.0) -> np.ndarray:
    """One-sided p values of the null hypothesis that the mean over chains is at most `threshold`, (...).

    The paired t-test, for x that are differences from the control; as scipy.stats.ttest_1samp(alternative="greater").
    Chains that are all equal give p = 0 above the threshold and 1 elsewhere.
    """
    moments = Moments.of(x)
    t = moments.t(threshold)
    p = stats.t.sf(t, np.maximum(moments.n - 1, 1))
    return np.where((moments.sem == 0) & (t <= 0), 1.0, p)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p values along the last axis, (..., m); NaN (not measured) is left out and stays NaN."""
    p = np.asarray(p, float)
    order = np.argsort(p, axis=-1)  # NaN last
    ranked = np.take_along_axis(p, order, -1)
    left = (~np.isnan(p)).sum(-1, keepdims=True) - np.arange(p.shape[-1])
    adjusted = np.maximum.accumulate(np.minimum(ranked * left, 1.0), axis=-1)
    out = np.empty_like(p)
    np.put_along_axis(out, order, adjusted, -1)
    return out


def signs(chains: int, seed: int = 0) -> np.ndarray:
    """Sign patterns (F, S), the identity first: all 2^S, or DRAWS random ones for many chains."""
    if chains <= ENUMERATED:
        bits = np.arange(2**chains)[:, None] >> np.arange(chains) & 1
        return 1.0 - 2.0 * bits
    drawn = np.random.default_rng(seed).integers(0, 2, (DRAWS, chains)) * 2.0 - 1.0
    return np.concatenate([np.ones((1, chains)), drawn])


def flipped_t(x: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """t of the mean against 0 under each sign pattern, (..., F), for x (..., S)."""
    x = np.asarray(x, float)
    finite = np.isfinite(x)
    n, filled = finite.sum(-1)[..., None], np.where(finite, x, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled @ flips.T / n
        variance = ((filled**2).sum(-1)[..., None] - n * mean**2) / (n - 1)  # flips do not change the sum of squares
        scale = ROUNDING * np.abs(filled).max(-1, initial=0)[..., None]
        sd = np.sqrt(np.maximum(variance, 0))
        equal = sd <= np.sqrt(ROUNDING) * np.abs(mean)
        t = np.where(equal, np.inf * np.sign(mean), mean / (sd / np.sqrt(n)))
        return np.where(np.abs(mean) <= scale, 0.0, t)


def step_down(t: np.ndarray) -> np.ndarray:
    """Step-down max-T p values (Westfall & Young 1993), (..., m).

    t: statistics of m hypotheses under F sign patterns, (..., m, F); pattern 0 is the identity. Exact where the numbers
    of each hypothesis are symmetric about its threshold, so that signs are exchangeable. NaN (not measured) stays NaN.
    """
    observed = t[..., 0]
    missing = np.isnan(observed)
    order = np.argsort(np.where(missing, np.inf, -observed), axis=-1, kind="stable")
    ranked = np.take_along_axis(np.where(np.isnan(t), -np.inf, t), order[..., None], -2)
    # The largest over this hypothesis and those after it.
    largest = np.flip(np.maximum.accumulate(np.flip(ranked, -2), axis=-2), -2)
    first = ranked[..., :1]
    near = np.where(np.isfinite(first), 1e-9 * np.maximum(1, np.abs(first)), 0.0)  # rounding error of equal patterns
    with np.errstate(invalid="ignore"):
        p = (largest >= first - near).mean(-1)
    p = np.maximum.accumulate(p, axis=-1)
    out = np.empty_like(p)
    np.put_along_axis(out, order, p, -1)
    return np.where(missing, np.nan, out)


def sign_flip_p(t: np.ndarray, chains: np.ndarray, level: float = 0.99) -> np.ndarray:
    """Step-down p values as in `step_down`, without the hypotheses that are clearly below their thresholds.

    With all signs flipped, a number far below its threshold becomes the largest statistic of all; at five chains this
    alone raises every other p above .05. So a hypothesis whose one-sided t-bound (`level`) is below its threshold is
    left out and gets p = 1 (moment selection, Andrews & Soares 2010). The test is then not strictly exact;
    scripts/calibrate.py measures its size. chains: int (..., m).
    """
    settled = t[..., 0] < -stats.t.ppf(level, np.maximum(chains - 1, 1))
    return step_down(np.where(settled[..., None], -np.inf, t))


def interval(x: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over chains and its two-sided t interval, each (...).

    (The coverage of a nominal 95 % percentile bootstrap interval over five chains is 83 %.)
    """
    moments, tail = Moments.of(x), (1 + level) / 2
    return moments.mean, moments.bound(tail, -1), moments.bound(tail)


def jackknifed(whole: np.ndarray, left_out: np.ndarray, level: float = 0.95):
    """Jackknife estimate and t interval of a statistic (Tukey 1958).

    whole (...): its value on all chains. left_out (..., S): its values without one chain each.
    """
    n = left_out.shape[-1]
    return interval(n * np.asarray(whole)[..., None] - (n - 1) * left_out, level)
