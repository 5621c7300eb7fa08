"""The parts of an object with a path of their own: scale, binding, eviction, token, finalize, log, and pod changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sampan.cluster.apiserver import decode, patching
from sampan.cluster.apiserver.call import Answer, Call
from sampan.cluster.apiserver.carry import POD_PARTS
from sampan.cluster.apiserver.catalog import ScalePaths
from sampan.cluster.apiserver.decode import json_copy
from sampan.cluster.apiserver.write import STALE
from sampan.cluster.runtime import LogOptions
from sampan.cluster.store import Entry
from sampan.kube import kinds
from sampan.kube.errors import ApiError, Cause, bad_request, conflict, invalid, method_not_allowed, not_found
from sampan.kube.objects import Object, now, parse_time
from sampan.kube.transport import APPLY_PATCH

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer


def _lookup(obj: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        obj = obj.get(step) if isinstance(obj, dict) else None
    return obj


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

    # -- scale

    async def _scale(self, call: Call) -> Answer:
        kind = call.served
        paths = kind.scale
        if paths is None:
            raise not_found(f"{kind.resource.plural}/scale", call.name, kind.resource.group)
        if call.verb == "get":
            return Answer(obj=_scale_of(await self._shown(call, self.server.reader.entry(call).object), paths))
        content = decode.media_type(call.content_type)
        applies = call.verb == "patch" and content == APPLY_PATCH
        body, _ = decode.read_body(call)

        def change(current: Object) -> Object:
            present = _scale_of(current, paths)
            if call.verb == "update":
                wanted = body
            elif applies:
                wanted = {"kind": "", "apiVersion": "", **(body if isinstance(body, dict) else {})}
            else:
                wanted = patching.patch(content, present, body, kind.schema)
            wanted = decode.check_object(wanted)
            version = wanted["metadata"].get("resourceVersion")
            if version and version != current["metadata"]["resourceVersion"]:
                raise conflict(kind.resource.plural, call.name, STALE, kind.resource.group)
            spec = wanted.get("spec")
            replicas = (spec or {}).get("replicas", 0) if isinstance(spec, dict | None) else None
            if isinstance(replicas, bool) or not isinstance(replicas, int):
                fault = bad_request("spec.replicas must be an integer")
                if applies:
                    from sampan.kube.decoding import json_word

                    where = f"{call.namespace or ''}/{call.name}; autoscaling/v1, Kind=Scale"
                    raise bad_request(
                        f"failed to create typed patch object ({where}): .spec.replicas: expected numeric (int or"
                        " float), got " + json_word((spec or {}).get("replicas"))
                    )
                raise fault if call.verb == "update" else patching.refused(content, body, wanted, fault)
            if replicas < 0:
                message = f"Invalid value: {replicas}: must be greater than or equal to 0"
                raise invalid("Scale", call.name, [Cause("spec.replicas", message)], "autoscaling")
            if applies:
                return _apply_scale(call, current, wanted, replicas, paths.spec)
            return _with(current, paths.spec, replicas)

        entry = await self.server.writer.change(call, change, tracked=applies)
        return Answer(obj=_scale_of(await self._shown(call, entry.object), paths))

    @staticmethod
    async def _shown(call: Call, obj: Object) -> Object:
        """A stored object in the version asked for."""
        kind = call.served
        if kind.converter is None:
            return kind.outward(obj)
        return (await kind.converter.convert([obj], kind.resource.api_version))[0]

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
        from sampan.cluster.apiserver.tokens import request_token

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


def _with(obj: Object, path: tuple[str, ...], value: Any) -> Object:
    """`obj`, with a value set at a path, in place."""
    node = obj
    for step in path[:-1]:
        node = node.setdefault(step, {})
    node[path[-1]] = value
    return obj


def _apply_scale(call: Call, current: Object, scale: Object, replicas: int, path: tuple[str, ...]) -> Object:
    """Apply a Scale: what it owns of the object is its number. A Scale leaves its zero out, so zero is owned anew."""
    resource = call.served.resource
    if (scale["apiVersion"], scale["kind"]) != ("autoscaling/v1", "Scale"):
        raise bad_request(f"invalid object type: {scale['apiVersion'] or '/'}, Kind={scale['kind']}")
    metadata = {name: current["metadata"][name] for name in ("name", "namespace") if name in current["metadata"]}
    applied: Object = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
    if "replicas" in (scale.get("spec") or {}):
        _with(applied, path, replicas)
    live = json_copy(current)
    if not _lookup(live, path):
        holder = _lookup(live, path[:-1]) if path[:-1] else live
        if isinstance(holder, dict):
            holder.pop(path[-1], None)
    try:
        made = patching.server_side(
            live, applied, call.served, manager=call.field_manager, force=call.flag("force"), subresource="scale"
        )
    except ApiError as error:
        raise _as_scale(error, resource.api_version) from None
    return made if _lookup(made, path) is not None else _with(made, path, 0)


def _as_scale(error: ApiError, version: str) -> ApiError:
    """A conflict as one who applies a Scale sees it: others own it as a Scale, too, in whatever version they wrote."""
    using = f"using {version}"
    error.message = error.message.replace(using, "using autoscaling/v1")
    for cause in (error.details or {}).get("causes", ()):
        cause["message"] = cause["message"].replace(using, "using autoscaling/v1")
    return error


def _scale_of(obj: Object, paths: ScalePaths) -> Object:
    metadata = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: Object = {"replicas": _lookup(obj, paths.status) or 0}
    selector = _lookup(obj, paths.selector) if paths.selector else _lookup(obj, ("spec", "selector"))
    if isinstance(selector, str):
        status["selector"] = selector
    elif isinstance(selector, dict):
        from sampan.kube.selectors import from_label_selector, from_labels

        labelled = "matchLabels" in selector or "matchExpressions" in selector
        status["selector"] = str(from_label_selector(selector) if labelled else from_labels(selector))
    replicas = _lookup(obj, paths.spec) or 0
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in kept if name in metadata},
        "spec": {"replicas": replicas} if replicas else {},
        "status": status,
    }
