"""Definition 5: the scaling law of the risk in the number of real samples N, at generation 0 and after the loop, and
how the loop changed it (Dohmatob et al. 2024; section 2 of Schaeffer et al. 2025).

    R_0(N) = a N^-b + c        log(R_t(N) / R_0(N)) = 5a + 5b (log N - mean log N)        5c = c_t - c_0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy.optimize import brentq, least_squares

from imgloop.collapse import statistics
from imgloop.collapse.definitions import late, read
from imgloop.errors import UserError
from imgloop.thresholds import Thresholds

GROUPS = 10  # the jackknife leaves out one of at most so many groups of chains at a time
NO_FLOOR = 1e-6  # share of the smallest risk below which a fitted floor is at its bound, 0


@dataclass(frozen=True)
class Law:
    """R(N) = a N^-b + c."""

    a: float
    b: float
    c: float

    def __call__(self, n):
        return self.a * np.asarray(n, float) ** -self.b + self.c

    def size(self, risk):
        """The N at which the law has this risk; infinite at or below the floor c."""
        above = np.maximum(np.asarray(risk, float) - self.c, 0.0)
        with np.errstate(divide="ignore", over="ignore"):
            return (above / self.a) ** (-1 / self.b)


@dataclass(frozen=True)
class Part:
    """One part of the law's change and its 95 % t interval; `changed`: the interval does not contain `unchanged`."""

    name: str
    estimate: float
    low: float
    high: float
    unchanged: float

    @property
    def changed(self) -> bool:
        return bool(self.low > self.unchanged or self.high < self.unchanged)

    def said(self) -> str:
        """The part in words."""
        if np.isnan(self.low):  # a single chain
            return f"{self.name} {self.estimate:.3g}"
        span = f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.name} {span} {'changed' if self.changed else 'not shown to change'}"


@dataclass(frozen=True)
class ScalingLaw:
    """The change of a scaling law by the loop, from S chains at each of `sizes`.

    before, after: laws of generation 0 and of the last generations over control. constant (5a): factor of the risk at
    the mean log N; slope (5b): of log(R_t / R_0) on log N; floor (5c): c_t - c_0. effective: N_eff / N at each size as
    (estimate, low, high); N_eff is the N at which generation 0 has the risk that the loop has at N.
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
        """The change in words, one line."""
        return "; ".join(p.said() for p in self.parts)

    def to_frame(self) -> Any:
        """N_eff / N by size, as a pandas table; `extrapolated`: N_eff is outside the sizes that were run."""
        import pandas as pd

        table: Any = pd.DataFrame(self.effective, columns=["effective", "low", "high"])
        table.insert(0, "size", self.sizes)
        inside = (table["effective"] * table["size"]).between(min(self.sizes), max(self.sizes))
        return table.assign(extrapolated=~inside)

    def to_dict(self) -> dict:
        """JSON-able values; NaN and infinity, such as the interval of one chain, become None."""

        def plain(values: dict) -> dict:
            return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in values.items()}

        names = ("estimate", "low", "high", "changed")
        parts = {p.name: plain({name: getattr(p, name) for name in names}) for p in self.parts}
        rows = [plain(row) for row in self.to_frame().to_dict("records")]
        laws = {k: [law.a, law.b, law.c] for k, law in (("before", self.before), ("after", self.after))}
        return {"sizes": list(self.sizes), "seeds": self.seeds, **laws, "parts": parts, "effective": rows}


def scaling_law(sizes, treated, control=None, thresholds: Thresholds | None = None) -> ScalingLaw:
    """Fit the law before and after the loop, and test what changed.

    sizes (N,); treated, control: risks, float (S, N, G + 1); without a control the change is relative to generation 0.
    Only generation 0 and the last thresholds.window generations are read; a chain that lacks one of them is left out.
    Constant and slope are means over chains with t intervals. Floor and N_eff / N come from one fit to all chains, the
    floor with an interval of score tests over chains (`floor_interval`), N_eff / N with a jackknife interval.
    Raises UserError for fewer sizes than thresholds.sizes, for risks that are not positive, and without a complete
    chain.
    """
    h, sizes, treated = thresholds or Thresholds(), np.asarray(sizes, float), np.asarray(treated, float)
    control = np.broadcast_to(treated[..., :1], treated.shape) if control is None else np.asarray(control, float)
    if len(np.unique(sizes)) < h.sizes:
        raise UserError(
            f"A scaling law needs {h.sizes} different sizes, and there are {len(np.unique(sizes))}: give more sizes."
        )
    treated, control = read(treated, h.window), read(control, h.window)
    complete = np.isfinite(treated).all((1, 2)) & np.isfinite(control).all((1, 2))
    if not complete.any():
        raise UserError(
            "No chain has a risk at every size, at generation 0 and the last ones: there is nothing to fit."
        )
    treated, control = treated[complete], control[complete]
    if (treated <= 0).any() or (control <= 0).any():
        raise UserError("Some risks are not positive, and have no logarithm: give risks above 0.")
    logs, control_logs = np.log(treated), np.log(control)
    before = logs[..., 0]
    ratio = late(logs, h.window) - before - (late(control_logs, h.window) - control_logs[..., 0])  # (S, N)
    x = np.log(sizes) - np.log(sizes).mean()
    slopes = ratio @ x / (x @ x)
    after = before + ratio
    constant = [float(np.exp(v)) for v in statistics.interval(ratio.mean(1))]
    slope = [float(v) for v in statistics.interval(slopes)]

    def fitted(rows):
        laws = [fit(sizes, logs.mean(0)) for logs in (before[rows], after[rows])]
        with np.errstate(divide="ignore"):  # log 0 for a risk that the law reaches at no size
            return laws, np.log(laws[0].size(np.exp(after[rows].mean(0))) / sizes)

    chains = np.arange(len(before))
    groups = np.array_split(chains, min(len(chains), GROUPS))
    (law, loop), effective = fitted(chains)
    low, high = np.full((2, len(effective)), np.nan)
    estimate = effective
    if len(groups) > 1:
        left_out = np.stack([fitted(np.setdiff1d(chains, g))[1] for g in groups], -1)
        with np.errstate(invalid="ignore"):
            estimate, low, high = statistics.jackknifed(effective, left_out)
        # The interval is centred on the fit, which is reported without the jackknife's bias correction.
        low, high = low - estimate + effective, high - estimate + effective
    with np.errstate(over="ignore"):  # a flat law has the same risk at every size
        spans = [(float(np.exp(e)), float(np.exp(lo)), float(np.exp(hi))) for e, lo, hi in zip(effective, low, high)]
    return ScalingLaw(
        tuple(map(float, sizes)),
        len(chains),
        law,
        loop,
        Part("5a constant x", *constant, unchanged=1.0),
        Part("5b slope", *slope, unchanged=0.0),
        Part("5c floor", loop.c - law.c, *floor_interval(sizes, before, after, law, loop), unchanged=0.0),
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
    level, slope, share = map(float, best.x)
    return Law(float(np.exp(level)), slope, share * float(least) if share > NO_FLOOR else 0.0)


def floor_interval(
    sizes: np.ndarray, before: np.ndarray, after: np.ndarray, law: Law, loop: Law
) -> tuple[float, float]:
    """95 % interval of c_t - c_0 from log risks (S, N), with `law` and `loop` fitted to their means; NaN for one chain.

    It contains every change that a score test does not reject, and the fitted one. Both laws are refitted with a given
    change, and a t-test over chains compares their one-step estimates of c_t - c_0 with it. To first order these do not
    depend on a, b and the common floor (Neyman 1959, C(alpha); one-step estimators: van der Vaart 1998, section 5.7),
    so that the bound c >= 0 does no harm. Resampling the bounded fit itself is not valid at its bound (Andrews 2000): a
    jackknife mistakes a change of slope for a change of the floor.
    """
    if len(before) < 2:
        return np.nan, np.nan

    fitted = loop.c - law.c

    def bounds(change: float) -> np.ndarray:
        """t interval (2,) of the chains' estimates of the change, minus the hypothetical `change`."""
        first, second = fit_apart(sizes, before.mean(0), after.mean(0), change)
        estimates = one_step(sizes, after, second) - one_step(sizes, before, first)
        return np.stack(statistics.interval(estimates - change)[1:])

    def end(side: int, sign: int, logs: np.ndarray) -> float:
        def inside(change):  # below 0 where the test rejects the change as too extreme
            return float(sign * bounds(change)[side])

        outer = sign * float(np.exp(statistics.interval(logs.T)[2].min()))  # a floor is below the risk at every size
        if inside(outer) >= 0:
            return outer
        for inner in (0.0, fitted):  # 0 first, where it is beyond the fitted change
            if sign * (inner - fitted) >= 0 and inside(inner) >= 0:
                return cast(float, brentq(inside, inner, outer, xtol=1e-5 * abs(outer)))
        return fitted

    return end(0, -1, before), end(1, 1, after)


