"""The server's own admission plugins, those of upstream's default set that change or refuse what users write.

`mutate` runs before webhooks and policies see an object, and again when they changed it; `validate` after the kind's
own rules, with the quota last of all. Not here: NodeRestriction (the kubelet is part of this process), taints by
condition (the one node is ready when it is there), and plugins that upstream leaves off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.cluster.apiserver.admission import defaults, limits
from sampan.cluster.apiserver.admission.podsecurity import PodSecurity
from sampan.cluster.apiserver.admission.quota import Quotas, refusal
from sampan.cluster.apiserver.call import Call
from sampan.cluster.apiserver.kind import Kind
from sampan.kube import kinds
from sampan.kube.errors import forbidden
from sampan.kube.objects import Object

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

RANGES = "/limitranges"
KEPT = {"default", "kube-system", "kube-public"}
"""Namespaces that cannot be deleted."""


class Builtin:
    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.quotas = Quotas(server)
        self.pod_security = PodSecurity(server)

    def _ranges(self, call: Call) -> list[Object]:
        table = self.server.store.table(RANGES)
        if not table.entries or not call.namespace:
            return []
        return self.server.peek_all(kinds.LIMIT_RANGE, call.namespace)

    def mutate(self, call: Call, new: Object, old: Object | None) -> None:
        """Raises ApiError 403."""
        resource = call.served.resource
        if old is not None or call.subresource is not None:
            return
        if resource is kinds.POD and (ranges := self._ranges(call)):
            limits.apply_defaults(ranges, new)
        change = defaults.CHANGES.get((resource.group, resource.kind))
        if change is not None:
            change(call, new, self.server)

    def validate(self, call: Call, new: Object, old: Object | None) -> None:
        """Raises ApiError 403, 422."""
        resource = call.served.resource
        bounded = not resource.group and limits.applies(resource.kind, call.subresource, create=old is None)
        if bounded and not (old and old["metadata"].get("deletionTimestamp")):
            for found in limits.faults(self._ranges(call), resource.kind, new):
                raise refusal(call, new, found[0] if len(found) == 1 else f"[{', '.join(found)}]")
        check = defaults.CHECKS.get((resource.group, resource.kind))
        if check is not None and call.subresource is None:
            check(call, new, old, self.server)
        self.pod_security.check(call, new, old)

    @staticmethod
    def deletion(kind: Kind, name: str) -> None:
        """Raises ApiError 403 for what must not go."""
        resource = kind.resource
        if resource is kinds.NAMESPACE and name in KEPT:
            raise forbidden(f'namespaces "{name}" is forbidden: this namespace may not be deleted', "namespaces", name)
        if resource is kinds.PRIORITY_CLASS and name in defaults.SYSTEM_PRIORITIES:
            why = "this is a system priority class and cannot be deleted"
            error = forbidden(f'{resource.group_plural} "{name}" is forbidden: {why}', resource.plural, name)
            error.details["group"] = resource.group
            raise error
