"""Closed forms of solvable self-consuming loops, which docs/theory.md derives; they share no code with the loop.

Arrays run over generations t = 0..G-1. Generation 0 is fitted to R, the first `n_initial` real rows; generation t then
to a mix of R, of real rows that are new and of the pools that generations 0..t-1 drew. A function returns None where no
closed form is known for the course.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import digamma, entr, gammaln, xlog1py
from scipy.stats import binom

from imgloop.analytic.course import Course, compositions, edit_windows
from imgloop.errors import UserError

REACHING = ("accumulate", "accumulate_subsample", "edit")  # whose mixes hold rows of older pools than the newest
WIDEST = 2000  # rows of a fit beyond which the Wright-Fisher matrix, their square, is not built


# -- Two moments, under every rule ------------------------------------------------------------------------------------


class Moments(NamedTuple):
    """E |mu_t - mu_0|² and E tr V_t of the fits, each (G,), in squared units of the data; None where not known."""

    mean_square: np.ndarray | None
    variance: np.ndarray | None


def second_moments(
    course: Course,
    variance: float,
    *,
    bias: float = 1.0,
    kernel: float = 0.0,
    constant: bool = False,
    unbiased: bool = False,
    fixed_real: bool = False,
) -> Moments:
    """Mean and variance of the fits of any generator that reproduces both, whatever the shape of its law.

    Real rows have a covariance of trace `variance`; samples of fit s have its mean and a covariance whose trace is in
    expectation bias E tr V_s + kernel, or `variance` always where `constant` (Poisson). V_t divides by n, or by n - 1
    where `unbiased`. With `fixed_real`, R is given: mu_0 and `variance` are its own mean and divisor-n variance.
    Raises UserError for sizes that the rule does not allow, or with no unbiased variance.
    Source: docs/theory.md, "Pairs of rows"; it holds Schaeffer et al. 2025, section 2.1, as the case of replace.
    """
    if fixed_real and course.paradigm in ("fresh", "edit"):
        return Moments(None, None)  # these depend on more of the real rows than two moments of R
    g, reaching = course.generations, course.paradigm in REACHING
    mean_square, fitted = np.zeros(g), np.zeros(g)
    places = g + 1 if reaching else 3  # a block's place in what follows: R and the newest pool are all, or all are kept
    square = np.zeros(places)  # E |x|² of a row, by block
    pair = np.zeros((places, places))  # E x.x' of two different rows, by their blocks
    noise = np.zeros(places)  # square - pair within a block: kept apart, since it may be far smaller than either
    square[0] = noise[0] = variance
    if fixed_real:
        pair[0, 0] = -variance / max(course.n_initial - 1, 1)
        noise[0] *= course.n_initial / max(course.n_initial - 1, 1)
    for t, mix in enumerate(compositions(course)):
        n, rows = mix.size, mix.rows if reaching or t == 0 else mix.rows[[0, t]]
        old, new = (slice(t + 1), t + 1) if reaching else ([0, 1 + t % 2][: t + 1], 1 + (t + 1) % 2)
        if unbiased and n < 2:
            raise UserError(
                f"Generation {t} is fitted to one row, which has no unbiased variance: raise n_initial or n_samples, "
                "or fit by maximum likelihood."
            )
        own = np.diag(pair)[old]
        towards = pair[old][:, old] @ rows  # sum over the rows that may be drawn, a row counted as another of its block
        if not (fixed_real and mix.share == 1 and rows[0] == n == course.n_initial):  # R's own mean is at 0
            squares = mix.share * rows @ square[old] + mix.fresh * variance
            mean_square[t] = (squares + mix.pair_share * rows @ (towards - own)) / n**2
        apart = (rows - 1) * noise[old] + (rows.sum() - rows) * square[old] - (towards - rows * own)
        apart = mix.pair_share * apart + mix.fresh * (square[old] + variance)
        fitted[t] = (rows @ apart + mix.fresh * (mix.fresh - 1) * variance) / (n * (n - 1 if unbiased else n))
        pair[old, new] = pair[new, old] = (mix.share * towards + mix.kept * noise[old]) / n
        pair[new, new] = mean_square[t]
        noise[new] = variance if constant else bias * fitted[t] + kernel
        square[new] = mean_square[t] + noise[new]
    return Moments(mean_square, fitted)


def stationary(
    n_real: float,
    n_synthetic: float,
    real_rows: float,
    variance: float,
    *,
    bias: float = 1.0,
    kernel: float = 0.0,
    unbiased: bool = False,
) -> tuple[float, float]:
    """Where E |mu_t - mu_0|² and E tr V_t go with `n_real` > 0 real and `n_synthetic` newest rows in every mix.

    The real ones are drawn from `real_rows`: n_real of them for augment, n_initial for replace with real_fraction, inf
    for fresh. Both are inf where bias n_synthetic is so large that no fixed point exists. Source: docs/theory.md.
    """
    n, both = n_real + n_synthetic, n_real + 2 * n_synthetic
    divisor, shrink = (n - 1 if unbiased else n), (both - 1) / both
    if bias * n_synthetic * shrink >= divisor:
        return np.inf, np.inf
    anchor = 1 + 2 * n_synthetic / real_rows
    source = n_real * variance * (1 - anchor / both) + n_synthetic * shrink * kernel
    fitted = source / (divisor - bias * n_synthetic * shrink)
    return (anchor * variance + n_synthetic * (bias * fitted + kernel) / n_real) / both, fitted


def accumulate_limit(n: int, variance: float) -> float:
    """lim E |mu_t - mu_0|² of accumulate by maximum likelihood, n rows each: (variance / n) pi²/6 for large n.

    V_0 - V_0 prod (1 - 1/(n k²)) = V_0 (1 - sin(x)/x), x = pi / sqrt(n). Source: Euler's product; Kazdan et al. 2024.
    """
    return variance * (1 - np.sinc(n**-0.5))


# -- Laws that are known in full where a fit has seen one pool alone --------------------------------------------------


def followed(course: Course, least: int = 1) -> np.ndarray:
    """Rows of the fits whose law is known: all of them without real data in the mix, else that of R itself; up to the
    first that has fewer than `least`."""
    rows = course.chained[: course.generations if course.plain else 1]
    return rows[: np.append(rows < least, True).argmax()]


def throughout(course: Course, values: np.ndarray) -> np.ndarray | None:
    """The values of the fits followed, over all generations (G,): the same again under real_only, else NaN from where
    none is known; None where there is none at all."""
    if not len(values):
        return None
    beyond = values[0] if course.paradigm == "real_only" else np.nan
    return np.concatenate([values, np.full(course.generations - len(values), beyond)])


# -- A Gaussian fitted to its own samples -----------------------------------------------------------------------------


def log_variance(course: Course, d: int, bias: float = 1.0, unbiased: bool = False) -> np.ndarray | None:
    """E of (1/d) ln det V_t / det V_0, (G,), for replace without real data while n > d; generation 0 of every rule.

    V_t is a product of independent Wishart matrices about V_0 (Schaeffer et al. 2025, section 2.1).
    """
    n = followed(course, d + 1)
    step = digamma((n[:, None] - np.arange(1, d + 1)) / 2).mean(1) + np.log(2 / (n - unbiased))
    return throughout(course, np.cumsum(step) + np.log(bias) * np.arange(len(n)))


def standard_deviation(course: Course, bias: float = 1.0, unbiased: bool = False) -> np.ndarray | None:
    """E sigma_t / sigma_0, (G,), in one dimension, for replace without real data; generation 0 of every rule: a product
    of chi means."""
    return throughout(course, np.exp(log_ratios(course, bias, unbiased)[0]))


def wasserstein(
    course: Course, variance: float, bias: float = 1.0, unbiased: bool = False
) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean part and covariance part, each (G,), of the expected squared 2-Wasserstein distance to the truth in one
    dimension (Schaeffer et al. 2025, section 2.1); the latter for replace without real data, and generation 0 of every
    rule."""
    deviation, spread = log_ratios(course, bias, unbiased)
    covariance = throughout(course, variance * (np.expm1(spread) - 2 * np.expm1(deviation)))
    if covariance is None:
        return None
    return second_moments(course, variance, bias=bias, unbiased=unbiased).mean_square, covariance


