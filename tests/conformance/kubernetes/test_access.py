"""Who may do what: RBAC with several identities, escalation, impersonation, reviews, tokens, bootstrap roles."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.wire import Reply, Wire

RBAC = "/apis/rbac.authorization.k8s.io/v1"
WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
REVIEWS = "/apis/authorization.k8s.io/v1"
TOKENS = "/apis/authentication.k8s.io/v1/tokenreviews"
GROUP = "rbac.authorization.k8s.io"
Object = dict[str, Any]
Account = Callable[..., Wire]


def allowed(client: Wire, spec: Object) -> bool:
    """Whether a client may do what the specification of a review asks."""
    review = client.post(f"{REVIEWS}/selfsubjectaccessreviews", {"spec": spec})
    return bool(review["status"]["allowed"])


def rule(verbs: str, groups: str, resources: str, names: str = "") -> Object:
    made: Object = {"verbs": verbs.split(), "apiGroups": ["" if g == "core" else g for g in groups.split()]}
    return made | {"resources": resources.split()} | ({"resourceNames": names.split()} if names else {})


def binding(name: str, kind: str, role: str, *subjects: Object) -> Object:
    reference = {"apiGroup": GROUP, "kind": kind, "name": role}
    return {"metadata": {"name": name}, "roleRef": reference, "subjects": list(subjects)}


@pytest.fixture
def account(wire: Wire, ns: str, kubeconfig: Path) -> Account:
    """A client of a new service account of the test's namespace that may do what `rules` say there."""

    def make(name: str, *rules: Object) -> Wire:
        accounts = f"/api/v1/namespaces/{ns}/serviceaccounts"
        assert wire.post(accounts, {"metadata": {"name": name}}).code == 201
        assert (
            wire.post(f"{RBAC}/namespaces/{ns}/roles", {"metadata": {"name": name}, "rules": list(rules)}).code == 201
        )
        subject = {"kind": "ServiceAccount", "name": name, "namespace": ns}
        assert wire.post(f"{RBAC}/namespaces/{ns}/rolebindings", binding(name, "Role", name, subject)).code == 201
        token = wire.post(f"{accounts}/{name}/token", {"spec": {}})["status"]["token"]
        client = Wire(kubeconfig, token)
        for wanted in rules:
            what = {"verb": wanted["verbs"][0], "group": wanted["apiGroups"][0], "resource": wanted["resources"][0]}
            spec = {"resourceAttributes": {**what, "namespace": ns, "name": (wanted.get("resourceNames") or [""])[0]}}
            eventually(partial(allowed, client, spec))
        return client

    return make


def roles(ns: str, name: str = "") -> str:
    return f"{RBAC}/namespaces/{ns}/roles" + (f"/{name}" if name else "")


def test_what_is_not_allowed_is_refused(account: Account, ns: str) -> None:
    jane = account("jane", rule("get list", "core", "pods pods/log"))
    user = f"system:serviceaccount:{ns}:jane"
    assert jane.get(f"/api/v1/namespaces/{ns}/pods").code == 200
    assert jane.get(f"/api/v1/namespaces/{ns}/pods/x/log").code == 404
    for path, message in (
        (f"/api/v1/namespaces/{ns}/secrets", f'list resource "secrets" in API group "" in the namespace "{ns}"'),
        (f"/api/v1/namespaces/{ns}/secrets/x", f'get resource "secrets" in API group "" in the namespace "{ns}"'),
        ("/api/v1/pods", 'list resource "pods" in API group "" at the cluster scope'),
        ("/apis/apps/v1/deployments", 'list resource "deployments" in API group "apps" at the cluster scope'),
        ("/apis/nope.example.com/v1/x", 'list resource "x" in API group "nope.example.com" at the cluster scope'),
        ("/metrics", 'get path "/metrics"'),
    ):
        reply = jane.get(path)
        assert (reply.code, reply.reason) == (403, "Forbidden"), reply
        assert reply["message"].endswith(f'forbidden: User "{user}" cannot {message}'), reply
    assert jane.get("/api").code == jane.get("/version").code == 200


def test_nobody_in_particular(kubeconfig: Path) -> None:
    nobody = Wire(kubeconfig, "")
    for path in ("/version", "/healthz", "/livez", "/readyz"):
        assert nobody.get(path).code == 200
    refused = nobody.get("/api/v1/pods")
    assert refused.code == 403
    assert 'User "system:anonymous" cannot list resource "pods"' in refused["message"]
    assert nobody.get("/api").code == 403
    wrong = Wire(kubeconfig, "nonsense").get("/version")
    assert (wrong.code, wrong.reason, wrong["message"]) == (401, "Unauthorized", "Unauthorized")


LACKING = "is attempting to grant RBAC permissions not currently held:\n"


