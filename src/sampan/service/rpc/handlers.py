"""What every call gets, in one pass around its handler, whichever of the four kinds it is:

trace context, deadline, SERVER span, metrics, access log line, guards, and a status for whatever the handler raises.

    rpc_server_requests_total{service,method,code}         rpc_server_call_duration_seconds{service,method}
    rpc_server_requests_active

`service` and `method` are declared names; a method nobody declared counts as ("", "(unknown)").
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Final

import grpc
import msgspec

from sampan.service.http.middleware import Guard
from sampan.service.http.refusal import Refusal, Scope
from sampan.service.rpc import codes, guarding
from sampan.service.rpc.codes import DRAINING, NAMES
from sampan.service.telemetry import tracing
from sampan.service.telemetry.context import (
    B3,
    B3_FLAGS,
    B3_SAMPLED,
    B3_SPAN,
    B3_TRACE,
    BAGGAGE,
    REQUEST_ID,
    TRACEPARENT,
    TRACESTATE,
    Context,
    from_headers,
)
from sampan.service.telemetry.logs import Output, timestamp
from sampan.service.telemetry.metrics import Registry

log = logging.getLogger("sampan.rpc")

_FLUSH_SECONDS: Final = 0.05
_CLOSE_TO: Final = 0.05  # seconds: the core's clock and ours are not one
_FLUSH_COUNT: Final = 512
_OK: Final = grpc.StatusCode.OK
_READ: Final = frozenset(
    {TRACEPARENT, TRACESTATE, BAGGAGE, REQUEST_ID, B3, B3_TRACE, B3_SPAN, B3_SAMPLED, B3_FLAGS, "user-agent"}
)
_MESSAGES: Final = {
    grpc.StatusCode.UNAVAILABLE: "a service or store this call needs is not available",
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline exceeded",
    grpc.StatusCode.UNIMPLEMENTED: "not implemented",
}


class Served(msgspec.Struct, gc=False):
    """One call served, for its line in the access log. `status` is what HTTP has for the `code`; `start` is Unix time,
    `duration` in seconds."""

    context: Context
    method: str
    code: str
    status: int
    start: float
    duration: float
    client: str
    user_agent: str
    error: str


class Calls:
    """Instruments handlers and accounts for what they serve. `guards` is asked at every call."""

    def __init__(
        self,
        registry: Registry,
        output: Output | None = None,
        identity: dict[str, str] | None = None,
        guards: Callable[[], tuple[Guard, ...]] = tuple,
        draining: Callable[[], bool] = bool,
    ) -> None:
        """While `draining()`, callers of ours are asked to connect anew, as HTTP's are by `connection: close`."""
        self.output, self.identity, self.guards, self.draining = output, identity or {}, guards, draining
        self.requests = registry.counter(
            "rpc_server_requests_total", "gRPC calls served.", ("service", "method", "code")
        )
        self.durations = registry.histogram(
            "rpc_server_call_duration_seconds", "Time from call to status.", ("service", "method")
        )
        registry.gauge("rpc_server_requests_active", "gRPC calls being served.", read=lambda: float(self.in_flight))
        self.in_flight = 0
        self.secure = False  # whether connections are TLS, which the server knows
        self._pending: list[Served] = []

    # -- around a handler ------------------------------------------------------------------------------------------

    def around(self, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        """`handler`, instrumented. TypeError when it would block the event loop."""
        kind = ("stream" if handler.request_streaming else "unary") + (
            "_stream" if handler.response_streaming else "_unary"
        )
        behaviour = _asynchronous(method, getattr(handler, kind))
        names = tuple(method.lstrip("/").rpartition("/")[::2])

        async def serve(argument: Any, rpc: Any) -> Any:
            return await self.serve(method, names, behaviour, argument, rpc)

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        made: grpc.RpcMethodHandler[Any, Any] = make(serve, handler.request_deserializer, handler.response_serializer)
        return made

    async def serve(
        self, method: str, names: tuple[str, ...], behaviour: Callable[[Any, Any], Any], argument: Any, rpc: Any
    ) -> Any:
        """Run `behaviour(argument, rpc)`; `argument` is the request, or an iterator of requests."""
        started, clock = time.time(), time.perf_counter()
        metadata: guarding.Metadata = rpc.invocation_metadata()
        context, agent = _context(metadata, rpc.time_remaining())
        trailing = ((REQUEST_ID, context.request_id),)
        rpc.set_trailing_metadata((*trailing, DRAINING) if self.draining() else trailing)
        attributes = {"rpc.system.name": "grpc", "rpc.method": method[1:]}
        span = tracing.span(method[1:], tracing.SERVER, attributes, parent=context)
        guards, entered = self.guards(), 0
        scope: Scope = {}
        code, error = grpc.StatusCode.INTERNAL, ""
        self.in_flight += 1
        span.__enter__()
        try:
            if guards:
                scope = guarding.scope_of(method, rpc, metadata, self.secure)
                for guard in guards:
                    await _ask(guard, scope, context, rpc)
                    entered += 1
            # gRPC's core ends the call at its deadline, by cancelling this task; even when the caller is gone
            response = await behaviour(argument, rpc)
            code = codes.known(rpc.code())
            return response
        except grpc.aio.AbortError:  # the handler, or a guard, has given the status itself
            code = codes.known(rpc.code())
            raise
        except Exception as failure:
            code, error = _judged(failure, context), type(failure).__name__
            if code in codes.SERVER_ERRORS:
                span.fail(failure)
            await _answer(failure, code, method, rpc)
        except BaseException:  # the caller went away or its time is up, or this process ends
            overdue = context.deadline is not None and context.deadline - _CLOSE_TO <= time.monotonic()
            code = grpc.StatusCode.DEADLINE_EXCEEDED if overdue else grpc.StatusCode.CANCELLED
            error = "cancelled"
            raise
        finally:
            self.in_flight -= 1
            seconds = time.perf_counter() - clock
            # a member of an enum is slow to look up: most calls need not
            name, status = ("OK", 200) if code is _OK else (NAMES[code], codes.HTTP[code])
            span.set("rpc.response.status_code", name)
            if status != 200 and code in codes.SERVER_ERRORS and not span.error:
                span.fail(name)
            span.__exit__(None, None, None)
            for guard in guards[:entered]:
                guard.leave(scope, context, status, seconds)
            self.requests.add(*names, name)
            self.durations.observe(seconds, *names)
            self._record(Served(context, method, name, status, started, seconds, rpc.peer(), agent, error))

    # -- access log ------------------------------------------------------------------------------------------------

    def _record(self, served: Served) -> None:
        pending = self._pending
        pending.append(served)
        if len(pending) == 1:
            asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)
        elif len(pending) >= _FLUSH_COUNT:
            self.flush()

    def flush(self) -> None:
        """Write the access log of what was served since the last flush."""
        pending, self._pending = self._pending, []
        if pending and self.output is not None:
            for served in pending:
                self.output.later(access_line(served, self.identity))
            self.output.flush()


