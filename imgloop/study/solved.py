"""What a solvable system's chains leave to look at: tables and figures in which simulation meets theory."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import binom, norm

from imgloop import figures, store
from imgloop.analytic.system import Quantity
from imgloop.study.tables import chains, csv, load_study


def standard_error(values: np.ndarray) -> np.ndarray:
    """Of the mean over the last axis, (G, R) -> (G,); NaN for one replicate."""
    n = values.shape[-1]
    with np.errstate(invalid="ignore"):  # the log of a variance that is 0 has none
        return values.std(-1, ddof=1) / np.sqrt(n) if n > 1 else np.full(values.shape[:-1], np.nan)


def frame(
    facts: Sequence[Mapping], values: Mapping[str, np.ndarray], quantities: Mapping[str, Quantity], theory, comparable
):
    """One row a generation, as a pandas table: sizes; and for each quantity q the mean over replicates q, q_sem,
    q_median, q_theory (or q_bound, an upper bound) and q_z, their difference in standard errors.

    q_theory is empty where there is no closed form; q_z is empty, too, outside `comparable`, bool (G,) by quantity, and
    where a bound is 1.
    """
    import pandas as pd

    table = {"generation": np.arange(len(facts)), **{k: [f[k] for f in facts] for k in facts[0]}}
    for name, q in quantities.items():
        x, exact = values[name], theory.get(name)
        exact = np.full(len(x), np.nan) if exact is None else np.asarray(exact, float)[: len(x)]
        z = scores(x, exact, q.kind)
        mean_theory = exact.mean(1) if exact.ndim == 2 else exact
        table[name], table[f"{name}_sem"], table[f"{name}_median"] = x.mean(1), standard_error(x), np.median(x, 1)
        table[f"{name}_bound" if q.kind == "bound" else f"{name}_theory"] = mean_theory
        table[f"{name}_z"] = np.where(comparable.get(name, True), z, np.nan)
    return pd.DataFrame(table)


def scores(x: np.ndarray, theory: np.ndarray, kind: str) -> np.ndarray:
    """Differences between the mean over replicates and theory, in standard errors of the mean, (G,).

    x (G, R); theory (G,), or (G, R) where it is given each replicate's real data: then the difference has a spread of
    its own. A frequency is compared exactly: the normal quantile of its binomial tail. A value that does not vary is
    as the theory says (0) or is not (infinite). Against a bound, only what lies above it counts; below it, z is 0,
    and where the bound is 1 there is none.
    """
    if kind != "mean":
        n, p = x.shape[1], np.clip(theory, 0, 1)
        hits = np.rint(x.sum(1))
        above = np.maximum(norm.isf(binom.sf(hits - 1, n, p)), 0)
        below = np.minimum(norm.ppf(binom.cdf(hits, n, p)), 0)
        z = np.where(hits > n * p, above, 0 if kind == "bound" else below)
        return np.where(np.isnan(theory) | ((kind == "bound") & (theory >= 1)), np.nan, z)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = x - (theory if theory.ndim == 2 else theory[:, None])
        mean, sem = difference.mean(1), standard_error(difference)
        tiny = 1e-12 * np.abs(x).mean(1)  # what rounding leaves of numbers that are equal
        z = np.where(np.abs(mean) <= tiny, 0.0, mean / np.where(sem <= tiny, 0.0, sem))
    return np.where(np.isnan(mean) | np.isnan(sem), np.nan, z)


FILES = {"replicates": "replicates.safetensors", "metrics": "metrics.csv"}
AGAIN = "run the chain again"


def record(chain: Path) -> dict:
    """record.json of a chain; raises UserError where it is not one."""
    path = Path(chain) / "record.json"
    found = store.read_json(path)
    if not isinstance(found, dict) or not {"complete", "generations", "quantities", "metrics_hash"} <= set(found):
        raise store.damaged(path, "is no record of a solvable system's chain", AGAIN)
    return found


def intact(chain: Path, name: str) -> Path:
    """The chain's file of this name, as it was written; raises UserError where it is missing or another."""
    path = Path(chain) / FILES[name]
    if not path.exists():
        raise store.damaged(path, "is missing", AGAIN)
    if store.file_hash(path) != record(chain)[f"{name}_hash"]:
        raise store.damaged(path, "is not what was written (its hash differs from record.json)", AGAIN)
    return path


