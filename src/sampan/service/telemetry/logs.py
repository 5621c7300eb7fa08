"""Standard-library logging as JSON lines on stdout or in a file, with trace ids, and with secrets struck out."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, quote_plus

import msgspec

from sampan.service.telemetry.context import CURRENT
from sampan.service.telemetry.files import LogFile, from_environment

if TYPE_CHECKING:
    from sampan.service.telemetry.export import Exporter

REDACTED: Final = b"[redacted]"
_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName"}
_SEVERITY = {"CRITICAL": "FATAL", "WARNING": "WARN"}  # the names of the OpenTelemetry log data model


class Redactor:
    """Replaces every known secret, in each spelling it may take inside a JSON line."""

    def __init__(self) -> None:
        self._spellings: tuple[bytes, ...] = ()

    def add(self, secrets: Iterable[str]) -> None:
        found = set(self._spellings)
        for secret in secrets:
            if len(secret) >= 4:  # shorter ones would strike out ordinary words and protect nothing
                for text in (secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]):
                    found |= {text.encode(), msgspec.json.encode(text)[1:-1]}
        self._spellings = tuple(sorted(found, key=len, reverse=True))

    def clean(self, line: bytes) -> bytes:
        for secret in self._spellings:
            if secret in line:
                line = line.replace(secret, REDACTED)
        return line

    def finds(self, line: bytes) -> bool:
        for secret in self._spellings:  # noqa: SIM110  # twice as quick as any()
            if secret in line:
                return True
        return False

    def clean_text(self, text: str) -> str:
        return self.clean(text.encode("utf-8", "replace")).decode() if self._spellings else text

    def clean_value(self, value: Any) -> Any:
        """`value` of a span or log record, with the secrets in its strings struck out."""
        if isinstance(value, str):
            return self.clean_text(value)
        if isinstance(value, bytes):
            return self.clean(value)
        if isinstance(value, Mapping):
            return {key: self.clean_value(item) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self.clean_value(item) for item in value]
        return value


@functools.lru_cache(maxsize=4)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))


def timestamp(now: float) -> str:
    """RFC 3339 with microseconds, UTC."""
    whole = int(now)
    return f"{_second(whole)}.{int((now - whole) * 1_000_000):06d}Z"


class Output:
    """Lines to a file descriptor or a log file. `later` buffers until the next flush; `now` keeps the order and writes.

    `exporter`, where there is one, gets every record besides (not the access log: each request's span says the same).
    """

    def __init__(
        self,
        descriptor: int,
        redactor: Redactor,
        file: LogFile | None = None,
        identity: dict[str, str] | None = None,
    ) -> None:
        self.descriptor, self.redactor, self.file = descriptor, redactor, file
        self.identity = identity or {}
        self.exporter: Exporter | None = None
        self._lines: list[bytes] = []
        self._writing = threading.RLock()  # so that lines of two threads are not mixed; a signal handler may log

    def now(self, line: bytes) -> None:
        self._lines.append(line)
        self.flush()

    def later(self, line: bytes) -> None:
        self._lines.append(line)

    def write(self, lines: list[bytes]) -> None:
        """Lines that belong together, in one go."""
        self._lines += lines
        self.flush()

    def flush(self) -> None:
        with self._writing:
            if not self._lines:
                return
            lines, self._lines = self._lines, []
            data = self.redactor.clean(b"\n".join(lines) + b"\n")
            if self.file is not None:
                self.file.write(data)
            else:
                self._write(memoryview(data))

    def _write(self, data: memoryview) -> None:
        while data:
            try:
                data = data[os.write(self.descriptor, data) :]
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:  # nobody reads our output any more; the service goes on
                return

    def record(self, moment: float, severity: str, logger: str, message: str, given: dict[str, Any]) -> bytes:
        """A JSON line, which is not written yet; an exporter has it already."""
        context = CURRENT.get()
        line: dict[str, Any] = {
            "time": timestamp(moment),
            "severity": severity,
            "logger": logger,
            "message": message,
        }
        if given:
            line["attributes"] = given
        if context is not None:
            line["trace_id"], line["span_id"] = context.trace_id, context.span_id
        line.update(self.identity)
        if self.exporter is not None and logger != _EXPORTER:  # the exporter does not export what it says of itself
            ids = (context.trace_id, context.span_id) if context is not None else ("", "")
            self._export(self.exporter, int(moment * 1e9), severity, logger, message, given, ids)
        return msgspec.json.encode(line, enc_hook=_plain)

    def _export(  # noqa: PLR0917
        self,
        exporter: Exporter,
        moment: int,
        severity: str,
        logger: str,
        message: str,
        given: dict[str, Any],
        ids: tuple[str, str],
    ) -> None:
        from sampan.service.telemetry import otlp

        clean = self.redactor
        values = {
            key: clean.clean_value(item if isinstance(item, _SENT) else _plain(item)) for key, item in given.items()
        }
        number = _NUMBERS.get(severity, 9)
        entry = otlp.log_record(moment, (number, severity), clean.clean_text(message), values, ids)
        exporter.offer((otlp.scope(logger), entry))


_EXPORTER: Final = "sampan.telemetry"
_SENT: Final = (str, bool, int, float, bytes, list, tuple, dict)
# severity numbers of the OpenTelemetry log data model
_NUMBERS: Final = {"TRACE": 1, "DEBUG": 5, "INFO": 9, "WARN": 13, "ERROR": 17, "FATAL": 21}


class JsonHandler(logging.Handler):
    def __init__(self, output: Output) -> None:
        super().__init__()
        self.output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.output.now(encode(record, self.output))
        except Exception:  # as logging demands: a bad log call must not break the caller
            self.handleError(record)


def _plain(value: Any) -> Any:
    try:
        return repr(value)
    except Exception as error:
        return f"<unprintable {type(value).__name__}: {type(error).__name__}>"


def encode(record: logging.LogRecord, output: Output) -> bytes:
    attributes = {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
    if record.exc_info and record.exc_info[1] is not None:
        attributes |= exception(record.exc_info[1])
    severity = _SEVERITY.get(record.levelname, record.levelname)
    return output.record(record.created, severity, record.name, record.getMessage(), attributes)


def exception(error: BaseException) -> dict[str, Any]:
    return {
        "exception.type": type(error).__qualname__,
        "exception.message": str(error),
        "exception.stacktrace": "".join(traceback.format_exception(error)),
    }


def configure(identity: dict[str, str], redactor: Redactor, level: str = "INFO", descriptor: int = 1) -> Output:
    """Route the root logger to JSON lines on `descriptor`, or into SAMPAN_LOG_FILE; also warnings and uncaught
    exceptions. ValueError, OSError: the log file cannot be had as asked for."""
    output = Output(descriptor, redactor, from_environment(), identity)
    root = logging.getLogger()
    root.handlers[:] = [JsonHandler(output)]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)

    def uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not issubclass(kind, (KeyboardInterrupt, asyncio.CancelledError)):
            logging.getLogger("sampan").critical("uncaught exception", exc_info=(kind, error, trace))

    sys.excepthook = uncaught
    return output
