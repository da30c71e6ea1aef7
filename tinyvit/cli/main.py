"""Entry point."""

from __future__ import annotations

from tinyvit.cli.lazy import folder_of
from tinyvit.cli.output import log_to_stderr, one_line_faults
from tinyvit.runtime.wandb import hide_wandb

app = folder_of("tinyvit.cli.commands", "tinyvit")


def main() -> None:
    """The `tinyvit` command."""
    log_to_stderr()
    hide_wandb()
    with one_line_faults():
        app()
