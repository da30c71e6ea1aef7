"""Weights & Biases, for the commands: only where it is asked for.

timm imports it wherever it is installed, and it makes folders in the temporary folder as it is imported, which stay
when the process is killed.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import cast

from tinyvit.errors import UserError

NAME = "wandb"


def hide_wandb() -> None:
    """From now on this process finds no Weights & Biases, except by `import_wandb`."""
    sys.modules.setdefault(NAME, cast(ModuleType, None))


def import_wandb() -> ModuleType:
    """UserError where it is not installed."""
    if NAME in sys.modules and cast(ModuleType | None, sys.modules[NAME]) is None:
        del sys.modules[NAME]
    try:
        import wandb
    except ImportError as fault:
        raise UserError("Weights & Biases is not installed: pip install wandb, or leave --wandb out") from fault
    return wandb
