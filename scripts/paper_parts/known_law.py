"""A model for scripts/paper.py: regression that also measures the distribution of y."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.stats import norm

from imgloop.analytic.regression import Regression
from imgloop.analytic.system import Quantity

CELLS, TAIL, SUPPORT = 10, 0.90, 0.999  # equal-probability cells of y as modes; quantiles of |y|


@dataclass(frozen=True)
class KnownLaw(Regression):
    """Regression that also measures the distribution of y, which is normal under the truth and under every fit.

    variance_ratio: variance of y over its true variance. mode_share_min: smallest cell share over its true share.
    tail_mass: mass between the .90 and .999 quantiles of |y|, over its true mass. off_support: rate beyond the .999
    quantile.
    """

    quantities: ClassVar[dict[str, Quantity]] = Regression.quantities | {
        "variance_ratio": Quantity("variance of y over its true one"),
        "mode_share_min": Quantity("smallest of ten cells over its true share"),
        "tail_mass": Quantity("tail of y over its true one"),
        "off_support": Quantity("rate of y beyond its true q.999"),
    }

    def measure(self, f):
        noise = self.noise**2
        true, fitted = np.sqrt(self.beta @ self.beta + noise), np.sqrt((f.weights**2).sum(1) + noise)
        z = (true / fitted)[:, None]  # scales true quantiles to standard deviations of the fit
        shares = np.diff(norm.cdf(norm.ppf(np.linspace(0, 1, CELLS + 1)) * z), axis=1) * CELLS
        tail, support = (2 * norm.sf(norm.isf((1 - q) / 2) * z[:, 0]) for q in (TAIL, SUPPORT))
        return super().measure(f) | {
            "variance_ratio": (fitted / true) ** 2,
            "mode_share_min": shares.min(1),
            "tail_mass": (tail - support) / (SUPPORT - TAIL),
            "off_support": support,
        }
