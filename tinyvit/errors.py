"""What a user can cause and mend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class UserError(ValueError):
    """Bad input: one line that says what is wrong and what to do."""


class ProcessLost(RuntimeError):
    """A process that worked for this one is gone, killed or crashed: one line. A second try may do."""


class Stopped(Exception):
    """The process was asked to end (SIGTERM) and has saved what it did: one line that says how to go on."""


def refuse_mismatch(store: str | Path, differences: Sequence[str], remedy: str) -> None:
    """Raise UserError when a store and a run differ: the first three differences and what to do."""
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        named = "; ".join(differences[:3])
        raise UserError(f"the store {store} does not match this run: {named}{more}; {remedy}")
