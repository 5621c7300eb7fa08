"""Settings in etcd: a key per field below the path of the uri, one JSON document at the path itself, or both."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sampan.service.bindings import Binding, BindingError
from sampan.service.configuration.port import Entries, Malformed, merged
from sampan.service.coordination.etcd import Compacted, Etcd


class EtcdSource:
    def __init__(self, binding: Binding) -> None:
        self.etcd = Etcd(binding)
        self.place, self.path = self.etcd.address.place, self.etcd.address.path
        if self.path in ("", "/"):
            raise BindingError(f"{binding.name}: {self.place} names no key; write it as etcd://HOST:2379/config/NAME")
        self._found: dict[str, str] = {}
        self._next = 0  # the revision to watch from; 0: everything is to be read

    async def load(self) -> Entries:
        await self._read()
        entries = self._entries()
        if isinstance(entries, Malformed):
            raise entries
        return entries

    async def _read(self) -> None:
        found, revision = await self.etcd.range(self.path, prefix=True)
        self._found, self._next = found, revision + 1

    def _entries(self) -> Entries | Malformed:
        below = f"{self.path}/"
        fields = {key[len(below) :]: value for key, value in self._found.items() if key.startswith(below)}
        return merged(self._found.get(self.path), fields, self.path)

    async def watch(self) -> AsyncIterator[Entries | Malformed]:
        while True:
            if not self._next:
                await self._read()
                yield self._entries()
            try:
                async for revision, changes in self.etcd.watch(self.path, self._next):
                    for key, value in changes.items():
                        self._found.pop(key, None)
                        if value is not None:
                            self._found[key] = value
                    self._next = revision + 1
                    yield self._entries()
            except Compacted:
                self._next = 0

    async def check(self) -> None:
        await self.etcd.range(self.path)

    async def close(self) -> None:
        await self.etcd.close()
