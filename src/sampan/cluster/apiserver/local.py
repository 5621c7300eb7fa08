"""The in-process transport: straight into the pipeline, no sockets, no encoding."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from sampan.cluster.apiserver.call import Call
from sampan.cluster.apiserver.strategy import User
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, WatchEvent
from sampan.kube.transport import Request

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer


class LocalTransport:
    """A `kube.transport.Transport`. Bodies are copied on the way in; answers are shared with the store."""

    def __init__(self, server: ApiServer, user: User) -> None:
        self._server = server
        self._user = user

    def _call(self, request: Request) -> Call:
        return Call(
            request.method,
            request.path,
            dict(request.query),
            self._user,
            request.body,
            request.content_type,
            user_agent="sampan",
        )

    async def send(self, request: Request) -> Object:
        call = self._call(request)
        answer = await self._server.handle(call)
        if call.verb == "list":
            await asyncio.sleep(0)  # reading waits for nothing: one who lists page by page would keep all others out
        if answer.frames is not None or answer.chunks is not None:
            raise ApiError(400, "BadRequest", "this request is answered by a stream")
        value: Object = answer.value() if answer.content_type == "application/json" else {}
        return value

    async def watch(self, request: Request) -> AsyncIterator[WatchEvent]:
        call = self._call(Request(request.method, request.path, {**request.query, "watch": "true"}))
        answer = await self._server.handle(call)
        if answer.frames is None:
            raise ApiError(400, "BadRequest", "this request cannot be watched")
        frames = answer.frames
        try:
            async for frame in frames:
                yield {"type": frame.type, "object": frame.object}
        finally:
            await frames.aclose()  # type: ignore[attr-defined]

    async def close(self) -> None:
        """Nothing is held."""
