"""Where the objects of a store are: a local folder, a bucket, or a folder behind a web server (read-only).

One object has one key, is written whole and appears whole or not at all: an object store gives that by itself,
durable.py on a local disk. A commit is worth nothing if what it vouches for can vanish in a power cut.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import unquote

from logitstore.durable import is_temporary, sync_folder, write_new, write_whole
from logitstore.errors import StoreError, first_line

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore, RetryConfig

# Requests under way at once of a reader, of which there may be many; a unit has seven objects.
REMOTE_REQUESTS = 8
# Of who wants thousands of objects: a seal every commit, of ImageNet-21k tens of thousands.
MANY_REQUESTS = 64
# Bytes of a piece of an object that is read from its beginning to its end.
BLOCK = 8 << 20
# Answers that are broken off, one after another, until that is a fault.
BROKEN_OFF = 5
# For a request that fails by chance: tried again with growing pauses.
RETRIES: dict[str, Any] = {"max_retries": 10, "retry_timeout": timedelta(minutes=3)}


class ByteRange(NamedTuple):
    """Bytes of an object: all of it, `length` from `start` on, or with a negative start its last bytes."""

    key: str
    start: int = 0
    length: int | None = None

    @property
    def end(self) -> int | None:
        """Where it ends, counted like `start`; None: at the object's end."""
        return None if self.length is None else self.start + self.length


