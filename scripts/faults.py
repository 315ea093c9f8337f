"""Deliberate faults of the loop, each with the chains (twins) in which a comparison with theory must detect it.

A fault is a function that returns a context manager; inside it, imgloop is broken in one way.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np

from imgloop import paradigm
from imgloop.analytic import gaussian, kde, regression
from imgloop.analytic.bernoulli import Bernoulli
from imgloop.analytic.discrete import Discrete
from imgloop.analytic.gaussian import Gaussian
from imgloop.analytic.poisson import Poisson
from imgloop.chain.base import ChainFolder
from imgloop.curation.verifier import Verifier
from imgloop.paradigm import Edit, Paradigm, RealOnly, concatenate, rows_of
from imgloop.pool import REAL, Mix, Pool

# -- In the seeds and the mixing rules --------------------------------------------------------------------------------


def reused_latents():
    """Every generation draws from the same latents: the seed of its samples ignores t."""
    seed = ChainFolder.seed

    def of(chain, t, purpose):
        return seed(chain, None if purpose == "sample" else t, purpose)

    return patch.object(ChainFolder, "seed", of)


def reused_indices():
    """Every generation draws the same rows: the seed of its mix ignores t."""
    seed = ChainFolder.seed

    def of(chain, t, purpose):
        return seed(chain, None if purpose == "mix" else t, purpose)

    return patch.object(ChainFolder, "seed", of)


def real_dropped():
    """No mix after generation 0 contains R."""
    real = Paradigm.real

    def of(rule, sizes, t, replicates):
        return real(rule, sizes, t, replicates) if t == 0 else rows_of(REAL, 0, replicates)

    return patch.object(Paradigm, "real", of)


def real_again():
    """R takes the place of the newest pool."""
    return patch.object(Paradigm, "newest", lambda rule, sizes, t, replicates: rows_of(REAL, sizes[t - 1], replicates))


def newest_left_out():
    """The accumulated data without the newest pool."""

    def of(rule, sizes, t, replicates):
        return concatenate(rule.real(sizes, t, replicates), *(rows_of(s, sizes[s], replicates) for s in range(t - 1)))

    return patch.object(Paradigm, "everything", of)


def with_replacement():
    """A row can be drawn more than once."""
    return drawing(lambda total, n, replicates, rng: rng.integers(total, size=(n, replicates)))


def first_rows():
    """The first rows are used instead of random rows."""
    return drawing(lambda total, n, replicates, rng: np.arange(n)[:, None])


def weights_dropped():
    """Real rows have the weight of others."""
    return patch.object(Paradigm, "weighted", lambda rule, mix, t: mix)


def verifier_unbiased():
    """The verifier takes the real mean for its reference, whatever its bias."""
    judge = Verifier.__call__
    return patch.object(Verifier, "__call__", lambda v, *arguments: judge(replace(v, bias=0.0), *arguments))


def shared_rows():
    """All replicates draw the same rows.

    Each replicate alone still has the right distribution, but replicates are no longer independent, so their mean
    differs from theory by more than its standard error. This shows if few rows are drawn, so that the choice matters,
    and there are many replicates, so that the standard error is small.
    """
    return drawing(lambda total, n, replicates, rng: rng.permutation(total)[:n, None])


def drawing(choose: Callable) -> AbstractContextManager:
    """Random rows become choose(total, n, replicates, rng), (n, replicates) or (n, 1)."""

    def subsample(mix, n, rng):
        total, replicates = mix.row.shape
        pick = np.broadcast_to(choose(total, n, replicates, rng), (n, replicates))
        return Mix(np.take_along_axis(mix.origin, pick, 0), np.take_along_axis(mix.row, pick, 0))

    return patch.object(paradigm, "subsample", subsample)


def seen_rows():
    """Fresh real rows are replaced by the first ones, which earlier generations have seen."""
    return patch.object(paradigm, "rows_of", lambda origin, n, replicates, first=0: rows_of(origin, n, replicates))


def edits_renewed():
    """Every row that was ever edited is edited again, with samples of the newest pool."""
    later = Edit.later

    def of(rule, sizes, t, rng, replicates):
        mix = later(rule, sizes, t, rng, replicates)
        return Mix(np.where(mix.origin == REAL, REAL, t - 1), mix.row)

    return patch.object(Edit, "later", of)


def control_contaminated():
    """The control is trained on the newest pool."""
    return patch.object(RealOnly, "later", lambda rule, sizes, t, rng, replicates: rule.newest(sizes, t, replicates))


# -- In the systems ---------------------------------------------------------------------------------------------------


def other_divisor():
    """A Gaussian's variance is divided by n - 1 instead of n, or the other way round."""
    fit = Gaussian.fit

    def of(system, data, task=None, previous=None):
        return fit(replace(system, unbiased=not system.unbiased), data)

    return patch.object(Gaussian, "fit", of)


def bias_twice():
    """The sampling bias lambda is applied twice."""
    return sampled(gaussian.Fitted, lambda f: replace(f, bias=f.bias**2))


