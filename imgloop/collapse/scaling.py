"""Definition 5: how the risk falls with the number of real samples N, at generation 0 and after the loop, and what of
that law the loop changed (Dohmatob et al. 2024; section 2 of Schaeffer et al. 2025).

    R_0(N) = a N^-b + c        log(R_t(N) / R_0(N)) = 5a + 5b (log N - mean log N)        5c = c_t - c_0
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from imgloop.collapse import statistics
from imgloop.collapse.definitions import late
from imgloop.collapse.thresholds import Thresholds
from imgloop.errors import UserError

GROUPS = 10  # a jackknife leaves out a chain at a time, or, of more chains, a tenth of them


@dataclass(frozen=True)
class Law:
    """R(N) = a N^-b + c."""

    a: float
    b: float
    c: float

    def __call__(self, n):
        return self.a * np.asarray(n, float) ** -self.b + self.c

    def size(self, risk):
        """The N at which the law has this risk; infinite at or under the floor c."""
        above = np.maximum(np.asarray(risk, float) - self.c, 0.0)
        with np.errstate(divide="ignore", over="ignore"):
            return (above / self.a) ** (-1 / self.b)


@dataclass(frozen=True)
class Part:
    """One part of the law's change with its 95 % t interval; `changed` where that does not hold `unchanged`."""

    name: str
    estimate: float
    low: float
    high: float
    unchanged: float

    @property
    def changed(self) -> bool:
        return bool(self.low > self.unchanged or self.high < self.unchanged)

    def said(self) -> str:
        span = f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.name} {span} {'changed' if self.changed else 'not shown to change'}"


@dataclass(frozen=True)
class ScalingLaw:
    """What the loop did to a scaling law, from S chains at each of `sizes`.

    before, after: laws of generation 0 and of the last generations over control. constant (5a): factor of the risk at
    the mean log N; slope (5b): of log(R_t / R_0) on log N; floor (5c): c_t - c_0. effective: N_eff / N at each size as
    (estimate, low, high), N_eff being the N at which generation 0 has the risk that the loop has at N.
    """

    sizes: tuple[float, ...]
    seeds: int
    before: Law
    after: Law
    constant: Part
    slope: Part
    floor: Part
    effective: tuple[tuple[float, float, float], ...]

    @property
    def parts(self) -> tuple[Part, Part, Part]:
        return self.constant, self.slope, self.floor

    def said(self) -> str:
        """The change in one line."""
        return "; ".join(p.said() for p in self.parts)

    def to_frame(self):
        """N_eff / N by size, as a pandas table; `extrapolated` where N_eff lies outside the sizes that were run."""
        import pandas as pd

        table = pd.DataFrame(self.effective, columns=["effective", "low", "high"])
        table.insert(0, "size", self.sizes)
        inside = (table["effective"] * table["size"]).between(min(self.sizes), max(self.sizes))
        return table.assign(extrapolated=~inside)

    def to_dict(self) -> dict:
        parts = {
            p.name: {"estimate": p.estimate, "low": p.low, "high": p.high, "changed": p.changed} for p in self.parts
        }
        rows = [
            {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in r.items()}
            for r in self.to_frame().to_dict("records")
        ]
        laws = {k: [law.a, law.b, law.c] for k, law in (("before", self.before), ("after", self.after))}
        return {"sizes": list(self.sizes), "seeds": self.seeds, **laws, "parts": parts, "effective": rows}


def scaling_law(sizes, treated, control=None, thresholds: Thresholds | None = None) -> ScalingLaw:
    """Fit the law before and after the loop and say what changed.

    sizes (N,); treated, control: risks above 0, float (S, N, G + 1); without a control the change is over generation 0
    alone. Chains with a missing value are left out. The constant and the slope are means over chains with t intervals;
    floor and N_eff / N come of one fit to all chains, with jackknife intervals (over chains).
    Raises UserError for fewer sizes than thresholds.sizes, risks that are not positive, or no whole chain.
    """
    h, sizes, treated = thresholds or Thresholds(), np.asarray(sizes, float), np.asarray(treated, float)
    control = np.broadcast_to(treated[..., :1], treated.shape) if control is None else np.asarray(control, float)
    if len(np.unique(sizes)) < h.sizes:
        raise UserError(f"A scaling law needs {h.sizes} different sizes, and there are {len(np.unique(sizes))}.")
    whole = np.isfinite(treated).all((1, 2)) & np.isfinite(control).all((1, 2))
    if not whole.any():
        raise UserError("No chain has a risk at every size and generation: there is nothing to fit.")
    treated, control = treated[whole], control[whole]
    if (treated <= 0).any() or (control <= 0).any():
        raise UserError("A risk is 0 or below, and has no logarithm: give risks above 0.")
    logs, theirs = np.log(treated), np.log(control)
    before = logs[..., 0]
    ratio = late(logs, h.window) - before - (late(theirs, h.window) - theirs[..., 0])  # (S, N)
    x = np.log(sizes) - np.log(sizes).mean()
    slopes = ratio @ x / (x @ x)
    constant = [float(np.exp(v)) for v in statistics.interval(ratio.mean(1))]
    slope = [float(v) for v in statistics.interval(slopes)]

    def fitted(rows):
        laws = [fit(sizes, logs.mean(0)) for logs in (before[rows], (before + ratio)[rows])]
        measured = np.exp((before + ratio)[rows].mean(0))
        with np.errstate(divide="ignore"):  # a risk that no size of the law reaches: of size 0
            return laws, np.array([laws[1].c - laws[0].c, *np.log(laws[0].size(measured) / sizes)])

    chains = np.arange(len(before))
    groups = np.array_split(chains, min(len(chains), GROUPS))
    (law, loop), found = fitted(chains)
    low, high = np.full((2, len(found)), np.nan)
    estimate = found
    if len(groups) > 1:
        left_out = np.stack([fitted(np.setdiff1d(chains, g))[1] for g in groups], -1)
        with np.errstate(invalid="ignore"):
            estimate, low, high = statistics.jackknifed(found, left_out)
        # the fit itself is shown, its bias correction not: an interval about the one contains the other
        low, high = low - estimate + found, high - estimate + found
    spans = [tuple(float(np.exp(v)) for v in row) for row in zip(found[1:], low[1:], high[1:])]
    return ScalingLaw(
        tuple(map(float, sizes)),
        len(chains),
        law,
        loop,
        Part("5a constant x", *constant, unchanged=1.0),
        Part("5b slope", *slope, unchanged=0.0),
        Part("5c floor", float(found[0]), float(low[0]), float(high[0]), unchanged=0.0),
        tuple(spans),
    )


def fit(sizes: np.ndarray, log_risk: np.ndarray) -> Law:
    """Least squares of log(a N^-b + c) on log risks (N,), a > 0, b >= 0, 0 <= c below the smallest risk."""
    x, least = np.log(sizes), np.exp(log_risk.min())

    def errors(p):
        return np.logaddexp(p[0] - p[1] * x, np.log(p[2] * least)) - log_risk

    slope, level = np.polyfit(x, log_risk, 1)
    starts = [(level, max(-slope, 0.05), share) for share in (1e-6, 0.3, 0.9)]
    bounds = ([-np.inf, 1e-3, 1e-9], [np.inf, 10.0, 1.0])
    best = min((least_squares(errors, s, bounds=bounds, xtol=1e-12, ftol=1e-12) for s in starts), key=lambda f: f.cost)
    return Law(float(np.exp(best.x[0])), float(best.x[1]), float(best.x[2] * least))
