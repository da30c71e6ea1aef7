"""The training engine on several ranks: real torchrun, real processes, gloo."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from support import ROOT, small_arguments, tinyvit, torchrun, wait_until

from logitstore import LogitStore
from tinyvit.config import Recipe
from tinyvit.errors import Stopped, UserError
from tinyvit.training.launch import Ranks, train_on_devices
from tinyvit.training.metric_logger import read_lines

# Batch norm sees what a rank has: with the statistics kept, ranks and parts differ by rounding only.
STILL = ("--set", "stages.distill.eval_batch_norm=true", "--set", "stages.finetune.eval_batch_norm=true")
EVERY_STEP = ("--set", "engine.log_steps=1")


def run(*arguments: str | Path, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        torchrun(*arguments, ranks=ranks), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture
def arguments(small_store: LogitStore, small_data: Path) -> list[str]:
    return ["example", "--store", small_store.location, "--workers", "1", *small_arguments(small_data), *STILL]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_lines(folder / "metrics.jsonl")]


def test_two_ranks_and_one_with_accumulation_learn_the_same(arguments: list[str], tmp_path: Path) -> None:
    two = run(*arguments, *EVERY_STEP, "--run-dir", tmp_path / "two", "--json")
    assert two.returncode == 0, two.stderr[-3000:]
    one = tinyvit(
        "train", *arguments, *EVERY_STEP, "--run-dir", tmp_path / "one", "--set", "engine.micro_batch=25", "--json"
    )
    assert one.returncode == 0, one.stderr
    # One document, though two processes ran.
    results = [json.loads(done.stdout) for done in (one, two)]
    for stage in ("distill", "finetune"):
        alone, together = (losses(tmp_path / name / stage) for name in ("one", "two"))
        assert len(alone) == 20
        assert together == pytest.approx(alone, rel=1e-3), stage
        assert [result[stage]["last"]["images"] for result in results] == [500, 500]
    assert results[1]["finetune"]["val"]["images"] == 250
    assert results[1]["finetune"]["val"]["loss"] == pytest.approx(results[0]["finetune"]["val"]["loss"], rel=1e-2)


def test_a_run_stopped_on_two_ranks_goes_on_with_one(arguments: list[str], tmp_path: Path) -> None:
    """SIGTERM, told once or twice, saves and ends every rank; what follows does not depend on how many go on."""
    arguments = [*arguments, *EVERY_STEP, "--stage", "distill"]
    whole = tinyvit("train", *arguments, "--run-dir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    folder = tmp_path / "run" / "distill"
    process = subprocess.Popen(
        torchrun(*arguments, "--run-dir", tmp_path / "run"), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: len(read_lines(folder / "metrics.jsonl")) > 2, process)
    # As Prefect does, which tells torchrun's group, and the flow, which tells torchrun.
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    _, stderr = process.communicate(timeout=60)
    assert "stopped and saved after epoch" in " ".join(stderr.split())
    saved = torch.load(folder / "state.pt", weights_only=True)
    assert 0 < 10 * saved["epoch"] + saved["step"] < 20, "the signal came too late to prove anything"
    resumed = tinyvit("train", *arguments, "--run-dir", tmp_path / "run")
    assert resumed.returncode == 0, resumed.stderr
    assert losses(folder) == pytest.approx(losses(tmp_path / "whole" / "distill"), rel=1e-3)


def test_a_rank_that_dies_is_started_again_from_the_last_state(arguments: list[str], tmp_path: Path) -> None:
    """Elastic: torchrun starts all ranks anew when one is killed, and they go on where the state is."""
    arguments = [*arguments, *EVERY_STEP, "--stage", "distill", "--set", "engine.save_minutes=0"]
    folder = tmp_path / "run" / "distill"
    line = torchrun(*arguments, "--run-dir", tmp_path / "run")
    line[line.index("--standalone") : line.index("--standalone") + 1] = ["--standalone", "--max-restarts", "1"]
    process = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (folder / "state.pt").exists(), process)
    os.kill(rank_of(process.pid, 1), signal.SIGKILL)
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr[-3000:]
    assert "resumed after epoch" in " ".join(stderr.split())
    whole = tinyvit("train", *arguments, "--run-dir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    assert losses(folder) == pytest.approx(losses(tmp_path / "whole" / "distill"), rel=1e-3)


def rank_of(agent: int, rank: int) -> int:
    """The process id of a rank of torchrun."""
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes().split(b"\0") if entry.name.isdigit() else []
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1] if environment else ""
        except OSError:
            continue
        if f"RANK={rank}".encode() in environment and parent == str(agent):
            return int(entry.name)
    raise AssertionError(f"torchrun {agent} has no rank {rank}")


def test_a_program_starts_ranks_as_a_shell_does(
    small_recipe: Recipe, small_store: LogitStore, arguments: list[str], tmp_path: Path
) -> None:
    """What the flow does with `processes`."""
    result = train_on_devices(small_recipe, tmp_path / "two", ["finetune"], small_store.location, Ranks(2), Event())
    assert result["val"]["images"] == 250
    assert json.loads((tmp_path / "two" / "finetune" / "record.json").read_text())["ranks"] == 2
    stage = small_recipe.stages["finetune"].model_copy(update={"batch_size": 501})
    wrong = small_recipe.model_copy(update={"stages": {"finetune": stage}})
    with pytest.raises(UserError, match="no whole batch of 501 in 500 images"):
        train_on_devices(wrong, tmp_path / "wrong", ["finetune"], None, Ranks(2), Event())


def test_two_machines_meet_and_train_together(small_recipe: Recipe, tmp_path: Path) -> None:
    """As two flow runs with the same parameters do, each with one process, on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        ranks = Ranks(1, nodes=2, rendezvous=f"127.0.0.1:{probe.getsockname()[1]}")

    def one_machine(_number: int) -> dict[str, Any]:
        return train_on_devices(small_recipe, tmp_path, ["finetune"], None, ranks, Event())

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(one_machine, range(2))
    assert one == two
    assert json.loads((tmp_path / "finetune" / "record.json").read_text())["ranks"] == 2


@pytest.mark.parametrize(("nodes", "rendezvous"), [(2, None), (1, "127.0.0.1:29400")])
def test_machines_need_a_place_to_meet(nodes: int, rendezvous: str | None) -> None:
    with pytest.raises(UserError, match="nodes and rendezvous go together"):
        Ranks(1, nodes, rendezvous)


def test_ranks_that_a_program_started_stop_with_it(small_recipe: Recipe, tmp_path: Path) -> None:
    stop = Event()

    class Seen(logging.Handler):
        """Wishes to stop as soon as the ranks have begun to train."""

        def emit(self, record: logging.LogRecord) -> None:
            if "parameters" in record.getMessage():
                stop.set()

    stage = small_recipe.stages["finetune"].model_copy(update={"epochs": 500})
    long = small_recipe.model_copy(update={"stages": {"finetune": stage}})
    handler, log = Seen(), logging.getLogger("tinyvit")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with pytest.raises(Stopped, match="saved"):
            train_on_devices(long, tmp_path, ["finetune"], None, Ranks(2), stop)
    finally:
        log.removeHandler(handler)
    assert torch.load(tmp_path / "finetune" / "state.pt", weights_only=True)["epoch"] < 500


def test_what_a_user_gets_wrong_is_one_line_also_from_ranks(arguments: list[str], tmp_path: Path) -> None:
    done = run(*arguments, "--run-dir", tmp_path, "--set", "stages.distill.batch_size=501")
    assert done.returncode != 0
    assert "no whole batch of 501 in 500 images" in " ".join(done.stderr.split())
