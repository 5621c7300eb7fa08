"""Ingress rules, as networking.k8s.io/v1 has them, through a real Envoy."""

from __future__ import annotations

import asyncio
import base64
import ssl
from pathlib import Path
from typing import Any

from sampan.cluster.address import Slice
from sampan.cluster.proxy.proxy import Proxy
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.transport import Request
from sampan.operator.cache import Cache
from tests.servers.certificates import Authority

Any_ = Any


def ingress(name: str, rules: list[dict[str, Any]], **extra: Any) -> dict[str, Any]:
    annotations = extra.pop("annotations", {})
    return {
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {"rules": rules, **extra},
    }


def rule(host: str | None, *paths: tuple[str, str, str]) -> dict[str, Any]:
    """(path, pathType, service) under a host."""
    found = [
        {"path": path, "pathType": kind, "backend": {"service": {"name": to, "port": {"number": 80}}}}
        for path, kind, to in paths
    ]
    return {**({"host": host} if host else {}), "http": {"paths": found}}


async def _services(objects: Any_, addresses: Slice, backends: Any_, make: Any_, *names: str) -> None:
    for number, name in enumerate(names):
        backend = await backends(name)
        objects.put(kinds.SERVICE, make.service(name, f"127.{addresses.number}.128.{20 + number}"))
        objects.put(kinds.ENDPOINT_SLICE, make.slice_of(name, [backend]))


async def test_rules(proxy: Proxy, objects: Any_, addresses: Slice, backends: Any_, make: Any_, fetch: Any_) -> None:
    await _services(objects, addresses, backends, make, "root", "api", "exact", "wild", "fallback")
    rules = [
        rule(None, ("/", "Prefix", "root"), ("/api/", "Prefix", "api"), ("/api", "Exact", "exact")),
        rule("shop.example.com", ("/only", "Prefix", "api")),
        rule("*.example.com", ("/", "Prefix", "wild")),
    ]
    objects.put(kinds.INGRESS, ingress("site", rules))
    assert await proxy.settled(20)
    table = {
        ("", "/"): "root",
        ("", "/apiary"): "root",
        ("", "/api"): "exact",
        ("", "/api/"): "api",
        ("", "/api/v1?x=1"): "api",
        ("shop.example.com", "/only/this"): "api",
        ("shop.example.com", "/other"): None,
        ("a.example.com", "/api"): "wild",
        ("a.example.com:8080", "/api"): "wild",
        ("a.b.example.com", "/api/x"): "api",
    }
    for (host, path), expected in table.items():
        status, text = await fetch(proxy.ingress_url + path, {"host": host} if host else None)
        assert (status, text.partition(" ")[0] if expected else None) == (200 if expected else 404, expected), (
            host,
            path,
        )
    assert objects.of_kind("Ingress")[0]["status"]["loadBalancer"]["ingress"] == [{"ip": "127.0.0.1"}]


async def test_rewrite_and_default_backend(
    proxy: Proxy, objects: Any_, addresses: Slice, backends: Any_, make: Any_, fetch: Any_
) -> None:
    await _services(objects, addresses, backends, make, "api", "fallback")
    prefix = "nginx.ingress.kubernetes.io/"
    objects.put(
        kinds.INGRESS,
        ingress(
            "rewritten",
            [rule("shop.test", ("/api(/|$)(.*)", "ImplementationSpecific", "api"), ("/no(?=x)", "Prefix", "api"))],
            annotations={prefix + "rewrite-target": "/$2", prefix + "use-regex": "true"},
            defaultBackend={"service": {"name": "fallback", "port": {"number": 80}}},
        ),
    )
    objects.put(kinds.INGRESS, ingress("foreign", [rule("shop.test", ("/", "Prefix", "api"))], ingressClassName="kong"))
    assert await proxy.settled(20)
    assert (await fetch(proxy.ingress_url + "/api/users?x=1", {"host": "shop.test"}))[1] == "api GET /users?x=1"
    assert (await fetch(proxy.ingress_url + "/api", {"host": "shop.test"}))[1] == "api GET /"
    assert (await fetch(proxy.ingress_url + "/other", {"host": "shop.test"}))[1] == "fallback GET /other"
    assert (await fetch(proxy.ingress_url + "/other"))[1] == "fallback GET /other"
    await proxy._events.flush()
    assert [event["reason"] for event in objects.of_kind("Event")] == ["InvalidRule"]


