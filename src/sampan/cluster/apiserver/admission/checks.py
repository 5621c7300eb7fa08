"""The expressions of hooks and policies, checked when they are written, in upstream's words."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sampan.cluster.apiserver.admission.expressions import BASE
from sampan.cluster.apiserver.cel import DYN, SyntaxFault, Type, compile_program
from sampan.cluster.apiserver.registry.faults import Faults
from sampan.kube.objects import Object


def expression(
    faults: Faults,
    text: str,
    path: str,
    variables: Mapping[str, Type],
    result: str,
    *,
    structures: bool = False,
    missing: str = "",
) -> Type:
    """Fault what does not compile or gives another type than `result` ("" for any); the type it gives."""
    if not text.strip():
        faults.required(path, missing)
        return DYN
    try:
        found = compile_program(text, variables, structures=structures).type
    except SyntaxFault as fault:
        faults.invalid(path, text, f"compilation failed: {fault}")
        return DYN
    if result and found.name != result and str(found) != result and not (structures and _open(found)):
        faults.invalid(path, text, f"must evaluate to {result} but got {found}")
    return found


def _open(found: Type) -> bool:
    """Whether the type of a value is only known when it is there."""
    return found.name == "dyn" or (found.name == "list" and found.parameters[0].name == "dyn")


def match_conditions(
    faults: Faults, rows: list[Object], path: str, variables: Mapping[str, Type] | None = None
) -> None:
    seen = set()
    for index, row in enumerate(rows):
        name = row.get("name") or ""
        if name in seen:
            faults.duplicate(f"{path}[{index}].name", name)
        seen.add(name)
        if not name:
            faults.required(f"{path}[{index}].name")
        expression(faults, row.get("expression") or "", f"{path}[{index}].expression", variables or BASE, "bool")


_IDENTIFIER = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*")
_REASONS = ("Forbidden", "Invalid", "RequestEntityTooLarge")


def policy(faults: Faults, spec: Object) -> None:
    """Every expression of a ValidatingAdmissionPolicy."""
    known = _known(faults, spec)
    match_conditions(faults, spec.get("matchConditions") or [], "spec.matchConditions", known)
    validations, notes = spec.get("validations") or [], spec.get("auditAnnotations") or []
    if not validations and not notes:
        detail = "validations or auditAnnotations must contain at least one item"
        faults.required("spec.validations", detail)
        faults.required("spec.auditAnnotations", detail)
    for index, row in enumerate(validations):
        path = f"spec.validations[{index}]"
        missing = "expression is not specified"
        expression(faults, row.get("expression") or "", f"{path}.expression", known, "bool", missing=missing)
        if row.get("reason") not in (None, "", *_REASONS):
            faults.one_of(f"{path}.reason", row["reason"], _REASONS)
        if row.get("messageExpression"):
            expression(faults, row["messageExpression"], f"{path}.messageExpression", known, "string")
    for index, row in enumerate(notes):
        path = f"spec.auditAnnotations[{index}].valueExpression"
        missing = "valueExpression is not specified"
        expression(faults, row.get("valueExpression") or "", path, known, "", missing=missing)


MUTATIONS = {
    "ApplyConfiguration": ("applyConfiguration", "Object", "jsonPatch"),
    "JSONPatch": ("jsonPatch", "list(JSONPatch)", "applyConfiguration"),
}
"""patchType -> (its field, what its expression gives, the field that must be absent)."""


def mutating_policy(faults: Faults, spec: Object) -> None:
    """Every expression of a MutatingAdmissionPolicy."""
    known = _known(faults, spec)
    match_conditions(faults, spec.get("matchConditions") or [], "spec.matchConditions", known)
    rows = spec.get("mutations") or []
    if not rows:
        faults.required("spec.mutations", "mutations must contain at least one item")
    for index, row in enumerate(rows):
        path, kind = f"spec.mutations[{index}]", row.get("patchType")
        faults.one_of(f"{path}.patchType", kind, sorted(MUTATIONS))
        if kind not in MUTATIONS:
            continue
        field, result, other = MUTATIONS[kind]
        if row.get(field) is None:
            faults.required(f"{path}.{field}", f"must be specified when patchType is {kind}")
        else:
            text = (row[field].get("expression") or "").strip()
            expression(faults, text, f"{path}.{field}.expression", known, result, structures=True)
        if row.get(other) is not None:
            faults.invalid(f"{path}.{other}", f"{{{other}}}", f"must not be specified when patchType is {kind}")


def _known(faults: Faults, spec: Object) -> dict[str, Type]:
    """What the expressions of a policy may name, its own variables among them."""
    from sampan.cluster.apiserver.admission.invocations import known_variables

    known, fields = known_variables(spec), dict[str, Type]()
    for index, row in enumerate(spec.get("variables") or ()):
        text, path = row.get("expression") or "", f"spec.variables[{index}].expression"
        if not row.get("name"):
            faults.required(f"spec.variables[{index}].name", "name is not specified")
        elif not _IDENTIFIER.fullmatch(row["name"]):
            faults.invalid(f"spec.variables[{index}].name", row["name"], "must be a valid CEL identifier")
        types = {**known, "variables": Type("variables", fields=dict(fields))}
        missing = "expression is not specified"
        fields[row.get("name") or ""] = expression(faults, text, path, types, "", missing=missing)
    if fields:
        known["variables"] = Type("variables", fields=fields)
    return known
