"""Pod clean-up: pods of nodes that no longer exist, and the oldest finished pods that nobody owns, beyond a number."""

from __future__ import annotations

from sampan.cluster.controllers import pods
from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, controller_of, is_deleting, key_of, name_of, namespace_of, uid_of
from sampan.operator import Controller, Maps, Result, Watch


class PodCleaner(Controller):
    """Keeps at most `keep` finished pods without controller, as `--terminated-pod-gc-threshold` does."""

    name, resource = "pod-cleaner", kinds.POD
    workers = 1

    def __init__(self, *, keep: int = 500) -> None:
        super().__init__()
        self.keep = keep

    def watches(self) -> tuple[Watch, ...]:
        self.pods = self.cache.informer(kinds.POD, indexes={"finished": _finished})
        self.nodes = self.cache.informer(kinds.NODE)
        return (Maps(kinds.NODE, self._lost),)

    def concerns(self, old: Object | None, new: Object | None) -> bool:
        return new is not None and (pods.phase(new) in pods.FINISHED or is_deleting(new))

    def _lost(self, node: Object) -> list[str]:
        if self.nodes.get(name_of(node)) is not None:
            return []
        return [key_of(p) for p in self.pods.list() if (p.get("spec") or {}).get("nodeName") == name_of(node)]

    async def reconcile(self, key: str) -> Result | None:
        pod = self.pods.get(key)
        if pod is not None:
            node = (pod.get("spec") or {}).get("nodeName")
            lost = node is not None and node != "" and len(self.nodes) > 0 and self.nodes.get(node) is None
            if lost or (not node and is_deleting(pod)):
                await self._delete(pod)
        finished = sorted(self.pods.by_index("finished", ""), key=pods.created)
        for old in finished[: max(0, len(finished) - self.keep)]:
            await self._delete(old)
        return None

    async def _delete(self, pod: Object) -> None:
        try:
            await self.client.delete(kinds.POD, name_of(pod), namespace_of(pod), grace_seconds=0, uid=uid_of(pod))
        except ApiError as error:
            if error.code not in (404, 409):
                raise


def _finished(pod: Object) -> list[str]:
    return [""] if pods.phase(pod) in pods.FINISHED and controller_of(pod) is None and not is_deleting(pod) else []
