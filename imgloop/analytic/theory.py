"""Closed forms of solvable self-consuming loops, derived in docs/theory.md; they share no code with the loop.

Arrays run over generations t = 0..G-1. Generation 0 is fitted to R, the first `n_initial` real rows; generation t to a
mix of R, new real rows and the pools drawn by generations 0..t-1. A function returns None where no closed form is known
for the course.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma, entr, gammaln, xlog1py
from scipy.stats import binom

from imgloop.analytic.course import Course, compositions, edit_windows
from imgloop.errors import UserError

# rules whose mixes hold rows of pools before the newest
REACHING = ("accumulate", "accumulate_subsample", "stratified", "edit")
WIDEST = 2000  # largest fit, in rows, for which the Wright-Fisher matrix (rows x rows) is built


# -- Two moments, under every rule ------------------------------------------------------------------------------------


class Moments(NamedTuple):
    """E |mu_t - mu_0|² and E tr V_t of the fits, float64 (G,), in squared units of the data; None where not known."""

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

    Real rows have a covariance of trace `variance`. Samples of fit s have its mean and a covariance of expected trace
    bias E tr V_s + kernel, or `variance` if `constant` (Poisson). V_t divides by n, or by n - 1 if `unbiased`. With
    `fixed_real`, R is given: mu_0 and `variance` are its own mean and divisor-n variance.
    Raises UserError for sizes that the rule does not allow, or that have no unbiased variance.
    Source: docs/theory.md, "Pairs of rows"; replace is the case of Schaeffer et al. 2025, section 2.1.
    """
    if fixed_real and course.paradigm in ("fresh", "edit"):
        return Moments(None, None)  # these depend on more of the real rows than two moments of R
    g, reaching = course.generations, course.paradigm in REACHING
    mean_square, fitted = np.zeros(g), np.zeros(g)
    blocks = g + 1 if reaching else 3  # R and all pools; or R, the newest pool and the one before it
    square = np.zeros(blocks)  # E |x|² of a row, by block
    pair = np.zeros((blocks, blocks))  # E x.x' of two different rows, by their blocks
    noise = np.zeros(blocks)  # square - pair within a block, stored on its own: it may be far smaller than either
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
        towards = pair[old][:, old] @ rows  # sum over the candidates; a row itself counts as another of its block
        if not (fixed_real and mix.share == 1 and rows[0] == n == course.n_initial):  # the mean of R itself is mu_0
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
    """Limits of E |mu_t - mu_0|² and E tr V_t with `n_real` > 0 real and `n_synthetic` newest rows in every mix.

    The real rows are drawn from `real_rows` rows: n_real for augment, n_initial for replace with real_fraction, inf for
    fresh. Both limits are inf if bias n_synthetic is too large for a fixed point. Source: docs/theory.md.
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


# -- Laws known in full, for fits to one pool alone --------------------------------------------------


def followed(course: Course, least: int = 1) -> np.ndarray:
    """Rows of the fits whose law is known, int (T,): of all generations if every mix is the newest pool, else of
    generation 0; up to the first with fewer than `least` rows."""
    rows = course.chained[: course.generations if course.plain else 1]
    return rows[: np.append(rows < least, True).argmax()]


def throughout(course: Course, values: np.ndarray) -> np.ndarray | None:
    """The values (T,) of the `followed` fits extended to all generations (G,): constant under real_only, else by NaN;
    None if T is 0."""
    if not len(values):
        return None
    beyond = values[0] if course.paradigm == "real_only" else np.nan
    return np.concatenate([values, np.full(course.generations - len(values), beyond)])


# -- A Gaussian fitted to its own samples -----------------------------------------------------------------------------


def log_variance(course: Course, d: int, bias: float = 1.0, unbiased: bool = False) -> np.ndarray | None:
    """E of (1/d) ln det V_t / det V_0, (G,), for replace without real data as long as n > d; generation 0 of any rule.

    V_t is V_0 times independent Wishart matrices (Schaeffer et al. 2025, section 2.1).
    """
    n = followed(course, d + 1)
    step = digamma((n[:, None] - np.arange(1, d + 1)) / 2).mean(1) + np.log(2 / (n - unbiased))
    return throughout(course, np.cumsum(step) + np.log(bias) * np.arange(len(n)))


def standard_deviation(course: Course, bias: float = 1.0, unbiased: bool = False) -> np.ndarray | None:
    """E sigma_t / sigma_0, (G,), in one dimension, for replace without real data; generation 0 of any rule.

    It is a product of means of chi distributions.
    """
    return throughout(course, np.exp(log_ratios(course, bias, unbiased)[0]))


def wasserstein(
    course: Course, variance: float, bias: float = 1.0, unbiased: bool = False
) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean part and covariance part, each (G,), of the expected squared 2-Wasserstein distance to the truth in one
    dimension; the covariance part for replace without real data, and generation 0 of any rule.

    Source: Schaeffer et al. 2025, section 2.1.
    """
    deviation, spread = log_ratios(course, bias, unbiased)
    covariance = throughout(course, variance * (np.expm1(spread) - 2 * np.expm1(deviation)))
    if covariance is None:
        return None
    mean_square = second_moments(course, variance, bias=bias, unbiased=unbiased).mean_square
    assert mean_square is not None, "known where R is random"
    return mean_square, covariance


