"""The cases of Schaeffer et al. 2025: Table 1 on linear regression and section 2.1's Gaussian, simulated through the
loop and judged by the profile's rules. What the paper printed stands apart, in PUBLISHED, and enters no verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy.stats import norm

from imgloop import loop
from imgloop.analytic.regression import Regression
from imgloop.analytic.system import Quantity
from imgloop.collapse import statistics, tables
from imgloop.collapse.profile import collapse_profile
from imgloop.collapse.verdicts import Profile
from imgloop.config import settings as config

PUBLISHED = {  # Table 1: whether a definition says collapse
    "accumulate": {1: False, 2: True, 3: False, 4: False, 5: True, 6: False, 7: False, 8: False},
    "replace": {1: True, 2: True, 3: True, 4: False, 5: True, 6: False, 7: False, 8: False},
}
MARKS = {"detected": "yes", "excluded": "no"}
CELLS, TAIL, SUPPORT = 10, 0.90, 0.999  # equal-probability cells of y as modes; quantiles of |y|


@dataclass(frozen=True)
class KnownLaw(Regression):
    """Regression that also measures the law of y, which is normal under the truth and under every fit: variance ratio,
    smallest cell share over its true share, tail mass between the q.90 and the q.999 of |y|, rate beyond q.999."""

    quantities: ClassVar[dict[str, Quantity]] = Regression.quantities | {
        "variance_ratio": Quantity("variance of y over its true one"),
        "mode_share_min": Quantity("smallest of ten cells over its true share"),
        "tail_mass": Quantity("tail of y over its true one"),
        "off_support": Quantity("rate of y beyond its true q.999"),
    }

    def measure(self, f):
        noise = self.noise**2
        true, fitted = np.sqrt(self.beta @ self.beta + noise), np.sqrt((f.weights**2).sum(1) + noise)
        z = (true / fitted)[:, None]  # a quantile of the true law, in standard deviations of the fitted one
        shares = np.diff(norm.cdf(norm.ppf(np.linspace(0, 1, CELLS + 1)) * z), axis=1) * CELLS
        tail, support = (2 * norm.sf(norm.isf((1 - q) / 2) * z[:, 0]) for q in (TAIL, SUPPORT))
        return super().measure(f) | {
            "variance_ratio": (fitted / true) ** 2,
            "mode_share_min": shares.min(1),
            "tail_mass": (tail - support) / (SUPPORT - TAIL),
            "off_support": support,
        }


@dataclass(frozen=True)
class Table1:
    """Profiles of the paper's regression study, and the table: what it printed beside what the rules say."""

    profile: Profile

    def to_frame(self):
        """One row a definition and paradigm: published, computed (the verdict), agrees (None where undetermined)."""
        import pandas as pd

        rows = []
        for k in range(1, 9):
            for paradigm, marks in PUBLISHED.items():
                verdict = self.profile[paradigm][k].verdict
                mark = MARKS.get(verdict)
                printed = "yes" if marks[k] else "no"
                agrees = None if mark is None else mark == printed
                rows.append((k, paradigm, printed, mark or verdict, agrees))
        return pd.DataFrame(rows, columns=["definition", "paradigm", "published", "computed", "agrees"])

    @property
    def contradictions(self) -> int:
        return int((self.to_frame()["agrees"].eq(False)).sum())

    @property
    def undetermined(self) -> int:
        return int(self.to_frame()["agrees"].isna().sum())

    def lines(self) -> list[str]:
        frame = self.to_frame().set_index(["definition", "paradigm"])
        told = [f"{'definition':<12}" + "".join(f"{p + ' published':>24}{'computed':>14}" for p in PUBLISHED)]
        for k in range(1, 9):
            cells = "".join(
                f"{frame.loc[(k, p), 'published']:>24}{frame.loc[(k, p), 'computed']:>14}" for p in PUBLISHED
            )
            told.append(f"{k:<12}{cells}")
        told += [f"5, {p}: {self.profile.laws[p].said()}" for p in PUBLISHED if p in self.profile.laws]
        trivial = (
            "6 to 8 are near trivial here: y has one normal mode, whose support is the whole line; a fit can neither "
            "lose a mode nor leave the support, only change the width."
        )
        return [*told, trivial, f"{self.contradictions} contradictions, {self.undetermined} undetermined"]


