"""The cases of Schaeffer et al. 2025, simulated through the loop and judged by the profile's rules: Table 1 on linear
regression, and the Gaussian of section 2.1 (python scripts/calibrate.py --only paper)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imgloop
from imgloop.collapse import statistics
from imgloop.collapse.profile import collapse_profile
from imgloop.collapse.verdicts import Profile
from imgloop.study import plain

PARTS = Path(__file__).parent / "paper_parts"  # the model known_law
# The paper's Table 1: whether collapse occurs under each definition. Verdicts never depend on it.
PUBLISHED = {
    "accumulate": {1: False, 2: True, 3: False, 4: False, 5: True, 6: False, 7: False, 8: False},
    "replace": {1: True, 2: True, 3: True, 4: False, 5: True, 6: False, 7: False, 8: False},
}
MARKS = {"detected": "yes", "excluded": "no"}


@dataclass(frozen=True)
class Table1:
    """Profiles of the paper's regression study, and the table of published and computed verdicts."""

    profile: Profile

    def to_frame(self) -> Any:
        """pandas table, one row for each definition and paradigm: published, computed (the verdict), agrees (None where
        undetermined)."""
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
        """The table as lines of text."""
        frame = self.to_frame().set_index(["definition", "paradigm"])
        lines = [f"{'definition':<12}" + "".join(f"{p + ' published':>24}{'computed':>14}" for p in PUBLISHED)]
        for k in range(1, 9):
            cells = "".join(
                f"{frame.loc[(k, p), 'published']:>24}{frame.loc[(k, p), 'computed']:>14}" for p in PUBLISHED
            )
            lines.append(f"{k:<12}{cells}")
        lines += [f"5, {p}: {self.profile.laws[p].said()}" for p in PUBLISHED if p in self.profile.laws]
        trivial = (
            "6 to 8 are near trivial here: y has one normal mode, whose support is the whole line; a fit can neither "
            "lose a mode nor leave the support, only change the width."
        )
        return [*lines, trivial, f"{self.contradictions} contradictions, {self.undetermined} undetermined"]


def table1(
    out: str | Path,
    chains: int = 100,
    fits: int = 9,
    dimension: int = 10,
    sizes: tuple[int, ...] = (50, 70, 100, 140, 200),
    seed: int = 0,
) -> Table1:
    """Run the regression study of appendix A in folder `out` and judge it.

    `chains` replicates run under replace, accumulate and real_only at each of `sizes` rows. Verdicts are for the
    largest size; definition 1 also needs a quarter of it among the sizes, and definition 5 uses all. The design X is
    reused, as in the paper.
    """
    system = ["model=known_law", f"model.replicates={chains}", f"model.dimension={dimension}"]
    common = [f"generations={fits}", f"seed={seed}", f"out={out}", "study=table1", "display=none"]
    for paradigm in (*PUBLISHED, "real_only"):
        for n in sizes:
            imgloop.run([f"paradigm={paradigm}", f"data.n={n}", *common, *system], config_dir=PARTS)
    frame = plain.systems(Path(out) / "table1")
    first = frame[frame["generation"] == 0].drop_duplicates("condition").set_index("condition")["n_train"]
    frame = frame.assign(size=frame["condition"].map(first), condition=frame["condition"].str.split(",").str[0])
    return Table1(collapse_profile(frame))


@dataclass(frozen=True)
class GaussianCase:
    """Section 2.1: the profile of a Gaussian refitted to its own samples, and what drives its risk.

    courses: pandas table, one row a generation: the squared Wasserstein risk and its mean and covariance parts, each as
    expectation (mean over chains), standard error `_sem` and median `_median`. growth: the growth of each part from
    generation 0 to the last, (mean, low, high) with a 95 % t interval.
    """

    profile: Profile
    courses: Any
    growth: dict[str, tuple[float, float, float]]

    def lines(self) -> list[str]:
        """The verdicts, the growth and the last generation as lines of text."""
        verdicts, last = self.profile["replace"], self.courses.iloc[-1]
        lines = [f"definition {k}: {verdicts[k].verdict}" for k in (2, 3, 4)]
        for name, (mean, low, high) in self.growth.items():
            lines.append(f"growth of {name}: {mean:.3g} [{low:.3g}, {high:.3g}]")
        lines.append(
            f"at generation {last['generation']:.0f} (fit {last['generation'] + 1:.0f}), expectation and median:"
        )
        for name in self.growth:
            lines.append(f"  {name}: {last[name]:.3g} ± {last[f'{name}_sem']:.2g}, {last[f'{name}_median']:.3g}")
        return lines


def gaussian(out: str | Path, chains: int = 1_000, rows: int = 20, fits: int = 20, seed: int = 0) -> GaussianCase:
    """Run section 2.1: an unbiased one-dimensional Gaussian under replace and real_only, in folder `out`; judge it."""
    system = ["model=gaussian", "model.unbiased=true", f"model.replicates={chains}", f"data.n={rows}"]
    common = [f"generations={fits}", f"seed={seed}", f"out={out}", "study=gaussian", "display=none"]
    for paradigm in ("replace", "real_only"):
        imgloop.run([f"paradigm={paradigm}", *system, *common])
    frame = plain.systems(Path(out) / "gaussian")
    frame["condition"] = frame["condition"].str.split(",").str[0]
    return GaussianCase(collapse_profile(frame), *decomposition(frame[frame["condition"] == "replace"]))


def decomposition(chains: Any) -> tuple[Any, dict[str, tuple[float, float, float]]]:
    """The courses and the growth of GaussianCase, from the table of one condition's chains."""
    import pandas as pd

    columns, growth = {}, {}
    for name in ("risk", "mean_part", "covariance_part"):
        by = chains.groupby("generation")[name]
        columns |= {name: by.mean(), f"{name}_sem": by.sem(), f"{name}_median": by.median()}
        course = chains.pivot(index="seed", columns="generation", values=name).to_numpy()
        mean, low, high = statistics.interval(course[:, -1] - course[:, 0])
        growth[name] = float(mean), float(low), float(high)
    return pd.DataFrame(columns).reset_index(), growth
