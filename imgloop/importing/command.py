"""python -m imgloop.study import FOLDER... --real PATH: another program's images as a study that is measured, reported
and profiled like one of ours."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from imgloop import store
from imgloop.errors import UserError
from imgloop.importing import histories, layout
from imgloop.importing.layout import Chain
from imgloop.metrics.__main__ import stage_progress
from imgloop.report.progress import fingerprint
from imgloop.study import tables
from imgloop.study.imported import is_imported
from imgloop.study.progress import write_states
from imgloop.study.real import real_folder, real_key

DEFAULT = "imported"  # the study's name


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m imgloop.study import",
        description="Make a study of images that another program drew: each FOLDER is a condition with its images by "
        "generation (iter_0/images.npy, 0/gen_samples/*.png, gen1.zip, ...), and perhaps by seed (seed0/...). Folders "
        "with histories of measures (metrics.npz) become a CSV table.",
        epilog="docs/import.md has the commands for the layouts of public programs",
    )
    p.add_argument("folder", nargs="*", type=Path, help="the folder of a chain; its name is the condition's")
    p.add_argument(
        "--condition", action="append", default=[], metavar="NAME=FOLDER",
        help="a chain whose condition is NAME; repeat it for others, and with the same NAME for further seeds",
    )  # fmt: skip
    p.add_argument("--real", type=Path, metavar="PATH", help="the real training images: a folder, .zip or array")
    p.add_argument(
        "--heldout", type=Path, metavar="PATH",
        help="real images that no model has seen (the test part of --real, else a fifth of it)",
    )  # fmt: skip
    p.add_argument("--study", default=DEFAULT, metavar="NAME", help=f"the name of the study ({DEFAULT})")
    p.add_argument("--out", type=Path, default=Path("outputs"), help="the folder of all studies (outputs)")
    p.add_argument(
        "--pattern", help="where the images are in a folder, with * for the generation's number: 'iter_*/images.npy'"
    )
    p.add_argument(
        "--first", type=int, metavar="N",
        help="the number of generation 0, whose model was trained on real data alone (the smallest there, 0 or 1)",
    )  # fmt: skip
    p.add_argument("--size", type=int, help="reduce all images to SIZE pixels; those that are not square are cropped")
    p.add_argument("--n", type=int, help="use N random images of each generation (all)")
    p.add_argument(
        "--levels", choices=("unit", "signed"),
        help="floats are images from 0 to 1 (unit) or from -1 to 1 (signed); by default as their values say",
    )  # fmt: skip
    p.add_argument("--features", default="auto", help="auto, classifier, random, pixels, inception or dinov2 (auto)")
    p.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    p.add_argument("--overwrite", action="store_true", help="delete these chains first")
    return p


def command(arguments: Sequence[str]) -> None:
    """Import what the arguments describe; raises UserError."""
    a = parser().parse_intermixed_args(arguments)
    check(a)
    pairs = layout.conditions(a.folder, a.condition)
    measured = [pair for pair in pairs if histories.files(pair[1])]
    if measured and len(measured) < len(pairs):
        others = [str(folder) for name, folder in pairs if (name, folder) not in measured]
        raise UserError(f"{measured[0][1]} has histories of measures, and {others[0]} has none: import them apart.")
    if measured:
        given = {name for name, _ in layout.conditions((), a.condition)}
        return histories.write(measured, given, a.out / f"{a.study}.csv")
    chains = layout.chains_of(a.folder, a.condition, a.pattern, a.first)
    if a.real is None:
        raise UserError(
            "The measures compare with real images: give --real PATH, the images that the first models were trained on."
        )
    import_images(a, chains, arguments)


def check(a: argparse.Namespace) -> None:
    """Raise UserError for an argument that cannot be used, before anything is read."""
    for name, least in (("size", 4), ("n", 1), ("first", 0)):
        value = getattr(a, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: give a whole number of at least {least}.")
    if not re.fullmatch(r"(?!\.)[\w.,=+-]+", a.study):
        raise UserError(f"--study {a.study}: use letters, digits and any of _.,=+- for the study's name.")
    for path in (p for p in (a.real, a.heldout) if p is not None and not p.exists()):
        raise UserError(f"{path} does not exist: give a folder or .zip of images, or an array (.npy, .npz).")


def import_images(a: argparse.Namespace, chains: Sequence[Chain], arguments: Sequence[str]) -> None:
    """Write, measure and report the chains."""
    from imgloop.config.settings import parsed  # imports Hydra
    from imgloop.importing.chain import Import, write_chain  # imports Pillow
    from imgloop.importing.images import drawn_images, levels_of, real_images  # imports torch
    from imgloop.measure import measure  # likewise
    from imgloop.multirun import write_report  # imports Hydra
    from imgloop.study.compare import comparison_lines, spread_text  # imports Pillow

    parsed([f"features={a.features}"])  # before anything is written
    study = a.out / a.study
    if tables.chains(study) and not is_imported(study):
        raise UserError(f"{study} holds chains that were trained here: give --study NEW.")
    for line in described(chains):
        print(line)
    real, levels = real_images(a.real, a.heldout, a.levels, a.size, stage_progress("reading real images"))
    drawn = levels_of([s.path for c in chains for s in c.sources], a.levels, "the images")
    print("\n".join(filter(None, (*real.lines(), levels.assumed, drawn.assumed, real.facts.warning))), flush=True)
    settings = {"size": a.size, "n": a.n, "levels": drawn.values and list(drawn.values)}

    def read(source):
        return drawn_images(source.path, real, a.real, drawn, a.size, a.n, stage_progress(f"reading {source.path}"))

    if a.overwrite:
        store.remove(*(study / c.condition / f"seed{c.seed}" for c in chains))
        if not tables.chains(study):
            store.remove(*(study / "shared").glob("real-*"))
    if others := [p for p in (study / "shared").glob("real-*") if p != real_folder(study / "shared", real_key(real))]:
        raise UserError(
            f"{study} was imported with other real images ({others[0].name}), and chains are compared by one set: give "
            "the same --real and --heldout, or --study NEW."
        )
    before = fingerprint(study)
    given = Import(study, real, settings, a.features, [w for w in arguments if w != "--overwrite"], read)
    try:
        for chain in chains:
            write_chain(chain, given)
    except UserError as e:
        begun = any((study / c.condition / f"seed{c.seed}" / "gen000").is_dir() for c in chains)
        if begun and e.setting == "size":
            raise UserError(f"{e} Add --overwrite: earlier generations are imported at their own size.") from e
        raise
    finally:
        write_states(study)
    protocol = measure(study, [f"features={a.features}"], device=a.device)
    write_states(study)
    if fingerprint(study) == before and (study / "report.html").exists():
        return print(f"{study} holds these {len(chains)} chains, measured under {protocol}: nothing to do")
    print("\n".join(["", f"{study}, at the last generation (± {spread_text(study)})", *comparison_lines(study)]))
    print(f"measured under {protocol}; python -m imgloop.measure {study} features=NAME measures again", flush=True)
    write_report(study)


def described(chains: Sequence[Chain]) -> list[str]:
    """What was found, a line for each chain."""
    lines = []
    for c in chains:
        first, last = c.sources[0], c.sources[-1]
        span = f"generations 0 to {len(c.sources) - 1}" if len(c.sources) > 1 else "generation 0"
        lines.append(f"{c.condition}, seed {c.seed}: {span} from {first.path} (number {first.number}) to {last.path}")
    return lines
