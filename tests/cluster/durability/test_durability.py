"""What is acknowledged stays: through kill -9, a torn end of the log, and a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import resource
import shutil
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sampan.cluster.store import Store
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.https import HttpsTransport
from tests.cluster.durability.ledger import Data, data_of, is_whole
from tests.cluster.durability.storm import NAMESPACE, Run, Server, config_map

KILLS = 25
TEARS = 40


def _show(capsys: pytest.CaptureFixture[str], title: str, counts: dict[str, int]) -> None:
    with capsys.disabled():
        print(f"\n{title}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))


async def test_kill_9_loses_and_repeats_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = await Run(tmp_path, seed=random.randrange(10**6)).kills(KILLS)
    assert counts["kills"] == KILLS
    assert counts["acknowledged writes"] > KILLS
    assert counts["watch events"] >= counts["acknowledged writes"]
    _show(capsys, "kill -9", counts)


# -- a torn end of the log


def _commits(wal: bytes) -> list[tuple[int, int]]:
    """(start, end) in bytes of every committed transaction in a WAL file (sqlite.org/fileformat2.html#walformat)."""
    page = struct.unpack(">I", wal[8:12])[0]
    salt, size = wal[16:24], 24 + page
    found, began, at = [], 32, 32
    while at + size <= len(wal) and wal[at + 8 : at + 16] == salt:
        if struct.unpack(">I", wal[at + 4 : at + 8])[0]:
            found.append((began, at + size))
            began = at + size
        at += size
    return found


def _thing(number: int, _: object) -> dict[str, Any]:
    return {"metadata": {}, "data": data_of(number, 3000)}


async def test_a_torn_end_takes_the_last_transaction_at_most(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut short or with a bit turned over in its last transaction, the log opens with all that came before."""
    chance = random.Random(7)
    original = tmp_path / "original"
    original.mkdir()
    store = Store.open(original / "db")
    for number in range(60):
        await store.write("things", f"k{number % 7}", functools.partial(_thing, number))
    states: dict[int, str] = {}
    table = store.table("things")
    for event in table.events_after(0):
        states[event.revision] = event.entry.object["data"]["n"]
    last = store.revision
    for name in ("db", "db-wal"):
        shutil.copy(original / name, tmp_path / name)  # as a killed process leaves them
    await store.close()
    wal = (tmp_path / "db-wal").read_bytes()
    begin, end = _commits(wal)[-1]
    counts = {"cut": 0, "bit turned": 0, "last transaction kept": 0, "last transaction gone": 0}
    for tear in range(TEARS):
        at = chance.randrange(begin, end)
        torn = bytearray(wal[:at] if tear % 2 else wal)
        if not tear % 2:
            torn[at] ^= 1 << chance.randrange(8)
        counts["cut" if tear % 2 else "bit turned"] += 1
        place = tmp_path / f"torn-{tear}"
        place.mkdir()
        shutil.copy(tmp_path / "db", place / "db")
        (place / "db-wal").write_bytes(torn)
        again = Store.open(place / "db")
        try:
            assert last - 1 <= again.revision <= last
            counts["last transaction kept" if again.revision == last else "last transaction gone"] += 1
            events = again.table("things").events_after(0)
            assert [event.revision for event in events] == list(range(1, again.revision + 1))
            assert all(event.entry.object["data"]["n"] == states[event.revision] for event in events)
            assert all(is_whole(entry.object["data"]) for entry in again.table("things").scan())
            written = await again.write("things", "after", lambda _: {"metadata": {}})
            assert written is not None
            assert written.revision == again.revision > again.table("things").floor
        finally:
            await again.close()
    assert counts["last transaction gone"] > 0
    _show(capsys, "torn end", counts)


# -- a full disk


class Writer:
    """Creates and updates until it is refused, and knows what was acknowledged."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.stored: dict[str, str] = {}
        self.refused: list[ApiError] = []
        self._number = 0

    async def write(self) -> bool:
        self._number += 1
        key, data = f"d{self._number % 40}", data_of(self._number, 20_000)
        body = config_map(key, data)
        verb = self.client.update if key in self.stored else self.client.create
        try:
            await verb(kinds.CONFIG_MAP, body)
        except ApiError as error:
            self.refused.append(error)
            return False
        self.stored[key] = data["n"]
        return True

    async def until_refused(self, most: int = 2000) -> None:
        for _ in range(most):
            if not await self.write():
                return
        raise AssertionError("the disk never got full")

    async def check(self) -> None:
        """Every object that was acknowledged, whole, and no other."""
        listed = await self.client.list(kinds.CONFIG_MAP, NAMESPACE)
        found: dict[str, Data] = {o["metadata"]["name"]: o["data"] for o in listed.items}
        found.pop("kube-root-ca.crt", None)
        assert {key: data["n"] for key, data in found.items()} == self.stored
        assert all(is_whole(data) for data in found.values())


async def _full_and_free_again(server: Server, place: Path, fill: Any, free: Any) -> dict[str, int]:
    """Write until refused, read, make room, write again, kill -9, start, and look at everything once more."""
    transport = HttpsTransport.from_kubeconfig(place / "kubeconfig")
    writer = Writer(Client(transport))
    try:
        for _ in range(10):
            assert await writer.write()
        fill()
        await writer.until_refused()
        for _ in range(20):
            await writer.write()
        await writer.check()
        assert {error.code for error in writer.refused} == {507}
        assert all("could not be stored" in error.message for error in writer.refused), writer.refused[0].message
        free()
        for _ in range(50):
            assert await writer.write(), writer.refused[-1].message
        await writer.check()
        await server.kill()
        assert server.process.returncode == -9, "the server did not live through it"
    finally:
        await transport.close()
    return {"written": writer._number - len(writer.refused), "refused": len(writer.refused), "lost": 0}


@contextlib.asynccontextmanager
async def _restarted(place: Path) -> AsyncIterator[Client]:
    server = await Server.spawn(place)
    try:
        await server.until_ready()
        transport = HttpsTransport.from_kubeconfig(place / "kubeconfig")
        yield Client(transport)
        await transport.close()
    finally:
        await server.kill()


async def test_a_full_quota_refuses_writes_and_loses_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a quota would: no file of the server may grow beyond a size, and then may again."""
    place = tmp_path / "cluster"
    place.mkdir(mode=0o700)
    server = await Server.spawn(place)
    await server.until_ready()
    pid = server.process.pid
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)

    def fill() -> None:
        size = max(path.stat().st_size for path in place.iterdir())
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + 300_000, unlimited[1]))

    def free() -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)

    try:
        counts = await _full_and_free_again(server, place, fill, free)
    finally:
        await server.kill()
    async with _restarted(place) as client:
        assert len((await client.list(kinds.CONFIG_MAP, NAMESPACE)).items) >= 40
    _show(capsys, "full quota", counts)


async def test_a_full_disk_refuses_writes_and_loses_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A small file system of the server's own, filled by another file, which then goes away."""
    place = tmp_path / "cluster"
    place.mkdir(mode=0o700)
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    mount = f'mount -t tmpfs -o size=12m,mode=700 tmpfs {place} && exec "$@"'
    prefix = ("unshare", *user, "--mount", "--propagation", "private", "sh", "-c", mount, "sh")
    try:
        server = await Server.spawn(place, *prefix)
    except FileNotFoundError:
        pytest.skip("no unshare here to make a small file system with")
    try:
        waiting = asyncio.create_task(server.ready.wait())
        ended = asyncio.create_task(server.process.wait())
        await asyncio.wait({waiting, ended}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        if not server.ready.is_set():
            pytest.skip("this system lets nobody make a small file system")
        inside = Path(f"/proc/{server.process.pid}/root") / place.relative_to("/")
        ballast = inside / "ballast"

        def fill() -> None:
            room = os.statvfs(inside)
            ballast.write_bytes(bytes(room.f_bavail * room.f_frsize - 400_000))

        counts = await _full_and_free_again(server, inside, fill, ballast.unlink)
    finally:
        await server.kill()
    _show(capsys, "full disk", counts)
