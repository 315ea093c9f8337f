"""python scripts/hashes.py --out FILE | --compare FILE: hashes of small chains, to show that a change alters no result.

Run with --out before a change and with --compare after it, on one machine: bits depend on processor and versions. Only
what FILE holds is compared. The exit status is 1 if anything but file names of scores (the protocol's hash) differs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

ANY = "generations=3 display=none"
SMALL = f"{ANY} train.images=640 n_samples=48 threads=1 features=pixels data.n=150 data.heldout=50"
TINY, GAN = f"{SMALL} model.widths=[8,16] model.sampler_steps=2", f"{SMALL} model=gan model.widths=[8,16]"
SOLVED = f"{ANY} model.replicates=20 generations=5"
GAUSSIAN = f"{SOLVED} model=gaussian"
# common settings: chains, each with its own settings; the last value of a setting counts
GROUPS = {
    f"{TINY} paradigm=replace": """replace: | replace-mixed: real_fraction=0.5 | accumulate: paradigm=accumulate
    | subsample: paradigm=accumulate_subsample budget=100 | augment: paradigm=augment n_synthetic=24 seed=1
    | fresh: paradigm=fresh n_initial=48 | edit: paradigm=edit n_initial=48 edit_fraction=0.4
    | real_only: paradigm=real_only | schedules: n_samples=[48,32,64] train.images={start:640,factor:0.5}
    | edm: model.objective=edm | ddpm: model.objective=ddpm | unet2d: model.network=unet2d
    | epsilon: model.objective=ddpm model.prediction=epsilon model.sampler=dpmpp
    | uniform: model.time=uniform model.sampler=euler model.bias=0.8 | fork: paradigm=accumulate fork="FOLDER@1"
    | conditional: paradigm=accumulate model.conditional=true model.guidance=2
    | conditional-real: model.conditional=true model.labels=real
    | weights: start=weights | optimizer: start=weights_and_optimizer | random: features=random
    | classifier: features=classifier data.n=null data.heldout=400 | stacked: data=stacked_digits features=random
    | imbalance: data.classes=[3,5,8] data.n=null data.imbalance=5
    | shapes: data=shapes data.size=16 features=classifier features.images=64
    | folder: paradigm=accumulate data=folder data.root=FOLDER/folder data.size=8 data.n=null data.heldout=14
    | cifar10: paradigm=accumulate data=cifar10 data.root=FOLDER/cifar10 data.size=8 data.n=null""",
    f"{GAN} paradigm=replace": """gan: | gan-accumulate: paradigm=accumulate start=weights
    | gan-conditional: model.conditional=true model.bias=0.8 start=weights_and_optimizer""",
    f"{GAUSSIAN} data=law data.n=20 model.dimension=2": """gaussian-replace: paradigm=replace real_fraction=0.25
    | gaussian-accumulate: paradigm=accumulate | gaussian-augment: paradigm=augment model.bias=0.8
    | gaussian-subsample: paradigm=accumulate_subsample budget=15 model.unbiased=true
    | gaussian-fresh: paradigm=fresh n_initial=4 | gaussian-edit: paradigm=edit edit_fraction=0.4
    | gaussian-real_only: paradigm=real_only | gaussian-stratified: paradigm=stratified""",
    GAUSSIAN: "gaussian-digits: data=digits model.replicates=3 n_initial=100 paradigm=accumulate generations=3",
    f"{SOLVED} data=law data.n=20": """discrete: model=discrete model.outcomes=5 paradigm=replace generations=200
    | poisson: model=poisson paradigm=accumulate_subsample | bernoulli: model=bernoulli model.p=0.3 paradigm=augment
    | mixture: model=mixture paradigm=replace | kde: model=kde paradigm=accumulate
    | regression-fixed: model=regression model.design=fixed paradigm=accumulate
    | regression-resampled: model=regression model.design=resampled paradigm=replace
    | regression-edit: model=regression paradigm=edit edit_fraction={start:0.4,factor:0.5}""",
}
CHAINS = {
    name.strip(): {o.partition("=")[0]: o for o in f"{common} {own}".split()}
    for common, chains in GROUPS.items()
    for name, _, own in (text.partition(":") for text in chains.split("|"))
}
EXTENDED = ("accumulate", "conditional", "gan", "gaussian-accumulate")  # also in two runs: 2 generations, then 3 or 5


def write_images(root: Path) -> None:
    """Write a folder of two classes, and train/ and test/ of ten classes, as PNG files of random colours."""
    rng = np.random.default_rng(0)
    for name in ["folder/a", "folder/b", *(f"cifar10/{part}/{c}" for part in ("train", "test") for c in range(10))]:
        (root / name).mkdir(parents=True)
        for i in range(20 if name.startswith("folder") else 5):
            Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(root / name / f"{i}.png")


def hashes(path: Path) -> dict[str, str]:
    """SHA-256 of each array of a safetensors file with its dtype and shape, in hex."""
    arrays = sorted(load_file(path).items())
    return {k: hashlib.sha256(f"{a.dtype}{a.shape}".encode() + a.tobytes()).hexdigest() for k, a in arrays}


def generation(folder: Path) -> dict:
    """Hashes of what one generation of a trained model consists of, and its scores as text."""
    result: dict = {p.relative_to(folder).as_posix(): hashes(p) for p in sorted(folder.rglob("*.safetensors"))}
    paths = sorted((folder / "scores").glob("*.json"))
    scores = {p.stem.rpartition("-")[0]: json.loads(p.read_text())["scores"].items() for p in paths}
    result["scores"] = {p: {k: None if v is None else repr(float(v)) for k, v in s} for p, s in scores.items()}
    return {**result, "protocol": [p.stem for p in paths]}


def chain(folder: Path) -> dict:
    """A chain's condition, and its generations or its table of replicates."""
    result: dict = {"condition": folder.parent.name}
    result |= {path.name: generation(path) for path in sorted(folder.glob("gen[0-9]*"))}
    if (folder / "replicates.safetensors").exists():
        header, *rows = csv.reader((folder / "metrics.csv").read_text().splitlines())
        result["replicates"] = hashes(folder / "replicates.safetensors")
        result["metrics"] = {name: ",".join(column) for name, column in zip(header, zip(*rows))}
    return result


