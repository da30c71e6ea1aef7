"""What the tests of the flows ask of a server: by its command line and by its API."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from support import ROOT

BIN = Path(sys.executable).parent


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def prefect(server: dict[str, str], *arguments: str, timeout: int = 300) -> subprocess.CompletedProcess[str]:
    """The command `prefect`, in an environment that names a server."""
    return subprocess.run(
        [BIN / "prefect", *arguments],
        cwd=ROOT,
        env=server,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run_deployment(server: dict[str, str], name: str, *options: str, **parameters: Any) -> str:
    """`prefect deployment run NAME`, which must succeed; what it printed."""
    given = [
        part
        for parameter, value in parameters.items()
        for part in ("--param", f"{parameter}={value if isinstance(value, str | Path) else json.dumps(value)}")
    ]
    done = prefect(server, "deployment", "run", name, *given, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(server: dict[str, str], path: str, document: Any = None) -> Any:
    """What the server's API answers: to a POST with a document, else to a GET."""
    url = f"{server['PREFECT_API_URL']}/{path}"
    answer = httpx.get(url) if document is None else httpx.post(url, json=document)
    return answer.raise_for_status().json()


def running(server: dict[str, str], deployment: str) -> str:
    """The one flow run of a deployment that is running."""
    wanted = {
        "deployments": {"name": {"any_": [deployment]}},
        "flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}},
    }
    (run,) = ask(server, "flow_runs/filter", wanted)
    return str(run["id"])


def ended(server: dict[str, str], run: str) -> str:
    """The state in which a flow run ended."""
    wait_for(lambda: ask(server, f"flow_runs/{run}")["end_time"] is not None, 180)
    return str(ask(server, f"flow_runs/{run}")["state"]["type"])


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Until it holds; an AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


def pool_processes(run: str) -> list[int]:
    """The processes of this machine that a flow run works in."""
    return processes(f"FLOW_RUN_ID={run}", "spawn_main")


def processes(variable: str, command: str) -> list[int]:
    """Those with this in their environment and in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            ours = entry.name.isdigit() and variable.encode() in (entry / "environ").read_bytes()
            if ours and command.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:  # it ended while we looked
            continue
    return found
