"""Definition 5: how the risk falls with the number of real samples N, at generation 0 and after the loop, and what of
that law the loop changed (Dohmatob et al. 2024; section 2 of Schaeffer et al. 2025).

    R_0(N) = a N^-b + c        log(R_t(N) / R_0(N)) = 5a + 5b (log N - mean log N)        5c = c_t - c_0
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, least_squares

from imgloop.collapse import statistics
from imgloop.collapse.definitions import late, read
from imgloop.errors import UserError
from imgloop.thresholds import Thresholds

GROUPS = 10  # a jackknife leaves out a chain at a time, or, of more chains, a tenth of them
NO_FLOOR = 1e-6  # of the smallest risk: a fitted floor below it is the bound, 0


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
        if np.isnan(self.low):  # of one chain
            return f"{self.name} {self.estimate:.3g}"
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
        """JSON-able; what is not finite, such as an interval of one chain, is None."""

        def plain(values: dict) -> dict:
            return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in values.items()}

        names = ("estimate", "low", "high", "changed")
        parts = {p.name: plain({name: getattr(p, name) for name in names}) for p in self.parts}
        rows = [plain(row) for row in self.to_frame().to_dict("records")]
        laws = {k: [law.a, law.b, law.c] for k, law in (("before", self.before), ("after", self.after))}
        return {"sizes": list(self.sizes), "seeds": self.seeds, **laws, "parts": parts, "effective": rows}


def scaling_law(sizes, treated, control=None, thresholds: Thresholds | None = None) -> ScalingLaw:
    """Fit the law before and after the loop and say what changed.

    sizes (N,); treated, control: risks, float (S, N, G + 1); without a control the change is over generation 0 alone.
    Only generation 0 and the last thresholds.window ones are read: risks above 0, and a chain that misses one is left
    out. Constant and slope are means over chains with t intervals; floor and N_eff / N come of one fit to all chains,
    the floor with an interval of score tests (`floor_interval`), N_eff / N with jackknife ones, all over chains.
    Raises UserError for fewer sizes than thresholds.sizes, risks that are not positive, or no whole chain.
    """
    h, sizes, treated = thresholds or Thresholds(), np.asarray(sizes, float), np.asarray(treated, float)
    control = np.broadcast_to(treated[..., :1], treated.shape) if control is None else np.asarray(control, float)
    if len(np.unique(sizes)) < h.sizes:
        raise UserError(f"A scaling law needs {h.sizes} different sizes, and there are {len(np.unique(sizes))}.")
    treated, control = read(treated, h.window), read(control, h.window)
    whole = np.isfinite(treated).all((1, 2)) & np.isfinite(control).all((1, 2))
    if not whole.any():
        raise UserError("No chain has a risk at every size at generation 0 and the last ones: there is nothing to fit.")
    treated, control = treated[whole], control[whole]
    if (treated <= 0).any() or (control <= 0).any():
        raise UserError("A risk is 0 or below, and has no logarithm: give risks above 0.")
    logs, theirs = np.log(treated), np.log(control)
    before = logs[..., 0]
    ratio = late(logs, h.window) - before - (late(theirs, h.window) - theirs[..., 0])  # (S, N)
    x = np.log(sizes) - np.log(sizes).mean()
    slopes = ratio @ x / (x @ x)
    after = before + ratio
    constant = [float(np.exp(v)) for v in statistics.interval(ratio.mean(1))]
    slope = [float(v) for v in statistics.interval(slopes)]

    def fitted(rows):
        laws = [fit(sizes, logs.mean(0)) for logs in (before[rows], after[rows])]
        with np.errstate(divide="ignore"):  # a risk that no size of the law reaches: of size 0
            return laws, np.log(laws[0].size(np.exp(after[rows].mean(0))) / sizes)

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
    with np.errstate(over="ignore"):  # a flat law has any risk at any size
        spans = [tuple(float(np.exp(v)) for v in row) for row in zip(found, low, high)]
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


def floor_interval(sizes: np.ndarray, before: np.ndarray, after: np.ndarray, law: Law, loop: Law):
    """95 % interval of c_t - c_0 from log risks (S, N), `law` and `loop` being fitted to their means; NaN of one chain.

    It holds every change that a score test does not reject, and the fitted one. Both laws are refitted with the change
    given, and a t-test over chains asks whether their one-step estimates of c_t - c_0 differ from it on average. To
    first order these do not depend on a, b and the common floor (Neyman 1959, C(alpha); one-step estimators: van der
    Vaart 1998, section 5.7), so that the bound c >= 0 does no harm. Resampling the bounded fit itself is not valid at
    its bound (Andrews 2000): a jackknife calls a mere change of slope one of the floor.
    """
    if len(before) < 2:
        return np.nan, np.nan

    found = loop.c - law.c

    def bounds(change: float) -> np.ndarray:
        """t interval (2,) of what the chains say the change is, less the `change` that is supposed."""
        first, second = fit_apart(sizes, before.mean(0), after.mean(0), change)
        said = one_step(sizes, after, second) - one_step(sizes, before, first)
        return np.stack(statistics.interval(said - change)[1:])

    def end(side: int, sign: int, logs: np.ndarray) -> float:
        def inside(change):  # below 0 where the test rejects the change for being too far out
            return float(sign * bounds(change)[side])

        outer = sign * float(np.exp(statistics.interval(logs.T)[2].min()))  # a floor is below the risk at every size
        if inside(outer) >= 0:
            return outer
        for inner in (0.0, found):  # 0 too, if it lies further out
            if sign * (inner - found) >= 0 and inside(inner) >= 0:
                return brentq(inside, inner, outer, xtol=1e-5 * abs(outer))
        return found

    return end(0, -1, before), end(1, 1, after)


def fit_apart(sizes: np.ndarray, before: np.ndarray, after: np.ndarray, change: float) -> list[Law]:
    """Least-squares laws of two rows of log risks (N,) whose floors, neither below 0, differ by `change`."""
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
    return laws(least_squares(errors, [*start, 1e-3], slopes, bounds).x)


def tangents(law: Law, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of the log risk by (log a, b), (N, 2), and by c, (N,)."""
    risk = law(sizes)
    share = law.a * sizes**-law.b / risk
    return np.stack([share, -share * np.log(sizes)], -1), 1 / risk


def one_step(sizes: np.ndarray, logs: np.ndarray, law: Law) -> np.ndarray:
    """What each chain's log risks (S, N) say the floor is, (S,): a Gauss-Newton step from `law`, all free."""
    nuisance, direction = tangents(law, sizes)
    direction = direction - nuisance @ np.linalg.lstsq(nuisance, direction, rcond=None)[0]
    return law.c + (logs - np.log(law(sizes))) @ direction / (direction @ direction)
