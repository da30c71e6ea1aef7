"""Fetching ahead of need, beside a process that reads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from logitstore import StoreError
from tinyvit.errors import UserError

log = logging.getLogger("tinyvit")

# Seconds between looks whether there is room by now.
LOOK = 0.05


class Wanted(Protocol):
    """Something that a cache is to have, called `key` there."""

    @property
    def key(self) -> str: ...

    def prepare(self, needed: frozenset[str]) -> bool:
        """Have it fetched, unless there is no room for it beside those that are needed before it; whether it need not
        be asked again.
        """
        ...


class Ahead:
    """Has things fetched in the order in which they will be needed, by a thread, as far as there is room.

    `stretches` are what is needed together, one after another; the one at `first` is read first.
    """

    def __init__(self, stretches: Sequence[Sequence[Wanted]], first: int = 0) -> None:
        self._stretches = stretches
        self._at, self._stopped, self._changed = first, False, threading.Condition()

    def __enter__(self) -> Self:
        if any(self._stretches):
            threading.Thread(target=self._run, name="ahead", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def reached(self, stretch: int) -> None:
        """What is read now needs this stretch; those before it are not needed any more."""
        if stretch != self._at:
            with self._changed:
                self._at = stretch
                self._changed.notify()

    def _run(self) -> None:
        stretch, place = self._at, 0
        while stretch < len(self._stretches):
            with self._changed:
                if self._stopped:
                    return
                at = self._at
            if stretch < at:
                stretch, place = at, 0
            elif place == len(self._stretches[stretch]):
                stretch, place = stretch + 1, 0
            else:
                needed = frozenset(one.key for together in self._stretches[at : stretch + 1] for one in together)
                if _prepared(self._stretches[stretch][place], needed):
                    place += 1
                else:
                    with self._changed:
                        self._changed.wait(LOOK)


def _prepared(one: Wanted, needed: frozenset[str]) -> bool:
    try:
        return one.prepare(needed)
    except (UserError, StoreError, OSError) as fault:
        # Whoever needs it will try again, and tell the fault where it is heard. What comes after it may be there.
        log.debug("%s is not fetched ahead: %s", one.key, fault)
        return True
