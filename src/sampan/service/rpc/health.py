"""grpc.health.v1, which says what readiness says; and reflection under both its names.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md - the empty name stands for the whole server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2

from sampan.service.http.readiness import Readiness

SERVICE: Final = health.SERVICE_NAME
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
_LOOK_SECONDS: Final = 0.2  # while somebody watches; readiness itself asks dependencies no oftener than it likes


class Health(health.aio.HealthServicer):
    """The library's servicer, brought up to date before each Check, and several times a second while one watches."""

    def __init__(self, readiness: Readiness, services: Iterable[str]) -> None:
        super().__init__()
        self._readiness, self._names = readiness, ("", *services)
        self._said: dict[str, bool] = {}
        self._watching = 0
        self._looking: asyncio.Task[None] | None = None

    async def Check(self, request: Any, context: Any) -> Any:
        await self._look()
        return await super().Check(request, context)

    async def Watch(self, request: Any, context: Any) -> None:
        await self._look()
        self._watching += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._follow(), name="gRPC health")
        try:
            await super().Watch(request, context)
        finally:
            self._watching -= 1
            if not self._watching and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        ready = (await self._readiness.report())[0]
        for name in self._names:
            if self._said.get(name) is not ready:
                self._said[name] = ready
                await self.set(name, _SERVING if ready else _NOT_SERVING)

    async def leave(self) -> None:
        """NOT_SERVING from now on; those who watch are told."""
        await self.enter_graceful_shutdown()


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Reflection over `services`, as v1alpha, which the library has, and as v1, whose messages are the same bytes."""
    from grpc_reflection.v1alpha import reflection, reflection_pb2

    names = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)
    servicer = reflection.aio.ReflectionServicer((*services, reflection.SERVICE_NAME))
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in names:
        server.add_registered_method_handlers(name, {"ServerReflectionInfo": handler})
