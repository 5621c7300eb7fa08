"""ResourceQuota: a write that would use more than a quota of its namespace allows is refused.

What is used is counted from the objects themselves, those being written included, in the same step that decides a
write: of fifty creates at once no more than fit get through. `status.used` is what people and controllers read; it is
brought up to date before a create is answered, and by the controller `resourcequota` when objects go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.cluster.apiserver.admission import usage
from sampan.cluster.apiserver.admission.amounts import ZERO, Amounts, add, read, shown, subtract
from sampan.cluster.apiserver.call import Call
from sampan.cluster.apiserver.decode import json_copy
from sampan.cluster.apiserver.registry.faults import sub
from sampan.cluster.store import Entry
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

TABLE = "/resourcequotas"


class Count:
    """What the objects of one table and namespace use of one quota; follows the table instead of counting anew."""

    def __init__(self, quota: Object, table: str, names: set[str]) -> None:
        self.quota, self.table, self.names = quota, table, names
        self.prefix = f"{quota['metadata']['namespace']}/"
        self.revision = -1
        self.total: Amounts = {}
        self._used: dict[str, Amounts] = {}
        self._leaving: set[str] = set()

    def of(self, obj: Object) -> Amounts:
        if not usage.covers(self.quota, self.table, obj):
            return {}
        return {name: one for name, one in usage.usage(self.table, obj).items() if name in self.names and one.value}

    def current(self, server: ApiServer) -> Amounts:
        """As of now, with what is being written counted as if it were."""
        table = server.store.table(self.table)
        try:
            changes = table.events_after(self.revision) if self.revision >= 0 else None
        except ApiError:
            changes = None
        if changes is None:
            self.total, self._used, self._leaving = {}, {}, set()
            for entry in table.scan(self.prefix):
                self._set(entry.key, entry.object)
        else:
            for event in changes:
                if event.entry.key.startswith(self.prefix):
                    self._set(event.entry.key, None if event.type == "DELETED" else event.entry.object)
        self.revision = server.store.revision
        for key in list(self._leaving):  # a pod counts no more once its grace is over
            found = table.get(key)
            self._set(key, found.object if found else None)
        total = self.total
        for key, obj in server.store.pending(self.table).items():
            if key.startswith(self.prefix):
                total = add(subtract(total, self._used.get(key, {})), self.of(obj) if obj is not None else {})
        return total

    def _set(self, key: str, obj: Object | None) -> None:
        now = self.of(obj) if obj is not None else {}
        self.total = add(subtract(self.total, self._used.pop(key, {})), now)
        self._leaving.discard(key)
        if now:
            self._used[key] = now
            if self.table == usage.PODS and obj is not None and obj["metadata"].get("deletionTimestamp"):
                self._leaving.add(key)


class Quotas:
    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self._counts: dict[tuple[str, str], Count] = {}

    def check(self, call: Call, new: Object, old: Object | None) -> None:
        """Raises ApiError 403; notes on the call which quotas the write uses more of."""
        call.charged = ()
        namespace = call.namespace
        table, part = call.served.table, call.subresource
        if not namespace or not self.server.store.table(TABLE).entries or table in usage.IGNORED:
            return
        if not _handled(table, part, new, old):
            return
        quotas = self.server.store.table(TABLE).scan(f"{namespace}/")
        charged = [entry.key for entry in quotas if self._charge(call, entry.object, new, old)]
        call.charged = () if call.dry_run else tuple(charged)

    def _charge(self, call: Call, quota: Object, new: Object, old: Object | None) -> bool:
        table = call.served.table
        hard = read(sub(quota, "spec").get("hard"))
        names = {name for name in hard if usage.table_for(name) == table}
        if not names or not usage.covers(quota, table, new):
            return False
        name = quota["metadata"]["name"]
        if table == usage.PODS and (lacking := usage.missing(new, names)):
            raise refusal(call, new, f"failed quota: {name}: {lacking}")
        count = self._count(quota, table, names)
        wanted = count.of(new)
        if old is not None:
            wanted = subtract(wanted, count.of(old))
        wanted = {key: one for key, one in wanted.items() if one.value > 0}
        if not wanted:
            return False
        used = count.current(self.server)
        over = [key for key, one in wanted.items() if used.get(key, ZERO).value + one.value > hard[key].value]
        if over and call.subresource != "status":
            raise refusal(
                call,
                new,
                f"exceeded quota: {name}, requested: {shown(wanted, over)}, used: {shown(used, over)}, limited:"
                f" {shown(hard, over)}",
            )
        return True

    def _count(self, quota: Object, table: str, names: set[str]) -> Count:
        """The count for this version of the quota's spec."""
        key = (quota["metadata"]["uid"], table)
        found = self._counts.get(key)
        if found is None or found.quota["spec"] != quota["spec"]:
            if len(self._counts) > 1000:
                self._counts.clear()
            found = self._counts[key] = Count(quota, table, names)
        return found

    async def settle(self, keys: tuple[str, ...]) -> None:
        """Bring the status of these quotas up to date."""
        for key in keys:
            await self.server.store.write(TABLE, key, self._settled)

    def _settled(self, current: Entry | None) -> Object | None:
        if current is None:
            return None
        quota: Object = json_copy(current.object)
        hard = sub(quota, "spec", "hard")
        used: Amounts = dict.fromkeys(hard, ZERO)
        for table in {found for name in hard if (found := usage.table_for(name)) is not None}:
            names = {name for name in hard if usage.table_for(name) == table}
            used |= self._count(current.object, table, names).current(self.server)
        quota["status"] = {"hard": dict(hard), "used": {name: str(used[name]) for name in sorted(used)}}
        return quota


def _handled(table: str, part: str | None, new: Object, old: Object | None) -> bool:
    """Whether a write of this kind can use more than before."""
    if table == usage.PODS:
        if old is None:
            return part is None
        return part == "resize" or (part is None and usage.has_deadline(new) != usage.has_deadline(old))
    if part is not None:
        return part == "status" and table == usage.CLAIMS and old is not None
    return old is None or table in (usage.SERVICES, usage.CLAIMS)


def refusal(call: Call, obj: Object, message: str) -> ApiError:
    """403 as the server's own admission says it: `pods "a" is forbidden: ...`."""
    resource, name = call.served.resource, obj["metadata"].get("name") or call.name
    details = {"name": name, "kind": resource.plural} | ({"group": resource.group} if resource.group else {})
    return ApiError(403, "Forbidden", f'{resource.group_plural} "{name}" is forbidden: {message}', details)
