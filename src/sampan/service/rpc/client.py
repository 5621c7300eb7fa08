"""Stubs of other services: deadline, trace context, retries of what is safe, breaker, CLIENT spans, metrics.

    stub = users.rpc(UsersStub)                     # at import time too; it connects at the first call
    user = await stub.GetUser(GetUserRequest(id=1))  # grpc.aio.AioRpcError, as RpcError, when there is none

A call ends after `timeout=`, else the policy's; never later than what is being served has to be answered. A stream of
responses has no limit of its own. Everything else (`metadata=`, `wait_for_ready=`, ...) is gRPC's.

    rpc_client_requests_total{service,method,code}          rpc_client_call_duration_seconds{service,method}
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Generator
from typing import Any, Final, TypeVar

import grpc

from sampan.model import Policy, Service
from sampan.service.http.tls import Identity
from sampan.service.resilience.breaker import CircuitBreaker
from sampan.service.rpc import codes, credentials, retrying
from sampan.service.rpc.codes import DRAINING
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import CURRENT, outgoing_headers
from sampan.service.telemetry.metrics import Registry

S = TypeVar("S")

PORT: Final = 9090
_CLOSE_SECONDS: Final = 2.0
_FINISH_SECONDS: Final = 60.0  # for calls over a channel whose certificate was replaced
_LOOK_SECONDS: Final = 5.0
_RENEW_SECONDS: Final = 0.1
_STATUS_SECONDS: Final = 1.0
# the verdict on a service, not on one call
_FAULTS: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_UNANSWERED: Final = {**{code: codes.HTTP[code] for code in _FAULTS}, grpc.StatusCode.CANCELLED: 503}
_NO_VERDICT: Final = frozenset({grpc.StatusCode.CANCELLED})


class RpcError(grpc.aio.AioRpcError):
    """A call that did not end with OK. Uncaught in a request it is a 503 or 504 where the callee gave no answer."""

    def __init__(self, service: str, error: grpc.aio.AioRpcError) -> None:
        super().__init__(
            error.code(),
            error.initial_metadata(),
            error.trailing_metadata(),
            error.details(),
            error.debug_error_string(),
        )
        self.service = service

    @property
    def http_status(self) -> int:
        return _UNANSWERED.get(self.code(), 500)

    def __str__(self) -> str:
        return f"gRPC call to service {self.service!r} ended with {self.code().name}: {self.details()}"


def _error(service: str, code: grpc.StatusCode, details: str) -> RpcError:
    return RpcError(service, grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details))


class Target:
    """Where a service answers: `address` is a gRPC target, `secure` whether by TLS."""

    def __init__(self, address: str, secure: bool = False) -> None:
        self.address, self.secure = address, secure


def target_of(service: Service) -> Target:
    """The service's name at the gRPC port; SAMPAN_SERVICE_<NAME>_GRPC overrides it, https://host:port for TLS."""
    stated = os.environ.get(service.rpc_variable, "")
    text = stated or f"{service.name}:{PORT}"
    secure = text.startswith(("https://", "grpcs://"))
    for scheme in ("https://", "grpcs://", "http://", "grpc://"):
        text = text.removeprefix(scheme)
    return Target(text.rstrip("/"), secure)


class Channel:
    """Implements `model.bound.ServiceChannel`: a connection for each stub class, opened at the first call."""

    def __init__(
        self,
        service: Service,
        target: Target,
        registry: Registry,
        policy: Policy | None = None,
        breaker: CircuitBreaker | None = None,
        *,
        identity: Identity | None = None,
        token: Callable[[], str | None] | None = None,
    ) -> None:
        """`breaker` is shared with the HTTP client of the service, `identity` shown where the target speaks TLS;
        `token` gives the Authorization of the work in hand, sent along where the policy forwards it."""
        self.service, self.name, self.target, self.policy = service, service.name, target, policy or Policy()
        self.breaker, self.identity = breaker, identity
        self.token = token if self.policy.forward_token else None
        self.requests = registry.counter("rpc_client_requests_total", "gRPC calls.", ("service", "method", "code"))
        self.durations = registry.histogram(
            "rpc_client_call_duration_seconds", "Time from call to status.", ("service", "method")
        )
        self._stubs: dict[Any, tuple[Any, _Connection]] = {}

    def stub(self, stub: Callable[[Any], S]) -> S:
        if stub not in self._stubs:
            connection = _Connection(self)
            self._stubs[stub] = (stub(connection), connection)
        found: S = self._stubs[stub][0]
        return found

    async def start(self) -> None: ...

    async def stop(self) -> None:
        self.service.bind_rpc(None)
        for _, connection in self._stubs.values():
            await connection.close()


