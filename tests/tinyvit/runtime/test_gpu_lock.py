"""Processes of one machine take different devices, and a killed one gives its own back."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.queues import Queue
from pathlib import Path

import torch

from tinyvit.runtime.gpu_lock import lock_first, reserve_gpu

SPAWN = multiprocessing.get_context("spawn")
NAMES = ("GPU-a", "GPU-b")


def hold(folder: Path, taken: Queue[int | None]) -> None:
    taken.put(lock_first(NAMES, folder))
    time.sleep(1000)


def test_each_process_takes_another_until_none_is_left(tmp_path: Path) -> None:
    taken: Queue[int | None] = SPAWN.Queue()
    processes = [SPAWN.Process(target=hold, args=(tmp_path, taken)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [taken.get(timeout=60) for _ in processes]
    assert sorted(number for number in found if number is not None) == [0, 1]
    assert found.count(None) == 1
    assert lock_first(NAMES, tmp_path) is None
    for process in processes:
        process.kill()
        process.join()
    assert lock_first(NAMES, tmp_path) == 0


def test_without_a_gpu_it_is_the_cpu() -> None:
    assert reserve_gpu().type == ("cuda" if torch.cuda.is_available() else "cpu")
