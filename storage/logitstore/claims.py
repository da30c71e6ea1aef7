"""Who computes what, agreed on by runs that share nothing but the store: no server, and no clock that must be right.

A run shows that it lives by an object of its own that changes every few seconds. It claims a unit by making an object
that must not be there yet, which of several runs exactly one can. The claims of a run that has ended are void: its
object is gone, has not changed for a while, or names a process of this machine that is not there. The next claim of
the unit bears the next number. A claim only saves work: what counts is the commit, and a run that was taken for
dead does no harm when it writes after all (LogitStore.write_unit).

Claims lie below the array of commits, where nothing that reads a Zarr group looks.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from logitstore.errors import StoreError
from logitstore.objects import Objects
from logitstore.spec import Unit
from logitstore.units import UnitStore

CLAIMS = "committed/claims/"
RUNS = "committed/runs/"
# A living run's object changes every HEARTBEAT seconds; one that has not for TIMEOUT seconds is a dead run's.
HEARTBEAT = 10.0
TIMEOUT = 60.0
SEAL = "seal"


class Claims:
    """The claims of one run on the units of a store, for as long as the context lasts; then all of them are void."""

    def __init__(self, store: UnitStore[Any], heartbeat: float = HEARTBEAT, timeout: float = TIMEOUT) -> None:
        self._store, self._heartbeat, self._timeout = store, heartbeat, timeout
        self._objects: Objects = store.objects
        self._run = f"{socket.gethostname()}-{secrets.token_hex(6)}"
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._live, name="claims", daemon=True)

    def __enter__(self) -> Claims:
        self._objects.put_new(RUNS + self._run, self._sign(0))
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        # A place that does not answer must not keep us: at worst the object stays, and no process for it.
        self._heart.join(timeout=5)
        self._objects.delete(RUNS + self._run)

    def free(self, units: Sequence[Unit]) -> Iterator[Unit]:
        """Those of these units that no living run has, each claimed when it is asked for.

        Every run begins elsewhere, so that they seldom want the same unit.
        """
        first = int(self._run[-6:], 16) % max(1, len(units))
        claimed = self._numbers()
        turned = [*units[first:], *units[:first]]
        for unit in sorted(turned, key=lambda unit: _name(unit) in claimed):
            if self._take(_name(unit)):
                # It may have been done between the caller's look and our claim.
                if self._store.committed(unit):
                    self.drop(unit)
                else:
                    yield unit

    def drop(self, unit: Unit) -> None:
        """Forget the claims of a unit that is committed."""
        self._forget(_name(unit))

    def acquire_seal(self) -> bool:
        """Claim the end: to verify the store and to seal it. False while a living run does so."""
        return self._take(SEAL)

    def drop_seal(self) -> None:
        """The store is sealed."""
        self._forget(SEAL)

    def sweep(self) -> int:
        """Remove what runs have left that were killed: their objects, and claims that none of the living has.

        Returns how many objects. By the place's own clock, which has stamped our object just now.
        """
        self._objects.put(RUNS + self._run, self._sign(0))
        # Claims first: a run that begins meanwhile is there before its claims are.
        claims = {key: (self._objects.get(key) or b"").decode() for key, _ in self._objects.sizes(CLAIMS)}
        runs = [key.removeprefix(RUNS) for key, _ in self._objects.sizes(RUNS)]
        living = {run for run in runs if run == self._run or (self._lives(run) and not self._silent(run))}
        left = [RUNS + run for run in runs if run not in living]
        left += [key for key, run in claims.items() if run not in living]
        for key in left:
            self._objects.delete(key)
        return len(left)

    def _silent(self, run: str) -> bool:
        stamp, now = self._objects.stamps([RUNS + run, RUNS + self._run])
        return stamp is None or now is None or now[1] - stamp[1] > self._timeout * 1e9

    def _take(self, name: str) -> bool:
        number = self._numbers().get(name, 0)
        if number:
            holder = (self._objects.get(_key(name, number)) or b"").decode()
            if holder == self._run or self._lives(holder):
                return holder == self._run
        return self._objects.put_new(_key(name, number + 1), self._run.encode())

    def _forget(self, name: str) -> None:
        for number in range(self._numbers().get(name, 0), 0, -1):
            self._objects.delete(_key(name, number))

    def _numbers(self) -> dict[str, int]:
        """The highest number of the claims of each name; there are few, as those of committed units are dropped."""
        highest: dict[str, int] = {}
        for key, _ in self._objects.sizes(CLAIMS):
            name, _, number = key.removeprefix(CLAIMS).rpartition(".")
            highest[name] = max(int(number), highest.get(name, 0))
        return highest

    def _lives(self, run: str) -> bool:
        beat = self._objects.get(RUNS + run) if run else None
        if beat is None:
            return False
        try:
            sign = json.loads(beat)
            if sign["machine"] == _machine() and not _runs(sign["pid"]):
                return False
        except (ValueError, KeyError, TypeError):
            return False
        before, since = self._seen.get(run, (None, 0.0))
        if beat != before:
            self._seen[run] = (beat, time.monotonic())
            return True
        return time.monotonic() - since < self._timeout

    def _live(self) -> None:
        beats = 0
        while not self._ended.wait(self._heartbeat):
            beats += 1
            try:
                self._objects.put(RUNS + self._run, self._sign(beats))
            except (OSError, StoreError):
                # At worst another run takes what we have. The next beat may get through.
                continue

    def _sign(self, beats: int) -> bytes:
        return json.dumps({"machine": _machine(), "pid": os.getpid(), "beats": beats}).encode()


def _machine() -> str:
    """Where process numbers mean the same: this boot of this machine, in this container."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        return socket.gethostname()
    return f"{boot.read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # It is another user's.
        pass
    return True


def _name(unit: Unit) -> str:
    return f"{unit.block}-{unit.shard}"


def _key(name: str, number: int) -> str:
    return f"{CLAIMS}{name}.{number}"
