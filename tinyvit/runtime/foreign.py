"""What foreign code raises, told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tinyvit.errors import UserError


@contextmanager
def foreign(fails: str, remedy: str) -> Iterator[None]:
    """UserError, `fails (reason); remedy`, for whatever is raised within, but for memory that there is not."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as fault:
        kind, line = type(fault).__name__, first_line(fault)
        raise UserError(f"{fails} ({kind}{'' if line == kind else f': {line}'}); {remedy}") from fault


def first_line(fault: BaseException) -> str:
    """The first line that a fault says, or its kind."""
    lines = str(fault).strip().splitlines()
    return lines[0].rstrip(":. ") if lines else type(fault).__name__
