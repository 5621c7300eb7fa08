"""What the environment says of telemetry: the variables of OpenTelemetry, read once at the start.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and .../protocol/exporter/. As that
asks, a value that cannot be understood is warned of and left out; it never stops a service.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from sampan import __version__

log = logging.getLogger("sampan.telemetry")

Protocol = Literal["http/protobuf", "http/json", "grpc", "console"]
_PROTOCOLS: Final[dict[str, Protocol]] = {"http/protobuf": "http/protobuf", "http/json": "http/json", "grpc": "grpc"}
# prefix of the batch variables, share of memory, delay: the specification's defaults, save that we send each second
_BATCH: Final = {"traces": "OTEL_BSP_", "logs": "OTEL_BLRP_"}


@dataclass(frozen=True)
class Target:
    """Where one signal goes. Times in seconds; `queue` and `batch` count entries."""

    signal: str
    protocol: Protocol
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # they may be secrets
    timeout: float = 10.0
    gzip: bool = False
    queue: int = 2048
    batch: int = 512
    delay: float = 1.0
    certificate: str = ""
    client_certificate: str = ""
    client_key: str = ""


class Sampling(Struct, frozen=True):
    """The share of new traces that is recorded, what becomes of others', and what is kept although not sampled."""

    ratio: float = 1.0
    follow_parent: bool = True
    keep: bool = True  # failed and slow requests, though their trace is not sampled
    slow_seconds: float = 1.0  # 0: slow requests are not kept


def enabled() -> bool:
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() != "true"


def target(signal: str) -> Target | None:
    """Where `signal` ("traces" or "logs") is exported to; None when it is not.

    Spans are exported when an endpoint is named; logs, which are on stdout already, only when asked for by
    OTEL_LOGS_EXPORTER=otlp.
    """
    upper = signal.upper()
    exporter = os.environ.get(f"OTEL_{upper}_EXPORTER", "").strip() or ("otlp" if signal == "traces" else "none")
    if not enabled() or exporter == "none":
        return None
    prefix = _BATCH[signal]
    queue = _whole(f"{prefix}MAX_QUEUE_SIZE", 2048)
    batch = min(queue, _whole(f"{prefix}MAX_EXPORT_BATCH_SIZE", 512))
    delay = _milliseconds(f"{prefix}SCHEDULE_DELAY", 1.0)
    if exporter == "console":
        return Target(signal, "console", "stderr", queue=queue, batch=batch, delay=delay)
    if exporter != "otlp":
        log.warning("OTEL_%s_EXPORTER=%s is not known (otlp, console, none): nothing is exported", upper, exporter)
        return None
    protocol = _PROTOCOLS.get(wanted := _option(signal, "PROTOCOL") or "http/protobuf")
    if protocol is None:
        log.warning("OTLP protocol %r is not known (%s): http/protobuf is used", wanted, ", ".join(_PROTOCOLS))
        protocol = "http/protobuf"
    url = _url(signal, protocol)
    if url is None:
        return None
    compression = _option(signal, "COMPRESSION")
    if compression not in ("", "none", "gzip"):
        log.warning("OTLP compression %r is not known (gzip, none): none is used", compression)
    return Target(
        signal,
        protocol,
        url,
        _pairs(_option(signal, "HEADERS"), "OTEL_EXPORTER_OTLP_HEADERS", lower=True),
        _milliseconds(_variable(signal, "TIMEOUT"), 10.0),
        compression == "gzip",
        queue,
        batch,
        delay,
        certificate=_option(signal, "CERTIFICATE"),
        client_certificate=_option(signal, "CLIENT_CERTIFICATE"),
        client_key=_option(signal, "CLIENT_KEY"),
    )


def _variable(signal: str, name: str) -> str:
    """The variable that says `name` for this signal, or that for all."""
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}"
    return own if os.environ.get(own, "").strip() else f"OTEL_EXPORTER_OTLP_{name}"


def _option(signal: str, name: str) -> str:
    return os.environ.get(_variable(signal, name), "").strip()


