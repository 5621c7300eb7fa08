"""Binds topics: one broker connection a process, a relay for each writable database, consumers of subscriptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sampan.model import Service, Topic
from sampan.model.application import Workload
from sampan.service.http.endpoints import Check
from sampan.service.lifecycle import Stage
from sampan.service.process import Process, StartError, load_string

if TYPE_CHECKING:
    from sampan.service.messaging.port import Layout


class Connection:
    """The broker as a component that is stopped with the resources."""

    def __init__(self, broker: Any) -> None:
        self.broker = broker

    async def start(self) -> None: ...

    async def stop(self) -> None:
        await self.broker.close()


class Connecting(Connection):
    """What has it connect when the servers listen, if nothing was to be published before: a library for a broker is
    long to import, and who asks meanwhile is answered."""

    async def start(self) -> None:
        self.broker.start()

    async def stop(self) -> None: ...


class Started:
    """A relay or consumer as a component: its `start` is not a coroutine."""

    def __init__(self, part: Any) -> None:
        self.part = part

    async def start(self) -> None:
        self.part.start()

    async def stop(self) -> None:
        await self.part.stop()


def bind(process: Process, handle: Topic[Any]) -> None:
    from sampan.service.messaging.port import Broker, open_broker
    from sampan.service.messaging.topic import BrokerTopic

    broker: Broker | None = process.shared.get("broker")
    if broker is None:
        made = open_broker(process.find(handle), process.registry, process.workload.name)
        broker = process.shared["broker"] = made
        process.add(Stage.RESOURCES, "messaging", Connection(made))
        process.add(Stage.CONSUMERS, "connection to the broker", Connecting(made))
        # once it has been there its absence only degrades: the outbox keeps what is published meanwhile
        process.checks.append(Check("messaging", made.check, lambda: not made.connected_once))
    broker.declare(layout(handle, [process.workload]))
    handle.bind(BrokerTopic(handle.name, handle.type, broker, key=handle.key or "", version=handle.version))


def layout(topic: Topic[Any], workloads: Sequence[Workload]) -> Layout:
    """As brokers need to know it, with the groups that `workloads` declare."""
    from sampan.service.messaging.port import Layout

    groups = {
        grant.group or workload.name: None
        for workload in workloads
        for grant in workload.grants
        if grant.access == "subscribe" and grant.handle.name == topic.name and isinstance(grant.handle, Topic)
    }
    return Layout(topic.name, bool(topic.key), topic.partitions, tuple(groups))


def bind_relays(process: Process, services: Sequence[Service]) -> None:
    broker = process.shared.get("broker")
    if broker is None:
        return
    for handle in process.workload.handles:
        if isinstance(handle, Topic):
            broker.declare(layout(handle, services))
    from sampan.service.messaging.outbox import Relay

    # where a service only consumes, its inbox is kept short, and what others left in the outbox goes out
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
        chosen = writable[0] if len(writable) == 1 else None
        if grant.database is not None:
            chosen = next((database for database in writable if database.name == grant.database.name), None)
            if chosen is None:
                raise StartError(
                    f"the subscription to topic {topic.name!r} names {grant.database!r}, which "
                    f"{process.workload!r} may not write to; add {grant.database.name}.read_write() to its `uses`"
                )
        try:
            consumer = Consumer(
                process.shared["broker"],
                topic.name,
                topic.type,
                grant.group or process.workload.name,
                handler,
                process.registry,
                database=chosen,
                concurrency=grant.concurrency,
                attempts=grant.attempts,
                batch=grant.batch,
                commit=grant.commit,
                timeout=grant.timeout,
            )
        except ValueError as error:
            raise StartError(str(error)) from error
        process.add(Stage.CONSUMERS, f"consumer of {topic.name}", Started(consumer))
