"""What a call to another service brings: a reply, whole or as a stream, or an error that says why there is none."""

from __future__ import annotations

import json as json_module
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

T = TypeVar("T")


class CallError(Exception):
    """A call that brought no reply. `service` and `reason` say which and why; uncaught in a request it is a 503."""

    http_status = 503

    def __init__(self, service: str, reason: str) -> None:
        super().__init__(f"call to service {service!r} failed: {reason}")
        self.service, self.reason = service, reason


class CircuitOpen(CallError):
    """The breaker of this service is open; nothing was sent."""


class TooManyCalls(CallError):
    """As many calls to this service are in flight, and as many wait, as its policy allows; nothing was sent."""


class DeadlineExceeded(CallError, TimeoutError):
    """The deadline passed before a reply came; uncaught in a request it is a 504."""

    http_status = 504


class ConnectionBroken(Exception):
    """The connection ended before the reply came. Not one of aiohttp's errors, so that aiohttp does not send the
    request a second time by itself: what is repeated, and how often, is the policy's to say."""


BROKEN: Final = (ConnectionBroken, aiohttp.ClientError, OSError)


class HttpReply:
    """Implements `model.bound.Reply`. `headers` look names up without regard to case."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def __repr__(self) -> str:
        return f"<reply {self.status}, {len(self.body)} bytes>"

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    def decode(self, type: type[T]) -> T:
        """The body as `type`; msgspec.ValidationError when it does not fit."""
        validate = getattr(type, "model_validate_json", None)
        if validate is not None:
            model: T = validate(self.body)
            return model
        return msgspec.json.decode(self.body, type=type)


class StreamedReply:
    """A reply whose body is read as it comes: `async for part in reply`, or `await reply.read()` for all of it."""

    __slots__ = ("_response", "headers", "service", "status")

    def __init__(self, service: str, response: aiohttp.ClientResponse) -> None:
        self.service, self._response = service, response
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Parts of the body. CallError when the connection ends before the body does."""
        try:
            async for part in self._response.content.iter_any():
                yield part
        except BROKEN as error:
            raise CallError(self.service, f"the connection broke: {type(error).__name__}: {error}") from error

    async def read(self) -> bytes:
        return b"".join([part async for part in self])


def encode(value: Any) -> bytes:
    """`value` as JSON: pydantic models, msgspec Structs, dataclasses, and what json.dumps takes."""
    dump = getattr(value, "model_dump_json", None)
    if dump is not None:
        encoded: bytes = dump().encode()
        return encoded
    try:
        return msgspec.json.encode(value)
    except TypeError:
        return json_module.dumps(value).encode()
