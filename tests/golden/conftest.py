"""Records, and how what is found is held against them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def recorded(request: pytest.FixtureRequest) -> Callable[[str, str], str]:
    """The text recorded under a name; with --record, what was found is written there first."""

    def read(name: str, found: str) -> str:
        if request.config.getoption("--record"):
            (HERE / name).write_text(found)
        return (HERE / name).read_text()

    return read
