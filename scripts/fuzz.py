"""python scripts/fuzz.py [--inputs N] [--seed S]: the readers of files, given N mutated inputs each.

A valid input of each reader is changed at random: bytes replaced, inserted, removed, repeated or taken from another
input, for JSON also values exchanged for others of any kind. A reader may give a result, or a UserError (Broken or
TooSmall for one image). Any other exception is a fault, as is a reader that takes more than five seconds. Prints the
counts, and exits with 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from imgloop import store
from imgloop.data import archive
from imgloop.data.decode import Broken, TooSmall, decode
from imgloop.errors import UserError
from imgloop.metrics import images
from imgloop.models import load
from imgloop.study import generation, real, tables
from imgloop.training.trainer import read_checkpoint

ODD = (None, True, -1, 0, 7, 1e300, 10**30, "", "x", "../../x", "\x1b[2J", [], [1], {}, {"_target_": "os.system"}, [[]])
SLOW = 5.0  # seconds


def png(seed: int = 0) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(out, "png")
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for i in range(4):
            z.writestr(f"{'ab'[i % 2]}/{i}.png", png(i))
    return out.getvalue()


def arrays(**more: np.ndarray) -> bytes:
    with tempfile.TemporaryDirectory() as tmp:
        store.write_arrays(Path(tmp) / "x", {"x": np.zeros((3, 1, 8, 8), np.uint8), **more})
        return (Path(tmp) / "x").read_bytes()


def npz() -> bytes:
    out = io.BytesIO()
    np.savez(out, x=np.zeros((3, 8, 8, 3), np.uint8), y=np.arange(3))
    return out.getvalue()


def record() -> bytes:
    hashes = {k: "0" * 64 for k in ("pool_hash", "mix_hash", "model_hash")}
    values = {"generation": 0, "seconds": {"train": 1.0}, "versions": {"torch": "2"}, "machine": {}, "real": "0" * 16}
    return json.dumps(values | hashes | {"share_by_origin": {"-1": 1.0}, "n_train": 3}).encode()


def description() -> bytes:
    values = {"kind": "diffusion", "network": "compact", "size": 8, "channels": 1, "widths": [8], "embeddings": 0}
    values |= {"objective": {"kind": "flow", "time": "uniform"}, "sampler": "heun", "sampler_steps": 2, "bias": 1.0}
    return json.dumps(values | {"guidance": 1.0, "label_frequencies": None, "trained_images": 64}).encode()


def checkpoint() -> bytes:
    import torch

    out = io.BytesIO()
    state = {"done": 1, "seconds": 0.1, "losses": [], "since": [0.0, 0]}
    torch.save({"callbacks": {"imgloop": state}, "state_dict": {}, "optimizer_states": []}, out)
    return out.getvalue()


def read_archive(path: Path) -> None:
    with archive.opened(path) as found:
        for member in archive.layout(path, found).train.members:
            decode(found.read(member), member.name, 8, 3)


SCORES = json.dumps({"protocol": {"features": "pixels"}, "scores": {"fd": 1.5, "risk": None}, "notes": {}}).encode()
CONFIG = yaml.safe_dump({"choices": {"data": "digits"}, "identity": {"seed": 0}, "config": {"a": [1, 2]}}).encode()
CSV = b"condition,seed,generation,fd,risk\na,0,0,1.5,0.2\na,0,1,1.7,0.3\nb,1,0,1,2\nb,1,1,1,2\n"
FACTS = json.dumps({"label": "digits", "classes": ["a", "b"], "n_train": 3}).encode()
# name: file name, valid content, reader
READERS: dict[str, tuple[str, bytes, Callable[[Path], object]]] = {
    "arrays": ("x.safetensors", arrays(), store.open_arrays),
    "pool": ("pool.safetensors", arrays(y=np.arange(3)), generation.read_pool),
    "record": ("record.json", record(), lambda p: generation.read_record(p.parent)),
    "scores": ("s.json", SCORES, generation.read_scores),
    "config": ("config.yaml", CONFIG, store.read_yaml),
    "facts": ("facts.json", FACTS, lambda p: real.read_facts(p)),
    "model": ("imgloop.json", description(), lambda p: load(p.parent)),
    "checkpoint": ("checkpoint.pt", checkpoint(), read_checkpoint),
    "image": ("x.png", png(), lambda p: decode(p.read_bytes(), "x.png", 8, 3)),
    "zip": ("x.zip", zipped(), read_archive),
    "npz": ("x.npz", npz(), images.read),
    "csv": ("x.csv", CSV, tables.read_csv),
}


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Data with one to four random changes."""
    changed = bytearray(data)
    if data[:1] == b"{" and rng.random() < 0.5:
        return json.dumps(exchanged(json.loads(data), rng)).encode()
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        length = rng.choice((1, 1, 2, 8, 64))
        match rng.randrange(5):
            case 0:
                changed[at : at + length] = rng.randbytes(length)
            case 1:
                changed[at:at] = rng.randbytes(length)
            case 2:
                del changed[at : at + length * 4]
            case 3:
                changed[at:at] = changed[at : at + length]
            case _:
                start = rng.randrange(len(other) + 1)
                changed[at : at + length] = other[start : start + length]
    return bytes(changed)


def exchanged(value, rng: random.Random):
    """A JSON value in which one part is another."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: exchanged(value[key], rng)}
    return rng.choice(ODD)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000 // len(READERS) + 1, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    rng, faults, total = random.Random(a.seed), [], 0
    everything = [content for _, content, _ in READERS.values()]
    with tempfile.TemporaryDirectory() as tmp:
        for name, (file, content, read) in READERS.items():
            path, counts = Path(tmp) / name / file, Counter()
            path.parent.mkdir()
            path.write_bytes(content)
            for i in range(a.inputs):
                data = mutated(content, rng.choice(everything), rng)
                path.unlink()  # a map of the last input may be open
                path.write_bytes(data)
                began = time.monotonic()
                try:
                    read(path)
                    counts["read"] += 1
                except (UserError, Broken, TooSmall):
                    counts["refused"] += 1
                except Exception as e:
                    counts["FAULT"] += 1
                    faults.append(f"{name}, input {i}: {type(e).__name__}: {e}")
                if time.monotonic() - began > SLOW:
                    faults.append(f"{name}, input {i}: {time.monotonic() - began:.0f} s")
            total += a.inputs
            print(f"{name}: " + ", ".join(f"{n:,} {word}" for word, n in sorted(counts.items())), flush=True)
    for fault in faults[:20]:
        print(f"  {fault}"[:300])
    print(f"{total:,} inputs, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
