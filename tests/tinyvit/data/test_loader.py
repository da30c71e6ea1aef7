"""Data processes as parts of the process that reads from them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from threading import Event, Timer
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import command, left_running, marked_environment

from tinyvit.data import loader, processes
from tinyvit.data.fork_server import start_fork_server
from tinyvit.data.loader import pinned, run_jobs, run_stream
from tinyvit.data.processes import ending_with_this
from tinyvit.errors import ProcessLost, Stopped
from tinyvit.evaluation.views import EvaluationBatch


class Variable:
    """A stream of one item: what the environment variable TINYVIT_TEST says in the process that reads it."""

    def read(self, worker: int, workers: int) -> Iterator[str | None]:
        yield os.environ.get("TINYVIT_TEST")


def test_data_processes_have_the_environment_of_the_moment_they_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(run_stream(Variable(), 1)) == [None]  # the fork server runs from here on, if not before
    monkeypatch.setenv("TINYVIT_TEST", "young credentials")
    assert list(run_stream(Variable(), 1)) == ["young credentials"]


def test_a_reader_stopped_while_it_takes_a_tensor_leaves_no_traceback() -> None:
    script = Path(__file__).with_name("leaving_reader.py")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "stopped\n", "")


def test_signals_to_the_whole_group_are_for_the_reader_alone_also_while_data_processes_begin() -> None:
    """torchrun ends the group of a rank with SIGTERM; the rank then wants another batch, to save at a step's end."""
    script = Path(__file__).with_name("signalled_reader.py")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, start_new_session=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "4950 2\n", "")


class Items:
    """A stream of `count` items of each worker, at one of which it does something else first."""

    def __init__(self, count: int, do: Callable[[], object] | None = None, at: int = 0) -> None:
        self.count, self.do, self.at = count, do, at

    def read(self, worker: int, workers: int) -> Iterator[tuple[int, torch.Tensor, np.ndarray]]:
        for number in range(worker, self.count, workers):
            if self.do and number == self.at:
                self.do()
            yield number, torch.full((300, 100), number), np.arange(number)


def kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(7)


def fail() -> None:
    raise ZeroDivisionError("nothing to divide by")


@pytest.mark.parametrize("count", [0, 1, 5, 6])
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_items_come_in_order_whatever_the_number_of_processes(count: int, workers: int) -> None:
    items = list(run_stream(Items(count), workers))
    assert [number for number, _, _ in items] == list(range(count))
    for number, tensor, array in items:
        assert torch.equal(tensor, torch.full((300, 100), number))
        assert array.tolist() == list(range(number))
        tensor += 1


def test_jobs_are_done_in_order_and_asked_for_a_few_ahead() -> None:
    asked: list[int] = []
    jobs = (asked.append(number) or number for number in range(-20, 0))  # type: ignore[func-returns-value]
    done = run_jobs(abs, jobs, 2)
    assert next(done) == 20
    assert asked == [-20, -19, -18, -17]
    assert list(done) == list(range(19, 0, -1))


def test_large_items_take_none_of_the_shared_memory_that_containers_keep_small() -> None:
    held = [tensor for _, tensor, _ in run_stream(Items(4), 2)]
    maps = Path("/proc/self/maps").read_text()
    assert maps.count("/memfd:item") == len(held)
    assert "/dev/shm/torch" not in maps


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system can be mounted by root alone")
def test_a_full_dev_shm_stops_nothing() -> None:
    mounted = "mount -t tmpfs -o size=64k tmpfs /dev/shm && head -c 64k /dev/zero > /dev/shm/full && exec "
    script = Path(__file__).with_name("signalled_reader.py")
    shell = ["unshare", "-m", "sh", "-c", f"{mounted} {sys.executable} {script}"]
    run = subprocess.run(shell, capture_output=True, text=True, timeout=60, start_new_session=True)
    if "unshare" in run.stderr or "mount" in run.stderr:
        pytest.skip("not allowed here")
    assert (run.returncode, run.stdout) == (0, "4950 2\n"), run.stderr


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("do", "line"),
    [
        (kill_oneself, r"data process \d+ was killed by SIGKILL \(out of memory\?\); what was committed"),
        (leave, r"data process \d+ ended with exit code 7"),
    ],
)
def test_a_data_process_that_is_gone_is_one_line(do: Callable[[], None], line: str, workers: int) -> None:
    items = run_stream(Items(9, do, at=5), workers)
    # What it had handed over before is not lost.
    assert [next(items)[0] for _ in range(5)] == list(range(5))
    with pytest.raises(ProcessLost, match=line) as caught:
        next(items)
    assert "\n" not in str(caught.value)


def test_a_job_for_a_process_that_is_gone_is_one_line() -> None:
    with pytest.raises(ProcessLost, match="ended with exit code 3"):
        list(run_jobs(os._exit, iter([3] * 9), 1))


def test_what_fails_in_a_data_process_is_told_with_its_place() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)in a data process:.*in fail.*nothing to divide by"):
        list(run_stream(Items(3, fail, at=1), 2))


