"""Binds a Bucket."""

from __future__ import annotations

from sampan.model import Bucket
from sampan.service.objects.buckets import open_bucket
from sampan.service.process import Process


def bind(process: Process, handle: Bucket) -> None:
    bucket = open_bucket(handle.name, process.find(handle))
    handle.bind(bucket)
    process.add_resource(f"bucket {handle.name}", bucket, lambda: True)
