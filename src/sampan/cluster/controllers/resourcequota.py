"""ResourceQuota status: what the objects of its namespace use. Refusing what is too much is admission's part."""

from __future__ import annotations

from sampan.cluster.apiserver.admission import usage
from sampan.cluster.controllers import pods
from sampan.cluster.controllers.everything import FollowsEverything
from sampan.kube import kinds
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object, is_deleting, key_of, namespace_of
from sampan.operator import Result, Watch

GATHER = 0.02
"""Seconds in which changes of a namespace gather before its quotas are counted anew."""
LEAVING = 5.0
"""Seconds until pods that are going are looked at again: one that is overdue counts no more."""


class ResourceQuotaController(FollowsEverything):
    name, resource = "resourcequota", kinds.RESOURCE_QUOTA

    def watches(self) -> tuple[Watch, ...]:
        self.quotas = self.cache.informer(kinds.RESOURCE_QUOTA)
        return ()

    def content(self, resource: Resource, old: Object | None, new: Object | None) -> None:
        obj = new or old
        namespace = namespace_of(obj) if obj is not None else None
        if not namespace or resource is kinds.RESOURCE_QUOTA:
            return
        table = _table(resource)
        for quota in self.quotas.list(namespace):
            if not any(usage.table_for(name) == table for name in quota["spec"].get("hard") or ()):
                continue
            if old is None or new is None or usage.usage(table, old) != usage.usage(table, new):
                self.queue.add_after(key_of(quota), GATHER)

    async def reconcile(self, key: str) -> Result | None:
        quota = self.quotas.get(key)
        if quota is None:
            return None
        hard = quota["spec"].get("hard") or {}
        wanted = {usage.table_for(name) for name in hard}
        namespace = namespace_of(quota)
        objects = {
            _table(informer.resource): informer.list(namespace)
            for informer in self.everything.informers()
            if _table(informer.resource) in wanted
        }
        status: Object = {"hard": dict(hard), "used": usage.total(quota, objects)} if hard else {}
        await pods.write_status(self.client, kinds.RESOURCE_QUOTA, quota, status)
        return Result(LEAVING) if any(map(is_deleting, objects.get(usage.PODS, ()))) else None


def _table(resource: Resource) -> str:
    return f"{resource.group}/{resource.plural}"
