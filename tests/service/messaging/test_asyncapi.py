"""The AsyncAPI document: what the specification demands of its structure, and what an application puts into it."""

from __future__ import annotations

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from msgspec import Struct, defstruct
from pydantic import BaseModel

from sampan import Application, Environment, Service, Topic
from sampan.service.messaging.asyncapi import document


class Line(Struct):
    sku: str


class Placed(Struct):
    """An order was placed."""

    number: int
    lines: list[Line]


class Paid(BaseModel):
    number: int
    lines: list[str] = []


def other_line() -> type:
    line: Any = defstruct("Line", [("weight", float)])
    return defstruct("Packed", [("lines", list[line])])


placed = Topic("placed", Placed, key="number")
paid = Topic("paid", Paid, version=3)
packed: Topic[Any] = Topic("packed", other_line())
APP = Application(
    "shop",
    version="2.1.0",
    services=[
        Service("orders", uses=[placed.publish(), packed.publish()]),
        Service(
            "mail", uses=[placed.subscribe("m:f", group="mailers"), paid.subscribe("m:g"), packed.subscribe("m:h")]
        ),
        Service("pay", uses=[paid.publish(), placed.subscribe("p:f")]),
    ],
    environments=[Environment("prod", messaging="kafka"), Environment("rabbit", messaging="rabbitmq")],
)
# https://www.asyncapi.com/docs/reference/specification/v3.0.0: which fields an object must and may have
REFERENCE = {"type": "object", "required": ["$ref"], "properties": {"$ref": {"type": "string"}}, "maxProperties": 1}
OBJECTS: dict[str, dict[str, Any]] = {
    "servers": {"required": ["host", "protocol"], "may": ["description", "bindings", "security", "tags"]},
    "channels": {"required": ["address", "messages"], "may": ["servers", "bindings", "title", "summary", "parameters"]},
    "operations": {"required": ["action", "channel"], "may": ["messages", "tags", "summary", "bindings", "title"]},
    "messages": {"required": [], "may": ["name", "title", "contentType", "headers", "payload", "summary"]},
}
NAME = {"pattern": r"^[a-zA-Z0-9\.\-_]+$"}


def an(kind: str, **properties: Any) -> dict[str, Any]:
    known = OBJECTS[kind]
    fields = dict.fromkeys([*known["required"], *known["may"]], True)
    return {
        "type": "object",
        "propertyNames": NAME,
        "additionalProperties": {
            "type": "object",
            "required": known["required"],
            "properties": {**fields, **properties},
            "additionalProperties": False,
        },
    }


SCHEMA = {
    "type": "object",
    "required": ["asyncapi", "info"],
    "additionalProperties": False,
    "properties": {
        "asyncapi": {"const": "3.0.0"},
        "info": {"type": "object", "required": ["title", "version"]},
        "defaultContentType": {"type": "string"},
        "servers": an("servers"),
        "channels": an(
            "channels",
            servers={"items": REFERENCE},
            messages={"additionalProperties": REFERENCE, "propertyNames": NAME},
        ),
        "operations": an(
            "operations", action={"enum": ["send", "receive"]}, channel=REFERENCE, messages={"items": REFERENCE}
        ),
        "components": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"messages": an("messages"), "schemas": {"type": "object", "propertyNames": NAME}},
        },
    },
}


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for one in value.values() for ref in references(one)]
    return [ref for one in value for ref in references(one)] if isinstance(value, list) else []


def resolve(whole: Any, reference: str) -> Any:
    found = whole
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


@pytest.mark.parametrize("environment", ["dev", "prod", "rabbit"])
def test_the_document_is_what_the_specification_demands(environment: str) -> None:
    made = document(APP, APP.environment(environment))
    jsonschema.validate(made, SCHEMA)
    assert json.loads(json.dumps(made)) == made
    for reference in references(made):
        resolve(made, reference)
    for operation in made["operations"].values():  # its messages must be of its channel: by reference to the channel's
        channel = operation["channel"]["$ref"]
        assert all(message["$ref"].startswith(f"{channel}/messages/") for message in operation["messages"])
    for schema in made["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_what_is_in_it() -> None:
    made = document(APP)
    assert made["info"] == {"title": "shop", "version": "2.1.0"}
    assert {name: operation["action"] for name, operation in made["operations"].items()} == {
        "orders-publishes-placed": "send",
        "orders-publishes-packed": "send",
        "mail-receives-placed-as-mailers": "receive",
        "mail-receives-paid-as-mail": "receive",
        "mail-receives-packed-as-mail": "receive",
        "pay-publishes-paid": "send",
        "pay-receives-placed-as-pay": "receive",
    }
    assert made["components"]["messages"]["Placed"]["summary"] == "An order was placed."
    assert made["components"]["messages"]["Paid"]["headers"]["properties"]["sampan-version"]["const"] == "3"
    schemas = made["components"]["schemas"]
    lines = {name: schema["properties"] for name, schema in schemas.items() if name.endswith("Line")}
    assert sorted(field for properties in lines.values() for field in properties) == ["sku", "weight"]
    payload = made["components"]["messages"]["Placed"]["payload"]
    validator = {"$ref": payload["$ref"], "components": made["components"]}
    jsonschema.validate({"number": 1, "lines": [{"sku": "a"}]}, validator)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"number": 1, "lines": [{"weight": 1}]}, validator)


def test_the_broker_is_that_of_the_environment() -> None:
    kafka, rabbit = (document(APP, APP.environment(name)) for name in ("prod", "rabbit"))
    assert kafka["servers"]["messaging"] == {"host": "messaging:9092", "protocol": "kafka"}
    assert kafka["channels"]["placed"]["bindings"] == {"kafka": {"topic": "placed", "partitions": 8}}
    assert rabbit["servers"]["messaging"]["protocol"] == "amqp"
