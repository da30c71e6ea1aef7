"""How the ids of a row's classes become small numbers and come back.

A row is a walk around the circle of class ids: it begins at the best class and meets the other kept classes in
ascending order. Stored are the steps of the walk, so `class_id = cumsum(class_step) % num_classes`. Steps of a set
cost about half the bits of ids in the order of their probability, for they do not say that order, which the values
say already; and as similar classes have near ids, small steps are common.
"""

from __future__ import annotations

from math import isqrt

import numpy as np
from numpy.typing import NDArray

# A column of a row in the low bits of a number whose high bits it is sorted by.
COLUMN_BITS = 24

Unsigned = NDArray[np.unsignedinteger]


def step_dtype(num_classes: int) -> str:
    """The smallest unsigned type in which a walk of nearly two rounds does not overflow."""
    return "uint16" if 2 * num_classes <= np.iinfo(np.uint16).max + 1 else "uint32"


def delta_encode(
    class_id: NDArray[np.integer], present: NDArray[np.bool_], num_classes: int
) -> tuple[Unsigned, NDArray[np.integer]]:
    """Steps [N, K] of the walk and the order of the entries in it [N, K].

    The first entry stays first; entries that are not `present` come last, with step 0.
    """
    # Distance and column in one number: sorting numbers is ten times as fast as sorting indices by them.
    distance = class_id.astype(np.int64)
    distance -= distance[:, :1].copy()
    distance %= num_classes
    distance[~present] = num_classes
    packed = distance << COLUMN_BITS
    packed |= np.arange(class_id.shape[1])
    packed.sort(axis=1)
    order = packed & ((1 << COLUMN_BITS) - 1)
    distance = packed >> COLUMN_BITS
    steps = np.diff(distance, axis=1, prepend=0)
    steps[distance == num_classes] = 0
    steps[:, 0] = class_id[:, 0]
    return steps.astype(step_dtype(num_classes)), order


def absent_entries(steps: Unsigned) -> NDArray[np.bool_] | None:
    """[S, K] what is no entry of a row that has fewer than K, from steps [K, S]: only the first step may be 0. None
    where every row has K.
    """
    absent = steps == 0
    absent[:1] = False
    return absent.T if absent.any() else None


def delta_decode(steps: Unsigned, num_classes: int) -> Unsigned:
    """Undo `delta_encode`: ids [K, S] from steps [K, S], an entry a row of memory so that the sums run along S."""
    ids = steps.copy()
    # Sums within blocks of entries, then of the blocks: an operation takes a microsecond to begin, so few on many.
    block = max(1, isqrt(len(steps)))
    for place in range(1, block):
        into = ids[place::block]
        into += ids[place - 1 :: block][: len(into)]
    for first in range(block, len(ids), block):
        ids[first : first + block] += ids[first - 1]
    # A walk is less than two rounds. Below num_classes the difference wraps to a large number, so the smaller one is
    # the remainder.
    np.minimum(ids, ids - steps.dtype.type(num_classes), out=ids)
    return ids
