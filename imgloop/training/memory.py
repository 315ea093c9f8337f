"""Memory: whether a network fits, and out of memory: half the batch, and again, until it fits."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from imgloop.errors import UserError

BYTES = 16  # of a parameter in training: weight, gradient and two moments, float32
_log, _told = logging.getLogger("imgloop"), set[str]()


def exhausted(error: BaseException) -> bool:
    """Whether an exception says that memory of the device or the machine is exhausted."""
    text = str(error)
    known = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(k in text for k in known)
    )


def check_fits(networks: Iterable[nn.Module], setting: str) -> None:
    """Raise UserError if training networks of these sizes, with gradients and two moments of every weight, takes more
    memory than this machine has free. The networks may be on the meta device, which holds no weights."""
    needed = sum(p.numel() for network in networks for p in network.parameters()) * BYTES
    if needed > (free := available()):
        raise UserError(
            f"A network of {needed // BYTES:,} parameters takes {needed / 2**30:,.1f} GiB to train, and "
            f"{free / 2**30:,.1f} GiB of memory are free: lower {setting}.",
            setting,
        )


def available() -> int:
    """Bytes of memory that programs can take, caches included; all that the machine has where the system names none."""
    try:
        with open("/proc/meminfo") as f:
            return next(int(line.split()[1]) << 10 for line in f if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def in_parts(run: Callable[..., Any], *rows: Tensor | None, doing: str) -> tuple[Tensor, ...]:
    """The tensors that `run(*rows)` gives, by halves where memory is exhausted, which is said once.

    Row i of each result must depend on row i of each argument alone. Raises UserError where not even one row fits.
    """
    try:
        out = run(*rows)
        return out if isinstance(out, tuple) else (out,)
    except (RuntimeError, MemoryError) as e:
        if not exhausted(e):
            raise
    n = next(len(r) for r in rows if r is not None)
    if n == 1:
        raise UserError(
            f"Memory is exhausted by {doing} a single image: use a smaller model.widths or data.size, or another "
            "machine. Earlier generations are kept."
        )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if doing not in _told:
        _told.add(doing)
        _log.warning("memory is exhausted by %s %d images at once: going on with half as many", doing, n)
    halves = ((0, n // 2), (n // 2, n))
    parts = [in_parts(run, *(None if r is None else r[a:b] for r in rows), doing=doing) for a, b in halves]
    return tuple(torch.cat(both) for both in zip(*parts))
