"""Where another program's images are: a folder of each chain, with images by generation, and perhaps by seed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgloop.data.decode import SUFFIXES
from imgloop.errors import UserError

ARRAYS = (".npy", ".npz")
DRAWN = ("images", "gen_samples", "samples", "generated")  # usual names of what a generation drew, without an ending
OTHER = ("training_dataset", "train", "training", "real")  # arrays beside the drawn images that are none
SEEDS = re.compile(r"(?:seed|run|rep|replicate|trial)[\s_=-]*(\d+)", re.IGNORECASE)
NAME = re.compile(r"(?!\.|shared$)[\w.,=+-]{1,120}")
EXAMPLE = "--pattern 'iter_*/images.npy', with * for the generation's number"


@dataclass(frozen=True)
class Source:
    """The images of one generation: `path`, a folder or .zip of images or an array; `number`: the generation's number
    in the program that drew them."""

    number: int
    path: Path


@dataclass(frozen=True)
class Chain:
    """The images of one condition and seed, generation 0 first."""

    condition: str
    seed: int
    sources: tuple[Source, ...]


def chains_of(
    folders: Sequence[Path], named: Sequence[str], pattern: str | None = None, first: int | None = None
) -> list[Chain]:
    """The chains in folders, each a condition of the folder's name, and in `named` ones, NAME=FOLDER.

    A name that is given several times has a seed for each of its folders, as has a folder with a subfolder for each
    seed. pattern: where the images are in the folder of a chain, with one `*` for the generation's number. first: the
    number of generation 0. Raises UserError where the images of a generation, or their numbers, are not clear.
    """
    found: dict[tuple[str, int], Chain] = {}
    for condition, folder in conditions(folders, named):
        by_seed = seeds(folder) or {None: folder}
        for seed, place in by_seed.items():
            sources = numbered(generations(place, pattern), place, first)
            used = [s for c, s in found if c == condition]
            key = condition, (len(used) if seed is None else seed)
            if key in found:
                raise UserError(
                    f"{place} and {found[key].sources[0].path.parent} are both seed {key[1]} of {condition}: give the "
                    "folders as --condition NAME=FOLDER with different names."
                )
            found[key] = Chain(*key, sources)
    if not found:
        raise UserError("Give the folder of a chain, or --condition NAME=FOLDER, which can be repeated.")
    return list(found.values())


def conditions(folders: Iterable[Path], named: Iterable[str]) -> list[tuple[str, Path]]:
    """Names of conditions with their folders; raises UserError for a folder that does not exist, and for names that
    cannot be those of conditions, or that two unnamed folders share."""
    pairs = [(re.sub(r"[^\w.,=+-]+", "_", folder.resolve().name), folder) for folder in folders]
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"Several folders are named {twice[0]}: give each as --condition NAME=FOLDER.")
    for text in named:
        parts = text.split("=")
        splits = [("=".join(parts[:k]), Path("=".join(parts[k:])).expanduser()) for k in range(1, len(parts))]
        if not splits:
            raise UserError(f"--condition {text}: write NAME=FOLDER, for example replace=runs/replace.")
        pairs.append(next((pair for pair in splits if pair[1].exists()), splits[0]))
    for name, folder in pairs:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: give the folder of a chain, with images by generation.")
        if not NAME.fullmatch(name):
            raise UserError(
                f"{name!r} cannot be the name of a condition: give --condition NAME=FOLDER, with letters, digits and "
                "any of _.,=+- in NAME."
            )
    return pairs


def seeds(folder: Path) -> dict[int | None, Path]:
    """The subfolders of a folder that are named by seeds (seed0, run_1, rep=002), by number; empty if it has none.
    Raises UserError for two of one number."""
    found: dict[int | None, Path] = {}
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        if match := SEEDS.fullmatch(place.name):
            other = found.setdefault(int(match[1]), place)
            if other != place:
                raise UserError(f"{other} and {place} are both seed {int(match[1])}: rename or move one of them.")
    return found


# -- Generations ------------------------------------------------------------------------------------------------------


def generations(folder: Path, pattern: str | None = None) -> dict[str, list[Source]]:
    """The sources in a chain's folder, by the form of their names; raises UserError if there are none."""
    found = matching(folder, pattern) if pattern is not None else counted(folder)
    if not found:
        what = f"nothing that matches --pattern {pattern}" if pattern is not None else "no images by generation"
        raise UserError(
            f"{folder} contains {what} (such as iter_0/images.npy, gen1.npz, or 0/ with images in it): name the place "
            f"of the images, {EXAMPLE}."
        )
    return found


