"""The log on disk: one SQLite table in kine's shape, written by one thread that commits many writes at once.

A row is one version of one object: its id is the resourceVersion. What is acknowledged has been committed with
`synchronous=FULL`, so it survives kill -9 and power loss. Nothing here knows what a value means.
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

SCHEMA = """
CREATE TABLE IF NOT EXISTS log (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  key TEXT NOT NULL,
  prev INTEGER NOT NULL,
  deleted INTEGER NOT NULL,
  value BLOB NOT NULL,
  UNIQUE (key, prev)
);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
MAX_BATCH = 2000
_INSERT = "INSERT INTO log (id, key, prev, deleted, value) VALUES (?,?,?,?,?)"
_CHUNKS = (64, 16, 4, 1)
"""Rows in one statement. Each statement gives up the interpreter's lock and fights the server for it again, so a row
each would cost the server more than the writing does."""


class Row(Struct, frozen=True):
    """One version: `id` the revision, `prev` that of the version it replaces (0: none), `value` the object as JSON.
    A deletion's value is the object as it was, under the deletion's revision."""

    id: int
    key: str
    prev: int
    deleted: bool
    value: bytes


def _chunks(rows: list[Row]) -> Iterator[list[Row]]:
    """The rows in pieces of few sizes: a statement per size stays prepared."""
    at = 0
    for size in _CHUNKS:
        while len(rows) - at >= size:
            yield rows[at : at + size]
            at += size


class LogError(Exception):
    """A batch that could not be committed; none of it is in the log."""


class Batch(Struct):
    """What one transaction committed, or why it did not."""

    rows: list[Row]
    error: LogError | None = None


class Log:
    """The table and its writer thread. `committed(batch)` and `compacted(revision)` are called on it, in order."""

    def __init__(self, path: Path, committed: Callable[[Batch], None], compacted: Callable[[int], None]) -> None:
        self._committed = committed
        self._compacted = compacted
        self._queue: queue.SimpleQueue[Row | int | None] = queue.SimpleQueue()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
        path.chmod(0o600)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "cache_size=-16000"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.executescript(SCHEMA)
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)

    def load(self) -> tuple[int, int, Iterator[Row]]:
        """(last revision, compacted revision, every row in order). To be read before `start`."""
        compacted = self._connection.execute("SELECT value FROM meta WHERE name = 'compacted'").fetchone()
        last = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'log'").fetchone()
        rows = self._connection.execute("SELECT id, key, prev, deleted, value FROM log ORDER BY id")
        return (last[0] if last else 0), (compacted[0] if compacted else 0), (Row(*row) for row in rows)

    def start(self) -> None:
        self._thread.start()

    def append(self, row: Row) -> None:
        self._queue.put(row)

    def compact(self, revision: int) -> None:
        """Forget every version up to `revision` but the one each object had then, which changes since are told from."""
        self._queue.put(revision)

    def close(self) -> None:
        """Commit what is queued and close."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(timeout=30)
        self._connection.close()

    def _run(self) -> None:
        open_ = True
        while open_:
            rows: list[Row] = []
            compact: int | None = None
            item = self._queue.get()
            while True:
                if isinstance(item, Row):
                    rows.append(item)
                elif item is None:
                    open_ = False
                else:
                    compact = item
                    break
                if len(rows) >= MAX_BATCH:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            if rows:
                self._committed(self._write(rows))
            if compact is not None:
                self._compact(compact)

    def _write(self, rows: list[Row]) -> Batch:
        execute = self._connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            for chunk in _chunks(rows):
                values = [value for row in chunk for value in (row.id, row.key, row.prev, row.deleted, row.value)]
                execute(_INSERT + ",(?,?,?,?,?)" * (len(chunk) - 1), values)
            execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            return Batch(rows, LogError(str(error)))
        return Batch(rows)

    def _compact(self, revision: int) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(
                "DELETE FROM log WHERE id <= ?1 AND (deleted OR EXISTS"
                " (SELECT 1 FROM log AS newer WHERE newer.key = log.key AND newer.prev = log.id AND newer.id <= ?1))",
                (revision,),
            )
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES ('compacted', ?)", (revision,))
            self._connection.execute("COMMIT")
            self._compacted(revision)
        except sqlite3.Error:
            # The log merely stays longer than it need be; the next compaction tries again.
            self._roll_back()

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
