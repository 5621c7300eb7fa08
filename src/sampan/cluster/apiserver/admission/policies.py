"""ValidatingAdmissionPolicy and its bindings: CEL over what is written, decided within the write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.cluster.apiserver.admission.attributes import Attributes
from sampan.cluster.apiserver.admission.invocations import Invocation, Scope, invocations
from sampan.cluster.apiserver.admission.webhooks import refusal
from sampan.cluster.apiserver.cel import EvaluationFault, SyntaxFault
from sampan.kube.objects import Object

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

TABLE = "admissionregistration.k8s.io/validatingadmissionpolicies"
BINDINGS = "admissionregistration.k8s.io/validatingadmissionpolicybindings"
CODES = {"Unauthorized": 401, "Forbidden": 403, "Invalid": 422, "RequestEntityTooLarge": 413}


class Policies:
    def __init__(self, server: ApiServer) -> None:
        self.server = server

    def check(self, attributes: Attributes) -> None:
        """Raises ApiError with the first denial; warnings go to the call."""
        for invocation in invocations(self.server, attributes, TABLE, BINDINGS):
            if not invocation.fault:
                self._decide(attributes, invocation)
            elif not invocation.lenient:
                self._act(attributes, invocation, invocation.fault, "Invalid", configured=False)

    def _decide(self, attributes: Attributes, invocation: Invocation) -> None:
        scope = Scope(attributes, invocation)
        try:
            if not scope.wanted():
                return
        except EvaluationFault as fault:
            if not invocation.lenient:
                self._act(attributes, invocation, str(fault), "Invalid")
            return
        for row in scope.spec.get("validations") or ():
            text = row["expression"]
            try:
                if scope.evaluate(text) is True:
                    continue
            except (EvaluationFault, SyntaxFault) as fault:
                if not invocation.lenient:
                    message = f"expression '{text}' resulted in error: {fault}"
                    self._act(attributes, invocation, message, "Invalid")
                continue
            self._act(attributes, invocation, _message(row, scope), row.get("reason") or "Invalid")

    @staticmethod
    def _act(
        attributes: Attributes, invocation: Invocation, message: str, reason: str, *, configured: bool = True
    ) -> None:
        policy, binding = invocation.policy["metadata"]["name"], invocation.binding["metadata"]["name"]
        actions = invocation.binding["spec"].get("validationActions") or []
        names = f"ValidatingAdmissionPolicy '{policy}' with binding '{binding}'"
        if "Warn" in actions:
            attributes.call.warnings.append(f"Validation failed for {names}: {message}")
        if "Deny" in actions or not configured:
            error = refusal(attributes, f"{names} denied request: {message}")
            error.code, error.reason = CODES.get(reason, 422), reason
            error.details["causes"] = [{"message": f"{names} denied request: {message}"}]
            raise error


def _message(row: Object, scope: Scope) -> str:
    if row.get("messageExpression"):
        try:
            text = scope.evaluate(row["messageExpression"])
        except (EvaluationFault, SyntaxFault):
            text = ""
        if isinstance(text, str) and text.strip() and "\n" not in text:
            return text
    return row.get("message") or f"failed expression: {row['expression'].strip()}"
