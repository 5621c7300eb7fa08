"""What one process of a system holds: its identity, the bound handles of a workload, and what has to be started.

Drivers are imported only for the kinds of resources the workload uses.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from sampan.model import Application, Bucket, Cache, Config, Database, Handle, Secret, Service, Topic, settings
from sampan.model.application import Workload
from sampan.service import bindings
from sampan.service.bindings import BindingError
from sampan.service.config import FileConfig, FileSecret, watch
from sampan.service.http.endpoints import Check
from sampan.service.telemetry import logs
from sampan.service.telemetry.metrics import Registry, add_process_metrics

if TYPE_CHECKING:
    from sampan.service.data.database import SqlDatabase
    from sampan.service.messaging.broker import Broker
    from sampan.service.messaging.consumer import Consumer
    from sampan.service.messaging.outbox import Relay

log = logging.getLogger("sampan")


class StartError(Exception):
    """The process cannot start as declared; the message says what to mend."""


def load_string(text: str, what: str) -> Any:
    """The object an import string "module:attribute" names. StartError when it does not resolve."""
    module_name, _, attribute = text.partition(":")
    if "" not in sys.path and (here := os.getcwd()) not in sys.path:  # noqa: PTH109
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise StartError(f"{what} {text!r}: no module {error.name!r} in {os.getcwd()} or on the path") from error  # noqa: PTH109
        raise
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise StartError(f"{what} {text!r}: {error}") from error
    return found


def load_application() -> Application:
    """The Application that SAMPAN_APP ("module:attribute") names."""
    text = os.environ.get("SAMPAN_APP", "")
    if ":" not in text:
        raise StartError("SAMPAN_APP must name the application as module:attribute, for instance shop.system:shop")
    application = load_string(text, "SAMPAN_APP")
    if not isinstance(application, Application):
        raise StartError(f"SAMPAN_APP={text} is {type(application).__name__}, not an Application")
    return application


def named(things: Sequence[Any], name: str, what: str) -> Any:
    for thing in things:
        if thing.name == name:
            return thing
    raise StartError(f"no {what} {name!r}; there are: {', '.join(sorted(t.name for t in things)) or 'none'}")


def identity(name: str) -> dict[str, str]:
    """The fields that every log line bears."""
    fields = {"service": name, "version": os.environ.get("SAMPAN_VERSION", ""), "pod": os.environ.get("POD_NAME", "")}
    return {key: value for key, value in fields.items() if value}


class Process:
    """The bound handles of `workload`. `start` begins background work, `stop` ends it in order, `close` lets go."""

    def __init__(self, workload: Workload, registry: Registry | None = None) -> None:
        self.workload = workload
        self.registry = registry or Registry()
        if registry is None:
            add_process_metrics(self.registry)
        self.redactor = logs.Redactor()
        self.identity = identity(workload.name)
        self.output = logs.configure(self.identity, self.redactor, os.environ.get("SAMPAN_LOG_LEVEL", "INFO"))
        self.checks: list[Check] = []
        self.databases: dict[str, SqlDatabase] = {}
        self.broker: Broker | None = None
        self.relays: list[Relay] = []
        self.consumers: list[Consumer] = []
        self._closing: list[Any] = []  # things with `async close()`, in the order they were opened
        self._watched: list[FileConfig | FileSecret] = []
        self._watcher: asyncio.Task[None] | None = None
        self._bound: list[Handle | Service] = []

    def bind(self, services: Sequence[Service] = ()) -> None:
        """Bind every handle of the workload and the clients of what it calls. BindingError lists all that lack."""
        problems: list[str] = []
        for handle in self.workload.handles:
            try:
                BINDERS[type(handle)](self, handle)
                self._bound.append(handle)
            except BindingError as error:
                problems.append(str(error))
        if problems:
            raise BindingError("\n".join(problems))
        called = set(self.workload.call_names)
        targets = {service.name: service for service in services if service.name in called}
        targets |= {call.name: call for call in self.workload.calls if isinstance(call, Service)}
        if targets:
            from sampan.service.client import HttpClient, Pool

            pool = Pool()
            self._closing.append(pool)
            for service in targets.values():
                service.bind(HttpClient(service.name, bindings.service_url(service.name), pool, self.registry))
                self._bound.append(service)

    def find(self, handle: Handle) -> bindings.Binding:
        binding = bindings.find(handle.directory, handle.variable)
        self.redactor.add(binding.secrets())
        return binding

    def accesses(self, handle: Handle) -> set[str]:
        return {grant.access for grant in self.workload.grants if grant.handle is handle}

    def bind_database(self, handle: Database) -> None:
        from sampan.service.data.database import SqlDatabase

        database = SqlDatabase(handle.name, self.find(handle), read_only="read_write" not in self.accesses(handle))
        self.databases[handle.name] = database
        handle.bind(database)
        self._opened(f"database {handle.name}", database, lambda: True)

    def bind_cache(self, handle: Cache) -> None:
        from sampan.service.cache import RedisCache

        cache = RedisCache(handle.name, self.find(handle), self.registry)
        handle.bind(cache)
        self._opened(f"cache {handle.name}", cache, lambda: False)

    def bind_topic(self, handle: Topic[Any]) -> None:
        from sampan.service.messaging.broker import Broker
        from sampan.service.messaging.topic import BrokerTopic

        if self.broker is None:
            broker = self.broker = Broker(self.find(handle), self.registry, self.workload.name)
            # once it has been there its absence only degrades: the outbox keeps what is published meanwhile
            self._opened("messaging", broker, lambda: not broker.connected_once)
        handle.bind(BrokerTopic(handle.name, handle.type, self.broker))

    def bind_bucket(self, handle: Bucket) -> None:
        from sampan.service.buckets import open_bucket

        bucket = open_bucket(handle.name, self.find(handle))
        handle.bind(bucket)
        self._opened(f"bucket {handle.name}", bucket, lambda: True)

    def bind_secret(self, handle: Secret) -> None:
        binding = self.find(handle)
        missing = sorted(set(handle.keys) - set(binding.values) - ({"uri"} if binding.uri else set()))
        if missing:
            raise BindingError(f"binding {handle.directory} has no entry {', '.join(missing)}")
        secret = FileSecret(handle.name, binding, bindings.root() / handle.directory, self.redactor)
        handle.bind(secret)
        self._watched.append(secret)

    def bind_config(self, handle: Config[Any]) -> None:
        config = FileConfig(handle.name, handle.type, settings.as_text(handle, {}), self.registry)
        handle.bind(config)
        self._watched.append(config)

    def _opened(self, name: str, resource: Any, required: Callable[[], bool]) -> None:
        self._closing.append(resource)
        self.checks.append(Check(name, resource.check, required))

    def start(self) -> None:
        """Start connecting, watching, and relaying; call within the loop. Consumers wait for `start_consumers`."""
        if self._watched:
            self._watcher = asyncio.create_task(watch(self._watched), name="watch")
        if self.broker is None:
            return
        self.broker.start()
        publishes = any(grant.access == "publish" for grant in self.workload.grants)
        for database in self.databases.values():
            if publishes and not database.read_only:
                from sampan.service.messaging.outbox import Relay

                relay = Relay(database, self.broker, self.registry)
                relay.start()
                self.relays.append(relay)
                self.checks.append(Check(f"outbox {database.name}", relay.check, lambda: True))

    def prepare_consumers(self) -> None:
        """Import the handlers of every subscription. StartError when one does not fit."""
        from sampan.service.messaging.consumer import Consumer

        writable = [database for database in self.databases.values() if not database.read_only]
        for grant in self.workload.grants:
            if grant.access != "subscribe":
                continue
            topic = grant.handle
            assert isinstance(topic, Topic) and self.broker is not None
            handler = load_string(grant.handler, f"handler of topic {topic.name!r},")
            try:
                consumer = Consumer(
                    self.broker,
                    topic.name,
                    topic.type,
                    grant.group or self.workload.name,
                    handler,
                    self.registry,
                    database=writable[0] if len(writable) == 1 else None,
                    concurrency=grant.concurrency,
                    attempts=grant.attempts,
                )
            except ValueError as error:
                raise StartError(str(error)) from error
            self.consumers.append(consumer)

    def start_consumers(self) -> None:
        for consumer in self.consumers:
            consumer.start()

    async def stop(self) -> None:
        """Finish what is in hand: events, then the outbox; then close every pool. Never raises."""
        await asyncio.gather(*(consumer.stop() for consumer in self.consumers), return_exceptions=True)
        await asyncio.gather(*(relay.stop() for relay in self.relays), return_exceptions=True)
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        for resource in reversed(self._closing):
            try:
                async with asyncio.timeout(3):
                    await resource.close()
            except Exception as error:
                log.warning("closing %s: %s", type(resource).__name__, error)
        for handle in self._bound:
            with contextlib.suppress(Exception):
                handle.bind(None)


BINDERS: Final[dict[type[Handle], Callable[[Process, Any], None]]] = {
    Database: Process.bind_database,
    Cache: Process.bind_cache,
    Topic: Process.bind_topic,
    Bucket: Process.bind_bucket,
    Secret: Process.bind_secret,
    Config: Process.bind_config,
}
