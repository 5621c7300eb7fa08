"""gRPC through a real Envoy: calls are balanced one by one, streams flow both ways, and endpoints change unnoticed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc
import pytest

from sampan.cluster.address import Slice
from sampan.cluster.proxy.proxy import Proxy
from sampan.kube import kinds
from tests.service.rpc.echo import NAME, Echo, Served, plain_client, say, serving

Any_ = Any
Code = grpc.StatusCode
PORTS = [{"port": 9090, "name": "grpc", "appProtocol": "grpc"}]


class Pod(NamedTuple):
    name: str
    host: str
    port: int
    served: Served

    @property
    def identity(self) -> dict[str, Any]:
        return {"metadata": {"name": self.name, "uid": f"pod-{self.name}"}}


@contextlib.asynccontextmanager
async def pod(addresses: Slice, number: int, port: int = 0, servicer: Any = None) -> AsyncIterator[Pod]:
    host = f"127.{addresses.number}.1.{number}"
    async with serving(servicer or Echo(lambda text, context: f"{number}"), host=host, port=port) as served:
        yield Pod(str(number), host, served.server.port, served)


async def test_each_call_of_one_connection_is_balanced(
    proxy: Proxy, objects: Any_, addresses: Slice, make: Any_
) -> None:
    ip = f"127.{addresses.number}.128.40"
    async with pod(addresses, 1) as one, pod(addresses, 2, one.port) as two:
        objects.put(kinds.SERVICE, make.service("echo", ip, PORTS))
        objects.put(kinds.ENDPOINT_SLICE, make.slice_of("echo", [one, two], port="grpc"))
        assert await proxy.settled(20)
        async with plain_client(f"{ip}:9090") as stub:
            answers = [(await stub.Order(say(""))).value for _ in range(60)]
    assert min(answers.count("1"), answers.count("2")) > 10


async def test_streams_statuses_and_deadlines_pass(proxy: Proxy, objects: Any_, addresses: Slice, make: Any_) -> None:
    ip = f"127.{addresses.number}.128.41"
    ended = asyncio.Event()

    async def behave(text: str, context: Any) -> str:
        if text == "missing":
            await context.abort(Code.NOT_FOUND, "there is no such thing", (("hint", "look elsewhere"),))
        if text == "slow":
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()
        return text

    async with pod(addresses, 1, servicer=Echo(behave)) as one, plain_client(f"{ip}:9090") as stub_:
        stub: Any = stub_
        objects.put(kinds.SERVICE, make.service("echo", ip, PORTS))
        objects.put(kinds.ENDPOINT_SLICE, make.slice_of("echo", [one], port="grpc"))
        assert await proxy.settled(20)
        big = "x" * 3_000_000
        assert (await stub.Order(say(big), wait_for_ready=True)).value == big
        assert [m.value async for m in stub.Down(say("a b c"))] == ["a", "b", "c"]
        both = stub.Both()
        for word in ("one", "two"):  # each answered before the next is sent
            await both.write(say(word))
            assert (await both.read()).value == word
        await both.done_writing()
        assert await both.code() is Code.OK
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Order(say("missing"))
        assert (failed.value.code(), failed.value.details()) == (Code.NOT_FOUND, "there is no such thing")
        assert dict(failed.value.trailing_metadata())["hint"] == "look elsewhere"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Order(say("slow"), timeout=0.3)
        assert failed.value.code() is Code.DEADLINE_EXCEEDED
        await asyncio.wait_for(ended.wait(), 10)


async def test_nobody_behind_it_is_unavailable(proxy: Proxy, objects: Any_, addresses: Slice, make: Any_) -> None:
    ip = f"127.{addresses.number}.128.42"
    objects.put(kinds.SERVICE, make.service("echo", ip, PORTS))
    objects.put(kinds.ENDPOINT_SLICE, make.slice_of("echo", [], port="grpc"))
    assert await proxy.settled(20)
    async with plain_client(f"{ip}:9090") as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Order(say(""), timeout=10)
    assert failed.value.code() is Code.UNAVAILABLE


async def test_a_rolling_update_fails_no_call(proxy: Proxy, objects: Any_, addresses: Slice, make: Any_) -> None:
    """Six times over: the new one turns ready, the old one is drained, then stopped. Unary calls and streams."""
    ip = f"127.{addresses.number}.128.43"
    objects.put(kinds.SERVICE, make.service("echo", ip, PORTS))

    async def work(text: str, context: Any) -> str:
        await asyncio.sleep(0.005)
        return text

    async with contextlib.AsyncExitStack() as stack:
        current = await stack.enter_async_context(pod(addresses, 1, servicer=Echo(work)))
        objects.put(kinds.ENDPOINT_SLICE, make.slice_of("echo", [current], port="grpc"))
        assert await proxy.settled(20)
        stub: Any = await stack.enter_async_context(plain_client(f"{ip}:9090"))
        served, running = 0, True

        async def client() -> None:
            nonlocal served
            while running:
                assert (await stub.Order(say("a"))).value == "a"
                assert [m.value async for m in stub.Down(say("a b c"))] == ["a", "b", "c"]
                served += 1

        clients = [asyncio.create_task(client()) for _ in range(8)]
        for number in range(2, 8):
            fresh = await stack.enter_async_context(pod(addresses, number, current.port, Echo(work)))
            objects.put(kinds.ENDPOINT_SLICE, make.slice_of("echo", [current, fresh], port="grpc"))
            await asyncio.sleep(0.05)
            assert await proxy.drained(current.identity)
            await asyncio.sleep(0.05)  # a process that is told to stop goes on for half a second
            await current.served.server.stop()
            objects.put(kinds.ENDPOINT_SLICE, make.slice_of("echo", [fresh], port="grpc"))
            current = fresh
        running = False
        await asyncio.gather(*clients)
    assert served > 20


async def test_a_server_killed_between_calls_costs_none(
    proxy: Proxy, objects: Any_, addresses: Slice, make: Any_
) -> None:
    ip = f"127.{addresses.number}.128.44"
    async with pod(addresses, 1) as alive, pod(addresses, 2, alive.port) as dead:
        objects.put(kinds.SERVICE, make.service("echo", ip, PORTS))
        objects.put(kinds.ENDPOINT_SLICE, make.slice_of("echo", [alive, dead], port="grpc"))
        assert await proxy.settled(20)
        async with plain_client(f"{ip}:9090") as stub_:
            stub: Any = stub_
            await asyncio.gather(*(stub.Order(say("")) for _ in range(8)))
            assert dead.served.server._server is not None
            await dead.served.server._server.stop(None)
            answers = [(await stub.Order(say(""))).value for _ in range(20)]
    assert answers == ["1"] * 20


async def test_an_ingress_may_lead_to_grpc(proxy: Proxy, objects: Any_, addresses: Slice, make: Any_) -> None:
    ip = f"127.{addresses.number}.128.45"
    backend = {"service": {"name": "echo", "port": {"name": "grpc"}}}
    path = {"path": f"/{NAME}", "pathType": "Prefix", "backend": backend}
    async with pod(addresses, 1) as one:
        objects.put(kinds.SERVICE, make.service("echo", ip, PORTS))
        objects.put(kinds.ENDPOINT_SLICE, make.slice_of("echo", [one], port="grpc"))
        objects.put(
            kinds.INGRESS,
            {"metadata": {"name": "echo", "namespace": "default"}, "spec": {"rules": [{"http": {"paths": [path]}}]}},
        )
        assert await proxy.settled(20)
        async with plain_client(f"127.0.0.1:{proxy.ingress_port}") as stub_:
            stub: Any = stub_
            answers: set[str] = set()
            for _ in range(50):  # the route table has no version that could be waited for
                with contextlib.suppress(grpc.aio.AioRpcError):
                    answers.add((await stub.Order(say(""))).value)
                    break
                await asyncio.sleep(0.05)
    assert answers == {"1"}