class _Connection:
    """What a stub class is given in place of a channel: it hears which methods there are, and connects when one is
    called."""

    def __init__(self, owner: Channel) -> None:
        self.owner = owner
        self.methods: list[str] = []
        self._channel: grpc.aio.Channel | None = None
        self._context: Any = None  # of the identity, as it was when the channel was opened
        self._look = self._opened = 0.0
        self._closing: set[asyncio.Task[None]] = set()

    def unary_unary(self, method: str, *how: Any, **options: Any) -> _Method:
        return self._method("unary_unary", method, how, options)

    def unary_stream(self, method: str, *how: Any, **options: Any) -> _Method:
        return self._method("unary_stream", method, how, options)

    def stream_unary(self, method: str, *how: Any, **options: Any) -> _Method:
        return self._method("stream_unary", method, how, options)

    def stream_stream(self, method: str, *how: Any, **options: Any) -> _Method:
        return self._method("stream_stream", method, how, options)

    def _method(self, kind: str, method: str, how: tuple[Any, ...], options: dict[str, Any]) -> _Method:
        self.methods.append(method)
        return _Method(self, kind, method, how, options)

    def channel(self) -> grpc.aio.Channel:
        """The channel to call over: another one than before where our certificate has changed."""
        identity = self.owner.identity if self.owner.target.secure else None
        if identity is not None and (now := time.monotonic()) > self._look:
            self._look = now + _LOOK_SECONDS
            identity.poll()
            if self._channel is not None and identity.client_context is not self._context:
                self._leave()
        if self._channel is None:
            self._opened = time.monotonic()
            options = self._options()
            address = _resolved(self.owner.target.address)
            if not self.owner.target.secure:
                self._channel = grpc.aio.insecure_channel(address, options)
            else:
                self._context = identity.client_context if identity is not None else None
                self._channel = grpc.aio.secure_channel(address, credentials.channel(identity), options)
        return self._channel

    def renew(self, channel: grpc.aio.Channel) -> None:
        """Connect anew for further calls, as a server asked over `channel`."""
        if channel is self._channel and time.monotonic() - self._opened > _RENEW_SECONDS:
            self._leave()

    def _leave(self) -> None:
        """Let the calls of the channel finish; the next one opens another."""
        if self._channel is not None:
            closing = asyncio.ensure_future(self._channel.close(_FINISH_SECONDS))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._channel = None

    def _options(self) -> list[tuple[str, Any]]:
        policy = self.owner.policy
        return [
            ("grpc.service_config", retrying.service_config(self.methods, policy)),
            ("grpc.enable_retries", 1),
            ("grpc.max_receive_message_length", -1),  # what a callee of ours may send, it limits itself
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", int(policy.connect_timeout * 1000)),
            ("grpc.max_reconnect_backoff_ms", 5_000),
            ("grpc.dns_min_time_between_resolutions_ms", 1_000),
            ("grpc.enable_http_proxy", 0),  # a service is inside, whatever http_proxy says
            ("grpc.use_local_subchannel_pool", 1),
        ]

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close(_CLOSE_SECONDS)
        if self._closing:
            await asyncio.wait(self._closing, timeout=_CLOSE_SECONDS)


def _resolved(address: str) -> str:
    """`address`, for gRPC's own resolver; its present IP address where names are known to Python alone."""
    host, _, port = address.rpartition(":")
    if not os.environ.get("SAMPAN_HOSTS") or "/" in address or not host:
        return address
    try:
        return f"ipv4:{socket.getaddrinfo(host, int(port), socket.AF_INET)[0][4][0]}:{port}"
    except (OSError, ValueError):
        return address


