"""Chains of trained models, which have a folder for each generation: their tables, loss curves and figures."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from imgloop import figures, store
from imgloop.measures import COLUMNS, MEASURES, SIZES, MeasureInfo, with_user_measures
from imgloop.pool import Pool
from imgloop.study import derived
from imgloop.study.generation import check_files, check_numbers, generations, read_pool, read_record, read_scores
from imgloop.study.real import read_facts, real_folder

EVOLUTION = "evolution.safetensors"  # in a generation's folder: samples from the latents that all generations share
DRAWN = 2  # how the pictures are drawn: 2 has class names and an animation
DataFrame = Any  # pandas.DataFrame, whose methods type checkers misread without stubs
MEASURE = "python -m imgloop.measure"
LOSSES = "loss.json"  # in a generation's folder: [images seen, training loss] about every 50 steps


def protocols(chain: Path) -> list[str]:
    """The protocols under which all of the chain's generations have scores, the most recently written last. One that
    some generations lack, because measuring was interrupted, counts only if there is no other."""
    folders, written = generations(chain), dict[str, list[float]]()
    for path in (p for g in folders for p in (g / "scores").glob("*.json")):
        written.setdefault(path.stem, []).append(path.stat().st_mtime)
    complete = [name for name, times in written.items() if len(times) == len(folders)]
    return sorted(complete or written, key=lambda name: max(written[name]))


def row(folder: Path, protocol: str | None) -> dict[str, Any]:
    """A generation's sizes, times and scores by column of metrics.csv.

    folder: the generation's. protocol: a file name in scores/, without its ending; scores are left out where the
    generation has none under it. Raises UserError for a missing or damaged file.
    """
    record = read_record(folder, shown=True)
    values = {c: record.get(c) for c in SIZES} | {"n_drawn": record.get("n_drawn", record.get("n_pool"))}
    values |= {f"seconds_{s}": record["seconds"].get(s) for s in ("train", "sample", "measure")}
    path = folder / "scores" / f"{protocol}.json"
    if protocol is not None and path.exists():
        values |= {**read_scores(path, record)["scores"], "protocol": protocol}
    return values


def measures(chain: Path, protocol: str | None = None) -> dict[str, MeasureInfo]:
    """All measures by name: ours, then the user's own, which score files under `protocol` describe.

    protocol: by default the chain's newest. Raises UserError for a damaged score file.
    """
    protocol = protocol or next(reversed(protocols(chain)), None)
    files = (folder / "scores" / f"{protocol}.json" for folder in generations(chain))
    path = next((p for p in files if p.exists()), None)  # one protocol has the same measures in every generation
    if path is None:
        return dict(MEASURES)
    try:
        return with_user_measures(read_scores(path)["protocol"].get("measures") or ())
    except (AttributeError, TypeError, ValueError) as e:
        raise store.damaged(path, f"does not describe measures ({e})", "measure the study again") from e


def table(chain: Path, protocol: str | None = None) -> DataFrame:
    """The chain's metrics, one row a generation: COLUMNS of imgloop.measures, then the user's own measures.

    protocol: by default the chain's newest. Scores that no generation has are left out. Raises UserError where some
    generations have no scores under it, and others have.
    """
    import pandas as pd  # here, since it takes half a second to import

    check_numbers(Path(chain))
    protocol = protocol or next(reversed(protocols(chain)), None)
    columns = [*COLUMNS, *(m for m in measures(chain, protocol) if m not in MEASURES)]
    scores = [g / "scores" / f"{protocol}.json" for g in generations(chain)]
    absent = [path for path in scores if not path.exists()]
    if 0 < len(absent) < len(scores):
        raise store.damaged(absent[0], "is missing", f"measure the study again ({MEASURE} {chain.parents[1]})")
    frame = cast(DataFrame, pd.DataFrame([row(g, protocol) for g in generations(chain)], columns=columns))
    return frame[[c for c in columns if c in SIZES or frame[c].notna().any()]]


def drawn_path(folder: Path) -> Path:
    """The file of what a generation drew, the samples that it is measured on: pool.safetensors, if all of it was
    released."""
    path = folder / "drawn.safetensors"
    return path if path.exists() else folder / "pool.safetensors"


def loss_curve(generation: Path) -> list[list[float]]:
    """The training loss of a generation's folder as [images seen, loss]; empty where none was stored."""
    path = generation / LOSSES
    return store.read_json(path) if path.exists() else []


