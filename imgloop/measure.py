"""python -m imgloop.measure STUDY features=NAME: scores of stored samples under another protocol, without training."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgloop import store
from imgloop.errors import UserError, printable, refused
from imgloop.pool import REAL, Pool, TrainingSet
from imgloop.study import compare, tables, trained
from imgloop.study.generation import check_files, check_numbers, read_mix, read_pool, read_record, read_scores
from imgloop.study.real import read_real, real_folder


def measure(
    path: str | Path,
    overrides: list[str],
    again: bool = False,
    device: str = "cpu",
    config_dirs: Sequence[str | Path] = (),
) -> str:
    """Measure every generation of a study, or of one chain, under another protocol; returns the protocol's name.

    path: the folder of a study or a chain. overrides: settings of the features and measure groups (features=NAME,
    features.KEY=VALUE, measure=NAME). again: also generations that have such scores. config_dirs: folders of your own
    measures, features and models. Scores go to scores/PROTOCOL.json of each
    generation; metrics.csv and the comparison then show this protocol. Raises UserError for other settings, and for
    a path without stored samples.
    """
    from imgloop.guards import user_measures  # here, since torch takes seconds to import
    from imgloop.metrics.evaluator import Evaluator  # likewise

    settings = protocol_settings(overrides, config_dirs)
    path = Path(path)
    chains = [path] if tables.is_solved(path) or trained.generations(path) else tables.chains(path)
    if chains and all(map(tables.is_solved, chains)):
        raise UserError(f"{path} holds solvable systems, which keep no samples: metrics.csv has all their measures.")
    chains = [c for c in chains if not tables.is_solved(c)]
    if not chains:
        raise UserError(
            f"{path} contains no chain (CONDITION/seedK/gen000): give a study's folder, for example "
            "outputs/digits-diffusion."
        )
    measures, evaluators, name = user_measures(settings), {}, ""
    for chain in chains:
        shared = chain.parent.parent / "shared"
        busy = f"Another process is running the chain in {chain}: measure it when that has ended."
        with store.lock(chain / ".lock", busy=busy):
            store.remove_parts(chain, shared, shared.parent)
            check_numbers(chain)
            flip = read_record(trained.generations(chain)[-1]).get("flip") is True
            for folder in trained.generations(chain):
                store.remove_parts(folder / "scores")
                record = read_record(folder)
                key = record["real"], flip
                if key not in evaluators:
                    real = read_real(real_folder(shared, record["real"]))
                    real = real.mirrored() if flip else real
                    extractor = settings.build("features", real=real, shared=shared, device=device)
                    evaluators[key] = Evaluator(extractor, real, shared, measures=measures)
                evaluator = evaluators[key]
                name = evaluator.protocol_name
                if (folder / "scores" / f"{name}.json").exists() and not again:
                    continue
                check_files(folder, record, ("pool.safetensors", "drawn.safetensors", "mix.safetensors", "model"))
                scores = measured(folder, evaluator, device, settings.config_dirs)
                values = " · ".join(f"{k} {v:.3g}" for k, v in scores.values.items() if v is not None)
                name_of = printable(f"{chain.parent.name}, {chain.name}, generation {record['generation']}")
                print(f"{name_of}: {values}", flush=True)
            trained.write_files(chain, name)
    compare.compare(chains[0].parent.parent)
    return name


def protocol_settings(overrides: Sequence[str], config_dirs: Sequence[str | Path] = ()) -> Any:
    """The checked settings of the features and measure groups; raises UserError for others, or for a wrong one."""
    from imgloop.config.settings import parsed  # here, since Hydra takes a second to import

    wrong = [o for o in overrides if not o.startswith(("features=", "features.", "measure=", "measure."))]
    if wrong:
        raise UserError(
            f"{wrong[0]} does not change how samples are measured: give features=NAME, features.KEY=VALUE or "
            "measure=NAME.",
            wrong[0].partition("=")[0],
        )
    return parsed(overrides, config_dirs)


def measured(folder: Path, evaluator, device: str = "cpu", config_dirs: Sequence[Path] = ()):
    """Scores of the samples that a generation drew, written to its scores/; raises UserError for damaged files.

    folder: the generation's. If its weights were pruned, the risks are those measured before.
    """
    from imgloop.metrics.evaluator import Scores  # here, since torch takes seconds to import
    from imgloop.models import load  # likewise

    drawn = read_pool(trained.drawn_path(folder))
    generator = load(folder / "model", device, config_dirs) if (folder / "model").is_dir() else None
    training = None
    if (folder / "mix.safetensors").exists():  # imported images have none
        mix = read_mix(folder / "mix.safetensors")
        pools = {o: read_pool(folder.parent / f"gen{o:03d}" / "pool.safetensors") for o in mix.counts() if o != REAL}
        training = TrainingSet({REAL: evaluator.real.train, **pools}, mix)
    scores = evaluator(Pool(drawn.x, drawn.y), generator, training=training)
    if generator is None:  # the risk does not depend on the features, but the choice of rare images for tail_risk does
        earlier = [read_scores(p)["scores"].get("risk") for p in sorted((folder / "scores").glob("*.json"))]
        risk = next((r for r in earlier if r is not None), None)
        same = folder / "scores" / f"{scores.name}.json"
        tail_risk = read_scores(same)["scores"].get("tail_risk") if same.exists() else None
        scores = Scores(scores.protocol, {**scores.values, "risk": risk, "tail_risk": tail_risk}, scores.notes)
    scores.write(folder / "scores", read_record(folder)["pool_hash"])
    return scores


def main(argv: list[str] | None = None) -> None:
    """The command line; a UserError, or what the system refuses, ends it with one line and status 1."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = argparse.ArgumentParser(prog="python -m imgloop.measure", description=__doc__)
    parser.add_argument(
        "study", type=Path, help="the folder of a study (outputs/STUDY) or of one chain (outputs/STUDY/CONDITION/seedK)"
    )
    parser.add_argument(
        "override",
        nargs="*",
        help="features=auto|classifier|random|pixels|inception|dinov2, features.KEY=VALUE, measure=NAME",
    )
    parser.add_argument("--config-dir", action="append", default=[], metavar="DIR", help="a folder of your own options")
    parser.add_argument("--again", action="store_true", help="also measure generations that have such scores")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    a = parser.parse_args(argv)
    try:
        name = measure(a.study, a.override, a.again, a.device, a.config_dir)
    except (UserError, OSError, MemoryError) as e:
        error = e if isinstance(e, UserError) else refused(e)
        if error is None:
            raise
        sys.exit(f"imgloop.measure: {error}")
    print(f"measured under {name}; see metrics.csv of each chain and {a.study}")


if __name__ == "__main__":
    main()
