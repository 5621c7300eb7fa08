"""The plain values of a declaration: sizes, probes, routes and environments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, field

from sampan.model.location import Location, here

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def several(texts: str | Sequence[str]) -> tuple[str, ...]:
    """One text is a sequence of texts to Python and its type checkers, and never meant as one here."""
    return (texts,) if isinstance(texts, str) else tuple(texts)


class Scale(Struct, frozen=True):
    """How many instances. `cpu` and `memory` are targets in percent of the request; cpu=80 if neither is set."""

    minimum: int = 1
    maximum: int | None = None
    cpu: int | None = None
    memory: int | None = None

    @property
    def most(self) -> int:
        return self.minimum if self.maximum is None else self.maximum


class Resources(Struct, frozen=True):
    """Requests as quantities. `limits` replaces the limits: twice the memory; four times `cpu`, at least one core."""

    cpu: str = "100m"
    memory: str = "128Mi"
    limits: Mapping[str, str] | None = None


class Probe(Struct, frozen=True):
    """An HTTP probe; times are in seconds."""

    path: str
    period: int = 5
    timeout: int = 2
    failures: int = 3
    delay: int = 0


class Grpc(Struct, frozen=True):
    """How a service speaks gRPC. `services` ("module:function") names a function that adds them to a server:

        def add_services(server: grpc.aio.Server) -> None:
            users_pb2_grpc.add_UsersServicer_to_server(Users(), server)

    `max_message` is in bytes, `max_streams` per connection. A connection is asked to reconnect after about
    `connection_age` seconds, so that new instances get their share. `reflection` None: only where stores are local.
    """

    services: str
    port: int = 9090
    max_message: int = 4 * 1024 * 1024
    max_streams: int = 1000
    connection_age: float = 300
    reflection: bool | None = None


class Every(Struct, frozen=True):
    """A function, "module:function", that a service runs every so many `seconds`, never twice at once in a process.

    Each instance of the service runs it. A run starts up to `jitter` times the period late, so that instances spread.
    """

    seconds: float
    run: str
    jitter: float = 0.1


class Route(Struct, frozen=True):
    """A public path prefix, on `host` or the host of the environment. `rewrite` replaces the prefix."""

    path: str
    host: str | None = None
    rewrite: str | None = None


class Environment(Struct, frozen=True, eq=False):
    """A place the application runs in, with what differs there.

    `values` maps a service, job, database or configuration to the fields it overrides. `namespace` defaults to the
    name of the application in `dev` and NAME-ENVIRONMENT elsewhere; `local` says whether backing stores run beside the
    services (so in `dev` unless said otherwise). `registry` prefixes image names, `tag` is their tag. `messaging` is
    the broker behind topics where it is the platform's; beside the services it is NATS. `telemetry` is the OTLP address
    of the collector that spans go to ("http://collector.monitoring:4318").
    """

    name: str
    host: str | None = None
    namespace: str | None = None
    values: Mapping[Any, Mapping[str, Any]] = field(default_factory=dict)
    registry: str | None = None
    tag: str | None = None
    tls_secret: str | None = None
    ingress_class: str | None = None
    monitoring_namespace: str = "monitoring"
    telemetry: str | None = None
    local: bool | None = None
    messaging: Literal["nats", "kafka", "rabbitmq"] = "nats"
    location: Location = field(default_factory=here)

    @property
    def is_local(self) -> bool:
        return self.name == "dev" if self.local is None else self.local
