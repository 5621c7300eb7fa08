"""gRPC against what is not ours: our server under a bare grpcio client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from sampan.model import Grpc
from sampan.service.http.refusal import Refusal
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import CURRENT, Context
from tests.conformance.ports.rpc import PARENT, TRACE, Code, recorded, stream, until
from tests.service.rpc.echo import NAME, Echo, plain_client, say, serving


@pytest.fixture(autouse=True)
def spans() -> None:
    tracing.RECORDED.clear()


# -- our server -------------------------------------------------------------------------------------------------------


async def test_all_four_kinds_are_served_traced_and_counted() -> None:
    async with serving() as served, plain_client(served.target) as stub:
        assert (await stub.Say(say("a"))).value == "a"
        assert [m.value async for m in stub.Down(say("a b c"))] == ["a", "b", "c"]
        assert (await stub.Up(stream("a", "b"))).value == "a b"
        assert [m.value async for m in stub.Both(stream("x", "y"))] == ["x", "y"]
        await until(lambda: served.count("Both", "OK") == 1)
        assert [served.count(name, "OK") for name in ("Say", "Down", "Up", "Both", "Order")] == [1, 1, 1, 1, 0]
        assert served.server.calls.durations.count(NAME, "Down") == 1
        found = {span.name: span for span in recorded()}
    assert found.keys() == {f"{NAME}/{name}" for name in ("Say", "Down", "Up", "Both")}
    assert all(s.kind == tracing.SERVER and not s.error and s.end >= s.start for s in found.values())
    assert found[f"{NAME}/Say"].attributes["rpc.response.status_code"] == "OK"


@pytest.mark.parametrize(
    "metadata",
    [
        (("traceparent", f"00-{TRACE}-{PARENT}-01"), ("baggage", "tenant=7"), ("x-request-id", "r-1")),
        (("b3", f"{TRACE}-{PARENT}-1"), ("baggage", "tenant=7"), ("x-request-id", "r-1")),
    ],
)
async def test_a_call_continues_the_trace_of_its_caller(metadata: Any, tmp_path: Path) -> None:
    def look(text: str, context: Any) -> str:
        current = CURRENT.get()
        assert current is not None
        return f"{current.trace_id} {current.baggage} {current.request_id}"

    async with serving(Echo(look), log=tmp_path / "log") as served, plain_client(served.target) as stub:
        call = stub.Say(say(""), metadata=metadata)
        assert (await call).value == f"{TRACE} tenant=7 r-1"
        assert dict(await call.trailing_metadata())["x-request-id"] == "r-1"
        await until(lambda: recorded())
        (span,) = recorded()
        assert span.context is not None
        assert (span.context.trace_id, span.context.parent_id) == (TRACE, PARENT)
        (line,) = [json.loads(text) for text in served.lines()]
    assert line["trace_id"] == TRACE
    assert line["message"] == f"gRPC /{NAME}/Say OK"
    assert line["attributes"]["request_id"] == "r-1"
    assert line["attributes"]["client.address"] == "127.0.0.1"
    assert line["logger"] == "sampan.access"


@pytest.mark.parametrize("method", ["Say", "Down", "Up", "Both"])
async def test_the_deadline_of_the_caller_bounds_and_ends_the_work(method: str) -> None:
    left: list[float] = []
    ended = asyncio.Event()

    async def work(text: str, context: Any) -> str:
        current = CURRENT.get()
        assert current is not None
        left.append(current.remaining() or -1)
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return ""

    async with serving(Echo(work)) as served, plain_client(served.target) as stub:
        argument = stream("a") if method in ("Up", "Both") else say("a")
        call = getattr(stub, method)(argument, timeout=0.3)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            if method in ("Say", "Up"):
                await call
            else:
                [m async for m in call]
        assert failed.value.code() is Code.DEADLINE_EXCEEDED
        await asyncio.wait_for(ended.wait(), 10)
        assert 0 < left[0] < 0.4  # on the wire it is rounded up
        await until(lambda: served.count(method, "DEADLINE_EXCEEDED") == 1)
        assert served.server.calls.in_flight == 0


async def test_work_ends_when_the_caller_goes_away() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work(text: str, context: Any) -> str:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return ""

    async with serving(Echo(work)) as served, plain_client(served.target) as stub:
        call = stub.Say(say("a"))
        waiting = asyncio.ensure_future(call)
        await begun.wait()
        call.cancel()
        await asyncio.wait_for(ended.wait(), 10)
        await asyncio.wait({waiting})
        await until(lambda: served.count("Say", "CANCELLED") == 1)


class Missing(LookupError):
    http_status = 404


class Away(Exception):
    http_status = 503


@pytest.mark.parametrize(
    ("error", "code", "details"),
    [
        (Missing("no such thing"), Code.NOT_FOUND, "no such thing"),
        (Away("password=hunter2"), Code.UNAVAILABLE, "a service or store this call needs is not available"),
        (RuntimeError("password=hunter2"), Code.INTERNAL, "internal error"),
        (TimeoutError("slow store"), Code.INTERNAL, "internal error"),
        (NotImplementedError(), Code.UNIMPLEMENTED, "not implemented"),
    ],
)
@pytest.mark.parametrize("method", ["Say", "Down"])
async def test_what_a_handler_raises_has_a_status(
    error: Exception, code: grpc.StatusCode, details: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(text: str, context: Any) -> str:
        raise error

    async with serving(Echo(fail)) as served, plain_client(served.target) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            if method == "Say":
                await stub.Say(say("a"))
            else:
                [m async for m in stub.Down(say("a"))]
        assert (failed.value.code(), failed.value.details()) == (code, details)
        assert "x-request-id" in dict(failed.value.trailing_metadata())
        await until(lambda: served.count(method, code.name) == 1)
    with_stack = [record for record in caplog.records if record.exc_info]
    assert bool(with_stack) is (code is Code.INTERNAL)
    (span,) = recorded()
    assert bool(span.error) is (code is not Code.NOT_FOUND)


async def test_a_status_the_handler_gives_is_kept() -> None:
    async def refuse(text: str, context: Any) -> str:
        if text == "abort":
            await context.abort(Code.FAILED_PRECONDITION, "not now", (("hint", "later"),))
        context.set_code(Code.ALREADY_EXISTS)
        context.set_details("twice")
        return ""

    async with serving(Echo(refuse)) as served, plain_client(served.target) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Say(say("abort"))
        assert (failed.value.code(), failed.value.details()) == (Code.FAILED_PRECONDITION, "not now")
        assert dict(failed.value.trailing_metadata())["hint"] == "later"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Say(say("set"))
        assert (failed.value.code(), failed.value.details()) == (Code.ALREADY_EXISTS, "twice")
        await until(lambda: served.count("Say", "ALREADY_EXISTS") == 1)
        assert served.count("Say", "FAILED_PRECONDITION") == 1
        await until(lambda: len(recorded()) == 2)
    assert not any(span.error or span.events for span in recorded())


async def test_methods_nobody_declared_are_one_label() -> None:
    async with serving() as served, grpc.aio.insecure_channel(served.target) as channel:
        for number in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                unknown: Any = channel.unary_unary(f"/no.Such/Thing{number}")
                await unknown(b"")
            assert failed.value.code() is Code.UNIMPLEMENTED
        await until(lambda: served.server.calls.requests.value("", "_OTHER", "UNIMPLEMENTED") == 3)


async def test_a_blocking_handler_is_refused_at_the_start() -> None:
    class Blocking(Echo):
        def Say(self, request: StringValue, context: Any) -> StringValue:  # type: ignore[override]
            return request

    with pytest.raises(RuntimeError, match="write `async def Say"):
        async with serving(Blocking()):
            pass


async def test_messages_up_to_the_limit_and_no_larger() -> None:
    declared = Grpc("tests:echo", max_message=8 * 1024 * 1024)
    big = "x" * (6 * 1024 * 1024)
    options = {"grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1}
    async with serving(declared=declared) as served, plain_client(served.target, **options) as stub:
        assert len((await stub.Say(say(big))).value) == len(big)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Say(say(big * 2))
        assert failed.value.code() is Code.RESOURCE_EXHAUSTED


class Watching:
    """A guard as HTTP has them: refuses what `refusal` says, remembers what it saw."""

    def __init__(self, refusal: Refusal | None = None, asks: bool = False) -> None:
        self.refusal, self.asks = refusal, asks
        self.scopes: list[Any] = []
        self.left: list[int] = []

    def enter(self, scope: Any, context: Context) -> Any:
        self.scopes.append(scope)

        async def ask() -> Refusal | None:
            return self.refusal

        return ask() if self.asks else self.refusal

    def leave(self, scope: Any, context: Context, status: int, seconds: float) -> None:
        self.left.append(status)


@pytest.mark.parametrize("asks", [False, True])
async def test_guards_of_http_see_a_call_as_a_request(asks: bool) -> None:
    first, second = Watching(asks=asks), Watching()
    async with serving(guards=(first, second)) as served, plain_client(served.target) as stub:
        assert (await stub.Say(say("a"), metadata=(("authorization", "Bearer t"),))).value == "a"
        await until(lambda: first.left)
    scope = first.scopes[0]
    assert (scope["type"], scope["method"], scope["path"]) == ("http", "POST", f"/{NAME}/Say")
    assert (b"authorization", b"Bearer t") in scope["headers"]
    assert scope["client"][0] == "127.0.0.1"
    assert first.scopes[0] is second.scopes[0]
    assert first.left == second.left == [200]


@pytest.mark.parametrize(
    ("refusal", "code", "details"),
    [
        (Refusal(401, b'{"error":"who are you?"}', ((b"www-authenticate", b"Bearer"),)), Code.UNAUTHENTICATED, "who"),
        (Refusal(403, b'{"error":"you may not"}'), Code.PERMISSION_DENIED, "you may not"),
        (Refusal(429, b'{"error":"too many"}', ((b"retry-after", b"2"),)), Code.RESOURCE_EXHAUSTED, "too many"),
        (Refusal(503, b"overloaded", ((b"retry-after", b"2"),)), Code.UNAVAILABLE, "refused"),
    ],
)
@pytest.mark.parametrize("method", ["Say", "Both"])
async def test_what_a_guard_refuses_never_reaches_the_handler(
    refusal: Refusal, code: grpc.StatusCode, details: str, method: str
) -> None:
    passed, refusing, servicer = Watching(), Watching(refusal), Echo()
    async with serving(servicer, guards=(passed, refusing)) as served, plain_client(served.target) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            # nothing is sent on the stream: to what is sent too late grpc.aio says INTERNAL, over our answer
            await (stub.Say(say("a")) if method == "Say" else stub.Both().read())
        assert failed.value.code() is code
        assert details in str(failed.value.details())
        trailing = dict(failed.value.trailing_metadata())
        names = {name for name, _ in refusal.headers}
        assert (b"retry-after" in names) is (trailing.get("grpc-retry-pushback-ms") == "2000")
        assert (b"www-authenticate" in names) is (trailing.get("www-authenticate") == "Bearer")
        await until(lambda: passed.left)
    assert passed.left == [refusal.status]
    assert refusing.left == []
    assert servicer.seen == []


async def test_health_follows_readiness_and_is_watched() -> None:
    async with serving() as served, grpc.aio.insecure_channel(served.target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", NAME):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Check(health_pb2.HealthCheckRequest(service="no.Such"))
        assert failed.value.code() is Code.NOT_FOUND
        watching = stub.Watch(health_pb2.HealthCheckRequest(service=NAME))
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        served.readiness.draining = True
        assert (await asyncio.wait_for(watching.read(), 10)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=""))
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        watching.cancel()
    assert not recorded()


def _reflected(target: str) -> tuple[list[str], str]:
    with grpc.insecure_channel(target) as channel:
        known = ProtoReflectionDescriptorDatabase(channel)
        return list(known.get_services()), known.FindFileContainingSymbol(NAME).name


async def test_reflection_tells_what_is_served() -> None:
    async with serving(reflection=True) as served:
        names, file = await asyncio.to_thread(_reflected, served.target)
        assert {NAME, "grpc.health.v1.Health"} <= set(names)
        assert file == "tests/echo.proto"
        # v1, which newer clients ask first, has the same messages
        async with grpc.aio.insecure_channel(served.target) as channel:
            call: Any = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")()
            await call.write(b"\x3a\x00")  # list_services
            assert NAME.encode() in await call.read()
            call.cancel()
    async with serving() as served:
        with pytest.raises(grpc.RpcError):
            await asyncio.to_thread(_reflected, served.target)


async def test_stopping_under_load_fails_no_call_in_flight() -> None:
    async def work(text: str, context: Any) -> str:
        await asyncio.sleep(0.3)
        return text

    async with serving(Echo(work)) as served, plain_client(served.target) as stub:
        calls = [asyncio.ensure_future(_awaited(stub.Say(say(str(n))))) for n in range(50)]
        streams = [asyncio.ensure_future(_listed(stub.Down(say("a b c")))) for _ in range(10)]
        await until(lambda: served.server.calls.in_flight == 60)
        await served.server.stop()
        assert [(await call).value for call in calls] == [str(n) for n in range(50)]
        assert [await each for each in streams] == [["a", "b", "c"]] * 10
        assert served.server.calls.in_flight == 0


async def _awaited(call: Any) -> Any:
    return await call


async def _listed(call: Any) -> list[str]:
    return [m.value async for m in call]


async def test_connections_that_grow_old_are_replaced_without_a_failed_call() -> None:
    declared, peers = Grpc("tests:echo", connection_age=0.2), set()

    async def work(text: str, context: Any) -> str:
        peers.add(context.peer())
        await asyncio.sleep(0.01)
        return text

    async with serving(Echo(work), declared=declared) as served, plain_client(served.target) as stub:

        async def call() -> None:
            while len(peers) < 4:
                assert (await stub.Order(say("a"))).value == "a"
                assert [m.value async for m in stub.Down(say("a b c"))] == ["a", "b", "c"]

        await asyncio.wait_for(asyncio.gather(*(call() for _ in range(8))), 30)
        assert served.server.calls.in_flight == 0


async def test_calls_beyond_the_streams_of_a_connection_wait() -> None:
    most = 0

    async def work(text: str, context: Any) -> str:
        nonlocal most
        most = max(most, served.server.calls.in_flight)
        await asyncio.sleep(0.01)
        return text

    declared = Grpc("tests:echo", max_streams=4)
    async with serving(Echo(work), declared=declared) as served, plain_client(served.target) as stub:
        await stub.Order(say("a"))  # by now the client knows the limit
        calls = await asyncio.gather(*(_awaited(stub.Order(say(str(n)))) for n in range(40)))
        assert [call.value for call in calls] == [str(n) for n in range(40)]
    assert 1 < most <= 4


async def test_a_slow_reader_holds_the_writer_back() -> None:
    written, piece = 0, "x" * 100_000

    def count(text: str, context: Any) -> str:
        nonlocal written
        written += 1
        return piece

    async with serving(Echo(count)) as served, plain_client(served.target) as stub:
        stream = stub.Down(say("more " * 1000))
        assert (await stream.read()).value == piece
        seen = -1
        while written != seen:  # until it moves no more
            seen = written
            await asyncio.sleep(0.3)
        assert written < 500, "100 MB were sent to somebody who reads nothing"
        for _ in range(999):
            assert len((await stream.read()).value) == len(piece)
        assert await stream.read() is grpc.aio.EOF
        assert written == 1000