def write_files(chain: Path, protocol: str | None = None) -> DataFrame:
    """Write metrics.csv, evolution.png, evolution.webp and curves.png of a chain where they are missing or old; returns
    its table."""
    chain = Path(chain)
    protocol = protocol or next(reversed(protocols(chain)), None)
    frame, title = table(chain, protocol), f"{chain.parent.name}, {chain.name}"
    imported = any("imported" in read_record(g, shown=True) for g in generations(chain)[:1])
    title, columns = (f"{title}, imported", "random images") if imported else (title, "one column per latent")
    levels = reference(chain.parent.parent, frame)

    def latents() -> list[tuple[int, Pool]]:
        return [(int(g.name[3:]), shared_latents(g)) for g in generations(chain)]

    def curves() -> bytes:
        named = frame.assign(condition=chain.parent.name)
        return figures.curves(named, title, levels, panels(measures(chain, protocol)))

    classes = class_names(chain)
    key = derived.key_of(
        [*inputs(chain, protocol), *(g / EVOLUTION for g in generations(chain))], title, levels, classes, DRAWN
    )
    if not derived.current(chain, key):
        metrics = csv_text(frame).encode()
        derived.write(
            chain,
            key,
            {
                "evolution.png": lambda: figures.evolution(latents(), title, classes, columns),
                "evolution.webp": lambda: figures.animation(latents(), classes),
                "curves.png": curves,
                "metrics.csv": lambda: metrics,
            },
        )
    return frame


def shared_latents(folder: Path) -> Pool:
    """The samples of a generation from the latents that all generations share, images memory-mapped, with their labels
    if it stored them; raises UserError unless the file is as it was written."""
    check_files(folder, read_record(folder, shown=True), (EVOLUTION,))
    return read_pool(folder / EVOLUTION)


def class_names(chain: Path) -> tuple[str, ...] | None:
    """The names of the classes of a chain's real data; None where there are none, or its generations do not say which
    data they are of."""
    for folder in generations(chain)[:1]:
        key = read_record(folder, shown=True).get("real")
        path = None if key is None else real_folder(chain.parents[1] / "shared", str(key)) / "facts.json"
        return None if path is None or not path.exists() else read_facts(path)[0]
    return None


def inputs(chain: Path, protocol: str | None) -> list[Path]:
    """The files that a chain's table is made from."""
    return [g / part for g in generations(chain) for part in ("record.json", f"scores/{protocol}.json")]


def panels(known: Mapping[str, MeasureInfo]) -> list[tuple[str, str, str]]:
    """(name, label, unit) of the measures to plot, scores before sizes; a user's own are always plotted."""
    plotted = [info for name, info in known.items() if info.plotted or name not in MEASURES]
    return [(i.name, i.label, i.unit) for i in sorted(plotted, key=lambda info: info.kind == "size")]


def csv_text(frame: DataFrame) -> str:
    """A table as CSV with six significant digits; whole numbers stay whole, and missing values are empty."""
    out = io.StringIO()
    frame.convert_dtypes(convert_floating=False).to_csv(out, index=False, float_format="%.6g")
    return out.getvalue()


def reference(study: Path, frame: DataFrame) -> dict[str, Any] | None:
    """Scores of real images against real images by measure, under the table's protocol.

    None where the study has none, or the table has several protocols. Of several, the newest is read. Raises UserError
    where one is damaged.
    """
    shown = set(frame["protocol"].dropna()) if "protocol" in frame else set()
    folders = [p for p in (Path(study) / "shared").glob("reference-*") if p.is_dir()]
    references = [_reference(p) for p in sorted(folders, key=lambda p: p.stat().st_mtime)]
    return next((r for r in reversed(references) if {r["protocol"]} == shown), None)


def _reference(folder: Path) -> dict[str, Any]:
    path, again = store.verified(folder) / "reference.json", f"delete the folder {folder}: it is made again"
    values = store.read_json(path, again)
    if not isinstance(values, dict) or not isinstance(values.get("protocol"), str):
        raise store.damaged(path, "does not hold scores of real images", again, overwrite=False)
    return values
