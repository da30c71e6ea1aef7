"""Buckets of a real S3-compatible server on loopback."""

from __future__ import annotations

import logging
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from logitstore.objects import open_objects


class _Requests(logging.Handler):
    """What a server was asked for, as it logs it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


REQUESTS = _Requests()


@dataclass(frozen=True)
class Bucket:
    """A bucket, which serves the same objects to a plain web client."""

    endpoint: str
    name: str

    def s3(self, path: str) -> str:
        return f"s3://{self.name}/{path}"

    def read(self) -> Counter[str]:
        """How often each object was asked for, whole or a part of it, until now."""
        words = (f"GET /{self.name}/", " HTTP")
        asked = (line.partition(words[0])[2].partition(words[1])[0] for line in REQUESTS.lines if words[0] in line)
        return Counter(key for key in asked if key and not key.startswith("?"))

    def published(self, path: str) -> str:
        """The address of what lies under a path, open to everyone from now on."""
        address = f"{self.endpoint}/{self.name}/{path}"
        # The server asks for a signature, but does not check it.
        signature = (
            "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        )
        headers = {"x-amz-acl": "public-read", "Authorization": signature}
        for key, _ in open_objects(self.s3(path)).sizes():
            public = urllib.request.Request(f"{address}/{key}?acl", method="PUT", headers=headers)
            urllib.request.urlopen(public).close()
        return address


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of an S3-compatible server on a free port."""
    from moto.server import ThreadedMotoServer

    log = logging.getLogger("werkzeug")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(REQUESTS)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket, and the variables by which its clients find it, for this process and its children."""
    name = f"logits-{uuid.uuid4().hex[:8]}"
    for variable, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(variable, value)
    request = urllib.request.Request(f"{s3_server}/{name}", method="PUT")
    urllib.request.urlopen(request).close()
    return Bucket(s3_server, name)
