"""Data processes as parts of the process that reads from them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinyvit.data.loader import run_stream


class Variable:
    """A stream of one item: what the environment variable TINYVIT_TEST says in the process that reads it."""

    def read(self, worker: int, workers: int) -> Iterator[str | None]:
        yield os.environ.get("TINYVIT_TEST")


def test_data_processes_have_the_environment_of_the_moment_they_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(run_stream(Variable(), 1)) == [None]  # the fork server runs from here on, if not before
    monkeypatch.setenv("TINYVIT_TEST", "young credentials")
    assert list(run_stream(Variable(), 1)) == ["young credentials"]


def test_a_reader_stopped_while_it_takes_a_tensor_leaves_no_traceback() -> None:
    script = Path(__file__).with_name("leaving_reader.py")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "stopped\n", "")


def test_signals_to_the_whole_group_are_for_the_reader_alone_also_while_data_processes_begin() -> None:
    """torchrun ends the group of a rank with SIGTERM; the rank then wants another batch, to save at a step's end."""
    script = Path(__file__).with_name("signalled_reader.py")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, start_new_session=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "4950 2\n", "")
