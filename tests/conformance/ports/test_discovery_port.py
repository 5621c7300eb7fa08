"""Every registry keeps the same promises: etcd, Consul, Kubernetes, a list."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sampan.cluster.apiserver.access.pki import Pki
from sampan.cluster.apiserver.server import ApiServer
from sampan.cluster.store import Store
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.service.bindings import Binding, BindingError
from sampan.service.discovery.balancer import Balancer
from sampan.service.discovery.binding import REGISTRIES, Follower, Registration
from sampan.service.discovery.port import Away, Instance, Registry
from sampan.service.http.readiness import Check, Readiness
from sampan.service.process import load_string
from tests.faults import FaultProxy
from tests.servers.base import Server
from tests.servers.etcd import EtcdServer


def opened(uri: str, **values: str) -> Registry:
    kind = uri.partition(":")[0]
    registry: Registry = load_string(REGISTRIES[kind], "registry")(Binding("discovery", kind, uri, values))
    return registry


class Place:
    """A registry and what puts instances there, as others would."""

    host = "127.0.0.1"

    def __init__(self, uri: str) -> None:
        self.service, self.uri = f"users-{os.urandom(3).hex()}", uri
        self.registry = opened(uri)
        self.leases: dict[str, Any] = {}

    def instance(self, number: int) -> Instance:
        return Instance(self.service, f"pod-{number}", f"http://{self.host}:{9000 + number}")

    async def add(self, number: int) -> Instance:
        instance = self.instance(number)
        self.leases[instance.id] = await self.registry.register(instance)
        return instance

    async def remove(self, number: int) -> None:
        await self.leases.pop(f"pod-{number}").end()


class Cluster(Place):
    """The API server of this project; instances are endpoints of a slice each."""

    host = "127.64.1.1"  # a pod's; an endpoint cannot be the machine's own loopback address

    def __init__(self, uri: str, client: Client) -> None:
        super().__init__(uri)
        self.client = client

    async def add(self, number: int) -> Instance:
        await self.client.create(kinds.ENDPOINT_SLICE, self.slice(number))
        return self.instance(number)

    def slice(self, number: int, ready: bool = True) -> dict[str, Any]:
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{self.service}-{number}",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": self.service},
            },
            "addressType": "IPv4",
            "ports": [{"name": "metrics", "port": 1}, {"name": "http", "port": 9000 + number}],
            "endpoints": [
                {
                    "addresses": [self.host],
                    "conditions": {"ready": ready},
                    "targetRef": {"kind": "Pod", "name": f"pod-{number}", "namespace": "default"},
                }
            ],
        }

    async def remove(self, number: int) -> None:
        await self.client.delete(kinds.ENDPOINT_SLICE, f"{self.service}-{number}", "default")


@contextlib.asynccontextmanager
async def cluster(directory: Path, allowed: bool = True) -> AsyncIterator[Cluster]:
    pki = Pki(directory / "pki")
    pki.ensure()
    store = Store.open(directory / "cluster.db")
    server = ApiServer(store, pki)
    await server.start()
    client, port = Client(server.transport()), await server.serve()
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "orders", "namespace": "default"}}
    await client.create(kinds.SERVICE_ACCOUNT, account)
    if allowed:
        rule = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}
        group, meta = "rbac.authorization.k8s.io", {"name": "instances", "namespace": "default"}
        role = {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": meta, "rules": [rule]}
        subject = {"kind": "ServiceAccount", "name": "orders", "namespace": "default"}
        reference = {"apiGroup": group, "kind": "Role", "name": "instances"}
        await client.create(kinds.ROLE, role)
        await client.create(
            kinds.ROLE_BINDING,
            {**role, "kind": "RoleBinding", "subjects": [subject], "roleRef": reference} | {"rules": None},
        )
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "metadata": {"name": "orders", "namespace": "default"},
        "spec": {},
    }
    token = await client.create(kinds.SERVICE_ACCOUNT, request, subresource="token")
    (directory / "account").mkdir()
    (directory / "account/token").write_text(token["status"]["token"])
    (directory / "account/namespace").write_text("default")
    (directory / "account/ca.crt").write_bytes(pki.path("ca.crt").read_bytes())
    place = Cluster(f"kubernetes://127.0.0.1:{port}/default?account={directory / 'account'}", client)
    try:
        yield place
    finally:
        await place.registry.close()
        await server.stop(grace=1.0)
        await store.close()


@pytest.fixture(params=["etcd", "consul", "consul-api", "kubernetes"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, coordination: Callable[[str], Server]
) -> AsyncIterator[Place]:
    if request.param == "kubernetes":
        async with cluster(tmp_path) as found:
            yield found
        return
    made = Place(coordination(request.param).uri)
    yield made
    await made.registry.close()


@pytest.fixture
def own(own_coordination: tuple[str, Server]) -> Server:
    """A server the test may kill."""
    return own_coordination[1]


async def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def following(registry: Registry, service: str) -> AsyncIterator[tuple[Balancer, Follower]]:
    balancer = Balancer(service)
    follower = Follower(registry, balancer)
    await follower.start()
    try:
        yield balancer, follower
    finally:
        await follower.stop()


async def test_a_watch_gives_the_present_set_and_then_each_change(place: Place) -> None:
    one = await place.add(1)
    watch = aiter(place.registry.watch(place.service))
    async with asyncio.timeout(20):
        assert await anext(watch) == (one,)
        two = await place.add(2)
        assert await anext(watch) == (one, two)
        await place.remove(1)
        assert await anext(watch) == (two,)
        await place.remove(2)
        assert await anext(watch) == ()
    await watch.aclose()  # type: ignore[attr-defined]


async def test_services_are_told_apart_even_where_one_name_begins_another(place: Place) -> None:
    watch = aiter(place.registry.watch(place.service[:-1]))
    async with asyncio.timeout(20):
        assert await anext(watch) == ()
        await place.add(1)
        other = aiter(place.registry.watch(place.service))
        assert len(await anext(other)) == 1
    await other.aclose()  # type: ignore[attr-defined]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(watch), 0.3)


async def test_many_changes_end_with_the_last_set(place: Place) -> None:
    async with following(place.registry, place.service) as (balancer, _):
        for number in range(20):
            await place.add(number)
            if number % 2:
                await place.remove(number)
        wanted = {place.instance(number).url for number in range(0, 20, 2)}
        await until(lambda: set(balancer.urls) == wanted, "the even ones")


async def test_a_list_is_what_was_written() -> None:
    registry = opened("static:users=http://10.0.0.2:8080/|http://10.0.0.1:8080, prices=https://p:1")
    watch = aiter(registry.watch("users"))
    assert [one.url for one in await anext(watch)] == ["http://10.0.0.1:8080", "http://10.0.0.2:8080"]
    assert await anext(aiter(registry.watch("nobody"))) == ()
    lease = await registry.register(Instance("x", "1", "http://h"))
    assert await lease.renew()
    await lease.end()
    with pytest.raises(BindingError, match="'users' is not NAME=URL"):
        opened("static:users")


# -- registries on a network ---------------------------------------------------------------------------------------


async def test_the_last_known_set_stays_while_the_registry_is_away(own: Any) -> None:
    place = Place(own.uri)
    one = await place.add(1)
    async with following(place.registry, place.service) as (balancer, follower):
        assert balancer.urls == [one.url]
        own.kill()
        await until(lambda: follower.away, "noticed")
        assert balancer.urls == [one.url]
        own.start()
        two = await place.add(2)
        await until(lambda: two.url in balancer.urls and not follower.away, "followed again")
    await place.registry.close()


async def test_resets_on_the_way_lose_no_change(own: Any) -> None:
    place = Place(own.uri)
    with FaultProxy(("127.0.0.1", own.port)) as proxy:
        through = opened(own.uri.replace(str(own.port), str(proxy.port)))
        async with following(through, place.service) as (balancer, _):
            for number in range(4):
                proxy.refuse = True
                proxy.reset_all()
                added = await place.add(number)
                proxy.refuse = False
                await until(lambda added=added: added.url in balancer.urls, "what came meanwhile")  # type: ignore[misc]
        await through.close()
    await place.registry.close()


async def test_a_half_open_connection_is_noticed_by_its_silence(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sampan.service.coordination.etcd.SILENCE_SECONDS", 0.5)
    monkeypatch.setattr("sampan.service.coordination.consul.WAIT_SECONDS", 1)
    place = Place(own.uri)
    with FaultProxy(("127.0.0.1", own.port)) as proxy:
        through = opened(own.uri.replace(str(own.port), str(proxy.port)))
        async with following(through, place.service) as (balancer, _):
            one = await place.add(1)
            await until(lambda: balancer.urls == [one.url], "the watch")
            proxy.blackhole = True
            two = await place.add(2)
            await asyncio.sleep(0.3)
            proxy.blackhole = False  # what was swallowed stays lost, and the connection open
            await until(lambda: two.url in balancer.urls, "the instance whose news were swallowed")
        await through.close()
    await place.registry.close()


async def test_what_is_not_renewed_ends_by_itself(own: Any) -> None:
    option = "lease=2" if own.uri.startswith("etcd") else "ttl=2"
    place = Place(f"{own.uri}?{option}")
    await place.add(1)
    held = await place.add(2)
    async with following(place.registry, place.service) as (balancer, _):
        assert len(balancer.urls) == 2

        async def renewed() -> None:
            while True:
                assert await place.leases["pod-2"].renew()
                await asyncio.sleep(0.2)

        renewing = asyncio.create_task(renewed())
        await until(lambda: balancer.urls == [held.url], "the other one has ended")
        renewing.cancel()
    await place.registry.close()


async def test_a_registration_follows_readiness_and_is_renewed_and_remade(own: Any) -> None:
    place = Place(f"{own.uri}?lease=2&ttl=2")
    well = True

    async def probe() -> None:
        if not well:
            raise RuntimeError("unwell")

    readiness = Readiness([Check("x", probe, lambda: True)])
    registration = Registration(place.registry, place.instance(1), readiness)
    await registration.start()
    async with following(place.registry, place.service) as (balancer, _):
        await asyncio.sleep(0.1)
        assert not balancer.urls  # not before it is ready
        readiness.started = True
        await until(lambda: balancer.urls, "registered")
        well = False
        await until(lambda: not balancer.urls, "withdrawn")
        well = True
        await until(lambda: balancer.urls and registration._lease is not None, "registered again")
        await registration._lease.end()  # type: ignore[union-attr]  # by somebody else
        await until(lambda: not balancer.urls, "gone")
        await until(lambda: balancer.urls, "registered once more")
        own.kill()
        await until(lambda: registration.away, "noticed")
        own.start()
        await until(lambda: not registration.away, "renewed, or made anew")
        await registration.stop()
        await until(lambda: not balancer.urls, "withdrawn at the end")
    await place.registry.close()


# -- etcd and Kubernetes alone -------------------------------------------------------------------------------------


async def test_etcd_holds_what_the_layout_says_and_reads_what_others_write(
    coordination: Callable[[str], Server],
) -> None:
    server = coordination("etcd")
    assert isinstance(server, EtcdServer)
    place = Place(server.uri)
    await place.add(1)
    assert server.keys(f"/services/{place.service}/") == [f"/services/{place.service}/pod-1"]
    server.put(f"/services/{place.service}/go", "10.0.0.7:8080")
    server.put(f"/services/{place.service}/json", '{"url": "https://h:1/", "metadata": {"zone": "a"}, "more": 1}')
    server.put(f"/services/{place.service}/wrong", "")
    found = await anext(aiter(place.registry.watch(place.service)))
    assert [(one.id, one.url) for one in found] == [
        ("go", "http://10.0.0.7:8080"),
        ("json", "https://h:1"),
        ("pod-1", "http://127.0.0.1:9001"),
    ]
    assert found[1].metadata == {"zone": "a"}
    server.compact(server.put("/x", "y"))
    await place.remove(1)
    await place.registry.close()


async def test_kubernetes_gives_ready_endpoints_only(tmp_path: Path) -> None:
    async with cluster(tmp_path) as place, following(place.registry, place.service) as (balancer, _):
        one, two = await place.add(1), place.instance(2)
        await place.client.create(kinds.ENDPOINT_SLICE, place.slice(2, ready=False))
        await until(lambda: balancer.urls == [one.url], "the ready one")
        await place.client.apply(kinds.ENDPOINT_SLICE, place.slice(2), field_manager="test")
        await until(lambda: set(balancer.urls) == {one.url, two.url}, "both")


async def test_kubernetes_without_leave_says_what_is_needed(tmp_path: Path) -> None:
    async with cluster(tmp_path, allowed=False) as place:
        with pytest.raises(Away, match="403; its account needs list and watch on endpointslices"):
            await anext(aiter(place.registry.watch(place.service)))


# -- whole processes -----------------------------------------------------------------------------------------------

SYSTEM = """
from sampan import Application, Service
users = Service("users", asgi="web:app")
orders = Service("orders", asgi="web:orders", calls=[users])
app = Application("p", services=[users, orders])
"""
WEB = """
import asyncio, json, os, system

