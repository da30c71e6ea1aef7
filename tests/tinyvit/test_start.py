"""How a command begins: what takes seconds is begun at once, where it will be needed."""

from __future__ import annotations

from typing import Any

import pytest
from typer.core import TyperCommand

from tinyvit.cli import lazy


@pytest.mark.parametrize(
    ("command", "starts"),
    [
        ("train few-labels --run-dir r", True),
        ("train few-labels --run-dir r --workers 2", True),
        ("train few-labels --run-dir r --workers 0", False),
        ("train few-labels --run-dir r --workers=0", False),
        ("train --help", False),
        ("plan in22k-distill-5m", False),
    ],
)
def test_the_fork_server_is_started_before_a_command_that_wants_it_is_imported(
    command: str, starts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = list[str]()
    group = lazy.folder_of("tinyvit.cli.commands", "tinyvit")
    monkeypatch.setattr(lazy, "start_fork_server", lambda: began.append("fork server"))

    def load(_group: Any, name: str) -> TyperCommand:
        began.append(name)
        return TyperCommand(name)

    monkeypatch.setattr(lazy.CommandFolder, "load", load)
    words = command.split()
    assert group.resolve_command(group.make_context("tinyvit", list(words)), words)[0] == words[0]
    assert began == (["fork server"] if starts else []) + [words[0]]
