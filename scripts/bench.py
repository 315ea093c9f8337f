"""python scripts/bench.py step | metrics: what we take against others, interleaved in one run, as ratios."""

from __future__ import annotations

import argparse
from importlib import import_module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    rows = parser.add_subparsers(dest="row", required=True)
    p = rows.add_parser(
        "step", help="a training step, start of the Trainer and checkpoint included, against a bare PyTorch loop"
    )
    p.add_argument("--network", default="compact", choices=("compact", "unet2d"))
    p.add_argument("--size", type=int, default=8, choices=(8, 16, 32))
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--steps", type=int, default=300)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--gpu", action="store_true")
    p = rows.add_parser("metrics", help="metrics against torch-fidelity, torchmetrics and prdc: time, memory, values")
    p.add_argument(
        "rows", nargs="*", metavar="ROW", help="term, few, kernel, memory, knn, large; all but large if none"
    )
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    import torch  # here, so that processes that a row starts import no more than they measure

    torch.set_num_threads(a.threads)
    getattr(import_module(f"bench.{a.row}"), a.row)(a)


if __name__ == "__main__":
    main()
