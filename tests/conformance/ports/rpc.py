"""What the suites of the gRPC port share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from sampan.service.telemetry import tracing
from tests.service.rpc.echo import say

Code = grpc.StatusCode
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


async def until(condition: Any, seconds: float = 10) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "did not come true"
        await asyncio.sleep(0.01)


async def stream(*texts: str) -> AsyncIterator[StringValue]:
    for text in texts:
        yield say(text)


def recorded() -> list[tracing.Span]:
    return [span for span in tracing.RECORDED if span.attributes.get("rpc.system.name") == "grpc"]
