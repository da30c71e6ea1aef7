"""The neighbours of a student that keep within bounds: the shortest ways down that do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinyvit.config import Space
from tinyvit.contraction.point import Point, steps

# Points at one distance that are looked at; many steps away there are more than anyone could.
MOST = 1000


def neighbours(
    point: Point, space: Space, reach: int, wanted: int, keeps: Callable[[Point], bool], rng: np.random.Generator
) -> list[Point]:
    """At most so many points for which `keeps` holds, the nearest first; they are within `reach` steps down, if any is.

    A point that keeps within bounds is gone no further from: below it there are only students that give up more than
    they must. Of those that are equally far the generator draws, and `keeps`, which may be slow, is not asked again
    once there are enough.
    """
    found: list[Point] = []
    front, seen = [point], {point}
    level = 0
    while front and (level < reach or not found):
        level += 1
        nearby = [step for origin in front for step in steps(origin, space)]
        fresh = [step for step in dict.fromkeys(nearby) if step not in seen]
        seen.update(fresh)
        front = []
        for number in rng.permutation(len(fresh))[:MOST]:
            step = fresh[number]
            if any(step.within(better) for better in found):
                continue
            if not keeps(step):
                front.append(step)
                continue
            found.append(step)
            if len(found) == wanted:
                return found
    return found
