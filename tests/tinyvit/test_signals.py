"""A wish to stop, told by signals."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tinyvit.cli.output import ONE_WISH, Interrupted, stopping_by_signal


def test_the_same_wish_told_twice_is_one_and_a_later_one_ends_now(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with stopping_by_signal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set()
        now += ONE_WISH + 1
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
