"""Items from one process of a machine to another: what is large lies in memory that both map, the rest in a message.

The memory is a file without a name (memfd), whose descriptor goes along. /dev/shm is not used, which containers keep
small, and nothing is left over when either side is killed.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

# Arrays of fewer bytes go with the message: memory is mapped in pages.
LARGE = 1 << 14
# Where an array may begin, for whoever computes on it.
ALIGNED = 64


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        # As an array: torch's own way goes through /dev/shm.
        return (_tensor, (obj.numpy(),)) if isinstance(obj, Tensor) else NotImplemented


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values)


def send(connection: Connection, item: Any) -> None:
    """Send an item, with tensors of the CPU and arrays in it. ConnectionError when the other side is gone."""
    large: list[memoryview] = []

    def goes_along(buffer: pickle.PickleBuffer) -> bool:
        values = buffer.raw()
        if values.nbytes >= LARGE:
            large.append(values)
        return values.nbytes < LARGE

    message = io.BytesIO()
    _Pickler(message, pickle.HIGHEST_PROTOCOL, buffer_callback=goes_along).dump(item)
    connection.send([values.nbytes for values in large])
    connection.send_bytes(message.getbuffer())
    if large:
        with os.fdopen(os.memfd_create("item"), "wb") as file:
            for values in large:
                file.seek(_aligned(file.tell()))
                file.write(values)
            file.flush()
            send_handle(connection, file.fileno(), None)


def receive(connection: Connection) -> Any:
    """The next item. EOFError or ConnectionError when the other side is gone."""
    sizes: list[int] = connection.recv()
    message = connection.recv_bytes()
    if not sizes:
        return pickle.loads(message)  # noqa: S301, of a process of ours
    handle = recv_handle(connection)
    try:
        memory = memoryview(mmap.mmap(handle, 0))
    finally:
        os.close(handle)
    arrays, end = [], 0
    for size in sizes:
        arrays.append(memory[(begin := _aligned(end)) : begin + size])
        end = begin + size
    return pickle.loads(message, buffers=arrays)  # noqa: S301


def _aligned(place: int) -> int:
    return -(-place // ALIGNED) * ALIGNED
