"""Custom kinds: which definitions are refused and how, and what their schemas do to objects."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.test_cel import DEFINITIONS, WHERE, Served, definition
from tests.conformance.kubernetes.wire import Wire

TYPES = '"array", "boolean", "integer", "number", "object", "string"'


@pytest.mark.parametrize(
    ("schema", "causes"),
    [
        (
            {"type": "object", "properties": {"a": {"type": "nope"}}},
            [("FieldValueNotSupported", "properties[a].type", f'Unsupported value: "nope": supported values: {TYPES}')],
        ),
        (
            {"type": "object", "properties": {"a": {}}},
            [
                (
                    "FieldValueRequired",
                    "properties[a].type",
                    "Required value: must not be empty for specified object fields",
                )
            ],
        ),
        ({"type": "array"}, [("FieldValueRequired", "items", "Required value: must be specified")]),
        (
            {"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}},
            [
                (
                    "FieldValueTypeInvalid",
                    "properties[a].default",
                    'Invalid value: "string":  in body must be of type integer: "string"',
                )
            ],
        ),
        (
            {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}},
            [
                (
                    "FieldValueForbidden",
                    "additionalProperties",
                    "Forbidden: additionalProperties and properties are mutual exclusive",
                )
            ],
        ),
        (
            {"type": "array", "uniqueItems": True, "items": {"type": "string"}},
            [
                (
                    "FieldValueForbidden",
                    "uniqueItems",
                    "Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
                )
            ],
        ),
        (
            {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "string"}},
            [
                (
                    "FieldValueInvalid",
                    "items.type",
                    'Invalid value: "string": must be object if parent array\'s x-kubernetes-list-type is map',
                ),
                (
                    "FieldValueRequired",
                    "x-kubernetes-list-map-keys",
                    "Required value: must not be empty if x-kubernetes-list-type is map",
                ),
            ],
        ),
        (
            {"type": "object", "x-kubernetes-preserve-unknown-fields": False},
            [
                (
                    "FieldValueInvalid",
                    "x-kubernetes-preserve-unknown-fields",
                    "Invalid value: false: must be true or undefined",
                )
            ],
        ),
        (
            {"type": "object", "oneOf": [{"properties": {"z": {"type": "integer"}}}]},
            [("FieldValueForbidden", "oneOf[0].properties[z].type", "Forbidden: must be empty to be structural")],
        ),
        ({"$ref": "x"}, [("FieldValueForbidden", "$ref", "Forbidden: $ref is not supported")]),
    ],
)
def test_schemas_must_be_structural(wire: Wire, schema: dict[str, Any], causes: list[tuple[str, str, str]]) -> None:
    reply = wire.post(DEFINITIONS, definition(schema))
    assert reply.code == 422, reply
    assert reply.causes == [(reason, f"{WHERE}.{field}", message) for reason, field, message in causes]


def test_defaults_pruning_and_what_is_kept(wire: Wire) -> None:
    served = Served(
        wire,
        {
            "type": "object",
            "properties": {
                "a": {"type": "integer", "default": 5},
                "nothing": {"type": "string", "nullable": True, "default": "x"},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "o": {"type": "object", "default": {}, "properties": {"b": {"type": "boolean", "default": True}}},
            },
        },
    )
    made = served.create(nothing=None, unknown=1, free={"x": {"y": 1}})
    assert made.code == 201, made
    assert made["spec"] == {"a": 5, "nothing": None, "free": {"x": {"y": 1}}, "o": {"b": True}}
    assert served.patch(a=None)["spec"]["a"] == 5, "what is taken away gets its default again"
    served.remove()


def test_a_definition_goes_with_its_objects(wire: Wire) -> None:
    served = Served(wire, {"type": "object", "properties": {"a": {"type": "integer"}}})
    assert served.create(a=1).code == 201
    path = f"{DEFINITIONS}/{served.crd['metadata']['name']}"
    conditions = {row["type"]: (row["status"], row["reason"]) for row in wire.get(path)["status"]["conditions"]}
    assert conditions["NamesAccepted"] == ("True", "NoConflicts")
    assert conditions["Established"] == ("True", "InitialNamesAccepted")
    served.remove()
    eventually(lambda: wire.get(path).code == 404)
    eventually(lambda: wire.get(served.path).code == 404)


def test_versions_of_one_kind(wire: Wire) -> None:
    crd = definition({"type": "object", "properties": {"a": {"type": "integer"}}})
    first = crd["spec"]["versions"][0]
    crd["spec"]["versions"].append({**first, "name": "v2", "storage": False})
    assert wire.post(DEFINITIONS, crd).code == 201
    names = crd["spec"]["names"]
    paths = {version: f"/apis/cel.example.com/{version}/{names['plural']}" for version in ("v1", "v2")}
    eventually(lambda: all(wire.get(path).code == 200 for path in paths.values()))
    body = {"apiVersion": "cel.example.com/v2", "kind": names["kind"], "metadata": {"name": "x"}, "spec": {"a": 1}}
    made = eventually(lambda: (r := wire.post(paths["v2"], body)).code != 404 and r)
    assert (made.code, made["apiVersion"]) == (201, "cel.example.com/v2")
    seen = wire.get(f"{paths['v1']}/x")
    assert (seen["apiVersion"], seen["spec"]) == ("cel.example.com/v1", {"a": 1})
    assert seen["metadata"]["uid"] == made["metadata"]["uid"]
    wire.delete(f"{DEFINITIONS}/{crd['metadata']['name']}")
