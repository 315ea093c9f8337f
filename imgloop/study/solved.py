"""Chains of solvable systems, which have one table of replicates: their files, tables and figures beside theory."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgloop import figures, store
from imgloop.analytic.system import Quantity
from imgloop.conditions import short_names
from imgloop.study import derived
from imgloop.study.generation import chain_place, misplaced

DataFrame = Any  # pandas.DataFrame, whose methods type checkers misread without stubs
Series = Any  # pandas.Series
FILES = {"replicates": "replicates.safetensors", "metrics": "metrics.csv"}
PICTURES = {"evolution": "evolution.png", "animation": "evolution.webp"}  # of a system on images
AGAIN = "run the chain again"

# -- Files ------------------------------------------------------------------------------------------------------------


def record(chain: Path) -> dict[str, Any]:
    """record.json of a chain; raises UserError if it is missing, damaged or of another kind."""
    path = Path(chain) / "record.json"
    values = store.read_json(path)
    if not isinstance(values, dict) or not {"complete", "generations", "quantities", "metrics_hash"} <= set(values):
        raise store.damaged(path, "is not the record of a solvable system's chain", AGAIN)
    if any(v is not None and values.get(k, v) != v for k, v in chain_place(Path(chain)).items()):
        raise misplaced(path, values, AGAIN)
    return values


def intact(chain: Path, name: str) -> Path:
    """The path of a file of the chain (a key of FILES); raises UserError if it is missing or has changed."""
    path = Path(chain) / FILES[name]
    if not path.exists():
        raise store.damaged(path, "is missing", AGAIN)
    if store.file_hash(path) != record(chain)[f"{name}_hash"]:
        raise store.damaged(path, "has changed since it was written (its hash differs from record.json)", AGAIN)
    return path


def whole(chain: Path) -> bool:
    """Whether all files of a chain are as they were written."""
    hashes = record(chain)
    paths = {name: Path(chain) / file for name, file in (FILES | PICTURES).items() if f"{name}_hash" in hashes}
    return all(path.exists() and store.file_hash(path) == hashes[f"{name}_hash"] for name, path in paths.items())


def replicates(chain: Path) -> dict[str, np.ndarray]:
    """Each quantity of a chain, float64 (G, R); raises UserError if the file is missing or has changed."""
    return store.open_arrays(intact(chain, "replicates"))


def table(chain: Path) -> DataFrame:
    """metrics.csv of a chain, one row a generation; raises UserError if the file is missing or has changed."""
    import pandas as pd  # here, since it takes half a second to import

    return pd.read_csv(intact(chain, "metrics"))


def quantities(chains: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """The fields of each Quantity that the chains measure, by name."""
    return {name: fields for chain in chains for name, fields in record(chain)["quantities"].items()}


# -- Tables -----------------------------------------------------------------------------------------------------------


def standard_error(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean over the last axis, (G, R) -> (G,); NaN for one replicate."""
    n = values.shape[-1]
    with np.errstate(invalid="ignore"):  # the logarithm of a zero variance is infinite
        return values.std(-1, ddof=1) / np.sqrt(n) if n > 1 else np.full(values.shape[:-1], np.nan)


def frame(
    facts: Sequence[Mapping[str, Any]],
    values: Mapping[str, np.ndarray],
    quantities: Mapping[str, Quantity],
    theory: Mapping[str, np.ndarray | None],
    comparable: Mapping[str, np.ndarray],
) -> DataFrame:
    """A chain's table, one row a generation: its sizes and, for each quantity q, statistics over replicates.

    Columns: q (mean), q_sem, q_median, q_theory (or q_bound, an upper bound) and q_z, the difference from theory in
    standard errors. q_theory is empty without a closed form; q_z is empty, too, outside `comparable` and where a bound
    is 1.

    facts: sizes of each generation. values: (G, R) by quantity. theory: (G,), or (G, R) given each replicate's real
    data. comparable: bool (G,).
    """
    import pandas as pd  # here, since it takes half a second to import

    columns: dict[str, Any] = {"generation": np.arange(len(facts)), **{k: [f[k] for f in facts] for k in facts[0]}}
    for name, q in quantities.items():
        x, exact = values[name], theory.get(name)
        exact = np.full(len(x), np.nan) if exact is None else np.asarray(exact, float)[: len(x)]
        z = scores(x, exact, q.kind)
        mean_theory = exact.mean(1) if exact.ndim == 2 else exact
        columns[name], columns[f"{name}_sem"], columns[f"{name}_median"] = x.mean(1), standard_error(x), np.median(x, 1)
        columns[f"{name}_bound" if q.kind == "bound" else f"{name}_theory"] = mean_theory
        columns[f"{name}_z"] = np.where(comparable.get(name, True), z, np.nan)
    return pd.DataFrame(columns)


