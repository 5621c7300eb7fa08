"""The transport to any cluster: HTTP over TLS, with watches streamed line by line.

aiohttp is imported when the first transport is made, not before: it is the dearest import of the client.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from sampan.kube import kubeconfig
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, WatchEvent
from sampan.kube.transport import Request

if TYPE_CHECKING:
    import aiohttp

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 330.0
"""A watch that says nothing for so long is dead: servers end or bookmark theirs well before."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class HttpsTransport:
    """One connection pool to one API server. `timeout` bounds a whole call in seconds; watches are bounded by silence.
    Connections are made on first use; close it when done."""

    def __init__(self, access: kubeconfig.Access, *, timeout: float = 30.0) -> None:
        self.access = access
        self.timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def from_kubeconfig(
        cls, path: str | Path | None = None, *, context: str | None = None, timeout: float = 30.0
    ) -> HttpsTransport:
        """As kubectl finds it: `path`, $KUBECONFIG or ~/.kube/config. Raises KubeconfigError."""
        return cls(kubeconfig.load(path, context), timeout=timeout)

    @classmethod
    def in_cluster(cls, *, timeout: float = 30.0) -> HttpsTransport:
        return cls(kubeconfig.in_cluster(), timeout=timeout)

    async def send(self, request: Request) -> Object:
        import aiohttp

        limits = aiohttp.ClientTimeout(total=self.timeout, sock_connect=CONNECT_SECONDS)
        try:
            async with self._open(request, limits) as response:
                data = await response.read()
                if response.status >= 400:
                    raise _error(response.status, data)
                if response.content_type == "text/plain":  # the word of a health check
                    return {"value": data.decode(errors="replace")}
                answer = _decode(data) if data else {}
                return answer if isinstance(answer, dict) else {"value": answer}
        except aiohttp.ClientError as error:
            raise ConnectionError(f"{request.method} {self.access.server}{request.path}: {error}") from error
        except msgspec.DecodeError as error:
            raise ConnectionError(f"{self.access.server}{request.path} did not answer JSON: {error}") from error

    async def watch(self, request: Request) -> AsyncIterator[WatchEvent]:
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        try:
            async with self._open(request, limits) as response:
                if response.status >= 400:
                    raise _error(response.status, await response.read())
                rest = b""
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n") if b"\n" in chunk else (rest + chunk,)
                    for line in lines:
                        if line.strip():
                            yield _decode(line)
        except aiohttp.ClientPayloadError:
            return  # the server went away mid-stream: the caller watches again from the last version seen
        except aiohttp.ClientError as error:
            raise ConnectionError(f"watch {self.access.server}{request.path}: {error}") from error
        except msgspec.DecodeError as error:
            raise ConnectionError(f"watch {request.path} sent what is not JSON: {error}") from error

    async def close(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def _open(self, request: Request, timeout: aiohttp.ClientTimeout) -> Any:
        headers = {"Accept": "application/json"}
        if authorization := self.access.authorization():
            headers["Authorization"] = authorization
        data = None
        if request.body is not None:
            headers["Content-Type"] = request.content_type
            data = _encode(request.body)
        return self._connected().request(
            request.method,
            self.access.server + quote(request.path, safe="/:@!$&'()*+,;=-._~"),
            params=dict(request.query),
            data=data,
            headers=headers,
            timeout=timeout,
            server_hostname=self.access.server_name,
        )

    def _connected(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            context = tls_context(self.access) if self.access.server.startswith("https") else None
            # No limit: a watch keeps its connection for minutes, and calls must not queue behind watches.
            connector = aiohttp.TCPConnector(limit=0, ssl=context if context is not None else True)
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session


def tls_context(access: kubeconfig.Access) -> ssl.SSLContext:
    """Verifying, with the cluster's own CA when it has one, and our certificate when we have one."""
    context = ssl.create_default_context(cadata=access.ca.decode() if access.ca else None)
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if access.certificate and access.key:
        # ssl reads certificates from files only; this one is private to us and gone at once.
        descriptor, name = tempfile.mkstemp(prefix="sampan-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(access.certificate + b"\n" + access.key)
            context.load_cert_chain(name)
        finally:
            Path(name).unlink()
    return context


def _error(code: int, data: bytes) -> ApiError:
    try:
        status = _decode(data)
    except msgspec.DecodeError:
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        return ApiError.from_status(status, code)
    return ApiError(code, "Unknown", data[:400].decode(errors="replace").strip() or f"HTTP {code}")
