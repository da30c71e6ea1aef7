"""A Prefect server with its UI, the `local` work pool and a worker, on this machine: `make server`.

For a team's own server set PREFECT_API_URL instead; nothing here is needed then.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

HOST = "127.0.0.1"
POOL = "local"
START_SECONDS = 120
STOP_SECONDS = 20
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ServerFault(RuntimeError):
    """The server, pool or worker did not come up or died. One line."""


@contextmanager
def local_server(port: int, home: Path | None = None) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Server and worker as child processes while the context lasts; yields both processes.

    `home` holds Prefect's database and profiles; by default the folder that prefect.toml names.
    """
    environment = os.environ | {"PREFECT_API_URL": f"http://{HOST}:{port}/api"}
    if home:
        environment["PREFECT_HOME"] = str(home)
    children: list[subprocess.Popen[bytes]] = []
    try:
        children.append(_prefect(["server", "start", "--host", HOST, "--port", str(port)], environment))
        _wait_for_health(children[0], port)
        pool = ["work-pool", "create", POOL, "--type", "process", "--overwrite"]
        if _prefect(pool, environment).wait() != 0:
            raise ServerFault(f"the work pool {POOL} could not be made; `prefect {' '.join(pool)}` shows why")
        children.append(_prefect(["worker", "start", "--pool", POOL], environment))
        yield children
    finally:
        for child in reversed(children):
            _stop(child)


def _prefect(arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C reaches this process only, which then stops its children in order.
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def _wait_for_health(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ServerFault(f"the Prefect server ended with exit code {server.returncode} while it started")
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/api/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise ServerFault(f"the Prefect server was not up after {START_SECONDS} s")


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _on_stop(_signal: int, _frame: FrameType | None) -> None:
    # Once is enough: a second Ctrl-C would cut the stopping short and leave the server or the worker behind.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Run until Ctrl-C or SIGTERM (exit code 0), or until a child dies (1). A taken port: 2."""
    parser = argparse.ArgumentParser(prog="python -m tinyvit_flows.server", description=__doc__)
    parser.add_argument("--port", type=int, default=4200, choices=range(1, 65536), metavar="PORT")
    port = parser.parse_args().port
    if _is_taken(port):
        print(f"port {port} is taken; stop what listens there, or give another --port", file=sys.stderr)
        return 2
    # SIGINT too: a shell's `... &` starts us with it ignored, the worker inherits that, and it stops by SIGINT.
    for number in STOP_SIGNALS:
        signal.signal(number, _on_stop)
    try:
        print("starting the Prefect server and a worker ...", flush=True)
        with local_server(port) as children:
            print(
                f"ready. UI: http://{HOST}:{port}\n"
                "In a second terminal, in this folder:\n"
                "  make deploy\n"
                "  prefect deployment run teacher-logits     (from .venv/bin, or with the environment activated)\n"
                "  prefect deployment run distill-student\n"
                "Ctrl-C stops the worker and the server.",
                flush=True,
            )
            while all(child.poll() is None for child in children):
                time.sleep(0.5)
            name = "server" if children[0].poll() is not None else "worker"
            print(f"the {name} ended by itself; stopping the rest", file=sys.stderr)
            return 1
    except ServerFault as fault:
        print(fault, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped")
        return 0


if __name__ == "__main__":
    sys.exit(main())
