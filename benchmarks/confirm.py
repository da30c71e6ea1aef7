"""What must hold for a figure to mean anything."""

from __future__ import annotations


def confirm(holds: object, what: str) -> None:
    """RuntimeError where it does not hold; unlike an assertion under python -O too."""
    if not holds:
        raise RuntimeError(f"the benchmark is not worth its figures: {what}")
