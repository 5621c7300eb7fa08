"""A service that speaks gRPC: its ports, who reaches them, and what meshes are told."""

from __future__ import annotations

from typing import Any

import pytest

from sampan import Application, Environment, Grpc, Service
from sampan.compile import compile_application
from sampan.kube.objects import Object

both = Service("both", asgi="json:loads", grpc=Grpc("json:loads", port=50051), port=8000)
alone = Service("alone", grpc="json:loads")
caller = Service("caller", asgi="json:loads", calls=[both, alone])
app = Application("g", services=[both, alone, caller], environments=[Environment("prod")])


@pytest.fixture(scope="module")
def objects() -> dict[tuple[str, str], Object]:
    found = compile_application(app, "prod", reference="system:app")
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def test_a_service_has_a_port_for_each(objects: dict[tuple[str, str], Object]) -> None:
    def ports(name: str) -> dict[str, tuple[int, str, str]]:
        listed = objects["Service", name]["spec"]["ports"]
        return {port["name"]: (port["port"], port["targetPort"], port["appProtocol"]) for port in listed}

    assert ports("both") == {"http": (8080, "http", "http"), "grpc": (9090, "grpc", "grpc")}
    assert ports("alone") == {"grpc": (9090, "grpc", "grpc")}


def test_a_container_listens_on_both_and_is_probed_over_http(objects: dict[tuple[str, str], Object]) -> None:
    for name, http, rpc in (("both", 8000, 50051), ("alone", 8080, 9090)):
        (container,) = objects["Deployment", name]["spec"]["template"]["spec"]["containers"]
        assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"http": http, "grpc": rpc}
        assert container["readinessProbe"]["httpGet"]["port"] == "http"
        told = {each["name"]: each.get("value") for each in container["env"]}
        assert (told["PORT"], told["GRPC_PORT"]) == (str(http), str(rpc))


def test_those_who_call_it_reach_it_and_nobody_else(objects: dict[tuple[str, str], Object]) -> None:
    def rules(name: str, side: str) -> list[Any]:
        return list(objects["NetworkPolicy", name]["spec"][side])

    def who(rule: Any) -> set[str]:
        chosen = (each.get("podSelector", {}).get("matchLabels", {}) for each in rule["from"])
        return {labels["app.kubernetes.io/name"] for labels in chosen if labels}

    for name, number in (("both", 50051), ("alone", 9090)):
        (rule,) = [r for r in rules(name, "ingress") if [p["port"] for p in r["ports"]] == [number]]
        assert who(rule) == {"caller"}
    ports = [tuple(p["port"] for p in r["ports"]) for r in rules("caller", "egress")]
    assert {(8000, 50051), (8080, 9090)} <= set(ports)
    assert not [r for r in rules("caller", "ingress") if 9090 in [p["port"] for p in r["ports"]]]
