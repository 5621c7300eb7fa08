"""Who may do what: RBAC over the stored roles and bindings; `system:masters` may do everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from msgspec import Struct

from sampan.cluster.apiserver.authentication import MASTERS
from sampan.cluster.apiserver.strategy import User
from sampan.kube import kinds
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object

OPEN_PATHS = ("/healthz", "/livez", "/readyz", "/version", "/api", "/apis", "/openapi")
"""Paths every authenticated user may read, with all below them (but objects are resources, not paths)."""


class Attributes(Struct, frozen=True):
    """What is to be done: on a resource, or on a bare path when `path` is set."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


class Authorizer(Protocol):
    def allowed(self, user: User, what: Attributes) -> str | None:
        """Why it is allowed; None when it is not."""

    def rules(self, user: User, namespace: str) -> list[Object]:
        """The PolicyRules that hold for a user in a namespace."""


ANYTHING: list[Object] = [
    {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
    {"nonResourceURLs": ["*"], "verbs": ["*"]},
]
REVIEWS = {
    "apiGroups": ["authorization.k8s.io", "authentication.k8s.io"],
    "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"],
    "verbs": ["create"],
}


class Rbac:
    """`list` gives the stored objects of a kind, in a namespace or in all."""

    def __init__(self, list: Callable[[Resource, str | None], list[Object]]) -> None:
        self._list = list

    def allowed(self, user: User, what: Attributes) -> str | None:
        if MASTERS in user.groups:
            return "the user is in the group system:masters"
        if what.verb == "get" and any(what.path == p or what.path.startswith(p + "/") for p in OPEN_PATHS):
            return "every authenticated user may look around"
        for rule, source in self._rules(user, what.namespace):
            if _covers(rule, what):
                return f"RBAC: allowed by {source}"
        return None

    def rules(self, user: User, namespace: str) -> list[Object]:
        if MASTERS in user.groups:
            return ANYTHING
        return [rule for rule, _ in self._rules(user, namespace)]

    def _rules(self, user: User, namespace: str) -> Iterator[tuple[Object, str]]:
        yield REVIEWS, "the rules of every authenticated user"
        for binding in self._list(kinds.CLUSTER_ROLE_BINDING, None):
            if _binds(binding, user, ""):
                yield from self._role(binding, None)
        if namespace:
            for binding in self._list(kinds.ROLE_BINDING, namespace):
                if _binds(binding, user, namespace):
                    yield from self._role(binding, namespace)

    def _role(self, binding: Object, namespace: str | None) -> Iterator[tuple[Object, str]]:
        reference = binding.get("roleRef") or {}
        cluster = reference.get("kind") == "ClusterRole"
        roles = self._list(kinds.CLUSTER_ROLE if cluster else kinds.ROLE, None if cluster else namespace)
        source = f'{binding["kind"]} "{binding["metadata"]["name"]}"'
        for role in roles:
            if role["metadata"]["name"] == reference.get("name"):
                for rule in [*(role.get("rules") or ()), *self._aggregated(role)]:
                    yield rule, source
        if cluster and reference.get("name") == "cluster-admin":
            for rule in ANYTHING:
                yield rule, source

    def _aggregated(self, role: Object) -> Iterator[Object]:
        from sampan.kube.selectors import from_label_selector

        for selector in (role.get("aggregationRule") or {}).get("clusterRoleSelectors") or ():
            wanted = from_label_selector(selector)
            for other in self._list(kinds.CLUSTER_ROLE, None):
                if other is not role and wanted.matches(other["metadata"].get("labels")):
                    yield from other.get("rules") or ()


def _binds(binding: Object, user: User, namespace: str) -> bool:
    for subject in binding.get("subjects") or ():
        kind, name = subject.get("kind"), subject.get("name")
        if kind == "User" and name in {user.name, "*"}:
            return True
        if kind == "Group" and name in user.groups:
            return True
        if kind == "ServiceAccount":
            account = f"system:serviceaccount:{subject.get('namespace') or namespace}:{name}"
            if account == user.name:
                return True
    return False


def _has(values: Any, wanted: str) -> bool:
    return isinstance(values, list) and (wanted in values or "*" in values)


def _covers(rule: Object, what: Attributes) -> bool:
    if not _has(rule.get("verbs"), what.verb):
        return False
    if what.path:
        paths = rule.get("nonResourceURLs") or ()
        return any(p in {"*", what.path} or (p.endswith("*") and what.path.startswith(p[:-1])) for p in paths)
    if not _has(rule.get("apiGroups"), what.group):
        return False
    wanted = f"{what.resource}/{what.subresource}" if what.subresource else what.resource
    resources = rule.get("resources") or ()
    if not (wanted in resources or "*" in resources or (what.subresource and f"*/{what.subresource}" in resources)):
        return False
    names = rule.get("resourceNames")
    return not names or what.name in names