def clipped():
    """A Gaussian's samples are clipped to 0..1, as images are."""
    sample = gaussian.Fitted.sample

    def of(f, n, **options):
        return Pool(np.clip(sample(f, n, **options).x, 0, 1))

    return patch.object(gaussian.Fitted, "sample", of)


def smoothed():
    """Each outcome of a discrete distribution is counted once more than it was drawn."""
    return fitted(Discrete, lambda f, n: replace(f, p=(n * f.p + 1) / (n + f.p.shape[1])))


@contextmanager
def miscounted():
    """A coin's probability and a Poisson rate are divided by n + 1 instead of n."""
    coin = fitted(Bernoulli, lambda f, n: replace(f, p=f.p * n / (n + 1)))
    rate = fitted(Poisson, lambda f, n: replace(f, rate=f.rate * n / (n + 1)))
    with coin, rate:
        yield


def kernel_twice():
    """A kernel density's noise is added twice."""
    return sampled(kde.Fitted, lambda f: replace(f, bandwidth=2**0.5 * f.bandwidth))


def quieter_targets():
    """The noise of a regression's synthetic targets is multiplied by 0.9."""
    return sampled(regression.Fitted, lambda f: replace(f, system=replace(f.system, noise=0.9 * f.system.noise)))


def fitted(system: type, changed: Callable) -> AbstractContextManager:
    """Replace each fit f to n rows by changed(f, n)."""
    fit = system.fit

    def of(self, data, task=None, previous=None):
        return changed(fit(self, data, task, previous), len(data))

    return patch.object(system, "fit", of)


def sampled(generator: type, changed: Callable) -> AbstractContextManager:
    """Replace the samples of each fit f by those of changed(f)."""
    sample = generator.sample

    def of(f, n, **options):
        return sample(changed(f), n, **options)

    return patch.object(generator, "sample", of)


# -- The twins --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Twin:
    """A chain, given by its overrides, whose `quantities` agree with theory, but not with the fault."""

    fault: Callable[[], AbstractContextManager]
    chain: str
    quantities: str

    @property
    def name(self) -> str:
        return self.fault.__name__

    @property
    def oracle(self) -> str:
        """The overrides that select the closed form: all except sizes."""
        sizes = ("data.n=", "generations=", "model.replicates=", "n_initial=")
        return " ".join(o for o in self.chain.split() if not o.startswith(sizes))


