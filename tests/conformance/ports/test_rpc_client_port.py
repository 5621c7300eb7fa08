"""gRPC against what is not ours: our client over a bare grpcio server, and faults between."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest

from sampan.model import Breaker, Policy, Service
from sampan.service.resilience.breaker import CircuitBreaker
from sampan.service.rpc.client import Channel, RpcError, Target
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import CURRENT, Context
from sampan.service.telemetry.metrics import Registry
from tests.conformance.ports.rpc import PARENT, TRACE, Code, recorded, stream, until
from tests.faults import FaultProxy
from tests.service.rpc.echo import NAME, Echo, EchoStub, plain_client, plain_server, say, serving


@pytest.fixture(autouse=True)
def spans() -> None:
    tracing.RECORDED.clear()


# -- our client -------------------------------------------------------------------------------------------------------


class Using:
    """Our stub of a service at `target`; closes with the block."""

    def __init__(self, target: str, policy: Policy | None = None, breaker: CircuitBreaker | None = None) -> None:
        self.service = Service("echo", grpc="tests:echo")
        self.registry = Registry()
        self.channel = Channel(self.service, Target(target), self.registry, policy, breaker)
        self.service.bind_rpc(self.channel)

    async def __aenter__(self) -> Any:
        self.stub = self.service.rpc(EchoStub)
        assert self.service.rpc(EchoStub) is self.stub
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.stop()

    def count(self, method: str, code: str) -> float:
        return self.channel.requests.value(NAME, method, code)


async def test_all_four_kinds_are_called_traced_and_counted() -> None:
    seen: dict[str, str] = {}

    def look(text: str, context: Any) -> str:
        seen.update({k: v for k, v in context.invocation_metadata() if isinstance(v, str)})
        return text

    async with plain_server(Echo(look)) as port, Using(f"127.0.0.1:{port}") as client:
        stub = client.stub
        with tracing.Span("work", tracing.INTERNAL, {}, Context(TRACE, PARENT, request_id="r-9"), True):
            assert (await stub.Say(say("a"), metadata=(("mine", "kept"),))).value == "a"
        assert seen["traceparent"].startswith(f"00-{TRACE}-")
        assert PARENT not in seen["traceparent"]
        assert (seen["x-request-id"], seen["mine"]) == ("r-9", "kept")
        assert [m.value async for m in stub.Down(say("a b"))] == ["a", "b"]
        assert (await stub.Up(stream("a", "b"))).value == "a b"
        both = stub.Both()
        await both.write(say("q"))
        assert (await both.read()).value == "q"
        await both.done_writing()
        assert await both.read() is grpc.aio.EOF
        assert await both.code() is Code.OK
        await until(lambda: client.count("Both", "OK") == 1)
        assert [client.count(name, "OK") for name in ("Say", "Down", "Up", "Both")] == [1, 1, 1, 1]
        assert client.channel.durations.count(NAME, "Say") == 1
    (span,) = [span for span in recorded() if span.kind == tracing.CLIENT and span.context]
    assert span.context is not None
    assert span.context.trace_id == TRACE
    assert seen.keys() >= {"mine"}
    assert span.attributes["rpc.response.status_code"] == "OK"


async def test_a_call_has_no_longer_than_its_caller() -> None:
    left: list[float] = []

    def look(text: str, context: Any) -> str:
        left.append(context.time_remaining())
        return text

    async with plain_server(Echo(look)) as port, Using(f"127.0.0.1:{port}") as client:
        await client.stub.Say(say(""))
        await client.stub.Say(say(""), timeout=3)
        token = CURRENT.set(Context(TRACE, PARENT, deadline=time.monotonic() + 1.5))
        await client.stub.Say(say(""), timeout=3)
        await client.stub.Down(say("x")).read()
        CURRENT.reset(token)
        CURRENT.set(Context(TRACE, PARENT, deadline=time.monotonic() - 1))
        with pytest.raises(RpcError) as failed:
            await client.stub.Say(say(""))
        CURRENT.set(None)
        assert failed.value.code() is Code.DEADLINE_EXCEEDED
        assert failed.value.http_status == 504
    assert len(left) == 4  # the last one was never sent
    assert 9 < left[0] < 10.2  # on the wire it is rounded up
    assert 2 < left[1] < 3.2
    assert 0 < left[2] < 1.7
    assert 0 < left[3] < 1.7


@pytest.mark.parametrize(("method", "times"), [("Say", 4), ("Order", 1)])
async def test_only_what_is_safe_is_repeated(method: str, times: int) -> None:
    async def away(text: str, context: Any) -> str:
        await context.abort(Code.UNAVAILABLE, "busy")
        return ""

    servicer = Echo(away)
    async with plain_server(servicer) as port, Using(f"127.0.0.1:{port}") as client:
        with pytest.raises(RpcError) as failed:
            await getattr(client.stub, method)(say("a"))
        assert (failed.value.code(), failed.value.details()) == (Code.UNAVAILABLE, "busy")
        assert failed.value.http_status == 503
        assert isinstance(failed.value, grpc.aio.AioRpcError)
        await until(lambda: client.count(method, "UNAVAILABLE") == 1)
    assert len(servicer.seen) == times


async def test_a_repeated_call_succeeds_in_the_end() -> None:
    async def twice_away(text: str, context: Any) -> str:
        if len(servicer.seen) < 3:
            await context.abort(Code.UNAVAILABLE, "busy")
        return text

    servicer = Echo(twice_away)
    async with plain_server(servicer) as port, Using(f"127.0.0.1:{port}") as client:
        assert (await client.stub.Say(say("a"))).value == "a"
    assert len(servicer.seen) == 3


async def test_a_restarted_server_is_found_again() -> None:
    async with plain_server(Echo()) as port, Using(f"127.0.0.1:{port}") as client:
        assert (await client.stub.Say(say("1"))).value == "1"
        first = port
    async with Using(f"127.0.0.1:{first}") as client:
        async with plain_server(Echo(), first):
            assert (await client.stub.Say(say("2"))).value == "2"
        with pytest.raises(RpcError) as failed:
            await client.stub.Order(say("gone"))
        assert failed.value.code() is Code.UNAVAILABLE
        async with plain_server(Echo(), first):
            waited = await client.stub.Order(say("3"), wait_for_ready=True)
            assert waited.value == "3"


async def test_a_draining_server_loses_its_callers_before_it_stops() -> None:
    """As behind a Service without a proxy: a connection stays where it was made, and new ones go elsewhere."""
    async with serving() as old, serving() as new:
        with FaultProxy(("127.0.0.1", old.server.port)) as address:
            client = Using(f"127.0.0.1:{address.port}")
            await client.__aenter__()
            running, done = True, 0

            async def call() -> None:
                nonlocal done
                while running:
                    assert (await client.stub.Order(say("a"))).value == "a"
                    assert [m.value async for m in client.stub.Down(say("a b"))] == ["a", "b"]
                    done += 1
                    await asyncio.sleep(0.001)

            calls = [asyncio.ensure_future(call()) for _ in range(8)]
            await until(lambda: done > 50)
            address.target = ("127.0.0.1", new.server.port)
            assert new.count("Order", "OK") == 0
            old.readiness.draining = True
            await until(lambda: new.count("Order", "OK") > 0)
            await asyncio.sleep(0.2)
            await old.server.stop()
            enough = done + 50
            await until(lambda: done > enough)
            running = False
            await asyncio.gather(*calls)
            await client.__aexit__()


async def test_an_open_circuit_sends_nothing() -> None:
    async def away(text: str, context: Any) -> str:
        await context.abort(Code.UNAVAILABLE, "busy")
        return ""

    servicer = Echo(away)
    breaker = CircuitBreaker(Breaker(failures=3, pause=60))
    async with plain_server(servicer) as port, Using(f"127.0.0.1:{port}", breaker=breaker) as client:
        for _ in range(3):
            with pytest.raises(RpcError):
                await client.stub.Order(say("a"))
        with pytest.raises(RpcError, match="circuit is open") as failed:
            await client.stub.Order(say("a"))
        assert failed.value.code() is Code.UNAVAILABLE
    assert len(servicer.seen) == 3


async def test_what_a_callee_said_is_not_what_we_say() -> None:
    async def refuse(text: str, context: Any) -> str:
        await context.abort(getattr(Code, text), "of the callee")
        return ""

    async with plain_server(Echo(refuse)) as port, Using(f"127.0.0.1:{port}") as callee:

        async def relay(text: str, context: Any) -> str:
            return str((await callee.stub.Order(say(text))).value)

        async with serving(Echo(relay)) as served, plain_client(served.target) as stub:
            for theirs, ours in (
                ("NOT_FOUND", Code.INTERNAL),
                ("UNAVAILABLE", Code.UNAVAILABLE),
                ("DEADLINE_EXCEEDED", Code.DEADLINE_EXCEEDED),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    await stub.Order(say(theirs))
                assert failed.value.code() is ours
                assert "of the callee" not in str(failed.value.details())


@pytest.mark.parametrize("method", ["Up", "Both"])
async def test_an_answer_before_the_last_message_is_the_answer(method: str) -> None:
    """The server refuses while more is being sent, which fails on the ended stream."""

    class Refusing(Echo):
        async def Up(self, requests: Any, context: Any) -> Any:
            await context.abort(Code.RESOURCE_EXHAUSTED, "enough")

        async def Both(self, requests: Any, context: Any) -> None:
            await context.abort(Code.RESOURCE_EXHAUSTED, "enough")

    async with plain_server(Refusing()) as port, Using(f"127.0.0.1:{port}") as client:
        for number in range(100):
            call = getattr(client.stub, method)(stream(*["x" * 10_000] * 30))
            with pytest.raises(RpcError) as failed:
                await (call if method == "Up" else call.read())
            assert (failed.value.code(), failed.value.details()) == (Code.RESOURCE_EXHAUSTED, "enough"), number
        await until(lambda: client.count(method, "RESOURCE_EXHAUSTED") == 100)


# -- faults between ---------------------------------------------------------------------------------------------------


async def test_a_reset_connection_costs_safe_calls_nothing() -> None:
    async with serving() as served:
        with FaultProxy(("127.0.0.1", served.server.port)) as between:
            async with Using(f"127.0.0.1:{between.port}") as client:
                for _ in range(5):
                    assert (await client.stub.Say(say("a"))).value == "a"
                    await asyncio.to_thread(between.reset_all)
                assert between.connections >= 5


async def test_a_half_open_connection_ends_at_the_deadline() -> None:
    async with serving() as served:
        with FaultProxy(("127.0.0.1", served.server.port)) as between:
            async with Using(f"127.0.0.1:{between.port}") as client:
                await client.stub.Say(say("a"))
                between.blackhole = True
                with pytest.raises(RpcError) as failed:
                    await client.stub.Say(say("a"), timeout=0.5)
                assert failed.value.code() is Code.DEADLINE_EXCEEDED
                between.blackhole = False
                await asyncio.to_thread(between.reset_all)
                assert (await client.stub.Say(say("b"))).value == "b"
