"""Images for the page: sheets of real images and of samples as small PNGs in data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from imgloop.errors import UserError
from imgloop.report.text import plural
from imgloop.study import tables
from imgloop.study.study import Study

SHOWN = 16  # samples a sheet, at most: the number of shared latents
WIDE = 208  # approximate width of a sheet, CSS pixels
BUDGET = 9_000_000  # bytes of all sheets, so that a page stays under 15 MB


@dataclass(frozen=True)
class Sheet:
    """A picture for the page: data URI, width in CSS pixels (a whole multiple of its own), alt text and caption."""

    uri: str
    width: int
    alt: str
    caption: str


@dataclass(frozen=True)
class Evolution:
    """Sheets by generation and condition (None where a chain has ended), and of real images; `left_out`: what is not
    shown, in a sentence."""

    seed: int
    seeds: int
    samples: int
    real: tuple[Sheet, ...]
    generations: tuple[tuple[int, tuple[tuple[str, Sheet | None], ...]], ...]
    left_out: str = ""


def sheet(x: np.ndarray, alt: str, caption: str) -> Sheet:
    """Images uint8 (N, C, H, W) as one sheet at their own size, with transparent gaps; the page enlarges it."""
    n, channels, height, width = x.shape
    columns = int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    bands = 2 if channels < 3 else 4  # grey or RGB, and alpha
    page = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, bands), np.uint8)
    for i, image in enumerate(np.asarray(x)):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        cell = page[top : top + height, left : left + width]
        cell[..., : bands - 1], cell[..., -1] = np.moveaxis(image[: bands - 1], 0, -1), 255
    out = io.BytesIO()
    Image.fromarray(page, "LA" if bands == 2 else "RGBA").save(out, "png", optimize=True)
    factor = max(1, round(WIDE / page.shape[1]))
    uri = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    return Sheet(uri, page.shape[1] * factor, alt, caption)


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
    for samples, most in ((SHOWN, 60), (SHOWN, 20), (9, 20), (9, 8), (4, 8), (4, 3), (1, 2)):
        generations = every if len(every) <= most else sorted({round(k) for k in np.linspace(0, every[-1], most)})
        rows = [(t, tuple(_pair(study, names, c, seed, t, samples, last[c]) for c in chains)) for t in generations]
        if sum(len(s.uri) for _, row in rows for _, s in row if s) <= budget:
            break
    shown = []
    if len(generations) < len(every):
        shown.append(f"{len(generations)} of {plural(len(every), 'generation')}")
    if samples < SHOWN:
        shown.append(f"{samples} of {SHOWN} latents")
    missing = [names[c] for c in names if c not in chains]
    left_out = f"To keep the page small, it shows {' and '.join(shown)}. " if shown else ""
    left_out += f"No chain of seed {seed}: {', '.join(missing)}." if missing else ""
    return Evolution(seed, len(study.seeds()), samples, _real(study, samples), tuple(rows), left_out.strip())


def _pair(study: Study, names, condition: str, seed: int, t: int, samples: int, last: int):
    if t > last:
        return names[condition], None
    x = study.latents(condition, seed, t)[:samples]
    alt = f"{len(x)} samples of {names[condition]}, seed {seed}, generation {t}"
    return names[condition], sheet(x, alt, names[condition])


def _real(study: Study, samples: int) -> tuple[Sheet, ...]:
    """Two sheets of real images: from the training set and from the held-out set."""
    try:
        real = study.real
    except UserError:
        return ()
    return tuple(
        sheet(pool.x[:samples], f"{min(samples, len(pool))} real images, {part}", f"real, {part}")
        for part, pool in (("training", real.train), ("held out", real.heldout))
    )