TWINS = (
    Twin(
        reused_latents,
        "model=gaussian paradigm=replace data.n=10 generations=6 model.replicates=2000",
        "mean_part variance w2 covariance_part",
    ),
    Twin(
        other_divisor,
        "model=gaussian model.unbiased=true paradigm=replace data.n=10 generations=8 model.replicates=4000",
        "mean_part variance w2 log_variance",
    ),
    Twin(
        other_divisor,
        "model=gaussian model.dimension=2 paradigm=replace data.n=10 generations=6 model.replicates=4000",
        "mean_part variance log_variance",
    ),
    Twin(
        bias_twice,
        "model=gaussian model.unbiased=true model.bias=0.8 paradigm=replace data.n=10 generations=6 "
        "model.replicates=2000",
        "mean_part variance w2 covariance_part log_variance",
    ),
    Twin(
        real_again,
        "model=gaussian paradigm=replace data.n=5 generations=60 model.replicates=1000",
        "wide",
    ),
    Twin(
        reused_indices,
        "model=gaussian paradigm=replace real_fraction=0.5 data.n=10 generations=8 model.replicates=8000",
        "mean_part",
    ),
    Twin(
        first_rows,
        "model=gaussian paradigm=replace real_fraction=0.5 data.n=10 generations=8 model.replicates=8000",
        "mean_part variance",
    ),
    Twin(
        newest_left_out,
        "model=gaussian paradigm=accumulate data.n=10 generations=6 model.replicates=12000",
        "mean_part variance",
    ),
    Twin(
        with_replacement,
        "model=gaussian paradigm=accumulate_subsample data.n=6 generations=6 model.replicates=8000",
        "mean_part variance",
    ),
    Twin(
        shared_rows,
        "model=gaussian paradigm=accumulate_subsample budget=4 data.n=8 generations=8 model.replicates=20000",
        "mean_part variance",
    ),
    Twin(
        reused_indices,
        "model=gaussian paradigm=stratified data.n=12 generations=6 model.replicates=8000",
        "mean_part",
    ),
    Twin(
        real_dropped,
        "model=gaussian paradigm=augment data.n=10 generations=6 model.replicates=2000",
        "mean_part variance",
    ),
    Twin(
        with_replacement,
        "model=gaussian paradigm=augment n_synthetic=9 data.n=10 generations=6 model.replicates=8000",
        "mean_part",
    ),
    Twin(
        seen_rows,
        "model=gaussian paradigm=fresh n_initial=10 data.n=60 generations=6 model.replicates=4000",
        "mean_part variance",
    ),
    Twin(
        edits_renewed,
        "model=gaussian paradigm=edit edit_fraction=0.25 data.n=12 generations=12 model.replicates=6000",
        "mean_part variance",
    ),
    Twin(
        control_contaminated,
        "model=gaussian paradigm=real_only data.n=10 generations=4 model.replicates=2000",
        "mean_part variance",
    ),
    Twin(
        clipped,
        "model=gaussian data=digits paradigm=replace n_initial=50 generations=3 model.replicates=50",
        "variance",
    ),
    Twin(
        real_dropped,
        "model=gaussian data=digits paradigm=augment n_initial=30 generations=6 model.replicates=100",
        "mean_part variance",
    ),
    Twin(
        seen_rows, "model=gaussian_mean paradigm=fresh n_initial=40 data.n=600 model.replicates=4000", "echo_1 echo_2"
    ),
    Twin(
        weights_dropped,
        "model=gaussian_mean paradigm=fresh real_weight=4 n_initial=10 data.n=60 generations=6 model.replicates=8000",
        "square",
    ),
    Twin(
        weights_dropped,
        "model=gaussian_mean paradigm=replace real_fraction=0.5 real_weight=4 data.n=10 generations=6 "
        "model.replicates=8000",
        "square",
    ),
    Twin(
        verifier_unbiased,
        "model=gaussian_mean paradigm=replace curation=verifier curation.bias=0.5 data.n=20 n_samples=100 "
        "generations=5 model.replicates=1000",
        "mean square",
    ),
    Twin(
        reused_latents,
        "model=discrete model.p=[0.3,0.7] paradigm=replace data.n=10 generations=10 model.replicates=2000",
        "heterozygosity squared_error collapsed",
    ),
    Twin(
        smoothed,
        "model=discrete model.outcomes=5 paradigm=replace data.n=10 generations=6 model.replicates=1000",
        "heterozygosity squared_error entropy survivors",
    ),
    Twin(
        newest_left_out,
        "model=discrete paradigm=accumulate data.n=10 generations=5 model.replicates=4000",
        "heterozygosity squared_error",
    ),
    Twin(
        miscounted,
        "model=bernoulli model.p=0.3 paradigm=replace data.n=10 generations=200 model.replicates=10000",
        "p variance collapsed collapse_time",
    ),
    Twin(
        reused_latents,
        "model=bernoulli paradigm=replace data.n=5 generations=20 model.replicates=1000",
        "alive",
    ),
    Twin(
        miscounted,
        "model=poisson paradigm=replace data.n=10 generations=20 model.replicates=4000",
        "rate squared_error alive",
    ),
    Twin(
        with_replacement,
        "model=poisson paradigm=accumulate_subsample data.n=10 generations=6 model.replicates=6000",
        "squared_error",
    ),
    Twin(
        kernel_twice,
        "model=kde paradigm=replace data.n=10 generations=8 model.replicates=4000",
        "variance mean_part density_variance",
    ),
    Twin(
        newest_left_out,
        "model=kde model.bandwidth=1.0 paradigm=accumulate data.n=10 generations=8 model.replicates=4000",
        "variance mean_part density_variance",
    ),
    Twin(
        reused_latents,
        "model=mixture model.threshold=0.5 paradigm=replace data.n=5 generations=60 model.replicates=1000",
        "wide",
    ),
    Twin(
        quieter_targets,
        "model=regression model.design=fixed paradigm=replace data.n=30 generations=10 model.replicates=4000",
        "excess excess_ratio test_ratio",
    ),
    Twin(
        quieter_targets,
        "model=regression model.design=resampled paradigm=replace data.n=30 generations=10 model.replicates=4000",
        "excess excess_ratio test_ratio",
    ),
    Twin(
        newest_left_out,
        "model=regression model.design=fixed paradigm=accumulate data.n=20 generations=5 model.replicates=4000",
        "excess excess_ratio test_ratio",
    ),
    Twin(
        reused_latents,
        "model=regression model.design=resampled paradigm=accumulate data.n=20 generations=6 model.replicates=2000",
        "excess excess_ratio test_ratio",
    ),
    Twin(
        real_dropped,
        "model=regression model.design=fixed paradigm=augment data.n=20 generations=5 model.replicates=2000",
        "excess excess_ratio test_ratio",
    ),
    Twin(
        control_contaminated,
        "model=regression model.design=resampled paradigm=real_only data.n=20 generations=4 model.replicates=2000",
        "excess excess_ratio test_ratio",
    ),
    Twin(
        edits_renewed,
        "model=regression paradigm=edit edit_fraction=0.2 data.n=20 generations=10 model.replicates=1000",
        "excess excess_ratio test_ratio",
    ),
    Twin(
        edits_renewed,
        "model=regression paradigm=edit edit_fraction={start:0.4,factor:0.5} data.n=20 generations=6 "
        "model.replicates=2000",
        "excess excess_ratio test_ratio",
    ),
)
