"""The audit log: what it proves, and every way of tampering with it that it shows."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.cli.main import main
from sampan.model import Job, NotBound, Oidc, Security
from sampan.service import security
from sampan.service.bindings import BindingError
from sampan.service.process import Process
from sampan.service.security import trail
from sampan.service.security.binding import provide
from sampan.service.security.caller import Caller
from sampan.service.security.chain import Head, files, verify
from sampan.service.security.trail import AuditError, AuditLog
from sampan.service.telemetry.metrics import Registry
from tests.service.security.conftest import Dev, Securing, whoami

KEY = b"a key of at least sixteen bytes"


def opened(path: Path | None, key: bytes = b"", **more: Any) -> AuditLog:
    return AuditLog(path, {"service": "orders"}, Registry(), key=key, **more)


def written(path: Path, count: int = 10, key: bytes = b"", **more: Any) -> Head:
    log = opened(path, key, **more)
    for number in range(count):
        log.record("order.placed", resource=f"orders/{number}", caller=Caller("ada", "https://id"), trace_id="t" * 32)
    log.close()
    return log.head


@pytest.mark.parametrize("key", [b"", KEY])
def test_entries_follow_each_other_over_restarts(tmp_path: Path, key: bytes) -> None:
    path = tmp_path / "audit" / "orders.audit"
    written(path, 3, key)
    head = written(path, 4, key)
    report = verify(path, key)
    assert (report.fault, report.lines, report.head, report.notes) == ("", 7, head, [])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    entry = json.loads(path.read_text().splitlines()[0])
    assert entry["number"] == 1
    assert (entry["subject"], entry["resource"], entry["service"]) == ("ada", "orders/0", "orders")


def edit(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def other(digit: bytes) -> bytes:
    return b"1" if digit == b"0" else b"0"


TAMPERED: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "a letter changed": (lambda rows: [*rows[:4], rows[4].replace(b'"ada"', b'"eve"'), *rows[5:]], ":5 was changed"),
    "a mac changed": (lambda rows: [*rows[:4], rows[4][:-4] + other(rows[4][-4:-3]) + rows[4][-3:], *rows[5:]], ":5 "),
    "a line taken out": (lambda rows: rows[:4] + rows[5:], ":5 has number 6, after 4"),
    "the first line taken out": (lambda rows: rows[1:], "begins with number 2"),
    "a line doubled": (lambda rows: [*rows[:5], rows[4], *rows[5:]], ":6 has number 5, after 5"),
    "two lines swapped": (lambda rows: [*rows[:3], rows[4], rows[3], *rows[5:]], ":4 has number 5, after 3"),
    "a line put in": (lambda rows: [*rows[:3], b'{"number":4}\n', *rows[3:]], ":4 is not a whole line"),
    "an empty line put in": (lambda rows: [*rows[:3], b"\n", *rows[3:]], ":4 is not a whole line"),
    "the last lines taken out": (lambda rows: rows[:-3], "the last 3 lines, up to number 10, are missing"),
    "half of the last line taken out": (lambda rows: [*rows[:-1], rows[-1][:50]], ":10 is not a whole line"),
    "everything taken out": (lambda rows: [], "no line of an audit log"),
}


@pytest.mark.parametrize("how", TAMPERED)
@pytest.mark.parametrize("key", [b"", KEY])
def test_tampering_shows(tmp_path: Path, how: str, key: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path, key_file = tmp_path / "a.audit", tmp_path / "key"
    written(path, 10, key)
    key_file.write_bytes(key)
    known = ["--key-file", str(key_file)] if key else []
    assert main(["audit", "verify", str(path), *known]) == 0
    assert "whole: 10 entries, head 10:" in capsys.readouterr().out
    change, told = TAMPERED[how]
    edit(path, change)
    code = main(["audit", "verify", str(path), *known])
    said = capsys.readouterr()
    assert told in said.out + said.err
    if how != "the first line taken out":  # which looks as if earlier files were kept elsewhere, and is said
        assert code == 1
        assert "not whole" in said.err


def test_a_log_made_anew_shows_by_a_head_kept_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.audit"
    head = written(path, 10)
    path.unlink()
    path.with_name("a.audit.head").unlink()
    written(path, 12)
    assert main(["audit", "verify", str(path)]) == 0, "without a key and a head nothing can tell"
    assert main(["audit", "verify", str(path), "--head", head.text()]) == 1
    assert "made anew" in capsys.readouterr().err
    assert main(["audit", "verify", str(path), "--head", "nonsense"]) == 2
    assert main(["audit", "verify", str(tmp_path / "none")]) == 2


def test_one_key_is_not_another(tmp_path: Path) -> None:
    written(tmp_path / "a", 3, KEY)
    assert "was changed" in verify(tmp_path / "a", b"another key of sixteen").fault
    assert "sealed with a key" in verify(tmp_path / "a").fault
    with pytest.raises(BindingError, match="its last line was changed"):
        opened(tmp_path / "a", b"another key of sixteen")


def test_a_torn_line_is_marked_and_not_hidden(tmp_path: Path) -> None:
    path = tmp_path / "a.audit"
    written(path, 3)
    with path.open("ab") as file:
        file.write(b'{"number":4,"time":"2026')  # as a power cut leaves it
    assert "killed while it wrote" in verify(path).fault
    written(path, 2)
    report = verify(path)
    assert report.fault == ""
    assert report.lines == 6
    assert "torn by a crash" in report.notes[0]
    assert b'{"number":4,"time":"2026\n' in path.read_bytes()
    edit(path, lambda rows: [row.replace(b'"time":"2026\n', b'"time":"2027\n') for row in rows])
    assert "is not a whole line" in verify(path).fault


def test_a_line_that_lost_only_its_end_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.audit"
    written(path, 3)
    path.write_bytes(path.read_bytes()[:-1])
    written(path, 1)
    assert (verify(path).fault, verify(path).lines) == ("", 4)


KILLED = """
import sys
from pathlib import Path
from sampan.service.security.trail import AuditLog
from sampan.service.telemetry.metrics import Registry
log = AuditLog(Path(sys.argv[1]), {}, Registry())
number = 0
while True:
    number += 1
    log.record("step", resource=str(number))
    print(number, flush=True)
