"""How a fault of the user's ends a flow or task: a Failed state with one line, and no second try."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from prefect.exceptions import FailedRun
from prefect.states import Failed

from logitstore import StoreError
from tinyvit.errors import Stopped, UserError

P = ParamSpec("P")
R = TypeVar("R")

# The name of the state in which a run ends that the user has to mend something for.
BAD_INPUT = "Bad input"
# That of a task which was told to stop and has saved how far it was.
SAVED = "Stopped and saved"


def plain_fault(function: Callable[P, R]) -> Callable[P, R]:
    """End in a Failed state with one line, without traceback and retries, where the input is at fault.

    A submitted task's `result()` then raises FailedRun with that line; a task that is called returns the state.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        # Prefect passes on what the package logs (prefect.toml, extra_loggers), but leaves its level at WARNING.
        logging.getLogger("tinyvit").setLevel(logging.INFO)
        try:
            return function(*args, **kwargs)
        except (UserError, StoreError, FailedRun) as fault:
            return cast(R, Failed(name=BAD_INPUT, message=str(fault)))
        except Stopped as stop:
            return cast(R, Failed(name=SAVED, message=str(stop)))

    # With the types themselves: Prefect would look their names up in this module.
    run.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    return run
