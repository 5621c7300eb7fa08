"""Errors that answer a request from within the application, as each framework wants them.

A framework turns unknown exceptions into 500 or 400; its own kind it answers as it is. So the error raised is of that
kind where the framework is loaded, and bears `http_status` for the middleware where none is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final


class InvalidResponse(RuntimeError):
    """The application's answer cannot be sent as it is; nothing of it was."""

    http_status = 500


class Refused(Exception):
    """Answered with `http_status`; the text is for the client."""

    http_status = 400

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.http_status, self.headers = status, dict(headers or {})


_KINDS: Final = ("starlette.exceptions", "litestar.exceptions")
_made: dict[tuple[type[Any], ...], type[Any]] = {}


def refusal_error(status: int, text: str, headers: Mapping[str, str] | None = None) -> Exception:
    """An exception to raise that answers `status`."""
    loaded = tuple(sys.modules[name].HTTPException for name in _KINDS if name in sys.modules)
    if not loaded:
        return Refused(status, text, headers)
    kind = loaded[0]
    made: Any = _made.get((kind,))
    if made is None:
        made = _made[kind,] = type("Refused", (kind,), {})
    error: Exception = made(status_code=status, detail=text, headers=dict(headers or {}) or None)
    error.http_status = status  # type: ignore[attr-defined]
    return error