def test_a_reader_that_waits_says_so_and_ends_when_it_is_told_to(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(processes, "LOOK", 0.05)
    monkeypatch.setattr(processes, "WARN", 0.1)
    monkeypatch.setattr(processes, "PATIENCE", 0.2)
    stop = Event()
    waiting = run_jobs(time.sleep, [0, 60], 1, stop=stop)
    next(waiting)
    Timer(0.5, stop.set).start()
    with pytest.raises(Stopped, match="told to stop while it waited for data"):
        next(waiting)
    assert "data process" in caplog.text
    assert "is alive, so it is waited for" in caplog.text


def test_a_thread_takes_items_ahead_and_does_not_outlive_its_reader() -> None:
    assert list(loader._ahead(iter(range(5)))) == list(range(5))
    before = set(threading.enumerate())
    team = [processes.DataProcess(partial(loader._do, time.sleep), 0, 1)]
    items: Any = loader._ahead(loader._turns(team, iter([0, 60]), Event()))
    next(items)
    items.close()
    team[0].end(time.monotonic())
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
        assert not thread.is_alive()


def test_what_was_asked_for_is_not_made_when_no_more_is_wanted(tmp_path: Path) -> None:
    made: Any = run_jobs(partial(touch_slowly, tmp_path), range(9), 1)
    next(made)
    began = time.monotonic()
    made.close()
    assert time.monotonic() - began < processes.GRACE
    # The one that it was at, perhaps, but not the one after it.
    assert len(list(tmp_path.iterdir())) <= 2


def touch_slowly(folder: Path, number: int) -> None:
    (folder / str(number)).touch()
    time.sleep(0.5)


def test_processes_that_do_not_end_are_killed_soon() -> None:
    stuck: Any = run_jobs(stop_itself, range(9), 3)
    assert next(stuck) == 0
    began = time.monotonic()
    stuck.close()
    assert time.monotonic() - began < processes.GRACE + 2


def stop_itself(number: int) -> int:
    if number:
        os.kill(os.getpid(), signal.SIGSTOP)
    return number


@pytest.mark.parametrize("seconds", [[0, 60], [0, 0]], ids=["busy", "idle"])
def test_a_killed_reader_leaves_neither_processes_nor_folders(short_folder: Path, seconds: list[int]) -> None:
    begin = f"jobs = run_jobs(time.sleep, {seconds}, 1); next(jobs)"
    # Files, so that the folder takes a while to be cleared away: an idle process must not end meanwhile.
    fill = "[open(f'{get_temp_dir()}/{number}', 'w').close() for number in range(5000)]"
    code = "\n".join([
        "import time", "from multiprocessing.util import get_temp_dir", "from tinyvit.data.loader import run_jobs",
        begin, fill, "print(flush=True)", "time.sleep(60)",
    ])  # fmt: skip
    environment = marked_environment(str(short_folder)) | {"TMPDIR": str(short_folder)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as run:
        assert run.stdout
        run.stdout.readline()
        assert list(short_folder.glob("pymp-*"))
        run.kill()
    assert left_running(str(short_folder)) == []
    # Of torch's compiler, for all processes of the user.
    assert [path for path in short_folder.iterdir() if not path.name.startswith("torchinductor")] == []


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_whatever_comes_of_the_fork_server_ends_when_it_is_told_to(told: signal.Signals) -> None:
    # Such as a process that packs images: the fork server itself is deaf to both.
    start_fork_server()
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, context, ending_with_this()) as pool:
        process = pool.submit(os.getpid).result()
        sleeping = pool.submit(time.sleep, 60)
        time.sleep(0.2)
        os.kill(process, told)
        with pytest.raises((BrokenProcessPool, KeyboardInterrupt)):
            sleeping.result(timeout=20)


@pytest.mark.parametrize(
    "arguments", [("data", "check", "{data}", "--workers", "1"), ("data", "make", "{photos}", "{out}")]
)
def test_a_temporary_folder_that_has_no_room_for_a_socket_is_named(
    arguments: tuple[str, ...], small_data: Path, tmp_path: Path
) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    for number, name in enumerate(("a", "b", "c")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "photos" / name / "p.png")
    places = {"data": small_data / "train", "photos": tmp_path / "photos", "out": tmp_path / "out"}
    more = ("--workers", "2", "--per-shard", "1") if arguments[1] == "make" else ()
    done = subprocess.run(
        command(*(part.format(**places) for part in arguments), *more),
        env=os.environ | {"TMPDIR": str(deep)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    said = done.stderr.replace("\n", "")
    assert f"tinyvit: the temporary folder {deep} has too long a path for a socket in it" in said
    assert "Traceback" not in said


class Pinnable:
    """Stands in for a tensor: pinning one needs a GPU."""

    def __init__(self, pinned: bool = False) -> None:
        self.pinned = pinned

    def pin_memory(self) -> Pinnable:
        return Pinnable(True)


def test_items_of_every_form_are_pinned() -> None:
    batch: Any = pinned(EvaluationBatch(Pinnable(), Pinnable(), 2, 3))  # type: ignore[arg-type]
    kind = type(batch)
    assert kind is EvaluationBatch
    assert (batch.views.pinned, batch.labels.pinned, batch.unlabelled, batch.broken) == (True, True, 2, 3)
    assert [one.pinned for one in pinned([Pinnable(), Pinnable()])] == [True, True]
    assert pinned((Pinnable(), "key"))[1] == "key"
