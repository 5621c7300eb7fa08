"""HorizontalPodAutoscaler (autoscaling/v2): replicas follow the measured use of CPU and memory.

Metrics are of type Resource and ContainerResource; others are refused in the ScalingActive condition. `scaling` has the
arithmetic; here are the looking, the deciding and the saying.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct, field

from sampan.cluster.controllers import scaling
from sampan.cluster.controllers.everything import Everything
from sampan.cluster.controllers.pods import write_status
from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object, key_of, labels_of, name_of, namespace_of, now
from sampan.kube.quantity import canonical, milli
from sampan.kube.selectors import parse_labels
from sampan.operator import Controller, Result, Watch
from sampan.operator.cache import Cache
from sampan.operator.conditions import put
from sampan.operator.events import Recorder

AUTOSCALER = kinds.HORIZONTAL_POD_AUTOSCALER


class Memory(Struct):
    """What is remembered of one autoscaler between rounds, in loop time."""

    recommendations: list[tuple[float, int]] = field(default_factory=list)
    changes: list[scaling.Change] = field(default_factory=list)


class Round(Struct):
    """One look at one autoscaler, gathering what its status will say."""

    autoscaler: Object
    conditions: list[Object]
    current: int = 0
    metrics: list[Object] = field(default_factory=list)

    def say(self, type: str, status: bool, reason: str, message: str) -> None:
        self.conditions = put(self.conditions, type, status, reason, message)


class AutoscalerController(Controller):
    """Looks every `period` seconds. `usage` gives what is measured now."""

    name, resource = "horizontal-pod-autoscaler", AUTOSCALER
    component = "horizontal-pod-autoscaler"

    def __init__(self, everything: Everything, usage: Callable[[], scaling.Measured], *, period: float = 5.0) -> None:
        super().__init__()
        self.everything, self.usage, self.period = everything, usage, period
        self.memories: dict[str, Memory] = {}

    def bind(self, cache: Cache, events: Recorder) -> None:
        self.everything.bind(cache)
        super().bind(cache, events)

    def watches(self) -> tuple[Watch, ...]:
        self.autoscalers = self.cache.informer(AUTOSCALER)
        self.pods = self.cache.informer(kinds.POD)
        return ()

    def concerns(self, old: Object | None, new: Object | None) -> bool:
        """Its own status writes do not bring the next round forward."""
        return old is None or new is None or old["spec"] != new["spec"]

    async def reconcile(self, key: str) -> Result | None:
        autoscaler = self.autoscalers.get(key)
        if autoscaler is None:
            self.memories.pop(key, None)
            return None
        status = autoscaler.get("status") or {}
        look = Round(autoscaler, list(status.get("conditions") or ()))
        target = autoscaler["spec"]["scaleTargetRef"]
        resource = self.everything.find(target.get("apiVersion") or "", target["kind"])
        try:
            if resource is None:
                raise ApiError(404, "NotFound", f"no matches for kind {target['kind']} in {target.get('apiVersion')}")
            scale = await self.client.get(resource, target["name"], namespace_of(autoscaler), subresource="scale")
        except ApiError as error:
            text = f"the HPA controller was unable to get the target's current scale: {error}"
            look.say("AbleToScale", False, "FailedGetScale", text)
            self.events.warning(autoscaler, "FailedGetScale", str(error))
            await self._write(look, status.get("desiredReplicas", 0), scaled=False)
            return Result(self.period)
        look.say(
            "AbleToScale", True, "SucceededGetScale", "the HPA controller was able to get the target's current scale"
        )
        desired, scaled = await self._round(look, resource, scale)
        await self._write(look, desired, scaled=scaled)
        return Result(self.period)

    async def _round(self, look: Round, resource: Resource, scale: Object) -> tuple[int, bool]:
        """(desired replicas, whether the target was rescaled)."""
        spec, memory = look.autoscaler["spec"], self.memories.setdefault(key_of(look.autoscaler), Memory())
        minimum, maximum = spec.get("minReplicas", 1), spec["maxReplicas"]
        present = (scale.get("spec") or {}).get("replicas") or 0
        look.current = (scale.get("status") or {}).get("replicas") or 0
        at = asyncio.get_running_loop().time()
        if not memory.recommendations:
            memory.recommendations.append((at, present))
        if present == 0 and minimum != 0:
            text = "scaling is disabled since the replica count of the target is zero"
            look.say("ScalingActive", False, "ScalingDisabled", text)
            return 0, False
        if present > maximum or present < minimum:
            bound = maximum if present > maximum else minimum
            which = "max" if present > maximum else "min"
            reason = f"Current number of replicas {'above' if which == 'max' else 'below'} Spec.{which.title()}Replicas"
            return await self._rescale(look, resource, present, bound, reason=reason, at=at)
        try:
            proposal = self._propose(look, scale, present)
        except scaling.MetricError as error:
            text = f"the HPA was unable to compute the replica count: {error}"
            look.say("ScalingActive", False, error.reason, text)
            self.events.warning(look.autoscaler, error.reason, str(error))
            return (look.autoscaler.get("status") or {}).get("desiredReplicas", present), False
        desired = self._bound(look, present, proposal.replicas, memory, at)
        if desired == present:
            return desired, False
        way = "above" if desired > present else "below"
        reason = f"{proposal.what} {way} target" if desired > present else "All metrics below target"
        return await self._rescale(look, resource, present, desired, reason=reason, at=at)

    def _propose(self, look: Round, scale: Object, present: int) -> scaling.Proposal:
        """The largest proposal of all metrics. When one fails, the others may only scale up."""
        selector = parse_labels((scale.get("status") or {}).get("selector") or "")
        if not selector:
            text = "selector is required"
            look.say("ScalingActive", False, "InvalidSelector", "the HPA target's scale is missing a selector")
            raise scaling.MetricError("InvalidSelector", text)
        namespace = namespace_of(look.autoscaler)
        chosen = [pod for pod in self.pods.list(namespace) if selector.matches(labels_of(pod))]
        measured = self.usage()
        best: scaling.Proposal | None = None
        failure: scaling.MetricError | None = None
        for metric in look.autoscaler["spec"].get("metrics") or ():
            try:
                proposal = self._metric(look.autoscaler, metric, chosen, measured, present)
            except scaling.MetricError as error:
                failure = failure or error
                continue
            look.metrics.append(proposal.current)
            if best is None or proposal.replicas > best.replicas:
                best = proposal
        if best is None or (failure is not None and best.replicas < present):
            raise failure or scaling.MetricError("InvalidMetricSourceType", "no metric is given")
        text = f"the HPA was able to successfully calculate a replica count from {best.what}"
        look.say("ScalingActive", True, "ValidMetricFound", text)
        return best

    def _metric(
        self, autoscaler: Object, metric: Object, chosen: list[Object], measured: scaling.Measured, present: int
    ) -> scaling.Proposal:
        source = {"Resource": "resource", "ContainerResource": "containerResource"}.get(metric["type"])
        if source is None:
            text = f"metrics of type {metric['type']} are not served by this cluster: use Resource or ContainerResource"
            raise scaling.MetricError(f"FailedGet{metric['type']}Metric", text)
        given = metric[source]
        name, container, target = given["name"], given.get("container"), given["target"]
        if name not in ("cpu", "memory"):
            raise scaling.MetricError(
                "FailedGetResourceMetric", f"resource {name!r} is not measured: use cpu or memory"
            )
        pods = scaling.sort_pods(chosen, name, container, measured)
        up = float(scaling.rules(autoscaler, "scaleUp").get("tolerance", scaling.TOLERANCE))
        down = float(scaling.rules(autoscaler, "scaleDown").get("tolerance", scaling.TOLERANCE))
        average = sum(pods.use.values()) // max(1, len(pods.use))
        value: Object = {"averageValue": canonical(f"{average}m") if name == "cpu" else canonical(average // 1000)}
        what = f"{name} container resource" if container else f"{name} resource"
        if target["type"] == "Utilization":
            percent = target["averageUtilization"]
            asked = scaling.requests(chosen, name, container)
            wanted = {pod: round(request * percent / 100) for pod, request in asked.items()}
            replicas, ratio = scaling.replicas_for(pods, wanted, present, up, down)
            value["averageUtilization"] = int(ratio * percent)
            what += " utilization (percentage of request)"
        else:
            goal = milli(target["averageValue"])
            wanted = {name_of(pod): goal for pod in chosen}
            replicas, _ = scaling.replicas_for(pods, wanted, present, up, down)
        said = {"name": name, "current": value, **({"container": container} if container else {})}
        return scaling.Proposal(replicas, what, {"type": metric["type"], source: said})

    def _bound(self, look: Round, present: int, desired: int, memory: Memory, at: float) -> int:
        minimum, maximum = look.autoscaler["spec"].get("minReplicas", 1), look.autoscaler["spec"]["maxReplicas"]
        up, down = scaling.rules(look.autoscaler, "scaleUp"), scaling.rules(look.autoscaler, "scaleDown")
        steady = scaling.stabilize(present, desired, memory.recommendations, at, up=up, down=down)
        window = max(up["stabilizationWindowSeconds"], down["stabilizationWindowSeconds"])
        memory.recommendations = [r for r in memory.recommendations if r[0] > at - window] + [(at, desired)]
        longest = max(p["periodSeconds"] for rule in (up, down) for p in rule["policies"])
        memory.changes = [change for change in memory.changes if change.at > at - longest]
        if steady > desired:
            text = "recent recommendations were higher than current one, applying the highest recent recommendation"
            look.say("AbleToScale", True, "ScaleDownStabilized", text)
        elif steady < desired:
            text = "recent recommendations were lower than current one, applying the lowest recent recommendation"
            look.say("AbleToScale", True, "ScaleUpStabilized", text)
        else:
            look.say("AbleToScale", True, "ReadyForNewScale", "recommended size matches current size")
        rated, reason = steady, ""
        if steady > present:
            rated = min(steady, scaling.limit_up(present, memory.changes, at, up))
            reason = "ScaleUpLimit"
        elif steady < present:
            rated = max(steady, scaling.limit_down(present, memory.changes, at, down))
            reason = "ScaleDownLimit"
        bounded = int(min(max(rated, minimum), maximum))
        if bounded < rated:
            text = "the desired replica count is more than the maximum replica count"
            look.say("ScalingLimited", True, "TooManyReplicas", text)
        elif bounded > rated:
            text = "the desired replica count is less than the minimum replica count"
            look.say("ScalingLimited", True, "TooFewReplicas", text)
        elif rated != steady:
            pace = "increasing faster" if reason == "ScaleUpLimit" else "decreasing faster"
            look.say("ScalingLimited", True, reason, f"the desired replica count is {pace} than the maximum scale rate")
        else:
            text = "the desired count is within the acceptable range"
            look.say("ScalingLimited", False, "DesiredWithinRange", text)
        return bounded

    async def _rescale(
        self, look: Round, resource: Resource, present: int, desired: int, *, reason: str, at: float
    ) -> tuple[int, bool]:
        target, namespace = look.autoscaler["spec"]["scaleTargetRef"]["name"], namespace_of(look.autoscaler)
        try:
            await self.client.patch(resource, target, namespace, {"spec": {"replicas": desired}}, subresource="scale")
        except ApiError as error:
            text = f"the HPA controller was unable to update the target scale: {error}"
            look.say("AbleToScale", False, "FailedUpdateScale", text)
            self.events.warning(
                look.autoscaler, "FailedRescale", f"New size: {desired}; reason: {reason}; error: {error}"
            )
            return present, False
        text = f"the HPA controller was able to update the target scale to {desired}"
        look.say("AbleToScale", True, "SucceededRescale", text)
        self.events.normal(look.autoscaler, "SuccessfulRescale", f"New size: {desired}; reason: {reason}")
        self.memories[key_of(look.autoscaler)].changes.append(scaling.Change(at, desired - present))
        return desired, True

    async def _write(self, look: Round, desired: int, *, scaled: bool) -> None:
        autoscaler = self.autoscalers.get(key_of(look.autoscaler)) or look.autoscaler
        old = autoscaler.get("status") or {}
        when = now() if scaled else old.get("lastScaleTime")
        status: Object = {
            "observedGeneration": autoscaler["metadata"].get("generation", 1),
            "currentReplicas": look.current,
            "desiredReplicas": desired,
            **({"lastScaleTime": when} if when else {}),
            **({"currentMetrics": look.metrics} if look.metrics else {}),
            "conditions": look.conditions,
        }
        try:
            await write_status(self.client, AUTOSCALER, autoscaler, status)
        except ApiError as error:
            if error.code not in (404, 409):
                raise