def table1(
    out: str | Path,
    chains: int = 100,
    fits: int = 9,
    dimension: int = 10,
    sizes: tuple[int, ...] = (50, 70, 100, 140, 200),
    seed: int = 0,
) -> Table1:
    """Run the regression study of appendix A in folder `out` and judge it.

    `chains` replicates under replace, accumulate and real_only, at each of `sizes` rows: the largest is the study's
    own, a quarter of it is among them for definition 1, and all serve definition 5. The design X is reused, as in the
    paper.
    """
    study = Path(out) / "table1"
    for paradigm in (*PUBLISHED, "real_only"):
        for n in sizes:
            settings = [f"paradigm={paradigm}", f"data.n={n}", f"generations={fits}", f"seed={seed}", f"out={out}"]
            system = [f"model.replicates={chains}", f"model.dimension={dimension}"]
            loop.run(_measured([*settings, *system, "model=regression", f"study={study.name}", "display=none"]))
    frame = tables.systems(study)
    first = frame[frame["generation"] == 0].drop_duplicates("condition").set_index("condition")["n_train"]
    frame = frame.assign(size=frame["condition"].map(first), condition=frame["condition"].str.split(",").str[0])
    return Table1(collapse_profile(frame))


def _measured(overrides: list[str]):
    """Settings of a regression chain that measures the law of y as well."""
    settings = config.parsed(overrides)
    target = f"{KnownLaw.__module__}.{KnownLaw.__name__}"
    config_, defaults = (c | {"model": c["model"] | {"_target_": target}} for c in (settings.config, settings.defaults))
    return replace(settings, config=config_, defaults=defaults)


@dataclass(frozen=True)
class GaussianCase:
    """Section 2.1: the profile of a Gaussian refitted to its own samples, and what drives its risk.

    courses: pandas table, one row a generation: the squared Wasserstein risk and its mean and covariance parts, each as
    expectation (mean over chains), standard error `_sem` and median `_median`. growth: by part, its growth from
    generation 0 to the last, (mean, low, high) with a 95 % t interval.
    """

    profile: Profile
    courses: object
    growth: dict[str, tuple[float, float, float]]

    def lines(self) -> list[str]:
        verdicts, last = self.profile["replace"], self.courses.iloc[-1]
        told = [f"definition {k}: {verdicts[k].verdict}" for k in (2, 3, 4)]
        for name, (mean, low, high) in self.growth.items():
            told.append(f"growth of {name}: {mean:.3g} [{low:.3g}, {high:.3g}]")
        told.append(
            f"at generation {last['generation']:.0f} (fit {last['generation'] + 1:.0f}), expectation and median:"
        )
        for name in self.growth:
            told.append(f"  {name}: {last[name]:.3g} ± {last[f'{name}_sem']:.2g}, {last[f'{name}_median']:.3g}")
        return told


def gaussian(out: str | Path, chains: int = 1_000, rows: int = 20, fits: int = 20, seed: int = 0) -> GaussianCase:
    """Run section 2.1's unbiased one-dimensional Gaussian under replace and real_only in folder `out`; judge it."""
    study = Path(out) / "gaussian"
    system = ["model=gaussian", "model.unbiased=true", f"model.replicates={chains}", f"data.n={rows}"]
    for paradigm in ("replace", "real_only"):
        own = [f"paradigm={paradigm}", f"generations={fits}", f"seed={seed}", f"out={out}", f"study={study.name}"]
        loop.run(config.parsed([*system, *own, "display=none"]))
    frame = tables.systems(study)
    frame["condition"] = frame["condition"].str.split(",").str[0]
    return GaussianCase(collapse_profile(frame), *decomposition(frame[frame["condition"] == "replace"]))


def decomposition(chains):
    """The courses and the growth of GaussianCase, from the plain table of one condition's chains."""
    import pandas as pd

    columns, growth = {}, {}
    for name in ("risk", "mean_part", "covariance_part"):
        by = chains.groupby("generation")[name]
        columns |= {name: by.mean(), f"{name}_sem": by.sem(), f"{name}_median": by.median()}
        course = chains.pivot(index="seed", columns="generation", values=name).to_numpy()
        growth[name] = tuple(float(v) for v in statistics.interval(course[:, -1] - course[:, 0]))
    return pd.DataFrame(columns).reset_index(), growth
