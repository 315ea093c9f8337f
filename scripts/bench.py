"""python scripts/bench.py ROW: time and memory beside others, in turn in one run."""

from __future__ import annotations

import argparse
import os
from importlib import import_module
from pathlib import Path

from arguments import least

from imgloop.errors import UserError


def threads(text: str) -> int:
    """A number of threads that this machine has processors for."""
    n, most = int(text), os.cpu_count() or 1
    if not 1 <= n <= most:
        raise argparse.ArgumentTypeError(f"this machine has {most} processors: give 1 to {most}")
    return n


def parser() -> argparse.ArgumentParser:
    """Of the command line: a sub-command a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    rows = parser.add_subparsers(dest="row", required=True)
    p = rows.add_parser(
        "step", help="a training step, with all that a fit does, against a bare loop and the loops of other programs"
    )
    p.add_argument("--network", choices=("patch", "compact", "unet2d"), help="default: the recipe's")
    p.add_argument("--size", type=int, default=8, choices=(8, 16, 32))
    p.add_argument("--batch", type=least(1), help="default: the recipe's")
    p.add_argument("--steps", type=least(1), default=300)
    p.add_argument("--rounds", type=least(1), default=7)
    p.add_argument("--threads", type=threads, default=1)
    p.add_argument("--own-data", action="store_true", help="others read images as they do, not from one tensor")
    p.add_argument("--gpu", action="store_true")
    p.add_argument("--compile", choices=("true", "graphs"), help="ours with trainer.compile")
    p = rows.add_parser("metrics", help="metrics against torch-fidelity, torchmetrics and prdc: time, memory, values")
    p.add_argument(
        "rows", nargs="*", metavar="ROW", help="term, few, kernel, memory, knn, large (default: all but large)"
    )
    p.add_argument("--rounds", type=least(1), default=3)
    p.add_argument("--threads", type=threads, default=1)
    p = rows.add_parser("loop", help="a small study against a script around diffusers, torchmetrics and prdc")
    p.add_argument("--images", type=least(1), default=20_000, help="training images a generation")
    p.add_argument("--generations", type=least(1), default=3)
    p.add_argument("--n", type=least(1), default=1397, help="real images")
    p.add_argument("--rounds", type=least(1), default=1)
    p.add_argument("--threads", type=threads, default=2)
    p = rows.add_parser("sample", help="sampling against the pipeline of diffusers for the same model")
    p.add_argument("--size", type=int, default=8, choices=(8, 16, 32))
    p.add_argument("--n", type=least(1), default=512)
    p.add_argument("--rounds", type=least(1), default=5)
    p.add_argument("--threads", type=threads, default=2)
    p = rows.add_parser("chains", help="chains one after another, as processes, stacked by torch.func")
    p.add_argument("--chains", type=least(1), default=8)
    p.add_argument("--jobs", type=least(1), default=2, help="chains at a time")
    p.add_argument("--gpu", action="store_true", help="all chains on one GPU")
    p.add_argument("--images", type=least(1), default=50_000, help="training images a generation")
    p = rows.add_parser("memory", help="memory of a process over the generations of a chain")
    p.add_argument("--generations", type=least(10), default=100)
    p = rows.add_parser("start", help="time of `python -m imgloop --help`, and until the first line of a run")
    p.add_argument("--other", type=Path, metavar="PATH", help="another checkout to compare with")
    p.add_argument("--rounds", type=least(1), default=5)
    p = rows.add_parser("every", help="all rows, one after another, as docs/performance.md reports them (half an hour)")
    p.add_argument("--gpu", action="store_true", help="the rows for a GPU")
    p.add_argument("--out", type=Path, help="a file that what they print is written to as well")
    return parser


def main() -> None:
    a = (command := parser()).parse_args()
    try:
        getattr(import_module(f"bench.{a.row}"), a.row)(a)
    except UserError as e:
        command.error(str(e))


if __name__ == "__main__":
    main()
