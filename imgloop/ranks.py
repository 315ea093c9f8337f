"""Several processes (ranks), one chain: each runs the whole loop on its share of the rows, and rank 0 alone writes.

Training averages gradients over ranks, sampling and feature extraction share the rows. Every function here does the
obvious thing where there is one process. The ranks must call the collective ones in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np

from imgloop.errors import UserError

T = TypeVar("T")
PATIENCE = timedelta(days=1)  # that ranks wait for each other: rank 0 may train a classifier meanwhile
ENDED = (
    "Another process of this chain has ended. Earlier generations and the last checkpoint are kept: run the same "
    "command again."
)


@dataclass(frozen=True)
class World:
    """This process among those of its chain. `local`: its number on its machine, which is that of its GPU."""

    rank: int = 0
    size: int = 1
    local: int = 0
    local_size: int = 1
    shares: bool = True  # False: one rank works by itself for a while


_world = [World()]  # the last one counts


def rank() -> int:
    """The number of this process."""
    return _world[-1].rank


def size() -> int:
    """How many processes share the work at this point: 1 inside `alone`."""
    return _world[-1].size if _world[-1].shares else 1


def count() -> int:
    """How many processes the chain has."""
    return _world[-1].size


def local() -> int:
    """The number of this process on its machine."""
    return _world[-1].local


def local_size() -> int:
    """How many processes of the chain are on this machine."""
    return _world[-1].local_size


@contextmanager
def joined(world: World, device: str, meeting: str = "env://") -> Iterator[None]:
    """Meet the other ranks, meanwhile. device: cpu (gloo) or cuda (NCCL beside it); meeting: as init_method of
    torch.distributed. Raises UserError if another rank ends before this one."""
    import torch
    import torch.distributed as dist

    if device == "cuda":
        torch.cuda.set_device(world.local)
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, meeting, PATIENCE, world.size, world.rank)
    _world.append(world)
    try:
        yield
    except (RuntimeError, ConnectionError) as e:
        if "gloo" in str(e) or "Connection" in str(e) or "NCCL" in str(e):
            raise UserError(ENDED) from e
        raise
    finally:
        _world.pop()
        dist.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """Meanwhile this process shares nothing: for work that is done by one rank, or by each in full."""
    _world.append(replace(_world[-1], shares=False))
    try:
        yield
    finally:
        _world.pop()


def first(work: Callable[[], T]) -> T:
    """What `work` gives on rank 0, where alone it is done. The others end with rank 0 if it fails."""
    if size() == 1:
        return work()
    if rank() > 0:
        failed, value = _broadcast(None)
        if failed:
            raise UserError(ENDED)
        return value
    try:
        with alone():
            value = work()
    except BaseException:
        _broadcast((True, None))
        raise
    _broadcast((False, value))
    return value


def in_turn(work: Callable[[], T]) -> T:
    """What `work` gives on each rank: on rank 0 first, which fills caches, and then on the others."""
    if size() == 1:
        return work()
    if rank() == 0:
        made: list[T] = []
        first(lambda: made.append(work()))  # what is made stays on its rank
        return made[0]
    first(lambda: None)
    with alone():
        return work()


def rows(n: int) -> slice:
    """The rows of n that are this rank's."""
    return slice(rank() * n // size(), (rank() + 1) * n // size()) if size() > 1 else slice(0, n)


def turns(n: int, step: int) -> Iterator[int]:
    """The beginnings of the blocks of `step` rows of n that are this rank's."""
    return iter(range(rank() * step, n, size() * step) if size() > 1 else range(0, n, step))


def summed(array: np.ndarray) -> np.ndarray:
    """The sum of an array over ranks, in place: all its rows, where each rank has zeros in those of the others."""
    if size() > 1:
        import torch
        import torch.distributed as dist

        dist.all_reduce(torch.from_numpy(array))
    return array


def gathered(blocks: list[tuple[int, T]]) -> list[T]:
    """The blocks of rows of all ranks, in the order of the numbers that they begin with."""
    if size() > 1:
        import torch.distributed as dist

        each: list[Any] = [None] * size()
        dist.all_gather_object(each, blocks)
        blocks = sorted((b for part in each for b in part), key=lambda b: b[0])
    return [block for _, block in blocks]


def average(tensors: Iterable[Any]) -> None:
    """Average tensors (gradients, losses) over ranks, in place, as one message."""
    if size() > 1:
        import torch
        import torch.distributed as dist

        listed = list(tensors)
        flat = torch.cat([t.detach().reshape(-1) for t in listed])
        dist.all_reduce(flat)
        flat.div_(size())
        parts = [part.view_as(t) for t, part in zip(listed, flat.split([t.numel() for t in listed]))]
        torch._foreach_copy_([t.detach() for t in listed], parts)


def gradients(parameters: Iterable[Any]) -> None:
    """Average the gradients of a network's parameters over ranks."""
    average(p.grad for p in parameters if p.grad is not None)


def anywhere(flag: bool) -> bool:
    """Whether a flag is up on any rank."""
    return any(gathered([(rank(), flag)]))


def _broadcast(value: Any) -> Any:
    """What rank 0 gives, on every rank."""
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def given() -> World | None:
    """The rank that a launcher such as torchrun has given this process by its environment; None without one. Raises
    UserError for an incomplete one."""
    if "WORLD_SIZE" not in os.environ:
        return None
    try:
        rank, size, local, local_size = (
            int(os.environ[k]) for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        )
    except (KeyError, ValueError):
        raise UserError(
            "WORLD_SIZE is in the environment, but not RANK, LOCAL_RANK and LOCAL_WORLD_SIZE: start the processes with "
            "torchrun, or unset WORLD_SIZE."
        ) from None
    return World(rank, size, local, local_size)
