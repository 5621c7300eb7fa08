"""`x-kubernetes-validations`: compiled and checked when a definition is written, evaluated when an object is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from sampan.cluster.apiserver.cel.compiler import Program, compile_program
from sampan.cluster.apiserver.cel.structural import type_of, value_of
from sampan.cluster.apiserver.cel.syntax import SyntaxFault
from sampan.cluster.apiserver.cel.types import Type, optional_of
from sampan.cluster.apiserver.cel.values import EvaluationFault, Optional
from sampan.kube.errors import Cause
from sampan.kube.schema import Schema
from sampan.kube.wrong_types import json_type

KEY = "x-kubernetes-validations"
REASONS = {
    "FieldValueDuplicate": "Duplicate value{0}", "FieldValueForbidden": "Forbidden: {1}",
    "FieldValueInvalid": "Invalid value{0}: {1}", "FieldValueRequired": "Required value: {1}",
}  # fmt: skip
BLOCKING = {
    "FieldValueNotSupported",
    "FieldValueRequired",
    "FieldValueTooLong",
    "FieldValueTooMany",
    "FieldValueTypeInvalid",
}
UNCHECKED = (
    "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing"
    " errors to complete validation"
)
_SHOWN = ("rule", "message", "messageExpression", "reason", "fieldPath", "optionalOldSelf")
_OLD = re.compile(r"\boldSelf\b")


class Rule:
    """One compiled rule. Raises SyntaxFault."""

    def __init__(self, row: dict[str, Any], kind: Type) -> None:
        self.row = row
        self.optional = bool(row.get("optionalOldSelf"))
        self.variables = {"self": kind, "oldSelf": optional_of(kind) if self.optional else kind}
        self.program = compile_program(row["rule"], self.variables)
        self.transition = "oldSelf" in self.program.names
        text = row.get("messageExpression")
        self.message: Program | None = compile_program(text, self.variables) if text else None

    def causes(self, value: Any, old: Any, has_old: bool, shown: Any, path: str) -> list[Cause]:
        """`shown` is the value as it was written; only a scalar goes into the message."""
        if self.transition and not self.optional and not has_old:
            return []
        bindings = {"self": value, "oldSelf": Optional(has_old, old) if self.optional else old}
        try:
            if self.program.evaluate(bindings) is True:
                return []
        except EvaluationFault as fault:
            about = self.row.get("message") or self.row["rule"].strip()
            return [Cause(path, f'Invalid value: "{json_type(shown)}": {fault} evaluating rule: {about}')]
        reason = self.row.get("reason") or "FieldValueInvalid"
        where = path + (self.row.get("fieldPath") or "")
        given = "" if isinstance(shown, dict | list) else f": {json.dumps(shown)}"
        message = REASONS[reason].format(given, self._message(bindings))
        return [Cause(where.removeprefix("."), message, reason)]

    def _message(self, bindings: dict[str, Any]) -> str:
        if self.message is not None:
            try:
                text = self.message.evaluate(bindings)
            except EvaluationFault:
                text = None
            if isinstance(text, str) and text.strip() and "\n" not in text:
                return text
        return self.row.get("message") or f"failed rule: {self.row['rule'].strip()}"


class RuleTree:
    """The rules of a schema, node by node; only branches that have any."""

    def __init__(self, schema: Schema, *, root: bool = False) -> None:
        self.schema = schema
        rows = schema.raw.get(KEY) or ()
        kind = type_of(schema, root=root) if rows else None
        self.rules: list[Rule] = []
        for row in rows:
            if kind is not None:
                try:
                    self.rules.append(Rule(row, kind))
                except SyntaxFault:
                    continue  # refused when the definition is written; only one stored before can have it
        declared = schema.raw.get("properties") or {}
        branches = {name: RuleTree(schema.properties[name]) for name in declared}
        self.fields = {name: tree for name, tree in branches.items() if tree}
        self.values = _branch(schema.values if isinstance(schema.raw.get("additionalProperties"), dict) else None)
        self.items = _branch(schema.items if isinstance(schema.raw.get("items"), dict) else None)

    def __bool__(self) -> bool:
        return bool(self.rules or self.fields or self.values or self.items)

    def causes(self, value: Any, old: Any, has_old: bool, path: str = "", *, root: bool = False) -> Iterator[Cause]:
        """The faults of `value`; `old` is what it was, where `has_old`."""
        if value is None:
            return
        if self.rules:
            unchanged = has_old and old == value
            try:
                seen = value_of(self.schema, value, root=root)
                before = value_of(self.schema, old, root=root) if has_old else None
            except EvaluationFault:
                return  # a value its format forbids is told of by the schema
            for rule in self.rules:
                if not unchanged or rule.transition:  # what was there before the rule may stay
                    yield from rule.causes(seen, before, has_old, value, path)
        if isinstance(value, dict):
            yield from self._members(value, old if isinstance(old, dict) else {}, path)
        elif isinstance(value, list) and self.items:
            known = self._by_key(old)
            for index, item in enumerate(value):
                found = known.get(self._key(item)) if known else None
                yield from self.items.causes(item, found, found is not None, f"{path}[{index}]")

    def _members(self, value: dict[str, Any], old: dict[str, Any], path: str) -> Iterator[Cause]:
        for name, item in value.items():
            tree = self.fields.get(name)
            if tree is not None:
                yield from tree.causes(item, old.get(name), name in old, f"{path}.{name}" if path else name)
            elif self.values:
                yield from self.values.causes(item, old.get(name), name in old, f"{path}[{name}]")

    def _key(self, item: Any) -> tuple[str, ...]:
        keys = self.schema.list_map_keys
        return tuple(repr(item.get(key)) for key in keys) if isinstance(item, dict) else ()

    def _by_key(self, old: Any) -> dict[tuple[str, ...], Any]:
        if self.schema.list_type != "map" or not isinstance(old, list):
            return {}
        return {self._key(item): item for item in old}


def _branch(schema: Schema | None) -> RuleTree | None:
    if schema is None:
        return None
    return RuleTree(schema) or None


def rule_causes(tree: RuleTree, new: Any, old: Any, found: list[Cause]) -> list[Cause]:
    """What the rules say of an object whose schema found `found`: rules wait until what they rest on is right."""
    if any(cause.reason in BLOCKING for cause in found):
        return [Cause("<nil>", UNCHECKED)]
    return list(tree.causes(new, old, old is not None, root=True))


def tree_of(schema: Schema) -> RuleTree | None:
    """The rules of a whole kind; None where it has none."""
    return RuleTree(schema, root=True) or None


# -- the check of a definition


def definition_causes(raw: dict[str, Any], path: str) -> list[Cause]:
    """Every fault of the rules of an `openAPIV3Schema`, in upstream's words."""
    return list(_check(raw, path, root=True, correlatable=True, within=""))


