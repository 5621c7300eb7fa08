"""Cluster IPs and node ports are never handed out twice, and stay with their service."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from sampan.cluster.apiserver.registry.allocation import ClusterIPs, Exhausted, allocate_port
from sampan.kube.errors import ApiError


def service(name: str, **spec: Any) -> dict[str, Any]:
    body = {"selector": {"app": name}, "ports": [{"port": 80}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": body}


def test_addresses_are_distinct(registry: Any) -> None:
    found = {registry.create(service(f"s{n}"))["spec"]["clusterIP"] for n in range(200)}
    assert len(found) == 200
    assert all(ipaddress.ip_address(ip) in ipaddress.ip_network("127.70.128.0/17") for ip in found)


def test_a_full_range_says_so() -> None:
    ips, taken = ClusterIPs("127.70.128.0/29"), set[str]()
    for n in range(6):
        taken.add(ips.allocate(str(n), taken))
    assert taken == {f"127.70.128.{n}" for n in range(1, 7)}
    with pytest.raises(Exhausted):
        ips.allocate("more", taken)
    with pytest.raises(Exhausted):
        allocate_port("x", set(range(30000, 32768)))


def test_headless_and_external_name_have_no_address(registry: Any) -> None:
    assert registry.create(service("a", clusterIP="None"))["spec"]["clusterIPs"] == ["None"]
    spec = registry.create(service("b", type="ExternalName", externalName="example.com", ports=[]))["spec"]
    assert "clusterIP" not in spec


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (
            "10.0.0.1",
            'spec.clusterIPs: Invalid value: ["10.0.0.1"]: failed to allocate IP 10.0.0.1: the provided network'
            " does not match the current range",
        ),
        (
            "127.70.128.5",
            'spec.clusterIPs: Invalid value: ["127.70.128.5"]: failed to allocate IP 127.70.128.5: provided IP is'
            " already allocated",
        ),
    ],
)
def test_asking_for_an_address(registry: Any, address: str, text: str) -> None:
    registry.create(service("first", clusterIP="127.70.128.5"))
    with pytest.raises(ApiError) as caught:
        registry.create(service("second", clusterIP=address))
    assert caught.value.message == f'Service "second" is invalid: {text}'


def test_node_ports(registry: Any) -> None:
    first = registry.create(service("a", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))
    with pytest.raises(ApiError, match="provided port is already allocated"):
        registry.create(service("b", type="LoadBalancer", ports=[{"port": 80, "nodePort": 30080}]))
    with pytest.raises(ApiError, match="The range of valid ports is 30000-32767"):
        registry.create(service("b", type="NodePort", ports=[{"port": 80, "nodePort": 80}]))
    balancer = registry.create(service("c", type="LoadBalancer"))["spec"]
    assert balancer["ports"][0]["nodePort"] in range(30000, 32768)
    assert balancer["allocateLoadBalancerNodePorts"] is True
    assert balancer["externalTrafficPolicy"] == "Cluster"
    again, causes = registry.try_update(first, lambda new: new["spec"].update(ports=[{"port": 80}]))
    assert (causes, again["spec"]["ports"][0]["nodePort"]) == ([], 30080)
    plain, causes = registry.try_update(again, lambda new: new["spec"].update(type="ClusterIP"))
    assert (causes, plain["spec"]["ports"]) == ([], [{"port": 80, "targetPort": 80, "protocol": "TCP"}])
    assert "externalTrafficPolicy" not in plain["spec"]


def test_becoming_an_external_name_releases_the_address(registry: Any) -> None:
    first = registry.create(service("a"))
    change = {"type": "ExternalName", "externalName": "example.com"}
    new, causes = registry.try_update(first, lambda obj: obj["spec"].update(change))
    assert causes == []
    assert "clusterIP" not in new["spec"]
    back, causes = registry.try_update(new, lambda obj: obj["spec"].update(type="ClusterIP"))
    assert causes == []
    assert back["spec"]["clusterIP"] == first["spec"]["clusterIP"]
