"""Services through a real Envoy: addresses, protocols, endpoints that come and go under load."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import aiohttp
import pytest

from sampan.cluster.address import Slice, can_bind
from sampan.cluster.proxy import services
from sampan.cluster.proxy.proxy import Proxy
from sampan.kube import kinds

Any_ = Any


@pytest.mark.parametrize(
    ("port", "protocol"),
    [
        ({"port": 80}, "http"),
        ({"port": 3306}, "tcp"),
        ({"port": 3306, "name": "http-admin"}, "http"),
        ({"port": 8080, "name": "https"}, "tcp"),
        ({"port": 8080, "name": "tcp-raw"}, "tcp"),
        ({"port": 8080, "name": "main"}, "http"),
        ({"port": 9999, "name": "grpc"}, "http2"),
        ({"port": 9999, "name": "grpc-users"}, "http2"),
        ({"port": 9999, "name": "grpc-web"}, "http"),
        ({"port": 9999, "appProtocol": "grpc"}, "http2"),
        ({"port": 9999, "appProtocol": "grpc-web"}, "http"),
        ({"port": 9999, "appProtocol": "kubernetes.io/h2c"}, "http2"),
        ({"port": 80, "appProtocol": "redis"}, "tcp"),
        ({"port": 53, "protocol": "UDP"}, "udp"),
    ],
)
def test_what_a_port_speaks(port: dict[str, Any], protocol: str) -> None:
    assert services.protocol_of(port) == protocol


async def test_traffic_follows_ready_endpoints(
    proxy: Proxy, objects: Any_, addresses: Slice, backends: Any_, make: Any_, fetch: Any_
) -> None:
    one = await backends("one")
    two = await backends("two", port=one.port)
    ip = f"127.{addresses.number}.128.10"
    objects.put(kinds.SERVICE, make.service("web", ip))
    objects.put(kinds.ENDPOINT_SLICE, make.slice_of("web", [one]))
    assert await proxy.settled(20)
    assert (await fetch(f"http://{ip}/hello"))[1] == "one GET /hello"
    objects.put(kinds.ENDPOINT_SLICE, make.slice_of("web", [two]))
    assert await proxy.settled(20)
    assert (await fetch(f"http://{ip}/"))[1] == "two GET /"
    objects.remove(kinds.SERVICE, "default/web")
    assert await proxy.settled(20)
    with pytest.raises(aiohttp.ClientError):
        await fetch(f"http://{ip}/")


async def test_no_request_is_lost_while_endpoints_change(
    proxy: Proxy, objects: Any_, addresses: Slice, backends: Any_, make: Any_
) -> None:
    """A rolling update, ten times over: the new one turns ready, the old one is drained, then killed."""
    current = await backends("pod-0", delay=0.002)
    ip = f"127.{addresses.number}.128.11"
    objects.put(kinds.SERVICE, make.service("web", ip, [{"port": 8080, "name": "http"}]))
    objects.put(kinds.ENDPOINT_SLICE, make.slice_of("web", [current], port="http"))
    assert await proxy.settled(20)
    failures: list[str] = []
    served = 0
    running = True

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal served
        while running:
            async with session.post(f"http://{ip}:8080/", data=b"order") as reply:
                if reply.status == 200:
                    served += 1
                else:
                    failures.append(f"{reply.status} {await reply.text()}")

    async with aiohttp.ClientSession() as session:
        clients = [asyncio.create_task(client(session)) for _ in range(8)]
        for round_ in range(10):
            fresh = await backends(f"pod-{round_ + 1}", port=current.port, delay=0.002)
            objects.put(kinds.ENDPOINT_SLICE, make.slice_of("web", [current, fresh], port="http"))
            enough = served + 30
            for _ in range(3000):
                if served >= enough:
                    break
                await asyncio.sleep(0.01)
            assert served >= enough
            # as the kubelet does: before the slice has changed at all
            assert await proxy.drained({"metadata": {"name": current.name, "uid": f"pod-{current.name}"}})
            await asyncio.sleep(0.01)  # requests in flight end
            await current.stop()
            objects.put(kinds.ENDPOINT_SLICE, make.slice_of("web", [fresh], port="http"))
            current = fresh
        running = False
        await asyncio.gather(*clients)
    assert not failures


async def test_a_dead_endpoint_costs_no_request(
    proxy: Proxy, objects: Any_, addresses: Slice, backends: Any_, make: Any_, fetch: Any_
) -> None:
    alive = await backends("alive")
    dead = await backends("dead", port=alive.port)
    ip = f"127.{addresses.number}.128.12"
    objects.put(kinds.SERVICE, make.service("web", ip))
    objects.put(kinds.ENDPOINT_SLICE, make.slice_of("web", [alive, dead]))
    assert await proxy.settled(20)
    await dead.stop()
    answers = [await fetch(f"http://{ip}/", method="POST") for _ in range(20)]
    assert answers == [(200, "alive POST /")] * 20


async def test_tcp_node_ports_and_load_balancers(
    proxy: Proxy, objects: Any_, addresses: Slice, backends: Any_, make: Any_, fetch: Any_
) -> None:
    backend = await backends("db")
    ip = f"127.{addresses.number}.128.13"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        node_port = probe.getsockname()[1]
    ports = [{"port": 5432, "name": "sql", "nodePort": node_port}]
    objects.put(kinds.SERVICE, make.service("db", ip, ports, type="LoadBalancer", sessionAffinity="ClientIP"))
    objects.put(kinds.ENDPOINT_SLICE, make.slice_of("db", [backend], port="sql"))
    assert await proxy.settled(20)
    await asyncio.sleep(0.05)
    assert await proxy.settled(20)
    status = objects.of_kind("Service")[0]["status"]["loadBalancer"]["ingress"][0]["ip"]
    assert status == f"127.{addresses.number}.0.2"
    for where in (f"{ip}:5432", f"127.0.0.1:{node_port}", f"{addresses.node}:{node_port}", f"{status}:5432"):
        assert (await fetch(f"http://{where}/"))[1] == "db GET /"


async def test_a_load_balancer_keeps_its_address_and_gives_it_back(
    proxy: Proxy, objects: Any_, addresses: Slice, make: Any_
) -> None:
    def given() -> dict[str, str]:
        listed = ((obj["metadata"]["name"], obj.get("status") or {}) for obj in objects.of_kind("Service"))
        return {name: status["loadBalancer"]["ingress"][0]["ip"] for name, status in listed if status}

    async def settle() -> None:
        for _ in range(3):  # the status that was written is an event of its own
            await asyncio.sleep(0.03)
            assert await proxy.settled(20)

    first, second = (f"127.{addresses.number}.0.{number}" for number in (2, 3))
    wanted = make.service("one", f"127.{addresses.number}.128.31", type="LoadBalancer")
    stored = objects.put(kinds.SERVICE, wanted)
    # seen again before its status is: it is promised one address, not the next
    assert proxy._load_balancer(stored) == proxy._load_balancer(stored) == first
    await settle()
    assert given() == {"one": first}
    objects.put(kinds.SERVICE, make.service("two", f"127.{addresses.number}.128.32", type="LoadBalancer"))
    await settle()
    assert given() == {"one": first, "two": second}
    objects.remove(kinds.SERVICE, "default/one")
    await settle()
    objects.put(kinds.SERVICE, make.service("three", f"127.{addresses.number}.128.33", type="LoadBalancer"))
    await settle()
    assert given() == {"two": second, "three": first}


async def test_what_cannot_be_bound_is_an_event_and_spoils_nothing(
    proxy: Proxy, objects: Any_, addresses: Slice, backends: Any_, make: Any_, fetch: Any_
) -> None:
    backend = await backends("web")
    ip = f"127.{addresses.number}.128.14"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        ports = [{"port": 80, "nodePort": port}, {"port": 53, "protocol": "UDP", "name": "dns"}]
        objects.put(kinds.SERVICE, make.service("web", ip, ports, type="NodePort"))
        objects.put(kinds.ENDPOINT_SLICE, make.slice_of("web", [backend]))
        assert await proxy.settled(20)
        assert (await fetch(f"http://{ip}/"))[0] == 200
        assert (await fetch(f"http://{addresses.node}:{port}/"))[0] == 200
        await asyncio.sleep(0.5)
    await asyncio.sleep(0.5)
    assert await proxy.settled(20)
    assert (await fetch(f"http://127.0.0.1:{port}/"))[0] == 200, "free again, taken up"
    await proxy._events.flush()
    assert {event["reason"] for event in objects.of_kind("Event")} == {"PortNotBindable", "ProtocolNotSupported"}


async def test_envoy_is_replaced_when_it_dies(
    proxy: Proxy, objects: Any_, addresses: Slice, backends: Any_, make: Any_, fetch: Any_
) -> None:
    import os
    import signal

    backend = await backends("web")
    ip = f"127.{addresses.number}.128.15"
    objects.put(kinds.SERVICE, make.service("web", ip))
    objects.put(kinds.ENDPOINT_SLICE, make.slice_of("web", [backend]))
    assert await proxy.settled(20)
    pid = proxy.envoy.pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    while proxy.envoy.pid in {pid, None}:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await proxy.envoy.ready()
    assert await proxy.settled(20)
    assert (await fetch(f"http://{ip}/"))[0] == 200


async def test_a_privileged_port_says_how_to_allow_it_and_answers_elsewhere(
    proxy: Proxy,
    objects: Any_,
    addresses: Slice,
    backends: Any_,
    make: Any_,
    fetch: Any_,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def as_an_ordinary_user(host: str, port: int) -> OSError | None:
        return PermissionError(errno.EACCES, "Permission denied") if port < 1024 else can_bind(host, port)

    monkeypatch.setattr("sampan.cluster.proxy.proxy.can_bind", as_an_ordinary_user)
    backend = await backends("web")
    ip = f"127.{addresses.number}.128.16"
    objects.put(kinds.SERVICE, make.service("web", ip))
    objects.put(kinds.ENDPOINT_SLICE, make.slice_of("web", [backend]))
    assert await proxy.settled(20)
    assert (await fetch(f"http://{ip}:10080/"))[0] == 200
    await proxy._events.flush()
    message = objects.of_kind("Event")[0]["message"]
    assert "sysctl -w net.ipv4.ip_unprivileged_port_start=80" in message
    assert "port 10080" in message


async def _refused(host: str, port: int) -> bool:
    """Whether connections come to be refused: a worker closes its socket a moment after the listener is gone."""
    for _ in range(100):
        try:
            _, writer = await asyncio.open_connection(host, port)
        except ConnectionRefusedError:
            return True
        writer.close()
        await asyncio.sleep(0.02)
    return False


async def test_a_tcp_port_with_nobody_behind_refuses_and_open_connections_stay(
    proxy: Proxy, objects: Any_, addresses: Slice, backends: Any_, make: Any_
) -> None:
    backend = await backends("db")
    ip = f"127.{addresses.number}.128.17"
    objects.put(kinds.SERVICE, make.service("db", ip, [{"port": 5432, "name": "sql"}]))
    empty = {**make.slice_of("db", [backend], port="sql"), "endpoints": []}
    for _ in range(3):
        objects.put(kinds.ENDPOINT_SLICE, empty)
        assert await proxy.settled(20)
        assert await _refused(ip, 5432)
        objects.put(kinds.ENDPOINT_SLICE, make.slice_of("db", [backend], port="sql"))
        await asyncio.sleep(0.02)
        assert await proxy.settled(20)
        reader, writer = await asyncio.open_connection(ip, 5432)
        writer.write(b"GET /1 HTTP/1.1\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    objects.put(kinds.ENDPOINT_SLICE, empty)
    assert await proxy.settled(20)
    writer.write(b"GET /2 HTTP/1.1\r\n\r\n")
    assert b"/2" in await asyncio.wait_for(reader.readuntil(b"/2"), 2)
    writer.close()