def _url(signal: str, protocol: Protocol) -> str | None:
    variable = _variable(signal, "ENDPOINT")
    endpoint = os.environ.get(variable, "").strip()
    if not endpoint:
        return None
    if protocol == "grpc" and "://" not in endpoint:
        insecure = _option(signal, "INSECURE").lower() == "true"
        endpoint = f"{'http' if insecure else 'https'}://{endpoint}"
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        log.warning("%s=%s is no address (http://collector:4318): nothing is exported", variable, _shown(endpoint))
        return None
    if protocol == "grpc":
        return f"{parts.scheme}://{parts.netloc}"
    return endpoint if variable.endswith(f"{signal.upper()}_ENDPOINT") else f"{endpoint.rstrip('/')}/v1/{signal}"


def _shown(endpoint: str) -> str:
    """`endpoint` without a password."""
    return endpoint.rpartition("@")[2]


def _pairs(given: str, variable: str, *, lower: bool = False) -> dict[str, str]:
    """`key=value,key=value`, percent-encoded, as in W3C Baggage."""
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in given.split(","))):
        key, equals, item = part.partition("=")
        if not equals or not key.strip():
            log.warning("%s: an entry is not key=value", variable)  # what it is may be a secret
            continue
        key = unquote(key.strip())
        found[key.lower() if lower else key] = unquote(item.strip())
    return found


def _whole(variable: str, default: int) -> int:
    given = os.environ.get(variable, "").strip()
    if given and not (given.isdecimal() and int(given) > 0):
        log.warning("%s=%s is no whole number above 0: %d is used", variable, given, default)
        return default
    return int(given) if given else default


def _milliseconds(variable: str, default: float) -> float:
    return _whole(variable, round(default * 1000)) / 1000


def _number(variable: str, default: float, top: float) -> float:
    given = os.environ.get(variable, "").strip()
    try:
        number = float(given) if given else default
    except ValueError:
        number = -1.0
    if not 0 <= number <= top:
        log.warning("%s=%s is no number from 0 to %g: %g is used", variable, given, top, default)
        return default
    return number


# sampler -> (share of new traces, whether a parent's decision is followed, whether failures are kept all the same)
_SAMPLERS: Final = {
    "always_on": (1.0, False, True),
    "always_off": (0.0, False, False),
    "traceidratio": (None, False, True),
    "parentbased_always_on": (1.0, True, True),
    "parentbased_always_off": (0.0, True, False),
    "parentbased_traceidratio": (None, True, True),
}


def sampling() -> Sampling:
    """OTEL_TRACES_SAMPLER and its argument, and SAMPAN_TRACE_SLOW_SECONDS (1)."""
    if not enabled():
        return Sampling(0.0, False, False)
    name = os.environ.get("OTEL_TRACES_SAMPLER", "").strip() or "parentbased_always_on"
    if name not in _SAMPLERS:
        log.warning("OTEL_TRACES_SAMPLER=%s is not known (%s): every trace is recorded", name, ", ".join(_SAMPLERS))
        name = "parentbased_always_on"
    ratio, follow, keep = _SAMPLERS[name]
    if ratio is None:
        ratio = _number("OTEL_TRACES_SAMPLER_ARG", 1.0, 1.0)
    return Sampling(ratio, follow, keep, _number("SAMPAN_TRACE_SLOW_SECONDS", 1.0, 86400.0))


def resource(name: str) -> dict[str, str | int]:
    """The resource of the service `name`: what OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say wins."""
    known: dict[str, str | int] = {
        "service.name": name,
        "service.version": os.environ.get("SAMPAN_VERSION", ""),
        "service.instance.id": os.environ.get("POD_NAME", "") or f"{os.uname().nodename}-{os.getpid()}",
        "deployment.environment.name": os.environ.get("SAMPAN_ENVIRONMENT", ""),
        "k8s.pod.name": os.environ.get("POD_NAME", ""),
        "k8s.namespace.name": os.environ.get("POD_NAMESPACE", ""),
        "process.pid": os.getpid(),
        "telemetry.sdk.name": "sampan",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": __version__,
    }
    found = {key: item for key, item in known.items() if item}
    found |= _pairs(os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""), "OTEL_RESOURCE_ATTRIBUTES")
    if own := os.environ.get("OTEL_SERVICE_NAME", "").strip():
        found["service.name"] = own
    return found
