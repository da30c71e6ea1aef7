"""What a user can cause and mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
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


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """What to do about a name that is not among those known: take one that looks like it, or else something else."""
    close = difflib.get_close_matches(name, list(known), 3)
    return f"did you mean {' or '.join(close)}?" if close else otherwise
