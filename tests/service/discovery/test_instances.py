"""What registries say of an instance: where it answers HTTP, and where gRPC."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sampan.service.bindings import Binding
from sampan.service.discovery import consul, etcd, kubernetes
from sampan.service.discovery.port import Instance
from sampan.service.discovery.static import StaticRegistry


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"url": "http://a:1/", "grpc": "http://a:2", "metadata": {}}, ("http://a:1", "http://a:2")),
        ({"url": "https://a:1"}, ("https://a:1", "")),
        ("a:1", ("http://a:1", "")),
    ],
)
def test_etcd(value: Any, expected: tuple[str, str]) -> None:
    found = etcd._instance("s", "/services/s/one", json.dumps(value))
    assert found is not None
    assert (found.id, found.url, found.grpc) == ("one", *expected)


def test_consul() -> None:
    row = {"Service": {"ID": "one", "Meta": {"sampan-url": "http://a:1", "sampan-grpc": "http://a:2", "version": "3"}}}
    found = consul._instance("s", row)
    assert found == Instance("s", "one", "http://a:1", grpc="http://a:2")
    assert found.metadata == {"version": "3"}


def slices(*ports: dict[str, Any]) -> dict[str, Any]:
    return {"s-1": {"ports": list(ports), "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"name": "one"}}]}}


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ([{"name": "http", "port": 8080}], ("http://10.0.0.1:8080", "")),
        (
            [{"name": "grpc", "port": 9090}, {"name": "http", "port": 8080}],
            ("http://10.0.0.1:8080", "http://10.0.0.1:9090"),
        ),
        ([{"name": "grpc", "port": 9090}], ("", "http://10.0.0.1:9090")),
        (
            [{"name": "https", "port": 8080}, {"name": "grpcs", "port": 9090}],
            ("https://10.0.0.1:8080", "https://10.0.0.1:9090"),
        ),
        ([{"name": "web", "port": 80, "appProtocol": "https"}], ("https://10.0.0.1:80", "")),
    ],
)
def test_kubernetes(ports: list[dict[str, Any]], expected: tuple[str, str]) -> None:
    (found,) = kubernetes._instances("s", slices(*ports))
    assert (found.url, found.grpc) == expected


def test_kubernetes_without_a_port_has_nobody() -> None:
    assert kubernetes._instances("s", slices()) == ()


async def test_a_list() -> None:
    uri = "static:s=http://a:1|grpc://a:2|grpcs://b:2"
    found = StaticRegistry(Binding("discovery", "static", uri)).known["s"]
    assert {(one.url, one.grpc) for one in found} == {("http://a:1", ""), ("", "http://a:2"), ("", "https://b:2")}


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("kubernetes", "kubernetes://10.96.0.1:443/shop"),
        ("kubernetes:", "kubernetes://10.96.0.1:443/shop"),
        ("kubernetes?account=/token", "kubernetes://10.96.0.1:443/shop"),
        ("kubernetes://api:6443/other", "kubernetes://api:6443/other"),
    ],
)
def test_where_kubernetes_is(uri: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("POD_NAMESPACE", "shop")
    assert kubernetes.KubernetesRegistry(Binding("discovery", "kubernetes", uri)).place == place
