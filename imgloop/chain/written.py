"""What a generation leaves on disk: model, samples, mix, pictures, and the record of what it was made of and by."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgloop import store
from imgloop.chain.base import Fit
from imgloop.curation import Released
from imgloop.pool import REAL, STORED, Pool, TrainingSet
from imgloop.provenance import machine, versions
from imgloop.study.trained import LOSSES

if TYPE_CHECKING:
    from imgloop.chain.trained import Chain

LATENTS = 16  # columns of the evolution sheet: samples drawn from the same latents in every generation
FACTS = ("images_seen", "nfe", "sampling", "warning")  # of a generator, which have places of their own in record.json


def write(
    chain: Chain,
    t: int,
    fit: Fit,
    data: TrainingSet,
    drawn: Pool,
    released: Released,
    scores,
    classes: Sequence[str] | None,
) -> None:
    """Write generation t into its place; `classes` are the names of the labels."""
    from imgloop import figures  # imports Pillow
    from imgloop.models import save  # imports torch

    evolution = fit.generator.sample(LATENTS, seed=chain.seed(None, "evolution"))

    def make(part: Path) -> None:
        save(fit.generator, part / "model", chain.settings.choices["model"])
        store.write_arrays(part / "pool.safetensors", pool_arrays(released.pool, released))
        if released.rows is not None:
            store.write_arrays(part / "drawn.safetensors", pool_arrays(drawn))
        store.write_arrays(part / "mix.safetensors", data.mix.arrays(), STORED)
        store.write_arrays(part / "evolution.safetensors", pool_arrays(evolution))
        pool_hash = store.file_hash(part / "pool.safetensors")
        scores.write(part / "scores", pool_hash)
        write_losses(part, fit.losses)
        grid = figures.grid(chain.real_pool, drawn, f"generation {t}", classes)
        store.write_bytes(part / "grid.png", grid)
        store.write_sealed(part / "record.json", describe(chain, t, fit, data, drawn, released, part, pool_hash))

    store.commit_folder(chain.generation(t), make)
    store.remove(chain.scratch(t))
    chain.prune(t)


def describe(
    chain: Chain, t: int, fit: Fit, data: TrainingSet, drawn: Pool, released: Released, part: Path, pool_hash: str
) -> dict[str, Any]:
    """record.json: what generation t was made of and by."""
    mix, facts, s = data.mix, fit.generator.facts, chain.settings
    shares, curated = mix.shares(), {}
    if released.rows is not None:
        corrected = 0 if released.corrected is None else int(released.corrected.sum())
        curated = {"correction": s.choices["correction"]}
        if not s.selects_mix:
            selection = {"share": len(released.pool) / len(drawn), **released.facts}
            curated = {"curation": s.choices["curation"], **curated, "selection": selection}
        curated |= {"n_corrected": corrected, "drawn_hash": store.file_hash(part / "drawn.safetensors")}
    if data.selection is not None:
        curated |= {"curation": s.choices["curation"], "selection": dict(data.selection)}
    return {
        "generation": t,
        "condition": s.condition,
        "seed": chain.seed_number,
        "n_train": len(mix),
        "n_drawn": len(drawn),
        "n_pool": len(released.pool),
        **curated,
        "real_share": shares.get(REAL, 0.0),
        "share_by_origin": origins(shares),
        **({} if mix.weight is None else {"weight_by_origin": origins(mix.weight_shares())}),
        "train_images": s.images(t),
        **({"flip": True} if chain.flip else {}),
        "images_seen": facts.get("images_seen"),
        "start": s.config["start"],
        "nfe": facts.get("nfe"),
        "sampling": facts.get("sampling"),
        **({"warning": facts["warning"]} if "warning" in facts else {}),
        **({"facts": extra} if (extra := {k: v for k, v in facts.items() if k not in FACTS}) else {}),
        "seconds": {k: round(v, 3) for k, v in chain.seconds.items()},
        "seeds": {p: chain.seed(t, p) for p in ("mix", "sample")},
        "real": chain.real_key,
        "pool_hash": pool_hash,
        "mix_hash": store.file_hash(part / "mix.safetensors"),
        "model_hash": store.file_hash(part / "model"),
        "evolution_hash": store.file_hash(part / "evolution.safetensors"),
        "grid_hash": store.file_hash(part / "grid.png"),
        **({"loss_hash": store.file_hash(part / LOSSES)} if (part / LOSSES).exists() else {}),
        "versions": versions(),
        "machine": machine(),
        "code": s.code,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def origins(shares: Mapping[int, float]) -> dict[str, float]:
    """Shares by origin as JSON has them, the real ones (-1) first."""
    return {str(o): share for o, share in sorted(shares.items())}


def pool_arrays(pool: Pool, released: Released | None = None) -> dict[str, np.ndarray]:
    """A pool as it is stored: x, y, and of released samples their weight, the row that each has among the drawn ones
    and whether it was corrected."""
    arrays = {"x": pool.x, "y": pool.y, "weight": pool.weight}
    if released is not None and released.rows is not None:
        arrays |= {"row": released.rows, "corrected": released.corrected}
    return {k: v for k, v in arrays.items() if v is not None}


def write_losses(part: Path, losses: list[list[float]]) -> None:
    """Write the loss curve of a fit; a fit without images has none."""
    if losses:
        store.write_json(part / LOSSES, losses)
