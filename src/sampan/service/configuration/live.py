"""Settings as the user's code sees them: always whole and valid, following their source while the process runs.

Layers, the later wins: defaults of the type, values of the declaration, entries of the source, environment variables
SAMPAN_CONFIG_NAME_FIELD, which cannot change.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from sampan.service.bindings import BindingError
from sampan.service.configuration.port import Away, Entries, Malformed, Source
from sampan.service.configuration.typed import Refused, names, typed
from sampan.service.http.readiness import Degraded
from sampan.service.tasks import end
from sampan.service.telemetry.metrics import Registry

log = logging.getLogger("sampan.config")

WAIT_AT_START: Final = 10.0
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0


def from_environment(name: str, type: Any) -> dict[str, str]:
    """The fields of settings `name` that environment variables fix. SAMPAN_CONFIG_NAME_URI is the source's."""
    start = f"SAMPAN_CONFIG_{_upper(name)}_"
    variables = {f"{start}{_upper(field)}": field for field in names(type)}
    return {field: os.environ[key] for key, field in variables.items() if key in os.environ and key != f"{start}URI"}


def _upper(name: str) -> str:
    return name.upper().replace("-", "_")


class LiveConfig:
    """Implements `model.bound.BoundConfig`, and is the component that follows `source`."""

    def __init__(self, name: str, type: Any, defaults: Mapping[str, Any], source: Source, registry: Registry) -> None:
        self.name, self.type, self.defaults, self.source = name, type, dict(defaults), source
        self.fixed = from_environment(name, type)
        self.reloads = registry.counter("config_reloads_total", "Changes of settings seen.", ("config", "outcome"))
        self.up = registry.gauge("config_source_up", "Whether the source of settings answers.", ("config",))
        self.changed = registry.gauge("config_changed_timestamp_seconds", "Last change, Unix time.", ("config",))
        self.up.set(1, name)
        self.changed.set(time.time(), name)
        self.refused = self.away = ""
        self._away_since = 0.0
        self._subscribers: list[_Subscriber] = []
        self._task: asyncio.Task[None] | None = None
        self._value: Any = None
        self._seen: Any = None

    @property
    def value(self) -> Any:
        return self._value

    def on_change(self, callback: Callable[[Any], Any]) -> Callable[[], None]:
        subscriber = _Subscriber(self.name, callback)
        self._subscribers.append(subscriber)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._subscribers.remove(subscriber)

        return end

    async def load(self, wait: float = WAIT_AT_START, optional: bool = False) -> None:
        """Read the source for the first time. BindingError when there are no valid settings after `wait` seconds.

        With `optional`, a source that does not answer leaves the defaults, if they are valid; readiness says so.
        """
        give_up, pause = time.monotonic() + wait, _FIRST_WAIT
        while True:
            try:
                entries = await self.source.load()
                break
            except Malformed as error:
                raise BindingError(f"settings {self.name!r} ({self.source.place}): {error}") from error
            except Away as error:
                if time.monotonic() + pause > give_up:
                    if not optional:
                        raise BindingError(
                            f"settings {self.name!r}: {error}; add ?optional=true to its uri to start with defaults"
                        ) from error
                    self._lost(str(error))
                    entries = {}
                    break
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)
        self.first(entries)

    def first(self, entries: Entries) -> None:
        self._seen = entries
        try:
            self._value = self._made(entries)
        except Refused as error:
            raise BindingError(f"settings {self.name!r} ({self.source.place}): {error}") from error

    def _made(self, entries: Entries) -> Any:
        return typed({**self.defaults, **entries, **self.fixed}, self.type)

    def take(self, entries: Entries | Malformed) -> None:
        """Entries after a change; those that do not fit the type are refused and the old value stays."""
        if entries == self._seen:
            return
        self._seen = entries
        try:
            if isinstance(entries, Malformed):
                raise Refused(str(entries))
            value = self._made(entries)
        except Refused as error:
            self.refused = str(error)
            self.reloads.add(self.name, "refused")
            log.error("settings %s refused, the old ones stay: %s (%s)", self.name, error, self.source.place)
            return
        self.refused = ""
        if value == self._value:
            return
        self._value = value
        self.reloads.add(self.name, "applied")
        self.changed.set(time.time(), self.name)
        log.info("settings %s changed", self.name)
        for subscriber in list(self._subscribers):
            subscriber.tell(value)

    async def check(self) -> None:
        if self.refused:
            raise Degraded(f"refused: {self.refused}; the old settings stay")
        if self.away:
            seconds = time.monotonic() - self._away_since
            raise Degraded(f"not followed for {seconds:.0f} s, the settings stay as they are: {self.away}")

    async def start(self) -> None:
        self._task = asyncio.create_task(self._follow(), name=f"settings {self.name}")

    async def stop(self) -> None:
        if self._task is not None:
            await end(self._task)
        await self.source.close()

    async def _follow(self) -> None:
        pause = _FIRST_WAIT
        while True:
            begun = time.monotonic()
            try:
                if self.away:
                    await self.source.check()
                    self._found()
                async for entries in self.source.watch():
                    self._found()
                    self.take(entries)
            except Away as error:
                self._lost(str(error))
            except Malformed as error:
                self._found()
                self.take(error)
            except Exception as error:  # a fault of ours must not end the following of settings
                self._lost(f"{type(error).__name__}: {error}")
                log.error("settings %s: %s", self.name, error, exc_info=error)
            pause = _FIRST_WAIT if time.monotonic() - begun > _LONGEST_WAIT else min(_LONGEST_WAIT, pause * 2)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    def _lost(self, why: str) -> None:
        if not self.away:
            self._away_since = time.monotonic()
            self.up.set(0, self.name)
            log.warning("settings %s are not followed, they stay as they are: %s", self.name, why)
        self.away = why

    def _found(self) -> None:
        if self.away:
            self.away = ""
            self.up.set(1, self.name)
            log.info("settings %s are followed again", self.name)


class _Subscriber:
    """Calls back, one call at a time. What changes during an asynchronous call is told once, with the latest value."""

    def __init__(self, name: str, callback: Callable[[Any], Any]) -> None:
        self.name, self.callback = name, callback
        self._task: asyncio.Task[None] | None = None
        self._waiting: list[Any] = []

    def tell(self, value: Any) -> None:
        if self._task is not None and not self._task.done():
            self._waiting[:] = [value]
            return
        result = self._called(value)
        if inspect.isawaitable(result):
            self._task = asyncio.ensure_future(self._rest(result))

    def _called(self, value: Any) -> Any:
        try:
            return self.callback(value)
        except Exception as error:
            log.error("settings %s: a subscriber failed: %s", self.name, error, exc_info=error)
            return None

    async def _rest(self, result: Any) -> None:
        while True:
            try:
                await result
            except Exception as error:
                log.error("settings %s: a subscriber failed: %s", self.name, error, exc_info=error)
            if not self._waiting:
                return
            result = self._called(self._waiting.pop())
            if not inspect.isawaitable(result):
                return
