"""Small JSON documents over HTTP from issuers: bounded in size and time, without redirects."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus

import msgspec

from sampan.service.security.authenticators import Unavailable

if TYPE_CHECKING:
    import aiohttp

_MAX_BYTES: Final = 512 * 1024


class Fetcher:
    """Its connections are opened when first needed, and closed by `close`."""

    def __init__(self, timeout: float = 5.0) -> None:
        self.timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def json(self, url: str, data: dict[str, str] | None = None, auth: tuple[str, str] | None = None) -> Any:
        """The document at `url`; a POST of a form with `data`. Unavailable when there is none."""
        import aiohttp

        if self._session is None or self._session.closed:
            timeout = aiohttp.ClientTimeout(total=self.timeout)
            connector = aiohttp.TCPConnector(limit=16)
            self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False)
        method = "GET" if data is None else "POST"
        headers = {"accept": "application/json"}
        if auth is not None:  # RFC 6749, 2.3.1: each part is encoded as in a form first
            joined = ":".join(quote_plus(part) for part in auth)
            headers["authorization"] = "Basic " + base64.b64encode(joined.encode()).decode()
        try:
            async with self._session.request(method, url, data=data, headers=headers, allow_redirects=False) as reply:
                body = await reply.content.read(_MAX_BYTES + 1)
                while len(body) <= _MAX_BYTES and (more := await reply.content.read(_MAX_BYTES)):
                    body += more
                status = reply.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(f"{url}: {type(error).__name__}") from error
        if status != 200:
            raise Unavailable(f"{url} answers {status}")
        if len(body) > _MAX_BYTES:
            raise Unavailable(f"{url}: more than {_MAX_BYTES} bytes")
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError as error:
            raise Unavailable(f"{url}: no JSON") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
