"""RBAC over stored roles and bindings, as the Kubernetes authorisation reference describes it. Rules only ever allow.

`Index` is what the objects say, arranged by subject; `Rbac` keeps one fresh and answers for the API server (it is an
`apiserver.access.authorization.Authorizer`). Being a member of `system:masters` allows everything, whatever is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

from msgspec import Struct

from sampan.cluster.apiserver.access.authorization import Attributes
from sampan.cluster.apiserver.strategy import User
from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object
from sampan.kube.selectors import from_label_selector

MASTERS = "system:masters"
Lister = Callable[[Resource, str | None], list[Object]]
Subject = tuple[str, str]
"""("User" or "Group", name); a service account is a user."""


class Rule(Struct, frozen=True):
    """A PolicyRule as sets, beside the rule it came from."""

    verbs: frozenset[str]
    groups: frozenset[str]
    resources: frozenset[str]
    names: frozenset[str]
    urls: tuple[str, ...]
    source: Object

    @classmethod
    def of(cls, rule: Object) -> Rule:
        return cls(
            frozenset(rule.get("verbs") or ()),
            frozenset(rule.get("apiGroups") or ()),
            frozenset(rule.get("resources") or ()),
            frozenset(rule.get("resourceNames") or ()),
            tuple(rule.get("nonResourceURLs") or ()),
            rule,
        )

    def allows(self, what: Attributes) -> bool:
        if not ("*" in self.verbs or what.verb in self.verbs):
            return False
        if what.path:
            return any(url_matches(url, what.path) for url in self.urls)
        if not ("*" in self.groups or what.group in self.groups):
            return False
        if not self._names_resource(what.resource, what.subresource):
            return False
        return not self.names or what.name in self.names

    def _names_resource(self, resource: str, subresource: str) -> bool:
        if "*" in self.resources:
            return True
        if not subresource:
            return resource in self.resources
        return f"{resource}/{subresource}" in self.resources or f"*/{subresource}" in self.resources


def url_matches(pattern: str, path: str) -> bool:
    """A non-resource URL of a rule: exact, or a prefix that ends in `*`."""
    return pattern == path or (pattern.endswith("*") and path.startswith(pattern[:-1]))


class Grant(Struct, frozen=True):
    """What one binding gives to one subject. `reason` says so in upstream's words."""

    rules: tuple[Rule, ...]
    reason: str


class Index:
    """Roles and bindings arranged by subject and namespace. Immutable once built."""

    def __init__(
        self,
        roles: Iterable[Object],
        cluster_roles: Iterable[Object],
        role_bindings: Iterable[Object],
        cluster_role_bindings: Iterable[Object],
    ) -> None:
        every = list(cluster_roles)
        self._cluster_roles = {
            role["metadata"]["name"]: tuple(Rule.of(rule) for rule in effective_rules(role, every)) for role in every
        }
        self._roles = {
            (role["metadata"]["namespace"], role["metadata"]["name"]): tuple(
                Rule.of(rule) for rule in role.get("rules") or ()
            )
            for role in roles
        }
        self._grants: dict[tuple[str, Subject], list[Grant]] = {}
        for binding in (*cluster_role_bindings, *role_bindings):
            self._add(binding)

    def _add(self, binding: Object) -> None:
        metadata, reference = binding["metadata"], binding.get("roleRef") or {}
        namespace = metadata.get("namespace") or ""
        cluster = reference.get("kind") == "ClusterRole"
        name = reference.get("name") or ""
        rules = self._cluster_roles.get(name) if cluster else self._roles.get((namespace, name))
        if not rules:
            return
        shown = f"{metadata['name']}/{namespace}" if namespace else metadata["name"]
        kind = "RoleBinding" if namespace else "ClusterRoleBinding"
        for subject in binding.get("subjects") or ():
            key = subject_key(subject, namespace)
            if key is not None:
                who = _subject_text(subject, namespace)
                reason = f'RBAC: allowed by {kind} "{shown}" of {reference.get("kind")} "{name}" to {who}'
                self._grants.setdefault((namespace, key), []).append(Grant(rules, reason))

    def grants(self, user: User, namespace: str) -> Iterator[Grant]:
        """What a user is given cluster-wide, then in `namespace` ("" for none)."""
        subjects: list[Subject] = [("User", user.name), *(("Group", group) for group in user.groups)]
        for scope in ("", namespace) if namespace else ("",):
            for subject in subjects:
                yield from self._grants.get((scope, subject), ())

    def reason(self, user: User, what: Attributes) -> str | None:
        """Why `what` is allowed, None when no rule allows it."""
        for grant in self.grants(user, what.namespace):
            for rule in grant.rules:
                if rule.allows(what):
                    return grant.reason
        return None

    def rules(self, user: User, namespace: str) -> list[Object]:
        """Every PolicyRule that holds for a user in a namespace, without repeats."""
        found: list[Object] = []
        for grant in self.grants(user, namespace):
            found += [rule.source for rule in grant.rules if rule.source not in found]
        return found


