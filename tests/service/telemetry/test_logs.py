"""Log lines by structlog, into rotated files, over OTLP; never lost, torn, or with a secret in them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from sampan import imports
from sampan.service.telemetry.context import CURRENT, Context
from sampan.service.telemetry.files import LogFile, from_environment
from sampan.service.telemetry.logs import JsonHandler, Output, Redactor
from tests.service.telemetry.conftest import Collector, Exporting, until


def lines(directory: Path) -> list[str]:
    """Of all files, oldest first."""
    files = sorted(directory.iterdir(), key=lambda path: -int(path.suffix[1:]) if path.suffix[1:].isdigit() else 0)
    return [line for path in files for line in path.read_text().splitlines()]


def test_rotation_loses_and_tears_nothing(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "app.log", 10_000, 100)
    output = Output(-1, Redactor(), file)

    def write(who: int) -> None:
        for number in range(400):
            output.now(json.dumps({"who": who, "n": number, "pad": "x" * 100}).encode())

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.close()
    found = [json.loads(line) for line in lines(tmp_path)]
    assert [[line["n"] for line in found if line["who"] == who] for who in range(4)] == [list(range(400))] * 4
    assert len(list(tmp_path.iterdir())) > 10
    assert all(path.stat().st_size <= 10_000 for path in tmp_path.iterdir())
    assert (tmp_path / "app.log").stat().st_mode & 0o777 == 0o640


def test_so_many_older_files_and_no_more(tmp_path: Path) -> None:
    for count in (2, 0):
        file = LogFile(tmp_path / f"c{count}" / "app.log", 100, count)
        for number in range(50):
            file.write(b"%030d\n" % number)
        file.close()
        assert len(list((tmp_path / f"c{count}").iterdir())) == count + 1
        assert lines(tmp_path / f"c{count}")[-1] == f"{49:030d}"


def test_a_file_that_was_there_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text("old\n")
    file = LogFile(tmp_path / "app.log", 100)
    file.write(b"new\n")
    (tmp_path / "app.log").rename(tmp_path / "moved")  # as logrotate does
    file._looked = 0
    file.write(b"newer\n")
    file.close()
    assert (tmp_path / "moved").read_text() == "old\nnew\n" and (tmp_path / "app.log").read_text() == "newer\n"


def test_a_full_disk_leaves_no_half_line() -> None:
    code = """
import resource, signal, sys
from pathlib import Path
from sampan.service.telemetry.files import LogFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
file = LogFile(Path(sys.argv[1]), 10**9)
for number in range(30):
    file.write(b"x" * 99 + b"\\n")
print(file.lost)
"""
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "app.log"
        command = [sys.executable, "-c", code.replace('b"x" * 99', 'b"x" * 130'), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert path.read_bytes() == (b"x" * 130 + b"\n") * 7 and done.stdout == "23\n"


def test_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_environment() is None
    monkeypatch.setenv("SAMPAN_LOG_FILE", str(tmp_path / "deep" / "app.log"))
    monkeypatch.setenv("SAMPAN_LOG_FILE_COUNT", "1")
    file = from_environment()
    assert file is not None and (file.max_bytes, file.count) == (50 * 2**20, 1)
    file.close()
    monkeypatch.setenv("SAMPAN_LOG_FILE_BYTES", "5MB")
    with pytest.raises(ValueError, match="SAMPAN_LOG_FILE_BYTES=5MB is no whole number"):
        from_environment()


class Captured:
    """An output whose lines can be read."""

    def __init__(self, *secrets: str) -> None:
        self.reader, self.writer = os.pipe()
        redactor = Redactor()
        redactor.add(secrets)
        self.output = Output(self.writer, redactor, identity={"service": "users"})

    def read(self) -> list[dict[str, Any]]:
        os.close(self.writer)
        with os.fdopen(self.reader) as file:
            return [json.loads(line) for line in file]


STRUCTLOG = """
import logging, sys
from sampan.model import Service
from sampan.service.process import Process
process = Process(Service("users"))
process.bind()
from sampan.service.telemetry.context import CURRENT, Context
assert "structlog" not in sys.modules
import structlog
CURRENT.set(Context("a" * 32, "b" * 16))
log = structlog.get_logger("shop.orders")
structlog.contextvars.bind_contextvars(tenant="acme")
log.bind(order=7).warning("paid", by="card")
log.debug("not at this level")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
structlog.configure(processors=[structlog.processors.KeyValueRenderer()], logger_factory=structlog.PrintLoggerFactory())
structlog.get_logger().info("my own way")
"""


def test_structlog_without_a_configuration_writes_our_lines() -> None:
    done = subprocess.run([sys.executable, "-c", STRUCTLOG], capture_output=True, text=True, timeout=60, check=False)
    *found, last = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    paid, failed = (json.loads(line) for line in found)
    assert paid.pop("time")
    assert paid == {
        "severity": "WARN",
        "logger": "shop.orders",
        "message": "paid",
        "attributes": {"tenant": "acme", "order": 7, "by": "card"},
        "trace_id": "a" * 32,
        "span_id": "b" * 16,
        "service": "users",
    }
    assert failed["severity"] == "ERROR" and failed["attributes"]["exception.type"] == "ZeroDivisionError"
    assert last == "event='my own way'"  # who configures it has it as configured


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json", "grpc"])
async def test_log_records_over_otlp(collector: Collector, exporting: Exporting, protocol: str) -> None:
    captured = Captured("hunter2-secret")
    logger = logging.getLogger("orders.otlp")
    logger.propagate, logger.handlers = False, [JsonHandler(captured.output)]
    url = collector.grpc if protocol == "grpc" else f"{collector.url}/v1/logs"
    async with exporting(url, "logs", protocol=protocol) as (exporter, _):
        captured.output.exporter = exporter
        CURRENT.set(Context("a" * 32, "b" * 16))
        try:
            raise ConnectionError("mysql://u:hunter2-secret@db")
        except ConnectionError as error:
            logger.exception(
                "no hunter2-secret", extra={"order": 7, "odd": object, "dsn": "hunter2-secret"}, exc_info=error
            )
        await until(lambda: collector.logs)
    (record,) = collector.logs
    assert b"hunter2-secret" not in collector.requests[0].SerializeToString()
    assert (record.body.string_value, record.severity_text, record.severity_number) == ("no [redacted]", "ERROR", 17)
    assert (record.trace_id.hex(), record.span_id.hex()) == ("a" * 32, "b" * 16)
    found = {pair.key: pair.value for pair in record.attributes}
    assert found["order"].int_value == 7 and found["exception.type"].string_value == "ConnectionError"
    assert collector.requests[0].resource_logs[0].scope_logs[0].scope.name == "orders.otlp"
    (line,) = captured.read()
    assert line["message"] == "no [redacted]" and "hunter2-secret" not in json.dumps(line)


def test_something_is_done_when_a_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rarely_imported.py").write_text("ready = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    seen: list[str] = []
    imports.when_imported("rarely_imported", lambda module: seen.append(f"{module.__name__} {module.ready}"))
    imports.when_imported("json", lambda module: seen.append(module.__name__))

    def bad(module: Any) -> None:
        raise RuntimeError

    imports.when_imported("rarely_imported", bad)
    assert seen == ["json"]
    __import__("rarely_imported")
    assert seen == ["json", "rarely_imported True"]
    assert type(sys.modules["rarely_imported"].__loader__).__name__ == "SourceFileLoader"
    del sys.modules["rarely_imported"]
