"""Linear regression on targets drawn from the previous fit (Dohmatob et al. 2024; Gerstgrasser et al. 2024; appendix A
of Schaeffer et al. 2025); with paradigm=edit, the data editing of section 4.3 (Zhu et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from imgloop.analytic import theory
from imgloop.analytic.course import Course
from imgloop.analytic.system import ClosedForms, Quantity, System
from imgloop.config.fields import setting
from imgloop.contracts import Progress, no_progress
from imgloop.errors import UserError
from imgloop.pool import REAL, Pool, TrainingSet


@dataclass(frozen=True)
class Regression(System):
    """y = x beta + noise, x ~ N(0, I) in `dimension` d, noise of sd `noise`; the fit is ordinary least squares.

    A row of a pool is (x, y), float64 (d + 1,). `design` fixed: synthetic rows reuse the real x of their replicate, row
    by row; resampled: they draw new x.
    """

    dimension: int = setting(5, low=1)
    noise: float = setting(1.0, above=0)
    design: str = setting("fixed", choices=("fixed", "resampled"))

    quantities: ClassVar[dict[str, Quantity]] = {
        "excess": Quantity("excess risk", skewed=True),
        "excess_ratio": Quantity(
            "excess risk over the first fit's", skewed=True, log=True, mark=("π²/6, accumulate's limit", np.pi**2 / 6)
        ),
        "test_ratio": Quantity("risk on noisy targets over the first fit's", skewed=True),
    }

    @property
    def beta(self) -> np.ndarray:
        """The true coefficients, (d,), of length 1."""
        return np.full(self.dimension, self.dimension**-0.5)

    @property
    def exchangeable(self) -> bool:
        return self.design == "resampled"  # with a fixed design, row i has the x of real row i

    @property
    def width(self) -> int:
        return self.dimension + 1

    def check(self, trained, drawn, real):
        if self.design == "fixed" and max(drawn) > real:
            raise UserError(
                f"model.design=fixed draws a target for each of its {real} rows of x, and n_samples={max(drawn)} asks "
                "for more: lower n_samples, raise data.n, or use model.design=resampled.",
                "n_samples",
            )
        if min(trained) <= self.dimension + 1:
            t = int(np.argmin(trained))
            raise UserError(
                f"Generation {t} would fit {self.dimension} coefficients to {trained[t]} rows: the expected risk is "
                f"finite only for more than {self.dimension + 1} rows (T > d + 1); raise data.n, n_initial or "
                "n_samples, or lower model.dimension."
            )

    def draw(self, n, rng):
        x = rng.standard_normal((n, self.replicates, self.dimension))
        return self.rows(x, x @ self.beta, rng)

    def rows(self, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Pool:
        """Rows (n, R, d + 1) of x (n, R, d) and of y (n, R) with noise."""
        y = y + self.noise * rng.standard_normal(y.shape)
        return Pool(np.concatenate([x, y[:, :, None]], 2))

    def fit(self, data: TrainingSet, task=None, previous=None) -> Fitted:
        rows = np.ascontiguousarray(data.samples().swapaxes(0, 1))  # (R, n, d + 1)
        x, y = rows[..., :-1], rows[..., -1:]
        try:
            weights = np.linalg.solve(x.swapaxes(1, 2) @ x, x.swapaxes(1, 2) @ y)[..., 0]
        except np.linalg.LinAlgError as e:
            raise UserError(
                f"A mix of {len(data)} rows holds fewer than {self.dimension} different x, since with a fixed design "
                "pools share them: give more rows, or use model.design=resampled."
            ) from e
        real = data.pools[REAL].x if self.design == "fixed" else None
        return Fitted(weights, self, previous.first if previous else self.expected(len(data)), real)

    def expected(self, rows: int) -> float:
        """Expected excess risk of generation 0, fitted to that many rows."""
        return self.noise**2 * self.dimension / (rows - self.dimension - 1)

    def measure(self, f: Fitted) -> dict[str, np.ndarray]:
        excess, noise = ((f.weights - self.beta) ** 2).sum(1), self.noise**2
        return {
            "excess": excess,
            "excess_ratio": excess / f.first,
            "test_ratio": (excess + noise) / (f.first + noise),
        }

    def theory(self, course: Course, real: np.ndarray) -> ClosedForms:
        if course.paradigm == "edit":
            if self.design == "resampled":
                return {}
            x = real[: course.n_initial, :, :-1].swapaxes(0, 1)
            excess = theory.editing(course, x, self.noise)
        else:
            excess = theory.regression(course, self.dimension, self.noise, self.design)
        if excess is None:
            return {}
        first, noise = self.expected(course.n_initial), self.noise**2
        return {"excess": excess, "excess_ratio": excess / first, "test_ratio": (excess + noise) / (first + noise)}


@dataclass(frozen=True)
class Fitted:
    """Weights (R, d), expected excess risk of the first fit, and for a fixed design the real rows (N, R, d + 1), whose
    x get new targets."""

    weights: np.ndarray
    system: Regression
    first: float
    real: np.ndarray | None
    absorbed: ClassVar[bool] = False

    def sample(self, n: int, *, seed: int, y: np.ndarray | None = None, progress: Progress = no_progress) -> Pool:
        rng = np.random.default_rng(seed)
        if self.real is None:
            x = rng.standard_normal((n, *self.weights.shape))
        else:
            x = self.real[:n, :, :-1]
        return self.system.rows(x, np.einsum("nrd,rd->nr", x, self.weights), rng)
