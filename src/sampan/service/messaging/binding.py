"""Binds topics: one broker connection a process, a relay for each writable database, consumers of subscriptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sampan.model import Service, Topic
from sampan.service.http.endpoints import Check
from sampan.service.lifecycle import Stage
from sampan.service.process import Process, StartError, load_string


class Connection:
    """Starts and stops the broker as a component."""

    def __init__(self, broker: Any) -> None:
        self.broker = broker

    async def start(self) -> None:
        self.broker.start()

    async def stop(self) -> None:
        await self.broker.close()


class Started:
    """A relay or consumer as a component: its `start` is not a coroutine."""

    def __init__(self, part: Any) -> None:
        self.part = part

    async def start(self) -> None:
        self.part.start()

    async def stop(self) -> None:
        await self.part.stop()


def bind(process: Process, handle: Topic[Any]) -> None:
    from sampan.service.messaging.broker import Broker
    from sampan.service.messaging.topic import BrokerTopic

    broker = process.shared.get("broker")
    if broker is None:
        broker = process.shared["broker"] = Broker(process.find(handle), process.registry, process.workload.name)
        process.add(Stage.RESOURCES, "messaging", Connection(broker))
        # once it has been there its absence only degrades: the outbox keeps what is published meanwhile
        process.checks.append(Check("messaging", broker.check, lambda: not broker.connected_once))
    handle.bind(BrokerTopic(handle.name, handle.type, broker))


def bind_relays(process: Process, _services: Sequence[Service]) -> None:
    broker = process.shared.get("broker")
    if broker is None or not any(grant.access == "publish" for grant in process.workload.grants):
        return
    from sampan.service.messaging.outbox import Relay

    for database in process.databases.values():
        if not database.read_only:
            relay = Relay(database, broker, process.registry)
            process.add(Stage.BACKGROUND, f"outbox {database.name}", Started(relay))
            process.checks.append(Check(f"outbox {database.name}", relay.check, lambda: True))


def bind_consumers(process: Process) -> None:
    """Import the handlers of every subscription. StartError when one does not fit."""
    from sampan.service.messaging.consumer import Consumer

    writable = [database for database in process.databases.values() if not database.read_only]
    for grant in process.workload.grants:
        if grant.access != "subscribe":
            continue
        topic = grant.handle
        assert isinstance(topic, Topic)
        handler = load_string(grant.handler, f"handler of topic {topic.name!r},")
        try:
            consumer = Consumer(
                process.shared["broker"],
                topic.name,
                topic.type,
                grant.group or process.workload.name,
                handler,
                process.registry,
                database=writable[0] if len(writable) == 1 else None,
                concurrency=grant.concurrency,
                attempts=grant.attempts,
            )
        except ValueError as error:
            raise StartError(str(error)) from error
        process.add(Stage.CONSUMERS, f"consumer of {topic.name}", Started(consumer))