def scores(x: np.ndarray, theory: np.ndarray, kind: str) -> np.ndarray:
    """Differences between the mean over replicates and theory, in standard errors of the mean, (G,).

    x: (G, R). theory: (G,), or (G, R) given each replicate's real data; then the standard error is that of the
    difference. kind: of the Quantity. A `share` is compared exactly, by the normal quantile of its binomial tail. With
    a `bound`, z is 0 below it, and NaN where it is 1. A mean without spread scores 0 if it equals theory, else
    infinity.
    """
    if kind != "mean":
        from scipy.stats import binom, norm  # here, since it takes a second to import

        n, p = x.shape[1], np.clip(theory, 0, 1)
        hits = np.rint(x.sum(1))
        above = np.maximum(norm.isf(binom.sf(hits - 1, n, p)), 0)
        below = np.minimum(norm.ppf(binom.cdf(hits, n, p)), 0)
        z = np.where(hits > n * p, above, 0 if kind == "bound" else below)
        return np.where(np.isnan(theory) | ((kind == "bound") & (theory >= 1)), np.nan, z)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = x - (theory if theory.ndim == 2 else theory[:, None])
        mean, sem = difference.mean(1), standard_error(difference)
        tiny = 1e-12 * np.abs(x).mean(1)  # rounding error of equal numbers
        z = np.where(np.abs(mean) <= tiny, 0.0, mean / np.where(sem <= tiny, 0.0, sem))
    return np.where(np.isnan(mean) | np.isnan(sem), np.nan, z)


def carried(frame: DataFrame, chains: Sequence[Path]) -> DataFrame:
    """The table of `chains`, absorbed ones extended by their last row, since they no longer change.

    frame: condition, seed and the columns of metrics.csv. A chain is extended to the last generation of its condition;
    theory and z are empty in the added rows.
    """
    import pandas as pd  # here, since it takes half a second to import

    last, parts = int(frame["generation"].max()), []
    absorbed = {(c.parent.name, int(c.name[4:])): record(c)["absorbed"] for c in chains}
    for key, part in frame.groupby(["condition", "seed"], sort=False):
        missing = last - int(part["generation"].max()) if absorbed[key] else 0
        end = frame[(frame["condition"] == key[0])]["generation"].max()
        missing = min(missing, int(end - part["generation"].max()))
        parts.append(part)
        if missing:
            tail = pd.DataFrame([part.iloc[-1]] * missing)
            tail["generation"] = np.arange(end - missing + 1, end + 1)
            tail[[c for c in tail if str(c).endswith(("_theory", "_bound", "_z"))]] = np.nan
            parts.append(tail)
    return pd.concat(parts, ignore_index=True)


def pooled(frame: DataFrame) -> DataFrame:
    """Means over the seeds of each condition and generation, with their standard errors and z scores."""
    by = frame.groupby(["condition", "generation"], sort=False)
    means, n = by.mean(numeric_only=True).drop(columns="seed"), by.size()
    for c in means:
        if str(c).endswith("_sem"):
            means[c] = by[c].apply(lambda v: np.sqrt((v**2).sum())) / n
        elif str(c).endswith("_z"):
            means[c] = means[c] * np.sqrt(by[c].count())
    means.insert(0, "seeds", n)
    return means.reset_index().sort_values(["condition", "generation"], key=natural, kind="stable")


