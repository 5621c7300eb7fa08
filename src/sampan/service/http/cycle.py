"""One request and its answer: uvicorn's cycle made strict and lean."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from sampan.service.http.errors import InvalidResponse, refusal_error
from sampan.service.http.ready import TELLING, Ready

if TYPE_CHECKING:
    from sampan.service.http.protocol import Protocol

_SAFE: Final = bytes({9, *range(32, 256)} - {127})  # what a header line may hold between its ends
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_names: dict[bytes, bytes] = {}  # names of response headers known to be good -> in lower case


class Cycle(RequestResponseCycle):
    """One request and its answer. The head of an answer of known length waits for the body: one write for both."""

    too_large = disconnected = response_started = response_complete = False
    more_body = True
    body: bytes | bytearray = b""  # type: ignore[assignment]
    chunked_encoding = False
    expected_content_length = 0
    task: asyncio.Task[None]
    _held = b""
    _news = False  # since the last `receive`
    _event: asyncio.Event | None = None  # made when somebody has to wait

    def __init__(self, protocol: Protocol, keep_alive: bool) -> None:  # in place of uvicorn's, with half of its fields
        self.scope, self.transport, self.flow = protocol.scope, protocol.transport, protocol.flow
        self.keep_alive, self.waiting_for_100_continue = keep_alive, protocol.expect_100_continue
        self.protocol, self.logger = protocol, protocol.logger

    async def run_asgi(self, app: Any) -> None:
        self.protocol.burst.coming -= 1
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as error:
            self.logger.error("Exception in ASGI application\n", exc_info=error)
            await self._abandon()
        else:
            if not self.response_complete and not self.disconnected:
                missing = "completing" if self.response_started else "starting"
                self.logger.error(f"ASGI callable returned without {missing} response.")
                await self._abandon()
        finally:
            self.protocol.tasks.discard(self.task)

    async def _abandon(self) -> None:
        self.protocol.burst.flush()
        if self.response_started:
            self.transport.close()
        else:
            await self.send_500_response()

    def wake(self) -> None:
        """Something has happened that `receive` is to tell."""
        self._news = True
        if self._event is not None:
            self._event.set()

    async def receive(self) -> Any:
        if self.too_large:
            raise refusal_error(413, "the body is too large")
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            self.flow.resume_reading()
            if not self._news:
                event = self._event = self._event or asyncio.Event()
                event.clear()
                await event.wait()
            self._news = False
        if self.too_large:
            raise refusal_error(413, "the body is too large")
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = self.body, b""
        return {"type": "http.request", "body": bytes(body), "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"expected http.response.start, the application sent {kind}")
            self._start(message)
        elif self.response_complete:
            raise RuntimeError(f"the application sent {kind} after the end of its answer")
        elif kind != "http.response.body":
            raise RuntimeError(f"expected http.response.body, the application sent {kind}")
        else:
            self._body(message.get("body", b""), message.get("more_body", False))

    def _start(self, message: Any) -> None:
        status, length, chunked, closing = message["status"], None, None, False
        content: list[bytes] = []
        ready: Ready | None = message.get("sampan.head")
        names = ready.names if ready is not None else TELLING
        given = message.get("headers", ())
        count, present = 0, None
        for written, value in given:
            name = _names.get(written) or _checked(written)
            content += (name, b": ", value, b"\r\n")
            count += 1
            if name not in names:
                continue
            if name not in TELLING:
                present = {name} if present is None else present | {name}
            elif name == b"content-length":
                if length is not None or not value.isdigit():
                    raise InvalidResponse("the answer has two content-lengths, or one that is no number")
                length = int(value)
            elif name == b"transfer-encoding":
                chunked = value.lower() == b"chunked"
            elif name == b"connection" and b"close" in value.lower():
                self.keep_alive, closing = False, True
        if length is not None and chunked is not None:
            raise InvalidResponse("the answer has both content-length and transfer-encoding")
        if not self.keep_alive and not closing:
            content.append(b"connection: close\r\n")
            count += 1
        lines = b"".join(content)
        if lines.translate(None, _SAFE) != b"\r\n" * count:
            raise InvalidResponse("a header of the answer holds a line end or a control character")
        bodiless = self.scope["method"] == "HEAD" or status in (204, 304)
        if length is None and chunked is None and not bodiless:
            chunked = True
            lines += b"transfer-encoding: chunked\r\n"
        parts = [STATUS_LINE[status], self.protocol.default_lines(), lines]
        if ready is not None:
            parts += (message["sampan.line"], ready.block if present is None else ready.without(present))
        parts.append(b"\r\n")
        head = b"".join(parts)
        self.chunked_encoding = bool(chunked)
        self.expected_content_length = length or 0
        self.response_started, self.waiting_for_100_continue = True, False
        if length and not bodiless:
            self._held = head
        else:
            self.transport.write(head)

    def _body(self, body: bytes, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
        elif self.chunked_encoding:
            content = [b"%x\r\n" % len(body), body, b"\r\n"] if body else []
            if not more:
                content.append(b"0\r\n\r\n")
            self.transport.write(b"".join(content))
        else:
            if len(body) > self.expected_content_length:
                raise RuntimeError("the answer is longer than its content-length")
            self.expected_content_length -= len(body)
            if self._held:
                body, self._held = self._held + body, b""
                if not (more or self.expected_content_length) and self.keep_alive:
                    self.protocol.burst.write(self.transport, body, self.protocol.loop)
                else:
                    self.transport.write(body)
            else:
                self.transport.write(body)
        if more:
            return
        if self.expected_content_length:
            raise RuntimeError("the answer is shorter than its content-length")
        self.response_complete = True
        self.wake()
        if not self.keep_alive:
            self.transport.close()
        self.protocol.on_response_complete()


def _checked(written: bytes) -> bytes:
    """A header's name in lower case."""
    if not _NAME.fullmatch(written):
        raise InvalidResponse(f"the answer has a header called {written[:60]!r}")
    name = written.lower()
    if len(_names) < 1000:
        _names[written] = name
    return name