def run(name: str, root: Path) -> tuple[str, dict]:
    """Run the chain of this name in a folder of its own, and hash what it leaves."""
    from matplotlib.figure import Figure

    import imgloop

    Figure.savefig = lambda *a, **k: None  # figures are not compared, and take longer than the chains
    base, out, folder = name.removesuffix("-extended"), f"out={root / name}", root / "images"
    if name == "fork":
        folder = imgloop.run([*CHAINS["replace"].values(), out]).folder
    overrides = {key: o.replace("FOLDER", str(folder)) for key, o in CHAINS[base].items()}
    if name != base:
        imgloop.run([*(overrides | {"generations": "generations=2"}).values(), out])
    return name, chain(imgloop.run([*overrides.values(), out]).folder)


def run_all() -> dict:
    """Run every chain, two at a time, each on one thread."""
    with tempfile.TemporaryDirectory() as folder:  # workers read the environment when they import NumPy and PyTorch
        os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "IMGLOOP_CACHE": f"{folder}/cache"}
        write_images(Path(folder, "images"))
        names = [*CHAINS, *(f"{name}-extended" for name in EXTENDED)]
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            return dict(pool.map(run, names, [Path(folder)] * len(names)))


def differences(before, now, path: str = "") -> list[str]:
    """Where `now` differs from what `before` holds, one line each."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [d for k, v in before.items() for d in differences(v, now.get(k), f"{path}/{k}")]
    return [] if before == now else [f"{path}: {before} -> {now}"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Hashes of small chains.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="write the hashes to this JSON file")
    what.add_argument("--compare", type=Path, help="compare with the hashes in this JSON file")
    a = parser.parse_args()
    now = run_all()
    if a.out:
        a.out.write_text(json.dumps(now, indent=1) + "\n")
    else:
        before = json.loads(a.compare.read_text())
        lines = differences(before, now)
        count = sum("/protocol: " not in line for line in lines)
        print(*lines, f"{len(before)} chains compared: {count} differences besides names of scores", sep="\n")
        sys.exit(count > 0)


if __name__ == "__main__":
    main()