def whole(chain: Path) -> bool:
    """Whether all files of a chain are as they were written."""
    hashes = record(chain)
    paths = {name: Path(chain) / file for name, file in FILES.items()}
    return all(path.exists() and store.file_hash(path) == hashes[f"{name}_hash"] for name, path in paths.items())


def replicates(chain: Path) -> dict[str, np.ndarray]:
    """Each quantity of a chain, float64 (G, R); raises UserError where the file is not what was written."""
    return store.open_arrays(intact(chain, "replicates"))


def carried(study: Path):
    """The study's tables as one, chains that were absorbed carried on to its last generation, since they stay as they
    are: columns condition, seed and those of metrics.csv, theory and z empty where carried."""
    import pandas as pd

    frame = load_study(study)
    last, frames = int(frame["generation"].max()), []
    absorbed = {(c.parent.name, int(c.name[4:])): record(c)["absorbed"] for c in chains(study)}
    for key, part in frame.groupby(["condition", "seed"], sort=False):
        more = last - int(part["generation"].max()) if absorbed[key] else 0
        ends = frame[(frame["condition"] == key[0])]["generation"].max()  # no further than the condition's other seeds
        more = min(more, int(ends - part["generation"].max()))
        tail = pd.DataFrame([part.iloc[-1]] * more)
        if more:
            tail["generation"] = np.arange(ends - more + 1, ends + 1)
            tail[[c for c in tail if c.endswith(("_theory", "_bound", "_z"))]] = np.nan
        frames += [part, tail] if more else [part]
    return pd.concat(frames, ignore_index=True)


def pooled(frame):
    """The chains of one condition as one: means over its seeds, with their standard errors and z scores."""
    seeds = frame.groupby(["condition", "generation"], sort=False)
    found = seeds.mean(numeric_only=True).drop(columns="seed")
    n = seeds.size()
    for c in found:
        if c.endswith("_sem"):
            found[c] = seeds[c].apply(lambda v: np.sqrt((v**2).sum())) / n
        elif c.endswith("_z"):
            found[c] = found[c] * np.sqrt(seeds[c].count())
    found.insert(0, "seeds", n)
    return found.reset_index().sort_values(["condition", "generation"], key=natural, kind="stable")