def subject_key(subject: Object, namespace: str) -> Subject | None:
    kind, name = subject.get("kind"), subject.get("name")
    if not isinstance(name, str) or not name:
        return None
    if kind == "ServiceAccount":
        return "User", f"system:serviceaccount:{subject.get('namespace') or namespace}:{name}"
    return (str(kind), name) if kind in ("User", "Group") else None


def _subject_text(subject: Object, namespace: str) -> str:
    if subject.get("kind") == "ServiceAccount":
        return f'ServiceAccount "{subject.get("name")}/{subject.get("namespace") or namespace}"'
    return f'{subject.get("kind")} "{subject.get("name")}"'


def effective_rules(role: Object, cluster_roles: Sequence[Object]) -> list[Object]:
    """The rules of a ClusterRole: its own, or, with an aggregation rule, those of every role it selects.

    An aggregating role keeps its written rules only as long as nothing is selected, as the aggregation controller
    overwrites them.
    """
    selectors = (role.get("aggregationRule") or {}).get("clusterRoleSelectors") or ()
    if not selectors:
        return list(role.get("rules") or ())
    wanted = [from_label_selector(selector) for selector in selectors]
    found: list[Object] = []
    for other in sorted(cluster_roles, key=lambda r: str(r["metadata"]["name"])):
        labels = other["metadata"].get("labels") or {}
        if other["metadata"]["name"] != role["metadata"]["name"] and any(one.matches(labels) for one in wanted):
            # A selected role may aggregate in turn: admin <- edit <- view.
            rest = [r for r in cluster_roles if r["metadata"]["name"] != role["metadata"]["name"]]
            found += [rule for rule in effective_rules(other, rest) if rule not in found]
    return found or list(role.get("rules") or ())


def aggregated(cluster_roles: Sequence[Object]) -> list[Object]:
    """New versions of the aggregating ClusterRoles whose stored `rules` are out of date, ready to be written."""
    changed: list[Object] = []
    for role in cluster_roles:
        if role.get("aggregationRule"):
            rules = effective_rules(role, cluster_roles)
            if rules != (role.get("rules") or []):
                changed.append({**role, "rules": rules})
    return changed


class Rbac:
    """The authoriser of a cluster.

    `list` gives the stored objects of a kind, of one namespace or (None) of all. `version` changes whenever a role or
    binding may have changed; the index is built again then, and only then. Without `version` it is built every time.
    """

    def __init__(self, list: Lister, version: Callable[[], Hashable] | None = None) -> None:
        self._list = list
        self._version = version
        self._built: tuple[Hashable, Index] | None = None

    def index(self) -> Index:
        version = self._version() if self._version else None
        if self._built is None or version is None or self._built[0] != version:
            kept = (kinds.ROLE, kinds.CLUSTER_ROLE, kinds.ROLE_BINDING, kinds.CLUSTER_ROLE_BINDING)
            self._built = (version, Index(*(self._list(kind, None) for kind in kept)))
        return self._built[1]

    def allowed(self, user: User, what: Attributes) -> str | None:
        if MASTERS in user.groups:
            return ""  # upstream gives no reason
        return self.index().reason(user, what)

    def rules(self, user: User, namespace: str) -> list[Object]:
        return self.index().rules(user, namespace)


def refusal(user: User, what: Attributes) -> ApiError:
    """403 in upstream's words."""
    if what.path:
        return ApiError(403, "Forbidden", f'forbidden: User "{user.name}" cannot {what.verb} path "{what.path}"')
    resource = f"{what.resource}/{what.subresource}" if what.subresource else what.resource
    qualified = f"{what.resource}.{what.group}" if what.group else what.resource
    where = f'in the namespace "{what.namespace}"' if what.namespace else "at the cluster scope"
    named = f'{qualified} "{what.name}"' if what.name else qualified
    message = (
        f'{named} is forbidden: User "{user.name}" cannot {what.verb} resource "{resource}"'
        f' in API group "{what.group}" {where}'
    )
    details = {"kind": what.resource} | ({"name": what.name} if what.name else {})
    return ApiError(403, "Forbidden", message, details | ({"group": what.group} if what.group else {}))
