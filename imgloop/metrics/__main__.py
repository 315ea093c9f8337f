"""python -m imgloop.metrics REAL GENERATED: scores of sets of images that imgloop need not have made."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from imgloop.errors import status
from imgloop.measures import SCORES

FIRST = ("fd", "fd_infinity", "kd", "kd_sem", "precision", "recall", "density", "coverage")
FIRST += ("authenticity", "near_copies")
CHANCE = {c: f"{c}_p" for c in ("off_support", "ambiguity")}  # of reading as many or more where nothing differs
SECONDS = 5.0  # between two lines of progress where no terminal is
PAIRS = 24  # samples in each half of the figure


def main(argv: list[str] | None = None) -> int:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return status("imgloop.metrics", command, argv)


def command(argv: list[str] | None) -> None:
    a = arguments(argv)
    options = {k: int(v) if v.isdigit() else v for k, v in (o.split("=", 1) for o in a.option)}
    if a.weights:
        options["weights"] = a.weights
    began = time.monotonic()
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
        progress=told,
    )
    if a.nearest:
        from imgloop import store
        from imgloop.metrics.nearest import figure

        for i, report in enumerate(reports):
            path = a.nearest if i == 0 else a.nearest.with_stem(f"{a.nearest.stem}-{i + 1}")
            store.write_bytes(path, figure(report, PAIRS))
            print(f"nearest training images of {report.name}: {path}", file=sys.stderr)
    if a.json:
        found = [r.to_json() for r in reports]
        print(json.dumps(found[0] if len(found) == 1 else found, indent=1, allow_nan=False), flush=True)
    else:
        print("\n".join(lines(reports)), flush=True)
        print(f"measured in {time.monotonic() - began:.0f} s", file=sys.stderr)


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
        help="images the generator was trained on (of train/ and test/ the first): copies are looked for there",
    )
    parser.add_argument(
        "--size", type=int, help="pixels to which all images are reduced; of what is not square the centre"
    )
    parser.add_argument("--n", type=int, help="score N images of each generated set, at random")
    parser.add_argument(
        "--nearest", type=Path, metavar="PNG", help="write samples beside their nearest training images"
    )
    parser.add_argument(
        "--infinity", action="store_true", help="also the distance extrapolated to infinitely many samples"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: protocol, scores, notes, scores by class")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    a = parser.parse_args(argv)
    if wrong := [o for o in a.option if "=" not in o]:
        parser.error(f"--option {wrong[0]}: give KEY=VALUE")
    if a.nearest and (
        a.nearest.suffix.lower() != ".png" or a.nearest.is_dir() or not a.nearest.absolute().parent.is_dir()
    ):
        parser.error(f"--nearest {a.nearest}: give the name of a .png file in a folder that exists")
    for name in ("size", "n"):
        if getattr(a, name) is not None and getattr(a, name) < 1:
            parser.error(f"--{name} {getattr(a, name)}: give a whole number of at least 1")
    return a


def told(stage: str):
    """Progress of a stage on standard error: one line that changes on a terminal, a line now and then elsewhere."""
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


def lines(reports) -> list[str]:
    """The table: one row a score, one column a set and one of null values; then its protocol, what was not measured,
    and the scores by class."""
    first = reports[0]
    names = [c for c in FIRST if any(c in r.scores for r in reports)]
    names += [c for c in first.scores if c not in names]
    names = [n for c in names for n in ((c, CHANCE[c]) if c in CHANCE else (c,))]
    shown = {c: c.replace("fd", first.distance) for c in names}
    widths = [max(10, len(r.name)) for r in reports]
    left = max(map(len, shown.values()))
    null = first.notes.get("null", {})
    out = [" " * left + "".join(f"  {r.name:>{w}}" for r, w in zip(reports, widths)) + f"  {'null':>10}"]
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
            "null: what fresh real images would read; precision and recall of halves of the reference, "
            f"{real['n_half']:,} images each, between which {first.distance} is {real['fd']:.3g}"
        )
    if "bins" in first.notes:
        out.append(f"modes: {first.notes['bins']['bins']} bins of real features (k-means), since there are no labels")
    reasons: dict[str, list[str]] = {}
    for column, reason in first.notes.items():
        if column in SCORES and not column.endswith("risk"):  # which only a generator of imgloop has
            reasons.setdefault(reason, []).append(column)
    out += [f"not measured: {', '.join(columns)}: {reason}" for reason, columns in reasons.items()]
    if "heldout_accuracy" in p:
        shipped = "comes with imgloop" if p["shipped"] else "was trained for this"
        out.append(
            f"classifier: {shipped} on {p['training_data']} ({p['trained_on']:,}); held-out accuracy "
            f"{p['heldout_accuracy']:.1%}"
        )
    if "weights" in p:
        out.append(f"weights: SHA-256 {p['weights']}; resize: {p['resize']}")
    if "warning" in p:
        out.append(f"warning: {p['warning']}")
    return out


def by_class(report) -> list[str]:
    columns = ("n_real", "n_generated", "fd", "precision", "recall", "density", "coverage", "variance_ratio")
    left = max(map(len, report.classes))
    out = [" " * left + "".join(f"  {c:>{max(8, len(c))}}" for c in columns)]
    for name, row in report.classes.items():
        out.append(f"{name:<{left}}" + "".join(f"  {cell(row.get(c)):>{max(8, len(c))}}" for c in columns))
    return out


def cell(value) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