def natural(column):
    """Sorting keys in which outcomes=5 comes before outcomes=20."""
    if column.dtype.kind in "iuf":
        return column
    numbered = sorted(set(column), key=lambda text: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", text)])
    return column.map({text: i for i, text in enumerate(numbered)})


def summary(frame, quantities: Mapping[str, Mapping]) -> list[dict]:
    """For each condition and quantity, at the last generation that can be compared: what a reader wants to see."""
    rows = []
    for condition, part in frame.groupby("condition", sort=False):
        for name in [q for q in quantities if q in part and part[q].notna().any()]:
            z = part[f"{name}_z"] if f"{name}_z" in part else part[name] * np.nan
            last = part.loc[z.last_valid_index()] if z.notna().any() else part[part[name].notna()].iloc[-1]
            exact = last.get(f"{name}_bound" if quantities[name]["kind"] == "bound" else f"{name}_theory")
            rows.append(
                {
                    "condition": condition,
                    "quantity": name,
                    "generation": int(last["generation"]),
                    "simulated": last[name],
                    "sem": last[f"{name}_sem"],
                    "theory": exact,
                    "bound": quantities[name]["kind"] == "bound",
                    "z": z[z.abs().idxmax()] if z.notna().any() else np.nan,
                }
            )
    return rows


def lines(rows: Sequence[Mapping]) -> list[str]:
    """The summary as lines to print, three significant digits each."""
    wide, broad = (max(len(r[k]) for r in rows) for k in ("condition", "quantity"))
    told = [f"{'condition':<{wide}}  {'quantity':<{broad}}   gen  {'simulated':>20}  {'theory':>10}  largest z"]
    for r in rows:
        simulated = f"{r['simulated']:.3g} ± {r['sem']:.2g}"
        theory = "" if np.isnan(r["theory"]) else ("<= " if r["bound"] else "") + f"{r['theory']:.3g}"
        z = "" if np.isnan(r["z"]) else f"{r['z']:+.1f}"
        name = f"{r['condition']:<{wide}}  {r['quantity']:<{broad}}  {r['generation']:>4}"
        told.append(f"{name}  {simulated:>20}  {theory:>10}  {z:>9}")
    return told


def finish(chain, display):
    """At a chain's end: its figure and the study's, its summary in the log, and where to look."""
    from imgloop.study.tables import compare

    told = record(chain.folder)
    frame = load_study(chain.study)
    mine = frame[(frame["condition"] == chain.folder.parent.name) & (frame["seed"] == chain.seed_number)]
    title = f"{told['condition']}: {told['replicates']:,} replicates, points with two standard errors, lines theory"
    store.write_bytes(chain.folder / "curves.png", curves(mine, title, told["quantities"]))
    for line in lines(summary(mine, told["quantities"])):
        display.say(line)
    several = len(chains(chain.study)) > 1
    if several:
        compare(chain.study)
    display.say(
        f"look at {chain.folder}: {'evolution.png, ' if chain.aged else ''}curves.png, metrics.csv"
        + (f"; and at {chain.study / 'comparison.png'}" if several else "")
    )
    return mine.drop(columns=["condition", "seed"]).dropna(axis=1, how="all").reset_index(drop=True)


def compare(study: Path) -> None:
    """Write comparison.csv (means over seeds a condition and generation) and comparison.png; and timescales.png where
    chains were followed to total collapse."""
    import pandas as pd

    study = Path(study)
    with store.lock(study / "shared" / ".comparison.lock"):
        frame, quantities = pooled(carried(study)), {}
        for chain in chains(study):
            quantities |= record(chain)["quantities"]
        store.write_text(study / "comparison.csv", csv(frame))
        title = f"{study.name}: points are simulations with two standard errors, lines are theory"
        store.write_bytes(study / "comparison.png", curves(frame, title, quantities))
        times = timescales(study)
        if times:
            store.write_text(study / "timescales.csv", csv(pd.DataFrame(times).drop(columns=["path", "model"])))
        if any(f["uniform"] and f["model"] == "discrete" for f in times):
            store.write_bytes(study / "timescales.png", timescale_figure(times))


def timescales(study: Path) -> list[dict]:
    """What the chains that were followed to total collapse say of its time, by draws and outcomes."""
    found = [
        {"condition": c.parent.name, "seed": c.name[4:], "path": c, "model": told["model"], **(told["timescale"] or {})}
        for c in chains(study)
        for told in [record(c)]
    ]
    return sorted((f for f in found if "draws" in f), key=lambda f: (f["draws"], f["outcomes"]))


def timescale_figure(times: Sequence[Mapping]) -> bytes:
    """PNG, Figure 4 of Schaeffer et al. 2025 with what it leaves out. Left: generations to total collapse by number of
    outcomes, with the diffusion's expectation (line) and the paper's D ln N (dashed). Right: entropy over the true
    entropy by generation, most draws alone, the mean over replicates."""
    uniform = [f for f in times if f["uniform"]]
    sizes = sorted({f["draws"] for f in uniform})
    labels = [f"D = {d} draws a generation" for d in sizes]
    figure, (left, right) = figures.sheet(2, "Discrete distribution, uniform start: timescales of collapse", labels)
    for i, (draws, label) in enumerate(zip(sizes, labels)):
        part, style = [f for f in uniform if f["draws"] == draws], figures.look(i)
        x, colour = [f["outcomes"] for f in part], style["color"]
        simulated, error = [f["simulated"] for f in part], [2 * (f["sem"] or 0) for f in part]
        left.errorbar(x, simulated, error, color=colour, marker=style["marker"], linestyle="none", label=label)
        left.plot(x, [f["diffusion"] for f in part], color=colour, linewidth=1.3)
        left.plot(x, [f["paper"] for f in part], color=colour, linewidth=1, linestyle="--")
    outcomes = sorted({f["outcomes"] for f in uniform})
    left.set_xscale("log")
    left.set_xticks(outcomes, outcomes)
    left.minorticks_off()
    left.set_ylim(0)
    figures.dressed(left, "generations to total collapse", "line: diffusion; dashed: D ln N", "outcomes N")
    for i, f in enumerate(f for f in uniform if f["draws"] == sizes[-1]):
        entropy = replicates(f["path"])["entropy"].mean(1)
        style = figures.look(i)
        x = np.arange(len(entropy) + 1) / f["draws"]
        right.plot(x, [1, *entropy], style["linestyle"], color=style["color"], linewidth=1.3, label=f["outcomes"])
    right.legend(title="outcomes N", fontsize=7, title_fontsize=7, frameon=False)
    figures.dressed(right, f"entropy over true entropy, D = {sizes[-1]}", "mean over replicates", "generations / D")
    return figures.finished(figure, labels)


def comparison_lines(study: Path) -> list[str]:
    """The summary of every condition, as lines to print."""
    import pandas as pd

    quantities = {}
    for chain in chains(study):
        quantities |= record(chain)["quantities"]
    return lines(summary(pd.read_csv(Path(study) / "comparison.csv"), quantities))


def curves(frame, title: str, quantities: Mapping[str, Mapping]) -> bytes:
    """PNG: a panel a quantity, in which points (means over replicates, with two standard errors) meet theory (line).

    Hollow points are medians, of quantities whose distribution is skewed; a dotted line is an upper bound.
    """
    shown = [q for q in quantities if q in frame and frame[q].notna().any()]
    conditions = list(dict.fromkeys(frame["condition"]))
    figure, axes = figures.sheet(len(shown), title, conditions)
    for axis, name in zip(axes, shown):
        skewed, bound = quantities[name]["skewed"], quantities[name]["kind"] == "bound"
        for i, condition in enumerate(conditions):
            part = frame[(frame["condition"] == condition) & frame[name].notna()]
            few = part.iloc[:: max(1, len(part) // 20)]
            style = figures.look(i)
            point = {"color": style["color"], "marker": style["marker"], "linestyle": "none", "markersize": 4}
            axis.errorbar(few["generation"], few[name], 2 * few[f"{name}_sem"], **point, elinewidth=1, label=condition)
            if skewed:
                axis.plot(
                    few["generation"], few[f"{name}_median"], **point, markerfacecolor="none", markeredgewidth=0.8
                )
            exact = part.get(f"{name}_bound" if bound else f"{name}_theory")
            if exact is not None and exact.notna().any():
                axis.plot(
                    part["generation"], exact, color=style["color"], linewidth=1.3, linestyle=":" if bound else "-"
                )
        if quantities[name]["log"]:
            axis.set_yscale("log")
        if quantities[name]["mark"] and any(c.startswith("accumulate") for c in conditions):
            text, level = quantities[name]["mark"]
            axis.axhline(level, color=figures.MUTED, linewidth=1, linestyle=(0, (2, 2)))
            place = {"xycoords": ("axes fraction", "data"), "xytext": (0, 6), "textcoords": "offset points"}
            axis.annotate(text, (1, level), **place, ha="right", va="bottom", fontsize=8)
        note = "hollow: median" if skewed else "dotted: upper bound" if bound else ""
        figures.dressed(axis, quantities[name]["label"], note)
    return figures.finished(figure, conditions)