class Objects(ABC):
    """A flat space of keys such as `seed/c/0/12/0`.

    A web server can neither list nor write: `readable_only`.
    """

    location: str
    readable_only = False

    @abstractmethod
    def fetch(self, parts: Sequence[ByteRange], at_once: int = REMOTE_REQUESTS) -> list[bytes | None]:
        """The bytes of each part, so many at once; None where there is no such object. StoreError when the place does
        not answer.
        """

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Write an object whole, durably, over any older one."""

    def put_all(self, objects: Mapping[str, bytes]) -> None:
        """Write several objects, in any order, each as `put` does."""
        for key, data in objects.items():
            self.put(key, data)

    @abstractmethod
    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object where there is none yet; False where there is one. Of several writers one succeeds."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; none is there afterwards."""

    @abstractmethod
    def stamp(self, key: str) -> tuple[int, int] | None:
        """Bytes and time of change (ns since 1970) of an object; None where there is none."""

    @abstractmethod
    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Key and bytes of every object below a prefix that ends at a slash. StoreError where none can be listed."""

    def stamps(self, keys: Sequence[str]) -> list[tuple[int, int] | None]:
        """The `stamp` of each of many objects."""
        return [self.stamp(key) for key in keys]

    def get(self, key: str) -> bytes | None:
        """A whole object."""
        return self.fetch([ByteRange(key)])[0]

    def pieces(self, key: str) -> Iterator[bytes]:
        """A whole object in one request, piece by piece. StoreError where it cannot be read."""
        yield self.get(key) or b""

    def sweep(self) -> int:
        """Remove what killed writers left behind; returns how much. Only when none writes."""
        return 0


def open_objects(location: str | Path, headers: Mapping[str, str] | None = None) -> Objects:
    """The place that a path or a URL (file, s3, gs, az, http, https) names. StoreError for an unknown kind.

    `headers` go with every request to a web server.
    Credentials and endpoint of a bucket come from the variables that its own tools use, such as AWS_ENDPOINT_URL.
    """
    scheme, separator, rest = str(location).partition("://")
    if not separator:
        return LocalObjects(Path(location))
    if scheme == "file":
        return LocalObjects(Path(unquote(rest)))
    return RemoteObjects(str(location), headers)


class LocalObjects(Objects):
    """A folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)
        # One folder for what is being written, in which a sweep finds it at once, and where a stranger does not look.
        self._aside = root / "committed" / "partial"

    def fetch(self, parts: Sequence[ByteRange], at_once: int = REMOTE_REQUESTS) -> list[bytes | None]:
        return [self._read(part) for part in parts]

    def _read(self, part: ByteRange) -> bytes | None:
        # Seven times for every epoch that is read: half the time of open() and seek().
        try:
            handle = os.open(f"{self.location}/{part.key}", os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            size = os.fstat(handle).st_size
            start = max(0, size + part.start) if part.start < 0 else part.start
            return os.pread(handle, size - start if part.length is None else part.length, start)
        finally:
            os.close(handle)

    def put(self, key: str, data: bytes) -> None:
        write_whole(self.root / key, data, self._aside)

    def put_new(self, key: str, data: bytes) -> bool:
        return write_new(self.root / key, data, self._aside)

    def delete(self, key: str) -> None:
        path = self.root / key
        if path.exists():
            path.unlink(missing_ok=True)
            sync_folder(path.parent)

    def stamp(self, key: str) -> tuple[int, int] | None:
        try:
            status = (self.root / key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size, status.st_mtime_ns

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        for folder, _, names in os.walk(self.root / prefix):
            for name in names:
                path = Path(folder) / name
                if is_temporary(name):
                    continue
                try:
                    yield path.relative_to(self.root).as_posix(), path.stat().st_size
                except FileNotFoundError:  # another run removed it meanwhile
                    continue

    def sweep(self) -> int:
        if not self._aside.is_dir():
            return 0
        leftovers = [path for path in self._aside.iterdir() if is_temporary(path.name)]
        for path in leftovers:
            path.unlink(missing_ok=True)
        return len(leftovers)


class WholeOnly(StoreError):
    """A web server that gives objects from their beginning to their end, and no part of one."""


class RemoteObjects(Objects):
    """A bucket, or a folder behind a web server. A put appears whole there or not at all.

    What follows a question mark in a web server's URL, such as a signature, goes with every request.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        path, mark, self._query = url.partition("?") if url.startswith("http") else (url, "", "")
        self.location = f"{path.rstrip('/')}{mark}{self._query}"
        self._headers = dict(headers or {})
        self.readable_only = url.startswith("http")

    @cached_property
    def _store(self) -> ObjectStore:
        try:
            from obstore.store import HTTPStore, from_url
        except ImportError as fault:
            raise StoreError(f"{self.location} needs the package obstore: pip install obstore") from fault
        try:
            # By itself it takes some web addresses for buckets, and leaves the signature away.
            opened = HTTPStore.from_url if self.readable_only else from_url
            return opened(
                self.location,
                client_options={"allow_http": True, "default_headers": self._headers},
                retry_config=cast("RetryConfig", RETRIES),
            )
        except Exception as fault:
            raise StoreError(self._unsigned(f"{self.location} cannot be opened: {first_line(fault)}")) from fault

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(REMOTE_REQUESTS)

    def fetch(self, parts: Sequence[ByteRange], at_once: int = REMOTE_REQUESTS) -> list[bytes | None]:
        if len(parts) == 1:
            return [self._read(parts[0])]
        if at_once == REMOTE_REQUESTS:
            return list(self._pool.map(self._read, parts))
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(self._read, parts))

    def _read(self, part: ByteRange) -> bytes | None:
        asked: Any = None
        if part.start < 0:
            asked = {"suffix": -part.start}
        elif part.length is not None:
            asked = (part.start, part.end)
        elif part.start:
            asked = {"offset": part.start}
        try:
            return self._body(part.key, {"range": asked} if asked else {})
        except FileNotFoundError:
            return None
        except self._faults as fault:
            from obstore.exceptions import NotSupportedError

            if isinstance(fault, NotSupportedError):
                raise WholeOnly(self._unsigned(f"{self.location}: {part.key} is given whole only")) from fault
            raise self._plain(f"{part.key} cannot be read", fault) from fault

    def _body(self, key: str, options: Any) -> bytes:
        for attempt in range(BROKEN_OFF):
            found = self._store.get(key, options=options)
            try:
                return found.bytes().to_bytes()
            except self._faults:
                # obstore asks again where no answer comes; where one is broken off, only of servers that give an ETag.
                time.sleep(2**attempt / 10)
        return self._store.get(key, options=options).bytes().to_bytes()

    def pieces(self, key: str) -> Iterator[bytes]:
        try:
            yield from (bytes(piece) for piece in self._store.get(key).stream(min_chunk_size=BLOCK))
        except self._faults as fault:
            raise self._plain(f"{key} cannot be read", fault) from fault

    def put(self, key: str, data: bytes) -> None:
        self._refuse_where_read_only(key)
        try:
            self._store.put(key, data)
        except self._faults as fault:
            raise self._plain(f"{key} cannot be written", fault) from fault

    def put_all(self, objects: Mapping[str, bytes]) -> None:
        # One after the other they would keep a unit waiting six times as long. None is under way after a fault.
        puts = [self._pool.submit(self.put, key, data) for key, data in objects.items()]
        wait(puts)
        for put in puts:
            put.result()

    def put_new(self, key: str, data: bytes) -> bool:
        self._refuse_where_read_only(key)
        try:
            self._store.put(key, data, mode="create")
        except self._faults as fault:
            from obstore.exceptions import AlreadyExistsError

            if isinstance(fault, AlreadyExistsError):
                return False
            # S3's word for what a server does not know (status 501). Then two writers may both succeed.
            if "NotImplemented" not in str(fault):
                raise self._plain(f"{key} cannot be written", fault) from fault
            if self.get(key) is not None:
                return False
            self.put(key, data)
        return True

    def delete(self, key: str) -> None:
        self._refuse_where_read_only(key)
        try:
            self._store.delete(key)
        except FileNotFoundError:
            return
        except self._faults as fault:
            raise self._plain(f"{key} cannot be removed", fault) from fault

    def stamp(self, key: str) -> tuple[int, int] | None:
        try:
            found = self._head(key)
        except FileNotFoundError:
            return None
        except self._faults as fault:
            raise self._plain(f"{key} cannot be found", fault) from fault
        return found["size"], int(found["last_modified"].timestamp() * 1e9)

    def _head(self, key: str) -> ObjectMeta:
        try:
            return self._store.head(key)
        except self._faults as fault:
            from obstore.exceptions import PermissionDeniedError

            if not isinstance(fault, PermissionDeniedError):
                raise
            # A signature may be for reading alone: who reads a byte is told the same.
            return self._store.get(key, options={"range": (0, 1)}).meta

    def stamps(self, keys: Sequence[str]) -> list[tuple[int, int] | None]:
        with ThreadPoolExecutor(MANY_REQUESTS) as pool:
            return list(pool.map(self.stamp, keys))

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        # A server lists a thousand keys at a time, one answer after the other: each folder is asked for by itself.
        try:
            level = self._store.list_with_delimiter(prefix or None)
        except self._faults as fault:
            raise self._plain("its objects cannot be listed", fault) from fault
        yield from ((entry["path"], entry["size"]) for entry in level["objects"])
        for found in self._pool.map(self._list, level["common_prefixes"]):
            yield from found

    def _list(self, prefix: str) -> list[tuple[str, int]]:
        try:
            return [(entry["path"], entry["size"]) for chunk in self._store.list(prefix) for entry in chunk]
        except self._faults as fault:
            raise self._plain("its objects cannot be listed", fault) from fault

    def _refuse_where_read_only(self, key: str) -> None:
        """StoreError behind a web server: there are such that take what they are sent, whoever sends it."""
        if self.readable_only:
            line = f"{self.location} can only be read ({key} was to be changed); open the store where it is written"
            raise StoreError(self._unsigned(line))

    @property
    def _faults(self) -> tuple[type[Exception], ...]:
        try:
            from obstore.exceptions import BaseError
        except ImportError:
            # Without it `_store` says so, and nothing else is to be caught.
            return ()
        return (BaseError, OSError)

    def _plain(self, what: str, fault: Exception) -> StoreError:
        return StoreError(self._unsigned(f"{self.location}: {what} ({first_line(fault)})"))

    def _unsigned(self, line: str) -> str:
        # Who reads a log is not always who may read the data.
        return line.replace(f"?{self._query}", "") if self._query else line
