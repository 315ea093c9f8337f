"""python -m imgloop.measure STUDY features=NAME: scores of stored samples under another protocol, without training."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from imgloop import store
from imgloop.errors import UserError
from imgloop.pool import Pool
from imgloop.study import tables as study


def measure(path: str | Path, overrides: list[str], again: bool = False, device: str = "cpu") -> str:
    """Measure every generation of a study, or of one chain, under the protocol that `overrides` of the features
    group give.

    Scores go to scores/PROTOCOL.json of each generation, and metrics.csv and the comparison then show this protocol.
    Generations that have such scores are left as they are unless `again`. Returns the protocol's name.
    """
    from imgloop.config.settings import parsed
    from imgloop.metrics.evaluator import Evaluator, protocol_name

    wrong = [o for o in overrides if not o.startswith(("features=", "features."))]
    if wrong:
        raise UserError(
            f"{wrong[0]} does not change how samples are measured: give features=NAME or features.KEY=VALUE."
        )
    path = Path(path)
    chains = [path] if study.generations(path) or study.is_table(path) else study.chains(path)
    if chains and all(map(study.is_table, chains)):
        raise UserError(f"{path} holds solvable systems, which keep no samples: metrics.csv has all that they measure.")
    chains = [c for c in chains if not study.is_table(c)]
    if not chains:
        raise UserError(
            f"{path} holds no chain (CONDITION/seedK/gen000): give a study's folder, for example "
            "outputs/digits-diffusion."
        )
    node, evaluators, name = parsed(overrides).config["features"], {}, None
    for chain in chains:
        shared = chain.parent.parent / "shared"
        for folder in study.generations(chain):
            record = store.read_json(folder / "record.json")
            if record["real"] not in evaluators:
                real = read_real(shared / f"real-{record['real']}")
                evaluators[record["real"]] = Evaluator.of(node, real, shared, device=device)
            evaluator = evaluators[record["real"]]
            name = protocol_name(evaluator.protocol)
            if (folder / "scores" / f"{name}.json").exists() and not again:
                continue
            scores = measured(folder, evaluator, device)
            print(
                f"{chain.parent.name}, {chain.name}, generation {record['generation']}: "
                + " · ".join(f"{k} {v:.3g}" for k, v in scores.values.items() if v is not None),
                flush=True,
            )
        study.write_metrics(chain, name)
    study.compare(chains[0].parent.parent)
    return name


def measured(folder: Path, evaluator, device: str = "cpu"):
    """Scores of a generation's stored samples, written into its folder; the risk is that of its model, or, where the
    weights were pruned, the one measured before."""
    from imgloop.metrics.evaluator import Scores
    from imgloop.models import load

    arrays = store.open_arrays(folder / "pool.safetensors")
    f = load(folder / "model", device) if (folder / "model").is_dir() else None
    scores = evaluator(Pool(arrays["x"], arrays.get("y")), f)
    if f is None:  # the risk does not depend on features; which images are rare does
        kept = [store.read_json(p)["scores"].get("risk") for p in sorted((folder / "scores").glob("*.json"))]
        risk = next((r for r in kept if r is not None), None)
        same = folder / "scores" / f"{scores.name}.json"
        tail_risk = store.read_json(same)["scores"].get("tail_risk") if same.exists() else None
        scores = Scores(scores.protocol, {**scores.values, "risk": risk, "tail_risk": tail_risk}, scores.notes)
    scores.write(folder / "scores")
    return scores


def real_key(real) -> str:
    """Sixteen hex digits that name the training and held-out images and labels."""
    return store.content_key([store.array_hash(p.x, p.y) for p in (real.train, real.heldout)])


def write_real(shared: Path, real) -> None:
    """Keep a study's real data in its shared folder, once, so that the folder can be measured by itself."""

    def make(part: Path) -> None:
        for name, pool in (("train", real.train), ("heldout", real.heldout)):
            store.write_arrays(
                part / f"{name}.safetensors", {"x": np.asarray(pool.x)} | ({} if pool.y is None else {"y": pool.y})
            )
        store.write_json(part / "facts.json", {"classes": real.classes, **real.facts.to_dict()})

    store.once(Path(shared) / f"real-{real_key(real)}", make)


def read_real(folder: Path):
    """The real data that `write_real` kept, memory-mapped."""
    from imgloop.data import Facts, RealData

    pools = []
    for name in ("train", "heldout"):
        arrays = store.open_arrays(folder / f"{name}.safetensors")
        pools.append(Pool(arrays["x"], None if "y" not in arrays else np.array(arrays["y"])))
    facts = store.read_json(folder / "facts.json")
    classes = facts.pop("classes")
    return RealData(*pools, None if classes is None else tuple(classes), Facts.from_dict(facts))


def main(argv: list[str] | None = None) -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = argparse.ArgumentParser(prog="python -m imgloop.measure", description=__doc__)
    parser.add_argument(
        "study", type=Path, help="a study's folder (outputs/STUDY) or one chain's (outputs/STUDY/CONDITION/seedK)"
    )
    parser.add_argument(
        "override", nargs="*", help="features=auto|classifier|random|pixels|inception|dinov2 and features.KEY=VALUE"
    )
    parser.add_argument("--again", action="store_true", help="also where such scores exist")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    a = parser.parse_args(argv)
    try:
        name = measure(a.study, a.override, a.again, a.device)
    except UserError as e:
        sys.exit(f"imgloop.measure: {e}")
    print(f"measured under {name}; metrics.csv of each chain and {a.study} show it")


if __name__ == "__main__":
    main()
