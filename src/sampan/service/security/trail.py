"""The audit log of a service: who did what, when, with what outcome. Append-only, chained (`chain.py`), not a log.

It is a file of its own, SAMPAN_AUDIT_FILE (mode 0600), or one named after the pod in SAMPAN_AUDIT_DIRECTORY. Without
either the same chained lines go to the log, under the logger `sampan.audit`, where a collector may keep them.

    SAMPAN_AUDIT_KEY_FILE   the key of the chain; without one it is plain SHA-256
    SAMPAN_AUDIT_SYNC       seconds between syncs to disk (1); 0 syncs every entry before it is acknowledged
    SAMPAN_AUDIT_BYTES      size at which a new file is begun (64 MiB)

An entry is in the kernel's hands when `record` returns, so kill -9 loses none; a power cut loses at most what was not
synced. Secrets known to the process are struck out before a line is sealed.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from sampan.service.bindings import BindingError
from sampan.service.security.caller import CALLER, Caller
from sampan.service.security.chain import START, TORN, Broken, Head, files, read, seal
from sampan.service.tasks import end
from sampan.service.telemetry.context import CURRENT
from sampan.service.telemetry.logs import timestamp
from sampan.service.telemetry.metrics import Registry

log = logging.getLogger("sampan.audit")

HEAD_SECONDS: Final = 60.0  # between heads told to the log
_PER_SECOND: Final = 50  # automatic entries; what is above is counted in one entry
_MAX_ENTRY: Final = 64 * 1024
_TAIL_BYTES: Final = 256 * 1024


class AuditError(Exception):
    """The entry could not be kept, so what it tells of must not happen."""

    http_status = 503


class AuditLog:
    """One writer of one file. `clean` strikes out secrets. BindingError when the file cannot be used."""

    def __init__(
        self,
        path: Path | None,
        identity: Mapping[str, str],
        registry: Registry,
        *,
        key: bytes = b"",
        clean: Callable[[bytes], bytes] = bytes,
        sync: float = 1.0,
        size: int = 64 * 1024 * 1024,
    ) -> None:
        self.path, self.identity, self.key, self.clean = path, dict(identity), key, clean
        self.sync, self.size = sync, size
        self.entries = registry.counter("audit_entries_total", "Entries of the audit log.", ("action",))
        self.failures = registry.counter("audit_failures_total", "Entries that could not be kept.")
        self.head = Head()
        self._lock = threading.Lock()
        self._file = -1
        self._bytes = 0
        self._unsynced = False
        self._task: asyncio.Task[None] | None = None
        self._second, self._count, self._left_out = 0, 0, 0
        self._told = 0.0
        if path is not None:
            try:
                self._open(path)
            except OSError as error:
                raise BindingError(f"the audit log {path}: {error.strerror or error}") from error

    def _open(self, path: Path) -> None:
        """Take the file, and the chain up where it ends."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BindingError(f"the audit log {path} is written by another process") from error
        self._bytes = os.fstat(self._file).st_size
        whole, torn = _ending(path)
        if torn and _sealed(torn, self.key):  # only its end of line was lost
            os.write(self._file, b"\n")
            whole, torn = torn, b""
        if not whole:
            earlier = [one for one in files(path) if one != path]
            whole = _ending(earlier[-1])[0] if earlier else b""
        if whole:
            try:
                entry = read(whole, self.key)
            except Broken as error:
                raise BindingError(f"the audit log {path}: its last line {error}; keep it, and name another") from error
            self.head = Head(entry["number"], entry["mac"])
        if torn:
            os.write(self._file, b"\n")
            log.error("the last line of the audit log was torn by a crash; it stays, and is marked")
            detail = {"bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()}
            self.record(TORN, outcome="marked", detail=detail)

    def record(
        self,
        action: str,
        *,
        resource: str = "",
        outcome: str = "ok",
        caller: Caller | None = None,
        trace_id: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> Head:
        """Keep an entry; its place in the chain. AuditError when it cannot be kept."""
        with self._lock:
            entry: dict[str, Any] = {
                "number": self.head.number + 1,
                "time": timestamp(time.time()),
                "action": action,
                "outcome": outcome,
                "resource": resource,
                "subject": caller.subject if caller else "",
                "issuer": caller.issuer if caller else "",
                "trace_id": trace_id,
                **self.identity,
                "detail": dict(detail or {}),
                "prev": self.head.mac if self.head.number else START,
            }
            try:
                told = msgspec.json.encode(entry, enc_hook=repr)
                line, made = seal(self.key, msgspec.json.decode(self.clean(told)))
                if len(line) > _MAX_ENTRY:
                    raise ValueError(f"an entry of {len(line)} bytes; at most {_MAX_ENTRY} are kept")
                self._write(line)
            except (OSError, ValueError, TypeError, msgspec.MsgspecError) as error:
                self.failures.add()
                raise AuditError(f"the audit log could not be written: {error}") from error
            self.head = Head(entry["number"], made)
        if not self.sync:
            try:
                self.flush()
            except OSError as error:
                self.failures.add()
                raise AuditError(f"the audit log could not be synced: {error}") from error
        self.entries.add(action)
        return self.head

    def _write(self, line: bytes) -> None:
        if self.path is None:
            log.info("audit", extra={"entry": line.decode().rstrip("\n")})
            return
        if self._bytes and self._bytes + len(line) > self.size:
            self._rotate(self.path)
        written = os.write(self._file, line)
        self._bytes += written
        if written != len(line):  # a full disk: what got there must not stand before the next entry
            os.ftruncate(self._file, self._bytes - written)
            self._bytes -= written
            raise OSError("no space for the whole entry")
        self._unsynced = True

    def _rotate(self, path: Path) -> None:
        """Begin a new file; the chain goes on in it."""
        os.fsync(self._file)
        number = 1 + max((int(one.suffix[1:]) for one in files(path) if one != path), default=0)
        fresh = path.with_name(path.name + ".new")
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.rename(path.with_name(f"{path.name}.{number:06d}"))
        fresh.rename(path)
        os.close(self._file)
        self._file, self._bytes = descriptor, 0

    def flush(self) -> None:
        """Bring what was written to the disk, then its head beside it."""
        with self._lock:
            if self.path is None or not self._unsynced:
                return
            self._unsynced, head, descriptor = False, self.head, os.dup(self._file)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        beside = self.path.with_name(self.path.name + ".head")
        made = beside.with_name(beside.name + ".new")
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.write(descriptor, head.text().encode())
        os.close(descriptor)
        made.rename(beside)

    def automatic(
        self, what: tuple[str, str, str], caller: Caller | None, trace_id: str, detail: dict[str, Any]
    ) -> None:
        """An entry of the process itself; `what` is action, outcome and resource.

        Never raises, and a flood of them does not fill the disk.
        """
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._count = second, 0
        self._count += 1
        if self._count > _PER_SECOND:
            self._left_out += 1
            return
        try:
            if self._left_out:
                left_out, self._left_out = self._left_out, 0
                self.record("audit.left_out", detail={"entries": left_out})
            action, outcome, resource = what
            self.record(action, resource=resource, outcome=outcome, caller=caller, trace_id=trace_id, detail=detail)
        except AuditError as error:
            log.error("%s", error)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="audit")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self.sync or 1.0)
            try:
                await asyncio.to_thread(self.flush)
            except OSError as error:
                self.failures.add()
                log.error("the audit log could not be synced: %s", error)
            if time.monotonic() - self._told > HEAD_SECONDS:
                self.tell()

    def tell(self) -> None:
        """Say the head in the log: kept where this machine cannot reach, it proves that nothing before it is gone."""
        if self.head.number:
            self._told = time.monotonic()
            log.info("audit head", extra={"head": self.head.text()})

    async def stop(self) -> None:
        if self._task is not None:
            await end(self._task)
        self.tell()
        self.close()

    def close(self) -> None:
        if self._file >= 0:
            self.flush()
            os.close(self._file)
            self._file = -1


