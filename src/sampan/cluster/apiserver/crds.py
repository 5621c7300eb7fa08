"""Custom kinds: names accepted at once, versions served as the definition says, instances removed with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sampan.cluster.apiserver.call import Call
from sampan.cluster.apiserver.catalog import Kind
from sampan.cluster.apiserver.decode import json_copy
from sampan.cluster.store import Entry, Remove
from sampan.kube.errors import ApiError
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object, now

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
TABLE = "apiextensions.k8s.io/customresourcedefinitions"


def kinds_of(crd: Object) -> list[Kind]:
    """The kinds a definition serves, one per served version."""
    spec = crd["spec"]
    names = spec["names"]
    served = []
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
        served.append(Kind(resource, crd, version))
    return served


def _condition(kind: str, reason: str, message: str, status: str = "True") -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now()}


class Definitions:
    """Keeps the catalog in step with the stored definitions."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self._seen: dict[str, str] = {}
        self._cleaning: dict[str, asyncio.Task[None]] = {}

    def admit(self, call: Call, new: Object, old: Object | None) -> None:
        """Set the status a definition gets at once; runs within the write."""
        if call.served.table != TABLE or call.subresource is not None or new["metadata"].get("deletionTimestamp"):
            return
        names, metadata = new["spec"].get("names"), new["metadata"]
        if not isinstance(names, dict) or not isinstance(new["spec"].get("versions"), list):
            return
        status = json_copy(new.get("status") or {})
        clash = self._clash(new)
        kept = [c for c in status.get("conditions") or () if c.get("type") not in {"NamesAccepted", "Established"}]
        wanted = [_condition("NamesAccepted", "NoConflicts", "no conflicts found")]
        wanted.append(_condition("Established", "InitialNamesAccepted", "the initial names have been accepted"))
        if clash:
            wanted = [
                _condition("NamesAccepted", "PluralConflict", clash, "False"),
                _condition("Established", "NotAccepted", "not all names are accepted", "False"),
            ]
        before = {c["type"]: c for c in status.get("conditions") or () if isinstance(c, dict) and "type" in c}
        for index, condition in enumerate(wanted):
            present = before.get(condition["type"])
            if present and present.get("status") == condition["status"]:
                wanted[index] = present
        stored = [v.get("name") for v in new["spec"]["versions"] if isinstance(v, dict) and v.get("storage")]
        versions = [*(status.get("storedVersions") or ())]
        status["storedVersions"] = versions + [name for name in stored if name and name not in versions]
        status["conditions"] = [*kept, *wanted]
        if not clash:
            status["acceptedNames"] = json_copy(names)
        new["status"] = status
        if CLEANUP not in (metadata.get("finalizers") or ()):
            metadata["finalizers"] = [*(metadata.get("finalizers") or ()), CLEANUP]

    def _clash(self, new: Object) -> str:
        """Why the names cannot be had; "" when they can."""
        spec = new["spec"]
        group, kind = spec.get("group"), spec["names"].get("kind")
        for other in self.server.catalog:
            resource = other.resource
            if resource.group == group and resource.kind == kind:
                owner = other.crd["metadata"]["name"] if other.crd else "a built-in kind"
                if owner != new["metadata"]["name"]:
                    return f'"{kind}" is already in use by {owner}'
        return ""

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
            stamp = f"{crd['metadata']['uid']}/{crd['metadata'].get('generation')}"
            conditions = (crd.get("status") or {}).get("conditions") or ()
            established = any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions)
            if self._seen.get(name) != stamp:
                self._seen[name] = stamp
                self.server.catalog.set_custom(name, kinds_of(crd) if established else [])

    async def _clean_up(self, name: str) -> None:
        """Delete every instance, wait until they are gone, then let the definition go."""
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
            left = [one for one in obj["metadata"].get("finalizers") or () if one != CLEANUP]
            obj["metadata"]["finalizers"] = left
            return obj if left else Remove(obj)

        try:
            await store.write(TABLE, name, release)
        except ApiError:
            return
        self.sync()

    async def stop(self) -> None:
        tasks = list(self._cleaning.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
