"""The comparison of a study's conditions: comparison.csv, comparison.png, and lines to print."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from imgloop import figures, store
from imgloop.conditions import short_names
from imgloop.measures import MEASURES
from imgloop.study import derived, solved, tables, trained
from imgloop.study.imported import is_imported
from imgloop.study.progress import incomplete, missing, progress
from imgloop.study.trained import DataFrame

SHARE = 20  # a sparing comparison takes at most one part in so many of a sweep's time


def compare(study: str | Path, sparing: bool = False) -> None:
    """Write comparison.csv (statistics over the seeds of each condition and generation) and comparison.png of a study,
    where they are missing or old.

    Of solvable systems that were followed to total collapse also timescales.csv and timescales.png. sparing: in a
    sweep, which compares at its end, not too soon after the last comparison. Raises UserError for a damaged chain.
    """
    study = Path(study)
    if sparing and derived.recent(study, SHARE):
        return
    with store.lock(study / "shared" / ".comparison.lock"):
        began = time.monotonic()
        folders = tables.chains(study)
        solvable = any(map(tables.is_solved, folders))
        protocol = None if solvable else tables.common_protocol(folders)
        parts = [p for c in folders for p in ([c / "record.json"] if solvable else trained.inputs(c, protocol))]
        unfinished = missing(progress(study))
        key = derived.key_of(parts, study.name, *([unfinished] if unfinished else []))
        if not derived.current(study, key):
            files = _compare_solved(study, folders) if solvable else _compare_trained(study, folders, protocol)
            derived.write(study, key, files, seconds=time.monotonic() - began)


def _compare_trained(study: Path, folders: Sequence[Path], protocol: str | None) -> dict[str, Callable[[], bytes]]:
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
    unfinished, note = _unfinished(study, result)
    seeds = int(frame.groupby("condition")["seed"].nunique().max())
    band = f"mean of {seeds} seeds, band of one standard deviation" if seeds > 1 else "one seed"
    name = f"{study.name}, imported" if is_imported(study) else study.name
    title = "; ".join(filter(None, (f"{name}: {band}", sizes_differ(frame), note, shared(frame))))
    levels = tables.reference(study, frame)
    return {
        "comparison.csv": tables.csv_text(unfinished).encode,
        "comparison.png": lambda: figures.curves(frame, title, levels, trained.panels(known)),
    }


def _compare_solved(study: Path, folders: Sequence[Path]) -> dict[str, Callable[[], bytes]]:
    import pandas as pd  # here, since it takes half a second to import

    frame = solved.pooled(solved.carried(tables.load_study(study), folders))
    frame, note = _unfinished(study, frame)
    title = f"{study.name}: points are simulations with two standard errors, lines are theory"
    title = "; ".join(filter(None, (title, note, shared(frame))))
    files: dict[str, Callable[[], bytes]] = {
        "comparison.csv": tables.csv_text(frame).encode,
        "comparison.png": lambda: solved.curves(frame, title, solved.quantities(folders)),
    }
    times = solved.timescales(folders)
    if times:
        files["timescales.csv"] = tables.csv_text(pd.DataFrame(times).drop(columns=["path", "model"])).encode
    if any(row["uniform"] and row["model"] == "discrete" for row in times):
        files["timescales.png"] = lambda: solved.timescale_figure(times)
    return files


def _unfinished(study: Path, frame: DataFrame) -> tuple[DataFrame, str]:
    """A comparison with the column `missing`, the planned seeds that a row lacks, and a short remark for a title; both
    only where chains are missing."""
    unfinished = missing(progress(study))
    if not unfinished:
        return frame, ""
    lacking = [
        " ".join(seed for seed, done in unfinished.get(str(condition), {}).items() if done <= generation)
        for condition, generation in zip(frame["condition"], frame["generation"])
    ]
    count = sum(map(len, unfinished.values()))
    return frame.assign(missing=lacking), f"incomplete: {count} chain{'s' * (count != 1)} missing"


def shared(frame: DataFrame) -> str:
    """The settings that all conditions share, which their short names leave out; "" if there are none."""
    _, common = short_names(list(dict.fromkeys(frame["condition"])))
    return f"all with {', '.join(common)}" if common else ""


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
    names, _ = short_names(list(dict.fromkeys(frame["condition"])))
    note = incomplete(progress(Path(study)))
    if any(map(tables.is_solved, folders)):
        rows = solved.summary(frame, solved.quantities(folders))
        lines = solved.lines([{**r, "condition": names[r["condition"]]} for r in rows])
        return [*lines, *filter(None, [shared(frame), note])]
    known = tables.measures(folders, tables.common_protocol(folders))
    shown = [name for name, info in known.items() if info.headline and name in frame]
    first = "condition (imported)" if is_imported(Path(study)) else "condition"
    width = max(map(len, [first, *names.values()]))
    lines = [f"{first:<{width}}  gen  seeds  " + "  ".join(f"{c:>15}" for c in shown)]
    for condition, part in frame.groupby("condition"):
        last = part.iloc[-1].to_dict()
        cells = [
            "-" if pd.isna(last[c]) else f"{last[c]:.3g}" + f" ± {last[sd]:.2g}" * pd.notna(last[sd])
            for c, sd in ((c, f"{c}_sd") for c in shown)
        ]
        head = f"{names[str(condition)]:<{width}}  {int(last['generation']):>3}  {int(last['seeds']):>5}  "
        lines.append(head + "  ".join(f"{c:>15}" for c in cells))
    return [*lines, *filter(None, [sizes_differ(frame), shared(frame), note])]
