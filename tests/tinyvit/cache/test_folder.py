"""A cache folder: whole files only, made once, bounded, whoever shares it and whoever is killed."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from tinyvit.cache import CacheFolder, open_cache
from tinyvit.errors import UserError

KB = 1024
_context = multiprocessing.get_context("spawn")


def of(byte: bytes, size: int = KB):  # type: ignore[no-untyped-def]
    """Fills a file with a byte."""

    def fill(file: BinaryIO) -> None:
        file.write(byte * size)

    return fill


def names(folder: Path) -> set[str]:
    """The files that are kept, those that are being made among them."""
    return {path.name for path in folder.iterdir() if path.name != "lock" and not path.name.startswith("turn-")}


@pytest.fixture
def cache(tmp_path: Path) -> CacheFolder:
    return open_cache(tmp_path / "cache", 4 * KB)


def read(file: BinaryIO) -> bytes:
    with file:
        return file.read()


def test_a_file_is_made_once_and_is_there_from_then_on(cache: CacheFolder) -> None:
    assert cache.open("a") is None
    assert read(cache.obtain("a", KB, of(b"a"))) == b"a" * KB
    assert read(cache.obtain("a", KB, of(b"b"))) == b"a" * KB
    assert names(cache.path) == {"a"}


def test_what_was_used_least_lately_goes_and_who_reads_it_goes_on(cache: CacheFolder) -> None:
    for name in "abcd":
        cache.obtain(name, KB, of(name.encode())).close()
        time.sleep(0.01)
    reader = cache.open("b")
    assert reader
    cache.obtain("a", KB, of(b"-")).close()
    time.sleep(0.01)
    cache.obtain("e", 2 * KB, of(b"e", 2 * KB)).close()
    # b was used before a, after c and d.
    assert names(cache.path) == {"a", "b", "e"}
    cache.obtain("f", KB, of(b"f")).close()
    assert names(cache.path) == {"a", "e", "f"}
    assert read(reader) == b"b" * KB


def test_ahead_of_need_nothing_goes_that_is_needed_before(cache: CacheFolder) -> None:
    for name in "abc":
        cache.obtain(name, KB, of(name.encode())).close()
    assert not cache.prepare("d", 2 * KB, of(b"d", 2 * KB), frozenset("abc"))
    assert names(cache.path) == {"a", "b", "c"}
    assert cache.prepare("d", 2 * KB, of(b"d", 2 * KB), frozenset("bc"))
    assert names(cache.path) == {"b", "c", "d"}
    assert cache.prepare("d", 2 * KB, of(b"-"), frozenset())
    # Who needs one now makes room whatever is in its way.
    cache.obtain("e", 4 * KB, of(b"e", 4 * KB)).close()
    assert names(cache.path) == {"e"}


def test_a_file_whose_making_failed_is_not_there(cache: CacheFolder) -> None:
    def failing(file: BinaryIO) -> None:
        file.write(b"half")
        raise UserError("the shard is another one")

    with pytest.raises(UserError, match="the shard is another one"):
        cache.obtain("a", KB, failing)
    assert names(cache.path) == set()


def test_a_full_disk_is_made_room_on_or_said(cache: CacheFolder) -> None:
    full = [OSError(errno.ENOSPC, "no space"), OSError(errno.EDQUOT, "no quota")]

    def fill(file: BinaryIO) -> None:
        if full:
            raise full.pop()
        file.write(b"b" * KB)

    for name in "xyz":
        cache.obtain(name, KB, of(b"x")).close()
    assert not cache.prepare("b", KB, fill, frozenset("xyz"))
    assert names(cache.path) == {"x", "y", "z"}
    assert read(cache.obtain("b", KB, fill)) == b"b" * KB
    assert names(cache.path) == {"b", "y", "z"}
    full[:] = [OSError(errno.ENOSPC, "no space")] * 9
    with pytest.raises(UserError, match=r"the disk of the cache .* is full; free some space, or set data\.cache"):
        cache.obtain("c", KB, fill)


def test_a_file_larger_than_the_cache_is_refused(cache: CacheFolder) -> None:
    with pytest.raises(UserError, match=r"may have 4,096 bytes, and one file of 5,120 .*; raise data\.cache_size"):
        cache.obtain("a", 5 * KB, of(b"a"))


def test_without_a_size_it_takes_half_of_what_is_free(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    assert open_cache(tmp_path / "cache", None).size == pytest.approx(free / 2, rel=0.1)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"the cache .*file/cache cannot be written \(Not a directory\); set data\.cache"
    ):
        open_cache(tmp_path / "file" / "cache", None)


def _slowly(cache: CacheFolder, log: Path) -> None:
    """Another process that wants a file, and takes its time where it has to make it."""

    def fill(file: BinaryIO) -> None:
        with log.open("a") as lines:
            lines.write("made\n")
        file.write(b"half")
        file.flush()
        time.sleep(0.5)
        file.seek(0)
        file.write(b"w" * KB)

    assert read(cache.obtain("wanted", KB, fill)) == b"w" * KB


def test_of_many_processes_that_want_a_file_one_makes_it(cache: CacheFolder, tmp_path: Path) -> None:
    processes = [_context.Process(target=_slowly, args=(cache, tmp_path / "log")) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "log").read_text() == "made\n"


def _for_ever(cache: CacheFolder, started: Path) -> None:
    def fill(file: BinaryIO) -> None:
        file.write(b"half")
        file.flush()
        started.touch()
        time.sleep(600)

    cache.obtain("wanted", KB, fill)


@pytest.fixture
def killed(cache: CacheFolder, tmp_path: Path) -> None:
    """One who made a file was killed in the middle."""
    process = _context.Process(target=_for_ever, args=(cache, tmp_path / "started"))
    process.start()
    while not (tmp_path / "started").exists():
        assert process.is_alive()
        time.sleep(0.01)
    # While it lives it is waited for, and nobody sees the half.
    assert cache.open("wanted") is None
    assert cache.prepare("wanted", KB, of(b"-"), frozenset())
    assert cache.open("wanted") is None
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()


@pytest.mark.usefixtures("killed")
def test_what_a_killed_process_left_is_taken_over(cache: CacheFolder) -> None:
    assert names(cache.path) == {"wanted.part"}
    assert cache.open("wanted") is None
    assert read(cache.obtain("wanted", KB, of(b"w"))) == b"w" * KB
    assert names(cache.path) == {"wanted"}


@pytest.mark.usefixtures("killed")
def test_what_a_killed_process_left_takes_no_room(cache: CacheFolder) -> None:
    cache.obtain("other", 4 * KB, of(b"o", 4 * KB)).close()
    assert names(cache.path) == {"other"}
