"""The parts of an object with a path of their own: scale, binding, eviction, token, finalize, log, and pod changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sampan.cluster.apiserver import decode
from sampan.cluster.apiserver.call import Answer, Call
from sampan.cluster.apiserver.carry import POD_PARTS
from sampan.cluster.apiserver.decode import json_copy
from sampan.cluster.apiserver.update import STALE
from sampan.cluster.runtime import LogOptions
from sampan.cluster.store import Entry
from sampan.kube import kinds
from sampan.kube.errors import ApiError, Cause, bad_request, conflict, invalid, method_not_allowed
from sampan.kube.objects import Object, now, parse_time

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer


class Subresources:
    def __init__(self, server: ApiServer) -> None:
        self.server = server

    async def handle(self, call: Call) -> Answer:
        name = call.subresource or ""
        verbs = kinds.SUBRESOURCE_VERBS.get(name, ("get", "patch", "update"))
        if call.verb not in verbs:
            raise method_not_allowed(call.verb, f"{call.served.resource.plural}/{name}")
        special = getattr(self, f"_{name}", None)
        if special is not None:
            answer: Answer = await special(call)
            return answer
        if name == "status" or name in POD_PARTS:
            return await self._part(call)
        raise ApiError(501, "NotImplemented", f"{call.served.resource.plural}/{name} is not served by this cluster")

    async def _part(self, call: Call) -> Answer:
        """GET, PUT and PATCH of the object through a subresource that lets only a part of it change."""
        if call.verb == "get":
            return self.server.reader.get(call)
        if call.verb == "patch":
            return await self.server.writer.patch(call)
        return await self.server.writer.update(call)

    async def _scale(self, call: Call) -> Answer:
        from sampan.cluster.apiserver.scale import answer

        return await answer(self.server, call)

    # -- pods

    async def _binding(self, call: Call) -> Answer:
        target = (decode.read_part(call).get("target") or {}).get("name")
        if not isinstance(target, str) or not target:
            raise invalid("Binding", call.name, [Cause("target.name", "Required value", "FieldValueRequired")])

        def change(pod: Object) -> Object:
            if pod["metadata"].get("deletionTimestamp"):
                raise conflict(
                    "pods/binding", call.name, f"pod {call.name} is being deleted, cannot be assigned to a host"
                )
            if pod["spec"].get("nodeName"):
                message = f"pod {call.name} is already assigned to node {pod['spec']['nodeName']!r}"
                raise conflict("pods/binding", call.name, message)
            pod["spec"]["nodeName"] = target
            conditions = [c for c in pod["status"].get("conditions") or () if c["type"] != "PodScheduled"]
            conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": now()})
            pod["status"] = {**pod["status"], "conditions": conditions}
            return pod

        await self.server.writer.change(call, change)
        return Answer(201, obj={"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})

    async def _eviction(self, call: Call) -> Answer:
        given = decode.read_part(call)
        options, named = given.get("deleteOptions") or {}, (given.get("metadata") or {}).get("name")
        pod = self.server.reader.entry(call).object
        if named not in {None, "", call.name}:
            raise bad_request("name in URL does not match name in Eviction object")
        if options.get("dryRun"):
            call.query = {**call.query, "dryRun": "All"}
        phase = (pod.get("status") or {}).get("phase")
        if phase not in {"Succeeded", "Failed", "Pending"} and not pod["metadata"].get("deletionTimestamp"):
            await self._spend_disruption(call, pod)
        await self.server.deleter.remove(call, call.served, call.key, options)
        return Answer(201, obj={"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})

    async def _spend_disruption(self, call: Call, pod: Object) -> None:
        """Take one from the budget that covers the pod. Raises ApiError 429 when there is none left."""
        from sampan.kube.selectors import from_label_selector

        labels = pod["metadata"].get("labels")
        covering = [
            budget
            for budget in self.server.peek_all(kinds.POD_DISRUPTION_BUDGET, call.namespace)
            if from_label_selector((budget.get("spec") or {}).get("selector")).matches(labels)
        ]
        if len(covering) > 1:
            raise ApiError(500, "", "This pod has more than one PodDisruptionBudget, which the eviction"
                           " subresource does not support.")  # fmt: skip
        for budget in covering:
            name = budget["metadata"]["name"]

            def spend(current: Entry | None, name: str = name) -> Object | None:
                if current is None:
                    return None
                obj: Object = json_copy(current.object)
                status = obj.setdefault("status", {})
                stale = status.get("observedGeneration", 0) < obj["metadata"].get("generation", 0)
                if stale or int(status.get("disruptionsAllowed") or 0) <= 0:
                    needs = status.get("desiredHealthy", 0), status.get("currentHealthy", 0)
                    cause = {
                        "reason": "DisruptionBudget",
                        "message": f"The disruption budget {name} needs {needs[0]} healthy pods and has {needs[1]}"
                        " currently",
                    }
                    message = "Cannot evict pod as it would violate the pod's disruption budget."
                    raise ApiError(429, "TooManyRequests", message, {"causes": [cause]})
                status["disruptionsAllowed"] -= 1
                status.setdefault("disruptedPods", {})[pod["metadata"]["name"]] = now()
                return obj

            if not call.dry_run:
                await self.server.store.write("policy/poddisruptionbudgets", f"{call.namespace}/{name}", spend)

    async def _log(self, call: Call) -> Answer:
        runtime = self.server.runtime
        pod = self.server.reader.entry(call).object
        if runtime is None:
            raise ApiError(503, "ServiceUnavailable", "no kubelet is running")
        since: datetime | None = None
        if call.query.get("sinceSeconds"):
            since = datetime.now(UTC) - timedelta(seconds=min(call.number("sinceSeconds"), 10**9))
        elif call.query.get("sinceTime"):
            try:
                since = parse_time(call.query["sinceTime"])
            except ValueError:
                raise bad_request(f"invalid sinceTime {call.query['sinceTime']!r}") from None
        options = LogOptions(
            container=call.query.get("container") or None,
            follow=call.flag("follow"),
            previous=call.flag("previous"),
            timestamps=call.flag("timestamps"),
            tail_lines=call.number("tailLines") if call.query.get("tailLines") else None,
            limit_bytes=call.number("limitBytes") if call.query.get("limitBytes") else None,
            since=since,
        )
        names = [c["name"] for part in ("containers", "initContainers", "ephemeralContainers")
                 for c in pod["spec"].get(part) or ()]  # fmt: skip
        if options.container and options.container not in names:
            raise bad_request(f"container {options.container} is not valid for pod {call.name}")
        return Answer(chunks=runtime.logs(call.namespace or "", call.name, options), content_type="text/plain")

    # -- others

    async def _token(self, call: Call) -> Answer:
        from sampan.cluster.apiserver.access.tokens import request_token

        return request_token(self.server, call)

    async def _finalize(self, call: Call) -> Answer:
        wanted = self.server.writer.read_object(call)

        def change(current: Object) -> Object:
            version = wanted["metadata"].get("resourceVersion")
            if version and version != current["metadata"]["resourceVersion"]:
                raise conflict("namespaces", call.name, STALE)
            finalizers = (wanted.get("spec") or {}).get("finalizers") or []
            return {**json_copy(wanted), "spec": {"finalizers": finalizers}}

        return self.server.writer.answer(call, await self.server.writer.change(call, change))
