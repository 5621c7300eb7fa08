"""The expressions of hooks and policies, checked when they are written, in upstream's words."""

from __future__ import annotations

from collections.abc import Mapping

from sampan.cluster.apiserver.admission.expressions import BASE
from sampan.cluster.apiserver.cel import DYN, SyntaxFault, Type, compile_program
from sampan.cluster.apiserver.registry.faults import Faults
from sampan.kube.objects import Object


def expression(faults: Faults, text: str, path: str, variables: Mapping[str, Type], result: str) -> Type:
    """Fault what does not compile or gives another type than `result` ("" for any); the type it gives."""
    if not text.strip():
        faults.required(path, "")
        return DYN
    try:
        found = compile_program(text, variables).type
    except SyntaxFault as fault:
        faults.invalid(path, text, f"compilation failed: {fault}")
        return DYN
    if result and found.name != result:
        faults.invalid(path, text, f"must evaluate to {result} but got {found}")
    return found


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


def policy(faults: Faults, spec: Object) -> None:
    """Every expression of a ValidatingAdmissionPolicy."""
    from sampan.cluster.apiserver.admission.policies import variables_of

    known, fields = variables_of(spec), dict[str, Type]()
    for index, row in enumerate(spec.get("variables") or ()):
        text, path = row.get("expression") or "", f"spec.variables[{index}].expression"
        types = {**known, "variables": Type("variables", fields=dict(fields))}
        fields[row.get("name") or ""] = expression(faults, text, path, types, "")
    if fields:
        known["variables"] = Type("variables", fields=fields)
    match_conditions(faults, spec.get("matchConditions") or [], "spec.matchConditions", known)
    validations, notes = spec.get("validations") or [], spec.get("auditAnnotations") or []
    if not validations and not notes:
        detail = "validations or auditAnnotations must contain at least one item"
        faults.required("spec.validations", detail)
        faults.required("spec.auditAnnotations", detail)
    for index, row in enumerate(validations):
        path = f"spec.validations[{index}]"
        expression(faults, row.get("expression") or "", f"{path}.expression", known, "bool")
        if row.get("messageExpression"):
            expression(faults, row["messageExpression"], f"{path}.messageExpression", known, "string")
    for index, row in enumerate(notes):
        path = f"spec.auditAnnotations[{index}].valueExpression"
        expression(faults, row.get("valueExpression") or "", path, known, "")
