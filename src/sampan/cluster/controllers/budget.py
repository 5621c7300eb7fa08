"""PodDisruptionBudget status: how many pods may be evicted now."""

from __future__ import annotations

from sampan.cluster.controllers import pods
from sampan.kube import kinds
from sampan.kube.objects import Object, controller_of, key_of, labels_of, namespace_of, parse_time
from sampan.kube.selectors import LabelSelector, from_label_selector
from sampan.operator import Controller, Maps, Result, Watch
from sampan.operator.conditions import put

SCALES = (kinds.DEPLOYMENT, kinds.REPLICA_SET, kinds.STATEFUL_SET)
EVICTION_SECONDS = 120.0
"""An eviction granted but not seen as a deletion for so long is forgotten."""


class DisruptionController(Controller):
    name, resource = "disruption", kinds.POD_DISRUPTION_BUDGET
    workers = 1

    def watches(self) -> tuple[Watch, ...]:
        self.budgets = self.cache.informer(kinds.POD_DISRUPTION_BUDGET)
        self.pods = self.cache.informer(kinds.POD)
        self.owners = {resource.kind: self.cache.informer(resource) for resource in SCALES}
        return (Maps(kinds.POD, self._covering), *(Maps(resource, self._beside) for resource in SCALES))

    def _covering(self, pod: Object) -> list[str]:
        present = self.budgets.list(namespace_of(pod))
        return [key_of(b) for b in present if _selector(b).matches(labels_of(pod))]

    def _beside(self, owner: Object) -> list[str]:
        return [key_of(budget) for budget in self.budgets.list(namespace_of(owner))]

    async def reconcile(self, key: str) -> Result | None:
        budget = self.budgets.get(key)
        if budget is None:
            return None
        selector = _selector(budget)
        chosen = [p for p in self.pods.list(namespace_of(budget)) if selector.matches(labels_of(p))]
        chosen = [p for p in chosen if pods.phase(p) not in pods.FINISHED]
        expected, desired = self._expected(budget, chosen)
        old = budget.get("status") or {}
        present = {p["metadata"]["name"]: p for p in chosen if pods.is_active(p)}
        disrupted = {
            name: when
            for name, when in (old.get("disruptedPods") or {}).items()
            if name in present and pods.age(when) < EVICTION_SECONDS
        }
        healthy = sum(pods.is_ready(pod) for name, pod in present.items() if name not in disrupted)
        allowed = max(0, healthy - desired) if expected else 0
        reason = "SufficientPods" if allowed else "InsufficientPods"
        generation = budget["metadata"].get("generation", 1)
        status: Object = {
            "observedGeneration": generation,
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "expectedPods": expected,
            "disruptionsAllowed": allowed,
            **({"disruptedPods": disrupted} if disrupted else {}),
            "conditions": put(
                old.get("conditions"), "DisruptionAllowed", allowed > 0, reason, "", observed_generation=generation
            ),
        }
        await pods.write_status(self.client, kinds.POD_DISRUPTION_BUDGET, budget, status)
        oldest = min((parse_time(when) for when in disrupted.values()), default=None)
        return Result(EVICTION_SECONDS) if oldest else None

    def _expected(self, budget: Object, chosen: list[Object]) -> tuple[int, int]:
        """(pods expected, pods that must stay healthy). Percentages and maxUnavailable count what the pods'
        controllers want."""
        spec = budget["spec"]
        minimum, maximum = spec.get("minAvailable"), spec.get("maxUnavailable")
        if maximum is None and isinstance(minimum, int):
            return len(chosen), minimum
        expected = self._wanted(chosen)
        if maximum is not None:
            return expected, max(0, expected - pods.scaled(maximum, expected, up=True))
        return expected, pods.scaled(minimum, expected, up=True)

    def _wanted(self, chosen: list[Object]) -> int:
        scales: dict[str, int] = {}
        for pod in chosen:
            owner = self._owner(pod)
            if owner is None:
                scales[pod["metadata"]["uid"]] = 1
                continue
            parent = self._owner(owner) or owner
            scales[parent["metadata"]["uid"]] = parent["spec"].get("replicas", 1)
        return sum(scales.values())

    def _owner(self, obj: Object) -> Object | None:
        reference = controller_of(obj)
        informer = self.owners.get(reference["kind"]) if reference else None
        found = informer.get(f"{namespace_of(obj)}/{reference['name']}") if informer and reference else None
        # a custom kind may be named as a built-in one
        return found if found and reference and found["metadata"]["uid"] == reference["uid"] else None


def _selector(budget: Object) -> LabelSelector:
    return from_label_selector(budget["spec"].get("selector") or {})
