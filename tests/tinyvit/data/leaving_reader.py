"""A reader that is stopped in the middle of taking a tensor from its data process; run by test_loader.py."""

import multiprocessing
import time
from collections.abc import Iterator

import torch

from tinyvit.data import handover
from tinyvit.data.loader import run_stream


class Tensors:
    def read(self, worker: int, workers: int) -> Iterator[torch.Tensor]:
        # As libraries make them; that of a process that does not end in order is complained of.
        with multiprocessing.get_context("forkserver").Lock():
            yield from (torch.zeros(10_000) for _ in range(8))


def stopped(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # The last thing that it waits for.
    vars(handover)["recv_handle"] = stopped
    try:
        list(run_stream(Tensors(), 1))
    except KeyboardInterrupt:
        time.sleep(1)  # the data process's other end has noticed by then
        print("stopped")
