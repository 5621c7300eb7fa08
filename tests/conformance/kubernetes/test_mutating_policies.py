"""MutatingAdmissionPolicy and its bindings: what they change, in which order, and how they fail."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.wire import Object, Reply, Wire

GROUP = "/apis/admissionregistration.k8s.io/v1"
POLICIES, BINDINGS = f"{GROUP}/mutatingadmissionpolicies", f"{GROUP}/mutatingadmissionpolicybindings"
_counter = itertools.count()
PROBE = {"name": "probe", "expression": "object.metadata.name != 'probe'"}


def rule(group: str, plural: str, *operations: str) -> Object:
    return {"apiGroups": [group], "apiVersions": ["v1"], "operations": list(operations), "resources": [plural]}


RULE = rule("", "configmaps", "CREATE", "UPDATE")


def maps(ns: str) -> str:
    return f"/api/v1/namespaces/{ns}/configmaps"


def config(name: str, **data: str) -> Object:
    return {"metadata": {"name": name}, "data": data}


def applied(expression: str) -> Object:
    return {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}


def patched(expression: str) -> Object:
    return {"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}


Mutate = Callable[..., str]


@pytest.fixture
def mutate(wire: Wire, ns: str) -> Iterator[Mutate]:
    """Write a policy over what the test makes, with its binding; its name, once it is in force."""
    made: list[str] = []

    def put(*mutations: Object, rules: list[Object] | None = None, reference: Object | None = None, **spec: Any) -> str:
        name = f"m{next(_counter):03}-{ns}"
        spec = {"failurePolicy": "Fail", "reinvocationPolicy": "Never", **spec}
        conditions = [*spec.pop("matchConditions", []), PROBE]
        spec |= {"matchConstraints": {"resourceRules": rules or [RULE]}, "matchConditions": conditions}
        reply = wire.post(POLICIES, {"metadata": {"name": name}, "spec": {**spec, "mutations": list(mutations)}})
        assert reply.code == 201, reply
        selector = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ns}}}
        bound: Object = {"policyName": name, "matchResources": selector}
        if reference:
            bound["paramRef"] = reference
        assert wire.post(BINDINGS, {"metadata": {"name": name}, "spec": bound}).code == 201
        # A policy beside it, written later, that tells when both are in force.
        probe = f"{name}-probe"
        mark = applied(f'Object{{metadata: Object.metadata{{labels: {{"{probe}": "seen"}}}}}}')
        only = {"name": "probe", "expression": "object.metadata.name == 'probe'"}
        tells = {**spec, "matchConstraints": {"resourceRules": [RULE]}, "matchConditions": [only], "mutations": [mark]}
        tells.pop("paramKind", None)
        tells.pop("variables", None)
        assert wire.post(POLICIES, {"metadata": {"name": probe}, "spec": tells}).code == 201
        bound = {"policyName": probe, "matchResources": selector}
        assert wire.post(BINDINGS, {"metadata": {"name": probe}, "spec": bound}).code == 201
        made.extend((name, probe))
        asked = config("probe")

        def seen() -> bool:
            reply = wire.post(maps(ns), asked, dryRun="All")
            return bool(reply.code == 201 and probe in (reply["metadata"].get("labels") or {}))

        eventually(seen, what="policy in force")
        return name

    yield put
    for name in made:
        wire.delete(f"{BINDINGS}/{name}")
        wire.delete(f"{POLICIES}/{name}")


def denied(reply: Reply, policy: str, message: str, reason: str = "Invalid") -> None:
    text = f"policy '{policy}' with binding '{policy}' denied request: {message}"
    assert (reply.code, reply.reason) == (403, reason), reply
    assert reply["message"] == text
    assert reply["details"]["causes"] == [{"message": text}]


def test_an_apply_configuration_is_laid_over_the_object(wire: Wire, ns: str, mutate: Mutate) -> None:
    mutate(
        applied(
            'Object{metadata: Object.metadata{labels: {"team": object.metadata.name}}, data: Object.data{added: "yes"}}'
        )
    )
    made = wire.post(maps(ns), config("a", k="1"), fieldManager="me")
    assert made.code == 201, made
    assert made["metadata"]["labels"] == {"team": "a"} and made["data"] == {"k": "1", "added": "yes"}
    assert [entry["manager"] for entry in made["metadata"]["managedFields"]] == ["me"]
    assert wire.get(f"{maps(ns)}/a")["data"] == {"k": "1", "added": "yes"}
    changed = wire.patch(f"{maps(ns)}/a", {"data": {"added": "no"}})
    assert changed["data"]["added"] == "yes", "updates as well"


def test_lists_of_structures_merge_by_their_keys(wire: Wire, ns: str, mutate: Mutate) -> None:
    sidecar = (
        "Object{spec: Object.spec{initContainers: [Object.spec.initContainers{name: 'proxy', image: 'proxy:1',"
        " restartPolicy: 'Always'}], containers: object.spec.containers.map(c, Object.spec.containers{name: c.name,"
        " env: [Object.spec.containers.env{name: 'PROXY', value: 'on'}]})}}"
    )
    mutate(applied(sidecar), rules=[rule("", "pods", "CREATE")])
    containers = [{"name": "a", "image": "x:1", "env": [{"name": "E", "value": "1"}]}, {"name": "b", "image": "y:1"}]
    made = wire.post(f"/api/v1/namespaces/{ns}/pods", {"metadata": {"name": "p"}, "spec": {"containers": containers}})
    assert made.code == 201, made
    spec = made["spec"]
    assert [(c["name"], c["image"]) for c in spec["containers"]] == [("a", "x:1"), ("b", "y:1")]
    proxy = {"name": "PROXY", "value": "on"}
    assert [c["env"] for c in spec["containers"]] == [[{"name": "E", "value": "1"}, proxy], [proxy]]
    assert [(c["name"], c["restartPolicy"]) for c in spec["initContainers"]] == [("proxy", "Always")]
    assert spec["initContainers"][0]["terminationMessagePath"] == "/dev/termination-log", "what is added is defaulted"


def test_json_patches(wire: Wire, ns: str, mutate: Mutate) -> None:
    policy = mutate(
        patched(
            """[
              JSONPatch{op: "add", path: "/metadata/annotations", value: {}},
              JSONPatch{op: "add", path: "/metadata/annotations/" + jsonpatch.escapeKey("example.com/n"), value: "~"},
              JSONPatch{op: "replace", path: "/data/k", value: object.data.k + "!"},
              JSONPatch{op: "add", path: "/metadata/labels", value: {"n": string(size(object.data))}},
              JSONPatch{op: "move", from: "/data/m", path: "/data/n"}
            ]"""
        ),
        patched('[JSONPatch{op: "test", path: "/data/k", value: "other"}, JSONPatch{op: "remove", path: "/data/k"}]'),
        matchConditions=[{"name": "k", "expression": "'k' in object.data"}],
    )
    made = wire.post(maps(ns), config("a", k="1", m="2"))
    assert made.code == 201, made
    assert made["data"] == {"k": "1!", "n": "2"}, "a test that fails takes its patch with it"
    assert made["metadata"]["labels"] == {"n": "2"} and made["metadata"]["annotations"] == {"example.com/n": "~"}
    assert wire.post(maps(ns), config("b", z="1"))["data"] == {"z": "1"}, "the condition is not met"
    failed = wire.post(maps(ns), config("c", k="1"))
    assert (failed.code, failed.reason) == (403, "Invalid"), "nothing to move"
    assert failed["message"].startswith(f"policy '{policy}' with binding '{policy}' denied request: JSON Patch: ")


def test_what_a_policy_makes_is_validated(wire: Wire, ns: str, mutate: Mutate) -> None:
    mutate(applied('Object{data: {"a~b": "tilde"}}'))
    made = wire.post(maps(ns), config("a"))
    assert made.code == 422 and "data[a~b]" in made["message"], made


def test_variables_and_parameters(wire: Wire, ns: str, mutate: Mutate) -> None:
    assert wire.post(maps(ns), config("limits", team="red")).code == 201
    policy = mutate(
        applied(
            "Object{data: Object.data{team: variables.team, by: request.userInfo.username, ?gone: params.data[?'x']}}"
        ),
        variables=[{"name": "team", "expression": "params.data.team + '-' + namespaceObject.metadata.name"}],
        paramKind={"apiVersion": "v1", "kind": "ConfigMap"},
        reference={"name": "limits", "parameterNotFoundAction": "Deny"},
        matchConditions=[{"name": "not-me", "expression": "object.metadata.name != 'limits'"}],
    )  # fmt: skip
    made = wire.post(maps(ns), config("a"))
    assert made.code == 201, made
    assert made["data"]["team"] == f"red-{ns}" and set(made["data"]) == {"team", "by"}
    wire.delete(f"{maps(ns)}/limits")
    eventually(lambda: wire.post(maps(ns), config("b"), dryRun="All").code == 403)
    denied(
        wire.post(maps(ns), config("b")), policy,
        "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction",
        "Forbidden",
    )  # fmt: skip


def test_what_cannot_be_evaluated_denies_or_is_left_out(wire: Wire, ns: str, mutate: Mutate) -> None:
    lenient = mutate(applied("Object{data: Object.data{a: object.data.missing}}"), failurePolicy="Ignore")
    assert lenient and wire.post(maps(ns), config("a", k="1"))["data"] == {"k": "1"}
    policy = mutate(applied("Object{data: Object.data{a: object.data.missing}}"))
    denied(
        wire.post(maps(ns), config("b", k="1")), policy,
        "expression 'Object{data: Object.data{a: object.data.missing}}' resulted in error: no such key: missing",
    )  # fmt: skip
    assert wire.post(maps(ns), config("b", missing="1"))["data"] == {"missing": "1", "a": "1"}


def test_structures_are_named_after_their_fields(wire: Wire, ns: str, mutate: Mutate) -> None:
    policy = mutate(applied("Object{metadata: Object.spec{labels: {'a': 'b'}}}"))
    denied(
        wire.post(maps(ns), config("b")), policy,
        'type mismatch: unexpected type name "Object.spec", expected "Object.metadata", which matches field name path'
        " from root Object type",
    )  # fmt: skip


def test_values_that_are_atomic_are_not_applied(wire: Wire, ns: str, mutate: Mutate) -> None:
    command = "Object{spec: Object.spec{containers: [Object.spec.containers{name: 'a', command: ['x']}]}}"
    policy = mutate(applied(command), rules=[rule("", "pods", "CREATE")])
    spec = {"containers": [{"name": "a", "image": "x:1"}]}
    denied(
        wire.post(f"/api/v1/namespaces/{ns}/pods", {"metadata": {"name": "p"}, "spec": spec}), policy,
        "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs:"
        " .spec.containers[0].command",
    )  # fmt: skip


def test_a_policy_may_ask_to_be_invoked_again(wire: Wire, ns: str, mutate: Mutate) -> None:
    count = "Object{data: Object.data{%s: string(size(object.data))}}"
    mutate(applied(count % "first"), reinvocationPolicy="IfNeeded")
    mutate(applied(count % "second"))
    made = wire.post(maps(ns), config("a", k="1"))
    # The order of policies is not promised; the first is invoked again at the end and sees all that there is.
    assert made["data"]["first"] == "3" and made["data"]["second"] in ("1", "2"), made


def test_mutations_come_before_validation(wire: Wire, ns: str, mutate: Mutate) -> None:
    """What a policy adds is bounded by the namespace's limits and given the limits' defaults."""
    ranges = f"/api/v1/namespaces/{ns}/limitranges"
    bounds = {"type": "Container", "default": {"cpu": "1"}, "max": {"cpu": "1"}}
    assert wire.post(ranges, {"metadata": {"name": "l"}, "spec": {"limits": [bounds]}}).code == 201
    spec = {"containers": [{"name": "a", "image": "x:1"}]}
    path = f"/api/v1/namespaces/{ns}/pods"

    def limited() -> bool:
        made = wire.post(path, {"metadata": {"name": "p"}, "spec": spec}, dryRun="All")
        return bool(made["spec"]["containers"][0]["resources"])

    eventually(limited)
    added = "Object{spec: Object.spec{containers: [Object.spec.containers{name: 'b', image: 'y:1'}]}}"
    mutate(applied(added), rules=[rule("", "pods", "CREATE")])
    made = wire.post(path, {"metadata": {"name": "p"}, "spec": spec})
    assert made.code == 201, made
    assert [c["resources"].get("limits") for c in made["spec"]["containers"]] == [{"cpu": "1"}] * 2
    assert made["status"]["qosClass"] == "Burstable"


GOOD = {
    "matchConstraints": {"resourceRules": [RULE]},
    "mutations": [applied("Object{}")],
    "reinvocationPolicy": "Never",
}


@pytest.mark.parametrize(
    ("change", "causes"),
    [
        ({"mutations": []},
         [("FieldValueRequired", "spec.mutations", "Required value: mutations must contain at least one item")]),
        ({"reinvocationPolicy": "Often"},
         [("FieldValueNotSupported", "spec.reinvocationPolicy",
           'Unsupported value: "Often": supported values: "IfNeeded", "Never"')]),
        ({"matchConstraints": {"resourceRules": [rule("", "configmaps", "DELETE")]}},
         [("FieldValueNotSupported", "spec.matchConstraints.resourceRules.operations",
           'Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE"')]),
        ({"mutations": [{"patchType": "JSONPatch", "applyConfiguration": {"expression": "Object{}"}}]},
         [("FieldValueInvalid", "spec.mutations[0].applyConfiguration",
           'Invalid value: "{applyConfiguration}": must not be specified when patchType is JSONPatch'),
          ("FieldValueRequired", "spec.mutations[0].jsonPatch",
           "Required value: must be specified when patchType is JSONPatch")]),
        ({"mutations": [applied("'text'")]},
         [("FieldValueInvalid", "spec.mutations[0].applyConfiguration.expression",
           "Invalid value: \"'text'\": must evaluate to Object but got string")]),
        ({"mutations": [patched("[1]")]},
         [("FieldValueInvalid", "spec.mutations[0].jsonPatch.expression",
           'Invalid value: "[1]": must evaluate to list(JSONPatch) but got list(int)')]),
    ],
)  # fmt: skip
def test_policies_that_cannot_be(wire: Wire, change: Object, causes: list[tuple[str, ...]]) -> None:
    reply = wire.post(POLICIES, {"metadata": {"name": "wrong"}, "spec": {**GOOD, **change}}, dryRun="All")
    assert (reply.code, reply.reason) == (422, "Invalid"), reply
    assert reply.causes == sorted(causes)


def test_defaults_and_columns(wire: Wire) -> None:
    made = wire.post(POLICIES, {"metadata": {"name": "plain"}, "spec": GOOD}, dryRun="All")
    assert made.code == 201, made
    constraints = made["spec"]["matchConstraints"]
    assert (constraints["matchPolicy"], constraints["namespaceSelector"]) == ("Equivalent", {})
    assert made["spec"]["failurePolicy"] == "Fail"
    assert made["metadata"]["generation"] == 1
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    expected = {
        POLICIES: ["Name", "Mutations", "ParamKind", "Age"],
        BINDINGS: ["Name", "PolicyName", "ParamRef", "Age"],
    }
    for path, names in expected.items():
        columns = wire.request("GET", path, headers=accept)["columnDefinitions"]
        assert [column["name"] for column in columns if not column["priority"]] == names
