"""ValidatingAdmissionPolicy and its bindings: CEL over what is written, decided within the write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sampan.cluster.apiserver.admission import expressions
from sampan.cluster.apiserver.admission.attributes import Attributes, matched
from sampan.cluster.apiserver.admission.webhooks import refusal
from sampan.cluster.apiserver.catalog import Kind
from sampan.cluster.apiserver.cel import DYN, EvaluationFault, SyntaxFault, Type
from sampan.kube.objects import Object
from sampan.kube.selectors import from_label_selector

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

TABLE = "admissionregistration.k8s.io/validatingadmissionpolicies"
BINDINGS = "admissionregistration.k8s.io/validatingadmissionpolicybindings"
CODES = {"Unauthorized": 401, "Forbidden": 403, "Invalid": 422, "RequestEntityTooLarge": 413}
NO_PARAMS = "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
NO_KIND = "failed to configure policy: failed to find resource referenced by paramKind: '{0}'"


class Lazy(dict[str, Any]):
    """The policy's `variables`: each is computed when it is first asked for."""

    def __init__(self, compute: dict[str, Callable[[], Any]]) -> None:
        super().__init__()
        self._compute = compute

    def __missing__(self, name: str) -> Any:
        self[name] = self._compute[name]()  # a KeyError is an expression's own fault
        return self[name]


def variables_of(spec: Object) -> dict[str, Type]:
    """What the expressions of a policy may name, its own `variables` apart."""
    known = {**expressions.BASE, "namespaceObject": DYN}
    if spec.get("paramKind"):
        known["params"] = DYN
    return known


class Policies:
    def __init__(self, server: ApiServer) -> None:
        self.server = server

    def check(self, attributes: Attributes) -> None:
        """Raises ApiError with the first denial; warnings go to the call."""
        table = self.server.store.table(TABLE)
        for entry in self.server.store.table(BINDINGS).scan():
            binding = entry.object
            policy = table.get(binding["spec"]["policyName"])
            if policy is not None:
                self._bound(attributes, policy.object, binding)

    def _bound(self, attributes: Attributes, policy: Object, binding: Object) -> None:
        spec = policy["spec"]
        kind = self._match(attributes, spec.get("matchConstraints") or {}, None)
        if kind is None:
            return
        narrower = binding["spec"].get("matchResources")
        if narrower and self._match(attributes, narrower, kind) is None:
            return
        try:
            found = list(self._params(attributes, spec, binding["spec"]))
        except EvaluationFault as fault:
            if spec.get("failurePolicy") != "Ignore":
                self._act(attributes, policy, binding, str(fault), "Invalid", configured=False)
            return
        for params in found:
            self._decide(attributes, kind, policy, binding, params)

    @staticmethod
    def _match(attributes: Attributes, row: Object, within: Kind | None) -> Kind | None:
        wide = row.get("matchPolicy") != "Exact"
        rules = row.get("resourceRules")
        if rules is None and within is not None:
            rules = [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*", "*/*"]}]
        kind = matched(attributes, row, rules or [], wide=wide)
        excluded = row.get("excludeResourceRules")
        if kind is not None and excluded and matched(attributes, {}, excluded, wide=wide) is not None:
            return None
        return kind

    def _params(self, attributes: Attributes, spec: Object, bound: Object) -> Iterator[Object | None]:
        """Each object to decide with; None where the policy has no parameters. Raises EvaluationFault."""
        wanted, reference = spec.get("paramKind"), bound.get("paramRef")
        if not wanted or not reference:
            yield None
            return
        kind = self.server.catalog.by_kind(wanted["apiVersion"], wanted["kind"])
        if kind is None:
            raise EvaluationFault(NO_KIND.format(f"{wanted['apiVersion']}, Kind={wanted['kind']}"))
        namespace = reference.get("namespace") or attributes.namespace if kind.resource.namespaced else None
        if reference.get("name"):
            one = self.server.peek(kind.resource, reference["name"], namespace)
            found = [one] if one is not None else []
        else:
            selector = from_label_selector(reference.get("selector"))
            every = self.server.peek_all(kind.resource, namespace)
            found = [obj for obj in every if selector.matches(obj["metadata"].get("labels"))]
        if not found and reference.get("parameterNotFoundAction") != "Allow":
            raise EvaluationFault(NO_PARAMS)
        yield from found

    def _decide(
        self, attributes: Attributes, kind: Kind, policy: Object, binding: Object, params: Object | None
    ) -> None:
        spec = policy["spec"]
        known = variables_of(spec)
        values = expressions.bindings(attributes, kind)
        values |= {"params": params, "namespaceObject": attributes.namespace_object()}
        lenient = spec.get("failurePolicy") == "Ignore"
        compute: dict[str, Callable[[], Any]] = {}
        fields: dict[str, Type] = {}
        for row in spec.get("variables") or ():
            types = {**known, "variables": Type("variables", fields=dict(fields))}
            made = expressions.program(row["expression"], types)
            compute[row["name"]] = lambda made=made: made.evaluate(values)  # type: ignore[misc]
            fields[row["name"]] = made.type
        if fields:
            known["variables"] = Type("variables", fields=fields)
            values["variables"] = Lazy(compute)
        for condition in spec.get("matchConditions") or ():
            try:
                if expressions.program(condition["expression"], known).evaluate(values) is not True:
                    return
            except (EvaluationFault, SyntaxFault) as fault:
                if not lenient:
                    text = f"expression '{condition['expression']}' resulted in error: {fault}"
                    self._act(attributes, policy, binding, text, "Invalid")
                return
        for row in spec.get("validations") or ():
            text = row["expression"]
            try:
                if expressions.program(text, known).evaluate(values) is True:
                    continue
            except (EvaluationFault, SyntaxFault) as fault:
                if not lenient:
                    message = f"expression '{text}' resulted in error: {fault}"
                    self._act(attributes, policy, binding, message, "Invalid")
                continue
            self._act(attributes, policy, binding, _message(row, known, values), row.get("reason") or "Invalid")

    @staticmethod
    def _act(
        attributes: Attributes, policy: Object, binding: Object, message: str, reason: str, *, configured: bool = True
    ) -> None:
        actions = binding["spec"].get("validationActions") or []
        names = f"ValidatingAdmissionPolicy '{policy['metadata']['name']}' with binding '{binding['metadata']['name']}'"
        if "Warn" in actions:
            attributes.call.warnings.append(f"Validation failed for {names}: {message}")
        if "Deny" in actions or not configured:
            error = refusal(attributes, f"{names} denied request: {message}")
            error.code, error.reason = CODES.get(reason, 422), reason
            error.details["causes"] = [{"message": f"{names} denied request: {message}"}]
            raise error


def _message(row: Object, known: dict[str, Type], values: dict[str, Any]) -> str:
    if row.get("messageExpression"):
        try:
            text = expressions.program(row["messageExpression"], known).evaluate(values)
        except (EvaluationFault, SyntaxFault):
            text = ""
        if isinstance(text, str) and text.strip() and "\n" not in text:
            return text
    return row.get("message") or f"failed expression: {row['expression'].strip()}"
