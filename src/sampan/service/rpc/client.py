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
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import grpc

from sampan.model import Policy, Service
from sampan.service.http.tls import Identity
from sampan.service.resilience.breaker import CircuitBreaker
from sampan.service.resilience.budget import RetryBudget
from sampan.service.rpc import codes
from sampan.service.rpc.codes import DRAINING
from sampan.service.rpc.links import Link, Links
from sampan.service.rpc.repeating import Repeated
from sampan.service.rpc.retrying import repeatable
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import CURRENT, outgoing_headers
from sampan.service.telemetry.metrics import Registry

if TYPE_CHECKING:
    from sampan.service.discovery.balancer import Balancer

S = TypeVar("S")

PORT: Final = 9090
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
        endpoints: Balancer | None = None,
    ) -> None:
        """`breaker` is shared with the HTTP client of the service, `identity` shown where the target speaks TLS;
        `token` gives the Authorization of the work in hand, sent along where the policy forwards it. `endpoints` knows
        the instances: each call then goes to the less busy of two, and a repeated one perhaps to another."""
        self.service, self.name, self.target, self.policy = service, service.name, target, policy or Policy()
        self.breaker, self.identity, self.endpoints = breaker, identity, endpoints
        self.budget = RetryBudget(self.policy.retry_budget, self.policy.retry_minimum)
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
        self.owner, self.links = owner, Links(owner)

    def unary_unary(self, method: str, *how: Any, **options: Any) -> _Method:
        return self._method("unary_unary", method, how, options)

    def unary_stream(self, method: str, *how: Any, **options: Any) -> _Method:
        return self._method("unary_stream", method, how, options)

    def stream_unary(self, method: str, *how: Any, **options: Any) -> _Method:
        return self._method("stream_unary", method, how, options)

    def stream_stream(self, method: str, *how: Any, **options: Any) -> _Method:
        return self._method("stream_stream", method, how, options)

    def _method(self, kind: str, method: str, how: tuple[Any, ...], options: dict[str, Any]) -> _Method:
        if self.owner.endpoints is None or kind != "unary_unary":
            self.links.repeated.append(method)
        return _Method(self, kind, method, how, options)

    async def close(self) -> None:
        await self.links.close()


class _Method:
    """One method of a stub, with the interface of grpc.aio's multi-callables."""

    def __init__(
        self, connection: _Connection, kind: str, path: str, how: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        self._connection, self._kind, self._how, self._options = connection, kind, how, options
        self._owner = connection.owner
        self._path, self._names = path, tuple(path.lstrip("/").rpartition("/")[::2])
        self._limited = kind.endswith("_unary")
        self._repeats = kind == "unary_unary" and self._owner.endpoints is not None
        self._safe = repeatable(path)

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
            self._refuse(grpc.StatusCode.DEADLINE_EXCEEDED, "no time left; nothing was sent")
        if not self._repeats:
            return self._begin(request, limit, metadata, options, [])
        tried: list[str] = []

        def begin(left: float | None) -> _Call:
            return self._begin(request, left, metadata, options, tried)

        return _Call(Repeated(begin, limit, owner.policy, owner.budget, self._safe), owner.name)

    def _refuse(self, code: grpc.StatusCode, why: str) -> NoReturn:
        self._account(code, 0.0)
        raise _error(self._owner.name, code, why)

    def _begin(
        self, request: tuple[Any, ...], limit: float | None, metadata: Any, options: dict[str, Any], tried: list[str]
    ) -> _Call:
        """One attempt, at another instance than those `tried`, to which it is added."""
        owner = self._owner
        if owner.breaker is not None and not owner.breaker.allow():
            self._refuse(grpc.StatusCode.UNAVAILABLE, "the circuit is open after repeated failures")
        links = self._connection.links
        link = links.pick(tried)
        tried.append(link.base)
        inner = link.method(self._kind, self._path, self._how, self._options)
        attributes = {"rpc.system.name": "grpc", "rpc.method": self._path[1:], "server.address": owner.name}
        span, started = tracing.span(self._path[1:], tracing.CLIENT, attributes).begin(), time.perf_counter()
        sent = [*outgoing_headers(span.context).items(), *(metadata or ())]
        if owner.token is not None and (token := owner.token()) and not any(n == "authorization" for n, _ in sent):
            sent.append(("authorization", token))
        try:
            call = inner(*request, timeout=limit, metadata=sent, **options)
        except BaseException as error:
            span.fail(error)
            span.finish()
            self._judge(link, None)
            raise

        if self._kind.startswith("stream") and (core := getattr(call, "_cython_call", None)) is not None:
            call._cython_call = _Outcome(core)

        def ended(done: Any) -> None:
            code = codes.known(_now(done.code()))
            self._account(code, time.perf_counter() - started)
            self._judge(link, code)
            span.set("rpc.response.status_code", code.name)
            if code is not grpc.StatusCode.OK:
                span.fail(code.name)
            span.finish()
            trailing = _now(done.trailing_metadata())
            if trailing is not None and DRAINING[0] in trailing:
                links.renew(link)

        call.add_done_callback(ended)
        return _Call(call, owner.name)

    def _account(self, code: grpc.StatusCode, seconds: float) -> None:
        self._owner.requests.add(*self._names, code.name)
        self._owner.durations.observe(seconds, *self._names)

    def _judge(self, link: Link, code: grpc.StatusCode | None) -> None:
        """Tell breaker and endpoints how an attempt went; without a code, or by one that is no verdict, only that it
        is over."""
        good = None if code is None or code in _NO_VERDICT else code not in _FAULTS
        endpoints, breaker = self._owner.endpoints, self._owner.breaker
        alone = endpoints is not None and bool(link.base) and endpoints.report(link.base, good)
        if breaker is not None:
            breaker.settle(None if alone else good)


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
