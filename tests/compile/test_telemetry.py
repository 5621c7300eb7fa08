"""What an environment that names a collector gives its containers, and where they may go."""

from __future__ import annotations

from typing import Any

import pytest

from sampan import Application, Environment, Service
from sampan.compile import compile_application


def compiled(telemetry: str | None) -> tuple[dict[str, Any], list[Any]]:
    """The variables of the container, and the egress rules of the pod."""
    app = Application(
        "t", services=[Service("web", asgi="json:loads")], environments=[Environment("prod", telemetry=telemetry)]
    )
    objects = {(each["kind"], each["metadata"]["name"]): each for each in compile_application(app, "prod")}
    (container,) = objects["Deployment", "web"]["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each.get("value") for each in container["env"]}, objects["NetworkPolicy", "web"]["spec"][
        "egress"
    ]


NAME = "kubernetes.io/metadata.name"


@pytest.mark.parametrize(
    ("telemetry", "protocol", "to", "port"),
    [
        ("http://collector.watch:4318", None, [{"namespaceSelector": {"matchLabels": {NAME: "watch"}}}], 4318),
        (
            "http://c.watch.svc.cluster.local:4317",
            "grpc",
            [{"namespaceSelector": {"matchLabels": {NAME: "watch"}}}],
            4317,
        ),
        ("http://collector:4318", None, [{"podSelector": {}}], 4318),
        ("https://otlp.vendor.example", None, None, 443),
    ],
)
def test_the_collector_is_told_and_reached(telemetry: str, protocol: str | None, to: Any, port: int) -> None:
    variables, egress = compiled(telemetry)
    assert variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == telemetry
    assert variables.get("OTEL_EXPORTER_OTLP_PROTOCOL") == protocol
    (rule,) = [rule for rule in egress if rule["ports"] == [{"protocol": "TCP", "port": port}]]
    assert rule.get("to") == to


def test_without_one_the_namespace_of_monitoring_may_be_reached() -> None:
    variables, egress = compiled(None)
    assert not [name for name in variables if name.startswith("OTEL_")]
    assert egress[1]["to"] == [{"namespaceSelector": {"matchLabels": {NAME: "monitoring"}}}]
