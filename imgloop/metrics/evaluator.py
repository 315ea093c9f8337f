"""Measuring a generation: one extraction pass feeds every measure, and the real side is computed once a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from imgloop import store
from imgloop.contracts import Generator, Measure
from imgloop.data import judge_of
from imgloop.errors import UserError
from imgloop.measures import SCORES
from imgloop.metrics.bins import RealBins, bin_scores
from imgloop.metrics.confusion import Confusion
from imgloop.metrics.features import Extractor, Features
from imgloop.metrics.frechet import RealMoments, frechet_distance
from imgloop.metrics.kernel import kernel_distance
from imgloop.metrics.manifold import RealManifold, expected_coverage, manifold_scores, neighbour_scores
from imgloop.metrics.memorisation import generalisation_score, knn_entropy, mix_features
from imgloop.metrics.modes import class_counts, mode_coverage
from imgloop.metrics.tails import EMPTY_ZONE, RealTails, class_centroids, too_few
from imgloop.metrics.trained import fingerprints
from imgloop.metrics.variance import effective_rank, variance_ratio, within_class_variance_ratio
from imgloop.metrics.vendi import vendi_score
from imgloop.pool import Pool, TrainingSet

K_PRECISION, K_DENSITY = 3, 5  # neighbours: Kynkaanniemi et al. 2019; Naeem et al. 2020
LEAST_SAMPLES = 2 * K_DENSITY + 1  # that can be compared
LEAST = LEAST_SAMPLES + 1  # held-out images, so that each half has neighbours
LEAST_BINNED = 40  # held-out images, counted for two bins
SEED = 0  # of subsets, of the held-out halves and of the risk's noise: the same for every chain and generation
TAIL = 0.1  # share of held-out images, and of training images of rare classes, that count as rare
FORMAT = 2  # raise it when what is cached of the real data is computed in another way
SHARED = 0.05  # published sets contain some duplicate images
TAIL_COLUMNS = ("tail_mass", "off_support", "ambiguity", "tail_risk")


@dataclass(frozen=True)
class Scores:
    """One protocol's scores of one generation: `values` by column name (None where not measured), `notes` on why."""

    protocol: dict[str, Any]
    values: dict[str, float | int | None]
    notes: dict[str, Any]

    @property
    def name(self) -> str:
        return protocol_name(self.protocol)

    def write(self, folder: Path, pool_hash: str) -> None:
        """Write the scores to a generation's folder scores/. pool_hash: of its pool.safetensors, which binds them."""
        values = {"protocol": self.protocol, "scores": self.values, "notes": self.notes, "pool_hash": pool_hash}
        store.write_sealed(Path(folder) / f"{self.name}.json", values)


def protocol_name(protocol: dict[str, Any]) -> str:
    """The file name of a protocol's scores: its extractor, and a hash of the protocol without the number of samples."""
    return f"{protocol['features']}-{store.content_key({k: v for k, v in protocol.items() if k != 'n_generated'})[:8]}"


