"""Binds a Bucket."""

from __future__ import annotations

from sampan.model import Bucket
from sampan.service.objects.bucket import open_bucket
from sampan.service.process import Process


def bind(process: Process, handle: Bucket) -> None:
    writable = "read_write" in process.accesses(handle)
    bucket = open_bucket(handle.name, process.find(handle), process.registry, writable=writable)
    handle.bind(bucket)
    process.add_resource(f"bucket {handle.name}", bucket, lambda: True)
