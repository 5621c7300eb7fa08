"""News of changed keys, for the level inside the process: client-side caching of Redis 6 and later.

One connection of its own in protocol 3 with tracking in broadcasting mode: the server tells it every key with the
cache's prefix that is written, deleted or expired, by whomever. While it is not connected the local level is closed
and empty. https://redis.io/docs/latest/develop/reference/client-side-caching/
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from sampan.service.cache.local import LocalLevel
from sampan.service.cache.redis import RedisLevel
from sampan.service.tasks import end

log = logging.getLogger("sampan.cache")

_QUIET_SECONDS: Final = 1.0  # then the server is asked whether it is still there
_RETRY_SECONDS: Final = 1.0


async def _handed_on(message: Any) -> Any:
    """Without it the driver drops the message."""
    return message


class Invalidations:
    """A component of the process."""

    def __init__(self, level: RedisLevel, local: LocalLevel, prefix: str) -> None:
        self.level, self.local, self.prefix = level, local, prefix
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            await end(self._task)
        self._close()

    def _close(self) -> None:
        self.local.open = False
        self.local.clear("disconnected")

    async def _run(self) -> None:
        told = False
        while True:
            connection = self._connection()
            try:
                await self._track(connection)
                told = False
                await self._listen(connection)
            except Exception as error:  # whatever it is, the level stays closed and it is tried again
                if not told:
                    log.warning("cache %s: no news of changes, the local level is off: %s", self.level.name, error)
                    told = True
            finally:
                self._close()
                await connection.disconnect(nowait=True)
            await asyncio.sleep(_RETRY_SECONDS)

    def _connection(self) -> Any:
        pool: Any = self.level.pool
        options = {**pool.connection_kwargs, "protocol": 3, "health_check_interval": 0}
        return pool.connection_class(**options)

    async def _track(self, connection: Any) -> None:
        async with asyncio.timeout(2.0):
            await connection.connect()
            connection._parser.set_invalidation_push_handler(_handed_on)
            await connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self.prefix)
            answer = await connection.read_response()
        if answer not in (b"OK", "OK"):
            raise ConnectionError(f"CLIENT TRACKING was answered {answer!r}")
        self.local.clear("connected")
        self.local.open = True

    async def _listen(self, connection: Any) -> None:
        asked = False
        while True:
            message = await connection.read_response(push_request=True, timeout=_QUIET_SECONDS)
            if message is None:
                if asked:
                    raise ConnectionError("no answer")
                await connection.send_command("PING", check_health=False)
                asked = True
                continue
            asked = False
            if isinstance(message, list) and message and message[0] in (b"invalidate", "invalidate"):
                self._changed(message[1])

    def _changed(self, keys: list[bytes] | None) -> None:
        if keys is None:  # the whole database was flushed
            self.local.clear("flushed")
            return
        for key in keys:
            self.local.forget(key.decode(errors="replace").removeprefix(self.prefix))
