"""python scripts/train_classifiers.py digits | cifar10 --root cifar10.zip: train the classifiers in imgloop/weights."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from imgloop import store
from imgloop.data.cifar import Cifar10
from imgloop.data.digits import Digits
from imgloop.metrics.classifier import Classifier, accuracy, train_classifier
from imgloop.metrics.trained import FOLDER, fingerprints
from imgloop.provenance import machine, versions

IMAGES = {"digits": 64_000, "cifar10": 480_000}  # training images seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=IMAGES)
    parser.add_argument("--root", type=Path, help="cifar10 only: the archive, or a folder or .zip of image files")
    parser.add_argument(
        "--images", type=int, help="training images seen (default: 64,000 for digits, 480,000 for cifar10)"
    )
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to (default: imgloop/weights)")
    a = parser.parse_args()
    torch.set_num_threads(1)  # so that the weights do not depend on the number of cores
    data = Digits() if a.name == "digits" else Cifar10(root=a.root and str(a.root), heldout=10_000)
    real, images = data.load(store.cache_folder() if a.name != "digits" else a.out), a.images or IMAGES[a.name]
    began = time.perf_counter()

    def report(done: int, total: int) -> None:
        if done // 20_000 > (done - 2560) // 20_000:
            print(f"{done:,} of {total:,} images, {time.perf_counter() - began:.0f} s", flush=True)

    network = train_classifier(real.train, len(real.classes), images, progress=report)
    arrays = {k: v.numpy() for k, v in network.state_dict().items()}
    store.write_arrays(a.out / f"{a.name}.safetensors", arrays | {"trained_on": np.sort(fingerprints(real.train.x))})
    facts = {
        "data": f"{real.facts.label}, {real.train.x.shape[-1]} pixels, training part",
        "classes": list(real.classes),
        "shape": list(real.train.x.shape[1:]),
        "images": images,
        "n_train": len(real.train),
        "n_heldout": len(real.heldout),
        "heldout_accuracy": accuracy(network, real.heldout),
        "seconds": round(time.perf_counter() - began),
        "versions": versions(),
        "machine": machine(),
    }
    store.write_json(a.out / f"{a.name}.json", facts)
    parameters = sum(p.numel() for p in Classifier.parameters(network))
    print(f"{a.name}: held-out accuracy {facts['heldout_accuracy']:.2%}, {parameters:,} parameters", flush=True)


if __name__ == "__main__":
    main()
