"""python scripts/agreement.py STUDY [...] [features=NAME]: scores of `shapes` samples by rule and by features.

The rules of the data set `shapes` decide whether an image is valid, and which mode it shows. Printed for every
generation and for fresh real images: rule violations, off-support rate and ambiguity; AUC, the probability that an
invalid sample has a larger score than a valid one; modes by rule and by classifier.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

import imgloop
from imgloop import store
from imgloop.config.settings import parsed
from imgloop.data.shapes import Shapes
from imgloop.metrics.evaluator import Evaluator
from imgloop.metrics.modes import class_counts
from imgloop.metrics.neighbours import nearest2
from imgloop.metrics.tails import ambiguity_of
from imgloop.pool import Pool
from imgloop.study import tables as study
from imgloop.study.generation import read_pool
from imgloop.study.real import read_real
from imgloop.study.trained import drawn_path

COLUMNS = ("rule_violations", "off_support", "ambiguity", "precision", "modes_by_rule", "modes_present")


def fresh(real, n: int = 2000) -> np.ndarray:
    """The next `n` images after the training images, which neither generator nor classifier has seen."""
    frequencies = real.facts.mode_frequencies
    source = Shapes(real.train.x.shape[-1], tail=frequencies[0] / frequencies[-1], seed=real.facts.seed)
    return source.rows("train", len(real.train), len(real.train) + n)[0]


def row(images: np.ndarray, evaluator: Evaluator) -> dict[str, float | None]:
    """Scores of images uint8 (N, 3, S, S) by rule and by features, and their agreement by image and by mode."""
    pool, tails = Pool(images), evaluator.tails
    judged, extracted = evaluator.judge(images), evaluator.extractor(images)
    scores = evaluator(pool, features=extracted)
    features = torch.as_tensor(np.asarray(extracted.x))
    distance = nearest2(features, tails.features, tails.k)[0][:, -1]
    ambiguity = ambiguity_of(features, tails.centroids)
    both = judged.valid.any() and not judged.valid.all()
    by_rule = class_counts(judged.mode[judged.mode >= 0], len(evaluator.real.classes))
    shares = scores.notes.get("class_shares")  # None if the features do not classify
    return {
        **{c: scores.values.get(c, scores.notes.get(c)) for c in COLUMNS},
        "auc_off_support": roc_auc_score(~judged.valid, distance) if both else None,
        "auc_ambiguity": roc_auc_score(~judged.valid, ambiguity) if both else None,
        "mode_shares": spearmanr(by_rule, shares).statistic if shares and by_rule.any() else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", nargs="+", help="folders of studies of shapes; features=NAME chooses the extractor")
    arguments = parser.parse_args().study
    features = [a for a in arguments if a.startswith(("features=", "features."))]
    table, rows = Table(title="shapes: by rule and by features", title_justify="left"), []
    try:
        settings = parsed(features)
        for path in [a for a in arguments if a not in features]:
            opened, evaluators = imgloop.Study(path), {}
            for chain in opened.chains:
                for folder in study.generations(chain):
                    key = store.read_json(folder / "record.json")["real"]
                    if key not in evaluators:
                        real = read_real(opened.root / "shared" / f"real-{key}")
                        shared = opened.root / "shared"
                        extractor = settings.build("features", real=real, shared=shared, device="cpu")
                        evaluators[key] = Evaluator(extractor, real, shared)
                        if evaluators[key].judge is None or evaluators[key].tails is None:
                            sys.exit(f"agreement: {path} needs data=shapes and 250 held-out images or more.")
                        rows.append((f"{opened.name}: fresh real images", row(fresh(real), evaluators[key])))
                    images = np.array(read_pool(drawn_path(folder)).x)
                    rows.append((f"{chain.parent.name} {folder.name}", row(images, evaluators[key])))
                    print(rows[-1][0], file=sys.stderr, flush=True)
    except imgloop.UserError as e:
        sys.exit(f"agreement: {e}")
    for name in ("samples", *rows[0][1]):
        table.add_column(name.replace("_", " "))
    for name, values in rows:
        table.add_row(name, *("-" if v is None else f"{v:.3g}" for v in values.values()))
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