def log_ratios(course: Course, bias: float, unbiased: bool) -> tuple[np.ndarray, np.ndarray]:
    """ln of E sigma_t / sigma_0 and of E V_t / V_0 in one dimension, of the fits followed."""
    n = followed(course, 2)
    bias, divisor = np.log(bias) * np.arange(len(n)), np.zeros(len(n)) if unbiased else np.log1p(-1 / n)
    return np.cumsum(log_chi(n) + divisor / 2) + bias / 2, np.cumsum(divisor) + bias


def log_chi(n: np.ndarray) -> np.ndarray:
    """ln of E sigma_t / sigma_{t-1} with divisor n - 1, about -1/(4n), to its own last digits for any n: the difference
    of two log gamma functions, or their asymptotic series where they would cancel."""
    x = (n - 1) / 2
    series = (-1 / 8 + (1 / 192 - (1 / 640 - 17 / 14336 / x**2) / x**2) / x**2) / x
    return np.where(x > 20, series, gammaln(x + 0.5) - gammaln(x) - np.log(x) / 2)


# -- Linear regression on targets drawn from the previous fit ---------------------------------------------------------


def regression(
    course: Course, d: int, sigma: float, design: str = "fixed", gram: np.ndarray | None = None
) -> np.ndarray | None:
    """Expected excess risk E |w_t - beta|², (G,), of least squares on x ~ N(0, I) in `d` columns, noise of sd `sigma`.

    `design` fixed: every pool reuses the x of R, from its first row on; resampled: each draws its own. `gram` (R,) is
    tr (X'X)^-1 of each replicate's R, for a fixed design and equal sizes: the result is then (G, R), exact given X.
    Raises UserError where a fit has no more than d + 1 rows, so that its expected risk is infinite.
    Source: Dohmatob et al. 2024 (replace), Gerstgrasser et al. 2024 (accumulate), Schaeffer et al. 2025, appendix A;
    docs/theory.md for unequal sizes and for augment.
    """
    rows, i = course.chained, np.arange(1, course.generations + 1)
    if course.paradigm == "replace" and not course.plain:
        return None
    if course.paradigm == "augment" and any(course.at("n_synthetic", t, rows[t]) != rows[t] for t in i[:-1]):
        return None
    growth = {
        "replace": i,
        "accumulate": np.cumsum(i**-2.0),
        "augment": (4 - 0.25 ** (i - 1.0)) / 3,
        "real_only": np.ones(len(i)),
    }.get(course.paradigm)
    fits = {"replace": rows, "accumulate": np.cumsum(rows)}.get(course.paradigm)
    if growth is not None and (course.paradigm == "real_only" or (design == "fixed" and (rows == rows[0]).all())):
        return sigma**2 * np.multiply.outer(growth, inverse_trace(rows[0], d) if gram is None else gram)
    if fits is not None and (design == "resampled" or (course.plain and gram is None)):
        return sigma**2 * np.cumsum(rows / fits * inverse_trace(fits, d))  # the newest rows' part of each fit
    return None