async def lifespan(receive, send):
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})

async def answer(send, status, body):
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await asyncio.sleep(0.005)
    await answer(send, 200, os.environ["POD_NAME"].encode())

async def orders(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    try:
        reply = await system.users.client.get("/")
        await answer(send, reply.status, reply.body)
    except Exception as error:
        await answer(send, 599, repr(error).encode())
"""


async def test_instances_come_and_go_under_load_without_a_failed_request(
    coordination: Callable[[str], Server], tmp_path: Path, serve: Any
) -> None:
    """One is added, one stops, one is killed, while another service calls them all the time."""
    server = coordination("etcd")
    assert isinstance(server, EtcdServer)
    (tmp_path / "system.py").write_text(SYSTEM)
    (tmp_path / "web.py").write_text(WEB)
    root = f"/services-{os.urandom(3).hex()}"
    discovery = {"SAMPAN_DISCOVERY": f"{server.uri}{root}?lease=4", "SAMPAN_DRAIN_SECONDS": "0.5"}

    def start(name: str) -> Any:
        return serve("users", POD_NAME=name, **discovery)

    one, two = start("one"), start("two")
    await until(lambda: len(server.keys(f"{root}/users/")) == 2, "two registered")
    orders = await asyncio.to_thread(serve("orders", POD_NAME="orders", **discovery).ready)
    answers: list[tuple[int, str]] = []
    over = False

    async def load(session: aiohttp.ClientSession) -> None:
        while not over:
            async with session.get(f"http://127.0.0.1:{orders.port}/") as reply:
                answers.append((reply.status, await reply.text()))

    def seen() -> set[str]:
        return {name for _, name in answers[-200:]}

    async with aiohttp.ClientSession() as session:
        loading = [asyncio.create_task(load(session)) for _ in range(8)]
        await until(lambda: seen() == {"one", "two"}, "both are called")
        three = start("three")
        await until(lambda: seen() == {"one", "two", "three"}, "the new one is called")
        assert await asyncio.to_thread(one.stop) == 0
        assert f"{root}/users/one" not in server.keys(f"{root}/users/")
        await until(lambda: seen() == {"two", "three"}, "the stopped one is not called")
        two.kill()
        await until(lambda: seen() == {"three"}, "the killed one is not called")
        await until(lambda: server.keys(f"{root}/users/") == [f"{root}/users/three"], "its lease has ended")
        over = True
        await asyncio.gather(*loading)
    assert len(answers) > 300
    assert [answer for answer in answers if answer[0] != 200] == []
    assert three.stop() == 0 and orders.stop() == 0
    assert server.keys(f"{root}/") == []