@pytest.mark.parametrize(
    ("rules", "lacking"),
    [
        (
            [rule("get delete watch", "core apps", "pods secrets")],
            [
                '{APIGroups:[""], Resources:["pods"], Verbs:["delete" "watch"]}',
                '{APIGroups:[""], Resources:["secrets"], Verbs:["get" "delete" "watch"]}',
                '{APIGroups:["apps"], Resources:["pods"], Verbs:["get" "delete" "watch"]}',
                '{APIGroups:["apps"], Resources:["secrets"], Verbs:["get" "delete" "watch"]}',
            ],
        ),
        (
            [rule("get delete", "core", "secrets", "a b")],
            [
                '{APIGroups:[""], Resources:["secrets"], ResourceNames:["a"], Verbs:["get" "delete"]}',
                '{APIGroups:[""], Resources:["secrets"], ResourceNames:["b"], Verbs:["get" "delete"]}',
            ],
        ),
        ([rule("*", "*", "*")], ['{APIGroups:["*"], Resources:["*"], Verbs:["*"]}']),
        ([rule("get", "core", "pods"), rule("list", "core", "pods", "x")], None),
    ],
)
def test_nobody_gives_away_more_than_they_hold(
    account: Account, ns: str, rules: list[Object], lacking: list[str] | None
) -> None:
    jane = account("jane", rule("get list create update patch", GROUP, "roles"), rule("get list", "core", "pods"))
    reply = jane.post(roles(ns), {"metadata": {"name": "x"}, "rules": rules})
    if lacking is None:
        assert reply.code == 201, reply
        return
    user = f"system:serviceaccount:{ns}:jane"
    groups = f'["system:serviceaccounts" "system:serviceaccounts:{ns}" "system:authenticated"]'
    said = "\n".join(lacking)
    assert (reply.code, reply.reason) == (403, "Forbidden")
    assert reply["message"] == (
        f'roles.rbac.authorization.k8s.io "x" is forbidden: user "{user}" (groups={groups}) {LACKING}{said}'
    )
    assert reply["details"] == {"name": "x", "group": GROUP, "kind": "roles"}
    assert jane.post(roles(ns), {"metadata": {"name": "y"}, "rules": [rule("get", "core", "pods")]}).code == 201
    assert jane.patch(roles(ns, "y"), {"rules": rules}).code == 403
    assert jane.patch(roles(ns, "y"), {"metadata": {"labels": {"a": "b"}}}).code == 200


def test_bindings_need_what_they_bind(account: Account, wire: Wire, ns: str) -> None:
    jane = account("jane", rule("create", GROUP, "rolebindings roles"), rule("get", "core", "pods"))
    path = f"{RBAC}/namespaces/{ns}/rolebindings"
    assert jane.post(roles(ns), {"metadata": {"name": "pods"}, "rules": [rule("get", "core", "pods")]}).code == 201
    someone = {"kind": "User", "name": "someone", "apiGroup": GROUP}
    assert jane.post(path, binding("a", "Role", "pods", someone)).code == 201
    refused = jane.post(path, binding("b", "ClusterRole", "view", someone))
    assert refused.code == 403 and LACKING in refused["message"]
    missing = jane.post(path, binding("c", "ClusterRole", "nope", someone))
    assert (missing.code, missing["message"]) == (404, f'rolebindings.{GROUP} "nope" not found')
    leave = account("ann", rule("create", GROUP, "rolebindings"), rule("bind", GROUP, "clusterroles", "view"))
    assert leave.post(path, binding("d", "ClusterRole", "view", someone)).code == 201
    assert leave.post(path, binding("e", "ClusterRole", "edit", someone)).code == 403
    strong = account("eva", rule("create", GROUP, "roles"), rule("escalate", GROUP, "roles"))
    assert strong.post(roles(ns), {"metadata": {"name": "all"}, "rules": [rule("*", "*", "*")]}).code == 201
    assert wire.post(path, binding("f", "ClusterRole", "edit", someone)).code == 201


def test_roles_gather_others(wire: Wire) -> None:
    mark, path = f"agg-{os.getpid()}", f"{RBAC}/clusterroles"
    label = {f"{mark}.example.com/into": "true"}
    gathering = {"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": label}]}, "rules": []}
    assert wire.post(path, {"metadata": {"name": mark}, **gathering}).code == 201
    first, second = rule("get", "core", "pods"), rule("list", "apps", "deployments")
    wire.post(path, {"metadata": {"name": f"{mark}-a", "labels": label}, "rules": [first]})
    eventually(lambda: wire.get(f"{path}/{mark}").body.get("rules") == [first])
    wire.post(path, {"metadata": {"name": f"{mark}-b", "labels": label}, "rules": [second]})
    eventually(lambda: wire.get(f"{path}/{mark}").body.get("rules") == [first, second])
    managers = {row["manager"] for row in wire.get(f"{path}/{mark}")["metadata"]["managedFields"]}
    assert "clusterrole-aggregation-controller" in managers
    wire.delete(f"{path}/{mark}-a")
    eventually(lambda: wire.get(f"{path}/{mark}").body.get("rules") == [second])
    for name in (mark, f"{mark}-b"):
        wire.delete(f"{path}/{name}")


