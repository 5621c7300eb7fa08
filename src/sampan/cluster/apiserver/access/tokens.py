"""TokenRequest: a token of a service account, bound to an object or not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sampan.cluster.apiserver import decode, patching
from sampan.cluster.apiserver.access.authentication import AUDIENCE
from sampan.cluster.apiserver.call import Answer, Call
from sampan.kube import kinds, schema
from sampan.kube.errors import Cause, bad_request, conflict, invalid, not_found
from sampan.kube.objects import Object, now

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

LEAST, MOST = 600, 1 << 32
"""Seconds a token may live."""
BINDABLE = {"Pod": kinds.POD, "Secret": kinds.SECRET, "Node": kinds.NODE}
VERSION, KIND = "authentication.k8s.io/v1", "TokenRequest"


def request_token(server: ApiServer, call: Call) -> Answer:
    """Raises ApiError 400, 404, 409, 422."""
    account = server.reader.entry(call).object
    request = decode.read_part(call)
    spec = request.get("spec") or {}
    seconds = spec.get("expirationSeconds")
    seconds = 3600 if seconds is None else seconds
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        raise bad_request("spec.expirationSeconds must be an integer")
    faults = [
        message
        for wrong, message in (
            (seconds < LEAST, "may not specify a duration less than 10 minutes"),
            (seconds > MOST, "may not specify a duration larger than 2^32 seconds"),
        )
        if wrong
    ]
    if faults:
        causes = [Cause("spec.expirationSeconds", f"Invalid value: {seconds}: {fault}") for fault in faults]
        raise invalid(KIND, "", causes, "authentication.k8s.io")
    audiences = spec.get("audiences") or []
    if not isinstance(audiences, list) or any(not isinstance(one, str) for one in audiences):
        raise bad_request("spec.audiences must be a list of strings")
    reference = spec.get("boundObjectRef")
    bound = _bound(server, call, reference) if reference else None
    token, expiry = server.authenticator.issue(account, tuple(audiences), seconds, bound)
    made: Object = {
        "kind": KIND,
        "apiVersion": VERSION,
        "metadata": {},
        "spec": {**{key: value for key, value in spec.items() if value is not None}, "expirationSeconds": seconds},
    }
    patching.track(None, made, schema.for_kind(VERSION, KIND) or schema.ANYTHING, call.field_manager, "token")
    made["metadata"] |= {
        "name": call.name,
        "namespace": call.namespace,
        "uid": account["metadata"]["uid"],
        "creationTimestamp": now(),
    }
    made["spec"] |= {"audiences": audiences or [AUDIENCE], "boundObjectRef": reference}
    made["status"] = {
        "token": token,
        "expirationTimestamp": datetime.fromtimestamp(expiry, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return Answer(201, obj=made)


def _bound(server: ApiServer, call: Call, reference: Any) -> dict[str, Any]:
    """The claim for what a token is bound to: {"pod": {"name", "uid"}}."""
    if not isinstance(reference, dict):
        raise bad_request("spec.boundObjectRef must be an object")
    kind, version = str(reference.get("kind") or ""), str(reference.get("apiVersion") or "")
    resource = BINDABLE.get(kind) if version in {"", "v1"} else None
    if resource is None:
        shown = version if "/" in version else f"/{version}"
        raise bad_request(f"cannot bind token to object of type {shown}, Kind={kind}")
    name = str(reference.get("name") or "")
    found = server.peek(resource, name, call.namespace if resource.namespaced else None)
    if found is None:
        raise not_found(resource.plural, name)
    uid = found["metadata"]["uid"]
    if reference.get("uid") and reference["uid"] != uid:
        given = reference["uid"]
        message = (
            f"the UID in the bound object reference ({given}) does not match the UID in record. The object might have"
        )
        raise conflict(resource.plural, name, f"{message} been deleted and then recreated")
    return {kind.lower(): {"name": name, "uid": uid}}
