"""A reader whose whole group is sent signals while its data processes begin; run by test_loader.py."""

import os
import signal
import threading
from collections.abc import Iterator

from tinyvit.data.loader import run_stream


class Numbers:
    def read(self, worker: int, workers: int) -> Iterator[int]:
        yield from range(worker, 100, workers)


if __name__ == "__main__":
    got = set[int]()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: got.add(number))
    begun = threading.Event()

    def send() -> None:
        while not begun.wait(0.005):
            os.killpg(0, signal.SIGTERM)
            os.killpg(0, signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        numbers = run_stream(Numbers(), 2)
        total = next(numbers)
        begun.set()
        print(total + sum(numbers), len(got))
    finally:
        begun.set()
