"""What made a result: library versions and the time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version

# The libraries whose code decides the pixels of a view or the numbers of its logits.
LIBRARIES = ("torch", "torchvision", "timm", "pillow", "numpy")


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that decide pixels and numbers."""
    return {name: version(name) for name in LIBRARIES}


def version_changes(then: Mapping[str, str]) -> list[str]:
    """What of these versions is not installed any more, a few words each."""
    here = library_versions()
    return [f"{name} was {old}, is {here.get(name, 'absent')}" for name, old in then.items() if here.get(name) != old]


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
