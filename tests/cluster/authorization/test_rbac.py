"""RBAC: who may do what, why, and what is said when they may not."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.cluster.apiserver.access.authorization import Attributes
from sampan.cluster.apiserver.registry import strategy_for
from sampan.cluster.apiserver.strategy import User
from sampan.cluster.authorization.bootstrap import bootstrap_objects
from sampan.cluster.authorization.escalation import compact, missing, shown
from sampan.cluster.authorization.rbac import Index, Rbac, aggregated, effective_rules, refusal
from sampan.kube import kinds
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object

AUTHENTICATED = "system:authenticated"


def role(name: str, *rules: Object, namespace: str = "", labels: dict[str, str] | None = None, **rest: Any) -> Object:
    metadata: Object = {"name": name, "labels": labels or {}} | ({"namespace": namespace} if namespace else {})
    return {"kind": "Role" if namespace else "ClusterRole", "metadata": metadata, "rules": list(rules), **rest}


def rule(verbs: str, groups: str, resources: str, names: str = "") -> Object:
    made: Object = {"verbs": verbs.split(), "apiGroups": [g if g != "core" else "" for g in groups.split()]}
    return made | {"resources": resources.split()} | ({"resourceNames": names.split()} if names else {})


def binding(name: str, reference: str, *subjects: Object, namespace: str = "") -> Object:
    kind, _, target = reference.partition("/")
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"metadata": metadata, "roleRef": {"kind": kind, "name": target}, "subjects": list(subjects)}


def user(name: str) -> Object:
    return {"kind": "User", "name": name}


READER = role("reader", rule("get list", "core", "pods pods/log"), namespace="shop")
NODES = role("nodes", rule("get", "core", "nodes", "a"), rule("*", "apps", "*"))
SCALER = role("scaler", rule("update", "*", "*/scale"))
URLS = role("urls", {"verbs": ["get"], "nonResourceURLs": ["/metrics", "/debug/*"]})
INDEX = Index(
    [READER],
    [NODES, SCALER, URLS],
    [
        binding("read", "Role/reader", user("jane"), {"kind": "ServiceAccount", "name": "bot"}, namespace="shop"),
        binding("nodes", "ClusterRole/nodes", {"kind": "Group", "name": "ops"}, namespace="shop"),
        binding("lost", "Role/gone", user("jane"), namespace="shop"),
    ],
    [
        binding("nodes", "ClusterRole/nodes", user("ann")),
        binding("scale", "ClusterRole/scaler", user("ann")),
        binding("urls", "ClusterRole/urls", {"kind": "Group", "name": AUTHENTICATED}),
    ],
)
JANE, ANN, OPS = User("jane", (AUTHENTICATED,)), User("ann"), User("x", ("ops",))
BOT = User("system:serviceaccount:shop:bot")


@pytest.mark.parametrize(
    ("who", "what", "allowed"),
    [
        (JANE, Attributes("get", "", "pods", namespace="shop"), True),
        (JANE, Attributes("get", "", "pods", "log", namespace="shop"), True),
        (JANE, Attributes("get", "", "pods", "exec", namespace="shop"), False),
        (JANE, Attributes("delete", "", "pods", namespace="shop"), False),
        (JANE, Attributes("get", "", "pods", namespace="other"), False),
        (JANE, Attributes("get", "", "pods"), False),
        (JANE, Attributes("get", "apps", "pods", namespace="shop"), False),
        (BOT, Attributes("list", "", "pods", namespace="shop"), True),
        (User("system:serviceaccount:other:bot"), Attributes("list", "", "pods", namespace="shop"), False),
        (ANN, Attributes("get", "", "nodes", name="a"), True),
        (ANN, Attributes("get", "", "nodes", name="b"), False),
        (ANN, Attributes("list", "", "nodes"), False),
        (ANN, Attributes("delete", "apps", "deployments", namespace="any"), True),
        (ANN, Attributes("update", "example.com", "things", "scale", namespace="any"), True),
        (ANN, Attributes("update", "example.com", "things", namespace="any"), False),
        (OPS, Attributes("delete", "apps", "deployments", namespace="shop"), True),
        (OPS, Attributes("delete", "apps", "deployments", namespace="other"), False),
        (JANE, Attributes("get", path="/metrics"), True),
        (JANE, Attributes("get", path="/debug/pprof"), True),
        (JANE, Attributes("get", path="/metrics/x"), False),
        (JANE, Attributes("post", path="/metrics"), False),
    ],
)
def test_decision(who: User, what: Attributes, allowed: bool) -> None:
    assert (INDEX.reason(who, what) is not None) == allowed


def test_reason() -> None:
    assert INDEX.reason(JANE, Attributes("get", "", "pods", namespace="shop")) == (
        'RBAC: allowed by RoleBinding "read/shop" of Role "reader" to User "jane"'
    )
    assert INDEX.reason(BOT, Attributes("get", "", "pods", namespace="shop")) == (
        'RBAC: allowed by RoleBinding "read/shop" of Role "reader" to ServiceAccount "bot/shop"'
    )


def test_refusal() -> None:
    assert refusal(JANE, Attributes("list", "apps", "deployments", namespace="shop")).message == (
        'deployments.apps is forbidden: User "jane" cannot list resource "deployments" in API group "apps"'
        ' in the namespace "shop"'
    )
    assert refusal(JANE, Attributes("get", "", "nodes", name="a")).message == (
        'nodes "a" is forbidden: User "jane" cannot get resource "nodes" in API group "" at the cluster scope'
    )
    assert refusal(JANE, Attributes("create", "", "pods", "exec", "shop", "a")).message == (
        'pods "a" is forbidden: User "jane" cannot create resource "pods/exec" in API group "" in the namespace "shop"'
    )
    assert refusal(JANE, Attributes("get", path="/x")).message == 'forbidden: User "jane" cannot get path "/x"'


def test_rules_review_has_no_repeats() -> None:
    assert INDEX.rules(JANE, "shop") == [*URLS["rules"], *READER["rules"]]


def test_masters_may_do_anything_whatever_is_stored() -> None:
    root = User("root", ("system:masters",))
    assert Rbac(lambda resource, namespace: []).allowed(root, Attributes("delete", "", "nodes")) is not None


def test_aggregation_reaches_through_roles_and_ends() -> None:
    a = role("a", aggregationRule={"clusterRoleSelectors": [{"matchLabels": {"to": "a"}}]}, labels={"to": "b"})
    b = role("b", aggregationRule={"clusterRoleSelectors": [{"matchLabels": {"to": "b"}}]}, labels={"to": "a"})
    c = role("c", rule("get", "core", "pods"), labels={"to": "b"})
    assert effective_rules(a, [a, b, c]) == c["rules"]
    changed = aggregated([a, b, c])
    assert [(one["metadata"]["name"], one["rules"]) for one in changed] == [("a", c["rules"]), ("b", c["rules"])]


def test_escalation_is_seen() -> None:
    held = [rule("get list", "core", "pods"), rule("*", "apps", "*")]
    assert missing(held, [rule("get", "core", "pods"), rule("delete", "apps", "deployments", "a")]) == []
    lacking = missing(held, [rule("get delete patch", "core", "pods")])
    assert [shown(one) for one in compact(lacking)] == [
        '{APIGroups:[""], Resources:["pods"], Verbs:["delete" "patch"]}'
    ]
    assert missing([rule("get", "core", "pods", "a")], [rule("get", "core", "pods")]), "a name is less than all names"


def find(kind: str) -> list[Object]:
    return [obj for obj in bootstrap_objects() if obj["kind"] == kind]


def test_bootstrap_roles_are_valid() -> None:
    for obj in bootstrap_objects():
        resource = kinds.find(obj["apiVersion"], obj["kind"])
        assert resource is not None
        strategy_for(resource).default(obj)
        assert strategy_for(resource).validate_create(obj) == []


@pytest.mark.parametrize(
    ("name", "what", "allowed"),
    [
        ("view", Attributes("list", "", "pods", namespace="shop"), True),
        ("view", Attributes("get", "", "secrets", namespace="shop"), False),
        ("view", Attributes("delete", "", "pods", namespace="shop"), False),
        ("edit", Attributes("get", "", "secrets", namespace="shop"), True),
        ("edit", Attributes("list", "", "pods", namespace="shop"), True),
        ("edit", Attributes("create", "", "pods", "exec", namespace="shop"), True),
        ("edit", Attributes("update", "apps", "deployments", "scale", namespace="shop"), True),
        ("edit", Attributes("create", "rbac.authorization.k8s.io", "roles", namespace="shop"), False),
        ("admin", Attributes("create", "rbac.authorization.k8s.io", "roles", namespace="shop"), True),
        ("admin", Attributes("list", "", "pods", namespace="shop"), True),
        ("admin", Attributes("list", "", "pods", namespace="other"), False),
        ("admin", Attributes("list", "", "nodes"), False),
        ("cluster-admin", Attributes("list", "", "secrets", namespace="shop"), True),
    ],
)
def test_bootstrap_role(name: str, what: Attributes, allowed: bool) -> None:
    grant = binding("b", f"ClusterRole/{name}", user("jane"), namespace="shop")
    index = Index([], find("ClusterRole"), [grant], find("ClusterRoleBinding"))
    assert (index.reason(JANE, what) is not None) == allowed


def test_everybody_may_look_around() -> None:
    index = Index([], find("ClusterRole"), [], find("ClusterRoleBinding"))
    assert index.reason(JANE, Attributes("get", path="/apis/apps/v1"))
    assert index.reason(JANE, Attributes("create", "authorization.k8s.io", "selfsubjectaccessreviews"))
    assert index.reason(User("system:anonymous", ("system:unauthenticated",)), Attributes("get", path="/version"))
    assert not index.reason(User("system:anonymous", ("system:unauthenticated",)), Attributes("get", path="/apis"))


def test_index_follows_the_version_and_is_quick_enough() -> None:
    stored, version = {"ClusterRole": find("ClusterRole"), "RoleBinding": list[Object]()}, [0]

    def listed(resource: Resource, namespace: str | None) -> list[Object]:
        return stored.get(resource.kind, [])

    rbac, what = Rbac(listed, lambda: version[0]), Attributes("list", "", "pods", namespace="shop")
    assert rbac.allowed(JANE, what) is None
    stored["RoleBinding"].append(binding("v", "ClusterRole/view", user("jane"), namespace="shop"))
    assert rbac.allowed(JANE, what) is None
    version[0] += 1
    assert rbac.allowed(JANE, what)
