"""Status codes: gRPC's beside HTTP's, by the table of google.rpc.Code, and what our servers tell our clients."""

from __future__ import annotations

from typing import Final

import grpc

_C = grpc.StatusCode

HTTP: Final[dict[grpc.StatusCode, int]] = {
    _C.OK: 200,
    _C.CANCELLED: 499,
    _C.UNKNOWN: 500,
    _C.INVALID_ARGUMENT: 400,
    _C.DEADLINE_EXCEEDED: 504,
    _C.NOT_FOUND: 404,
    _C.ALREADY_EXISTS: 409,
    _C.PERMISSION_DENIED: 403,
    _C.UNAUTHENTICATED: 401,
    _C.RESOURCE_EXHAUSTED: 429,
    _C.FAILED_PRECONDITION: 400,
    _C.ABORTED: 409,
    _C.OUT_OF_RANGE: 400,
    _C.UNIMPLEMENTED: 501,
    _C.INTERNAL: 500,
    _C.UNAVAILABLE: 503,
    _C.DATA_LOSS: 500,
}

_FROM_HTTP: Final[dict[int, grpc.StatusCode]] = {
    400: _C.INVALID_ARGUMENT,
    401: _C.UNAUTHENTICATED,
    403: _C.PERMISSION_DENIED,
    404: _C.NOT_FOUND,
    405: _C.UNIMPLEMENTED,
    408: _C.DEADLINE_EXCEEDED,
    409: _C.ABORTED,
    412: _C.FAILED_PRECONDITION,
    413: _C.RESOURCE_EXHAUSTED,
    416: _C.OUT_OF_RANGE,
    422: _C.INVALID_ARGUMENT,
    429: _C.RESOURCE_EXHAUSTED,
    499: _C.CANCELLED,
    501: _C.UNIMPLEMENTED,
    502: _C.UNAVAILABLE,
    503: _C.UNAVAILABLE,
    504: _C.DEADLINE_EXCEEDED,
}

# the codes that say the server failed, not that the caller erred (OpenTelemetry's conventions for gRPC server spans)
SERVER_ERRORS: Final = frozenset(
    {_C.UNKNOWN, _C.DEADLINE_EXCEEDED, _C.UNIMPLEMENTED, _C.INTERNAL, _C.UNAVAILABLE, _C.DATA_LOSS}
)

# Trailing metadata. A server of gRPC's core that stops cancels what is sent to it before its GOAWAY arrives: callers
# that know this word turn to another instance in time.
DRAINING: Final = ("x-draining", "1")

NAMES: Final = {code: code.name for code in grpc.StatusCode}  # looked up, four times quicker than asked
_BY_NUMBER: Final = {code.value[0]: code for code in grpc.StatusCode}


def from_http(status: int) -> grpc.StatusCode:
    found = _FROM_HTTP.get(status)
    if found is None:
        found = _C.FAILED_PRECONDITION if 400 <= status < 500 else _C.INTERNAL
    return found


def known(code: grpc.StatusCode | int | None) -> grpc.StatusCode:
    """What a servicer's context says its code is: an enum, a bare number, or nothing, which is OK."""
    if isinstance(code, grpc.StatusCode):
        return code
    return _BY_NUMBER.get(code or 0, _C.UNKNOWN)


def of_error(error: BaseException) -> grpc.StatusCode:
    """How a handler's uncaught `error` is answered: by its `http_status`, else INTERNAL.

    What a callee of ours said is not what we say: only that it did not answer, or not in time, is passed on.
    """
    if isinstance(error, grpc.RpcError) and not hasattr(error, "http_status"):
        code = error.code() if isinstance(error, grpc.aio.AioRpcError) else None
        return code if code in (_C.UNAVAILABLE, _C.DEADLINE_EXCEEDED) else _C.INTERNAL
    if isinstance(error, NotImplementedError):
        return _C.UNIMPLEMENTED
    return from_http(getattr(error, "http_status", 500))
