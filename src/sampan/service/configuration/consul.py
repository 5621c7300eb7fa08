"""Settings in Consul's key-value store: a key per field below the path, one JSON document at it, or both."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

from sampan.service.bindings import Binding, BindingError
from sampan.service.configuration.port import Entries, Malformed, merged
from sampan.service.coordination.consul import Consul


class ConsulSource:
    def __init__(self, binding: Binding) -> None:
        self.consul = Consul(binding)
        self.place, self.path = self.consul.address.place, self.consul.address.path.lstrip("/")
        if not self.path:
            raise BindingError(f"{binding.name}: {self.place} names no key; write it as consul://HOST:8500/config/NAME")
        self._index = 0
        self._rows: Any = None

    async def load(self) -> Entries:
        self._rows, self._index = await self.consul.blocking(f"/v1/kv/{self.path}", 0, {"recurse": "true"})
        entries = self._entries()
        if isinstance(entries, Malformed):
            raise entries
        return entries

    def _entries(self) -> Entries | Malformed:
        found = {row["Key"]: base64.b64decode(row["Value"] or "").decode(errors="replace") for row in self._rows or ()}
        below = f"{self.path}/"
        fields = {key[len(below) :]: text for key, text in found.items() if key.startswith(below) and key != below}
        return merged(found.get(self.path), fields, self.path)

    async def watch(self) -> AsyncIterator[Entries | Malformed]:
        while True:
            rows, self._index = await self.consul.blocking(f"/v1/kv/{self.path}", self._index, {"recurse": "true"})
            if rows != self._rows:
                self._rows = rows
                yield self._entries()

    async def check(self) -> None:
        await self.consul.call("GET", "/v1/status/leader")

    async def close(self) -> None:
        await self.consul.close()