def stored(folder: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays that `make` gives, computed once; raises UserError if the stored ones have changed since."""

    def write(part: Path) -> None:
        store.write_arrays(part / "arrays.safetensors", make())

    return store.open_arrays(store.once(folder, write) / "arrays.safetensors")


class Evaluator:
    """Scores pools of samples against the held-out real data, under one protocol.

    cache: the folder where what is computed of the real data is stored. progress(done, total): of searching neighbours.
    measures: users' measures by name. protocol: further entries of the protocol.
    """

    def __init__(
        self,
        extractor: Extractor,
        real,
        cache: Path,
        progress: Callable[[int, int], None] | None = None,
        measures: Mapping[str, Measure] | None = None,
        protocol: Mapping[str, Any] | None = None,
    ):
        if len(real.heldout) < LEAST:
            raise UserError(
                f"{len(real.heldout)} held-out images are too few to measure against; {LEAST} are needed, and 250 "
                f"or more make sense: {'raise data.heldout or ' * (len(real.train) > LEAST)}add images.",
                "data.heldout",
            )
        self.measures = dict(measures or {})
        self.extractor, self.real, self.cache, self.device = extractor, real, Path(cache), str(extractor.device)
        heldout, train = self.features_of(real.heldout), self.features_of(real.train)
        self.heldout_features = heldout
        self.heldout, self.few = heldout.x, too_few(len(real.heldout))
        self.mixed = np.random.default_rng(SEED).permutation(len(self.heldout))  # a folder is sorted by class
        self.key = store.content_key(
            [
                FORMAT,
                extractor.made_by,
                *(store.array_hash(p.x, p.y) for p in (real.train, real.heldout)),
                K_DENSITY,
                SEED,
            ]
        )
        self.moments = RealMoments.from_arrays(self.kept("moments", lambda: RealMoments.of(heldout.x)))
        k = max(K_PRECISION, K_DENSITY)

        def neighbours(features: np.ndarray, k: int) -> RealManifold:
            return RealManifold.of(features, k, device=self.device, progress=progress)

        manifold = self.kept("manifold", lambda: neighbours(heldout.x, k))
        self.manifold = RealManifold.from_arrays(heldout.x, manifold)
        self.train = self.manifold  # of equal pools the same neighbours, searched once
        if real.train is not real.heldout:
            copies = self.kept("copies", lambda: neighbours(train.x, 1))
            self.train = RealManifold.from_arrays(train.x, copies)
        self.null_vendi: dict[int, float] = {}  # by number of samples
        self.null_entropy: dict[int, float | None] = {}  # likewise
        self.tails = None if self.few else RealTails.from_arrays(heldout.x, self.kept("tails", self.real_tails))
        if self.tails is not None and not self.tails.zone:
            self.tails, self.few = None, EMPTY_ZONE
        self.rare = np.argsort(-self.manifold.neighbours2[:, K_DENSITY - 1], kind="stable")
        self.rare = self.rare[: int(np.ceil(TAIL * len(self.rare)))]
        self.class_shares = self.confusion = self.bins = None
        if heldout.logits is not None:
            self.class_shares, self.confusion = self.real_shares(heldout.logits.ndim == 3), self.confusion_of(heldout)
            self.heldout_labels = heldout.labels
        elif real.classes is None and len(self.heldout) // (1 if self.apart else 2) >= LEAST_BINNED:
            self.bins = RealBins.from_arrays(self.kept("bins", self.real_bins))
        self.judge = judge_of(real.facts)
        self.protocol = {
            "features": extractor.name,
            "extractor": extractor.key,
            "resize": None,
            "reference": "held-out",
            "n_reference": len(real.heldout),
            "reference_hash": store.array_hash(real.heldout.x)[:16],
            "train_hash": store.array_hash(real.train.x)[:16],
            "k_precision": K_PRECISION,
            "k_density": K_DENSITY,
            "n_thresholds": 0 if self.tails is None else len(self.tails.b),
            **extractor.facts,
        }
        if real.facts.flipped:
            self.protocol["flipped"] = True
        if self.measures:
            self.protocol["measures"] = [m.info.to_dict() for m in self.measures.values()]
        self.reference = self.real_against_real()
        self.protocol |= protocol or {}

    @property
    def protocol_name(self) -> str:
        """The file name of scores under this protocol, without its ending."""
        return protocol_name(self.protocol)

    @property
    def line(self) -> str:
        """What is measured and how, for the first lines of a run."""
        accuracy = self.protocol.get("heldout_accuracy")
        return (
            f"measuring by {self.extractor.name} features"
            + (f" (held-out accuracy {accuracy:.1%})" if accuracy else "")
            + f" against {len(self.real.heldout):,} held-out images"
            + (", mirrored at random" if self.real.facts.flipped else "")
            + f"; real against real: fd {self.reference['fd']:.3g}"
            + f" (halves of the held-out set), {self.reference['fd_train']:.3g} (training set against held-out)"
            + (f"; warning: {self.protocol['warning']}" if "warning" in self.protocol else "")
        )

    @cached_property
    def apart(self) -> bool:
        """Whether training and reference images are two sets, which share at most a twentieth of the reference."""
        return bool(np.isin(fingerprints(self.real.heldout.x), fingerprints(self.real.train.x)).mean() <= SHARED)

    def features_of(self, pool: Pool) -> Features:
        """Features of a real pool, computed once a study; raises UserError if the stored ones have changed since."""
        key = store.content_key([FORMAT, self.extractor.made_by, store.array_hash(pool.x)])

        def make() -> dict[str, np.ndarray]:
            return {k: v for k, v in vars(self.extractor(pool.x)).items() if v is not None}

        arrays = stored(self.cache / f"features-{key}", make)
        return Features(arrays["x"], arrays.get("logits"))

    def kept(self, name: str, make: Callable) -> dict[str, np.ndarray]:
        """The arrays of an object that `make` computes of the real data, once a study."""
        return stored(self.cache / f"{name}-{self.key}", lambda: make().to_arrays())

    def real_tails(self) -> RealTails:
        """The held-out halves and their thresholds; class centroids are those of the training images."""
        labels = self.real.train.y
        centroids = None if labels is None else class_centroids(self.train.features, labels)
        if centroids is not None and len(centroids) < 2:
            centroids = None
        return RealTails.of(self.heldout, K_DENSITY, centroids=centroids, seed=SEED)

    def real_bins(self) -> RealBins:
        """Bins placed by training images, in which held-out ones are counted; of a single set, half each."""
        if self.apart:
            return RealBins.of(self.train.features, self.heldout, seed=SEED)
        half = len(self.heldout) // 2
        return RealBins.of(self.heldout[self.mixed[:half]], self.heldout[self.mixed[half:]], seed=SEED)

    def real_shares(self, apart: bool) -> np.ndarray:
        """The real share of each class, float64 (K,); `apart`: the classes are those of stacked digits."""
        classes = len(self.real.classes)
        if apart:  # drawn with every mode equally frequent
            return np.full(classes, 1 / classes)
        train, heldout = self.real.train.y, self.real.heldout.y
        labels = train if self.real.facts.imbalance else np.concatenate([train, heldout])
        return class_counts(labels, classes) / len(labels)

    def confusion_of(self, heldout: Features) -> Confusion:
        """How the classifier errs on the held-out images; of stacked digits, in each channel."""
        true, predicted = np.asarray(self.real.heldout.y), np.asarray(heldout.logits).argmax(-1)
        if predicted.ndim == 1:
            return Confusion.of([true], [predicted], [len(self.real.classes)])
        assert heldout.logits is not None
        (_, parts, k) = heldout.logits.shape
        return Confusion.of([true // k**p % k for p in reversed(range(parts))], predicted.T, [k] * parts)

    def real_against_real(self) -> dict[str, Any]:
        """What a perfect generator could read: held-out half A against B, and the training set against the held-out
        set.

        The halves are smaller than a generation's samples, which biases fd upwards; the classifier has seen the
        training images, which biases the second. Both are printed for that reason. If the two sets are
        one, only the halves are compared.
        """
        train = self.train.features.numpy()

        def make(part: Path) -> None:
            apart = self.apart  # here, since all images are hashed for it
            half = len(self.heldout) // 2
            a, b = self.heldout[self.mixed[:half]], self.heldout[self.mixed[half : 2 * half]]
            halves = manifold_scores(a, b, K_DENSITY, k_precision=K_PRECISION, device=self.device)
            manifold, own = halves, None
            if apart:
                manifold = manifold_scores(self.manifold, train, K_DENSITY, k_precision=K_PRECISION, device=self.device)
                own = manifold_scores(self.manifold, self.heldout, K_DENSITY, train=self.train, device=self.device)
            rates = {} if self.tails is None else {"tail_mass": 1.0, "off_support": self.tails.null_rate}
            if self.tails is not None and self.tails.ratio is not None:
                rates["ambiguity"] = self.tails.null_rate
            values = {
                "protocol": protocol_name(self.protocol),
                "fd": frechet_distance(a, b),
                "fd_train": frechet_distance(self.moments, train) if apart else None,
                "n_half": half,
                "halves": {"precision": halves.precision, "recall": halves.recall},
                "n_train": len(train) if apart else None,
                "precision": manifold.precision,
                "recall": manifold.recall,
                "variance_ratio": variance_ratio(self.heldout if apart else a, train if apart else b),
                "authenticity": own and own.authenticity,
                **rates,
            }
            store.write_json(part / "reference.json", values)

        folder = self.cache / f"reference-{store.content_key([FORMAT, self.protocol, store.array_hash(train)])}"
        return store.read_json(store.once(folder, make) / "reference.json")

    def __call__(
        self,
        pool: Pool,
        generator: Generator | None = None,
        features: Features | None = None,
        training: TrainingSet | None = None,
    ) -> Scores:
        """Every score of `pool`, and the held-out risk of the generator if it has one; None where not measured.
        `features`: those of the pool, if they are known already. `training`: what the generator was trained on."""
        features = self.extractor(pool.x) if features is None else features
        values: dict[str, Any] = dict.fromkeys((*SCORES, *self.measures))
        notes: dict[str, Any] = {}
        protocol = {**self.protocol, "n_generated": len(pool)}
        if len(pool) >= LEAST_SAMPLES:
            self.measure_distribution(features, values, notes)
        else:
            n = f"{len(pool)} sample{'s are' if len(pool) != 1 else ' is'}"
            notes["fd"] = f"{n} too few to compare with real images: {LEAST_SAMPLES} or more are needed"
        if len(pool):
            self.measure_modes(features, values, notes)
            if training is not None:
                self.measure_memorisation(features, training, values, notes)
        if self.judge is not None:
            judged = self.judge(pool.x)
            values["rule_violations"] = 1 - float(judged.valid.mean())
            notes["modes_by_rule"] = len(np.unique(judged.mode[judged.valid]))
        risk = None if generator is None else generator.risk(self.real.heldout, SEED)
        if risk is not None:
            self.measure_risk(np.asarray(risk), values, notes)
        for name, measure in self.measures.items():
            values[name] = measure(pool, features, self.real, self.heldout_features)
        if self.few:
            notes |= dict.fromkeys(TAIL_COLUMNS, self.few)
        elif self.tails is not None and self.tails.ratio is None:
            whose = "training images" if self.real.classes else "data"
            notes["ambiguity"] = f"The {whose} have no classes that samples could lie between."
        return Scores(protocol, values, notes)

    def measure_distribution(self, features: Features, values: dict, notes: dict) -> None:
        """Distances, neighbourhoods, variance and tails; `null` in the notes: the values of fresh real samples."""
        kd = kernel_distance(self.heldout, features.x, seed=SEED)
        manifold, score2 = neighbour_scores(
            self.manifold,
            features.x,
            K_DENSITY,
            k_precision=K_PRECISION,
            train=self.train,
            among=None if self.tails is None else self.tails.a,
            device=self.device,
        )
        values |= {
            "fd": frechet_distance(self.moments, features.x),
            "kd": kd.value,
            "kd_sem": kd.sem,
            **vars(manifold),
            "variance_ratio": variance_ratio(self.heldout, features.x),
            "effective_rank": effective_rank(features.x),
            "vendi": vendi_score(features.x),
        }
        notes["null"] = {
            "density": 1.0,
            "coverage": expected_coverage(len(self.heldout), len(features.x), K_DENSITY),
            "kd": 0.0,
            "variance_ratio": 1.0,
            **self.reference["halves"],
        }
        if len(features.x) <= len(self.heldout):  # it grows with the number of samples
            if len(features.x) not in self.null_vendi:  # every generation has as many
                self.null_vendi[len(features.x)] = vendi_score(self.heldout[self.mixed[: len(features.x)]])
            notes["null"]["vendi"] = self.null_vendi[len(features.x)]
        if self.reference["authenticity"] is not None:  # if copies are not searched for in the reference itself
            notes["null"]["authenticity"] = self.reference["authenticity"]
        if self.tails is None:
            return
        assert score2 is not None
        tails = self.tails.scores(score2, features.x)
        values |= {c: getattr(tails, c) for c in ("tail_mass", "off_support", "ambiguity")}
        notes["null"] |= {"tail_mass": 1.0, "tail_mass_sd": tails.tail_mass_sd, "zone_rate": tails.zone_rate}
        notes["null"] |= {"off_support": tails.null_rate}
        notes["off_support_p"] = tails.off_support_p
        if tails.ambiguity is not None:
            notes["null"]["ambiguity"] = tails.null_rate
            notes["ambiguity_p"] = tails.ambiguity_p

    def measure_memorisation(self, features: Features, training: TrainingSet, values: dict, notes: dict) -> None:
        """Distance to the generator's own training mix, and the entropy of that; null values are those of held-out
        images for the same mix, and of as many real training images."""
        train, flipped, n = self.train.features, self.real.facts.flipped, len(self.train.features)
        mix = mix_features(training, self.extractor, train, bool(flipped), SEED)
        values["generalisation"] = generalisation_score(features.x, mix, device=self.device)
        values["mix_entropy"] = knn_entropy(mix, device=self.device) if len(mix) > 1 else None
        null = notes.setdefault("null", {})
        if self.apart:
            null["generalisation"] = generalisation_score(self.heldout, mix, device=self.device)
        if 1 < len(mix) <= n:
            if len(mix) not in self.null_entropy:
                rows = np.random.default_rng(SEED).permutation(n)[: len(mix)]
                self.null_entropy[len(mix)] = knn_entropy(train[rows], device=self.device)
            null["mix_entropy"] = self.null_entropy[len(mix)]

    def measure_modes(self, features: Features, values: dict, notes: dict) -> None:
        """Modes by the classifier, corrected for its confusions; of data without classes, by bins of real features."""
        null = notes.setdefault("null", {})
        if self.class_shares is not None:
            counts = class_counts(features.labels, len(self.class_shares))
            modes = mode_coverage(self.class_shares, counts, confusion=self.confusion, seed=SEED)
            values |= {"modes_covered": modes.covered, "modes_present": modes.present}
            if len(features.x) >= len(counts):  # with fewer, most classes are empty for any generator
                values |= {"mode_kl": modes.kl, "mode_share_min": modes.smallest}
            else:
                few = f"{len(features.x)} samples are too few for {len(counts)} classes."
                notes |= dict.fromkeys(("mode_kl", "mode_share_min"), few)
            null |= {"modes_covered": len(counts), "mode_kl": 0.0}
            null["mode_share_min"] = modes.smallest_null
            notes |= {"modes_hit": modes.hit, "class_counts": counts.tolist()}
            notes |= {"class_shares": modes.shares.tolist(), "class_share_sd": modes.share_sd.tolist()}
            if modes.reason:
                notes["modes_covered"] = modes.reason
            assert self.heldout_labels is not None and features.labels is not None
            sides = self.heldout, self.heldout_labels, features.x, features.labels
            if any(min((labels == c).sum() for labels in sides[1::2]) > 1 for c in np.unique(sides[1])):
                notes["variance_within_classes"] = within_class_variance_ratio(*sides)
        elif self.bins is not None and len(features.x) < len(self.bins.counts):
            few = f"{len(features.x)} samples are too few for {len(self.bins.counts)} bins of features."
            notes |= dict.fromkeys(("modes_covered", "mode_kl", "mode_share_min"), few)
        elif self.bins is not None:
            bins = bin_scores(self.bins, features.x)
            values |= {"modes_covered": bins.covered, "mode_kl": bins.kl, "mode_share_min": bins.smallest}
            null |= {"modes_covered": bins.covered_null, "mode_kl": 0.0, "mode_share_min": bins.smallest_null}
            notes["bins"] = vars(bins)
        elif self.real.classes is None:
            notes["modes_covered"] = f"{len(self.heldout)} held-out images are too few for bins of features."
        else:
            notes["modes_covered"] = f"features={self.extractor.name} does not classify images."

    def measure_risk(self, risk: np.ndarray, values: dict, notes: dict) -> None:
        """Means of the loss (N,) or (N, levels) on the held-out images: all, the rarest tenth, and rare classes.

        The rarest images are those farthest from their k-th nearest among the held-out ones; rare classes are the
        least frequent that together hold at most a tenth of the training images, where classes are not equally
        frequent (`data.imbalance`).
        """
        risk = risk.reshape(len(self.real.heldout), -1)
        values["risk"] = float(risk.mean())
        notes["risk_levels"] = [float(v) for v in risk.mean(0)]
        if self.few is None:
            values["tail_risk"] = float(risk[self.rare].mean())
            notes["tail_risk_images"] = len(self.rare)
        if (y := self.real.heldout.y) is None:
            return
        counts = class_counts(self.real.train.y, len(self.real.classes))
        order = np.argsort(counts, kind="stable")
        rare = order[counts[order].cumsum() <= TAIL * counts.sum()]
        if self.real.facts.imbalance and np.isin(y, rare).any():
            notes["rare_classes"] = [self.real.classes[c] for c in rare]
            notes["risk_rare_classes"] = float(risk[np.isin(y, rare)].mean())