def test_acting_as_somebody_else(wire: Wire, account: Account, ns: str) -> None:
    def who(client: Wire, **headers: str) -> Reply:
        return client.request(
            "POST", WHO, {}, headers={f"Impersonate-{key.replace('_', '-')}": value for key, value in headers.items()}
        )

    def seen(**headers: str) -> Any:
        return who(wire, **headers)["status"]["userInfo"]

    assert seen(User="ann") == {"username": "ann", "groups": ["system:authenticated"]}
    assert seen(User="ann", Group="dev")["groups"] == ["dev", "system:authenticated"]
    assert seen(User=f"system:serviceaccount:{ns}:bot")["groups"] == [
        "system:serviceaccounts",
        f"system:serviceaccounts:{ns}",
        "system:authenticated",
    ]
    whole = {"username": "ann", "uid": "7", "groups": ["system:authenticated"], "extra": {"scopes": ["a"]}}
    assert seen(User="ann", Uid="7", Extra_Scopes="a") == whole
    alone = who(wire, Group="dev")
    assert alone.code == 400 and alone["message"].endswith("without impersonating a user name")
    jane = account("jane", rule("get", "core", "pods"))
    refused = who(jane, User="ann")
    assert refused.code == 403
    assert "cannot impersonate-on:user-info:create resource" in refused["message"]
    role = f"imp-{ns}"
    allowed = [rule("impersonate", "core", "users", "ann")]
    wire.post(f"{RBAC}/clusterroles", {"metadata": {"name": role}, "rules": allowed})
    subject = {"kind": "ServiceAccount", "name": "jane", "namespace": ns}
    wire.post(f"{RBAC}/clusterrolebindings", binding(role, "ClusterRole", role, subject))
    eventually(lambda: who(jane, User="ann").code == 201)
    assert who(jane, User="bob").code == 403
    assert who(jane, User="ann", Group="dev").code == 403
    wire.delete(f"{RBAC}/clusterrolebindings/{role}")
    wire.delete(f"{RBAC}/clusterroles/{role}")


def test_access_reviews(wire: Wire, account: Account, ns: str) -> None:
    jane = account("jane", rule("get", "core", "pods"))

    def own(**spec: Any) -> Any:
        return jane.post(f"{REVIEWS}/selfsubjectaccessreviews", {"spec": spec})

    yes = own(resourceAttributes={"verb": "get", "resource": "pods", "namespace": ns})
    assert yes.code == 201 and yes["status"] == {
        "allowed": True,
        "reason": f'RBAC: allowed by RoleBinding "jane/{ns}" of Role "jane" to ServiceAccount "jane/{ns}"',
    }
    assert own(resourceAttributes={"verb": "get", "resource": "secrets", "namespace": ns})["status"] == {
        "allowed": False
    }
    assert own(nonResourceAttributes={"path": "/api", "verb": "get"})["status"]["allowed"] is True
    assert own(nonResourceAttributes={"path": "/metrics", "verb": "get"})["status"] == {"allowed": False}
    neither = own()
    assert (neither.code, neither.causes) == (
        422,
        [
            (
                "FieldValueInvalid",
                "spec.resourceAttributes",
                "Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
            )
        ],
    )
    local = f"{REVIEWS}/namespaces/{ns}/localsubjectaccessreviews"
    masters = {"groups": ["system:masters"], "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": ns}}
    assert wire.post(local, {"spec": masters})["status"] == {"allowed": True}
    elsewhere = wire.post(local, {"spec": {"user": "x", "resourceAttributes": {"verb": "get", "namespace": "other"}}})
    assert elsewhere.causes == [
        (
            "FieldValueInvalid",
            "spec.resourceAttributes.namespace",
            'Invalid value: "other": must match metadata.namespace',
        )
    ]
    nobody = wire.post(f"{REVIEWS}/subjectaccessreviews", {"spec": {"resourceAttributes": {"verb": "get"}}})
    assert nobody.causes == [
        ("FieldValueInvalid", "spec.user", 'Invalid value: "": at least one of user or group must be specified')
    ]
    rules = jane.post(f"{REVIEWS}/selfsubjectrulesreviews", {"spec": {"namespace": ns}})["status"]
    assert {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]} in rules["resourceRules"]
    assert rules["incomplete"] is False
    assert jane.post(f"{REVIEWS}/selfsubjectrulesreviews", {"spec": {}})["message"] == "no namespace on request"


