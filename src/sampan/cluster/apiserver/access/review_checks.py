"""What is refused in an access review (authorization.k8s.io/v1)."""

from __future__ import annotations

from typing import Any

from sampan.cluster.apiserver.registry.faults import Faults, maps, sub
from sampan.kube import names
from sampan.kube.errors import invalid
from sampan.kube.objects import Object

GROUP = "authorization.k8s.io"
_VALUED = ("In", "NotIn")


def check(kind: str, obj: Object, namespace: str) -> None:
    """Raises ApiError 422, which names no kind, as upstream's does not."""
    faults, spec, local = Faults(), sub(obj, "spec"), kind == "LocalSubjectAccessReview"
    asked, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if asked is not None and path is not None:
        faults.invalid(
            "spec.nonResourceAttributes", _go(path), "cannot be specified in combination with resourceAttributes"
        )
    elif asked is None and path is None:
        faults.invalid(
            "spec.resourceAttributes", None,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )  # fmt: skip
    if kind != "SelfSubjectAccessReview" and not spec.get("user") and not spec.get("groups"):
        faults.invalid("spec.user", "", "at least one of user or group must be specified")
    for name, keys in (("fieldSelector", False), ("labelSelector", True)):
        _selector(faults, sub(asked).get(name), f"spec.resourceAttributes.{name}", labels=keys)
    metadata = {key: value for key, value in obj["metadata"].items() if value not in (None, "", {}, [])}
    if not local and metadata.keys() - {"managedFields", "namespace"}:
        faults.invalid("metadata", {k: v for k, v in metadata.items() if k != "namespace"}, "must be empty")
    if local and asked is not None and (asked.get("namespace") or "") != namespace:
        faults.invalid(
            "spec.resourceAttributes.namespace", asked.get("namespace") or "", "must match metadata.namespace"
        )
    if local and path is not None:
        faults.invalid("spec.nonResourceAttributes", _go(path), "disallowed on this kind of request")
    if faults.causes:
        error = invalid("", "", faults.causes, GROUP)
        error.details.pop("kind", None)
        raise error


def _go(path: Object) -> Any:
    return {"Path": path.get("path") or "", "Verb": path.get("verb") or ""}


def _selector(faults: Faults, selector: Any, where: str, *, labels: bool) -> None:
    if not isinstance(selector, dict):
        return
    raw, rows = selector.get("rawSelector"), maps(selector.get("requirements"))
    if raw and rows:
        faults.invalid(f"{where}.rawSelector", raw, "may not specified at the same time as requirements")
    if not raw and not rows:
        faults.required(f"{where}.requirements", f"when {where} is specified, requirements or rawSelector is required")
    for index, row in enumerate(rows):
        at, key, operator = f"{where}.requirements[{index}]", row.get("key") or "", row.get("operator")
        if labels:
            for fault in names.qualified_name(key):
                faults.invalid(f"{at}.key", key, fault)
        elif not key:
            faults.required(f"{at}.key", "must be specified")
        if operator in _VALUED and not row.get("values"):
            faults.required(f"{at}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        if operator in {"Exists", "DoesNotExist"} and row.get("values"):
            faults.forbidden(f"{at}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
