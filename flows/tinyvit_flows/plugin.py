"""A Prefect plugin: a deployment can be named without its flow where both have the same name.

Prefect wants FLOW/DEPLOYMENT and splits the name before it asks the server (client/orchestration/_deployments,
Prefect 3.8), so that `prefect deployment run teacher-logits` cannot work without reaching into the client. That
is all that happens here: a name without a slash becomes NAME/NAME. `[plugins] enabled` in prefect.toml turns it
on. Nothing of the project is imported: this runs whenever Prefect is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from prefect.plugins import register_hook


def full_name(name: str) -> str:
    """`x` -> `x/x`; a name with a slash stays."""
    return name if "/" in name else f"{name}/{name}"


def _resolving(read: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(read)
    def read_deployment_by_name(self: Any, name: str) -> Any:
        return read(self, full_name(name))

    return read_deployment_by_name


@register_hook
def setup_environment(*, ctx: Any) -> None:
    """Teach both clients the short names; another Prefect, where they are made differently, stays as it is."""
    import prefect.client.orchestration as clients

    for name in ("PrefectClient", "SyncPrefectClient"):
        client = getattr(clients, name, None)
        read = getattr(client, "read_deployment_by_name", None)
        if client is None or read is None:
            log = logging.getLogger(__name__)
            log.warning("short deployment names do not work with this Prefect; write NAME/NAME")
        elif not hasattr(read, "__wrapped__"):
            client.read_deployment_by_name = _resolving(read)
