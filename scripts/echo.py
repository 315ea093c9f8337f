"""python scripts/echo.py STUDY [--measure risk] [--figure FILE]: do errors of image chains fade as theory says?

Of chains that train on a constant share a of new real data, at equal sizes (experiment=study/echo): the excess of a
measure over the control, by generation, beside two laws that have one free number e for all shares together.

noise: each fit adds an independent error, of which (1 - a)^m is left after m generations, so that the excess of its
square is e sum_{m=1..t} (1 - a)^(2m) (arXiv 2602.16601).
bias: each fit adds the same error, so that errors add up before they are squared: e ((sum_{m=0..t} (1 - a)^m)^2 - 1).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markdown_table import table

from imgloop import figures
from imgloop.collapse.statistics import Moments
from imgloop.collapse.tables import parts
from imgloop.errors import UserError
from imgloop.measures import MEASURES
from imgloop.study.progress import incomplete, progress
from imgloop.study.study import Study


def noise(a: float, t: np.ndarray) -> np.ndarray:
    """The excess at generations t (T,) for e = 1, if errors are independent."""
    return np.array([((1 - a) ** (2 * np.arange(1, k + 1))).sum() for k in t])


def bias(a: float, t: np.ndarray) -> np.ndarray:
    """The excess at generations t (T,) for e = 1, if errors are equal."""
    return np.array([((1 - a) ** np.arange(k + 1)).sum() ** 2 - 1 for k in t])


LAWS: dict[str, Callable[[float, np.ndarray], np.ndarray]] = {"noise": noise, "bias": bias}


@dataclass(frozen=True)
class Course:
    """The excess of a share's chains over their controls at generations 1 to G: mean and standard error (G,)."""

    share: float
    seeds: int
    mean: np.ndarray
    sem: np.ndarray

    @property
    def t(self) -> np.ndarray:
        return np.arange(1, len(self.mean) + 1)


def courses(frame: Any, measure: str) -> list[Course]:
    """The courses of a study's shares, the smallest share first; raises UserError for a study without a control or with
    several, where no condition has a constant real share, and where one has no whole chain of a seed of the control."""
    if measure not in frame or not frame[measure].notna().any():
        raise UserError(f"{measure} was not measured.")
    series = frame.pivot_table(index=["condition", "seed"], columns="generation", values=measure)
    controls = [c for c in frame["condition"].unique() if parts(c)[0] == "real_only"]
    if len(controls) != 1:
        raise UserError(
            f"The study needs one condition real_only, with which the others are compared; it has "
            f"{' and '.join(controls) or 'none'}."
        )
    (control,) = controls
    found = []
    for condition, part in frame[frame["generation"] > 0].groupby("condition", sort=False):
        shares = part["real_share"].unique()
        if condition != control and np.ptp(shares) < 1e-9:
            excess = (series.loc[condition] - series.loc[control]).dropna().to_numpy()[:, 1:]
            if not len(excess):
                raise UserError(
                    f"No seed has all {series.shape[1]} generations of {condition} and {control}: run the study to "
                    "its end."
                )
            moments = Moments.of(excess.T)
            found.append(Course(float(shares[0]), len(excess), moments.mean, moments.sem))
    if not found:
        raise UserError("No condition has a constant share of real data.")
    return sorted(found, key=lambda c: c.share)


def fitted(found: list[Course], law: Callable[[float, np.ndarray], np.ndarray]) -> tuple[float, float]:
    """The e of least squares over all shares and generations, and the share of the squares that it leaves."""
    x, y = (np.concatenate(v) for v in ([law(c.share, c.t) for c in found], [c.mean for c in found]))
    e = float(x @ y / (x @ x))
    return e, float(((y - e * x) ** 2).sum() / (y**2).sum())


def drawn(found: list[Course], measure: str) -> bytes:
    """PNG: a panel for each share, with means, standard errors and both laws."""
    fits = {name: fitted(found, law)[0] for name, law in LAWS.items()}
    label = MEASURES[measure].label if measure in MEASURES else measure
    labels = ["image chains, mean ± standard error", *(f"{name}, one e for all shares" for name in LAWS)]
    figure, axes = figures.sheet(len(found), f"{label}: excess over real_only, by share a of new real data", labels)
    top = max(float((c.mean + np.nan_to_num(c.sem)).max()) for c in found)
    for axis, c in zip(axes, found):
        axis.errorbar(c.t, c.mean, np.nan_to_num(c.sem), fmt="o", color=figures.INK, markersize=4, label=labels[0])
        for (name, law), style, text in zip(LAWS.items(), ("-", "--"), labels[1:]):
            axis.plot(c.t, fits[name] * law(c.share, c.t), style, linewidth=1.6, label=text)
        axis.axhline(0, color=figures.MUTED, linewidth=0.8)
        figures.dressed(axis, f"a = {c.share:.2g}", "excess")
        axis.set_ylim(min(0.0, axis.get_ylim()[0]), 1.05 * top)
    return figures.finished(figure)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of a study, or its table, such as docs/studies/echo.csv")
    parser.add_argument("--measure", default="risk", help="a column of metrics.csv (risk)")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="also draw the courses as PNG")
    a = parser.parse_args(arguments)
    try:
        study = Study(a.study)
        found = courses(study.table, a.measure)
        note = "" if study.is_csv else incomplete(progress(a.study))
    except UserError as e:
        sys.exit(f"echo: {e}")
    last = len(found[0].mean)
    print(f"{a.measure}, excess over real_only at generation {last}")
    fits = {name: fitted(found, law) for name, law in LAWS.items()}
    rows = []
    for c in found:
        theory = [f"{fits[name][0] * law(c.share, c.t)[-1]:.3g}" for name, law in LAWS.items()]
        rows.append([f"{c.share:.2g}", c.seeds, f"{c.mean[-1]:.3g} ± {c.sem[-1]:.2g}", *theory])
    print("\n".join(table(["share a", "seeds", "measured", "noise", "bias"], rows)))
    for name, (e, left) in fits.items():
        alone = ", ".join(f"{fitted([c], LAWS[name])[0]:.3g}" for c in found)
        print(f"{name}: e = {e:.3g} leaves {left:.1%} of the squares unexplained; e of each share alone: {alone}")
    if note:
        print(note)
    if a.figure:
        a.figure.write_bytes(drawn(found, a.measure))
    return 0


if __name__ == "__main__":
    sys.exit(main())