def inverse_trace(rows: int | np.ndarray, d: int) -> np.ndarray:
    """E tr (X'X)^-1 of standard Gaussian X, `rows` by d; raises UserError where it is infinite."""
    least = np.min(rows)
    if least <= d + 1:
        raise UserError(
            f"The expected risk of a fit of {d} coefficients to {least} rows is infinite: it needs more than {d + 1} "
            "(T > d + 1); raise n_initial or n_samples, or use fewer columns."
        )
    return d / (np.asarray(rows) - d - 1)


def editing(course: Course, x: np.ndarray, sigma: float) -> np.ndarray | None:
    """Expected excess risk |w_t - beta|² under `edit` with a fixed design, (G, R), exact given x (R, n_initial, d).

    The residuals u = y - x beta keep a covariance C: an edited place takes (Q Q' u)_i + noise, x = Q root^-1, and the
    fit is w - beta = root Q' u. Source: Zhu et al. 2024; Schaeffer et al. 2025, section 4.3; docs/theory.md.
    """
    if course.paradigm != "edit":
        return None
    replicates, rows = x.shape[:2]
    risk = np.empty((course.generations, replicates))
    windows = edit_windows(course)
    block = max(1, 10**7 // rows**2)  # replicates at once: C and its temporaries stay below 300 MB
    for first in range(0, replicates, block):
        here = slice(first, first + block)
        q, r = np.linalg.qr(x[here])  # (b, T, d), (b, d, d)
        root = np.linalg.inv(r)
        c = np.tile(sigma**2 * np.eye(rows), (len(q), 1, 1))
        for t, edited in enumerate(windows):
            if t == 0 or len(edited):
                part = q[:, edited]  # (b, k, d)
                seen = q.swapaxes(1, 2) @ c  # Q'C (b, d, T)
                c[:, edited] = part @ seen
                c[:, :, edited] = c[:, edited].swapaxes(1, 2)
                c[:, edited[:, None], edited] = part @ (seen @ q) @ part.swapaxes(1, 2) + sigma**2 * np.eye(len(edited))
                fit = root @ (q.swapaxes(1, 2) @ c @ q)
            risk[t, here] = (fit * root).sum((1, 2))
    return risk


# -- Discrete distributions: the Wright-Fisher process ----------------------------------------------------------------


class Outcomes(NamedTuple):
    """Of a discrete law, each (G,): the probability that one outcome is all that is left, the expected number of those
    left, and the expected entropy over the law's; None where not known."""

    collapsed: np.ndarray | None
    survivors: np.ndarray | None
    entropy: np.ndarray | None


def outcomes(course: Course, p: np.ndarray) -> Outcomes:
    """What is left of law `p`, exactly, for replace without real data; generation 0 of every rule. None where a fit
    that counts has more than 2,000 rows.

    The count of one outcome is a Markov chain whatever the others do, and all three are sums over outcomes, which
    follow from the sum of the distributions of their counts. Source: docs/theory.md.
    """
    rows, law = followed(course), distribution(1, p)
    if rows.max() > WIDEST:
        return Outcomes(None, None, None)
    found = np.empty((3, len(rows)))
    p, state = np.unique(law[law > 0], return_counts=True)  # outcomes by p = count / n, here of the law itself
    for t, n in enumerate(rows):
        if t < 2 or rows[t - 2] != rows[t - 1] or rows[t - 1] != n:
            step = binom.pmf(np.arange(n + 1), n, p[:, None])
        state, p = state @ step, np.arange(n + 1) / n
        found[:, t] = state[-1], state[1:].sum(), state @ entr(p) / entr(law).sum()
    return Outcomes(*(throughout(course, values) for values in found))


def collapse_time(draws: int, p: np.ndarray) -> float:
    """Expected number of generations, of `draws` each, until one outcome is all that is left, from law `p`, exactly.

    b(c), the expected time from a count of c on, where its outcome is the one that is left and 0 elsewhere, solves (I -
    Q) b = c/n on the counts that are neither none nor all. Raises UserError for a wrong size. Source: docs/theory.md.
    """
    law, number = np.unique(distribution(draws, p), return_counts=True)
    if draws > WIDEST:
        raise UserError(f"The time to collapse is solved for at most {WIDEST} draws, not {draws}: lower draws.")
    count = np.arange(1, draws)
    remain = binom.pmf(count, draws, count[:, None] / draws)
    left = np.linalg.solve(np.eye(draws - 1) - remain, count / draws)
    return float(1 + number @ binom.pmf(count, draws, law[:, None]) @ left)


def collapse_time_diffusion(draws: int, p: np.ndarray) -> float:
    """-2 D sum (1 - p_i) ln(1 - p_i): the diffusion's expected generations to total collapse, at most 2 D.

    Solves the backward equation of the Wright-Fisher diffusion (docs/theory.md); exact as D grows.
    """
    p = distribution(draws, p)
    return float(-2 * draws * xlog1py(1 - p, -p).sum())


def collapse_time_paper(draws: int, p: np.ndarray) -> float:
    """D times the entropy of p in nats: what section 4.4 of Schaeffer et al. 2025 states, up to a factor. It is far too
    long for many outcomes."""
    return float(draws * entr(distribution(draws, p)).sum())


def distribution(draws: int, p: np.ndarray) -> np.ndarray:
    p = np.asarray(p, float)
    if draws < 1 or (p < 0).any() or abs(p.sum() - 1) > 1e-6:
        raise UserError(
            f"The time to collapse needs draws of at least 1 and probabilities that sum to 1: got draws={draws} and a "
            f"sum of {p.sum():g}."
        )
    return p


# -- Other recursive maximum-likelihood fits --------------------------------------------------------------------------


def poisson_survival(course: Course, rate: float) -> np.ndarray:
    """Pr(rate_t > 0), (G,), exactly, for replace without real data: the counts are a branching process.

    With n throughout: 1 - exp(-n rate g_k), g_1 = 1, g_{k+1} = 1 - exp(-g_k), k = t + 1 (Suresh et al. 2024). Where R
    stays whole in the mix, a rate is 0 if and only if all of R is; else generation 0 alone is known.
    """
    rows = followed(course)
    alive = np.ones(len(rows))  # of the offspring by generation t of one count, entry t, going back in generations
    for t in range(len(rows) - 1, 0, -1):
        alive[t:] = -np.expm1(-rows[t] / rows[t - 1] * alive[t:])
    alive = -np.expm1(-rows[0] * rate * alive)
    if course.paradigm in ("accumulate", "augment"):
        return np.repeat(alive, course.generations)
    return throughout(course, alive)


def mixture_bound(sigma: float, threshold: float, course: Course) -> np.ndarray | None:
    """(sigma / threshold) exp(-sum 1/(4 n)) >= Pr(standard deviation of fit t >= threshold), (G,), at most 1.

    For replace without real data, a Gaussian or a symmetric mixture of two of standard deviation `sigma`, without
    amplifying bias. Source: Suresh et al. 2024 at equal n; docs/theory.md for unequal ones.
    """
    if not course.plain:
        return None
    return np.minimum(1, sigma / threshold * np.exp(-np.cumsum(1 / (4 * course.chained))))


def bernoulli_bound(course: Course, p: float) -> np.ndarray:
    """Upper bound (G,) of Pr(p_t is neither 0 nor 1), under every rule: Markov's inequality for p_t (1 - p_t), which is
    at least (1/n)(1 - 1/n) there. Source: docs/theory.md; at one n, n²/(n-1) p (1-p) (1-1/n)^(t+1)."""
    n = np.array([mix.size for mix in compositions(course)])
    spread = second_moments(course, p * (1 - p)).variance
    return np.where(n > 1, np.minimum(1, spread * n**2 / np.maximum(n - 1, 1)), 0.0)
