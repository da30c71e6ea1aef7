"""Files that are seen complete or not at all, also after a power cut."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# Only names of this form are ours to sweep away: a folder may hold the half-finished files of others.
TEMPORARY = re.compile(r".+\.[0-9a-f]{32}\.partial")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole; see `whole_file`."""
    try:
        with whole_file(path) as file:
            file.write(data)
    except OSError as fault:
        # A write that finds the disk full does not say which.
        fault.filename = fault.filename or str(path)
        raise


def write_new(path: Path, data: bytes) -> bool:
    """Write a file whole where there is none yet; False where there is one. Of several writers one succeeds.

    It may be gone after a power cut.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = _aside(path)
        try:
            aside.write_bytes(data)
            path.hardlink_to(aside)
            return True
        except FileExistsError:
            return False
        except FileNotFoundError:
            # Swept away by a run that has just sealed the store.
            continue
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to be written aside, synced and renamed, with the folders that name it; nothing is left on failure.

    Folders that are not there are made.
    """
    new = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    for folder in {path.parent, *(folder.parent for folder in new)}:
        sync_folder(folder)


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")


def is_temporary(name: str) -> bool:
    """Whether a file of this name is what a killed `write_whole` left."""
    return TEMPORARY.fullmatch(name) is not None


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
