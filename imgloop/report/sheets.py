"""Images for the page: sheets of real images and of samples, and the samples in motion, in data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from imgloop import figures
from imgloop.errors import UserError
from imgloop.pool import Pool
from imgloop.report.text import plural
from imgloop.study import tables
from imgloop.study.study import Study

SHOWN = 16  # samples a sheet, at most: the number of shared latents
WIDE = 208  # approximate width of a sheet, CSS pixels
BUDGET = 9_000_000  # bytes of all sheets, so that a page stays under 15 MB
MOVING = 2_500_000  # bytes of all animations
FRAMES = 200  # of all animations together, each of which takes about a hundredth of a second to make
STRIP = 15  # CSS pixels below each row of a sheet with labels, at least


@dataclass(frozen=True)
class Sheet:
    """A picture for the page: data URI, width in CSS pixels (a whole multiple of its own), alt text and caption.

    `labels`: the class of each image, or none; each stands below its image, of which a row has `columns`.
    """

    uri: str
    width: int
    alt: str
    caption: str
    columns: int = 1
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Animation:
    """The samples of a condition over its generations: the data URI of a WebP, width in CSS pixels, alt text and
    caption, and the `still` sheet in its place for readers who want less motion."""

    uri: str
    width: int
    alt: str
    caption: str
    still: Sheet


@dataclass(frozen=True)
class Evolution:
    """Sheets by generation and condition (None where a chain has ended), and of real images; `left_out`: what is not
    shown, in a sentence. `animations`: one a condition, of those with two generations or more."""

    seed: int
    seeds: int
    samples: int
    real: tuple[Sheet, ...]
    generations: tuple[tuple[int, tuple[tuple[str, Sheet | None], ...]], ...]
    left_out: str = ""
    animations: tuple[Animation, ...] = ()


def sheet(x: np.ndarray, alt: str, caption: str, labels: Sequence[str] = ()) -> Sheet:
    """Images uint8 (N, C, H, W) as one sheet at their own size, with transparent gaps; the page enlarges it by a whole
    factor, and writes `labels`, one an image, into the gaps below the rows."""
    n, channels, height, width = x.shape
    columns = int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    factor = max(1, round(WIDE / (columns * (width + 1) - 1)))
    gap = -(-STRIP // factor) if labels else 1
    bands = 2 if channels < 3 else 4  # grey or RGB, and alpha
    page = np.zeros((rows * (height + gap) - (0 if labels else 1), columns * (width + 1) - 1, bands), np.uint8)
    for i, image in enumerate(np.asarray(x)):
        top, left = i // columns * (height + gap), i % columns * (width + 1)
        cell = page[top : top + height, left : left + width]
        cell[..., : bands - 1], cell[..., -1] = np.moveaxis(image[: bands - 1], 0, -1), 255
    out = io.BytesIO()
    Image.fromarray(page, "LA" if bands == 2 else "RGBA").save(out, "png", optimize=True)
    return Sheet(_uri(out.getvalue(), "png"), page.shape[1] * factor, alt, caption, columns, tuple(labels))


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def evolution(study: Study, names: Mapping[str, str], seed: int | None = None, budget: int = BUDGET) -> Evolution | str:
    """The same latents in every generation of every condition, for one seed (the smallest that most conditions have);
    or, in a sentence, why there are no images. Raises UserError if no chain has the seed."""
    if study.is_csv or study.solvable:
        return "A table has no images." if study.is_csv else "A solvable system has no images."
    seeds = [s for c in names for s in study.seeds(c)]
    seed = max(sorted(set(seeds)), key=seeds.count) if seed is None else seed
    chains = {c: study.chain(c, seed) for c in names if seed in study.seeds(c)}
    if not chains:
        known = ", ".join(map(str, study.seeds()))
        raise UserError(f"{study.path} has no chain of seed {seed}; its seeds are {known}.", "seed")
    last = {c: len(tables.generations(chain)) - 1 for c, chain in chains.items()}
    every = list(range(max(last.values()) + 1))
    classes = _classes(study)
    for samples, most in ((SHOWN, 60), (SHOWN, 20), (9, 20), (9, 8), (4, 8), (4, 3), (1, 2)):
        generations = every if len(every) <= most else sorted({round(k) for k in np.linspace(0, every[-1], most)})
        pools = {c: [(t, _latents(study, c, seed, t, samples)) for t in generations if t <= last[c]] for c in chains}
        by_condition = {c: dict(_sheets(names[c], seed, pools[c], classes)) for c in chains}
        if sum(len(s.uri) for found in by_condition.values() for s in found.values()) <= budget:
            break
    rows = [(t, tuple((names[c], found.get(t)) for c, found in by_condition.items())) for t in generations]
    shown = []
    if len(generations) < len(every):
        shown.append(f"{len(generations)} of {plural(len(every), 'generation')}")
    if samples < SHOWN:
        shown.append(f"{samples} of {SHOWN} latents")
    missing = [names[c] for c in names if c not in chains]
    left_out = f"To keep the page small, it shows {' and '.join(shown)}. " if shown else ""
    left_out += f"No chain of seed {seed}: {', '.join(missing)}." if missing else ""
    real = _real(study, samples, classes)
    found = Evolution(seed, len(study.seeds()), samples, real, tuple(rows), left_out.strip())
    return replace(found, animations=_animations(names, seed, pools, by_condition, classes, min(budget, MOVING)))


def _latents(study: Study, condition: str, seed: int, t: int, samples: int) -> Pool:
    y = study.latent_labels(condition, seed, t)
    return Pool(study.latents(condition, seed, t)[:samples], None if y is None else y[:samples])


def _sheets(name: str, seed: int, pools: Sequence[tuple[int, Pool]], classes: Sequence[str] | None):
    """(generation, sheet) of a condition."""
    for t, pool in pools:
        alt = f"{len(pool)} samples of {name}, seed {seed}, generation {t}"
        yield t, sheet(pool.x, alt, name, labels(pool, classes))


def _animations(names, seed: int, pools, sheets, classes, budget: int) -> tuple[Animation, ...]:
    """The animations of all conditions, or none if they take more than `budget` bytes."""
    found: list[Animation] = []
    most = min(figures.FRAMES, max(FRAMES // len(pools), 2))
    for condition, generations in pools.items():
        if len(generations) < 2:
            continue
        data = figures.animation(generations, classes, most)
        first, last = generations[0][0], generations[-1][0]
        alt = f"The samples of {names[condition]}, seed {seed}, generations {first} to {last} in turn"
        with Image.open(io.BytesIO(data)) as picture:
            width = picture.width
        found.append(Animation(_uri(data, "webp"), width, alt, names[condition], sheets[condition][last]))
        if sum(len(a.uri) + len(a.still.uri) for a in found) > budget:
            return ()
    return tuple(found)


def labels(pool: Pool, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The class of each image, by name, or by number where names are missing; none for images without labels."""
    if pool.y is None:
        return ()
    names = dict(enumerate(classes or ()))
    return tuple(names.get(int(label), str(label)) for label in pool.y)


def _classes(study: Study) -> tuple[str, ...] | None:
    try:
        return study.real.classes
    except UserError:
        return None


def _real(study: Study, samples: int, classes: Sequence[str] | None) -> tuple[Sheet, ...]:
    """Two sheets of real images: from the training set and from the held-out set."""
    try:
        real = study.real
    except UserError:
        return ()
    found = []
    for part, pool in (("training", real.train), ("held out", real.heldout)):
        some = Pool(pool.x[:samples], None if pool.y is None else pool.y[:samples])
        alt = f"{len(some)} real images, {part}"
        found.append(sheet(some.x, alt, f"real, {part}", labels(some, classes)))
    return tuple(found)