def natural(column: Series) -> Series:
    """Keys that sort numbers in text by their value: outcomes=5 comes before outcomes=20."""
    if column.dtype.kind in "iuf":
        return column
    texts = sorted(set(column), key=lambda text: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", text)])
    return column.map({text: i for i, text in enumerate(texts)})


def summary(frame: DataFrame, quantities: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each condition and quantity a row on its last generation that can be compared with theory.

    Keys: condition, quantity, generation, simulated, sem, theory, bound (whether theory is an upper bound), and z, the
    largest of all generations.
    """
    rows = []
    for condition, part in frame.groupby("condition", sort=False):
        for name in [q for q in quantities if q in part and part[q].notna().any()]:
            bound = quantities[name]["kind"] == "bound"
            z = part[f"{name}_z"] if f"{name}_z" in part else part[name] * np.nan
            last = part.loc[z.last_valid_index()] if z.notna().any() else part[part[name].notna()].iloc[-1]
            rows.append(
                {
                    "condition": condition,
                    "quantity": name,
                    "generation": int(last["generation"]),
                    "simulated": last[name],
                    "sem": last[f"{name}_sem"],
                    "theory": last.get(f"{name}_bound" if bound else f"{name}_theory"),
                    "bound": bound,
                    "z": z[z.abs().idxmax()] if z.notna().any() else np.nan,
                }
            )
    return rows


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The summary as lines to print, with three significant digits."""
    width, broad = (max(len(k), *(len(r[k]) for r in rows)) for k in ("condition", "quantity"))
    printed = [f"{'condition':<{width}}  {'quantity':<{broad}}   gen  {'simulated':>20}  {'theory':>10}  largest z"]
    for r in rows:
        simulated = f"{r['simulated']:.3g}" + ("" if np.isnan(r["sem"]) else f" ± {r['sem']:.2g}")
        theory = "-" if np.isnan(r["theory"]) else ("<= " if r["bound"] else "") + f"{r['theory']:.3g}"
        z = "-" if np.isnan(r["z"]) else f"{r['z']:+.1f}"
        name = f"{r['condition']:<{width}}  {r['quantity']:<{broad}}  {r['generation']:>4}"
        printed.append(f"{name}  {simulated:>20}  {theory:>10}  {z:>9}")
    return printed


def timescales(chains: Sequence[Path]) -> list[dict[str, Any]]:
    """The time to total collapse of each chain that reached it, ordered by draws and outcomes.

    Keys: condition, seed, path, model, and those of the system's `timescale`.
    """
    rows = []
    for chain in chains:
        values = record(chain)
        named = {"condition": chain.parent.name, "seed": chain.name[4:], "path": chain, "model": values["model"]}
        rows.append({**named, **(values["timescale"] or {})})
    return sorted((row for row in rows if "draws" in row), key=lambda row: (row["draws"], row["outcomes"]))


# -- Figures ----------------------------------------------------------------------------------------------------------


def write_figure(chain: Path) -> None:
    """Write curves.png of a chain where it is missing or old."""
    values, key = record(chain), derived.key_of([chain / "record.json"], chain.parent.name)
    if derived.current(chain, key):
        return
    title = f"{values['condition']}: {values['replicates']:,} replicates, points with two standard errors, lines theory"
    named = table(chain).assign(condition=chain.parent.name)
    derived.write(chain, key, {"curves.png": lambda: curves(named, title, values["quantities"])})


def curves(frame: DataFrame, title: str, quantities: Mapping[str, Mapping[str, Any]]) -> bytes:
    """PNG: a panel for each quantity, with simulation as points (mean, two standard errors) and theory as a line.

    Hollow points are medians, for skewed distributions; a dotted line is an upper bound.
    """
    shown = [q for q in quantities if q in frame and frame[q].notna().any()]
    names, _ = short_names(list(dict.fromkeys(frame["condition"])))
    styles = {c: figures.drawn(look) for c, look in figures.looks(list(names)).items()}
    accumulated = any(c.startswith("accumulate") for c in names)
    marks = {q: quantities[q]["mark"] for q in shown if quantities[q]["mark"] and accumulated}
    figure, axes = figures.sheet(len(shown), title, [*names.values(), *{text for text, _ in marks.values()}])
    for axis, name in zip(axes, shown):
        skewed, bound = quantities[name]["skewed"], quantities[name]["kind"] == "bound"
        for condition, style in styles.items():
            part = frame[(frame["condition"] == condition) & frame[name].notna()]
            few = part.iloc[:: max(1, len(part) // 20)]
            point = {**style, "linestyle": "none", "markersize": 4}
            error = 2 * few[f"{name}_sem"]
            axis.errorbar(few["generation"], few[name], error, **point, elinewidth=1, label=names[condition])
            if skewed:
                median = few[f"{name}_median"]
                axis.plot(few["generation"], median, **point, markerfacecolor="none", markeredgewidth=0.8)
            exact = part.get(f"{name}_bound" if bound else f"{name}_theory")
            if exact is not None and exact.notna().any():
                line = ":" if bound else style["linestyle"]
                axis.plot(part["generation"], exact, color=style["color"], linewidth=1.3, linestyle=line)
        if quantities[name]["log"]:
            axis.set_yscale("log")
        if name in marks:
            text, level = marks[name]
            axis.axhline(level, **figures.REFERENCE, label=text)
        note = "hollow: median" if skewed else "dotted: upper bound" if bound else ""
        figures.dressed(axis, quantities[name]["label"], note)
    return figures.finished(figure)


def timescale_figure(times: Sequence[Mapping[str, Any]]) -> bytes:
    """PNG: Figure 4 of Schaeffer et al. 2025 beside the diffusion approximation. `times` are rows of `timescales`.

    Left: generations to total collapse by number of outcomes, with the diffusion's expectation (line) and the paper's
    D ln N (dashed). Right: entropy over the true entropy by generation at the largest D, mean over replicates.
    """
    uniform = [row for row in times if row["uniform"]]
    sizes = sorted({row["draws"] for row in uniform})
    labels = [f"D = {d} draws a generation" for d in sizes]
    figure, (left, right) = figures.sheet(2, "Discrete distribution, uniform start: timescales of collapse", labels)
    for i, (draws, label) in enumerate(zip(sizes, labels)):
        rows, style = [row for row in uniform if row["draws"] == draws], figures.drawn(figures.Look(i % 8, 0, i))
        x, colour = [row["outcomes"] for row in rows], style["color"]
        simulated, error = [row["simulated"] for row in rows], [2 * (row["sem"] or 0) for row in rows]
        left.errorbar(x, simulated, error, color=colour, marker=style["marker"], linestyle="none", label=label)
        left.plot(x, [row["diffusion"] for row in rows], color=colour, linewidth=1.3)
        left.plot(x, [row["paper"] for row in rows], color=colour, linewidth=1, linestyle="--")
    outcomes = sorted({row["outcomes"] for row in uniform})
    left.set_xscale("log")
    left.set_xticks(outcomes, outcomes)
    left.minorticks_off()
    left.set_ylim(0)
    figures.dressed(left, "generations to total collapse", "line: diffusion; dashed: D ln N", "outcomes N")
    for i, row in enumerate(row for row in uniform if row["draws"] == sizes[-1]):
        entropy = replicates(row["path"])["entropy"].mean(1)
        style = figures.drawn(figures.Look(i % 8, 0, i))
        x = np.arange(len(entropy) + 1) / row["draws"]
        right.plot(x, [1, *entropy], style["linestyle"], color=style["color"], linewidth=1.3, label=row["outcomes"])
    right.legend(title="outcomes N", fontsize=7, title_fontsize=7, frameon=False)
    figures.dressed(right, f"entropy over true entropy, D = {sizes[-1]}", "mean over replicates", "generations / D")
    return figures.finished(figure)
