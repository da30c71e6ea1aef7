"""Buckets for every test that asks for one."""

from buckets import bucket, s3_server

__all__ = ["bucket", "s3_server"]
