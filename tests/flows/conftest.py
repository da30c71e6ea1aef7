"""A real server, pool and worker on a free port."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from client import free_port, prefect
from support import ROOT

from tinyvit_flows.server import local_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server with the deployments; gives the environment in which `prefect` talks to it."""
    port, home = free_port(), tmp_path_factory.mktemp("prefect")
    # prefect.yaml names the project's folder by PWD, which keeps pointing at where pytest was started.
    changes = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_HOME": str(home), "PWD": str(ROOT)}
    environment = os.environ | changes
    with local_server(port, home):
        deployed = prefect(environment, "--no-prompt", "deploy", "--all")
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        yield environment
