"""Nodes that are cordoned bear the taint that says so (node lifecycle's part of TaintNodesByCondition)."""

from __future__ import annotations

from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, now
from sampan.operator import Controller, Result

UNSCHEDULABLE = "node.kubernetes.io/unschedulable"


class NodeTaints(Controller):
    name, resource = "node-taints", kinds.NODE
    workers = 1

    def concerns(self, old: Object | None, new: Object | None) -> bool:
        return new is not None and _cordoned(new) != _tainted(new)

    async def reconcile(self, key: str) -> Result | None:
        node = self.cache.informer(kinds.NODE).get(key)
        if node is None or _cordoned(node) == _tainted(node):
            return None
        others = [taint for taint in node["spec"].get("taints") or () if taint["key"] != UNSCHEDULABLE]
        own = [{"key": UNSCHEDULABLE, "effect": "NoSchedule", "timeAdded": now()}] if _cordoned(node) else []
        # Taints are one list to a merge patch: only onto the node they were read of.
        patch = {
            "metadata": {"resourceVersion": node["metadata"]["resourceVersion"]},
            "spec": {"taints": [*others, *own] or None},
        }
        try:
            await self.client.patch(kinds.NODE, key, None, patch)
        except ApiError as error:
            if error.code not in (404, 409):  # the newer one comes by
                raise
        return None


def _cordoned(node: Object) -> bool:
    return bool((node.get("spec") or {}).get("unschedulable"))


def _tainted(node: Object) -> bool:
    return any(taint["key"] == UNSCHEDULABLE for taint in (node.get("spec") or {}).get("taints") or ())
