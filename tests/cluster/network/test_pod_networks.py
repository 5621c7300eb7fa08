"""Pods' networks in a real kernel: who reaches whom, what rules refuse, what leaves, and that nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.cluster.kubelet import linux
from sampan.cluster.kubelet.zygote import Zygote
from sampan.cluster.network import gateway as gateways
from sampan.cluster.network import rules
from sampan.cluster.network.gateway import Gateway
from sampan.cluster.network.netlink import Netlink, add_address, delete_link
from sampan.cluster.network.pods import PodNetwork, Refused
from sampan.cluster.network.policy import Isolation, Pod, isolate, may

NUMBER = 64
TCP, UDP = 6, 17


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    warm = Zygote.start(("msgspec",))
    yield warm
    warm.stop()


@pytest.fixture
def network(zygote: Zygote) -> Iterator[PodNetwork]:
    before = socket.if_nameindex()
    try:
        made = PodNetwork(NUMBER, zygote.router(NUMBER))
    except Refused as error:
        pytest.skip(f"this system gives pods no network of their own: {error}")
    yield made
    made.close()
    assert socket.if_nameindex() == before


class Inside:
    """A pod without programs: sockets of its network."""

    def __init__(self, network: PodNetwork, ip: str, namespace: int) -> None:
        self.network, self.ip, self.namespace = network, ip, namespace

    def listen(self, port: int, host: str = "0.0.0.0") -> socket.socket:
        return self.network.socket(inside=self.namespace, listen=(host, port))

    def receive(self, port: int) -> socket.socket:
        return self.network.socket(inside=self.namespace, listen=("0.0.0.0", port), kind=socket.SOCK_DGRAM)

    async def reaches(self, host: str, port: int) -> bool:
        """False when refused; anything else is an error."""
        made = self.network.socket(inside=self.namespace)
        with made:
            try:
                async with asyncio.timeout(5):
                    await asyncio.get_running_loop().sock_connect(made, (host, port))
            except ConnectionRefusedError:
                return False
        return True


@contextlib.asynccontextmanager
async def pods(network: PodNetwork, count: int) -> AsyncIterator[list[Inside]]:
    made = []
    try:
        for index in range(count):
            ip = f"10.{NUMBER}.1.{index + 1}"
            made.append(Inside(network, ip, await network.attach(ip)))
        yield made
    finally:
        for pod in made:
            os.close(pod.namespace)


def only(ip: str, *sources: str) -> Isolation:
    spec: dict[str, Any] = {"podSelector": {"matchLabels": {"ip": ip}}, "ingress": []}
    if sources:
        peers = [{"ipBlock": {"cidr": f"{source}/32"}} for source in sources]
        spec["ingress"] = [{"from": peers}]
    everybody = [Pod(f"10.{NUMBER}.1.{n}", "a", {"ip": f"10.{NUMBER}.1.{n}"}) for n in (1, 2, 3)]
    return isolate([{"metadata": {"name": "p", "namespace": "a"}, "spec": spec}], {}, everybody)


async def enforce(network: PodNetwork, isolation: Isolation, services: tuple[rules.Service, ...] = ()) -> None:
    addresses = frozenset(f"10.{NUMBER}.1.{n}" for n in range(1, 10))
    await network.apply(rules.compile_rules(NUMBER, isolation, addresses, services))


async def test_pods_use_one_port_side_by_side_and_keep_their_loopback(network: PodNetwork) -> None:
    async with pods(network, 3) as (one, two, three):
        with one.listen(8000), two.listen(8000), three.listen(8000, "127.0.0.1"):
            assert await one.reaches(two.ip, 8000)
            assert await two.reaches(one.ip, 8000)
            assert await three.reaches("127.0.0.1", 8000)
            assert not await one.reaches(three.ip, 8000)
            assert not await one.reaches(two.ip, 8001)
        _, writer = await asyncio.open_connection(sock=await _dial(network, one))
        writer.close()


async def _dial(network: PodNetwork, pod: Inside) -> socket.socket:
    with pod.listen(8080):
        made = network.socket()
        await asyncio.get_running_loop().sock_connect(made, (pod.ip, 8080))
        return made


async def test_a_denied_connection_is_refused_and_an_open_one_lives(network: PodNetwork) -> None:
    loop = asyncio.get_running_loop()
    async with pods(network, 3) as (one, two, three):
        with two.listen(8000) as listener, network.socket(inside=one.namespace) as open_:
            await loop.sock_connect(open_, (two.ip, 8000))
            accepted, peer = await loop.sock_accept(listener)
            assert peer[0] == one.ip  # with its own address
            await enforce(network, only(two.ip, three.ip))
            assert (await one.reaches(two.ip, 8000), await three.reaches(two.ip, 8000)) == (False, True)
            with accepted:
                await loop.sock_sendall(open_, b"still")
                assert await loop.sock_recv(accepted, 10) == b"still"
            await enforce(network, only(two.ip, one.ip))
            assert (await one.reaches(two.ip, 8000), await three.reaches(two.ip, 8000)) == (True, False)
            # The node itself (probes, the Ingress) is not subject to policies.
            _, writer = await network.connect(two.ip, 8000)
            writer.close()


async def test_datagrams_are_refused_too(network: PodNetwork) -> None:
    loop = asyncio.get_running_loop()
    async with pods(network, 3) as (one, two, three):
        with two.receive(9000) as server:
            await enforce(network, only(two.ip, three.ip))
            for sender, passes in ((three, True), (one, False)):
                with network.socket(inside=sender.namespace, kind=socket.SOCK_DGRAM) as client:
                    client.connect((two.ip, 9000))
                    await loop.sock_sendall(client, b"hello")
                    async with asyncio.timeout(5):
                        if passes:
                            assert await loop.sock_recv(server, 10) == b"hello"
                        else:
                            with pytest.raises(ConnectionRefusedError):
                                await loop.sock_recv(client, 10)


@pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user cannot enter the namespace to try")
async def test_a_pod_cannot_speak_with_anothers_address(network: PodNetwork) -> None:
    loop = asyncio.get_running_loop()
    async with pods(network, 3) as (one, two, three):
        await enforce(network, only(two.ip, three.ip))
        with two.receive(9000) as server, network.socket(inside=one.namespace, kind=socket.SOCK_DGRAM) as client:

            def claim() -> None:
                linux.set_namespace(one.namespace, linux.CLONE_NEWNET)
                with contextlib.closing(Netlink(0)) as route:
                    add_address(route, socket.if_nametoindex("eth0"), three.ip, 32)

            thread = threading.Thread(target=claim)  # which stays in there, so it is no thread of a pool
            thread.start()
            thread.join()
            client.bind((three.ip, 0))
            client.connect((two.ip, 9000))
            await loop.sock_sendall(client, b"forged")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await loop.sock_recv(server, 10)


async def test_a_service_is_refused_to_who_may_not_reach_its_pods(network: PodNetwork) -> None:
    address = f"127.{NUMBER}.130.7"
    async with pods(network, 3) as (one, two, three):
        service = rules.Service((address,), 80, ((two.ip, 8000),))
        with network.socket(listen=(address, 80)):  # where Envoy listens
            await enforce(network, only(two.ip, three.ip), (service,))
            assert (await one.reaches(address, 80), await three.reaches(address, 80)) == (False, True)
            await enforce(network, Isolation({}, {}), (service,))
            assert await one.reaches(address, 80)


@pytest.mark.parametrize("seed", range(6))
async def test_the_kernel_decides_as_the_policies_mean(network: PodNetwork, seed: int) -> None:
    """Random policies: what connects is what `may` allows, for every pair of pods and several ports."""
    chance = random.Random(seed)
    ports = (8000, 8005, 9000)
    async with pods(network, 5) as inside:
        known = [
            Pod(pod.ip, chance.choice("ab"), {"app": chance.choice("xy")}, {(TCP, "main"): chance.choice(ports)})
            for pod in inside
        ]
        policies = [_policy(chance, [pod.ip for pod in inside]) for _ in range(chance.randint(2, 5))]
        isolation = isolate(policies, {"a": {"ns": "a"}, "b": {"ns": "b"}}, known)
        await enforce(network, isolation)
        with contextlib.ExitStack() as stack:
            for pod in inside:
                for port in ports:
                    stack.enter_context(pod.listen(port))
            for source in inside:
                for target in inside:
                    if source is target:
                        continue
                    for port in ports:
                        expected = may(isolation, source.ip, target.ip, TCP, port)
                        assert await source.reaches(target.ip, port) == expected, (source.ip, target.ip, port, policies)


def _policy(chance: random.Random, addresses: list[str]) -> dict[str, Any]:
    def selector() -> dict[str, Any]:
        other = {"key": "app", "operator": "NotIn", "values": ["x"]}
        return chance.choice([{}, {"matchLabels": {"app": "x"}}, {"matchExpressions": [other]}])

    def peer() -> dict[str, Any]:
        return chance.choice(
            [
                {"podSelector": selector()},
                {"namespaceSelector": chance.choice([{}, {"matchLabels": {"ns": "b"}}])},
                {"namespaceSelector": {"matchLabels": {"ns": "a"}}, "podSelector": selector()},
                {"ipBlock": {"cidr": f"10.{NUMBER}.0.0/16", "except": [f"{chance.choice(addresses)}/32"]}},
                {"ipBlock": {"cidr": f"10.{NUMBER}.1.0/30"}},
            ]
        )

    def rule(direction: str) -> dict[str, Any]:
        ports = [[], [{"port": 8000}], [{"port": 8000, "endPort": 8999}], [{"port": "main"}], [{"protocol": "UDP"}]]
        peers = [peer() for _ in range(chance.randint(0, 2))]
        return {key: value for key, value in ((direction, peers), ("ports", chance.choice(ports))) if value}

    types = chance.choice([["Ingress"], ["Egress"], ["Ingress", "Egress"]])
    spec: dict[str, Any] = {"podSelector": selector(), "policyTypes": types}
    if "Ingress" in types:
        spec["ingress"] = [rule("from") for _ in range(chance.randint(0, 2))]
    if "Egress" in types:
        spec["egress"] = [rule("to") for _ in range(chance.randint(0, 2))]
    return {"metadata": {"name": "p", "namespace": chance.choice("ab")}, "spec": spec}


async def test_what_leaves_the_cluster_goes_by_this_machine(
    network: PodNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"you said " + await reader.read(-1))
        await writer.drain()
        writer.close()

    far = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = far.sockets[0].getsockname()[1]
    gateway = Gateway(network)
    await gateway.start()
    try:
        async with pods(network, 1) as (one,):
            # The router's address stands for this machine; so does the node's own.
            for host in (network.router, f"127.{NUMBER}.0.1"):
                if host != network.router:
                    far = await asyncio.start_server(echo, host, 0)
                    port = far.sockets[0].getsockname()[1]
                reader, writer = await network.connect(host, port, inside=one.namespace)
                writer.write(b"x" * 300_000)
                writer.write_eof()
                assert await reader.read(-1) == b"you said " + b"x" * 300_000
                writer.close()
                far.close()
            with pytest.raises(OSError, match=r"reset|closed") as caught:  # nobody listens there any more
                reader, writer = await network.connect(network.router, port, inside=one.namespace)
                if not await reader.read(1):
                    raise OSError(errno.ECONNRESET, "closed")
            assert caught.value.errno == errno.ECONNRESET
    finally:
        await gateway.stop()


async def test_names_are_asked_of_this_machines_server(network: PodNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setblocking(False)
        server.bind(("127.0.0.1", 0))
        monkeypatch.setattr(gateways, "name_server", lambda: "127.0.0.1")
        monkeypatch.setattr(gateways, "DNS_FAR_PORT", server.getsockname()[1])
        gateway = Gateway(network)
        await gateway.start()
        try:
            async with pods(network, 1) as (one,):
                with network.socket(inside=one.namespace, kind=socket.SOCK_DGRAM) as client:
                    client.connect((network.router, 53))
                    await loop.sock_sendall(client, b"question")
                    async with asyncio.timeout(5):
                        asked, whom = await loop.sock_recvfrom(server, 100)
                        server.sendto(b"answer to " + asked, whom)
                        assert await loop.sock_recv(client, 100) == b"answer to question"
        finally:
            await gateway.stop()


async def test_a_refused_rule_set_names_the_rule_and_changes_nothing(network: PodNetwork) -> None:
    async with pods(network, 2) as (one, two):
        await enforce(network, only(two.ip))
        batch = rules.compile_rules(NUMBER, Isolation({}, {}), frozenset(), ())
        batch.rule(rules.TABLE, "nowhere")
        with pytest.raises(OSError, match="rule of nowhere"):
            await network.apply(batch)
        with two.listen(8000):
            assert not await one.reaches(two.ip, 8000)


async def test_the_router_ends_with_its_channel(zygote: Zygote) -> None:
    children = Path(f"/proc/{zygote.pid}/task/{zygote.pid}/children")
    before = set(children.read_text().split())
    try:
        network = PodNetwork(NUMBER, zygote.router(NUMBER))
    except Refused as error:
        pytest.skip(f"this system gives pods no network of their own: {error}")
    (router,) = set(children.read_text().split()) - before
    network.close()
    async with asyncio.timeout(10):
        while Path(f"/proc/{router}").exists():  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.02)


def test_a_refusal_of_the_kernel_names_what_it_was_about() -> None:
    with contextlib.closing(Netlink(0)) as netlink, pytest.raises(OSError, match="delete nobody"):
        delete_link(netlink, "nobody")
