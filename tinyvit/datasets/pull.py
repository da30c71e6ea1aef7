"""Fetching shards into a local folder: from wherever they can be read, or from the output of commands.

A command (`pipe:`, as webdataset writes it) is only run where that was allowed expressly: a recipe or a data card
from somewhere else must not be able to run one. So shards are never read through a pipe, only fetched through one.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from braceexpand import braceexpand

from logitstore import whole_file, write_whole
from tinyvit.classes import class_list
from tinyvit.data.location import PIPE, ShardLocation
from tinyvit.errors import UserError
from tinyvit.runtime.progress import Progress

CONNECTIONS = 8
BLOCK = 1 << 20
# The name of a shard in a command that fetches it.
TAR_NAME = re.compile(r"[^\s/'\"=]+\.tar\b")


def pull(source: str, out: Path, allow_pipe: bool, progress: Progress) -> list[Path]:
    """Fetch the shards of a place, or the output of a pattern of commands, into `out`; those there are kept.

    Each is whole or not there. UserError for a command that fails, or that was not allowed.
    """
    if source.startswith(PIPE):
        if not allow_pipe:
            raise UserError(f"{source} runs commands on this machine; where you trust it, say so with --allow-pipe")
        jobs = _commands(source.removeprefix(PIPE))
    else:
        place = ShardLocation(source)
        jobs = {name: partial(place.pieces, name) for name in place.names()}
        if (names := place.class_names()) is not None:
            write_whole(out / "classes.txt", class_list(names))
    todo = {name: pieces for name, pieces in jobs.items() if not (out / name).exists()}
    with progress.task("pull", len(todo), "shards") as bar, ThreadPoolExecutor(CONNECTIONS) as pool:
        for _ in pool.map(lambda name: _fetch(out / name, todo[name]), todo):
            bar.advance(1)
    return [out / name for name in jobs]


def _fetch(path: Path, pieces: partial[Iterator[bytes]]) -> None:
    with whole_file(path) as file:
        file.writelines(pieces())


def _commands(pattern: str) -> dict[str, partial[Iterator[bytes]]]:
    jobs = {}
    for number, command in enumerate(braceexpand(pattern)):
        found = TAR_NAME.findall(command)
        jobs[found[-1] if found else f"{number:06d}.tar"] = partial(_output, command)
    return jobs


def _output(command: str) -> Iterator[bytes]:
    # That is what was allowed: a shell runs it.
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # noqa: S602
        assert process.stdout
        assert process.stderr
        yield from iter(partial(process.stdout.read, BLOCK), b"")
        words = process.stderr.read().decode(errors="replace").strip().splitlines()
        if process.wait() != 0:
            said = f": {words[-1]}" if words else ""
            raise UserError(f"the command {command!r} ended with {process.returncode}{said}; nothing of it was kept")
