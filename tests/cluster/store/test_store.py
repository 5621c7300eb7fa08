"""The store: versions, windows, snapshots, recovery, a full disk, and kill -9 while it writes."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sampan.cluster.store import Entry, Remove, Store
from sampan.kube.errors import ApiError

KILLS = 30


def obj(**rest: Any) -> dict[str, Any]:
    return {"metadata": {}, **rest}


async def put(store: Store, key: str, table: str = "things", **rest: Any) -> Entry:
    entry = await store.write(table, key, lambda _: obj(**rest))
    assert entry is not None
    return entry


async def remove(store: Store, key: str, table: str = "things") -> None:
    await store.write(table, key, lambda now: Remove({"metadata": dict(now.object["metadata"])}) if now else None)


async def test_versions_are_one_sequence_and_equal_writes_none(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "db")
    first, second = await put(store, "a", n=1), await put(store, "b", "others", n=1)
    assert (first.revision, second.revision, store.revision) == (1, 2, 2)
    assert (await put(store, "a", n=1)).revision == 1
    assert store.revision == 2
    await store.close()


async def test_concurrent_writers_of_one_object_each_see_the_last(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "db")

    def count(now: Entry | None) -> dict[str, Any]:
        return obj(n=(now.object["n"] if now else 0) + 1)

    await asyncio.gather(*(store.write("things", "a", count) for _ in range(200)))
    entry = store.table("things").get("a")
    assert entry is not None
    assert entry.object["n"] == 200
    await store.close()


async def test_window_snapshot_and_compaction(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "db")
    for name in "abc":
        await put(store, name, n=1)
    then = store.revision
    await put(store, "d", n=1)
    await remove(store, "a")
    await put(store, "b", n=2)
    table = store.table("things")
    assert [entry.key for entry in table.scan()] == ["b", "c", "d"]
    assert [(entry.key, entry.object["n"]) for entry in table.scan_at(then)] == [("a", 1), ("b", 1), ("c", 1)]
    assert [event.type for event in table.events_after(then)] == ["ADDED", "DELETED", "MODIFIED"]
    store.compact(store.revision)
    with pytest.raises(ApiError) as gone:
        table.events_after(then)
    assert gone.value.code == 410
    assert (await put(store, "a", n=3)).object["n"] == 3
    await store.close()


async def test_reopened_store_has_objects_versions_and_window(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "db")
    await put(store, "a", n=1)
    since = store.revision
    await put(store, "a", n=2)
    await put(store, "b", n=1)
    await remove(store, "b")
    last = store.revision
    await store.close()
    store = Store.open(tmp_path / "db")
    table = store.table("things")
    assert store.revision == last
    assert [(entry.key, entry.object["n"]) for entry in table.scan()] == [("a", 2)]
    assert [event.type for event in table.events_after(since)] == ["MODIFIED", "ADDED", "DELETED"]
    assert (await put(store, "b", n=2)).revision == last + 1
    await store.close()


async def test_changes_since_a_compaction_are_told_after_a_restart_as_before_it(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "db")
    await put(store, "changed", n=1)
    await put(store, "again", n=1)
    await remove(store, "again")
    since = store.revision
    await put(store, "changed", n=2)
    await put(store, "again", n=2)
    store.compact(since)
    told = [(event.type, event.entry.key, event.previous and event.previous.object["n"]) for event in
            store.table("things").events_after(since)]  # fmt: skip
    await store.close()
    assert told == [("MODIFIED", "changed", 1), ("ADDED", "again", None)]
    store = Store.open(tmp_path / "db")
    found = store.table("things").events_after(since)
    assert [(event.type, event.entry.key, event.previous and event.previous.object["n"]) for event in found] == told
    with pytest.raises(ApiError):
        store.table("things").events_after(since - 1)
    await store.close()


async def test_compaction_bounds_the_log(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "db", compact_every=100)
    for number in range(600):
        await put(store, "a", n=number)
    await store.close()
    with sqlite3.connect(tmp_path / "db") as connection:
        assert connection.execute("SELECT count(*) FROM log").fetchone()[0] <= 250
    connection.close()
    store = Store.open(tmp_path / "db", compact_every=100)
    entry = store.table("things").get("a")
    assert entry is not None
    assert entry.object["n"] == 599
    await store.close()


async def test_full_disk_refuses_the_write_and_changes_nothing(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "db")
    await put(store, "a", n=1)
    connection = store._log._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(ApiError) as full:
        await put(store, "b", text="x" * 100_000)
    assert full.value.code == 507
    assert store.table("things").get("b") is None
    connection.execute("PRAGMA max_page_count=1000000")
    assert (await put(store, "b", text="x" * 100_000)).revision > 1
    await store.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from sampan.cluster.store import Store

async def main():
    store = Store.open(Path(sys.argv[1]))
    async def worker(number):
        table = store.table("things")
        while True:
            entry = await store.write("things", f"w{number}", lambda now: {
                "metadata": {}, "n": (now.object["n"] if now else 0) + 1})
            sys.stdout.write(f"{number} {entry.object['n']} {entry.revision}\\n")
            sys.stdout.flush()
    await asyncio.gather(*(worker(number) for number in range(8)))

asyncio.run(main())
"""


def write_until_killed(database: Path, output: Path, extra: float) -> None:
    """Run the writer until it has acknowledged something and `extra` seconds more, then kill it."""
    with output.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(database)], stdout=out)
        try:
            while output.stat().st_size < 200:
                time.sleep(0.005)
                assert process.poll() is None
            time.sleep(extra)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()


async def test_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    acknowledged: dict[str, int] = {}
    revision = 0
    for kill in range(KILLS):
        output = tmp_path / "out"
        await asyncio.to_thread(write_until_killed, tmp_path / "db", output, 0.003 * (kill % 7))
        for line in output.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                number, count, version = line.split()
                acknowledged[f"w{number.decode()}"] = int(count)
                revision = max(revision, int(version))
        store = Store.open(tmp_path / "db")
        for key, least in acknowledged.items():
            entry = store.table("things").get(key)
            assert entry is not None
            assert entry.object["n"] >= least
            assert entry.object["metadata"]["resourceVersion"] == str(entry.revision)
        assert store.revision >= revision
        await store.close()
