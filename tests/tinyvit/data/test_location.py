"""Shards in buckets, behind web servers, on the hub; over real connections on loopback."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from buckets import Bucket
from streams import digests, stream
from support import EXAMPLE, small_arguments, started, tinyvit, upload

from logitstore import LogitStore, open_objects
from logitstore.objects import RemoteObjects
from tinyvit.config import Recipe
from tinyvit.data.index import index_shards
from tinyvit.data.loader import run_stream
from tinyvit.data.location import ShardLocation, resolve_data, train_and_val
from tinyvit.errors import UserError
from tinyvit.runtime.progress import LogProgress

PATTERN = "train-{000000..000001}.tar"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def shards(bucket: Bucket, small_data: Path) -> str:
    """The small data set's training shards in a bucket."""
    upload(small_data / "train", bucket.s3("data"))
    return bucket.s3("data")


def test_shards_in_a_bucket_and_behind_a_web_server_are_those_on_disk(
    shards: str, bucket: Bucket, small_data: Path
) -> None:
    local = index_shards(small_data / "train", LogProgress())
    for location in (shards, f"{shards}/{PATTERN}", f"{bucket.published('data')}/{PATTERN}"):
        index = index_shards(location, LogProgress())
        assert index.table.differences(local.table) == []
        assert index.shard(1).read([0, 249, 7]) == local.shard(1).read([0, 249, 7])
        assert index.place.class_names() == local.place.class_names()


def test_a_bucket_with_train_and_val_inside_is_like_such_a_folder(
    bucket: Bucket, small_recipe: Recipe, small_data: Path
) -> None:
    upload(small_data, bucket.s3("both"))
    data = resolve_data(small_recipe, bucket.s3("both/")).data
    assert (data.train, data.val) == (bucket.s3("both/train"), bucket.s3("both/val"))
    assert index_shards(str(data.val), LogProgress()).counts == index_shards(small_data / "val", LogProgress()).counts
    data = resolve_data(small_recipe, bucket.s3("both/train")).data
    assert (data.train, data.val) == (bucket.s3("both/train"), None)


def test_training_reads_the_same_batches_from_a_bucket(
    shards: str, small_recipe: Recipe, small_store: LogitStore
) -> None:
    views = stream(resolve_data(small_recipe, shards), small_store)
    assert digests(list(run_stream(views, 2))) == digests(list(stream(small_recipe, small_store).read(0, 1)))


def test_labelling_from_a_bucket_goes_on_from_the_command_line(shards: str, small_data: Path, tmp_path: Path) -> None:
    arguments = small_arguments(small_data)
    arguments[arguments.index("--data") + 1] = shards
    done = tinyvit("label", "example", "--store", tmp_path / "s", *arguments, "--set", "label.epochs=2", "--json")
    assert done.returncode == 0, done.stderr
    assert LogitStore.open(tmp_path / "s").sealed


def test_a_web_server_is_not_asked_what_it_has() -> None:
    with pytest.raises(UserError, match=r"name them: http://127.0.0.1:9/d/shard-\{000000..000127\}.tar"):
        index_shards("http://127.0.0.1:9/d", LogProgress())


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("s3://no-such-bucket/data", "s3://no-such-bucket/data: its objects cannot be listed"),
        ("http://127.0.0.1:9/{0..1}.tar", "http://127.0.0.1:9: 0.tar cannot be found"),
        ("http://127.0.0.1:9/a{0..1}/b.tar", "shards of one data set lie in one folder"),
        ("http://127.0.0.1:9/a{0..1.tar", "the braces do not fit together"),
        ("ftp://host/x", "ftp://host/x cannot be opened"),
        ("hf://datasets/nobody", "write hf://datasets/USER/NAME@REVISION/FOLDER"),
        ("pipe:touch /tmp/never", "runs commands"),
    ],
)
def test_places_that_are_none(location: str, words: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logitstore.objects.RETRIES", {"max_retries": 0, "retry_timeout": timedelta(1)})
    with pytest.raises(UserError, match=words) as fault:
        index_shards(location, LogProgress())
    assert "\n" not in str(fault.value)


def test_a_shard_that_a_server_loses_is_named(shards: str, bucket: Bucket) -> None:
    index = index_shards(shards, LogProgress())
    open_objects(shards).delete("train-000001.tar")
    with pytest.raises(UserError, match=r"train-000001.tar was cut short or removed"):
        index.shard(1).read([3])


class Unsteady(http.server.BaseHTTPRequestHandler):
    """A hub that serves a data set at the hub's own paths, and fails when it is asked for a file for the first time."""

    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        cls = type(self)
        asked = (self.path, self.headers.get("Authorization"))
        first_time = asked not in cls.seen
        cls.seen.append(asked)
        if first_time and "resolve" in self.path:
            self.send_error(503)
            return
        if self.path.startswith("/api/datasets/me/images/"):
            files = [{"type": "file", "path": f"train/train-00000{i}.tar", "size": 1, "oid": "0"} for i in (1, 0)]
            body = json.dumps([*files, {"type": "directory", "path": "train/x.tar", "oid": "0"}])
            self._answer(200 if self.path.partition("?")[0].endswith("/tree/v1/train") else 404, body.encode())
            return
        self._give(EXAMPLE / "train" / self.path.rpartition("/")[2])

    def _give(self, file: Path) -> None:
        if not file.is_file():
            self.send_error(404)
            return
        body = file.read_bytes()
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = min(int(last) + 1, len(body)) if last else len(body)
            self._answer(206, body[int(first) : end], f"bytes {first}-{end - 1}/{len(body)}")
        else:
            self._answer(200, body)

    def _answer(self, status: int, body: bytes, part: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        if part:
            self.send_header("Content-Range", part)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Unsteady]]:
    Unsteady.seen = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Unsteady)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield Unsteady
    server.shutdown()
    server.server_close()