def _check(raw: Any, path: str, *, root: bool, correlatable: bool, within: str) -> Iterator[Cause]:
    if not isinstance(raw, dict):
        return
    rows = raw.get(KEY) or ()
    if rows:
        schema = Schema.from_crd(raw) if root else Schema(raw)
        kind = type_of(schema, root=root)
        for index, row in enumerate(rows):
            where = f"{path}.{KEY}[{index}]"
            yield from _check_rule(row, kind, raw, where)
            if not correlatable and _OLD.search(row.get("rule") or ""):
                shown = json.dumps(row.get("rule"))
                message = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {within}"
                yield Cause(f"{where}.rule", f"Invalid value: {shown}: {message}")
    for name, part in (raw.get("properties") or {}).items():
        yield from _check(part, f"{path}.properties[{name}]", root=False, correlatable=correlatable, within=within)
    if isinstance(raw.get("additionalProperties"), dict):
        part = raw["additionalProperties"]
        yield from _check(part, f"{path}.additionalProperties", root=False, correlatable=correlatable, within=within)
    if isinstance(raw.get("items"), dict):
        keyed = correlatable and raw.get("x-kubernetes-list-type") == "map"
        yield from _check(
            raw["items"], f"{path}.items", root=False, correlatable=keyed, within=within or ("" if keyed else path)
        )


def _check_rule(row: Any, kind: Type | None, raw: dict[str, Any], where: str) -> Iterator[Cause]:
    if not isinstance(row, dict):
        return
    text = row.get("rule") or ""
    if not text.strip():
        yield Cause(f"{where}.rule", "Required value: rule is not specified", "FieldValueRequired")
        return
    yield from _check_words(row, raw, where)
    if kind is None:
        return
    shown = json.dumps(
        {name[0].upper() + name[1:]: row.get(name, _empty(name)) for name in _SHOWN}, separators=(",", ":")
    )
    for char, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        shown = shown.replace(char, code)
    variables = {"self": kind, "oldSelf": optional_of(kind) if row.get("optionalOldSelf") else kind}
    try:
        program = compile_program(text, variables)
        if program.type.name not in ("bool", "dyn"):
            yield Cause(f"{where}.rule", f"Invalid value: {shown}: cel expression must evaluate to a bool")
        if row.get("optionalOldSelf") is not None and "oldSelf" not in program.names:
            message = (
                f"Invalid value: {json.dumps(row['optionalOldSelf'])}: may not be set if oldSelf is not used in rule"
            )
            yield Cause(f"{where}.optionalOldSelf", message)
    except SyntaxFault as fault:
        yield Cause(f"{where}.rule", f"Invalid value: {shown}: compilation failed: {fault}")
    expression = row.get("messageExpression")
    if not expression:
        return
    try:
        if compile_program(expression, variables).type.name not in ("string", "dyn"):
            message = f"Invalid value: {shown}: messageExpression must evaluate to a string"
            yield Cause(f"{where}.messageExpression", message)
    except SyntaxFault as fault:
        message = f"Invalid value: {shown}: messageExpression compilation failed: {fault}"
        yield Cause(f"{where}.messageExpression", message)


def _empty(name: str) -> str | None:
    return None if name in ("reason", "optionalOldSelf") else ""


def _check_words(row: dict[str, Any], raw: dict[str, Any], where: str) -> Iterator[Cause]:
    message = row.get("message")
    if message:
        if not message.strip():
            yield Cause(f"{where}.message", f"Invalid value: {json.dumps(message)}: must be non-empty if specified")
        elif "\n" in message.strip() or "\r" in message.strip():
            yield Cause(f"{where}.message", f"Invalid value: {json.dumps(message)}: must not contain line breaks")
    reason = row.get("reason")
    if reason is not None and reason not in REASONS:
        supported = ", ".join(f'"{name}"' for name in sorted(REASONS))
        text = f"Unsupported value: {json.dumps(reason)}: supported values: {supported}"
        yield Cause(f"{where}.reason", text, "FieldValueNotSupported")
    path = row.get("fieldPath")
    if path:
        node: Any = raw
        for dotted, quoted in re.findall(r"\.([^.\[]+)|\['([^']+)'\]", path):
            name = dotted or quoted
            more = node.get("additionalProperties")
            node = (node.get("properties") or {}).get(name) or (more if isinstance(more, dict) else None)
            if node is None:
                yield Cause(f"{where}.fieldPath", f"Invalid value: {json.dumps(path)}: must be a valid path")
                return
