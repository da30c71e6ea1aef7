"""Whether this machine has what the work takes: disk, GPU, and for flows a Prefect server with a worker."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.filesize import decimal

from tinyvit.doctor.finding import Finding, State

DEPLOYMENTS = ("teacher-logits", "distill-student", "contract-student", "evaluate-student")
SECONDS = 5
SHARED = Path("/dev/shm")  # noqa: S108, looked at only
# What NVIDIA's guide to NCCL gives a container ("Troubleshooting", shared memory).
SHARED_BYTES = 10**9


def check_disk(store: str, needed: int | None) -> Finding:
    """Room at the place of a store for so many bytes more, None where that is not known."""
    if "://" in store:
        return Finding("disk", "skipped", f"{store} is no folder of this machine")
    place = Path(store).resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    told = f"{decimal(free)} free at {place}"
    if needed is None:
        return Finding("disk", "ok", f"{told}; `tinyvit plan` says what a store will take")
    told += f", about {decimal(needed)} are to be written"
    if needed > free:
        return Finding(
            "disk", "failed", told, "free some space, choose another place, or keep fewer classes (label.top_k)"
        )
    return Finding("disk", "ok", told)


def check_gpu() -> Finding:
    """A GPU that torch can use."""
    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        told = ", ".join(f"{gpu.name} with {decimal(gpu.total_memory)}" for gpu in found)
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            return Finding("GPU", "hint", f"{told}, without bfloat16", "set engine.precision=float16 for training")
        return Finding("GPU", "ok", told)
    if shutil.which("nvidia-smi"):
        told = f"there is an NVIDIA driver, but torch {torch.__version__} cannot use it"
        return Finding("GPU", "failed", told, "install a torch that is built for this CUDA; look at nvidia-smi")
    return Finding(
        "GPU", "hint", "none: the CPU labels and trains", "enough for small data; `tinyvit plan --measure` says"
    )


def check_shared_memory(gpus: int, place: Path = SHARED) -> Finding:
    """What NCCL passes gradients through between the `gpus` of a machine, which containers keep small. Data processes
    do without (tinyvit/data/handover.py).
    """
    check = "shared memory"
    if not place.is_dir():
        return Finding(check, "skipped", f"there is no {place}")
    free = shutil.disk_usage(place).free
    told = f"{decimal(free)} free at {place}; data processes need none"
    if gpus > 1 and free < SHARED_BYTES:
        told += f", NCCL between {gpus} GPUs needs up to {decimal(SHARED_BYTES)}"
        return Finding(check, "hint", told, "start the container with --shm-size=1g, or mount a larger /dev/shm")
    return Finding(check, "ok", told)


def check_prefect(folder: Path) -> Finding:
    """A server that answers, of the client's version, with both deployments and a worker; needed by flows only."""
    check = "Prefect"
    try:
        client = version("prefect")
    except PackageNotFoundError:
        return Finding(check, "skipped", "not installed; only the flows need it", "pip install tinyvit-distill[flows]")
    api = _configured(folder)
    if api is None:
        told = "no server is configured"
        return Finding(check, "skipped", told, "for the flows set PREFECT_API_URL, or start one with make server")
    try:
        _ask(f"{api}/health")
        server = _ask(f"{api}/admin/version")
        deployed = {entry["name"]: entry for entry in _ask(f"{api}/deployments/filter", {})}
        pools = sorted({str(deployed[name]["work_pool_name"]) for name in DEPLOYMENTS if name in deployed})
        working = [pool for pool in pools if _works(api, pool)]
    except urllib.error.HTTPError as fault:
        told = f"the server at {api} refuses ({fault.code} {fault.reason})"
        return Finding(check, "failed", told, "mend PREFECT_API_URL, or PREFECT_API_KEY or PREFECT_API_AUTH_STRING")
    except (OSError, ValueError) as fault:
        told = f"no server answers at {api} ({getattr(fault, 'reason', fault)})"
        # One that was asked for must be there; the one of prefect.toml is started when it is needed.
        state: State = "failed" if "PREFECT_API_URL" in os.environ else "hint"
        return Finding(
            check, state, told, "start it with make server, or mend PREFECT_API_URL; tinyvit label needs none"
        )
    told = f"server {server} at {api}, client {client}"
    if server.split(".")[:2] != client.split(".")[:2]:
        return Finding(check, "hint", f"{told}: not the same version", "install the same version on both")
    if absent := [name for name in DEPLOYMENTS if name not in deployed]:
        return Finding(check, "hint", f"{told}; not deployed: {', '.join(absent)}", "make deploy")
    if idle := [pool for pool in pools if pool not in working]:
        told += f"; no worker is online in the work pool {', '.join(idle)}"
        return Finding(check, "hint", told, f"prefect worker start --pool {idle[0]}")
    return Finding(check, "ok", f"{told}; every flow deployed, a worker online in {', '.join(pools)}")


def _configured(folder: Path) -> str | None:
    """The address of the API, as Prefect finds it: the environment first, then prefect.toml."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url.rstrip("/")
    try:
        return str(tomllib.loads((folder / "prefect.toml").read_text())["api"]["url"]).rstrip("/")
    except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError):
        return None


def _works(api: str, pool: str) -> bool:
    return any(worker["status"] == "ONLINE" for worker in _ask(f"{api}/work_pools/{pool}/workers/filter", {}))


def _ask(url: str, body: dict[str, Any] | None = None) -> Any:
    if not url.startswith(("http://", "https://")):
        raise ValueError("not an http address")
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("PREFECT_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers)  # noqa: S310 (http or https, see above)
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
        return json.load(answer)