def test_shards_on_the_hub_are_read_with_the_token_and_retries(hub: type[Unsteady], tmp_path: Path) -> None:
    # The hub's client reads its variables when it is imported: a process of its own.
    done = started("data", "check", "hf://datasets/me/images@v1/train", "--workers", "0", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["samples"], found["faults"]) == (500, [])
    files = [(path, token) for path, token in hub.seen if "resolve" in path]
    assert {path for path, _ in files} == {
        f"/datasets/me/images/resolve/v1/train/{name}"
        for name in ("train-000000.tar", "train-000001.tar", "classes.txt")
    } | {path for path, _ in files if path.endswith("v1/classes.txt")}
    assert {token for _, token in files} == {"Bearer hf_secret"}
    done = started("data", "pull", "hf://datasets/me/images@v1/train", tmp_path / "o", "--json")
    assert done.returncode == 0, done.stderr
    for name in ("train-000000.tar", "train-000001.tar"):
        assert (tmp_path / "o" / name).read_bytes() == (EXAMPLE / "train" / name).read_bytes()


def test_pulling_fetches_whole_shards_and_goes_on(shards: str, small_data: Path, tmp_path: Path) -> None:
    for _ in range(2):
        done = tinyvit("data", "pull", shards, tmp_path / "o", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"shards": 2, "samples": 500}
        (tmp_path / "o" / "train-000001.tar").unlink()
    tinyvit("data", "pull", shards, tmp_path / "o")
    for file in (*(small_data / "train").glob("*.tar"), small_data / "train" / "classes.txt"):
        assert (tmp_path / "o" / file.name).read_bytes() == file.read_bytes()


