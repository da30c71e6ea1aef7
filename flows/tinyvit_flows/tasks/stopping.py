"""How a task learns that it is to stop: by a signal to its process, or from the server about its flow run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from threading import Event, Lock, Thread

from prefect import get_client
from prefect.context import TaskRunContext

# Set when this process is told to stop: training then saves at its next step. One for the process, as its tasks are
# threads of it, to which Prefect passes parameters by copying them.
STOPPING = Event()
# A process has one teacher, and one state of the generators.
ONE_AT_A_TIME = Lock()
# How often a task asks whether its flow run goes on.
ASK_SECONDS = 3.0


@contextmanager
def stopping_with_the_flow() -> Iterator[Event]:
    """An event that is set when this process is told to stop, or when the server says that the flow run is to end.

    For tasks in other processes and on other machines, which no signal reaches.
    """
    context, stop, over = TaskRunContext.get(), Event(), Event()
    assert context is not None
    flow_run = context.task_run.flow_run_id

    def watch() -> None:
        # At once: tasks that waited for their turn may be shorter than the time between two questions.
        asked = -ASK_SECONDS
        with get_client(sync_client=True) as client:
            while not over.wait(0.2) and not stop.is_set():
                if STOPPING.is_set():
                    stop.set()
                elif flow_run and time.monotonic() - asked > ASK_SECONDS:
                    # A server that does not answer stops nothing.
                    with suppress(Exception):
                        state = client.read_flow_run(flow_run).state
                        if state and (state.is_cancelling() or state.is_final()):
                            stop.set()
                    asked = time.monotonic()

    # The thread asks the server that this task reports to.
    thread = Thread(target=copy_context().run, args=(watch,), daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        over.set()
