"""A folder of whole files, of bounded size, that any number of processes share.

Who needs a file that is not there makes it; who finds another at it waits. There is no server, and nothing to clean up:
a lock is gone with the process that held it, and what it had left half-made is taken over by the next. A file appears
under its name when it is whole and on the disk. To make room, those that were used least lately go; who still reads one
of them goes on, for an open file outlives its name.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tinyvit.errors import UserError

log = logging.getLogger("tinyvit")

# Caches of which this process has told where they are.
_told = set[Path]()

# Behind the name of a file that is being made, and the files whose locks are held for a moment or for a making.
PART, LOCK, TURN = ".part", "lock", "turn-"
# Files that are made ahead of need at once, by all processes: what a network has to give, a few give.
TURNS = 8
# Seconds between looks at what another process is making.
LOOK = 0.02
# What of the free disk a cache may take that is told no size.
FREE_SHARE = 0.5

# Writes a file's content; raises what is wrong with it.
Fill = Callable[[BinaryIO], None]


class _NoRoom(Exception):
    """A file has no room beside those that are needed."""


@dataclass(frozen=True)
class CacheFolder:
    """Files at `path`, which may have `size` bytes together. Picklable; every process opens what it reads itself."""

    path: Path
    size: int

    @property
    def held(self) -> int:
        """How many bytes there are now."""
        return sum(size for size, _ in self._files().values())

    def open(self, name: str) -> BinaryIO | None:
        """A file that is there, which was used just now; None where it is not."""
        try:
            file = (self.path / name).open("rb", buffering=0)
        except FileNotFoundError:
            return None
        os.utime(file.fileno())
        return file

    def holds(self, name: str) -> bool:
        """Whether a file is there, which is wanted soon."""
        try:
            os.utime(self.path / name)
        except FileNotFoundError:
            return False
        return True

    def obtain(self, name: str, size: int, fill: Fill) -> BinaryIO:
        """A file of about `size` bytes, made by `fill` where it is not there; whatever is in its way goes.

        UserError for a file that is larger than the cache may be, or a full disk.
        """
        if size > self.size:
            raise UserError(
                f"the cache {self.path} may have {self.size:,} bytes, and one file of {size:,} is to be kept there; "
                f"raise data.cache_size"
            )
        while True:
            if file := self.open(name):
                return file
            if not self._make(name, size, fill, None):
                time.sleep(LOOK)

    def prepare(self, name: str, size: int, fill: Fill, needed: Collection[str]) -> bool:
        """Have a file made ahead of need, unless another process is at it or there is no room beside those `needed`
        before it; whether it need not be asked for again.
        """
        if self.holds(name):
            return True
        with self._turn() as free:
            try:
                # One that another process is at is as good as there.
                return free and (self._make(name, size, fill, needed) or True)
            except _NoRoom:
                return False

    def _make(self, name: str, size: int, fill: Fill, needed: Collection[str] | None) -> bool:
        """Make a file; False where another is at it, or where after a full disk there is room now.

        `needed` files stay, which may leave no room; None: none must.
        """
        part = self._begin(name, size, needed)
        if part is None:
            return False
        path = self.path / (name + PART)
        with part:
            try:
                fill(part)
                part.flush()
                # Without this a power cut may leave the name and not the bytes.
                os.fsync(part.fileno())
                path.rename(self.path / name)
            except BaseException as fault:
                path.unlink(missing_ok=True)
                if not (isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT)):
                    raise
                if needed is not None:
                    raise _NoRoom from fault
                if not self._make_room(size):
                    raise UserError(
                        f"the disk of the cache {self.path} is full; free some space, or set data.cache to another "
                        f"folder"
                    ) from fault
                return False
        return True

    def _make_room(self, size: int) -> bool:
        """Remove some files, of which the disk has no room for more; False where there is none."""
        with self._locked():
            return bool(self._drop(self._files(), size, None))

    def _begin(self, name: str, size: int, needed: Collection[str] | None) -> BinaryIO | None:
        """The file to fill, whose lock this process holds; None where another is at it."""
        path = self.path / (name + PART)
        with self._locked():
            if (self.path / name).exists():
                return None
            part = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
            if not _locked_alone(part) or not path.exists():
                # Another is at it, or was just now: then the lock is that of the whole file.
                part.close()
                return None
            files = self._files(path.name)
            excess = sum(held for held, _ in files.values()) + size - self.size
            if excess > 0 and self._drop(files, excess, needed) < excess and needed is not None:
                path.unlink()
                part.close()
                raise _NoRoom
            # So that others count it.
            os.ftruncate(part.fileno(), 0)
            os.ftruncate(part.fileno(), size)
            return part

    def _files(self, own: str = "") -> dict[str, tuple[int, int]]:
        """Bytes and time of the last use of every file but an `own` one. What nobody is making any more is removed."""
        found = dict[str, tuple[int, int]]()
        for entry in os.scandir(self.path):
            if entry.name in (LOCK, own) or entry.name.startswith(TURN):
                continue
            path = Path(entry.path)
            with suppress(FileNotFoundError):
                if entry.name.endswith(PART):
                    with path.open("rb") as part:
                        if _locked_alone(part):
                            path.unlink()
                status = path.stat()
                found[entry.name] = status.st_size, status.st_mtime_ns
        return found

    def _drop(self, files: dict[str, tuple[int, int]], excess: int, needed: Collection[str] | None) -> int:
        """Remove files until there are `excess` bytes less, those that were used least lately first; how many bytes
        there are less. Where they are not enough while `needed` ones stay, none goes.
        """
        chosen, gone = list[str](), 0
        for name, (size, _) in sorted(files.items(), key=lambda item: item[1][1]):
            if gone < excess and name not in (needed or ()) and not name.endswith(PART):
                chosen.append(name)
                gone += size
        if gone < excess and needed is not None:
            return 0
        for name in chosen:
            (self.path / name).unlink(missing_ok=True)
        return gone

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone for a moment, to see what there is and make room."""
        with (self.path / LOCK).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """One of a few that make files ahead of need; False where there are enough."""
        for number in range(TURNS):
            with (self.path / f"{TURN}{number}").open("ab") as file:
                if _locked_alone(file):
                    yield True
                    return
        yield False


def _locked_alone(file: BinaryIO) -> bool:
    """Lock a file for as long as it is open; False where another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_cache(folder: Path | None, size: int | None) -> CacheFolder:
    """The cache in a folder, or in the user's own one, which may have `size` bytes, or half of what is free.

    UserError for a folder that cannot be written.
    """
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinyvit" / "shards"
    path = folder.expanduser() if folder else own
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        (path / LOCK).touch()
    except OSError as fault:
        raise UserError(
            f"the cache {path} cannot be written ({fault.strerror}); set data.cache to another folder"
        ) from fault
    cache = CacheFolder(path, size or 0)
    if size is None:
        # What it holds already counts as free: the size does not change as it fills.
        cache = CacheFolder(path, int((shutil.disk_usage(path).free + cache.held) * FREE_SHARE))
    if path not in _told:
        _told.add(path)
        log.info("what is far away is kept near in %s, at most %s MB", path, f"{cache.size / 1e6:,.0f}")
    return cache