def log_ratios(course: Course, bias: float, unbiased: bool) -> tuple[np.ndarray, np.ndarray]:
    """ln of E sigma_t / sigma_0 and of E V_t / V_0 in one dimension, each (T,), for the `followed` fits."""
    n = followed(course, 2)
    growth, divisor = np.log(bias) * np.arange(len(n)), np.zeros(len(n)) if unbiased else np.log1p(-1 / n)
    return np.cumsum(log_chi(n) + divisor / 2) + growth / 2, np.cumsum(divisor) + growth


def log_chi(n: np.ndarray) -> np.ndarray:
    """ln of E sigma_t / sigma_{t-1} with divisor n - 1, about -1/(4n), to full relative precision for any n.

    It is the difference of two log gamma functions, or their asymptotic series where the difference would cancel.
    """
    x = (n - 1) / 2
    series = (-1 / 8 + (1 / 192 - (1 / 640 - 17 / 14336 / x**2) / x**2) / x**2) / x
    return np.where(x > 20, series, gammaln(x + 0.5) - gammaln(x) - np.log(x) / 2)


# -- Linear regression on targets drawn from the previous fit ---------------------------------------------------------


def regression(
    course: Course, d: int, sigma: float, design: str = "fixed", gram: np.ndarray | None = None
) -> np.ndarray | None:
    """Expected excess risk E |w_t - beta|², (G,), of least squares on x ~ N(0, I) in `d` columns, noise of sd `sigma`.

    `design` fixed: every pool reuses the x of R, from its first row on; resampled: each pool draws its own. `gram` (R,)
    is tr (X'X)^-1 of each replicate's R, for a fixed design and equal sizes: then the result is (G, R), exact given X.
    Raises UserError if a fit has d + 1 rows or fewer, since its expected risk is infinite.
    Source: Dohmatob et al. 2024 (replace), Gerstgrasser et al. 2024 (accumulate), Schaeffer et al. 2025, appendix A;
    docs/theory.md for unequal sizes and for augment.
    """
    rows, i = course.chained, np.arange(1, course.generations + 1)
    if course.paradigm == "replace" and not course.plain:
        return None
    if course.paradigm == "augment" and any(course.at("n_synthetic", t, float(rows[t])) != rows[t] for t in i[:-1]):
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
        return sigma**2 * np.cumsum(rows / fits * inverse_trace(fits, d))  # weighted by the share of new rows
    return None


def inverse_trace(rows: int | np.ndarray, d: int) -> np.ndarray:
    """E tr (X'X)^-1 of standard Gaussian X, `rows` by d; raises UserError if it is infinite."""
    fewest = np.min(rows)
    if fewest <= d + 1:
        raise UserError(
            f"The expected risk of a fit of {d} coefficients to {fewest} rows is infinite: it needs more than {d + 1} "
            "(T > d + 1); raise n_initial or n_samples, or use fewer columns."
        )
    return d / (np.asarray(rows) - d - 1)


