"""Questions put to the server: access reviews, token reviews, who am I. Answered, never stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sampan.cluster.apiserver import decode, patching
from sampan.cluster.apiserver.access.authentication import AUDIENCE, TokenFault
from sampan.cluster.apiserver.access.authorization import Attributes
from sampan.cluster.apiserver.access.review_checks import check
from sampan.cluster.apiserver.call import Answer, Call
from sampan.cluster.apiserver.strategy import User
from sampan.kube.errors import bad_request, method_not_allowed
from sampan.kube.objects import Object, now

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer


OWN_ANSWER = {"SelfSubjectReview", "SelfSubjectRulesReview"}


def _user_info(user: User) -> Object:
    info: Object = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        info["uid"] = user.uid
    if user.extra:
        info["extra"] = user.extra
    return info


def _attributes(spec: Object) -> Attributes:
    asked, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if asked is None:
        path = path or {}
        return Attributes(verb=str(path.get("verb") or "").lower(), path=str(path.get("path") or "/"))
    text = {
        name: str(asked.get(name) or "") for name in ("verb", "group", "resource", "subresource", "namespace", "name")
    }
    return Attributes(**text)


class Reviews:
    def __init__(self, server: ApiServer) -> None:
        self.server = server

    def create(self, call: Call) -> Answer:
        value, repeated = decode.read_body(call)
        obj = decode.check_object(value)
        kind = call.served
        decode.check_kind(kind, obj)
        decode.check_types(call, kind, obj)
        decode.check_fields(call, kind, obj, repeated)
        answer = _ANSWERS.get(kind.resource.kind)
        if answer is None:
            raise method_not_allowed("create", kind.resource.plural)
        spec = obj.get("spec") or {}
        given = obj["metadata"].get("namespace")
        if given and given != (call.namespace or given):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        if call.namespace:
            obj["metadata"]["namespace"] = call.namespace
        elif kind.resource.kind != "LocalSubjectAccessReview":
            obj["metadata"].pop("namespace", None)
        if kind.resource.kind.endswith("AccessReview"):
            check(kind.resource.kind, obj, call.namespace or "")
        status = answer(self, call, spec)
        if kind.resource.kind in OWN_ANSWER:  # an object of the server's own, not the client's with a status
            stamp = {"creationTimestamp": now()} if kind.resource.kind == "SelfSubjectReview" else {}
            named = {"kind": obj["kind"], "apiVersion": obj["apiVersion"], "metadata": stamp}
            return Answer(201, obj={**named, **({} if stamp else {"spec": {}}), "status": status})
        patching.track(None, obj, kind.schema, call.field_manager, None)
        obj["status"] = status
        return Answer(201, obj=obj)

    def _access(self, user: User, spec: Object) -> Object:
        reason = self.server.authorizer.allowed(user, _attributes(spec))
        if reason is None:
            return {"allowed": False}
        return {"allowed": True, "reason": reason} if reason else {"allowed": True}

    def _self_access(self, call: Call, spec: Object) -> Object:
        return self._access(call.user, spec)

    def _subject_access(self, call: Call, spec: Object) -> Object:
        return self._access(User(spec.get("user") or "", tuple(spec.get("groups") or ())), spec)

    def _rules(self, call: Call, spec: Object) -> Object:
        if not spec.get("namespace"):
            raise bad_request("no namespace on request")
        rules = self.server.authorizer.rules(call.user, spec["namespace"])
        return {
            "resourceRules": [rule for rule in rules if "resources" in rule],
            "nonResourceRules": [rule for rule in rules if "nonResourceURLs" in rule],
            "incomplete": False,
        }

    def _who(self, call: Call, spec: Object) -> Object:
        return {"userInfo": _user_info(call.user)}

    def _token(self, call: Call, spec: Object) -> Object:
        audiences = tuple(spec.get("audiences") or (AUDIENCE,))
        if not spec.get("token"):
            raise bad_request("token is required for TokenReview in authentication")
        try:
            user, good = self.server.authenticator.token_user(str(spec["token"]), audiences)
        except TokenFault as fault:
            return {
                "user": {},
                "error": f"[invalid bearer token, {fault.why}]" if fault.why else "invalid bearer token",
            }
        return {"authenticated": True, "user": _user_info(user), "audiences": list(good)}


_ANSWERS: dict[str, Any] = {
    "SelfSubjectAccessReview": Reviews._self_access,
    "SubjectAccessReview": Reviews._subject_access,
    "LocalSubjectAccessReview": Reviews._subject_access,
    "SelfSubjectRulesReview": Reviews._rules,
    "SelfSubjectReview": Reviews._who,
    "TokenReview": Reviews._token,
}


def metrics(server: ApiServer, call: Call) -> Answer:
    """metrics.k8s.io: measured use of pods, or of the node as their sum."""
    from sampan.cluster.apiserver.read import selector
    from sampan.kube import kinds

    resource = call.served.resource
    usage = server.runtime.usage() if server.runtime is not None else {}
    items: list[Object] = []
    if resource.kind == "PodMetrics":
        for pod in server.peek_all(kinds.POD, call.namespace):
            metadata = pod["metadata"]
            containers = usage.get((metadata["namespace"], metadata["name"]))
            if containers:
                rows = [{"name": name, "usage": _amounts(one.cpu, one.memory)} for name, one in containers.items()]
                items.append(_metric(resource.kind, metadata, list(containers.values()), {"containers": rows}))
    else:
        every = [one for containers in usage.values() for one in containers.values()]
        for node in server.peek_all(kinds.NODE, None):
            total = _amounts(sum(one.cpu for one in every), sum(one.memory for one in every))
            items.append(_metric(resource.kind, node["metadata"], every, {"usage": total}))
    if call.name:
        found = [item for item in items if item["metadata"]["name"] == call.name]
        if not found:
            from sampan.kube.errors import not_found

            raise not_found(resource.plural, call.name, resource.group)
        return Answer(obj=found[0])
    matches = selector(call)
    return Answer(
        obj={
            "kind": resource.list_kind,
            "apiVersion": resource.api_version,
            "metadata": {},
            "items": [item for item in items if matches is None or matches(item)],
        }
    )


def _amounts(cpu: float, memory: int) -> Object:
    return {"cpu": f"{round(cpu * 1e9)}n" if cpu else "0", "memory": f"{memory // 1024}Ki"}


def _metric(kind: str, metadata: Object, usages: list[Any], rest: Object) -> Object:
    first = usages[0] if usages else None
    kept = {name: metadata[name] for name in ("name", "namespace", "labels", "creationTimestamp") if name in metadata}
    return {
        "kind": kind,
        "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": kept,
        "timestamp": first.timestamp.strftime("%Y-%m-%dT%H:%M:%SZ") if first else now(),
        "window": f"{first.window:.3f}s" if first else "15s",
        **rest,
    }
