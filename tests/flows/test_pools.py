"""The examples of Docker and Kubernetes pools: Prefect takes them, and they ask for what they say."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from client import ask, prefect
from docker.models.containers import _create_container_args
from kubernetes_asyncio import client as kubernetes
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect_docker.worker import DockerWorkerJobConfiguration
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration
from support import ROOT

POOLS = ROOT / "examples" / "pools"


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_the_commands_in_the_examples_heads(kind: str, server: dict[str, str]) -> None:
    """As they stand there, against a real server; then the deployments have their pool and its variables."""
    head = (POOLS / f"{kind}.yaml").read_text().partition("name:")[0]
    commands = re.findall(r"#   prefect (.*)", head)
    assert len(commands) == 2
    for command in commands:
        done = prefect(server, *command.split())
        assert done.returncode == 0, done.stdout + done.stderr
    deployed = yaml.safe_load((POOLS / f"{kind}.yaml").read_text())["deployments"]
    for deployment in deployed:
        flow = deployment["name"].removesuffix(f"-{kind}")
        found = ask(server, f"deployments/name/{flow}/{deployment['name']}")
        assert found["work_pool_name"] == f"{kind}-gpus"
        assert found["job_variables"] == deployment["work_pool"]["job_variables"]


def configured(kind: str, configuration: Any) -> Any:
    """What a worker of this kind makes of the pool's template and the first deployment's variables."""
    template = json.loads((POOLS / f"{kind}-pool.json").read_text())
    first = yaml.safe_load((POOLS / f"{kind}.yaml").read_text())["deployments"][0]
    made = configuration.from_template_and_values(
        base_job_template=template, values={"name": "run", "command": "true", **first["work_pool"]["job_variables"]}
    )
    return run_coro_as_sync(made) if hasattr(made, "__await__") else made


def test_a_container_has_the_gpus_and_shared_memory() -> None:
    made = configured("docker", DockerWorkerJobConfiguration)
    # docker-py builds from these what it sends to the daemon, and refuses what it does not know.
    sent = _create_container_args(
        {"image": made.image, "command": "true", "volumes": made.volumes, "version": "1.44"}
        | made.container_create_kwargs
    )["host_config"]
    assert [(r["Count"], r["Capabilities"]) for r in sent["DeviceRequests"]] == [(-1, [["gpu"]])]
    assert sent["ShmSize"] == 16 * 2**30


def test_a_kubernetes_job_has_the_gpu_the_volume_and_shared_memory() -> None:
    manifest = configured("kubernetes", KubernetesWorkerJobConfiguration).job_manifest
    (described,) = manifest["spec"]["template"]["spec"]["containers"]
    # As the worker and the API do.
    described["args"] = [described["args"]]
    described["resources"]["limits"]["nvidia.com/gpu"] = str(described["resources"]["limits"]["nvidia.com/gpu"])
    # By the client's own model of a job: a field in the wrong place is not in it.
    api = kubernetes.ApiClient.__new__(kubernetes.ApiClient)
    api.configuration = kubernetes.Configuration()
    job = api._ApiClient__deserialize(manifest, "V1Job")  # type: ignore[attr-defined]
    assert api.sanitize_for_serialization(job) == manifest
    pod = job.spec.template.spec
    (container,) = pod.containers
    assert container.image == "registry.example.com/tinyvit-distill:latest"
    assert container.resources.limits == {"nvidia.com/gpu": "1", "memory": "64Gi"}
    assert container.resources.requests["cpu"] == "16"
    mounted = {mount.name: mount.mount_path for mount in container.volume_mounts}
    assert mounted == {"data": "/data", "shared-memory": "/dev/shm"}
    assert pod.volumes[0].persistent_volume_claim.claim_name == "tinyvit-data"
    assert pod.volumes[1].empty_dir.medium == "Memory"


def test_the_image_has_all_that_the_flows_need() -> None:
    lines = (POOLS / "Dockerfile").read_text().splitlines()
    copied = [part for line in lines if line.startswith("COPY ") for part in line.split()[1:-1]]
    assert {"storage", "tinyvit", "flows", "pyproject.toml", "constraints.txt", "prefect.toml"} <= set(copied)
    assert all((ROOT / part).exists() for part in copied)
    (install,) = (line for line in lines if line.startswith("RUN pip install"))
    extras = set(re.search(r"'\.\[(.*)\]'", install)[1].split(","))  # type: ignore[index]
    assert {"flows", "remote"} <= extras
    assert yaml.safe_load((POOLS / "docker.yaml").read_text())["pull"][0][
        "prefect.deployments.steps.set_working_directory"
    ]["directory"] in {line.split()[1] for line in lines if line.startswith("WORKDIR")}
