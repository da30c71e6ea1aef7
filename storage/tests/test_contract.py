"""The promises of a store, in every kind of place: a folder, a bucket, and behind a web server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from buckets import Bucket

from logitstore.testing import PublishedContract, StoreContract


class TestFolder(StoreContract):
    @pytest.fixture
    def location(self, tmp_path: Path) -> str:
        return str(tmp_path / "store")


class TestBucket(StoreContract):
    @pytest.fixture
    def location(self, bucket: Bucket) -> str:
        return bucket.s3("store")


class TestWebServer(PublishedContract):
    @pytest.fixture
    def location(self, bucket: Bucket) -> str:
        return bucket.s3("store")

    @pytest.fixture
    def publish(self, bucket: Bucket) -> Callable[[str], str]:
        return lambda location: bucket.published(location.removeprefix(f"s3://{bucket.name}/"))
