"""Fetching ahead: in order, as far as there is room, and not past the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tinyvit.cache import Ahead
from tinyvit.errors import UserError


@dataclass(frozen=True)
class Thing:
    """Something to fetch into a store of three places."""

    key: str
    there: list[str]

    def prepare(self, needed: frozenset[str]) -> bool:
        if self.key not in self.there:
            kept = [key for key in self.there if key in needed]
            if len(kept) >= 3:
                return False
            self.there[:] = [*kept, self.key]
        return True


def until(true: Callable[[], bool]) -> bool:
    """Wait for something that a thread does."""
    deadline = time.monotonic() + 10
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


def test_what_is_needed_first_is_there_first_and_stays_until_it_was_read() -> None:
    there = list[str]()
    stretches = [[Thing(name, there) for name in stretch] for stretch in ("ab", "cd", "e")]
    with Ahead(stretches) as ahead:
        assert until(lambda: there == ["a", "b", "c"])
        time.sleep(0.2)
        assert there == ["a", "b", "c"]
        ahead.reached(1)
        assert until(lambda: there == ["c", "d", "e"])
        ahead.reached(2)
        time.sleep(0.2)
        assert there == ["c", "d", "e"]


def test_what_was_passed_by_is_not_fetched_any_more() -> None:
    there = ["x", "y", "z"]
    things = [Thing(name, there) for name in "xyzab"]
    with Ahead([things[:4], [things[4]]]) as ahead:
        # There is no room for the fourth beside the first three.
        time.sleep(0.2)
        assert there == ["x", "y", "z"]
        ahead.reached(1)
        assert until(lambda: there == ["b"])


def test_what_cannot_be_had_is_left_to_whoever_reads_and_the_next_is_fetched() -> None:
    class Broken(Thing):
        def prepare(self, needed: frozenset[str]) -> bool:
            raise UserError("the shard was changed")

    there = list[str]()
    with Ahead([[Broken("a", there), Thing("b", there)]]):
        assert until(lambda: there == ["b"])


def test_reading_that_begins_late_fetches_nothing_of_before() -> None:
    there, asked = list[str](), list[str]()

    class Told(Thing):
        def prepare(self, needed: frozenset[str]) -> bool:
            asked.append(self.key)
            return super().prepare(needed)

    with Ahead([[Told(name, there)] for name in "abcd"], first=2):
        assert until(lambda: there == ["c", "d"])
    assert asked[0] == "c"
    assert "a" not in asked
