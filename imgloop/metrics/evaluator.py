"""Measuring a generation: one extraction pass feeds every metric, and the real side is computed once a study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imgloop import store
from imgloop.config import build
from imgloop.data import judge_of
from imgloop.errors import UserError
from imgloop.metrics.features import Extractor, Features
from imgloop.metrics.frechet import RealMoments, frechet_distance
from imgloop.metrics.kernel import kernel_distance
from imgloop.metrics.manifold import RealManifold, manifold_scores
from imgloop.metrics.modes import class_counts, mode_coverage
from imgloop.metrics.variance import effective_rank, variance_ratio
from imgloop.pool import Pool
from imgloop.study import SCORES

K_PRECISION, K_DENSITY = 3, 5  # neighbours: Kynkaanniemi et al. 2019; Naeem et al. 2020
LEAST = 2 * K_DENSITY + 2  # held-out images, so that each half has neighbours
SEED = 0  # of subsets and of the risk's noise: the same for every chain and generation


@dataclass(frozen=True)
class Scores:
    """One protocol's scores of one generation: `values` by column name (None where not measured), `notes` on why."""

    protocol: dict[str, Any]
    values: dict[str, float | int | None]
    notes: dict[str, Any]

    @property
    def name(self) -> str:
        return protocol_name(self.protocol)

    def write(self, folder: Path) -> None:
        store.write_json(
            Path(folder) / f"{self.name}.json", {"protocol": self.protocol, "scores": self.values, "notes": self.notes}
        )


def protocol_name(protocol: dict[str, Any]) -> str:
    """The file name of a protocol's scores: its extractor and a hash of all it says, but for the number of samples."""
    return f"{protocol['features']}-{store.content_key({k: v for k, v in protocol.items() if k != 'n_generated'})[:8]}"


class Evaluator:
    """Scores pools of samples against the held-out real data, under one protocol."""

    def __init__(self, extractor: Extractor, real, cache: Path):
        if len(real.heldout) < LEAST:
            raise UserError(
                f"{len(real.heldout)} held-out images are too few to measure against; {LEAST} are needed, and 200 "
                "or more "
                "make sense: raise data.heldout or add images."
            )
        self.extractor, self.real = extractor, real
        heldout = self.cached(cache, real.heldout, "heldout")
        self.heldout = heldout.x
        self.moments, self.manifold = RealMoments.of(heldout.x), RealManifold.of(heldout.x, max(K_PRECISION, K_DENSITY))
        self.class_shares = None
        if heldout.logits is not None:
            labels = real.train.y if real.facts.get("imbalance") else np.concatenate([real.train.y, real.heldout.y])
            self.class_shares = class_counts(labels, len(real.classes)) / len(labels)
        self.judge = judge_of(real.facts)
        self.protocol = {
            "features": extractor.name,
            "extractor": extractor.key,
            "resize": None,
            "reference": "held-out",
            "n_reference": len(real.heldout),
            "reference_hash": store.array_hash(real.heldout.x)[:16],
            "k_precision": K_PRECISION,
            "k_density": K_DENSITY,
            **extractor.facts,
        }
        self.reference = self.real_against_real(self.cached(cache, real.train, "train").x, cache)

    @classmethod
    def of(
        cls, node: dict[str, Any], real, shared: Path, progress: Callable | None = None, device: str = "cpu"
    ) -> Evaluator:
        """The evaluator of a `features` config node; what it computes of the real data is kept in `shared`."""
        return cls(build(node, real=real, shared=shared, device=device, progress=progress), real, Path(shared))

    @property
    def line(self) -> str:
        """What is measured how, for the head of a run's log."""
        accuracy = self.protocol.get("heldout_accuracy")
        return (
            f"measuring by {self.extractor.name} features"
            + (f" (held-out accuracy {accuracy:.1%})" if accuracy else "")
            + f" against {len(self.real.heldout):,} held-out images; real against real: fd {self.reference['fd']:.3g}"
            + f" (halves of the held-out set), {self.reference['fd_train']:.3g} (training set against held-out)"
        )

    def cached(self, cache: Path, pool: Pool, name: str) -> Features:
        """Features of a real pool, computed once a study."""
        key = store.content_key([self.extractor.key, store.array_hash(pool.x)])

        def make(part: Path) -> None:
            found = self.extractor(pool.x)
            store.write_arrays(part / "features.safetensors", {k: v for k, v in vars(found).items() if v is not None})

        arrays = store.open_arrays(store.once(cache / f"features-{name}-{key}", make) / "features.safetensors")
        return Features(arrays["x"], arrays.get("logits"))

    def real_against_real(self, train: np.ndarray, cache: Path) -> dict[str, float]:
        """What a perfect generator could read: held-out half A against B, and the training set against the held-out
        set.

        The halves are smaller than a generation's samples, which biases fd upwards; the classifier has seen the
        training images, which biases the second. Both are printed for that reason.
        """

        def make(part: Path) -> None:
            half = len(self.heldout) // 2
            a, b = self.heldout[:half], self.heldout[half : 2 * half]
            manifold = manifold_scores(self.manifold, train, K_DENSITY, k_precision=K_PRECISION)
            store.write_json(
                part / "reference.json",
                {
                    "fd": frechet_distance(a, b),
                    "fd_train": frechet_distance(self.moments, train),
                    "n_half": half,
                    "n_train": len(train),
                    "precision": manifold.precision,
                    "recall": manifold.recall,
                    "variance_ratio": variance_ratio(self.heldout, train),
                },
            )

        folder = store.once(cache / f"reference-{store.content_key([self.protocol, store.array_hash(train)])}", make)
        return store.read_json(folder / "reference.json")

    def __call__(self, pool: Pool, f=None) -> Scores:
        """Every score of `pool`, and the held-out risk of generator `f` where it has one; None where not measured."""
        found, values, notes = self.extractor(pool.x), dict.fromkeys(SCORES), {}
        protocol = {**self.protocol, "n_generated": len(pool)}
        if len(pool) > 2 * K_DENSITY:
            kd = kernel_distance(self.heldout, found.x, seed=SEED)
            manifold = manifold_scores(self.manifold, found.x, K_DENSITY, k_precision=K_PRECISION)
            values |= {
                "fd": frechet_distance(self.moments, found.x),
                "kd": kd.value,
                "kd_sem": kd.sem,
                **vars(manifold),
                "variance_ratio": variance_ratio(self.heldout, found.x),
                "effective_rank": effective_rank(found.x),
            }
        else:
            notes["fd"] = f"{len(pool)} samples are too few to compare"
        if self.class_shares is not None:
            counts = class_counts(found.labels, len(self.class_shares))
            modes = mode_coverage(self.class_shares, counts)
            values |= {"modes_covered": modes.covered, "mode_kl": modes.kl}
            notes |= {"modes_hit": modes.hit, "class_counts": counts.tolist()}
            if modes.reason:
                notes["modes_covered"] = modes.reason
        if self.judge is not None:
            judged = self.judge(pool.x)
            values["rule_violations"] = 1 - float(judged.valid.mean())
            notes["modes_by_rule"] = len(np.unique(judged.mode[judged.valid]))
        if hasattr(f, "risk"):
            risk = np.asarray(f.risk(self.real.heldout, SEED)).reshape(len(self.real.heldout), -1)
            values["risk"] = float(risk.mean())
            notes["risk_levels"] = [float(v) for v in risk.mean(0)]
        return Scores(protocol, values, notes)
