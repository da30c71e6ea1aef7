"""Runs that share nothing but a store divide its units among themselves: none is lost, and none done twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
from buckets import Bucket
from toy import assert_equal_stores

from logitstore import Claims, LogitStore, Unit, open_objects
from logitstore.claims import RUNS
from logitstore.testing import SPEC, TABLE, made_store, random_rows

MANY = replace(SPEC, epochs=32, epochs_per_unit=1)
SPAWN = multiprocessing.get_context("spawn")


def work(location: str, done: Queue[tuple[int, Unit]], number: int) -> None:
    """A run: label what is missing and free, until nothing is missing."""
    store = LogitStore.open(location)
    with Claims(store) as claims:
        while missing := store.missing():
            for unit in claims.free(missing):
                time.sleep(0.002)
                store.write_unit(unit, random_rows(unit, store.spec))
                claims.drop(unit)
                done.put((number, unit))


def hold(location: str, unit: Unit) -> None:
    """A run that claims a unit and never does it."""
    with Claims(LogitStore.open(location)) as claims:
        assert list(claims.free([unit])) == [unit]
        time.sleep(1000)


def rest(location: str) -> None:
    """A run that has nothing."""
    with Claims(LogitStore.open(location)):
        time.sleep(1000)


def run_side_by_side(location: str, runs: int) -> list[tuple[int, Unit]]:
    done: Queue[tuple[int, Unit]] = SPAWN.Queue()
    processes = [SPAWN.Process(target=work, args=(location, done, number)) for number in range(runs)]
    for process in processes:
        process.start()
    found = [done.get(timeout=120) for _ in LogitStore.open(location).missing()]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert done.empty()
    return found


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_runs_side_by_side_do_each_unit_once(tmp_path: Path, place: str, request: pytest.FixtureRequest) -> None:
    location = str(tmp_path / "s")
    if place == "bucket":
        bucket: Bucket = request.getfixturevalue("bucket")
        location = bucket.s3("s")
    whole = made_store(tmp_path / "whole", MANY)
    store = LogitStore.create(location, MANY, TABLE, whole.class_names)
    done = run_side_by_side(location, 3)
    assert sorted(unit for _, unit in done) == store.units()
    assert len({number for number, _ in done}) > 1, "one run did everything"
    store.seal()
    if place == "folder":
        assert_equal_stores(store, whole)
    left = {key for key, _ in store.objects.sizes("committed/") if not key.startswith("committed/c/")}
    assert left == {"committed/zarr.json"}, "claims or runs are left"


def test_what_a_living_run_has_is_left_to_it_and_what_a_killed_one_had_is_taken(tmp_path: Path) -> None:
    store = LogitStore.create(tmp_path / "s", MANY, TABLE)
    unit = Unit(3, 1)
    holder = SPAWN.Process(target=hold, args=(store.location, unit))
    holder.start()
    while not any(store.objects.sizes("committed/claims/")):
        assert holder.is_alive()
        time.sleep(0.05)
    with Claims(store) as claims:
        assert sorted(claims.free([Unit(0, 0), unit, Unit(2, 0)])) == [Unit(0, 0), Unit(2, 0)]
        holder.kill()
        holder.join()
        assert list(claims.free([unit])) == [unit]
    # Ours ended in order: what it had is free.
    with Claims(store) as claims:
        assert list(claims.free([unit])) == [unit]


def test_a_run_elsewhere_lives_as_long_as_it_shows(tmp_path: Path) -> None:
    """Of another machine nothing is known but whether its object changes."""
    store = LogitStore.create(tmp_path / "s", MANY, TABLE)
    unit = Unit(0, 0)
    sign = {"machine": "elsewhere", "pid": 1}
    store.objects.put(f"{RUNS}far", json.dumps({**sign, "beats": 0}).encode())
    store.objects.put_new("committed/claims/0-0.1", b"far")
    with Claims(store, timeout=0.5) as claims:
        for beats in range(1, 4):
            assert list(claims.free([unit])) == []
            time.sleep(0.3)
            store.objects.put(f"{RUNS}far", json.dumps({**sign, "beats": beats}).encode())
        assert list(claims.free([unit])) == []
        time.sleep(0.6)
        assert list(claims.free([unit])) == [unit]


def test_a_unit_that_was_done_meanwhile_is_not_done_again(tmp_path: Path) -> None:
    store = LogitStore.create(tmp_path / "s", MANY, TABLE)
    seen = store.missing()
    store.write_unit(seen[0], random_rows(seen[0], MANY))
    with Claims(store) as claims:
        assert seen[0] not in list(claims.free(seen))


def test_one_run_seals(tmp_path: Path) -> None:
    store = made_store(tmp_path / "s", MANY)
    with Claims(store) as one, Claims(store) as two:
        assert one.acquire_seal()
        assert one.acquire_seal()
        assert not two.acquire_seal()
        one.drop_seal()
        assert two.acquire_seal()


def test_what_killed_runs_left_is_swept_away_and_what_living_ones_have_stays(tmp_path: Path) -> None:
    store = made_store(tmp_path / "s", MANY)
    objects = store.objects
    holder = SPAWN.Process(target=rest, args=(store.location,))
    holder.start()
    while not (living := [key for key, _ in objects.sizes(RUNS)]):
        assert holder.is_alive()
        time.sleep(0.05)
    elsewhere = json.dumps({"machine": "elsewhere", "pid": 1, "beats": 3}).encode()
    gone = {**json.loads(objects.get(living[0]) or b""), "pid": 2**22 + 1}
    objects.put(f"{RUNS}gone", json.dumps(gone).encode())
    objects.put(f"{RUNS}far-dead", elsewhere)
    objects.put(f"{RUNS}far", elsewhere)
    os.utime(tmp_path / "s" / RUNS / "far-dead", (time.time() - 61, time.time() - 61))
    for number, run in enumerate(("gone", "far-dead", "far", living[0].removeprefix(RUNS), "never-seen")):
        objects.put_new(f"committed/claims/0-{number}.1", run.encode())
    with Claims(store) as claims:
        assert claims.sweep() == 5
        assert claims.sweep() == 0
    assert {key for key, _ in objects.sizes(RUNS)} == {f"{RUNS}far", *living}
    assert {key for key, _ in objects.sizes("committed/claims/")} == {
        "committed/claims/0-2.1",
        "committed/claims/0-3.1",
    }
    holder.kill()
    holder.join()
    with Claims(store) as claims:
        assert claims.sweep() == 2


def test_of_many_that_write_a_new_object_one_succeeds(tmp_path: Path, bucket: Bucket) -> None:
    for location in (str(tmp_path / "s"), bucket.s3("s")):
        objects = LogitStore.create(location, MANY, TABLE).objects
        assert objects.put_new("committed/claims/x.1", b"first")
        assert not objects.put_new("committed/claims/x.1", b"second")
        assert objects.get("committed/claims/x.1") == b"first"


def test_a_server_that_cannot_refuse_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older S3-compatible servers answer 501 to a conditional write."""
    kept: dict[str, bytes] = {}

    class Old(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if "If-None-Match" in self.headers:
                self._answer(501, b"<Error><Code>NotImplemented</Code></Error>")
            else:
                kept[self.path] = body
                self._answer(200)

        def do_GET(self) -> None:
            found = kept.get(self.path)
            self._answer(404 if found is None else 200, found or b"")

        def _answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Mon, 23 Nov 2026 00:00:00 GMT")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Old) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for variable, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(variable, value)
        objects = open_objects("s3://old/store")
        assert objects.put_new("x.1", b"first")
        assert not objects.put_new("x.1", b"second")
        assert objects.get("x.1") == b"first"
        server.shutdown()
