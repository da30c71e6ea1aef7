"""The command line, run to its end in a process of its own that need not import torch: it is forked from a server that
has. That is how the package's data processes begin too, and several seconds less for each command.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

STREAMS = {1: "stdout", 2: "stderr"}
# What the commands of the tests import; a server that the package itself started has the heavy part of it.
PRELOADED = [
    "tinyvit.data.training_views",
    "tinyvit.labelling.verify_replay",
    "tinyvit.data.unit_views",
    "tinyvit.cli.main",
    "tinyvit.tasks.run",
    "tinyvit.training.train",
    "tinyvit.evaluation",
    "tinyvit.labelling.label",
]


def run_forked(arguments: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `tinyvit` with these arguments and today's environment; what it left on its streams and its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=_tinyvit, args=(list(arguments), cwd, dict(os.environ), folder))
        process.start()
        process.join()
        stdout, stderr = ((Path(folder) / name).read_text() for name in STREAMS.values())
    return subprocess.CompletedProcess(["tinyvit", *arguments], process.exitcode or 0, stdout, stderr)


def _tinyvit(arguments: list[str], cwd: Path, environment: dict[str, str], folder: str) -> None:
    # The server may have been started deaf to these, and long before the environment was what it is.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, name in STREAMS.items():
        os.dup2(os.open(Path(folder) / name, os.O_CREAT | os.O_WRONLY), number)
    sys.argv = ["tinyvit", *arguments]
    from tinyvit.cli.main import main

    main()
