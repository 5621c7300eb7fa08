"""DaemonSet: one pod on every node that its template's nodeSelector fits."""

from __future__ import annotations

import math

from sampan.cluster.controllers import pods, revisions
from sampan.cluster.controllers.scheduler import fits
from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, is_deleting, key_of, labels_of, name_of, uid_of
from sampan.operator import Controller, Maps, Owns, Result, Watch

TOLERATED = [
    {"key": f"node.kubernetes.io/{taint}", "operator": "Exists", "effect": effect}
    for taint, effect in (
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    )
]


class DaemonSetController(Controller):
    name, resource = "daemonset", kinds.DAEMON_SET

    def watches(self) -> tuple[Watch, ...]:
        self.sets = self.cache.informer(kinds.DAEMON_SET)
        self.pods = self.cache.informer(kinds.POD, indexes=pods.INDEXES)
        self.nodes = self.cache.informer(kinds.NODE)
        self.revisions = self.cache.informer(kinds.CONTROLLER_REVISION)
        return Owns(kinds.POD), Maps(kinds.NODE, lambda node: [key_of(s) for s in self.sets.list()])

    async def reconcile(self, key: str) -> Result | None:
        owner = self.sets.get(key)
        if owner is None:
            return None
        own = await pods.claim(self.client, kinds.POD, owner, self.pods)
        if is_deleting(owner):
            return None
        history = await revisions.sync(self.client, self.revisions, owner, "")
        template = {**owner["spec"]["template"].get("spec", {})}
        nodes = [name_of(node) for node in self.nodes.list() if fits(template, node, daemon=True)]
        by_node: dict[str, list[Object]] = {}
        for pod in own:
            by_node.setdefault((pod.get("spec") or {}).get("nodeName") or "", []).append(pod)
        for node in nodes:
            await self._node(owner, node, by_node.get(node, []), history)
        for node, extra in by_node.items():
            if node not in nodes:
                for pod in extra:
                    await self._delete(owner, pod)
        await self._roll(owner, nodes, by_node, history)
        wait = await self._status(owner, nodes, history)
        live = {history.update, *(labels_of(p).get(revisions.LABEL, "") for p in own)}
        await revisions.prune(self.client, self.revisions, owner, live)
        return Result(wait) if math.isfinite(wait) else None

    async def _node(self, owner: Object, node: str, present: list[Object], history: revisions.Revisions) -> None:
        """Exactly one live pod; a finished one makes room for another when it is gone."""
        for pod in [pod for pod in present if pods.phase(pod) in pods.FINISHED]:
            await self._delete(owner, pod)
        live = [pod for pod in present if pods.phase(pod) not in pods.FINISHED]
        for pod in sorted((p for p in live if not is_deleting(p)), key=pods.created)[1:]:
            await self._delete(owner, pod)
        if any(self.pods.get(key_of(pod)) is not None for pod in present):
            return
        labels = {revisions.LABEL: history.update}
        pod = pods.from_template(owner["spec"]["template"], owner, generateName=f"{name_of(owner)}-", labels=labels)
        pod["spec"]["nodeName"] = node
        pod["spec"]["tolerations"] = [*(pod["spec"].get("tolerations") or ()), *TOLERATED]
        try:
            made = await self.client.create(kinds.POD, pod)
        except ApiError as error:
            self.events.warning(owner, "FailedCreate", f"Error creating: {error}")
            raise
        self.events.normal(owner, "SuccessfulCreate", f"Created pod: {name_of(made)}")

    async def _roll(
        self, owner: Object, nodes: list[str], by_node: dict[str, list[Object]], history: revisions.Revisions
    ) -> None:
        strategy = owner["spec"].get("updateStrategy") or {}
        if strategy.get("type") == "OnDelete":
            return
        budget = pods.scaled((strategy.get("rollingUpdate") or {}).get("maxUnavailable", 1), len(nodes), up=True)
        minimum = owner["spec"].get("minReadySeconds") or 0
        live = [p for n in nodes for p in by_node.get(n, []) if pods.is_active(p)]
        up = [p for p in live if pods.until_available(p, minimum) == 0]
        budget -= len(nodes) - len(up)
        for pod in live:
            if labels_of(pod).get(revisions.LABEL) == history.update:
                continue
            if pod in up:
                if budget <= 0:
                    continue
                budget -= 1
            await self._delete(owner, pod)

    async def _delete(self, owner: Object, pod: Object) -> None:
        if not is_deleting(pod) and await pods.delete(self.client, kinds.POD, pod):
            self.events.normal(owner, "SuccessfulDelete", f"Deleted pod: {name_of(pod)}")

    async def _status(self, owner: Object, nodes: list[str], history: revisions.Revisions) -> float:
        owner = self.sets.get(key_of(owner)) or owner
        own = [p for p in self.pods.by_index("owner", uid_of(owner)) if pods.is_active(p)]
        good = [p for p in own if p["spec"].get("nodeName") in nodes]
        waits = [pods.until_available(p, owner["spec"].get("minReadySeconds") or 0) for p in good]
        available = sum(wait == 0 for wait in waits)
        status: Object = {
            "currentNumberScheduled": len({p["spec"]["nodeName"] for p in good}),
            "desiredNumberScheduled": len(nodes),
            "numberMisscheduled": len(own) - len(good),
            "numberReady": sum(map(math.isfinite, waits)),
            **pods.counts(
                updatedNumberScheduled=sum(labels_of(p).get(revisions.LABEL) == history.update for p in good),
                numberAvailable=available,
                numberUnavailable=max(0, len(nodes) - available),
                collisionCount=history.collisions,
            ),
            "observedGeneration": owner["metadata"].get("generation", 1),
        }
        await pods.write_status(self.client, kinds.DAEMON_SET, owner, status)
        return min((wait for wait in waits if wait > 0), default=math.inf)