"""


def test_kill_9_loses_no_acknowledged_entry(tmp_path: Path) -> None:
    path = tmp_path / "a.audit"
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        before = verify(path).lines if path.exists() else 0
        for _ in range(20):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        told = 20 + len(process.stdout.read().splitlines())
        process.wait()
        process.stdout.close()
        report = verify(path)
        assert report.fault == ""
        assert report.lines >= before + told - 1  # the last number may have been cut in the pipe


def test_rotation_goes_on_with_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "a.audit"
    head = written(path, 30, KEY, size=2000)
    head = written(path, 30, KEY, size=2000)
    assert len(files(path)) > 4
    report = verify(path, KEY)
    assert (report.fault, report.lines, report.head) == ("", 60, head)
    assert {stat.S_IMODE(one.stat().st_mode) for one in files(path)} == {0o600}
    files(path)[2].unlink()
    assert "lines were taken out" in verify(path, KEY).fault


def test_one_writer(tmp_path: Path) -> None:
    log = opened(tmp_path / "a")
    with pytest.raises(BindingError, match="another process"):
        opened(tmp_path / "a")
    log.close()


def test_what_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    log = opened(tmp_path / "a")
    log.record("one")
    with pytest.raises(AuditError, match="at most"):
        log.record("large", detail={"x": "y" * 100_000})
    os.close(log._file)
    log._file = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(AuditError) as error:
        log.record("two")
    assert error.value.http_status == 503
    log.automatic(("three", "ok", ""), None, "", {})  # never raises
    assert log.failures.value() == 3
    with pytest.raises(BindingError):
        opened(Path("/proc/none/a"))


async def test_a_service_keeps_its_audit_log(
    securing: Securing, dev: Dev, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "orders.audit"
    (tmp_path / "key").write_bytes(KEY)
    monkeypatch.setenv("SAMPAN_AUDIT_FILE", str(path))
    monkeypatch.setenv("SAMPAN_AUDIT_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setattr(trail, "_PER_SECOND", 5)

    async def cancels(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            security.audit(
                "order.cancelled", resource="orders/42", outcome="ok", reason="late", secret="hunter2hunter2"
            )
        await whoami(scope, receive, send)

    declared = Security(authenticate=[Oidc(dev.url, "orders")], scopes={"/admin": "admin"})
    async with securing(cancels, declared) as service:
        service.process.redactor.add(["hunter2hunter2"])
        parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
        await service.ask("/", dev.sign("ada"), headers={"traceparent": parent})
        await service.ask("/admin", dev.sign("ada"))
        await service.ask("/", "nonsense")
        await service.ask("/")  # nobody: not worth an entry
        for _ in range(20):
            await service.ask("/", "nonsense")
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert verify(path, KEY).fault == ""
    assert [(one["action"], one["outcome"], one["subject"], one["resource"]) for one in entries[:3]] == [
        ("order.cancelled", "ok", "ada", "orders/42"),
        ("access.denied", "forbidden", "ada", "GET /admin"),
        ("access.denied", "rejected", "", "GET /"),
    ]
    assert entries[0]["trace_id"] == "a" * 32
    assert entries[0]["detail"] == {"reason": "late", "secret": "[redacted]"}
    assert len(entries) < 23, "a flood is counted, not written out"
    assert "nonsense" not in path.read_text()


def test_without_a_process_there_is_none(unbound: None) -> None:
    with pytest.raises(NotBound):
        security.audit("x")


def test_without_a_file_it_goes_to_the_log(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    log = opened(None)
    with caplog.at_level("INFO", logger="sampan.audit"):
        log.record("one")
        log.record("two")
    lines = [record.entry for record in caplog.records if record.message == "audit"]  # type: ignore[attr-defined]
    (tmp_path / "collected").write_text("\n".join(lines) + "\n")
    assert verify(tmp_path / "collected").lines == 2


def test_an_entry_that_is_synced_has_its_head_beside_it(tmp_path: Path) -> None:
    log = opened(tmp_path / "a", sync=0)
    log.record("one")
    assert Head.parse((tmp_path / "a.head").read_text()) == log.head
    log.close()


def test_a_job_has_one(unbound: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPAN_AUDIT_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("POD_NAME", "nightly-7")
    process = Process(Job("nightly", run="jobs:nightly"))
    provide(process, ())
    security.audit("rows.deleted", resource="orders", rows=12)
    process.shared["audit"].close()
    entry = json.loads((tmp_path / "nightly-7.audit").read_text())
    assert (entry["action"], entry["pod"], entry["detail"]) == ("rows.deleted", "nightly-7", {"rows": 12})
