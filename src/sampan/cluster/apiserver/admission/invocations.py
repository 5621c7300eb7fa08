"""What ValidatingAdmissionPolicy and MutatingAdmissionPolicy have in common: which policies a write concerns, with
which parameters, and what their expressions see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from sampan.cluster.apiserver.admission import expressions
from sampan.cluster.apiserver.admission.attributes import Attributes, matched
from sampan.cluster.apiserver.cel import DYN, EvaluationFault, SyntaxFault, Type
from sampan.cluster.apiserver.kind import Kind
from sampan.kube.objects import Object
from sampan.kube.selectors import from_label_selector

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

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


class Invocation(Struct):
    """One decision of one policy. `fault` says why it cannot be made; `params` is None where there are none."""

    policy: Object
    binding: Object
    kind: Kind
    params: Object | None = None
    fault: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        metadata = (self.params or {"metadata": {}})["metadata"]
        params = f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"
        return self.policy["metadata"]["name"], self.binding["metadata"]["name"], params

    @property
    def lenient(self) -> bool:
        return bool(self.policy["spec"].get("failurePolicy") == "Ignore")


def invocations(server: ApiServer, attributes: Attributes, policies: str, bindings: str) -> Iterator[Invocation]:
    """In order of the bindings' names. `policies` and `bindings` are tables."""
    table = server.store.table(policies)
    for entry in server.store.table(bindings).scan():
        binding = entry.object
        found = table.get(binding["spec"]["policyName"])
        if found is None:
            continue
        policy = found.object
        kind = _match(attributes, policy["spec"].get("matchConstraints") or {}, None)
        narrower = binding["spec"].get("matchResources")
        if kind is None or (narrower and _match(attributes, narrower, kind) is None):
            continue
        try:
            for params in list(_params(server, attributes, policy["spec"], binding["spec"])):
                yield Invocation(policy, binding, kind, params)
        except EvaluationFault as fault:
            yield Invocation(policy, binding, kind, fault=str(fault))


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


def _params(server: ApiServer, attributes: Attributes, spec: Object, bound: Object) -> Iterator[Object | None]:
    """Each object to decide with; None where the policy has no parameters. Raises EvaluationFault."""
    wanted, reference = spec.get("paramKind"), bound.get("paramRef")
    if not wanted or not reference:
        yield None
        return
    kind = server.catalog.by_kind(wanted["apiVersion"], wanted["kind"])
    if kind is None:
        raise EvaluationFault(NO_KIND.format(f"{wanted['apiVersion']}, Kind={wanted['kind']}"))
    namespace = reference.get("namespace") or attributes.namespace if kind.resource.namespaced else None
    if reference.get("name"):
        one = server.peek(kind.resource, reference["name"], namespace)
        found = [one] if one is not None else []
    else:
        selector = from_label_selector(reference.get("selector"))
        every = server.peek_all(kind.resource, namespace)
        found = [obj for obj in every if selector.matches(obj["metadata"].get("labels"))]
    if not found and reference.get("parameterNotFoundAction") != "Allow":
        raise EvaluationFault(NO_PARAMS)
    yield from found


def known_variables(spec: Object) -> dict[str, Type]:
    """What the expressions of a policy may name, its own `variables` apart."""
    known = {**expressions.BASE, "namespaceObject": DYN}
    if spec.get("paramKind"):
        known["params"] = DYN
    return known


class Scope:
    """What the expressions of one invocation see: types and values, the policy's own variables among them."""

    def __init__(self, attributes: Attributes, invocation: Invocation) -> None:
        spec = self.spec = invocation.policy["spec"]
        self.types = known_variables(spec)
        self.values = expressions.bindings(attributes, invocation.kind)
        self.values |= {"params": invocation.params, "namespaceObject": attributes.namespace_object()}
        compute: dict[str, Callable[[], Any]] = {}
        fields: dict[str, Type] = {}
        for row in spec.get("variables") or ():
            types = {**self.types, "variables": Type("variables", fields=dict(fields))}
            made = expressions.program(row["expression"], types)
            compute[row["name"]] = lambda made=made: made.evaluate(self.values)  # type: ignore[misc]
            fields[row["name"]] = made.type
        if fields:
            self.types["variables"] = Type("variables", fields=fields)
            self.values["variables"] = Lazy(compute)

    def evaluate(self, text: str, *, structures: bool = False) -> Any:
        """Raises EvaluationFault, SyntaxFault."""
        return expressions.program(text, self.types, structures=structures).evaluate(self.values)

    def wanted(self) -> bool:
        """Whether every match condition is met; one that is not decides, whatever is wrong with others.

        Raises EvaluationFault whose text is what upstream says.
        """
        first: str | None = None
        for condition in self.spec.get("matchConditions") or ():
            try:
                if self.evaluate(condition["expression"]) is not True:
                    return False
            except (EvaluationFault, SyntaxFault) as fault:
                first = first or f"expression '{condition['expression']}' resulted in error: {fault}"
        if first is not None:
            raise EvaluationFault(first)
        return True
