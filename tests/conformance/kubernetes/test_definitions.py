"""Definitions of custom kinds: their names, versions, columns, subresources, selectable fields, and what is refused."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.wire import Reply, Wire

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GROUP = "define.example.com"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
LABEL = "a DNS-1035 label must consist of lower case alphanumeric characters or '-'"
Object = dict[str, Any]
Define = Callable[..., str]
_counter = itertools.count()


def version(
    name: str = "v1", spec: Object | None = None, *, storage: bool = True, served: bool = True, **more: Any
) -> Object:
    spec = spec or {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    status = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": status}}}
    return {"name": name, "served": served, "storage": storage, "schema": schema, **more}


def fields(**properties: Object) -> Object:
    return {"type": "object", "properties": properties}


def definition(*versions: Object, names: Object | None = None, group: str = GROUP, **spec: Any) -> Object:
    one = f"d{next(_counter)}x{os.getpid()}"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{one}s.{group}"},
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {"plural": f"{one}s", "kind": one.title(), **(names or {})},
            "versions": list(versions),
            **spec,
        },
    }


def conditions(wire: Wire, name: str) -> dict[str, tuple[str, str, str]]:
    rows = wire.get(f"{DEFINITIONS}/{name}")["status"].get("conditions") or []
    return {row["type"]: (row["status"], row["reason"], row["message"]) for row in rows}


def accepted(wire: Wire, plural: str) -> bool:
    """Whether it is decided if the names are accepted."""
    return "NamesAccepted" in conditions(wire, f"{plural}.{GROUP}")


def served(wire: Wire, plural: str) -> bool:
    return wire.get(f"/apis/{GROUP}/v1/{plural}").code == 200


@pytest.fixture
def define(wire: Wire) -> Iterator[Define]:
    """Make a definition and wait until it is served; its plural. Removed after the test."""
    made: list[str] = []

    def make(*versions: Object, wait: bool = True, **more: Any) -> str:
        body = definition(*versions, **more)
        assert wire.post(DEFINITIONS, body).code == 201
        made.append(body["metadata"]["name"])
        plural = str(body["spec"]["names"]["plural"])
        served = [row["name"] for row in versions if row["served"]]
        if wait:
            eventually(lambda: all(wire.get(f"/apis/{GROUP}/{name}/{plural}").code == 200 for name in served))
        return plural

    yield make
    for name in made:
        wire.delete(f"{DEFINITIONS}/{name}")


def create(wire: Wire, plural: str, name: str, version: str = "v1", **rest: Any) -> Reply:
    kind = plural.removesuffix("s").title()
    body = {"apiVersion": f"{GROUP}/{version}", "kind": kind, "metadata": {"name": name}, **rest}
    reply: Reply = eventually(lambda: (r := wire.post(f"/apis/{GROUP}/{version}/{plural}", body)).code != 404 and r)
    return reply


def test_names_are_given_once(wire: Wire, define: Define) -> None:
    short = f"sn{os.getpid()}"
    first = define(version(), names={"shortNames": [short], "categories": ["all"]})
    kind = first.removesuffix("s").title()
    status = wire.get(f"{DEFINITIONS}/{first}.{GROUP}")["status"]
    assert status["acceptedNames"] == {
        "plural": first,
        "singular": kind.lower(),
        "shortNames": [short],
        "kind": kind,
        "listKind": f"{kind}List",
        "categories": ["all"],
    }
    same_kind = define(version(), names={"kind": kind}, wait=False)
    same_short = define(version(), names={"shortNames": [short]}, wait=False)
    waiting = {
        same_kind: ("False", "ListKindConflict", f'"{kind}List" is already in use'),
        same_short: ("False", "ShortNamesConflict", f'"{short}" is already in use'),
    }
    for plural, said in waiting.items():
        eventually(partial(accepted, wire, plural))
        assert conditions(wire, f"{plural}.{GROUP}") == {
            "NamesAccepted": said,
            "Established": ("False", "NotAccepted", "not all names are accepted"),
        }
        assert wire.get(f"/apis/{GROUP}/v1/{plural}").code == 404
    wire.delete(f"{DEFINITIONS}/{first}.{GROUP}")
    for plural in waiting:
        eventually(partial(served, wire, plural))
        assert conditions(wire, f"{plural}.{GROUP}")["NamesAccepted"] == ("True", "NoConflicts", "no conflicts found")


def test_versions_come_and_go(wire: Wire, define: Define) -> None:
    plural = define(version(), version("v2", storage=False))
    path = f"{DEFINITIONS}/{plural}.{GROUP}"
    create(wire, plural, "x", spec={"a": 1})
    both = [version(storage=False), version("v2")]
    assert wire.patch(path, {"spec": {"versions": both}})["status"]["storedVersions"] == ["v1", "v2"]
    eventually(lambda: wire.get(f"/apis/{GROUP}/v2/{plural}/x").code == 200)
    assert wire.get(f"/apis/{GROUP}/v2/{plural}/x")["apiVersion"] == f"{GROUP}/v2"
    dropped = wire.patch(path, {"spec": {"versions": [version("v2")]}})
    assert [(field, reason) for reason, field, _ in dropped.causes] == [
        ("status.storedVersions[0]", "FieldValueInvalid")
    ]
    assert "v1 was previously a storage version, and must remain in spec.versions until" in dropped["message"]
    hidden = [version(storage=False, served=False), version("v2")]
    assert wire.patch(path, {"spec": {"versions": hidden}}).code == 200
    eventually(lambda: wire.get(f"/apis/{GROUP}/v1/{plural}").code == 404)
    eventually(lambda: wire.get(f"/apis/{GROUP}/v2/{plural}/x").code == 200)
    fixed = wire.patch(path, {"spec": {"scope": "Namespaced"}})
    assert ("FieldValueInvalid", "spec.scope", 'Invalid value: "Namespaced": field is immutable') in fixed.causes


def test_columns(wire: Wire, define: Define) -> None:
    columns = [
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
        {"name": "Tags", "type": "string", "jsonPath": ".spec.tags[*]", "priority": 1},
        {"name": "Named", "type": "string", "jsonPath": '.spec.rows[?(@.k=="a")].v', "description": "One of them."},
        {"name": "Since", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    plural = define(version(additionalPrinterColumns=columns))
    create(
        wire, plural, "x", spec={"size": 3, "tags": ["a", "b"], "rows": [{"k": "a", "v": "1"}, {"k": "b", "v": "2"}]}
    )
    create(wire, plural, "y", spec={"size": "big"})
    table = wire.request("GET", f"/apis/{GROUP}/v1/{plural}", headers={"Accept": TABLE}).body
    shown = {
        column["name"]: (column["type"], column["priority"], column["description"])
        for column in table["columnDefinitions"]
    }
    assert list(shown) == ["Name", "Size", "Tags", "Named", "Since"]
    assert shown["Tags"] == ("string", 1, "Custom resource definition column (in JSONPath format): .spec.tags[*]")
    assert shown["Named"] == ("string", 0, "One of them.")
    (x, y) = (row["cells"] for row in table["rows"])
    assert x[:2] == ["x", 3] and x[3] == "1"
    assert y[0] == "y" and y[3] is None


def test_status_and_scale(wire: Wire, define: Define) -> None:
    scale = {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n", "labelSelectorPath": ".status.sel"}
    plural = define(version(subresources={"status": {}, "scale": scale}))
    path = f"/apis/{GROUP}/v1/{plural}/x"
    made = create(wire, plural, "x", spec={"n": 2}, status={"n": 9})
    assert "status" not in made.body and made["metadata"]["generation"] == 1
    reply = wire.patch(f"{path}/status", {"spec": {"n": 7}, "status": {"n": 1, "sel": "a=b"}})
    assert (reply["spec"], reply["status"], reply["metadata"]["generation"]) == ({"n": 2}, {"n": 1, "sel": "a=b"}, 1)
    shown = wire.get(f"{path}/scale").body
    assert (shown["kind"], shown["apiVersion"]) == ("Scale", "autoscaling/v1")
    assert (shown["spec"], shown["status"]) == ({"replicas": 2}, {"replicas": 1, "selector": "a=b"})
    assert wire.patch(f"{path}/scale", {"spec": {"replicas": 5}})["spec"] == {"replicas": 5}
    present = wire.get(path)
    assert (present["spec"], present["status"]["n"], present["metadata"]["generation"]) == ({"n": 5}, 1, 2)


def test_selectable_fields(wire: Wire, define: Define) -> None:
    spec = fields(color={"type": "string"}, n={"type": "integer"}, on={"type": "boolean"})
    paths = [{"jsonPath": ".spec.color"}, {"jsonPath": ".spec.n"}, {"jsonPath": ".spec.on"}]
    plural = define(version(spec=spec, selectableFields=paths))
    create(wire, plural, "a", spec={"color": "red", "n": 1, "on": True})
    create(wire, plural, "b", spec={"color": "blue", "n": 1})
    path = f"/apis/{GROUP}/v1/{plural}"

    def names(selector: str) -> list[str]:
        return [item["metadata"]["name"] for item in wire.get(path, fieldSelector=selector)["items"]]

    assert names("spec.color=red") == ["a"] and names("spec.n=1") == ["a", "b"]
    assert names("spec.color!=red,spec.n=1") == ["b"] and names("spec.on=true") == ["a"]
    unknown = wire.get(path, fieldSelector="spec.zz=1")
    assert (unknown.code, unknown["message"]) == (400, "field label not supported: spec.zz")


def test_what_schemas_do(wire: Wire, define: Define) -> None:
    item = {
        "type": "object",
        "required": ["a"],
        "properties": {"a": {"type": "string"}, "b": {"type": "integer", "default": 1}},
    }
    spec = fields(
        pattern={"type": "string", "pattern": "^[a-z]+$"},
        either={"x-kubernetes-int-or-string": True},
        embedded={
            "type": "object",
            "x-kubernetes-embedded-resource": True,
            "x-kubernetes-preserve-unknown-fields": True,
        },
        when={"type": "string", "format": "date-time"},
        number={"type": "integer"},
        rows={
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["a", "b"],
            "items": item,
        },
        names={"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
    )
    plural = define(version(spec=spec))
    inner = {"apiVersion": "v1", "kind": "Foo", "metadata": {"name": "n", "unknown": 1}, "more": 1}
    made = create(
        wire, plural, "a", spec={"pattern": "abc", "either": "5%", "embedded": inner, "rows": [{"a": "x"}], "zz": 1}
    )
    assert made.code == 201
    kept = {**inner, "metadata": {"name": "n"}}
    assert made["spec"] == {"pattern": "abc", "either": "5%", "embedded": kept, "rows": [{"a": "x", "b": 1}]}
    for wrong, reason, field, message in (
        ({"pattern": "A"}, "FieldValueInvalid", "spec.pattern", "spec.pattern in body should match '^[a-z]+$'"),
        ({"either": True}, "FieldValueTypeInvalid", "spec.either", "must be of type integer,string"),
        ({"embedded": {"kind": "x"}}, "FieldValueRequired", "spec.embedded.apiVersion", "Required value"),
        ({"when": "x"}, "FieldValueTypeInvalid", "spec.when", 'must be of type date-time: "x"'),
        ({"number": 2**63}, "FieldValueTypeInvalid", "spec.number", 'must be of type integer: "number"'),
        (
            {"rows": [{"a": "x"}, {"a": "x", "b": 1}]},
            "FieldValueDuplicate",
            "spec.rows[1]",
            'Duplicate value: {"a":"x","b":1}',
        ),
        ({"names": ["a", "a"]}, "FieldValueDuplicate", "spec.names[1]", 'Duplicate value: "a"'),
    ):
        reply = create(wire, plural, "b", spec=wrong)
        assert reply.code == 422, reply
        found = {field: (reason, message) for reason, field, message in reply.causes}
        assert found[field][0] == reason and message in found[field][1], reply


def test_no_pattern_takes_long(wire: Wire, define: Define) -> None:
    plural = define(version(spec=fields(p={"type": "string", "pattern": "^(a+)+$"})))
    reply = create(wire, plural, "a", spec={"p": "a" * 5000 + "!"})
    assert reply.code == 422
    assert create(wire, plural, "a", spec={"p": "a" * 5000}).code == 201


P = "spec.validation.openAPIV3Schema.properties[spec].properties[p].pattern"


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(a", "missing closing ): `(a`"),
        ("(?=a)b", "invalid or unsupported Perl syntax: `(?=`"),
        ("[a-z", "missing closing ]: `[a-z`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("x{2,1}", "invalid repeat count: `{2,1}`"),
    ],
)
def test_patterns_that_are_none(wire: Wire, pattern: str, said: str) -> None:
    reply = wire.post(DEFINITIONS, definition(version(spec=fields(p={"type": "string", "pattern": pattern}))))
    message = (
        f'Invalid value: "{pattern}": must be a valid regular expression, but isn\'t: error parsing regexp: {said}'
    )
    assert reply.causes == [("FieldValueInvalid", P, message)]


def hook(config: Object, *reviews: str) -> Object:
    return {"strategy": "Webhook", "webhook": {"conversionReviewVersions": list(reviews), "clientConfig": config}}


CONVERSION = "spec.conversion"
CONFIG = f"{CONVERSION}.webhookClientConfig"
ONE = [version()]
SIMPLE = "must be a simple json path starting with ."


WRONG_SCALE = {"scale": {"specReplicasPath": ".status.x", "statusReplicasPath": "spec"}}
WRONG_COLUMNS = [{"name": "x", "type": "foo", "jsonPath": "a", "format": "zz"}]
WRONG_SELECTABLE = [{"jsonPath": ".spec.p"}, {"jsonPath": ".spec.q"}]


@pytest.mark.parametrize(
    ("body", "causes"),
    [
        (
            {"conversion": {"strategy": "Foo"}},
            [(f"{CONVERSION}.strategy", 'Unsupported value: "Foo": supported values: "None"')],
        ),
        (
            {"conversion": {"strategy": "Webhook"}},
            [
                (f"{CONVERSION}.conversionReviewVersions", "Required value"),
                (CONFIG, "Required value: required when strategy is set to Webhook"),
            ],
        ),
        (
            {"conversion": hook({"url": "http://x"}, "v3")},
            [
                (f"{CONVERSION}.conversionReviewVersions", 'Invalid value: ["v3"]: must include at least one of v1'),
                (f"{CONFIG}.url", "Invalid value: \"http\": 'https' is the only allowed URL scheme"),
            ],
        ),
        ({"conversion": hook({}, "v1")}, [(CONFIG, "Required value: exactly one of url or service is required")]),
        ({"preserveUnknownFields": True}, [("spec.preserveUnknownFields", "Invalid value: true: cannot set to true")]),
        (
            {"names": {"shortNames": ["X_"], "categories": ["Y!"], "singular": "Z"}},
            [
                ("spec.names.categories[0]", f'Invalid value: "Y!": {LABEL}'),
                ("spec.names.shortNames[0]", f'Invalid value: "X_": {LABEL}'),
                ("spec.names.singular", f'Invalid value: "Z": {LABEL}'),
            ],
        ),
        (
            {"names": {"kind": "Same", "listKind": "Same"}},
            [("spec.names.listKind", 'Invalid value: "Same": kind and listKind may')],
        ),
        (
            {"group": "x.k8s.io"},
            [("metadata.annotations[api-approved.kubernetes.io]", "Required value: protected groups must")],
        ),
        ({"scope": "Foo"}, [("spec.scope", 'Unsupported value: "Foo": supported values: "Cluster", "Namespaced"')]),
        (
            {"versions": [version(subresources=WRONG_SCALE)]},
            [
                (
                    "spec.subresources.scale.specReplicasPath",
                    'Invalid value: ".status.x": should be a json path under .spec',
                ),
                ("spec.subresources.scale.statusReplicasPath", f'Invalid value: "spec": {SIMPLE}'),
            ],
        ),
        (
            {"versions": [version(additionalPrinterColumns=WRONG_COLUMNS)]},
            [
                ("spec.additionalPrinterColumns[0].JSONPath", f'Invalid value: "a": {SIMPLE}'),
                ("spec.additionalPrinterColumns[0].format", 'Invalid value: "zz": must be one of byte,date,date-time'),
                ("spec.additionalPrinterColumns[0].type", 'Invalid value: "foo": must be one of boolean,date,integer'),
            ],
        ),
        (
            {"versions": [version(spec=fields(p={"type": "object"}), selectableFields=WRONG_SELECTABLE)]},
            [
                ("spec.selectableFields[0].jsonPath", 'Invalid value: ".spec.p": must point to a field of type'),
                ("spec.selectableFields[1].jsonPath", 'Invalid value: ".spec.q": is an invalid path: does not'),
            ],
        ),
        (
            {"versions": [version(storage=False)]},
            [
                ("spec.versions", "must have exactly one version marked as storage"),
                ("status.storedVersions", "Invalid value: null: must have at least one"),
            ],
        ),
        (
            {"versions": [{"name": "v1", "served": True, "storage": True}]},
            [("spec.versions[0].schema.openAPIV3Schema", "Required value")],
        ),
    ],
)
def test_definitions_that_are_refused(wire: Wire, body: Object, causes: list[tuple[str, str]]) -> None:
    rest = {name: given for name, given in body.items() if name != "versions"}
    reply = wire.post(DEFINITIONS, definition(*body.get("versions", ONE), **rest))
    assert reply.code == 422, reply
    found = sorted((field, message) for _, field, message in reply.causes)
    assert [field for field, _ in found] == [field for field, _ in sorted(causes)], reply
    for (_, message), (_, wanted) in zip(found, sorted(causes), strict=True):
        assert wanted in message


def test_owners_are_forgotten_by_what_cannot_be_read(wire: Wire, define: Define) -> None:
    plural = define(version(spec=fields(n={"type": "integer"}), subresources={"status": {}}))
    path = f"/apis/{GROUP}/v1/{plural}/x"
    made = create(wire, plural, "x", spec={"n": 2}, status=3)
    assert (made.code, "managedFields" in made["metadata"]) == (201, False)
    assert "managedFields" in create(wire, plural, "y", spec={"n": 2})["metadata"]
    unread = wire.patch(f"{path.removesuffix('x')}y/status", {"spec": {"n": "x"}})
    assert (unread.code, unread["spec"], "managedFields" in unread["metadata"]) == (200, {"n": 2}, False)


def test_a_custom_object_names_its_type(wire: Wire, define: Define) -> None:
    plural = define(version())
    path = f"/apis/{GROUP}/v1/{plural}"
    made = create(wire, plural, "x").body
    for missing, said in (("kind", "Object 'Kind' is missing"), ("apiVersion", "the API version in the data ()")):
        body = {key: value for key, value in made.items() if key != missing}
        for reply in (wire.post(path, body), wire.put(f"{path}/x", body)):
            assert (reply.code, said in reply["message"]) == (400, True), reply
