"""Disk and server, as they are and as they should not be."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tinyvit.doctor.machine import check_disk, check_gpu, check_prefect, check_shared_memory


def test_disk(tmp_path: Path) -> None:
    assert check_disk(str(tmp_path / "a" / "store"), 1000).state == "ok"
    full = check_disk(str(tmp_path / "a" / "store"), 10**18)
    assert full.state == "failed"
    assert "about 1.0 EB" in full.told
    assert check_disk("s3://bucket/store", 10**18).state == "skipped"


def test_shared_memory_is_looked_at_where_gpus_need_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_shared_memory(8, tmp_path / "none").state == "skipped"
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=64 * 10**6))
    assert check_shared_memory(1, tmp_path).state == "ok"
    small = check_shared_memory(8, tmp_path)
    assert small.state == "hint"
    assert "64.0 MB free" in small.told
    assert "--shm-size=1g" in small.remedy


def test_gpu_is_said_as_torch_sees_it() -> None:
    import torch

    assert (check_gpu().state == "ok") == torch.cuda.is_available()


def test_a_server_that_was_asked_for_and_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    found = check_prefect(tmp_path)
    assert found.state == "failed"
    assert "no server answers at http://127.0.0.1:9/api" in found.told


def test_a_server_that_is_only_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert check_prefect(tmp_path).state == "skipped"
    (tmp_path / "prefect.toml").write_text('[api]\nurl = "http://127.0.0.1:9/api"\n')
    assert check_prefect(tmp_path).state == "hint"