def editing(course: Course, x: np.ndarray, sigma: float) -> np.ndarray | None:
    """Expected excess risk |w_t - beta|² under `edit` with a fixed design, (G, R), exact given x (R, n_initial, d).

    C is the covariance of the residuals u = y - x beta: an edited position becomes (Q Q' u)_i + noise, x = Q root^-1,
    and the fit is w - beta = root Q' u. Source: Zhu et al. 2024; Schaeffer et al. 2025, section 4.3; docs/theory.md.
    """
    if course.paradigm != "edit":
        return None
    replicates, rows = x.shape[:2]
    risk = np.empty((course.generations, replicates))
    windows = edit_windows(course)
    block = max(1, 10**7 // rows**2)  # replicates at a time, so that C and its temporaries stay below 300 MB
    for first in range(0, replicates, block):
        replicate = slice(first, first + block)
        q, r = np.linalg.qr(x[replicate])  # (b, T, d), (b, d, d)
        root = np.linalg.inv(r)
        fit = np.zeros_like(root)
        c = np.tile(sigma**2 * np.eye(rows), (len(q), 1, 1))
        for t, edited in enumerate(windows):
            if t == 0 or len(edited):
                part = q[:, edited]  # (b, k, d)
                projected = q.swapaxes(1, 2) @ c  # Q'C (b, d, T)
                c[:, edited] = part @ projected
                c[:, :, edited] = c[:, edited].swapaxes(1, 2)
                c[:, edited[:, None], edited] = part @ (projected @ q) @ part.swapaxes(1, 2) + sigma**2 * np.eye(
                    len(edited)
                )
                fit = root @ (q.swapaxes(1, 2) @ c @ q)
            risk[t, replicate] = (fit * root).sum((1, 2))
    return risk


# -- Discrete distributions: the Wright-Fisher process ----------------------------------------------------------------


class Outcomes(NamedTuple):
    """For a discrete law, each (G,): the probability that one outcome is left, the expected number of outcomes left,
    and the expected entropy over that of the law; None where not known."""

    collapsed: np.ndarray | None
    survivors: np.ndarray | None
    entropy: np.ndarray | None


def outcomes(course: Course, p: ArrayLike) -> Outcomes:
    """What is left of law `p`, exactly, for replace without real data; generation 0 of any rule. None if a `followed`
    fit has more than 2,000 rows.

    The count of one outcome is a Markov chain that does not depend on the other counts. All three are sums over
    outcomes, and follow from the sum of the distributions of their counts. Source: docs/theory.md.
    """
    rows, law = followed(course), distribution(1, p)
    if rows.max() > WIDEST:
        return Outcomes(None, None, None)
    values = np.empty((3, len(rows)))
    step = np.empty(0)
    shares, state = np.unique(law[law > 0], return_counts=True)  # number of outcomes by count / n, here by probability
    for t, n in enumerate(rows):
        if t < 2 or rows[t - 2] != rows[t - 1] or rows[t - 1] != n:
            step = binom.pmf(np.arange(n + 1), n, shares[:, None])
        state, shares = state @ step, np.arange(n + 1) / n
        values[:, t] = state[-1], state[1:].sum(), state @ entr(shares) / entr(law).sum()
    return Outcomes(*(throughout(course, row) for row in values))


def collapse_time(draws: int, p: ArrayLike) -> float:
    """Expected number of generations, of `draws` each, until one outcome is left, from law `p`, exactly.

    b(c) = E[time from count c, if this outcome is the one left; else 0] solves (I - Q) b = c/n on the counts 1..n-1.
    Raises UserError for sizes out of range. Source: docs/theory.md.
    """
    law, number = np.unique(distribution(draws, p), return_counts=True)
    if draws > WIDEST:
        raise UserError(f"The time to collapse is solved for at most {WIDEST} draws, not {draws}: lower draws.")
    count = np.arange(1, draws)
    remain = binom.pmf(count, draws, count[:, None] / draws)
    left = np.linalg.solve(np.eye(draws - 1) - remain, count / draws)
    return float(1 + number @ binom.pmf(count, draws, law[:, None]) @ left)


def collapse_time_diffusion(draws: int, p: ArrayLike) -> float:
    """-2 D sum (1 - p_i) ln(1 - p_i): expected generations to total collapse in the diffusion limit, at most 2 D.

    It solves the backward equation of the Wright-Fisher diffusion (docs/theory.md); exact as D grows.
    """
    p = distribution(draws, p)
    return float(-2 * draws * xlog1py(1 - p, -p).sum())


def collapse_time_paper(draws: int, p: ArrayLike) -> float:
    """D times the entropy of p in nats: the statement of section 4.4 of Schaeffer et al. 2025, up to a factor. It is
    far too long for many outcomes."""
    return float(draws * entr(distribution(draws, p)).sum())


def distribution(draws: int, p: ArrayLike) -> np.ndarray:
    """`p` as float64 (K,); raises UserError unless it is a distribution and draws >= 1."""
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

    At equal n: 1 - exp(-n rate g_k), g_1 = 1, g_{k+1} = 1 - exp(-g_k), k = t + 1 (Suresh et al. 2024). If the mix holds
    all of R, a rate is 0 if and only if all of R is; else only generation 0 is known.
    """
    rows = followed(course)
    alive = np.ones(len(rows))  # entry t: probability that one count has descendants at generation t, going backwards
    for t in range(len(rows) - 1, 0, -1):
        alive[t:] = -np.expm1(-rows[t] / rows[t - 1] * alive[t:])
    alive = -np.expm1(-rows[0] * rate * alive)
    if course.paradigm in ("accumulate", "augment"):
        return np.repeat(alive, course.generations)
    survival = throughout(course, alive)
    assert survival is not None, "generation 0 is known for every rule"
    return survival


def mixture_bound(sigma: float, threshold: float, course: Course) -> np.ndarray | None:
    """(sigma / threshold) exp(-sum 1/(4 n)) >= Pr(standard deviation of fit t >= threshold), (G,), at most 1.

    For replace without real data, a Gaussian or a symmetric mixture of two Gaussians of standard deviation `sigma`, and
    bias <= 1. Source: Suresh et al. 2024 at equal n; docs/theory.md at unequal n.
    """
    if not course.plain:
        return None
    return np.minimum(1, sigma / threshold * np.exp(-np.cumsum(1 / (4 * course.chained))))


def bernoulli_bound(course: Course, p: float) -> np.ndarray:
    """Upper bound (G,) of Pr(p_t is neither 0 nor 1), under every rule.

    Markov's inequality for p_t (1 - p_t), which is then at least (1/n)(1 - 1/n). Source: docs/theory.md; for replace at
    equal n it is n²/(n-1) p (1-p) (1-1/n)^(t+1).
    """
    n = np.array([mix.size for mix in compositions(course)])
    spread = second_moments(course, p * (1 - p)).variance
    assert spread is not None, "known where R is random"
    return np.where(n > 1, np.minimum(1, spread * n**2 / np.maximum(n - 1, 1)), 0.0)
