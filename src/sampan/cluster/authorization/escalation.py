"""Nobody gives away more than they hold: the checks on writes of roles and bindings (RBAC, "Privilege escalation
prevention").

Who writes a role must hold all it allows, or may `escalate` it; who binds one must hold it, or may `bind` it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sampan.cluster.apiserver.access.authorization import Attributes
from sampan.cluster.authorization.rbac import MASTERS, Lister, effective_rules
from sampan.kube import kinds
from sampan.kube.errors import ApiError, not_found
from sampan.kube.objects import Object

if TYPE_CHECKING:
    from sampan.cluster.apiserver.access.authorization import Authorizer
    from sampan.cluster.apiserver.call import Call
    from sampan.cluster.apiserver.strategy import User

GROUP = "rbac.authorization.k8s.io"
ROLES = {"Role": "roles", "ClusterRole": "clusterroles"}
BINDINGS = {"RoleBinding": "rolebindings", "ClusterRoleBinding": "clusterrolebindings"}
EVERYTHING: tuple[Object, ...] = (
    {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
    {"verbs": ["*"], "nonResourceURLs": ["*"]},
)
_SHOWN = (
    ("APIGroups", "apiGroups"),
    ("Resources", "resources"),
    ("NonResourceURLs", "nonResourceURLs"),
    ("ResourceNames", "resourceNames"),
    ("Verbs", "verbs"),
)


class Escalation:
    """`check` is an admission hook of the writer."""

    def __init__(self, authorizer: Authorizer, list: Lister) -> None:
        self._authorizer = authorizer
        self._list = list

    def check(self, call: Call, new: Object, old: Object | None) -> None:
        """Raises ApiError 403 where the caller would give away what they do not hold, 404 for a role that is not."""
        resource = call.served.resource
        if resource.group != GROUP or MASTERS in call.user.groups or (old is not None and not _matters(new, old)):
            return
        if resource.kind in ROLES:
            self._role(call, new)
        elif resource.kind in BINDINGS:
            self._binding(call, new)

    def _may(self, call: Call, verb: str, plural: str, name: str) -> bool:
        what = Attributes(verb, GROUP, plural, "", call.namespace or "", name)
        return self._authorizer.allowed(call.user, what) is not None

    def _role(self, call: Call, role: Object) -> None:
        if self._may(call, "escalate", ROLES[call.served.resource.kind], call.name):
            return
        self._confirm(call, role, role.get("rules") or ())
        if role.get("aggregationRule") and self._missing(call.user, "", EVERYTHING):
            raise _forbidden(call, role, "must have cluster-admin privileges to use the aggregationRule")

    def _binding(self, call: Call, binding: Object) -> None:
        reference = binding.get("roleRef") or {}
        kind, name = str(reference.get("kind") or ""), str(reference.get("name") or "")
        if kind not in ROLES or self._may(call, "bind", ROLES[kind], name):
            return
        resource = kinds.ROLE if kind == "Role" else kinds.CLUSTER_ROLE
        present = self._list(resource, call.namespace if kind == "Role" else None)
        role = next((one for one in present if one["metadata"]["name"] == name), None)
        if role is None:
            raise not_found(call.served.resource.plural, name, GROUP)  # upstream names the binding's kind
        rules = effective_rules(role, present) if kind == "ClusterRole" else role.get("rules") or ()
        self._confirm(call, binding, rules)

    def _missing(self, user: User, namespace: str, wanted: Iterable[Object]) -> list[Object]:
        return missing(self._authorizer.rules(user, namespace), wanted)

    def _confirm(self, call: Call, obj: Object, wanted: Iterable[Object]) -> None:
        lacking = self._missing(call.user, call.namespace or "", wanted)
        if not lacking:
            return
        groups = " ".join(json.dumps(group) for group in call.user.groups)
        lines = "\n".join(sorted({shown(rule) for rule in compact(lacking)}))
        message = (
            f"user {json.dumps(call.user.name)} (groups=[{groups}]) is attempting to grant RBAC permissions not"
            f" currently held:\n{lines}"
        )
        raise _forbidden(call, obj, message)


def _matters(new: Object, old: Object) -> bool:
    """Whether a change touches more than what the garbage collector does to let an object go."""
    apart = {"ownerReferences", "finalizers", "managedFields", "resourceVersion", "deletionTimestamp",
             "deletionGracePeriodSeconds", "generation"}  # fmt: skip

    def rest(obj: Object) -> Object:
        return {**obj, "metadata": {key: value for key, value in obj["metadata"].items() if key not in apart}}

    return rest(new) != rest(old)


def _forbidden(call: Call, obj: Object, message: str) -> ApiError:
    resource, name = call.served.resource, str(obj["metadata"].get("name") or "")
    details = {"name": name, "group": resource.group, "kind": resource.plural}
    return ApiError(403, "Forbidden", f'{resource.group_plural} "{name}" is forbidden: {message}', details)


def atoms(rule: Object) -> list[Object]:
    """A rule as many of one verb, group, resource and name each."""
    found: list[Object] = []
    verbs = rule.get("verbs") or ()
    for group in rule.get("apiGroups") or ():
        for resource in rule.get("resources") or ():
            for verb in verbs:
                one: Object = {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
                names = rule.get("resourceNames")
                found += [{**one, "resourceNames": [name]} for name in names] if names else [one]
    found += [
        {"nonResourceURLs": [url], "verbs": [verb]} for url in rule.get("nonResourceURLs") or () for verb in verbs
    ]
    return found


def missing(held: Iterable[Object], wanted: Iterable[Object]) -> list[Object]:
    """The atoms of the `wanted` rules that no `held` rule covers."""
    rules = list(held)
    return [atom for rule in wanted for atom in atoms(rule) if not any(_covers(one, atom) for one in rules)]


def _covers(held: Object, atom: Object) -> bool:
    def every(field: str, wild: str = "") -> bool:
        present = held.get(field) or ()
        return (bool(wild) and wild in present) or set(atom.get(field) or ()) <= set(present)

    def resources() -> bool:
        present = held.get("resources") or ()
        return "*" in present or all(
            one in present or ("/" in one and f"*/{one.partition('/')[2]}" in present)
            for one in atom.get("resources") or ()
        )

    def urls() -> bool:
        present = held.get("nonResourceURLs") or ()
        return all(
            any(path == url or (path.endswith("*") and url.startswith(path.rstrip("*"))) for path in present)
            for url in atom.get("nonResourceURLs") or ()
        )

    names = held.get("resourceNames") or ()
    named = not names or (bool(atom.get("resourceNames")) and set(atom["resourceNames"]) <= set(names))
    return every("verbs", "*") and every("apiGroups", "*") and resources() and urls() and named


def compact(rules: Iterable[Object]) -> list[Object]:
    """Atoms of the same resource as one rule with all their verbs."""
    found: list[Object] = []
    simple: dict[tuple[str, ...], Object] = {}
    for rule in rules:
        if rule.get("nonResourceURLs"):
            found.append(rule)
            continue
        key = (rule["apiGroups"][0], rule["resources"][0], *(rule.get("resourceNames") or ()))
        if key in simple:
            simple[key]["verbs"] += rule["verbs"]
        else:
            simple[key] = {**rule, "verbs": list(rule["verbs"])}
    return found + list(simple.values())


def shown(rule: Object) -> str:
    """A rule in upstream's short form: `{APIGroups:["apps"], Resources:["deployments"], Verbs:["get"]}`."""
    parts = []
    for label, field in _SHOWN:
        if rule.get(field):
            parts.append(f"{label}:[{' '.join(json.dumps(one) for one in rule[field])}]")
    return "{" + ", ".join(parts) + "}"