def matching(folder: Path, pattern: str) -> dict[str, list[Source]]:
    """The paths in a folder that match a pattern with one `*` for the generation's number."""
    if pattern.count("*") != 1 or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise UserError(f"--pattern {pattern}: give a path inside the folder of a chain, {EXAMPLE}.")
    before, after = map(re.escape, pattern.strip("/").split("*"))
    number = re.compile(rf"{before}(\d+){after}")
    matches = ((number.fullmatch(p.relative_to(folder).as_posix()), p) for p in folder.glob(pattern.strip("/")))
    sources = [Source(int(match[1]), images_in(p) or p) for match, p in matches if match]
    return {pattern: sources} if sources else {}


def counted(folder: Path) -> dict[str, list[Source]]:
    """The subfolders, arrays and zips of a folder with a number in their names, if they have images, by the form of
    their names: `#` stands where numbers differ."""
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        usable = path.is_dir() or path.suffix.lower() in (*ARRAYS, ".zip")
        if usable and not path.name.startswith(".") and re.search(r"\d", path.stem):
            groups.setdefault(re.sub(r"\d+", "#", path.name), []).append(path)
    found = {}
    for form, paths in groups.items():
        numbers = [list(map(int, re.findall(r"\d+", p.name))) for p in paths]
        places = [k for k in range(len(numbers[0])) if len({n[k] for n in numbers}) > 1] or [0]
        inner = [(n, images) for n, p in zip(numbers, paths) if (images := images_in(p))]
        if not inner:
            continue
        if len(places) > 1:
            raise UserError(
                f"{folder} has {paths[0].name}, {paths[-1].name}, in which several numbers differ: say which is the "
                f"generation's, {EXAMPLE}."
            )
        found[form] = [Source(n[places[0]], images) for n, images in inner]
    return found


def images_in(path: Path) -> Path | None:
    """The drawn images in a generation's folder: an array, a folder or .zip of images, in this order; None if there
    are none. A file is itself. Raises UserError where several could be meant."""
    if not path.is_dir():
        return path
    inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    for kinds in (ARRAYS, (".zip",)):
        files = [p for p in inside if p.suffix.lower() in kinds and p.stem.lower() not in OTHER and may_be_images(p)]
        named = [p for p in files if p.stem.lower() in DRAWN]
        if len(named or files) == 1:
            return (named or files)[0]
        if not any(p.is_dir() and p.name.lower() in DRAWN for p in inside) and files:
            raise UserError(
                f"{path} contains {', '.join(p.name for p in files[:4])}, and which are the drawn images is "
                f"unclear: name one, {EXAMPLE}."
            )
        if kinds == ARRAYS:
            folders = [p for name in DRAWN for p in inside if p.is_dir() and p.name.lower() == name]
            if folders and has_images(folders[0]):
                return folders[0]
    return path if has_images(path) else None


def may_be_images(path: Path) -> bool:
    """Whether a file is no .npy with other dimensions than images have."""
    if not path.is_file() or path.suffix.lower() != ".npy":
        return path.is_file()
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).ndim in (3, 4)
    except (OSError, ValueError, EOFError):  # the reader of images names what is wrong with it
        return True


def has_images(folder: Path) -> bool:
    """Whether a folder, or one below it, has a file of an image."""
    return any(
        not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        for _, _, names in os.walk(folder)
        for name in names
    )


def numbered(found: dict[str, list[Source]], folder: Path, first: int | None = None) -> tuple[Source, ...]:
    """The sources of one form of names in the order of their numbers, from `first` (by default the smallest, 0 or 1).
    Raises UserError for several forms, numbers that are missing or twice there, and another first number."""
    if len(found) > 1:
        names = ", ".join(f"{form} ({len(sources)})" for form, sources in found.items())
        raise UserError(f"{folder} has numbered images of several kinds, {names}: choose one, {EXAMPLE}.")
    (sources,) = found.values()
    sources = sorted(sources, key=lambda s: s.number)
    numbers = [s.number for s in sources]
    start = numbers[0] if first is None else first
    if first is None and start > 1:
        raise UserError(
            f"The first generation in {folder} is {start}: give --first {start} if it was drawn by the model that was "
            "trained on real data alone."
        )
    if start not in numbers:
        raise UserError(f"{folder} has generations {ranges(numbers)}, and no {start}, which --first names.")
    sources = [s for s in sources if s.number >= start]
    for place, source in enumerate(sources):
        if source.number == start + place:
            continue
        if source.number == sources[place - 1].number:
            raise UserError(f"{sources[place - 1].path} and {source.path} are both generation {source.number}.")
        raise UserError(
            f"{folder} has generations {ranges(numbers)}: generation {start + place} is missing. Add its images, or "
            "move the later ones away."
        )
    return tuple(sources)


def ranges(numbers: Sequence[int], most: int = 8) -> str:
    """Numbers as text: 0, 1, 2, 4."""
    return ", ".join(map(str, numbers[:most])) + (f" and {len(numbers) - most} more" if len(numbers) > most else "")
