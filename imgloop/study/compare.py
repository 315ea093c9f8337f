"""The comparison of a study's conditions: comparison.csv, comparison.png, and lines to print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from imgloop import figures, store
from imgloop.measures import MEASURES
from imgloop.study import solved, tables, trained
from imgloop.study.trained import DataFrame


def compare(study: str | Path) -> None:
    """Write comparison.csv (statistics over the seeds of each condition and generation) and comparison.png of a study.

    Of solvable systems that were followed to total collapse also timescales.csv and timescales.png. Raises UserError
    for a damaged chain.
    """
    study = Path(study)
    with store.lock(study / "shared" / ".comparison.lock"):
        folders = tables.chains(study)
        write = _compare_solved if any(map(tables.is_solved, folders)) else _compare_trained
        write(study, folders)


def _compare_trained(study: Path, folders: Sequence[Path]) -> None:
    protocol = tables.common_protocol(folders)
    frame, known = tables.load_study(study, protocol), tables.measures(folders, protocol)
    by = frame.groupby(["condition", "generation"], sort=False)
    result = by.size().rename("seeds").to_frame()
    for c in ("n_drawn", "n_pool"):
        if c in frame:
            result[c] = by[c].max()
    for name, info in known.items():
        if (info.compared or name not in MEASURES) and name in frame and frame[name].notna().any():
            result[name], result[f"{name}_sd"] = by[name].mean(), by[name].std(ddof=1)
    result = result.reset_index().sort_values(["condition", "generation"], kind="stable")
    store.write_text(study / "comparison.csv", tables.csv_text(result))
    seeds = int(frame.groupby("condition")["seed"].nunique().max())
    band = f"mean of {seeds} seeds, band of one standard deviation" if seeds > 1 else "one seed"
    title = "; ".join(filter(None, (f"{study.name}: {band}", sizes_differ(frame))))
    levels = tables.reference(study, frame)
    store.write_bytes(study / "comparison.png", figures.curves(frame, title, levels, trained.panels(known)))


def _compare_solved(study: Path, folders: Sequence[Path]) -> None:
    import pandas as pd  # here, since it takes half a second to import

    frame = solved.pooled(solved.carried(tables.load_study(study), folders))
    store.write_text(study / "comparison.csv", tables.csv_text(frame))
    title = f"{study.name}: points are simulations with two standard errors, lines are theory"
    store.write_bytes(study / "comparison.png", solved.curves(frame, title, solved.quantities(folders)))
    times = solved.timescales(folders)
    if times:
        store.write_text(study / "timescales.csv", tables.csv_text(pd.DataFrame(times).drop(columns=["path", "model"])))
    if any(row["uniform"] and row["model"] == "discrete" for row in times):
        store.write_bytes(study / "timescales.png", solved.timescale_figure(times))


def sizes_differ(frame: DataFrame) -> str:
    """A warning if scores of different numbers of samples are compared, else empty: Frechet distance and coverage
    depend on that number."""
    column = next((c for c in ("n_drawn", "n_pool") if c in frame), None)
    sizes = sorted({int(n) for n in frame[column].dropna()}) if column else []
    if len(sizes) < 2:
        return ""
    return f"{sizes[0]:,} to {sizes[-1]:,} samples: fd falls with their number"


def spread_text(study: str | Path) -> str:
    """What the ± in the comparison of a study stands for."""
    solvable = any(map(tables.is_solved, tables.chains(Path(study))))
    return "standard error; compared while it can be" if solvable else "standard deviation over seeds"


def comparison_lines(study: str | Path) -> list[str]:
    """comparison.csv as lines to print: the last generation of each condition, or the summary of solvable systems."""
    import pandas as pd  # here, since it takes half a second to import

    folders = tables.chains(Path(study))
    frame = cast(DataFrame, pd.read_csv(Path(study) / "comparison.csv"))
    if any(map(tables.is_solved, folders)):
        return solved.lines(solved.summary(frame, solved.quantities(folders)))
    known = tables.measures(folders, tables.common_protocol(folders))
    shown = [name for name, info in known.items() if info.headline and name in frame]
    width = max(len(c) for c in frame["condition"])
    lines = [f"{'condition':<{width}}  gen  seeds  " + "  ".join(f"{c:>15}" for c in shown)]
    for condition, part in frame.groupby("condition"):
        last = part.iloc[-1].to_dict()
        cells = [f"{last[c]:.3g}" + (f" ± {last[c + '_sd']:.2g}" if pd.notna(last[f"{c}_sd"]) else "") for c in shown]
        head = f"{condition:<{width}}  {int(last['generation']):>3}  {int(last['seeds']):>5}  "
        lines.append(head + "  ".join(f"{c:>15}" for c in cells))
    return [*lines, *filter(None, [sizes_differ(frame)])]