class _Method:
    """One method of a stub, with the interface of grpc.aio's multi-callables."""

    def __init__(
        self, connection: _Connection, kind: str, path: str, how: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        self._connection, self._kind, self._how, self._options = connection, kind, how, options
        self._owner = connection.owner
        self._path, self._names = path, tuple(path.lstrip("/").rpartition("/")[::2])
        self._limited = kind.endswith("_unary")
        self._channel: grpc.aio.Channel | None = None
        self._inner: Any = None

    def __call__(
        self, *request: Any, timeout: float | None = None, metadata: Any = None, **options: Any
    ) -> _Call | Any:
        owner = self._owner
        context = CURRENT.get()
        remaining = context.remaining() if context is not None else None
        limit = timeout if timeout is not None or not self._limited else owner.policy.timeout
        if remaining is not None:
            limit = remaining if limit is None else min(limit, remaining)
        if limit is not None and limit <= 0:
            self._account(grpc.StatusCode.DEADLINE_EXCEEDED, 0.0)
            raise _error(owner.name, grpc.StatusCode.DEADLINE_EXCEEDED, "no time left; nothing was sent")
        if owner.breaker is not None and not owner.breaker.allow():
            self._account(grpc.StatusCode.UNAVAILABLE, 0.0)
            raise _error(owner.name, grpc.StatusCode.UNAVAILABLE, "the circuit is open after repeated failures")
        connection = self._connection
        channel = connection.channel()
        if self._channel is not channel:
            self._channel = channel
            self._inner = getattr(channel, self._kind)(self._path, *self._how, **self._options)
        attributes = {"rpc.system.name": "grpc", "rpc.method": self._path[1:], "server.address": owner.name}
        span, started = tracing.span(self._path[1:], tracing.CLIENT, attributes).begin(), time.perf_counter()
        sent = [*outgoing_headers(span.context).items(), *(metadata or ())]
        if owner.token is not None and (token := owner.token()) and not any(n == "authorization" for n, _ in sent):
            sent.append(("authorization", token))
        try:
            call = self._inner(*request, timeout=limit, metadata=sent, **options)
        except BaseException as error:
            span.fail(error)
            span.finish()
            if owner.breaker is not None:
                owner.breaker.abandoned()
            raise

        if self._kind.startswith("stream") and (core := getattr(call, "_cython_call", None)) is not None:
            call._cython_call = _Outcome(core)

        def ended(done: Any) -> None:
            code = codes.known(_now(done.code()))
            self._account(code, time.perf_counter() - started)
            _judge(owner.breaker, code)
            span.set("rpc.response.status_code", code.name)
            if code is not grpc.StatusCode.OK:
                span.fail(code.name)
            span.finish()
            trailing = _now(done.trailing_metadata())
            if trailing is not None and DRAINING[0] in trailing:
                connection.renew(channel)

        call.add_done_callback(ended)
        return _Call(call, owner.name)

    def _account(self, code: grpc.StatusCode, seconds: float) -> None:
        self._owner.requests.add(*self._names, code.name)
        self._owner.durations.observe(seconds, *self._names)


def _judge(breaker: CircuitBreaker | None, code: grpc.StatusCode) -> None:
    if breaker is None:
        return
    if code in _FAULTS:
        breaker.failed()
    elif code in _NO_VERDICT:
        breaker.abandoned()
    else:
        breaker.succeeded()


def _now(asking: Any) -> Any:
    """What `code()` or `trailing_metadata()` says of a call that has ended: coroutines, which then return at once."""
    try:
        asking.send(None)
    except StopIteration as answer:
        return answer.value
    finally:
        asking.close()
    return None


class _Outcome:
    """A call of gRPC's core that ends with what the server said. To a message that can no longer be sent, because the
    server has answered already, grpc.aio calls it an internal error, over that answer (grpc/grpc#36066)."""

    __slots__ = ("_core",)

    def __init__(self, core: Any) -> None:
        self._core = core

    def set_internal_error(self, text: str) -> None:
        def unless_ended() -> None:
            if not self._core.done():
                self._core.set_internal_error(text)

        # the status is on its way, unless the core refused the message out of hand
        asyncio.get_running_loop().call_later(_STATUS_SECONDS, unless_ended)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)


class _Call:
    """A call as grpc.aio gives it, whose errors are RpcError."""

    __slots__ = ("_inner", "_service")

    def __init__(self, inner: Any, service: str) -> None:
        self._inner, self._service = inner, service

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self._inner.__await__())
        except grpc.aio.AioRpcError as error:
            raise RpcError(self._service, error) from None

    async def __aiter__(self) -> Any:
        try:
            async for message in self._inner:
                yield message
        except grpc.aio.AioRpcError as error:
            raise RpcError(self._service, error) from None

    async def read(self) -> Any:
        try:
            return await self._inner.read()
        except grpc.aio.AioRpcError as error:
            raise RpcError(self._service, error) from None

    async def write(self, message: Any) -> None:
        try:
            await self._inner.write(message)
        except grpc.aio.AioRpcError as error:
            raise RpcError(self._service, error) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
