"""structlog, where the user's code imports it without configuring it: its events come out like all other log lines."""

from __future__ import annotations

import logging
import sys
import time
from types import ModuleType
from typing import Any, Final

from sampan.service.telemetry.logs import Output, exception

# method of a structlog logger -> severity
_SEVERITY: Final = {
    "debug": "DEBUG",
    "info": "INFO",
    "warning": "WARN",
    "warn": "WARN",
    "error": "ERROR",
    "exception": "ERROR",
    "critical": "FATAL",
    "fatal": "FATAL",
}


def join(structlog: ModuleType, output: Output) -> None:
    """Make our lines structlog's default. A configuration of the user's own, sooner or later, wins."""
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _Line(output)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLogger().level),
        logger_factory=_Factory(output),
        cache_logger_on_first_use=False,  # so that a configuration that comes later reaches loggers made before
    )


class _Line:
    """The last processor: an event as a line of ours."""

    def __init__(self, output: Output) -> None:
        self.output = output

    def __call__(self, logger: Any, method: str, event: dict[str, Any]) -> bytes:
        message = str(event.pop("event", ""))
        failure = event.pop("exc_info", None)
        if failure:
            error = failure if isinstance(failure, BaseException) else sys.exc_info()[1]
            if isinstance(failure, tuple):
                error = failure[1]
            if error is not None:
                event |= exception(error)
        severity = _SEVERITY.get(method, method.upper())
        return self.output.record(time.time(), severity, logger.name, message, event)


class _Logger:
    def __init__(self, name: str, output: Output) -> None:
        self.name, self._output = name, output

    def msg(self, line: bytes) -> None:
        self._output.now(line)

    debug = info = warning = warn = error = critical = fatal = exception = log = failure = err = msg


class _Factory:
    def __init__(self, output: Output) -> None:
        self.output = output

    def __call__(self, *names: Any) -> _Logger:
        return _Logger(str(names[0]) if names else "structlog", self.output)
