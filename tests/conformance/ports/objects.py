"""Buckets of both kinds, and content to put into them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from sampan.service.bindings import Binding
from sampan.service.objects.bucket import ObjectBucket, open_bucket
from sampan.service.telemetry.metrics import Registry
from tests.servers.s3 import ROOT, S3Server

MIB = 2**20


def s3_bucket(server: S3Server, port: int = 0, name: str = "", **values: str) -> ObjectBucket:
    """A new bucket of the server, or the one called `name`; through `port`, if given."""
    if not name:
        name = f"b-{os.urandom(6).hex()}"
        server.client().create_bucket(Bucket=name)
    more = {"endpoint": f"http://127.0.0.1:{port or server.port}", **ROOT, **values}
    return open_bucket("photos", Binding("bucket-photos", "s3", f"s3://{name}", more), Registry())


def file_bucket(root: Path) -> ObjectBucket:
    return open_bucket("photos", Binding("bucket-photos", "file", f"file://{root}"), Registry())


def stored_name(bucket: ObjectBucket) -> str:
    return str(bucket.store.attributes["aws.s3.bucket"])


async def pieces(size: int, *, then: Callable[[], Any] | None = None) -> AsyncIterator[bytes]:
    """`size` bytes, told apart by their position, in pieces of odd length."""
    data = content(size)
    for start in range(0, size, 700_001):
        yield data[start : start + 700_001]
    if then is not None:
        await then()


def content(size: int) -> bytes:
    return b"".join(number.to_bytes(8, "big") for number in range(-(-size // 8)))[:size]