def _sealed(line: bytes, key: bytes) -> bool:
    try:
        return bool(read(line, key))
    except Broken:
        return False


def _ending(path: Path) -> tuple[bytes, bytes]:
    """The last whole line of a file, and what stands behind it when a crash tore the very last one."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        parts = file.read().split(b"\n")
    torn = parts.pop() if parts else b""
    whole = next((part for part in reversed(parts) if part.endswith(b'"}')), b"")
    return whole, torn


def from_environment(
    name: str, identity: Mapping[str, str], registry: Registry, clean: Callable[[bytes], bytes]
) -> AuditLog:
    """As the variables say. BindingError when one of them cannot be followed."""
    path, directory = os.environ.get("SAMPAN_AUDIT_FILE", ""), os.environ.get("SAMPAN_AUDIT_DIRECTORY", "")
    place = Path(path) if path else None
    if place is None and directory:
        place = Path(directory) / f"{os.environ.get('POD_NAME') or name}.audit"
    try:
        key_file = os.environ.get("SAMPAN_AUDIT_KEY_FILE", "")
        key = Path(key_file).read_bytes().strip() if key_file else b""
        sync = float(os.environ.get("SAMPAN_AUDIT_SYNC", "1"))
        size = int(os.environ.get("SAMPAN_AUDIT_BYTES", str(64 * 1024 * 1024)))
    except (OSError, ValueError) as error:
        raise BindingError(f"the audit log's SAMPAN_AUDIT_... variables: {error}") from error
    if key_file and len(key) < 16:
        raise BindingError(f"SAMPAN_AUDIT_KEY_FILE={key_file} holds a key of {len(key)} bytes; at least 16 are needed")
    return AuditLog(place, identity, registry, key=key, clean=clean, sync=max(0.0, sync), size=size)


def current() -> tuple[Caller | None, str]:
    """Caller and trace id of the work in hand."""
    context = CURRENT.get()
    return CALLER.get(), context.trace_id if context else ""