def fit_apart(sizes: np.ndarray, before: np.ndarray, after: np.ndarray, change: float) -> list[Law]:
    """Least-squares laws of two rows of log risks (N,) whose floors, both at least 0, differ by `change`."""
    x, least, floors = np.log(sizes), np.exp(min(before.min(), after.min())), np.maximum((-change, change), 0.0)

    def laws(p):
        return [Law(np.exp(level), b, c + p[4] * least) for level, b, c in zip(p[:4:2], p[1:4:2], floors)]

    def errors(p):
        return np.log([law(sizes) for law in laws(p)]).ravel() - np.concatenate([before, after])

    def slopes(p):
        out = np.zeros((2, len(x), 5))
        for k, law in enumerate(laws(p)):
            falling, of_floor = tangents(law, sizes)
            out[k][:, 2 * k : 2 * k + 2], out[k][:, 4] = falling, least * of_floor
        return out.reshape(-1, 5)

    lines = (np.polyfit(x, logs, 1) for logs in (before, after))
    start = [v for slope, level in lines for v in (level, max(-slope, 0.05))]
    bounds = ([-np.inf, 1e-3, -np.inf, 1e-3, 0.0], [np.inf, 10.0, np.inf, 10.0, 1.0])
    return laws(least_squares(errors, [*start, 1e-3], cast(Any, slopes), bounds).x)


def tangents(law: Law, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of the log risk by (log a, b), (N, 2), and by c, (N,)."""
    risk = law(sizes)
    share = law.a * sizes**-law.b / risk
    return np.stack([share, -share * np.log(sizes)], -1), 1 / risk


def one_step(sizes: np.ndarray, logs: np.ndarray, law: Law) -> np.ndarray:
    """Each chain's estimate of the floor, (S,), from log risks (S, N): one Gauss-Newton step from `law` in a, b, c."""
    nuisance, direction = tangents(law, sizes)
    direction = direction - nuisance @ np.linalg.lstsq(nuisance, direction, rcond=None)[0]
    return law.c + (logs - np.log(law(sizes))) @ direction / (direction @ direction)
