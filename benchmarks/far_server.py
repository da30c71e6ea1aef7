"""A folder behind a web server that is far away: it answers after a while, sends so fast a connection, and may fail.

It listens on loopback, in a process of its own, and counts what it is asked for.
"""

from __future__ import annotations

import http.server
import multiprocessing
import os
import time
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# Bytes that are sent before the next look at the clock.
PIECE = 1 << 18

_context = multiprocessing.get_context("forkserver")


def _counter() -> Synchronized[int]:
    return _context.Value("q", 0)


@dataclass
class FarServer:
    """Serves `folder` after `delay` seconds an answer, at `rate` bytes a second and connection; a context.

    `requests` and `sent` count what files were asked for, headers apart, and how many bytes went out. So many of the
    next requests are answered 503 as `refuse` says, or broken off in the middle as `cut` says.
    """

    folder: Path
    delay: float = 0.0
    rate: float = float("inf")
    requests: Synchronized[int] = field(default_factory=_counter)
    sent: Synchronized[int] = field(default_factory=_counter)
    refuse: Synchronized[int] = field(default_factory=_counter)
    cut: Synchronized[int] = field(default_factory=_counter)

    def __enter__(self) -> Self:
        ours, theirs = _context.Pipe()
        self._process = _context.Process(target=_serve, args=(self, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.url = f"http://127.0.0.1:{ours.recv()}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not SIGTERM: to that the fork server of data processes is deaf, and what comes of it.
        self._process.kill()
        self._process.join()


def _serve(server: FarServer, connection: Any) -> None:
    class Handler(_Handler):
        far = server

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        connection.send(web.server_port)
        web.serve_forever()


def _one_of(counter: Synchronized[int]) -> bool:
    """Whether there is one left, which is taken."""
    with counter.get_lock():
        counter.value -= (left := counter.value > 0)
    return left


class _Handler(http.server.BaseHTTPRequestHandler):
    far: FarServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        time.sleep(self.far.delay)
        if self.command == "GET":
            with self.far.requests.get_lock():
                self.far.requests.value += 1
        path = self.far.folder / self.path.lstrip("/")
        if _one_of(self.far.refuse) or not path.is_file():
            self.send_error(503 if path.is_file() else 404)
            return
        status = path.stat()
        first, end = 0, status.st_size
        if asked := self.headers.get("Range"):
            start, _, last = asked.removeprefix("bytes=").partition("-")
            # Without a beginning it is so many bytes of the end that are wanted.
            first = int(start) if start else max(0, end - int(last))
            end = min(int(last) + 1, end) if start and last else end
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(end - first))
        self.send_header("Content-Range", f"bytes {first}-{end - 1}/{status.st_size}")
        self.send_header("Last-Modified", self.date_time_string(status.st_mtime))
        self.end_headers()
        if self.command == "GET":
            self._send(path, first, end)

    def _send(self, path: Path, first: int, end: int) -> None:
        began, place = time.monotonic(), first
        stop = (first + end) // 2 if _one_of(self.far.cut) else end
        with path.open("rb") as file:
            while place < stop:
                place += os.sendfile(self.wfile.fileno(), file.fileno(), place, min(PIECE, stop - place))
                time.sleep(max(0.0, began + (place - first) / self.far.rate - time.monotonic()))
        with self.far.sent.get_lock():
            self.far.sent.value += place - first
        if stop < end:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Quiet."""
