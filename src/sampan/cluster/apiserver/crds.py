"""Custom kinds: names accepted at once, versions served as the definition says, instances removed with it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from sampan.cluster.apiserver import definition_names
from sampan.cluster.apiserver.call import Call
from sampan.cluster.apiserver.custom import CustomKind
from sampan.cluster.apiserver.decode import json_copy
from sampan.cluster.apiserver.kind import Kind
from sampan.cluster.store import Entry, Remove
from sampan.kube.errors import ApiError
from sampan.kube.kinds import CUSTOM_RESOURCE_DEFINITION as DEFINITION
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

TABLE = "apiextensions.k8s.io/customresourcedefinitions"


def kinds_of(crd: Object) -> list[Kind]:
    """The kinds a definition serves, one per served version."""
    spec = crd["spec"]
    names = spec["names"]
    served: list[Kind] = []
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        subresources = version.get("subresources") or {}
        resource = Resource(
            spec["group"],
            version["name"],
            names["kind"],
            names["plural"],
            names.get("singular") or names["kind"].lower(),
            spec["scope"] == "Namespaced",
            tuple(names.get("shortNames") or ()),
            tuple(names.get("categories") or ()),
            tuple(name for name in ("scale", "status") if name in subresources),
        )
        served.append(CustomKind(resource, crd, version))
    return served


class Definitions:
    """Keeps the catalog in step with the stored definitions."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self._seen: dict[str, str] = {}
        self._cleaning: dict[str, asyncio.Task[None]] = {}
        self._settling: dict[str, asyncio.Task[None]] = {}

    def admit(self, call: Call, new: Object, old: Object | None) -> None:
        """Set the status a definition gets at once; runs within the write."""
        if call.served.table != TABLE or call.subresource is not None or new["metadata"].get("deletionTimestamp"):
            return
        if not isinstance(new["spec"].get("names"), dict) or not isinstance(new["spec"].get("versions"), list):
            return
        status = json_copy(new.get("status") or {})
        before = [row for row in status.get("conditions") or () if isinstance(row, dict) and "type" in row]
        given, said = definition_names.accepted({**new, "status": status}, self.server.peek_all(DEFINITION))
        wanted = [said, definition_names.established(before, said["status"] == "True")]
        known = {row["type"]: row for row in before}
        for index, row in enumerate(wanted):
            present = known.pop(row["type"], None)
            if present and all(present.get(key) == row[key] for key in ("status", "reason", "message")):
                wanted[index] = present
        stored = [v.get("name") for v in new["spec"]["versions"] if isinstance(v, dict) and v.get("storage")]
        versions = [*(status.get("storedVersions") or ())]
        if old is not None:
            versions += [name for name in stored if name and name not in versions]
        status |= {
            "storedVersions": versions,
            "conditions": [*wanted, *known.values()],
            "acceptedNames": json_copy(given),
        }
        new["status"] = status

    async def _settle(self, name: str) -> None:
        """Look again whether a definition may have its names now."""

        def again(current: Entry | None) -> Object | None:
            if current is None:
                return None
            obj: Object = json_copy(current.object)
            self.admit(Call("PUT", "", {}, self.server.admin, kind=self.server.catalog.of(DEFINITION)), obj, obj)
            return obj

        with contextlib.suppress(ApiError):
            await self.server.store.write(TABLE, name, again)
        self.sync()

    def sync(self) -> None:
        """Serve what the stored definitions say, and see to those that are going away."""
        table = self.server.store.table(TABLE)
        present = {entry.key: entry for entry in table.scan()}
        for name in [name for name in self._seen if name not in present]:
            del self._seen[name]
            self.server.catalog.set_custom(name, [])
        for name, entry in present.items():
            crd = entry.object
            if crd["metadata"].get("deletionTimestamp") and name not in self._cleaning:
                task = asyncio.ensure_future(self._clean_up(name))
                self._cleaning[name] = task
                task.add_done_callback(lambda _, name=name: self._cleaning.pop(name, None))  # type: ignore[misc]
            if definition_names.is_waiting(crd) and name not in self._settling:
                _, said = definition_names.accepted(crd, [entry.object for entry in present.values()])
                if said["status"] == "True":
                    settling = asyncio.ensure_future(self._settle(name))
                    self._settling[name] = settling
                    settling.add_done_callback(lambda _, name=name: self._settling.pop(name, None))  # type: ignore[misc]
            stamp = f"{crd['metadata']['uid']}/{crd['metadata'].get('generation')}/{definition_names.is_waiting(crd)}"
            conditions = (crd.get("status") or {}).get("conditions") or ()
            established = any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions)
            if self._seen.get(name) != stamp:
                self._seen[name] = stamp
                self.server.catalog.set_custom(name, self._served(crd) if established else [])

    def _served(self, crd: Object) -> list[Kind]:
        served = kinds_of(crd)
        if (crd["spec"].get("conversion") or {}).get("strategy") == "Webhook":
            from sampan.cluster.apiserver.versions.webhook import Converter

            converter = Converter(self.server, crd)
            for kind in served:
                kind.converter = converter
        return served

    async def _clean_up(self, name: str) -> None:
        """Delete every instance, wait until they are gone, then let the definition go."""
        with contextlib.suppress(ApiError):
            await self.server.store.write(TABLE, name, definition_names.going)
        store = self.server.store
        entry = store.table(TABLE).get(name)
        if entry is None:
            return
        spec = entry.object["spec"]
        table = store.table(f"{spec['group']}/{spec['names']['plural']}")
        served = kinds_of(entry.object)
        while table.entries and served and not self.server.stopping:
            for key in list(table.keys):
                call = Call("DELETE", "", {}, self.server.admin, kind=served[0])
                try:
                    await self.server.deleter.remove(call, served[0], key, {})
                except ApiError as error:
                    if error.code != 404:
                        await asyncio.sleep(1)
            if table.entries:
                await table.wait(2.0)

        def release(current: Entry | None) -> Object | Remove | None:
            if current is None:
                return None
            obj = json_copy(current.object)
            left = [one for one in obj["metadata"].get("finalizers") or () if one != definition_names.CLEANUP]
            obj["metadata"]["finalizers"] = left
            return obj if left else Remove(obj)

        try:
            await store.write(TABLE, name, release)
        except ApiError:
            return
        self.sync()

    async def stop(self) -> None:
        tasks = [*self._cleaning.values(), *self._settling.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
