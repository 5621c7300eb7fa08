"""Stubs over the instances that discovery knows: shares, instances that die and come back, the policy of the callee."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import pytest

from sampan.model import Application, Breaker, Policy, Service
from sampan.service.discovery.balancer import Balancer
from sampan.service.discovery.binding import bind_discovery, instance_of
from sampan.service.discovery.port import Instance
from sampan.service.http.binding import bind_clients as bind_http_clients
from sampan.service.process import Process
from sampan.service.resilience.breaker import CircuitBreaker
from sampan.service.rpc.binding import bind_clients
from sampan.service.rpc.client import Channel, RpcError, Target
from sampan.service.telemetry.metrics import Registry
from tests.conformance.ports.rpc import Code, until
from tests.service.rpc.echo import NAME, Echo, EchoStub, plain_server, say


def _saying(number: int) -> Callable[[str, Any], int]:
    return lambda text, context: number


class Instances:
    """Echo servers whose answer is their number, and our stub over all of them."""

    def __init__(self, count: int, policy: Policy | None = None) -> None:
        self.clock = 0.0
        self.policy = policy or Policy(retries=1, backoff=0.01)
        self.ports = [0] * count
        self.servicers = [Echo(_saying(number)) for number in range(count)]
        self.servers = [contextlib.AsyncExitStack() for _ in range(count)]
        self.balancer = Balancer("echo", clock=lambda: self.clock, address=lambda instance: instance.grpc)
        self.breaker = CircuitBreaker(self.policy.breaker) if self.policy.breaker else None

    async def start(self, number: int) -> None:
        server = plain_server(self.servicers[number], self.ports[number])
        self.ports[number] = await self.servers[number].enter_async_context(server)

    async def end(self, number: int) -> None:
        await self.servers[number].aclose()

    def list(self, *numbers: int) -> None:
        found = [Instance("echo", str(n), f"http://127.0.0.1:1{n}", grpc=self.url(n)) for n in numbers]
        self.balancer.update(found)

    def url(self, number: int) -> str:
        return f"http://127.0.0.1:{self.ports[number]}"

    async def __aenter__(self) -> Instances:
        for number in range(len(self.ports)):
            await self.start(number)
        self.list(*range(len(self.ports)))
        service = Service("echo", grpc="tests:echo")
        self.channel = Channel(
            service, Target("127.0.0.1:1"), Registry(), self.policy, self.breaker, endpoints=self.balancer
        )
        service.bind_rpc(self.channel)
        self.stub: Any = service.rpc(EchoStub)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.stop()
        for server in self.servers:
            await server.aclose()

    async def answers(self, times: int, method: str = "Say") -> Sequence[int]:
        return [int((await getattr(self.stub, method)(say(""))).value) for _ in range(times)]


@pytest.fixture
async def three() -> AsyncIterator[Instances]:
    async with Instances(3) as instances:
        yield instances


async def test_every_instance_has_its_share_and_the_busy_one_less(three: Instances) -> None:
    found = await three.answers(90)
    assert all(found.count(number) >= 15 for number in range(3)), found
    held = asyncio.Event()

    async def slow(text: str, context: Any) -> int:
        await held.wait()
        return 0

    three.servicers[0].behaviour = slow
    calls = [asyncio.ensure_future(three.stub.Say(say(""))) for _ in range(60)]
    await until(lambda: len(three.servicers[0].seen) - found.count(0) + sum(c.done() for c in calls) >= 60)
    stuck = sum(not call.done() for call in calls)
    three.servicers[0].seen.clear()
    assert 0 not in await three.answers(20)  # it is the busier one of any two
    assert 1 <= stuck < 40
    held.set()
    await asyncio.wait(calls)


@pytest.mark.parametrize("method", ["Say", "Order"])
async def test_a_dead_instance_fails_no_call_is_left_out_and_comes_back(three: Instances, method: str) -> None:
    """Even what is not declared safe is tried elsewhere when there was no connection: nothing was sent. One retry is
    enough, since it goes to another instance."""
    await three.answers(12, method)
    await three.end(1)
    found = await three.answers(60, method)
    assert set(found) == {0, 2}
    refused = three.channel.requests.value(NAME, method, "UNAVAILABLE")
    assert 1 <= refused <= 8  # five in a row, and it was ejected
    assert set(await three.answers(30, method)) == {0, 2}
    assert three.channel.requests.value(NAME, method, "UNAVAILABLE") == refused
    await three.start(1)
    three.clock += 10

    async def back() -> bool:
        three.clock += 10  # its connection is tried again by and by
        return 1 in await three.answers(6, method)

    async with asyncio.timeout(20):
        while not await back():
            await three.answers(20, method)


async def test_instances_follow_the_registry(three: Instances) -> None:
    three.list(2)
    assert set(await three.answers(9)) == {2}
    three.list(0, 1)
    assert set(await three.answers(30)) == {0, 1}
    three.balancer.update([Instance("echo", "old", "http://127.0.0.1:1")])  # of a release that does not say
    with pytest.raises(RpcError) as failed:  # and so by the name of the service, where nobody is
        await three.stub.Say(say(""))
    assert failed.value.code() is Code.UNAVAILABLE


async def unavailable(text: str, context: Any) -> str:
    await context.abort(Code.UNAVAILABLE, "busy")
    return ""


@pytest.mark.parametrize(("method", "safe"), [("Say", True), ("Order", False)])
async def test_what_reached_a_server_is_repeated_elsewhere_only_where_it_is_safe(method: str, safe: bool) -> None:
    async with Instances(3, Policy(retries=9, backoff=0.001, retry_minimum=1000)) as three:
        three.servicers[0].behaviour = unavailable
        failed = 0
        for _ in range(80):
            try:
                await three.answers(1, method)
            except RpcError as error:
                assert error.code() is Code.UNAVAILABLE
                failed += 1
        attempts = sum(len(servicer.seen) for servicer in three.servicers)
        tried = len(three.servicers[0].seen)
        assert tried == 5  # in a row, and it was ejected
        assert (failed, attempts) == ((0, 80 + tried) if safe else (tried, 80))
        assert three.channel.requests.value(NAME, method, "UNAVAILABLE") == tried


async def test_the_deadline_covers_all_tries_and_the_budget_ends_them() -> None:
    async with Instances(2, Policy(retries=4, backoff=0.2, backoff_most=0.2, timeout=0.5)) as two:
        for servicer in two.servicers:
            servicer.behaviour = unavailable
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(RpcError):
            await two.answers(1)
        assert loop.time() - began < 2
        assert sum(len(servicer.seen) for servicer in two.servicers) <= 5
    async with Instances(2, Policy(retries=4, backoff=0.001, retry_budget=0, retry_minimum=0)) as two:
        for servicer in two.servicers:
            servicer.behaviour = unavailable
        with pytest.raises(RpcError):
            await two.answers(1)
        assert sum(len(servicer.seen) for servicer in two.servicers) == 1


async def test_a_slow_instance_costs_one_attempt_of_what_is_safe() -> None:
    async with Instances(2, Policy(retries=9, backoff=0.001, attempt_timeout=0.2, timeout=20)) as two:
        two.servicers[0].behaviour = forever
        assert set(await two.answers(5)) == {1}
        two.clock += 100  # if it was ejected, it is back
        with pytest.raises(RpcError) as failed:
            for _ in range(40):
                await two.answers(1, "Order")
        assert failed.value.code() is Code.DEADLINE_EXCEEDED


async def test_the_breaker_opens_when_all_are_bad_not_when_one_is() -> None:
    policy = Policy(retries=0, breaker=Breaker(failures=4))
    async with Instances(2, policy) as two:
        two.servicers[0].behaviour = unavailable
        for _ in range(30):
            with contextlib.suppress(RpcError):
                await two.answers(1)
        assert two.breaker is not None and two.breaker.allow()
        two.breaker.abandoned()
        two.servicers[1].behaviour = unavailable
        for _ in range(30):
            with contextlib.suppress(RpcError):
                await two.answers(1)
        assert not two.breaker.allow()


async def test_a_call_is_cancelled_and_asked_about_like_any_other(three: Instances) -> None:
    three.servicers[0].behaviour = three.servicers[1].behaviour = three.servicers[2].behaviour = forever
    call = three.stub.Say(say(""))
    ended: list[Any] = []
    call.add_done_callback(ended.append)
    await until(lambda: any(servicer.seen for servicer in three.servicers))
    assert not call.done()
    assert call.time_remaining() > 1
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: bool(ended))
    assert call.done() and call.cancelled()
    for servicer in three.servicers:
        servicer.behaviour = None
    call = three.stub.Say(say("x"))
    assert (await call).value == "x"
    assert await call.code() is grpc.StatusCode.OK
    assert [m.value async for m in three.stub.Down(say("a b"))] == ["a", "b"]


async def forever(text: str, context: Any) -> str:
    await asyncio.sleep(60)
    return ""


async def test_a_process_has_its_stubs_over_discovery(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Instances(2) as two:
        places = "|".join(f"grpc://127.0.0.1:{port}" for port in two.ports)
        monkeypatch.setenv("SAMPAN_DISCOVERY", f"static:echo={places}|http://127.0.0.1:9")
        callee = Service("echo", grpc="tests:echo")
        caller = Service("web", asgi="a:b", calls=[callee], grpc="tests:echo")
        Application("system", services=[callee, caller])
        process = Process(caller)
        bind_discovery(process)
        bind_http_clients(process, [callee, caller])
        bind_clients(process, [callee, caller])
        await process.start()
        try:
            stub: Any = callee.rpc(EchoStub)
            answers = {(await stub.Say(say(""))).value for _ in range(20)}
            assert answers == {"0", "1"}
        finally:
            await process.stop()
        monkeypatch.setenv("SAMPAN_POD_IP", "127.0.0.7")
        assert instance_of(process, 8080, "https").grpc == "https://127.0.0.7:9090"
        monkeypatch.setenv(callee.rpc_variable, "127.0.0.1:1")
        other = Process(caller)
        bind_discovery(other)
        assert other.shared["rpc endpoints"](callee) is None
