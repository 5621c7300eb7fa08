"""MutatingAdmissionPolicy and its bindings: changes in CEL, made within the write, before webhooks see the object.

An ApplyConfiguration is laid over the object as server-side apply would, a JSONPatch applied as such; neither takes
ownership of fields. A policy that asks for it (`reinvocationPolicy: IfNeeded`) is invoked once more at the end.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sampan.cluster.apiserver import patching
from sampan.cluster.apiserver.admission.attributes import Attributes
from sampan.cluster.apiserver.admission.invocations import Invocation, Scope, invocations
from sampan.cluster.apiserver.admission.webhooks import refusal
from sampan.cluster.apiserver.cel import EvaluationFault, SyntaxFault
from sampan.cluster.apiserver.cel.values import Optional, Structure
from sampan.cluster.apiserver.decode import json_copy
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object
from sampan.kube.patch import apply, fields
from sampan.kube.schema import Schema

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

TABLE = "admissionregistration.k8s.io/mutatingadmissionpolicies"
BINDINGS = "admissionregistration.k8s.io/mutatingadmissionpolicybindings"
JSON_PATCH = "application/json-patch+json"
Key = tuple[str, str, str]


class Mutations:
    def __init__(self, server: ApiServer) -> None:
        self.server = server

    def apply(self, attributes: Attributes, only: list[Key] | None = None) -> list[Key] | None:
        """Change `attributes.new` in place; `only` are the invocations to make again.

        None where no policy did anything, else those to make again at the end. Raises ApiError 403.
        """
        assert attributes.new is not None
        again: list[Key] = []
        ran = False
        faults: list[tuple[str, str]] = []
        concerned = list(invocations(self.server, attributes, TABLE, BINDINGS))
        for invocation in concerned:
            if only is not None and invocation.key not in only:
                continue
            try:
                if invocation.fault:
                    faults += [] if invocation.lenient else [(_said(invocation, invocation.fault), "Forbidden")]
                    continue
                scope = Scope(attributes, invocation)
                if not scope.wanted():
                    continue
            except (EvaluationFault, SyntaxFault) as fault:
                faults += [] if invocation.lenient else [(_said(invocation, str(fault)), "Invalid")]
                continue
            ran = True
            for row in invocation.policy["spec"].get("mutations") or ():
                try:
                    self._mutate(attributes, invocation, row)
                except (EvaluationFault, SyntaxFault) as fault:
                    faults += [] if invocation.lenient else [(_said(invocation, str(fault)), "Invalid")]
            if invocation.policy["spec"].get("reinvocationPolicy") == "IfNeeded":
                again.append(invocation.key)
        if faults:
            error = refusal(attributes, "")
            error.message, error.reason = faults[0]
            error.details["causes"] = [{"message": text} for text, _ in faults]
            raise error
        return again if ran else None

    def _mutate(self, attributes: Attributes, invocation: Invocation, row: Object) -> None:
        new = attributes.new
        assert new is not None
        kind = invocation.kind
        shown = json_copy(attributes.shown(new, kind))
        scope = Scope(attributes, invocation)
        patches = row["patchType"] == "JSONPatch"
        text = row["jsonPatch" if patches else "applyConfiguration"]["expression"]
        try:
            value = scope.evaluate(text.strip(), structures=True)
        except (EvaluationFault, SyntaxFault) as fault:
            raise EvaluationFault(f"expression '{text}' resulted in error: {fault}") from None
        made = _patched(shown, value, kind.schema) if patches else _applied(shown, value, kind.schema)
        if made == shown:
            return
        settled = self.server.writer.settle(kind, made)
        if kind.crd is not None and kind is not attributes.kind:  # a custom kind is written in the request's version
            settled = attributes.kind.seen(settled)
        new.clear()
        new.update(settled)


def _said(invocation: Invocation, message: str) -> str:
    policy, binding = invocation.policy["metadata"]["name"], invocation.binding["metadata"]["name"]
    return f"policy '{policy}' with binding '{binding}' denied request: {message}"


def _applied(shown: Object, value: Any, schema: Schema) -> Object:
    if not isinstance(value, Structure):
        raise EvaluationFault("unsupported return type from ApplyConfiguration expression")
    check_names(value, value.name)
    wanted: Object = {"apiVersion": shown["apiVersion"], "kind": shown["kind"], **native(value)}
    atomics = list(_atomics(schema, wanted, ""))
    if atomics:
        raise EvaluationFault(
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: "
            + ", ".join(atomics)
        )
    merged: Object = apply.merge(schema, shown, wanted)
    return merged


def _atomics(schema: Schema, value: Any, path: str) -> Any:
    """The paths of values that could only be replaced as a whole."""
    if isinstance(value, dict):
        if path and not fields.is_map(schema, value):
            yield path
        for name, item in value.items():
            yield from _atomics(fields.child_of(schema, name), item, f"{path}.{name}")
    elif isinstance(value, list):
        if not fields.is_list(schema, value):
            yield path
        for index, item in enumerate(value):
            yield from _atomics(schema.items, item, f"{path}[{index}]")


def _patched(shown: Object, value: Any, schema: Schema) -> Object:
    if not isinstance(value, list) or any(not isinstance(one, Structure) or one.name != "JSONPatch" for one in value):
        raise EvaluationFault("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch")
    operations = []
    for one in value:
        if isinstance(one.get("value"), Structure):
            check_names(one["value"], one["value"].name)
        operations.append({key: item for key, item in native(one).items() if key != "from" or item})
    try:
        patched: Object = patching.patch(JSON_PATCH, shown, operations, schema)
    except ApiError as error:
        tested = any(one["op"] == "test" for one in operations)
        if tested and "test" in error.message:
            return shown  # a test that fails means that there is nothing to do
        raise EvaluationFault(f"JSON Patch: {error.message}") from None
    return patched


def check_names(value: Any, path: str) -> None:
    """Every structure must be named after the fields that lead to it. Raises EvaluationFault."""
    faults: list[str] = []

    def walk(one: Any, path: str) -> None:
        if isinstance(one, Structure) and one.name != path:
            faults.append(
                f'unexpected type name "{one.name}", expected "{path}", which matches field name path from root Object'
                " type"
            )
        if isinstance(one, Structure):
            for key, item in one.items():
                walk(item, f"{path}.{key}")
        elif isinstance(one, dict | list):
            for item in one.values() if isinstance(one, dict) else one:
                walk(item, path)

    walk(value, path)
    if faults:
        raise EvaluationFault("type mismatch: " + "\n".join(faults))


def native(value: Any) -> Any:
    """A value of CEL as JSON has it. Raises EvaluationFault for one that JSON cannot hold."""
    if isinstance(value, dict):
        if any(not isinstance(key, str) for key in value):
            raise EvaluationFault("map keys must be strings")
        return {key: native(item) for key, item in value.items()}
    if isinstance(value, list):
        return [native(item) for item in value]
    if isinstance(value, Optional):
        return native(value.value) if value.present else None
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, int):
        return int(value)
    raise EvaluationFault("the value of an expression could not be marshalled to JSON")