@contextmanager
def serving(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a web server on loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Plain(http.server.SimpleHTTPRequestHandler):
    """Python's own server, which gives files only whole."""

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Signed(Unsteady):
    """A server that gives the example's shards to who has a signature, which is for reading, as S3's are."""

    def do_HEAD(self) -> None:
        self.send_error(403)

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        type(self).seen.append((path, query))
        if query != "X-Amz-Signature=a%2Fb%3D&x={1}":
            self.send_error(403)
            return
        self._give(EXAMPLE / "train" / path.rpartition("/")[2])


def test_a_server_that_gives_files_only_whole_is_pulled_from_and_not_read_by_parts(
    small_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "my data {1}"
    shutil.copytree(small_data / "train", folder, ignore=shutil.ignore_patterns("index*"))
    for number in range(2):
        (folder / f"train-00000{number}.tar").rename(folder / f"part {number}.tar")
    with serving(partial(Plain, directory=str(tmp_path))) as address:
        place = f"{address}/my%20data%20%7B1%7D/part%20{{0..1}}.tar"
        words = rf"part 0.tar: the server gives files only whole.*tinyvit data pull '{re.escape(place)}' FOLDER"
        with pytest.raises(UserError, match=words):
            index_shards(place, LogProgress())
        done = tinyvit("data", "pull", place, tmp_path / "o", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"shards": 2, "samples": 500}
    for name in ("part 0.tar", "part 1.tar", "classes.txt"):
        assert (tmp_path / "o" / name).read_bytes() == (folder / name).read_bytes()


def test_a_signature_goes_with_every_request_and_into_no_message(small_data: Path, tmp_path: Path) -> None:
    Signed.seen = []
    with serving(Signed) as address:
        place = f"{address}/data/train-{{000000..000001}}.tar?X-Amz-Signature=a%2Fb%3D&x={{1}}"
        index, local = index_shards(place, LogProgress()), index_shards(small_data / "train", LogProgress())
        assert index.table.differences(local.table) == []
        assert index.shard(1).read([0, 249, 7]) == local.shard(1).read([0, 249, 7])
        assert index.place.class_names() == local.place.class_names()
        assert index.place.name == "data"
        done = tinyvit("data", "pull", place, tmp_path / "o", "--json")
        assert done.returncode == 0, done.stderr
        assert {query for _, query in Signed.seen} == {"X-Amz-Signature=a%2Fb%3D&x={1}"}
        # Tomorrow's signature has the same index.
        again = ShardLocation(f"{address}/data/train-{{000000..000001}}.tar?X-Amz-Signature=other")
        assert again.address == index.place.address
        with pytest.raises(UserError, match=r"train-000000.tar cannot be found") as fault:
            index_shards(again.location, LogProgress())
        assert "other" not in str(fault.value)


@pytest.mark.parametrize(
    "location",
    ["https://b.s3.us-east-1.amazonaws.com/f", "https://a.blob.core.windows.net/c/f", "https://host/f"],
)
def test_a_signature_of_a_cloud_is_not_left_out(location: str) -> None:
    objects = open_objects(f"{location}/?sig=1")
    assert isinstance(objects, RemoteObjects)
    assert repr(objects._store) == f'HTTPStore("{location}?sig=1")'


@pytest.mark.parametrize("name", ["data{1}", "data{a,b}", "{", "a}b", "{0..2}"])
def test_a_folder_that_is_there_is_no_pattern(small_data: Path, tmp_path: Path, name: str) -> None:
    for part in ("train", "val"):
        shutil.copytree(small_data / part, tmp_path / name / part)
    folder = tmp_path / name
    assert train_and_val(folder) == (f"{folder}/train", f"{folder}/val")
    assert index_shards(folder / "val", LogProgress()).counts == (250,)
    assert index_shards(f"{folder}/train/{PATTERN}", LogProgress()).counts == (250, 250)
    (folder / "train" / "train-000000.tar").rename(folder / "train" / "s{0..9}.tar")
    assert ShardLocation(folder / "train" / "s{0..9}.tar").names() == ["s{0..9}.tar"]
    assert (ShardLocation(folder / "val").class_names() or [])[0] == "T-shirt/top"


def test_urls_are_read_as_urls(bucket: Bucket, small_data: Path, tmp_path: Path) -> None:
    upload(small_data / "val", bucket.s3("my data"))
    for location in (bucket.s3("my%20data"), bucket.s3("my data"), bucket.s3("my%20data/val%2D000000.tar")):
        assert index_shards(location, LogProgress()).counts == (250,)
    shutil.copytree(small_data / "val", tmp_path / "my data")
    place = ShardLocation(f"file://{tmp_path}/my%20data/")
    assert (place.path, place.names()) == (tmp_path / "my data", ["val-000000.tar"])
    assert open_objects(f"file://{tmp_path}/my%20data").get("classes.txt") is not None


def test_a_pipe_is_run_only_where_it_is_allowed(small_data: Path, tmp_path: Path) -> None:
    source = f"pipe:cat {small_data}/train/{PATTERN}"
    refused = tinyvit("data", "pull", source, tmp_path / "o")
    assert refused.returncode == 2
    assert "--allow-pipe" in refused.stderr
    done = tinyvit("data", "pull", source, tmp_path / "o", "--allow-pipe", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"shards": 2, "samples": 500}
    failing = tinyvit("data", "pull", "pipe:head -c 5000 /dev/zero; ls /nowhere/a.tar", tmp_path / "p", "--allow-pipe")
    assert failing.returncode == 2
    assert "/nowhere/a.tar" in failing.stderr
    assert "nothing of it was kept" in " ".join(failing.stderr.split())
    assert not [*(tmp_path / "p").glob("*.tar*")]
    recipe = tinyvit("label", "example", "--store", tmp_path / "s", "--data", "pipe:touch /tmp/never")
    assert recipe.returncode == 2
    assert not Path("/tmp/never").exists()
