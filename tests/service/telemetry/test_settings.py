"""The environment variables of OpenTelemetry, and what becomes of values that cannot be understood."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest

from sampan.service.telemetry import settings

BASE = "OTEL_EXPORTER_OTLP_"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in list(os.environ):
        if name.startswith("OTEL_") or name in ("POD_NAME", "POD_NAMESPACE", "SAMPAN_VERSION", "SAMPAN_ENVIRONMENT"):
            monkeypatch.delenv(name)

    def give(**given: str) -> None:
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    return give


def target(signal: str = "traces") -> settings.Target:
    found = settings.target(signal)
    assert found is not None
    return found


def test_without_an_endpoint_nothing_is_exported(environment: Any) -> None:
    assert settings.target("traces") is None and settings.target("logs") is None
    assert settings.sampling() == settings.Sampling(1.0, True, True, 1.0)


def test_one_endpoint_is_for_all_signals_and_logs_are_asked_for(environment: Any) -> None:
    environment(OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318/")
    assert (target().url, target().protocol, target().timeout) == (
        "http://collector:4318/v1/traces",
        "http/protobuf",
        10,
    )
    assert settings.target("logs") is None
    environment(OTEL_LOGS_EXPORTER="otlp")
    assert target("logs").url == "http://collector:4318/v1/logs"
    environment(OTEL_TRACES_EXPORTER="none")
    assert settings.target("traces") is None


def test_a_signal_has_its_own(environment: Any) -> None:
    environment(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://a:4318",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="https://b/spans",
        OTEL_EXPORTER_OTLP_HEADERS="Authorization=Bearer%20x,,broken, k = v",
        OTEL_EXPORTER_OTLP_TRACES_TIMEOUT="250",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_EXPORTER_OTLP_CERTIFICATE="/ca.pem",
        OTEL_BSP_MAX_QUEUE_SIZE="100",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="200",
        OTEL_BSP_SCHEDULE_DELAY="5000",
    )
    found = target()
    assert (found.url, found.timeout, found.gzip, found.certificate) == ("https://b/spans", 0.25, True, "/ca.pem")
    assert found.headers == {"authorization": "Bearer x", "k": "v"} and "Bearer" not in repr(found)
    assert (found.queue, found.batch, found.delay) == (100, 100, 5.0)


@pytest.mark.parametrize(
    ("endpoint", "insecure", "url"),
    [
        ("http://c:4317", "", "http://c:4317"),
        ("c:4317", "true", "http://c:4317"),
        ("c:4317", "", "https://c:4317"),
    ],
)
def test_grpc(environment: Any, endpoint: str, insecure: str, url: str) -> None:
    environment(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    environment(OTEL_EXPORTER_OTLP_INSECURE=insecure)
    assert target().url == url


def test_switched_off(environment: Any) -> None:
    environment(OTEL_EXPORTER_OTLP_ENDPOINT="http://c:4318", OTEL_SDK_DISABLED="TRUE")
    assert settings.target("traces") is None
    assert settings.sampling() == settings.Sampling(0.0, False, False, 1.0)


def test_console(environment: Any) -> None:
    environment(OTEL_TRACES_EXPORTER="console")
    assert target().protocol == "console"


@pytest.mark.parametrize(
    ("name", "argument", "ratio", "follow", "keep"),
    [
        ("always_on", "", 1.0, False, True),
        ("always_off", "", 0.0, False, False),
        ("traceidratio", "0.25", 0.25, False, True),
        ("parentbased_traceidratio", "0.1", 0.1, True, True),
        ("parentbased_always_off", "", 0.0, True, False),
    ],
)
def test_samplers(environment: Any, name: str, argument: str, ratio: float, follow: bool, keep: bool) -> None:
    environment(OTEL_TRACES_SAMPLER=name, OTEL_TRACES_SAMPLER_ARG=argument, SAMPAN_TRACE_SLOW_SECONDS="0.5")
    assert settings.sampling() == settings.Sampling(ratio, follow, keep, 0.5)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "u:secret@collector", "is no address"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "thrift", "'thrift'"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "'zstd'"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "OTEL_EXPORTER_OTLP_TIMEOUT=soon"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "OTEL_BSP_MAX_QUEUE_SIZE=-1"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "zipkin"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "secret", "not key=value"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "jaeger_remote"),
        ("OTEL_TRACES_SAMPLER_ARG", "2", "OTEL_TRACES_SAMPLER_ARG=2"),
    ],
)
def test_what_cannot_be_understood_is_told_and_left_out(
    environment: Any, caplog: pytest.LogCaptureFixture, variable: str, value: str, said: str
) -> None:
    caplog.set_level(logging.WARNING, "sampan.telemetry")
    environment(OTEL_EXPORTER_OTLP_ENDPOINT="http://c:4318")
    if variable == "OTEL_TRACES_SAMPLER_ARG":
        environment(OTEL_TRACES_SAMPLER="traceidratio")
    environment(**{variable: value})
    settings.target("traces")
    settings.sampling()
    assert said in caplog.text and "secret" not in caplog.text


def test_the_resource(environment: Any) -> None:
    environment(POD_NAME="users-1", SAMPAN_VERSION="3f2a", SAMPAN_ENVIRONMENT="prod")
    environment(OTEL_RESOURCE_ATTRIBUTES="team=a%20b,service.name=x")
    found = settings.resource("users")
    assert (found["service.name"], found["service.version"], found["service.instance.id"]) == ("x", "3f2a", "users-1")
    assert (found["team"], found["deployment.environment.name"], found["telemetry.sdk.language"]) == (
        "a b",
        "prod",
        "python",
    )
    environment(OTEL_SERVICE_NAME="own")
    assert settings.resource("users")["service.name"] == "own"