class Registrar:
    """What `add_services` is given: takes handlers as a server does and instruments them. Else it is the server.

    `services` are the names of the services added.
    """

    def __init__(self, server: grpc.aio.Server, calls: Calls) -> None:
        self._server, self._calls = server, calls
        self.services: list[str] = []

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        for handler in generic_rpc_handlers:
            name = getattr(handler, "service_name", None)
            if name is not None:
                self._named(str(name()))
            self._server.add_generic_rpc_handlers((_Generic(handler, self._calls),))

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        self._named(service_name)
        around = self._calls.around
        self._server.add_registered_method_handlers(
            service_name, {name: around(f"/{service_name}/{name}", each) for name, each in method_handlers.items()}
        )

    def _named(self, service: str) -> None:
        if service not in self.services:
            self.services.append(service)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


class _Generic(grpc.GenericRpcHandler):
    """Instruments what another generic handler answers with, once for each method."""

    def __init__(self, inner: grpc.GenericRpcHandler, calls: Calls) -> None:
        self.inner, self.calls = inner, calls
        self._made: dict[str, tuple[Any, Any]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        found = self.inner.service(handler_call_details)
        if found is None:
            return None
        method = handler_call_details.method
        known = self._made.get(method)
        if known is None or known[0] is not found:
            known = self._made[method] = (found, self.calls.around(method, found))
        made: grpc.RpcMethodHandler[Any, Any] = known[1]
        return made


class Unknown(grpc.GenericRpcHandler):
    """The last handler of a server: counts and refuses methods that nobody declared."""

    def __init__(self, calls: Calls) -> None:
        async def serve(argument: Any, rpc: Any) -> None:
            await calls.serve("/_OTHER", ("", "_OTHER"), _unimplemented, argument, rpc)

        self._handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(serve)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        return self._handler


async def _unimplemented(argument: Any, rpc: Any) -> None:
    raise NotImplementedError("no such method")


def _asynchronous(method: str, behaviour: Any) -> Callable[[Any, Any], Any]:
    """`behaviour` as a coroutine function; an asynchronous generator is written out message by message."""
    called = behaviour if inspect.isroutine(behaviour) else getattr(behaviour, "__call__", behaviour)  # noqa: B004
    if inspect.iscoroutinefunction(behaviour) or inspect.iscoroutinefunction(called):
        return behaviour  # type: ignore[no-any-return]
    if inspect.isasyncgenfunction(behaviour) or inspect.isasyncgenfunction(called):

        async def write(argument: Any, rpc: Any) -> None:
            messages: AsyncIterator[Any] = behaviour(argument, rpc)
            async with contextlib.aclosing(messages):  # type: ignore[type-var]
                async for message in messages:
                    await rpc.write(message)

        return write
    if str(getattr(behaviour, "__module__", "")).endswith("_pb2_grpc"):
        return _unimplemented  # what protoc generates for a method that the servicer does not have
    raise TypeError(
        f"the handler of {method} is not asynchronous and would stop every other call while it works: "
        f"write `async def {method.rpartition('/')[2]}(self, request, context)`, blocking parts in asyncio.to_thread"
    )


def _context(metadata: guarding.Metadata, remaining: float | None) -> tuple[Context, str]:
    """The context of a call and its user agent. `remaining` seconds until its deadline."""
    found: dict[str, Any] = {name: value for name, value in metadata if name in _READ}
    request_id = found.get(REQUEST_ID, "")
    if len(request_id) > 128:
        del found[REQUEST_ID]
    context = from_headers(found)
    context.deadline = None if remaining is None else time.monotonic() + remaining
    return context, found.get("user-agent", "")


async def _ask(guard: Guard, scope: Scope, context: Context, rpc: Any) -> None:
    """Raises AbortError when the guard refuses."""
    refusal = guard.enter(scope, context)
    if refusal is not None and not isinstance(refusal, Refusal):
        refusal = await refusal
    if refusal is not None:
        code, message, trailing = guarding.refused(refusal)
        await rpc.abort(code, message, ((REQUEST_ID, context.request_id), *trailing))


def _judged(failure: Exception, context: Context) -> grpc.StatusCode:
    if context.overdue() and isinstance(failure, TimeoutError):
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return codes.of_error(failure)


async def _answer(failure: Exception, code: grpc.StatusCode, method: str, rpc: Any) -> None:
    """Log `failure` and end the call with `code`. What it says reaches the caller only where the caller erred."""
    if codes.HTTP[code] == 500:
        log.error("call of %s failed: %s", method, failure, exc_info=failure)
        message = "internal error"
    elif codes.HTTP[code] > 500:
        log.warning("call of %s not served: %s", method, str(failure) or NAMES[code].lower())
        message = _MESSAGES[code]
    else:
        message = str(failure)[:1000]
    await rpc.abort(code, message)


class _Attributes(
    msgspec.Struct,
    omit_defaults=True,
    gc=False,
    rename={
        "system": "rpc.system.name",
        "method": "rpc.method",
        "code": "rpc.response.status_code",
        "client": "client.address",
        "user_agent": "user_agent.original",
        "error": "error.type",
    },
):
    system: str
    method: str
    code: str
    duration_ms: float
    client: str
    user_agent: str
    request_id: str
    error: str = ""


class _Line(msgspec.Struct, omit_defaults=True, gc=False):
    """A line of the access log, shaped as HTTP's; the last fields are those of `process.identity`."""

    time: str
    severity: str
    message: str
    attributes: _Attributes
    trace_id: str
    span_id: str
    logger: str
    service: str = ""
    version: str = ""
    pod: str = ""


_encode = msgspec.json.Encoder().encode


def access_line(served: Served, identity: dict[str, str]) -> bytes:
    context, status = served.context, served.status
    address = guarding.peer_address(served.client)
    attributes = _Attributes(
        "grpc",
        served.method[1:],
        served.code,
        round(served.duration * 1000, 3),
        address[0] if address else "",
        served.user_agent,
        context.request_id,
        served.error,
    )
    return _encode(
        _Line(
            timestamp(served.start + served.duration),
            "ERROR" if status >= 500 and status not in (501, 503) else "INFO",
            f"gRPC {served.method} {served.code}",
            attributes,
            context.trace_id,
            context.span_id,
            "sampan.access",
            **identity,
        )
    )
