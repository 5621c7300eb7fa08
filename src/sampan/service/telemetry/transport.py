"""How a request of OTLP leaves: over HTTP (aiohttp), gRPC (grpcio, with the bytes as they are), or as JSON lines.

https://opentelemetry.io/docs/specs/otlp/ says which answers may be tried again. Libraries are imported by `open`.
"""

from __future__ import annotations

import asyncio
import gzip
import importlib
import ssl
import sys
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec

from sampan.service.telemetry import otlp

if TYPE_CHECKING:
    import aiohttp

    from sampan.service.telemetry.settings import Target


class Outcome(NamedTuple):
    """`why` is empty when it was taken. `again`: worth another try, not before `after` seconds (0: as one likes)."""

    why: str = ""
    again: bool = False
    after: float = 0.0
    rejected: int = 0  # entries that the collector did not take of a request it took


class Transport(Protocol):
    """`send` never raises for what the other side or the network does."""

    async def open(self) -> None: ...

    async def send(self, body: bytes, timeout: float) -> Outcome: ...

    async def close(self) -> None: ...


def transport(target: Target) -> Transport:
    return _KINDS[target.protocol](target)


class HttpTransport:
    """http/protobuf and http/json."""

    RETRIED: Final = frozenset({429, 502, 503, 504})

    def __init__(self, target: Target) -> None:
        self.target = target
        self.json = target.protocol == "http/json"
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        aiohttp = await asyncio.to_thread(importlib.import_module, "aiohttp")
        kind = "application/json" if self.json else "application/x-protobuf"
        headers = {"user-agent": "sampan-otlp", **self.target.headers, "content-type": kind}
        if self.target.gzip:
            headers["content-encoding"] = "gzip"
        connector = aiohttp.TCPConnector(limit=1, keepalive_timeout=30, ssl=self._ssl())
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, cookie_jar=aiohttp.DummyCookieJar())

    def _ssl(self) -> Any:
        target = self.target
        if not target.url.startswith("https") or not (target.certificate or target.client_certificate):
            return True
        context = ssl.create_default_context(cafile=target.certificate or None)
        if target.client_certificate:
            context.load_cert_chain(target.client_certificate, target.client_key or None)
        return context

    async def send(self, body: bytes, timeout: float) -> Outcome:
        import aiohttp

        assert self._session is not None, "not open"
        if self.json:
            body = msgspec.json.encode(otlp.as_json(body, self.target.signal))
        if self.target.gzip:
            body = await asyncio.to_thread(gzip.compress, body, 1)
        try:
            limit = aiohttp.ClientTimeout(total=timeout)
            async with self._session.post(self.target.url, data=body, timeout=limit, allow_redirects=False) as reply:
                answer = await reply.content.read(65536)
                status, after = reply.status, retry_after(reply.headers.get("retry-after", ""))
        except TimeoutError:
            return Outcome(f"no answer within {timeout:g} s", again=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Outcome(f"{type(error).__name__}: {error}", again=True)
        if status // 100 == 2:
            return Outcome(rejected=self._rejected(answer))
        return Outcome(f"status {status}", again=status in self.RETRIED, after=after)

    def _rejected(self, answer: bytes) -> int:
        try:
            if not self.json:
                return otlp.rejected(answer)[0]
            partial = msgspec.json.decode(answer or b"{}").get("partialSuccess") or {}
            return int(partial.get("rejectedSpans") or partial.get("rejectedLogRecords") or 0)
        except (ValueError, AttributeError, TypeError):  # an answer of another kind; what counts is the status
            return 0

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def retry_after(value: str) -> float:
    """Seconds that a Retry-After header (RFC 9110, 10.2.3) asks to wait; 0 when there is none."""
    if value.isascii() and value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (TypeError, ValueError):
        return 0.0


_SERVICES: Final = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}


class GrpcTransport:
    RETRIED: Final = frozenset(
        {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
    )

    def __init__(self, target: Target) -> None:
        self.target = target
        self._channel: Any = None
        self._export: Any = None

    async def open(self) -> None:
        grpc = await asyncio.to_thread(importlib.import_module, "grpc")
        parts, target = urlsplit(self.target.url), self.target
        address = f"{parts.hostname}:{parts.port or 4317}"
        if parts.scheme == "https":

            def read(path: str) -> bytes | None:
                return Path(path).read_bytes() if path else None

            files = [read(path) for path in (target.certificate, target.client_key, target.client_certificate)]
            self._channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(*files))
        else:
            self._channel = grpc.aio.insecure_channel(address)
        self._export = self._channel.unary_unary(_SERVICES[target.signal])  # bytes in, bytes out

    async def send(self, body: bytes, timeout: float) -> Outcome:
        import grpc

        compression = grpc.Compression.Gzip if self.target.gzip else None
        try:
            answer = await self._export(
                body, timeout=timeout, metadata=tuple(self.target.headers.items()), compression=compression
            )
        except grpc.aio.AioRpcError as error:
            code, after = error.code().name, _retry_info(error.trailing_metadata())
            again = code in self.RETRIED or (code == "RESOURCE_EXHAUSTED" and after > 0)
            return Outcome(f"{code}: {error.details()}", again=again, after=after)
        try:
            return Outcome(rejected=otlp.rejected(answer)[0])
        except ValueError:
            return Outcome()

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close(None)


def _retry_info(metadata: Any) -> float:
    """Seconds of google.rpc.RetryInfo among the details of a google.rpc.Status; 0 without it."""
    try:
        for key, status in metadata or ():
            if key != "grpc-status-details-bin":
                continue
            for detail in ({n: v for n, _, v in otlp.fields(raw)} for n, _, raw in otlp.fields(status) if n == 3):
                if bytes(detail.get(1, b"")).endswith(b"google.rpc.RetryInfo"):
                    for _, _, duration in otlp.fields(detail[2]):
                        parts = {number: found for number, _, found in otlp.fields(duration)}
                        return float(parts.get(1, 0) + parts.get(2, 0) / 1e9)
    except (ValueError, TypeError, KeyError):
        pass
    return 0.0


class ConsoleTransport:
    """OTLP/JSON lines on stderr, to look at."""

    def __init__(self, target: Target) -> None:
        self.target = target

    async def open(self) -> None: ...

    async def send(self, body: bytes, timeout: float) -> Outcome:
        sys.stderr.write(msgspec.json.encode(otlp.as_json(body, self.target.signal)).decode() + "\n")
        sys.stderr.flush()
        return Outcome()

    async def close(self) -> None: ...


_KINDS: Final[dict[str, Callable[[Target], Transport]]] = {
    "http/protobuf": HttpTransport,
    "http/json": HttpTransport,
    "grpc": GrpcTransport,
    "console": ConsoleTransport,
}
