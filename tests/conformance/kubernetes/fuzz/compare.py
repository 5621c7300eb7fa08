"""When two answers are the same: what each server makes up for itself is struck out, the rest must agree."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.conformance.kubernetes.fuzz.generate import GENERATED, NAMES
from tests.conformance.kubernetes.wire import Reply

_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_ADDRESS = re.compile(r"10\.96\.\d+\.\d+")
_GOT = re.compile(
    r", got (&.*|boolean|bool|string|int|map|list|array|object|\[\]interface \{\}|map\[.*)$", re.MULTILINE
)  # Go's memory of a value, written in several ways
_WHY = re.compile(r"(?<=due to an error in our request): .*$")  # which step of a JSON patch failed: ours says so
# A refused patch: the outcome is shown with Go's order of fields, and what is wrong with it in Go's words.
_PATCH = re.compile(r'(?<=patch: )Invalid value: "(\{|map\[).*', re.DOTALL)
_DECODED = re.compile(
    r"(?<=json: cannot unmarshal )(\w+(?: [-\d.]+)?) into Go (struct field|value) .*"
)  # Go's names of types, of which no schema tells
# what a pod or claim may not change is shown as a difference of Go structures
_DIFFERENCE = re.compile(
    r"(?<=Forbidden: )((?:pod updates|spec is immutable|spec.persistentvolumesource is)[^\n]*)\n.*", re.DOTALL
)
# a value shown as a Go structure that no schema describes
_GO = re.compile(r'Invalid value: \{(?=.*("Spec":\{|"spec":|"Volumes":|"containers":|"dnsPolicy":)).*\}(?=: )')
# the same of a list's element
_ELEMENT = re.compile(r"(?<=Duplicate value: )\{.*\}")
# no map, and a map without anything in it, are told apart by upstream
_NO_LABELS = re.compile(
    r"(Invalid|Unsupported) value: (\{\}|\[\]|null)"
    r"(?=: (`selector` does not match|supported values|field is immutable|either `defaultBackend`))"
)
# the tokens upstream's parser of expressions could have gone on with
_TOKENS = re.compile(r" expecting (\{[^\n]*\}|'[^\n]*')$", re.MULTILINE)
# a Scale of a custom kind that cannot be read: upstream loses the fault looking for the type's name
_SCALE = re.compile(
    r'^(\w+ in version "\w+" cannot be handled as a Scale: |no kind is registered for the type v1.Scale in scheme'
    r"|the object provided is unrecognized \(must be of type Scale\): ).*",
    re.DOTALL,
)
# of the faults of an applied object, which are found depends on the order in which Go walks a map
_UNDECLARED = re.compile(r"(?<=\): )(errors:\n|\.).*field not declared in schema.*", re.DOTALL)
_VERSION = re.compile(
    r"(?<=ResourceVersion in the precondition \()\d+|(?<=ResourceVersion in record \()\d+"
    r"|(?<=ResourceVersion in precondition: )\d+|(?<=ResourceVersion in object meta: )\d+"
    r"|(?<=resource version: )\d+|(?<=resourceVersion:)\d+|(?<=current: )\d+"
)
# made up by each side for itself
_OWN = frozenset({"uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "continue"})
_PORTS = frozenset({"nodePort", "healthCheckNodePort"})
# upstream stores a field for services that need none, does not show it, and yet it is owned: docs/conformance.md
_HIDDEN = "internalTrafficPolicy"
_GENERATED = re.compile(rf"{GENERATED}[a-z0-9]{{5}}\b")
_NODE_PORT = re.compile(r"(?<=\d:)3\d{4}(?=/)")
_SHARED_PORT = re.compile(r"(?<=duplicate nodePort: \{)(\w+) \d+")
_AGE = re.compile(r"\d+[smhd](\d+[smh])?")


def text(value: str) -> str:
    value = _DIFFERENCE.sub(r"\1", value.replace("unmarshalerDecoder: ", ""))  # which of two decoders it was
    value = _UNDECLARED.sub("UNDECLARED", value)
    if "): errors:\n" in value:  # and so does their order
        before, _, faults = value.partition("): errors:\n")
        value = "\n".join([before, *sorted(faults.split("\n"))])
    value = _SCALE.sub("NO SCALE", _TOKENS.sub("", value))
    value = _SHARED_PORT.sub(r"\1 PORT", value)
    value = _NO_LABELS.sub(r"\1 value: {}", _ELEMENT.sub("OBJECT", value))
    value = _GO.sub("Invalid value: OBJECT", _DECODED.sub(r"\1", _PATCH.sub("OUTCOME", value)))
    value = _ADDRESS.sub("ADDRESS", _TIME.sub("TIME", _UID.sub("UID", value)))
    return _GENERATED.sub("GENERATED", _VERSION.sub("N", _WHY.sub("", _GOT.sub(", got VALUE", value))))


def plain(value: Any) -> Any:
    """`value` without what differs from server to server."""
    if isinstance(value, dict):
        made = {key: plain(item) for key, item in value.items() if key not in _OWN and key not in _PORTS}
        made.pop(f"f:{_HIDDEN}", None)
        if made.get("type") == "ExternalName":
            made.pop(_HIDDEN, None)
        if "managedFields" in made and isinstance(made["managedFields"], list):
            made["managedFields"] = sorted(made["managedFields"], key=lambda entry: json.dumps(entry, sort_keys=True))
        return made
    if isinstance(value, list):
        return [plain(item) for item in value]
    return text(value) if isinstance(value, str) else value


def _own(body: Any) -> Any:
    """A list or table without what the fuzzer did not make; cells that tell an age all the same."""
    if not isinstance(body, dict):
        return body
    if "pages" in body:
        pages = [_own(page) for page in body["pages"]]
        if any(page.get("kind") == "EventList" for page in pages):
            # the real server tells of services whose addresses it finds amiss: pages are counted with its own events
            return {"items": [item for page in pages for item in page.get("items", (page,))]}
        return {"pages": pages}
    if isinstance(items := body.get("items"), list):
        return {**body, "items": [item for item in items if item["metadata"]["name"] in NAMES]}
    if "rows" in body and isinstance(rows := body["rows"] or [], list):
        kept = [row for row in rows if row["object"]["metadata"]["name"] in NAMES]
        aged = [{**row, "cells": [_cell(cell) for cell in row["cells"]]} for row in kept]
        columns = [{**column, "description": ""} for column in body.get("columnDefinitions") or ()]  # prose
        return {**body, "rows": aged if body["rows"] is not None else None, "columnDefinitions": columns}
    return body


def _cell(cell: Any) -> Any:
    """A cell of a table without an age, and without the node ports of a service."""
    if not isinstance(cell, str):
        return cell
    return "AGE" if _AGE.fullmatch(cell) else _NODE_PORT.sub("PORT", cell)


def normal(reply: Reply) -> dict[str, Any]:
    """An answer as it is compared: the code, the warnings, the body. A Status keeps its causes, in any order."""
    try:
        body = plain(_own(reply.body))
    except ValueError:
        body = text(reply.raw.decode(errors="replace"))
    if isinstance(body, dict) and body.get("kind") == "Status":
        body.pop("metadata", None)
        details = body.get("details")
        if isinstance(details, dict) and isinstance(details.get("causes"), list):
            causes = [_cause(cause) for cause in details["causes"]]
            # upstream says some things twice, because it checks twice
            details["causes"] = sorted((c for i, c in enumerate(causes) if c not in causes[:i]), key=str)
            body["message"] = "" if len(details["causes"]) > 1 else body.get("message")
        if not details:
            body.pop("details", None)
        no_version = "Object 'apiVersion' is missing"
        if no_version in str(body.get("message")):
            body.pop("details", None)
            body["message"] = no_version
        if reply.code == 500 and (
            not body.get("reason") or body["message"] == no_version
        ):  # the client's fault, which ours says: docs/conformance.md
            body |= {"code": 400, "reason": "BadRequest"}
            return {"code": 400, "warnings": sorted(text(w) for w in reply.warnings), "body": body}
    return {"code": reply.code, "warnings": sorted(text(w) for w in reply.warnings), "body": body}


def _cause(cause: Any) -> Any:
    if isinstance(cause, dict) and cause.get("field") == "patch":
        return {**cause, "message": "OUTCOME"}
    if isinstance(cause, dict) and str(cause.get("field")).endswith(".nodePort"):
        return {**cause, "message": re.sub(r"\d+$", "PORT", str(cause.get("message")))}
    return cause


def differences(real: Any, ours: Any, path: str = "") -> list[str]:
    """Where two normal answers differ: `path: real -> ours`."""
    if isinstance(real, dict) and isinstance(ours, dict):
        found: list[str] = []
        for key in sorted(real.keys() | ours.keys(), key=str):
            found += differences(real.get(key, "(absent)"), ours.get(key, "(absent)"), f"{path}.{key}")
        return found
    if isinstance(real, list) and isinstance(ours, list) and path.endswith(".causes"):
        missing, extra = [c for c in real if c not in ours], [c for c in ours if c not in real]
        if len(missing) == len(extra) == 1:
            return differences(missing[0], extra[0], f"{path}[]")
        found = [f"{path} lacks {c.get('field')}: {c.get('message')}"[:600] for c in missing]
        found += [f"{path} has besides {c.get('field')}: {c.get('message')}"[:600] for c in extra]
        return found or (
            [] if len(real) == len(ours) else [f"{path}: one of them not as often: {real} -> {ours}"[:900]]
        )
    if isinstance(real, list) and isinstance(ours, list) and len(real) == len(ours):
        return [
            line for i, (a, b) in enumerate(zip(real, ours, strict=True)) for line in differences(a, b, f"{path}[{i}]")
        ]
    if real == ours and type(real) is type(ours):
        return []
    return [f"{path}: {str(real)[:400]!r} -> {str(ours)[:400]!r}"]
