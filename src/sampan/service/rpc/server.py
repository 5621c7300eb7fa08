"""The gRPC server as a component: it serves in the event loop of the process, beside HTTP.

Stopping: health says NOT_SERVING as soon as readiness drains; then every connection gets a GOAWAY, calls in flight have
`IN_FLIGHT_SECONDS` to finish, and what is left is cancelled.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2_grpc

from sampan.model import Grpc
from sampan.service.http.readiness import Readiness
from sampan.service.http.server import IN_FLIGHT_SECONDS
from sampan.service.http.tls import Identity
from sampan.service.rpc import credentials
from sampan.service.rpc.handlers import Calls, Registrar, Unknown
from sampan.service.rpc.health import SERVICE, Health, add_reflection

log = logging.getLogger("sampan.rpc")

_PING_MS: Final = 60_000  # looked after: a peer that is gone without a word is noticed after a minute and 20 s
_PING_ANSWER_MS: Final = 20_000
_PING_LEAST_MS: Final = 10_000  # clients and proxies may ping this often; a gRPC server allows one in 5 min otherwise


def options(grpc_: Grpc) -> list[tuple[str, Any]]:
    return [
        ("grpc.so_reuseport", 0),  # two programs on one port must be an error, not a lottery
        ("grpc.max_receive_message_length", grpc_.max_message),
        ("grpc.max_send_message_length", grpc_.max_message),
        ("grpc.max_concurrent_streams", grpc_.max_streams),
        # it refuses calls of honest callers who use all their streams; strangers meet a proxy that protects itself
        ("grpc.http.overload_protection", 0),
        ("grpc.max_connection_age_ms", int(grpc_.connection_age * 1000)),
        ("grpc.keepalive_time_ms", _PING_MS),
        ("grpc.keepalive_timeout_ms", _PING_ANSWER_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _PING_LEAST_MS),
    ]


class Server:
    """`add_services(server)` adds what is served. `port` is the one it listens on, once started."""

    def __init__(
        self,
        declared: Grpc,
        add_services: Callable[[Any], Any],
        calls: Calls,
        readiness: Readiness,
        *,
        host: str,
        port: int,
        reflection: bool = False,
        identity: Identity | None = None,
    ) -> None:
        self.declared, self.add_services, self.calls, self.readiness = declared, add_services, calls, readiness
        self.host, self.port, self.reflection, self.identity = host, port, reflection, identity
        self._server: grpc.aio.Server | None = None
        self._health: Health | None = None

    async def start(self) -> None:
        """Raises RuntimeError when the address is taken or the services cannot be added."""
        self.calls.secure = self.identity is not None
        server = grpc.aio.server(options=options(self.declared))
        registrar = Registrar(server, self.calls)
        try:
            added = self.add_services(registrar)
            if inspect.isawaitable(added):
                await added
        except TypeError as error:
            raise RuntimeError(f"grpc={self.declared.services!r}: {error}") from error
        self._health = Health(self.readiness, registrar.services)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self.reflection:
            add_reflection(server, (*registrar.services, SERVICE))
        server.add_generic_rpc_handlers((Unknown(self.calls),))
        address = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        if self.identity is None:
            self.port = server.add_insecure_port(address)
        else:
            self.port = server.add_secure_port(address, credentials.server(self.identity))
        await server.start()
        self._server = server
        log.info(
            "serving gRPC", extra={"port": self.port, "services": registrar.services, "tls": self.identity is not None}
        )

    async def stop(self) -> None:
        if self._server is None:
            return
        if self._health is not None:
            await self._health.leave()
        await self._server.stop(IN_FLIGHT_SECONDS)
        self.calls.flush()
