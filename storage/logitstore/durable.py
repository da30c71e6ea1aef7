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


def write_whole(path: Path, data: bytes, aside: Path | None = None) -> None:
    """Write a file whole; see `whole_file`."""
    try:
        with whole_file(path, aside) as file:
            file.write(data)
    except OSError as fault:
        # A write that finds the disk full does not say which.
        fault.filename = fault.filename or str(path)
        raise


def write_new(path: Path, data: bytes, aside: Path | None = None) -> bool:
    """Write a file whole where there is none yet; False where there is one. Of several writers one succeeds.

    It may be gone after a power cut. For `aside` see `whole_file`.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _opened_aside(path, aside or path.parent)
        temporary = Path(file.name)
        try:
            with file:
                file.write(data)
            path.hardlink_to(temporary)
            return True
        except FileExistsError:
            return False
        except FileNotFoundError:
            # Swept away by a run that has just sealed the store.
            continue
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path, aside: Path | None = None) -> Iterator[BinaryIO]:
    """A file to be written aside, synced and renamed, with the folders that name it; nothing is left on failure.

    Folders that are not there are made. `aside` is another folder of the same file system than that of the file,
    for what a killed process leaves to be found at once.
    """
    new = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _opened_aside(path, aside or path.parent)
    temporary = Path(file.name)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    for folder in {path.parent, *(folder.parent for folder in new)}:
        sync_folder(folder)


def _opened_aside(path: Path, folder: Path) -> BinaryIO:
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / f"{path.name}.{uuid.uuid4().hex}.partial").open("wb")


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
