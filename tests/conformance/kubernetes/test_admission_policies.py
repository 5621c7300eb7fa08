"""ValidatingAdmissionPolicy and its bindings."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.test_cel import Served
from tests.conformance.kubernetes.wire import Reply, Wire

GROUP = "/apis/admissionregistration.k8s.io/v1"
POLICIES, BINDINGS = f"{GROUP}/validatingadmissionpolicies", f"{GROUP}/validatingadmissionpolicybindings"
NEITHER = "validations or auditAnnotations must contain at least one item"
_counter = itertools.count()
RULE = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}


def maps(ns: str) -> str:
    return f"/api/v1/namespaces/{ns}/configmaps"


def config(name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": data}


@pytest.fixture
def enforce(wire: Wire, ns: str) -> Iterator[Callable[..., str]]:
    """Write a policy over the config maps of the test with its binding; its name, once it is in force."""
    made: list[str] = []

    def put(actions: list[str], *, reference: dict[str, Any] | None = None, **spec: Any) -> str:
        name = f"p{next(_counter)}-{ns}"
        constraints = {"resourceRules": [RULE]}
        conditions = [
            *spec.pop("matchConditions", []),
            {"name": "probe", "expression": "object.metadata.name != 'probe'"},
        ]
        body = {"matchConstraints": constraints, "matchConditions": conditions, **spec}
        reply = wire.post(POLICIES, {"metadata": {"name": name}, "spec": body})
        assert reply.code == 201, reply
        selector = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ns}}}
        bound = {"policyName": name, "validationActions": actions, "matchResources": selector}
        if reference:
            bound["paramRef"] = reference
        reply = wire.post(BINDINGS, {"metadata": {"name": name}, "spec": bound})
        assert reply.code == 201, reply
        # A policy beside it, written later, that tells when both are in force.
        probe = f"{name}-probe"
        tells = {"matchConstraints": constraints, "validations": [{"expression": "object.metadata.name != 'probe'"}]}
        assert wire.post(POLICIES, {"metadata": {"name": probe}, "spec": tells}).code == 201
        bound = {"policyName": probe, "validationActions": ["Deny"], "matchResources": selector}
        assert wire.post(BINDINGS, {"metadata": {"name": probe}, "spec": bound}).code == 201
        made.extend((name, probe))
        eventually(lambda: wire.post(maps(ns), config("probe"), dryRun="All").code == 422, what="policy in force")
        return name

    yield put
    for name in made:
        wire.delete(f"{BINDINGS}/{name}")
        wire.delete(f"{POLICIES}/{name}")


def denied(reply: Reply, policy: str, message: str, code: int = 422, reason: str = "Invalid") -> None:
    text = f"ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: {message}"
    assert (reply.code, reply.reason) == (code, reason), reply
    assert reply["message"] == f'configmaps "a" is forbidden: {text}'
    assert reply["details"] == {"name": "a", "kind": "configmaps", "causes": [{"message": text}]}


def test_a_failed_expression_denies(wire: Wire, ns: str, enforce: Callable[..., str]) -> None:
    policy = enforce(["Deny"], validations=[{"expression": "object.data.k == 'ok'"}])
    denied(wire.post(maps(ns), config("a", k="no")), policy, "failed expression: object.data.k == 'ok'")
    message = "expression 'object.data.k == 'ok'' resulted in error: no such key: k"
    denied(wire.post(maps(ns), config("a", z="no")), policy, message)
    assert wire.post(maps(ns), config("a", k="ok")).code == 201
    denied(wire.patch(f"{maps(ns)}/a", {"data": {"k": "x"}}), policy, "failed expression: object.data.k == 'ok'")
    assert wire.delete(f"{maps(ns)}/a").code == 200, "the policy is not about deletions"


def test_messages_reasons_and_variables(wire: Wire, ns: str, enforce: Callable[..., str]) -> None:
    policy = enforce(
        ["Deny"],
        variables=[
            {"name": "k", "expression": "object.data.k"},
            {"name": "fits", "expression": "variables.k.startsWith('a')"},
        ],
        matchConditions=[{"name": "long", "expression": "object.data.k.size() > 1"}],
        validations=[
            {"expression": "variables.fits", "messageExpression": "'got ' + variables.k", "reason": "Forbidden"},
            {"expression": "oldObject == null || object.data.k == oldObject.data.k", "message": "k stays"},
            {"expression": "namespaceObject.metadata.name == request.namespace"},
            {"expression": "request.operation in ['CREATE', 'UPDATE']"},
        ],
    )
    denied(wire.post(maps(ns), config("a", k="no")), policy, "got no", 403, "Forbidden")
    assert wire.post(maps(ns), config("a", k="n")).code == 201, "too short to be asked about"
    denied(wire.patch(f"{maps(ns)}/a", {"data": {"k": "ab"}}), policy, "k stays")


def test_warn_and_audit_let_pass(wire: Wire, ns: str, enforce: Callable[..., str]) -> None:
    policy = enforce(["Warn", "Audit"], validations=[{"expression": "object.data.k == 'ok'", "message": "not ok"}])
    reply = wire.post(maps(ns), config("a", k="no"))
    assert reply.code == 201
    text = f"Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{policy}': not ok"
    assert reply.warnings == [f'299 - "{text}"']


def test_ignore_lets_errors_pass_but_not_failures(wire: Wire, ns: str, enforce: Callable[..., str]) -> None:
    policy = enforce(["Deny"], failurePolicy="Ignore", validations=[{"expression": "object.data.k == 'ok'"}])
    assert wire.post(maps(ns), config("b", z="1")).code == 201
    denied(wire.post(maps(ns), config("a", k="no")), policy, "failed expression: object.data.k == 'ok'")


def test_parameters(wire: Wire, ns: str, enforce: Callable[..., str]) -> None:
    served = Served(wire, {"type": "object", "properties": {"k": {"type": "string"}}})
    assert served.create("limits", k="ok").code == 201
    kind = {"apiVersion": "cel.example.com/v1", "kind": served.kind}
    reference = {"name": "limits", "parameterNotFoundAction": "Deny"}
    validations = [{"expression": "object.data.k == params.spec.k"}]
    policy = enforce(["Deny"], reference=reference, paramKind=kind, validations=validations)
    message = "failed expression: object.data.k == params.spec.k"
    # A kind met for the first time as a parameter takes a while to be watched upstream.
    eventually(lambda: message in wire.post(maps(ns), config("a", k="no"), dryRun="All").body.get("message", ""))
    denied(wire.post(maps(ns), config("a", k="no")), policy, message)
    assert wire.post(maps(ns), config("b", k="ok")).code == 201
    wire.delete(f"{served.path}/limits")
    absent = "no params found for policy binding with `Deny` parameterNotFoundAction"
    eventually(lambda: absent in wire.post(maps(ns), config("a", k="ok"), dryRun="All").body.get("message", ""))
    denied(wire.post(maps(ns), config("a", k="ok")), policy, f"failed to configure binding: {absent}")
    served.remove()


@pytest.mark.parametrize(
    ("spec", "causes"),
    [
        (
            {"validations": [{"expression": "1"}]},
            [("spec.validations[0].expression", 'Invalid value: "1": must evaluate to bool but got int')],
        ),
        (
            {},
            [
                (
                    "spec.auditAnnotations",
                    "Required value: validations or auditAnnotations must contain at least one item",
                ),
                ("spec.validations", "Required value: validations or auditAnnotations must contain at least one item"),
            ],
        ),
        (
            {"validations": [{"expression": "variables.q == 1"}]},
            [
                (
                    "spec.validations[0].expression",
                    'Invalid value: "variables.q == 1": compilation failed: ERROR: <input>:1:1: undeclared reference to'
                    " 'variables' (in container '')\n | variables.q == 1\n | ^",
                )
            ],
        ),
    ],
)
def test_policies_are_checked(wire: Wire, spec: dict[str, Any], causes: list[tuple[str, str]]) -> None:
    body = {"metadata": {"name": "bad"}, "spec": {"matchConstraints": {"resourceRules": [RULE]}, **spec}}
    reply = wire.post(POLICIES, body)
    assert reply.code == 422, reply
    assert [(field, message) for _, field, message in reply.causes] == causes


def test_bindings_are_checked(wire: Wire) -> None:
    body = {"metadata": {"name": "bad"}, "spec": {"policyName": "p", "validationActions": ["Deny", "Warn"]}}
    reply = wire.post(BINDINGS, body)
    assert [cause[1] for cause in reply.causes] == ["spec.validationActions"]
    assert "must not contain both Deny and Warn" in reply["message"]


def test_defaults_and_discovery(wire: Wire, ns: str) -> None:
    body = {"metadata": {"name": f"d-{ns}"}, "spec": {"matchConstraints": {"resourceRules": [RULE]}}}
    body["spec"]["validations"] = [{"expression": "true"}]  # type: ignore[index]
    made = wire.post(POLICIES, body)
    assert made["spec"] == {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "matchPolicy": "Equivalent",
            "namespaceSelector": {},
            "objectSelector": {},
            "resourceRules": [{**RULE, "scope": "*"}],
        },
        "validations": [{"expression": "true"}],
    }
    assert made["metadata"]["generation"] == 1
    wire.delete(f"{POLICIES}/d-{ns}")
    names = {row["name"]: row for row in wire.get(GROUP)["resources"]}
    wanted = {"validatingadmissionpolicies", "validatingadmissionpolicies/status", "validatingadmissionpolicybindings"}
    assert wanted <= set(names)
    assert names["validatingadmissionpolicies"]["categories"] == ["api-extensions"]
