"""What can be wrong with a store. Every message is one line, with the remedy."""

from __future__ import annotations


class StoreError(ValueError):
    """A store cannot be made, read or written as was asked."""


class StoreNotFound(StoreError):
    """There is no store."""


class StoreFormatError(StoreError):
    """What is there is no store of this kind, or one of another format version."""


class StoreMismatch(StoreError):
    """Two stores are not of the same data, or not made alike."""


class UnitMissing(StoreError):
    """A unit is not committed yet."""


class StoreDamaged(StoreError):
    """What is there is not what was written."""


def first_line(fault: Exception) -> str:
    """An error of a library in one line; its type where it says nothing."""
    return str(fault).strip().splitlines()[0] if str(fault).strip() else type(fault).__name__
