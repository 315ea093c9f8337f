"""python -m imgloop.metrics REAL GENERATED: scores of generated sets of images, made by imgloop or not."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imgloop.errors import status
from imgloop.measures import MEASURES, SCORES

if TYPE_CHECKING:
    from imgloop.metrics.scoring import Report

SECONDS = 5.0  # between two lines of progress if the output is not a terminal
HEAD = 24  # characters of a column's head
PAIRS = 24  # samples in each half of the figure of nearest images


def main(argv: list[str] | None = None) -> int:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return status("imgloop.metrics", command, argv)


def command(argv: list[str] | None) -> None:
    a = arguments(argv)
    options = {k: int(v) if v.isdigit() else v for k, v in (o.split("=", 1) for o in a.option)}
    if a.weights:
        options["weights"] = a.weights
    start = time.monotonic()
    from imgloop.metrics.scoring import score

    reports = score(
        a.real,
        a.generated,
        a.features,
        options=options,
        train=a.train,
        size=a.size,
        n=a.n,
        infinity=a.infinity,
        device=a.device,
        progress=stage_progress,
    )
    if a.nearest:
        from imgloop import store
        from imgloop.metrics.nearest import figure

        for i, report in enumerate(reports):
            path = a.nearest if i == 0 else a.nearest.with_stem(f"{a.nearest.stem}-{i + 1}")
            store.write_bytes(path, figure(report, PAIRS))
            print(f"nearest training images of {report.name}: {path}", file=sys.stderr)
    if a.json:
        results = [report.to_json() for report in reports]
        print(json.dumps(results[0] if len(results) == 1 else results, indent=1, allow_nan=False), flush=True)
    else:
        print("\n".join(lines(reports)), flush=True)
        print(f"measured in {time.monotonic() - start:.0f} s", file=sys.stderr)


def arguments(argv: list[str] | None):
    parser = argparse.ArgumentParser(prog="python -m imgloop.metrics", description=__doc__)
    parser.add_argument("real", type=Path, help="a folder or .zip of images, an .npz, or a pool.safetensors of a chain")
    parser.add_argument("generated", type=Path, nargs="+", help="one or more of the same")
    parser.add_argument("--features", default="auto", help="auto, classifier, random, pixels, inception or dinov2")
    parser.add_argument("--weights", help="file of weights, for inception and dinov2")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="setting of the features")
    parser.add_argument(
        "--train",
        type=Path,
        help="training images of the generator (of train/ and test/ the former), among which copies are searched",
    )
    parser.add_argument(
        "--size", type=int, help="reduce all images to SIZE pixels; images that are not square are cropped"
    )
    parser.add_argument("--n", type=int, help="score N random images of each generated set")
    parser.add_argument(
        "--nearest", type=Path, metavar="PNG", help="write samples beside their nearest training images"
    )
    parser.add_argument(
        "--infinity", action="store_true", help="also the distance extrapolated to infinitely many samples"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: protocol, scores, notes, scores by class")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    a = parser.parse_args(argv)
    if invalid := [o for o in a.option if "=" not in o]:
        parser.error(f"--option {invalid[0]}: give KEY=VALUE")
    if a.nearest and (
        a.nearest.suffix.lower() != ".png" or a.nearest.is_dir() or not a.nearest.absolute().parent.is_dir()
    ):
        parser.error(f"--nearest {a.nearest}: give the name of a .png file in a folder that exists")
    for name in ("size", "n"):
        if getattr(a, name) is not None and getattr(a, name) < 1:
            parser.error(f"--{name} {getattr(a, name)}: give a whole number of at least 1")
    return a


def stage_progress(stage: str) -> Callable[[int, int], None]:
    """The progress callback of a stage, on standard error: a line that is updated on a terminal, else occasional
    lines."""
    live, last = sys.stderr.isatty(), time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if live:
            print(f"\r{stage}: {done:,} of {total:,} ", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif now - last > SECONDS:
            last = now
            print(f"{stage}: {done:,} of {total:,}", file=sys.stderr, flush=True)

    return update


def lines(reports: Sequence[Report]) -> list[str]:
    """The table: one row per score, one column per set and one of null values; then scores by class, protocol, and the
    scores that were not measured."""
    first = reports[0]
    names = []
    for name in (*MEASURES, *(c for c in first.scores if c not in MEASURES)):
        if any(name in r.scores for r in reports):
            p_value = MEASURES[name].p_value if name in MEASURES else None
            names += [name, p_value] if p_value else [name]
    shown = {c: c.replace("fd", first.distance) for c in names}
    heads = shortened([r.name for r in reports])
    widths = [max(10, len(h)) for h in heads]
    left = max(map(len, shown.values()))
    null = first.notes.get("null", {})
    out = [f"{head}: {r.name}" for head, r in zip(heads, reports) if head != r.name]
    out.append(" " * left + "".join(f"  {h:>{w}}" for h, w in zip(heads, widths)) + f"  {'null':>10}")
    for c in names:
        cells = "".join(f"  {cell(r.scores.get(c, r.notes.get(c))):>{w}}" for r, w in zip(reports, widths))
        spread = f" ± {null['tail_mass_sd']:.2g}" if c == "tail_mass" else ""
        out.append(f"{shown[c]:<{left}}{cells}  {cell(null.get(c)) + spread:>10}".rstrip())
    for report in reports:
        if report.classes:
            out += ["", f"{report.name} by class ({report.notes['class_labels']} labels)", *by_class(report)]
    p = first.protocol
    out += [
        "",
        f"protocol: {p['features']} features ({p['extractor']}), {p['channels']}x{p['size']}x{p['size']}, "
        f"{p['n_generated']:,} samples against {p['n_reference']:,} images ({p['reference']})",
    ]
    if null:
        real = first.reference
        out.append(
            "null: expected for fresh real images; precision and recall between halves of the reference, "
            f"{real['n_half']:,} images each, whose {first.distance} is {real['fd']:.3g}"
        )
    if "bins" in first.notes:
        out.append(f"modes: {first.notes['bins']['bins']} bins of real features (k-means), without labels")
    reasons: dict[str, list[str]] = {}
    for column, reason in first.notes.items():
        if column in SCORES and not column.endswith("risk"):  # needs a generator of imgloop
            reasons.setdefault(reason, []).append(column)
    out += [f"not measured: {', '.join(columns)}: {reason}" for reason, columns in reasons.items()]
    if "heldout_accuracy" in p:
        source = "shipped with imgloop" if p["shipped"] else "trained here"
        out.append(
            f"classifier: {source}, on {p['training_data']} ({p['trained_on']:,}); held-out accuracy "
            f"{p['heldout_accuracy']:.1%}"
        )
    if "weights" in p:
        out.append(f"weights: SHA-256 {p['weights']}; resize: {p['resize']}")
    if "warning" in p:
        out.append(f"warning: {p['warning']}")
    return out


def shortened(names: Sequence[str]) -> list[str]:
    """Heads of columns: names of sets, numbered instead where one is too long."""
    return list(names) if all(len(n) <= HEAD for n in names) else [f"set {i}" for i, _ in enumerate(names, 1)]


def by_class(report: Report) -> list[str]:
    """The table of scores by class: one row per class."""
    assert report.classes is not None
    columns = ("n_real", "n_generated", "fd", "precision", "recall", "density", "coverage", "variance_ratio")
    left = max(map(len, report.classes))
    out = [" " * left + "".join(f"  {c:>{max(8, len(c))}}" for c in columns)]
    for name, row in report.classes.items():
        out.append(f"{name:<{left}}" + "".join(f"  {cell(row.get(c)):>{max(8, len(c))}}" for c in columns))
    return out


def cell(value: float | None) -> str:
    """A number as it stands in a table; empty for None."""
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
