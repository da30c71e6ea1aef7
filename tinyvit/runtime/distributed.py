"""The processes that train one model together: those that torchrun started, or this one alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from tinyvit.errors import UserError


def default_device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class World:
    """This process among `size` ranks, `local_size` of them on this machine, and the device it computes on."""

    rank: int = 0
    size: int = 1
    local_size: int = 1
    device: torch.device = field(default_factory=default_device)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes what one writes for all."""
        return self.rank == 0

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum of every rank's values, on all of them."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def all_reduce_max(self, value: int) -> int:
        """The highest value that a rank has, on all of them. Does not wait for the device."""
        if self.size == 1:
            return value
        everyones = torch.tensor(value)
        dist.all_reduce(everyones, op=dist.ReduceOp.MAX)
        return int(everyones)

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank the first one's values, in place."""
        if self.size > 1:
            for values in tensors:
                dist.broadcast(values, 0)

    def barrier(self) -> None:
        """Go on when every rank is here."""
        self.all_reduce_max(0)


@contextmanager
def join_world() -> Iterator[World]:
    """The world of this process: that of torchrun (by the variables it sets), else one of a single rank."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield World()
        return
    local = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise UserError(
                f"torchrun started process {local} on a machine of {torch.cuda.device_count()} GPUs; "
                f"lower --nproc-per-node to that"
            )
        torch.cuda.set_device(local)
        # gloo for what is decided on the CPU: a meeting there must not wait for the device.
        device, backend = torch.device("cuda", local), "cpu:gloo,cuda:nccl"
    else:
        device, backend = torch.device("cpu"), "gloo"
    # After a restart torchrun may hand out the same store, in which a dead rank's address still stands (seen with
    # torch 2.15): each attempt gets names of its own.
    store, rank, size = next(dist.rendezvous("env://"))
    attempt = dist.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=size)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_WORLD_SIZE"]), device)
    finally:
        dist.destroy_process_group()