async def test_a_missing_service_is_503_until_it_is_there(
    proxy: Proxy, objects: Any_, addresses: Slice, backends: Any_, make: Any_, fetch: Any_
) -> None:
    objects.put(kinds.INGRESS, ingress("early", [rule(None, ("/", "Prefix", "late"))]))
    assert await proxy.settled(20)
    status, text = await fetch(proxy.ingress_url)
    assert (status, text) == (503, 'service "late" with port 80 does not exist\n')
    await _services(objects, addresses, backends, make, "late")
    assert await proxy.settled(20)
    assert (await fetch(proxy.ingress_url))[0] == 200


async def test_until_the_rules_are_known_it_is_503_not_404(
    tmp_path: Path, objects: Any_, addresses: Slice, backends: Any_, make: Any_, fetch: Any_
) -> None:
    await _services(objects, addresses, backends, make, "web")
    objects.put(kinds.INGRESS, ingress("site", [rule(None, ("/", "Prefix", "web"))]))
    known, listed = asyncio.Event(), objects.send

    async def send(request: Request) -> Any:
        await known.wait()
        return await listed(request)

    objects.send = send
    cache = Cache(Client(objects))
    proxy = Proxy(cache, addresses, tmp_path / "proxy")
    await proxy.start()
    try:
        await proxy.envoy.ready()
        assert (await fetch(proxy.ingress_url)) == (503, "the cluster is starting\n")
        known.set()
        assert await proxy.settled(20)
        for _ in range(200):
            if (status := (await fetch(proxy.ingress_url))[0]) != 503:
                break
            await asyncio.sleep(0.05)
        assert status == 200
    finally:
        await proxy.stop()
        await cache.stop()


async def test_lazily_envoy_starts_with_the_first_service_and_carries_it(
    tmp_path: Path, objects: Any_, addresses: Slice, backends: Any_, make: Any_, fetch: Any_
) -> None:
    objects.put(kinds.SERVICE, make.service("kubernetes", f"127.{addresses.number}.128.1"))
    cache = Cache(Client(objects))
    proxy = Proxy(cache, addresses, tmp_path / "proxy", lazily=True)
    await proxy.start()
    try:
        for kind in (kinds.SERVICE, kinds.INGRESS, kinds.POD):
            await cache.informer(kind).wait_synced()
        await asyncio.sleep(0.1)
        assert proxy.envoy.pid is None, "nothing but the API's own Service"
        await _services(objects, addresses, backends, make, "web")
        objects.put(kinds.INGRESS, ingress("site", [rule(None, ("/", "Prefix", "web"))]))
        assert await proxy.settled(20)
        assert (await fetch(proxy.ingress_url))[0] == 200
    finally:
        await proxy.stop()
        await cache.stop()


async def test_tls_by_server_name(
    proxy: Proxy, objects: Any_, addresses: Slice, backends: Any_, make: Any_, tmp_path: Path
) -> None:
    await _services(objects, addresses, backends, make, "web")
    rules = [rule("shop.test", ("/", "Prefix", "web"))]
    objects.put(kinds.INGRESS, ingress("secure", rules, tls=[{"hosts": ["shop.test"], "secretName": "cert"}]))
    data = _certificate(tmp_path)
    secret = {"metadata": {"name": "cert", "namespace": "default"}, "type": "kubernetes.io/tls", "data": data}
    objects.put(kinds.SECRET, secret)
    assert await proxy.settled(20)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", proxy.ingress_tls_port, ssl=context, server_hostname="shop.test"
    )
    writer.write(b"GET /x HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(-1), 5)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"web GET /x" in answer


def _certificate(directory: Path) -> dict[str, str]:
    made = Authority().directory(directory / "shop.test", "shop.test")
    return {name: base64.b64encode((made / name).read_bytes()).decode() for name in ("tls.crt", "tls.key")}
