"""Aggregated ClusterRoles: their rules are those of every role their selectors choose."""

from __future__ import annotations

from sampan.cluster.authorization.rbac import aggregated
from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, name_of
from sampan.operator import Controller, Maps, Result, Watch

MANAGER = "clusterrole-aggregation-controller"


class RoleAggregation(Controller):
    name, resource = MANAGER, kinds.CLUSTER_ROLE
    workers = 1

    def watches(self) -> tuple[Watch, ...]:
        self.roles = self.cache.informer(kinds.CLUSTER_ROLE)
        return (Maps(kinds.CLUSTER_ROLE, self._aggregating),)

    def _aggregating(self, _: Object) -> list[str]:
        return [name_of(role) for role in self.roles.list() if role.get("aggregationRule")]

    def concerns(self, old: Object | None, new: Object | None) -> bool:
        return new is not None and bool(new.get("aggregationRule"))

    async def reconcile(self, key: str) -> Result | None:
        role = self.roles.get(key)
        if role is None or not role.get("aggregationRule"):
            return None
        for changed in aggregated(self.roles.list()):
            if name_of(changed) != key:
                continue
            wanted: Object = {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRole",
                "metadata": {"name": key},
                "rules": changed["rules"],
            }
            try:
                await self.client.apply(kinds.CLUSTER_ROLE, wanted, field_manager=MANAGER, force=True)
            except ApiError as error:
                if error.code not in (404, 409):
                    raise
        return None
