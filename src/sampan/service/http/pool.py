"""The connections of a process to the services it calls: a pool for each callee, opened on first use."""

from __future__ import annotations

import aiohttp

from sampan.service.http.reply import ConnectionBroken


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise ConnectionBroken(f"{type(error).__name__}: {error}".rstrip(": ")) from error


class Pool:
    """All sessions of a process; closed at its end."""

    def __init__(self) -> None:
        self._sessions: list[aiohttp.ClientSession] = []

    def open(self, connections: int | None, connect_timeout: float) -> aiohttp.ClientSession:
        """A session with connections of its own, at most `connections` to one address."""
        # keep-alive shorter than that of the servers, so that a connection is not reused as it is being closed
        connector = aiohttp.TCPConnector(
            limit=0, limit_per_host=connections or 0, keepalive_timeout=15, ttl_dns_cache=5
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
            # all other limits are asyncio's: exact, and cheaper than aiohttp's rounded ones
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout),
            middlewares=(_once,),
        )
        self._sessions.append(session)
        return session

    async def start(self) -> None: ...

    async def stop(self) -> None:
        sessions, self._sessions = self._sessions, []
        for session in sessions:
            await session.close()

    async def close(self) -> None:
        await self.stop()
