"""Kubernetes Events: what a controller tells people, aggregated so that a loop cannot flood the store.

Events of an object are named by their time, so that a list has them in order although timestamps count seconds.
The same event again raises `count` and `lastTimestamp` of the first. Recording never blocks or fails a reconcile:
writing is a task of its own, and an event that cannot be written is logged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from typing import Literal

from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, name_of, namespace_of, now, uid_of

log = logging.getLogger(__name__)

REMEMBERED = 1024


class Recorder:
    """Records events from one component."""

    def __init__(self, client: Client, component: str) -> None:
        self._client = client
        self._component = component
        self._known: OrderedDict[tuple[str, str, str, str], Object] = OrderedDict()
        self._stamp = 0
        self._pending: asyncio.Queue[tuple[tuple[str, str, str, str], Object]] = asyncio.Queue(REMEMBERED)
        self._writer: asyncio.Task[None] | None = None

    def normal(self, obj: Object, reason: str, message: str) -> None:
        self.record(obj, "Normal", reason, message)

    def warning(self, obj: Object, reason: str, message: str) -> None:
        self.record(obj, "Warning", reason, message)

    def record(self, obj: Object, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Note that something happened to `obj`. `reason` is one CamelCase word, `message` a sentence (at most 1
        KiB)."""
        message = message[:1024]
        if self._pending.full():
            log.warning("event dropped, too many waiting: %s %s", reason, message)
            return
        self._pending.put_nowait(((uid_of(obj), kind, reason, message), self._event(obj, kind, reason, message)))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name=f"events of {self._component}")

    async def flush(self, timeout: float = 2.0) -> None:
        """Wait until what was recorded is written, or give up after `timeout` seconds."""
        if self._writer is not None:
            done, _ = await asyncio.wait([self._writer], timeout=timeout)
            if not done:
                self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    def _event(self, obj: Object, kind: str, reason: str, message: str) -> Object:
        self._stamp = max(time.time_ns(), self._stamp + 1)
        namespace = namespace_of(obj) or "default"
        when = now()
        reference = {
            "apiVersion": obj["apiVersion"],
            "kind": obj["kind"],
            "name": name_of(obj),
            "uid": uid_of(obj),
            "resourceVersion": obj["metadata"].get("resourceVersion", ""),
            **({"namespace": namespace} if namespace_of(obj) else {}),
        }
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name_of(obj)[:200]}.{self._stamp:x}", "namespace": namespace},
            "involvedObject": reference,
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": "",
            "firstTimestamp": when,
            "lastTimestamp": when,
            "count": 1,
        }

    async def _write(self) -> None:
        while not self._pending.empty():
            identity, event = self._pending.get_nowait()
            try:
                await self._put(identity, event)
            except (ApiError, OSError, TimeoutError) as error:
                if not (isinstance(error, ApiError) and error.code in (403, 404)):  # its namespace is going or gone
                    log.warning("event %s not written: %s", event["reason"], error)

    async def _put(self, identity: tuple[str, str, str, str], event: Object) -> None:
        known = self._known.get(identity)
        if known is not None:
            patch = {"count": known.get("count", 1) + 1, "lastTimestamp": event["lastTimestamp"]}
            try:
                self._known[identity] = await self._client.patch(
                    kinds.EVENT, name_of(known), namespace_of(known), patch
                )
                return
            except ApiError as error:
                if error.code != 404:
                    raise
        self._known[identity] = await self._client.create(kinds.EVENT, event)
        self._known.move_to_end(identity)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