def test_tokens_die_with_what_they_are_bound_to(wire: Wire, account: Account, ns: str, kubeconfig: Path) -> None:
    account("jane", rule("get", "core", "pods"))
    secret, path = f"/api/v1/namespaces/{ns}/secrets", f"/api/v1/namespaces/{ns}/serviceaccounts/jane/token"
    wire.post(secret, {"metadata": {"name": "s"}})
    made = wire.post(path, {"spec": {"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "s"}}})
    assert made.code == 201, made
    token = made["status"]["token"]
    good = wire.post(TOKENS, {"spec": {"token": token}})["status"]
    assert (good["authenticated"], good["user"]["username"]) == (True, f"system:serviceaccount:{ns}:jane")
    assert good["user"]["extra"]["authentication.kubernetes.io/credential-id"][0].startswith("JTI=")
    wire.delete(f"{secret}/s")
    jane = Wire(kubeconfig, token)
    eventually(lambda: jane.get(f"/api/v1/namespaces/{ns}/pods").code == 401)
    assert wire.post(TOKENS, {"spec": {"token": token}})["status"] == {
        "user": {},
        "error": "[invalid bearer token, service account token has been invalidated]",
    }
    assert wire.post(TOKENS, {"spec": {"token": "no"}})["status"] == {"user": {}, "error": "invalid bearer token"}
    assert wire.post(TOKENS, {"spec": {}}).code == 400
    other = wire.post(path, {"spec": {"audiences": ["vault"]}})["status"]["token"]
    assert Wire(kubeconfig, other).get("/api").code == 401, "a token for others is none here"
    assert wire.post(TOKENS, {"spec": {"token": other, "audiences": ["vault", "x"]}})["status"]["audiences"] == [
        "vault"
    ]


@pytest.mark.parametrize(
    ("spec", "code", "message"),
    [
        ({"expirationSeconds": 5}, 422, "Invalid value: 5: may not specify a duration less than 10 minutes"),
        ({"expirationSeconds": 1 << 33}, 422, "may not specify a duration larger than 2^32 seconds"),
        ({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "no"}}, 404, 'pods "no" not found'),
        (
            {"boundObjectRef": {"kind": "ConfigMap", "apiVersion": "v1", "name": "no"}},
            400,
            "cannot bind token to object",
        ),
    ],
)
def test_token_requests_that_are_refused(wire: Wire, ns: str, spec: Object, code: int, message: str) -> None:
    reply = wire.post(f"/api/v1/namespaces/{ns}/serviceaccounts/default/token", {"spec": spec})
    assert reply.code == code and message in reply["message"], reply


BOOTSTRAP = {
    "admin": "9c9f8d3fa753",
    "cluster-admin": "6846eaa72bdd",
    "edit": "8bfc3133f1c9",
    "system:aggregate-to-admin": "e18c03f01418",
    "system:aggregate-to-edit": "e755841736d9",
    "system:aggregate-to-view": "4eea1a0af001",
    "system:auth-delegator": "09d36c3def70",
    "system:basic-user": "45d397804e78",
    "system:discovery": "e846ca61de8e",
    "system:kube-dns": "50a38e8e7061",
    "system:kube-scheduler": "5f3be7a0ece9",
    "system:kubelet-api-admin": "ef13a75d1c9f",
    "system:monitoring": "7c8c553a40dc",
    "system:node": "364a43f677fe",
    "system:node-problem-detector": "946774821a1d",
    "system:node-proxier": "558944755fdf",
    "system:persistent-volume-provisioner": "c39af91073fc",
    "system:public-info-viewer": "31aaa7856911",
    "system:service-account-issuer-discovery": "957690473675",
    "system:volume-scheduler": "07a5236bf642",
    "view": "4eea1a0af001",
}
"""Digests of the rules of roles, as recorded from Kubernetes 1.36: equal digests, equal rules."""


def digest(role: Object) -> str:
    rules = [{**row, "verbs": sorted(row["verbs"])} for row in role.get("rules") or ()]
    text = json.dumps(
        sorted(json.dumps(row, sort_keys=True) for row in rules if row.get("apiGroups") != ["metrics.k8s.io"])
    )
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@pytest.mark.parametrize("name", BOOTSTRAP)
def test_bootstrap_roles(wire: Wire, name: str) -> None:
    role = eventually(lambda: (r := wire.get(f"{RBAC}/clusterroles/{name}")).body.get("rules") and r.body)
    assert digest(role) == BOOTSTRAP[name], role["rules"]
    assert role["metadata"]["labels"]["kubernetes.io/bootstrapping"] == "rbac-defaults"
    assert role["metadata"]["annotations"] == {"rbac.authorization.kubernetes.io/autoupdate": "true"}
