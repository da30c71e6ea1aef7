"""`make server`: comes up, says so, goes away whole."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ROOT

from tinyvit.doctor.machine import check_prefect
from tinyvit_flows.plugin import full_name


def start(port: int, home: Path, before: Callable[[], object] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "tinyvit_flows.server", "--port", str(port)],
        cwd=ROOT,
        env=os.environ | {"PREFECT_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=before,
    )


def processes_of(port: int) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                environment = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if "prefect" in line and (f"--port {port}" in line or f"127.0.0.1:{port}/api" in environment):
                found.append(line)
    return found


def test_sigterm_stops_server_and_worker(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    run = start(port, tmp_path)
    assert run.stdout
    line = ""
    while "ready" not in line:
        line = run.stdout.readline()
        assert line, "it ended before it was ready"
    # For a moment a new process has no command line: the kernel tells its parent of the exec before it sets it.
    deadline = time.monotonic() + 10
    while len(processes_of(port)) < 2:
        assert time.monotonic() < deadline, processes_of(port)
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    assert run.wait(60) == 0
    assert processes_of(port) == []


@pytest.mark.parametrize("signals", [1, 2])
def test_stopping_ends_a_flow_run_where_sigint_was_ignored(signals: int, long: bool, tmp_path: Path) -> None:
    if signals == 1 and not long:
        pytest.skip("make torture")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    marker = tmp_path / "running"
    (tmp_path / "sleeper.py").write_text(
        "import pathlib, time\nfrom prefect import flow\n\n@flow\ndef sleeper() -> None:\n"
        f"    pathlib.Path({str(marker)!r}).touch()\n    time.sleep(300)\n"
    )
    environment = os.environ | {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_HOME": str(tmp_path)}
    # As a shell's `make server &` starts it.
    run = start(port, tmp_path, before=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert run.stdout
    while "ready" not in run.stdout.readline():
        assert run.poll() is None, "it ended before it was ready"
    for arguments in (
        ["--no-prompt", "deploy", "sleeper.py:sleeper", "--name", "sleeper", "--pool", "local"],
        ["deployment", "run", "sleeper/sleeper"],
    ):
        subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True,
        )  # fmt: skip
    deadline = time.monotonic() + 60
    while not marker.exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    for _ in range(signals):
        run.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    run.communicate(timeout=60)
    assert processes_of(port) == []


def test_a_taken_port_is_one_line_and_exit_2(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        run = start(port, tmp_path)
        out, _ = run.communicate(timeout=60)
    assert run.returncode == 2
    assert out.splitlines() == [f"port {port} is taken; stop what listens there, or give another --port"]


def test_a_short_name_is_doubled_and_a_full_one_stays() -> None:
    assert full_name("teacher-logits") == "teacher-logits/teacher-logits"
    assert full_name("a/b") == "a/b"


def test_the_doctor_sees_server_deployments_and_worker(
    server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server["PREFECT_API_URL"])
    deadline = time.monotonic() + 60
    # A worker reports itself some seconds after it was started.
    while (found := check_prefect(tmp_path)).state != "ok" and time.monotonic() < deadline:
        time.sleep(1)
    assert found.state == "ok", found.told
    assert "every flow deployed, a worker online in local" in found.told
