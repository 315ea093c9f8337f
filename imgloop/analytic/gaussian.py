"""A Gaussian refitted to its own samples (Shumailov et al. 2023; section 2.1 of Schaeffer et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from imgloop.analytic import theory
from imgloop.analytic.course import Course
from imgloop.analytic.system import ClosedForms, Quantity, System
from imgloop.config.fields import setting
from imgloop.contracts import Progress, no_progress
from imgloop.errors import UserError
from imgloop.pool import Pool, TrainingSet


@dataclass(frozen=True)
class Truth:
    """Mean (d,) and covariance (d, d) that fits are measured against; `image` is the shape (C, H, W) of R's images, or
    None where R is drawn from a law."""

    mean: np.ndarray
    covariance: np.ndarray
    image: tuple[int, ...] | None = None

    @property
    def given(self) -> bool:
        """Whether R is given: the same real images in every replicate."""
        return self.image is not None


@dataclass(frozen=True)
class Gaussian(System):
    """N(mean, covariance) by maximum likelihood (divisor n), or `unbiased` (divisor n - 1); in `dimension` d.

    The true law is N(0, I). `bias` is the sampling bias lambda: synthetic data have lambda times the fitted covariance.
    On images the truth is the mean and covariance of R in pixel space, pixels from 0 to 1, neither rounded nor clipped.
    """

    dimension: int = setting(1, low=1)
    unbiased: bool = setting(False)
    bias: float = setting(1.0, above=0)
    truth: Truth | None = None

    quantities: ClassVar[dict[str, Quantity]] = {
        "w2": Quantity("risk: squared Wasserstein distance", skewed=True),
        "mean_part": Quantity("its mean part", skewed=True),
        "covariance_part": Quantity("its covariance part", skewed=True),
        "variance": Quantity("fitted variance (trace)", skewed=True),
        "log_variance": Quantity("log of fitted variance"),
        "wide": Quantity("share with half the true sd or more", kind="bound"),
    }
    takes_images: ClassVar[bool] = True
    WIDE: ClassVar[float] = 0.5

    @cached_property
    def target(self) -> Truth:
        """The law that fits are measured against."""
        return self.truth or Truth(np.zeros(self.dimension), np.eye(self.dimension))

    @property
    def width(self) -> int:
        return self.dimension

    @property
    def state(self) -> int:
        return self.dimension**2

    def check(self, trained, drawn, real):
        if min(trained) < 2:
            t = int(np.argmin(trained))
            raise UserError(
                f"Generation {t} would fit a variance to {trained[t]} row (n = 1), which needs 2 or more: raise "
                "data.n, n_initial or n_samples."
            )

    def images(self, x, n_initial):
        if self.dimension != 1:
            raise UserError(
                f"model.dimension={self.dimension}: with images it is their number of pixels; leave it out.",
                "model.dimension",
            )
        image, x = x.shape[1:], x.reshape(len(x), -1) / 255.0
        real = x[:n_initial]
        truth = Truth(real.mean(0), np.atleast_2d(np.cov(real.T, bias=True)), image)
        pool = Pool(np.broadcast_to(x[:, None], (len(x), self.replicates, x.shape[1])))
        return replace(self, dimension=x.shape[1], truth=truth), pool

    def draw(self, n, rng):
        return Pool(rng.standard_normal((n, self.replicates, self.dimension)))

    def fit(self, data: TrainingSet, task=None, previous=None) -> Fitted:
        x = data.samples()
        n, mean = len(x), x.mean(0)
        x -= mean
        divisor = n - 1 if self.unbiased else n
        if self.dimension == 1:
            covariance = (np.einsum("nrd,nrd->rd", x, x) / divisor)[:, :, None]
        else:
            x = np.ascontiguousarray(x.swapaxes(0, 1))  # (R, n, d)
            covariance = x.swapaxes(1, 2) @ x / divisor
        return Fitted(mean, covariance, self.bias)

    def pictures(self, pool):
        if self.target.image is None:
            return None
        return np.rint(255 * np.clip(pool.x[:, 0].reshape(-1, *self.target.image), 0, 1)).astype(np.uint8)

    def measure(self, f: Fitted) -> dict[str, np.ndarray]:
        truth, d = self.target, self.dimension
        mean_part = ((f.mean - truth.mean) ** 2).sum(1)
        variance = np.trace(f.covariance, axis1=1, axis2=2)
        if d == 1:
            scale = truth.covariance[0, 0]
            cross, ratio = np.sqrt(scale * f.covariance[:, 0, 0]), f.covariance[:, 0, 0] / scale
        else:
            root = square_root(truth.covariance[None])[0]
            cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ f.covariance @ root), 0)).sum(1)
            ratio = variance / np.trace(truth.covariance)
        covariance_part = np.trace(truth.covariance) + variance - 2 * cross
        with np.errstate(divide="ignore"):
            values = {
                "w2": mean_part + covariance_part,
                "mean_part": mean_part,
                "covariance_part": covariance_part,
                "variance": variance,
            }
            if d == 1:
                values["log_variance"] = np.log(ratio)
                values["wide"] = np.where(np.isnan(ratio), np.nan, ratio >= self.WIDE**2)
            elif not truth.given:
                values["log_variance"] = np.linalg.slogdet(f.covariance)[1] / d
        return values

    def theory(self, course: Course, real: np.ndarray) -> ClosedForms:
        bias, unbiased, given = self.bias, self.unbiased, self.target.given
        scale = float(np.trace(self.target.covariance))
        moments = theory.second_moments(course, scale, bias=bias, unbiased=unbiased, fixed_real=given)
        risk = None
        if self.dimension == 1 and not given:
            risk = theory.wasserstein(course, scale, bias, unbiased)
        return {
            "w2": None if risk is None else risk[0] + risk[1],
            "mean_part": moments.mean_square,
            "covariance_part": None if risk is None else risk[1],
            "variance": moments.variance,
            "log_variance": None if given else theory.log_variance(course, self.dimension, bias, unbiased),
            "wide": theory.mixture_bound(1.0, self.WIDE, course) if bias <= 1 and not given else None,
        }

    def comparable(self, course: Course, theory: ClosedForms) -> dict[str, np.ndarray]:
        """Moments for t <= n: after t refits the log of the variance has a variance of about 2 t / n. The log of the
        variance as long as float64 resolves the sd beside the mean."""
        spread = np.cumsum(2 / course.chained)  # variance of the log under replace
        short = spread <= 2 if course.paradigm in ("replace", "edit") else np.ones(course.generations, bool)
        generations = {"w2": short, "mean_part": short, "covariance_part": short, "variance": short}
        mean_part, log_variance = theory["mean_part"], theory["log_variance"]
        if self.target.given and mean_part is not None:  # a fit to R itself differs from R by rounding alone
            generations["mean_part"] = short & (mean_part > 1e-12 * np.trace(self.target.covariance))
        if log_variance is not None:
            resolved = log_variance - 6 * np.sqrt(spread) > 2 * np.log(1e-13)
            generations["log_variance"] = resolved | (course.paradigm != "replace")
        return generations


@dataclass(frozen=True)
class Fitted:
    """Means (R, d) and covariances (R, d, d), float64; samples have `bias` times the covariance."""

    mean: np.ndarray
    covariance: np.ndarray
    bias: float

    @property
    def absorbed(self) -> bool:
        return not self.covariance.any()

    def sample(self, n: int, *, seed: int, y: np.ndarray | None = None, progress: Progress = no_progress) -> Pool:
        noise = np.random.default_rng(seed).standard_normal((n, *self.mean.shape))
        if self.mean.shape[1] == 1:
            noise *= np.sqrt(self.bias * self.covariance[:, 0])
        else:
            roots = square_root(self.bias * self.covariance)
            noise = np.ascontiguousarray((noise.swapaxes(0, 1) @ roots).swapaxes(0, 1))
        noise += self.mean
        return Pool(noise)


def square_root(matrices: np.ndarray) -> np.ndarray:
    """Symmetric square roots of positive semidefinite matrices (R, d, d)."""
    values, vectors = np.linalg.eigh(matrices)
    return (vectors * np.sqrt(np.maximum(values, 0))[:, None, :]) @ vectors.swapaxes(1, 2)
