"""test.Echo: a gRPC service of all four kinds, declared here instead of generated; and our server around a servicer.

service Echo {
  rpc Say(StringValue) returns (StringValue) { option idempotency_level = NO_SIDE_EFFECTS; }
  rpc Order(StringValue) returns (StringValue);
  rpc Down(StringValue) returns (stream StringValue);
  rpc Up(stream StringValue) returns (StringValue);
  rpc Both(stream StringValue) returns (stream StringValue);
}
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.wrappers_pb2 import StringValue

# it tells gRPC's core, before that is used, not to meddle with forks, by which the same tests start other programs
import sampan.service.rpc.binding  # noqa: F401
from sampan.model import Grpc
from sampan.service.http.middleware import Guard
from sampan.service.http.readiness import Readiness
from sampan.service.http.tls import Identity
from sampan.service.rpc.handlers import Calls
from sampan.service.rpc.server import Server
from sampan.service.telemetry.logs import Output, Redactor
from sampan.service.telemetry.metrics import Registry

NAME = "test.Echo"
# method -> request is a stream, response is a stream
METHODS = {
    "Say": (False, False),
    "Order": (False, False),
    "Down": (False, True),
    "Up": (True, False),
    "Both": (True, True),
}


def declare() -> None:
    """What importing a generated module does: put the service into the descriptor pool."""
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/echo.proto", package="test", syntax="proto3", dependency=["google/protobuf/wrappers.proto"]
    )
    service = file.service.add(name="Echo")
    for name, (up, down) in METHODS.items():
        method = service.method.add(name=name, input_type=".google.protobuf.StringValue")
        method.output_type, method.client_streaming, method.server_streaming = ".google.protobuf.StringValue", up, down
        if name == "Say":
            method.options.idempotency_level = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
    with contextlib.suppress(TypeError):  # the module was loaded under two names
        descriptor_pool.Default().Add(file)


declare()


def kind(name: str) -> str:
    up, down = METHODS[name]
    return f"{'stream' if up else 'unary'}_{'stream' if down else 'unary'}"


class EchoStub:
    def __init__(self, channel: Any) -> None:
        for name in METHODS:
            make = getattr(channel, kind(name))
            path = f"/{NAME}/{name}"
            setattr(
                self, name, make(path, StringValue.SerializeToString, StringValue.FromString, _registered_method=True)
            )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def add_echo(server: Any, servicer: Any) -> None:
    handlers = {}
    for name in METHODS:
        make = getattr(grpc, f"{kind(name)}_rpc_method_handler")
        handlers[name] = make(getattr(servicer, name), StringValue.FromString, StringValue.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
    server.add_registered_method_handlers(NAME, handlers)


def say(text: str) -> StringValue:
    return StringValue(value=text)


class Echo:
    """Does what it is told: `fail` ... in a subclass, or `behaviour`, which gets the text and the context."""

    def __init__(self, behaviour: Callable[[str, Any], Any] | None = None) -> None:
        self.behaviour = behaviour
        self.seen: list[str] = []

    async def _reply(self, text: str, context: Any) -> StringValue:
        self.seen.append(text)
        if self.behaviour is None:
            return say(text)
        answer = self.behaviour(text, context)
        return say(str(await answer if asyncio.iscoroutine(answer) else answer))

    async def Say(self, request: StringValue, context: Any) -> StringValue:
        return await self._reply(request.value, context)

    async def Order(self, request: StringValue, context: Any) -> StringValue:
        return await self._reply(request.value, context)

    async def Down(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        for word in request.value.split():
            yield await self._reply(word, context)

    async def Up(self, requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        return await self._reply(" ".join([request.value async for request in requests]), context)

    async def Both(self, requests: AsyncIterator[StringValue], context: Any) -> None:
        async for request in requests:  # written, where Down yields: both are grpc.aio's ways
            await context.write(await self._reply(request.value, context))


class Served:
    def __init__(self, server: Server, readiness: Readiness, registry: Registry, log: Path | None) -> None:
        self.server, self.readiness, self.registry, self.log = server, readiness, registry, log
        self.target = f"{server.host}:{server.port}"

    def count(self, method: str, code: str) -> float:
        return self.server.calls.requests.value(NAME, method, code)

    def lines(self) -> list[str]:
        self.server.calls.flush()
        assert self.log is not None
        return self.log.read_text().splitlines()


@contextlib.asynccontextmanager
async def serving(
    servicer: Any = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    guards: tuple[Guard, ...] = (),
    declared: Grpc | None = None,
    reflection: bool = False,
    log: Path | None = None,
    identity: Identity | None = None,
) -> AsyncIterator[Served]:
    """Our server around `servicer`; its access log goes to `log`."""
    registry, readiness = Registry(), Readiness()
    readiness.started = True
    descriptor = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    calls = Calls(
        registry, Output(descriptor, Redactor()), {"service": "echo"}, lambda: guards, lambda: readiness.draining
    )
    server = Server(
        declared or Grpc("tests:echo"),
        lambda to: add_echo(to, servicer or Echo()),
        calls,
        readiness,
        host=host,
        port=port,
        reflection=reflection,
        identity=identity,
    )
    await server.start()
    try:
        yield Served(server, readiness, registry, log)
    finally:
        await server.stop()
        os.close(descriptor)


@contextlib.asynccontextmanager
async def plain_server(servicer: Any, port: int = 0) -> AsyncIterator[int]:
    """A bare grpc.aio server, as others write it; its port."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_echo(server, servicer)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def plain_client(target: str, **options: Any) -> AsyncIterator[EchoStub]:
    async with grpc.aio.insecure_channel(target, options=list(options.items())) as channel:
        yield EchoStub(channel)
