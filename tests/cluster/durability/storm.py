"""Kill -9 in the middle of writes, over and over, on one directory, with every promise checked after each restart.

A kill hits a write storm, a compaction of the log within one, or the recovery from the kill before. Several writers
create, update, patch and delete objects of their own and share a counter; watchers follow from the last version they
saw, across all lives of the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.https import HttpsTransport
from tests.cluster.durability.ledger import Change, Data, Ledger, data_of, is_whole

ROOT = Path(__file__).parents[3]
NAMESPACE = "default"
WRITERS = 6
KEYS = 5
WATCHERS = 2
COMPACT_EVERY = 150
KINDS = ("storm", "storm", "storm", "compaction", "recovery")
GONE = (OSError, TimeoutError, RuntimeError)
"""What a client meets when its server dies; RuntimeError is aiohttp's for a session that closes meanwhile."""


class Server:
    """One life of the server."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.ready = asyncio.Event()
        self.compacting = asyncio.Event()
        self.compactions = 0
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def spawn(cls, directory: Path, *prefix: str, compact_every: int = COMPACT_EVERY) -> Server:
        module = "tests.cluster.durability.server"
        command = [*prefix, sys.executable, "-m", module, str(directory), str(compact_every)]
        log = (directory.parent / "server.log").open("ab")
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=log)
        log.close()
        return cls(process)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            if line == b"ready\n":
                self.ready.set()
            elif line == b"compacting\n":
                self.compactions += 1
                self.compacting.set()

    async def until_ready(self, seconds: float = 60) -> None:
        """Raises AssertionError when it ends instead, or takes too long."""
        waits = [asyncio.create_task(self.ready.wait()), asyncio.create_task(self.process.wait())]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()
        assert self.ready.is_set(), f"the server did not get ready (exit code {self.process.returncode})"

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await self._reader


class Watcher:
    """Follows all ConfigMaps from the first version on, whatever becomes of the server."""

    def __init__(self, ledger: Ledger, version: int) -> None:
        self.ledger = ledger
        self.version = version
        self.told: dict[str, list[Change]] = defaultdict(list)
        self.events = 0
        self.fault: BaseException | None = None

    async def follow(self, client: Client) -> None:
        """Until the server dies."""
        stream = client.watch(kinds.CONFIG_MAP, NAMESPACE, resource_version=str(self.version))
        with contextlib.suppress(*GONE):
            async with contextlib.aclosing(stream) as events:  # type: ignore[type-var]
                async for event in events:
                    try:
                        self._take(event)
                    except AssertionError as error:
                        self.fault = error
                        return

    def _take(self, event: Any) -> None:
        obj = event["object"]
        metadata = obj["metadata"]
        revision = int(metadata["resourceVersion"])
        if event["type"] == "BOOKMARK":
            self.version = max(self.version, revision)
            return
        assert revision > self.version, f"event {revision} after {self.version}"
        self.version = revision
        self.events += 1
        name = metadata["name"]
        if not name.startswith("w"):
            return
        assert is_whole(obj["data"]), f"a watch was sent {name} in part"
        number = "" if event["type"] == "DELETED" else obj["data"]["n"]
        self.ledger.note(revision, f"{name} {number}" if number else f"{name} deleted")
        self.told[name].append((event["type"], number))


class Run:
    """Kills and checks over one directory. `counts` is what happened."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.place = directory / "cluster"
        self.place.mkdir(mode=0o700)
        self.random = random.Random(seed)
        self.ledger = Ledger()
        self.watchers: list[Watcher] = []
        self.counter_acknowledged = self.counter_doubted = 0
        self.number = 0
        self.ready_seconds = 0.5
        self.counts: Counter[str] = Counter()

    async def kills(self, count: int) -> dict[str, int]:
        """`count` kills, each followed by a start on which everything is checked. Raises AssertionError."""
        done = 0
        while done < count:
            kind = self.random.choice(KINDS) if done else "storm"
            if kind == "recovery":
                await self._killed_starting()
            else:
                server = await self._checked_start()
                await self._storm(server, compaction=kind == "compaction")
                self.counts["compactions"] += server.compactions
            self.counts[f"killed: {kind}"] += 1
            done += 1
        server = await self._checked_start()
        await server.kill()
        ledger = self.ledger
        return {
            "kills": done,
            **dict(sorted(self.counts.items())),
            "acknowledged writes": ledger.acknowledged,
            "unacknowledged, found whole": ledger.applied,
            "unacknowledged, absent": ledger.dropped,
            "watch events": sum(watcher.events for watcher in self.watchers),
            "acknowledged writes lost": 0,  # or an assertion would have ended this
            "last revision": max(ledger.used),
        }

    async def _killed_starting(self) -> None:
        server = await Server.spawn(self.place)
        await asyncio.sleep(self.random.uniform(0.3, 1.1) * self.ready_seconds)
        await server.kill()

    async def _checked_start(self) -> Server:
        began = time.monotonic()
        server = await Server.spawn(self.place)
        await server.until_ready()
        self.ready_seconds = time.monotonic() - began
        client = self._client()
        try:
            await self._check(client)
        finally:
            await client.close()
        return server

    def _client(self) -> Client:
        return Client(HttpsTransport.from_kubeconfig(self.place / "kubeconfig"))

    async def _check(self, client: Client) -> None:
        listed = await client.list(kinds.CONFIG_MAP, NAMESPACE)
        objects = {obj["metadata"]["name"]: obj for obj in listed.items}
        self.ledger.settle([o for n, o in objects.items() if n.startswith("w")], int(listed.resource_version))
        if "counter" not in objects:
            assert not self.counter_acknowledged
            await client.create(kinds.CONFIG_MAP, config_map("counter", {"n": "0"}))
        else:
            counted = int(objects["counter"]["data"]["n"])
            least, most = self.counter_acknowledged, self.counter_acknowledged + self.counter_doubted
            assert least <= counted <= most, f"the counter is {counted}, not within {least} and {most}"
            self.counter_acknowledged, self.counter_doubted = counted, 0
        marker = config_map("marker", {"n": str(self.counts.total())})
        exists = "marker" in objects
        stored = await (client.update if exists else client.create)(kinds.CONFIG_MAP, marker)
        await self._watched(client, int(stored["metadata"]["resourceVersion"]))

    async def _watched(self, client: Client, revision: int) -> None:
        """Every watcher, continuing where it was, is told exactly what the ledger says, up to `revision`."""
        if not self.watchers:
            self.watchers = [Watcher(self.ledger, revision) for _ in range(WATCHERS)]
            return
        tasks = [asyncio.create_task(watcher.follow(client)) for watcher in self.watchers]
        give_up = time.monotonic() + 30
        while min(watcher.version for watcher in self.watchers) < revision and time.monotonic() < give_up:
            if any(task.done() for task in tasks):
                break
            await asyncio.sleep(0.002)
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for watcher, outcome in zip(self.watchers, outcomes, strict=True):
            if watcher.fault or (isinstance(outcome, Exception)):
                raise watcher.fault or outcome  # type: ignore[misc]
            assert watcher.version >= revision, f"a watch stopped at {watcher.version}, before {revision}"
            told = {key: changes for key, changes in watcher.told.items() if changes}
            wanted = {key: changes for key, changes in self.ledger.history.items() if changes}
            assert told == wanted, _difference(told, wanted)
            watcher.told.clear()
        self.counts["watches resumed"] += len(self.watchers)
        self.ledger.history.clear()

    async def _storm(self, server: Server, *, compaction: bool) -> None:
        client = self._client()
        following = [asyncio.create_task(watcher.follow(client)) for watcher in self.watchers]
        writing = [asyncio.create_task(self._write(client, number)) for number in range(WRITERS)]
        writing += [asyncio.create_task(self._count(client)) for _ in range(2)]
        if compaction:
            server.compacting.clear()
            waiting = asyncio.create_task(server.compacting.wait())
            await asyncio.wait({waiting, *writing}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            await asyncio.sleep(self.random.uniform(0, 0.004))
        else:
            await asyncio.sleep(self.random.uniform(0, 0.35))
        await server.kill()
        outcomes = await asyncio.gather(*writing, return_exceptions=True)
        await asyncio.gather(*following)
        await client.close()
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        self.ledger.died()

    async def _write(self, client: Client, writer: int) -> None:
        """Write to five objects of one's own until the server dies. What it refuses is an error."""
        while True:
            key = f"w{writer}-{self.random.randrange(KEYS)}"
            self.number += 1
            data: Data | None = data_of(self.number, self.random.choice((20, 500, 9000)))
            if key not in self.ledger.state:
                verb = "create"
            else:
                verb = self.random.choices(("update", "patch", "delete"), (5, 5, 3))[0]
            if verb == "delete":
                data = None
            self.ledger.begin(key, verb, data)
            try:
                self.ledger.acknowledge(key, await _send(client, verb, key, data))
            except GONE:
                return

    async def _count(self, client: Client) -> None:
        """Add one to the counter that several share, by reading it and replacing the version read."""
        while True:
            doubted = False
            try:
                present = await client.get(kinds.CONFIG_MAP, "counter", NAMESPACE)
                wanted = {**present, "data": {"n": str(int(present["data"]["n"]) + 1)}}
                doubted = True
                await client.update(kinds.CONFIG_MAP, wanted)
                self.counter_acknowledged += 1
            except ApiError as error:
                assert error.reason == "Conflict", error
            except GONE:
                self.counter_doubted += doubted
                return


async def _send(client: Client, verb: str, key: str, data: Data | None) -> dict[str, Any]:
    if data is None:
        return await client.delete(kinds.CONFIG_MAP, key, NAMESPACE)
    if verb == "patch":
        return await client.patch(kinds.CONFIG_MAP, key, NAMESPACE, {"data": data})
    return await (client.create if verb == "create" else client.update)(kinds.CONFIG_MAP, config_map(key, data))


def config_map(name: str, data: Data) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _difference(told: dict[str, list[Change]], wanted: dict[str, list[Change]]) -> str:
    rows = [
        f"{key}: told {told.get(key)}, stored {wanted.get(key)}"
        for key in sorted(told.keys() | wanted.keys())
        if told.get(key) != wanted.get(key)
    ]
    return "a watch was not told what was stored: " + "; ".join(rows)[:2000]
