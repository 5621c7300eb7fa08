"""What an admission decision is about, and whether the rules and selectors of a hook or policy take it in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from sampan.cluster.apiserver.call import Call
from sampan.cluster.apiserver.kind import Kind
from sampan.kube import kinds
from sampan.kube.objects import Object
from sampan.kube.selectors import from_label_selector

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

OPTIONS = {"CREATE": "CreateOptions", "UPDATE": "UpdateOptions", "DELETE": "DeleteOptions"}


class Attributes(Struct):
    """One decision: `new` and `old` as they are stored; None where there is none."""

    server: Any
    call: Call
    kind: Kind
    operation: str
    name: str
    new: Object | None
    old: Object | None

    @property
    def namespace(self) -> str:
        return self.call.namespace or ""

    def shown(self, obj: Object | None, kind: Kind) -> Object | None:
        return None if obj is None else kind.seen(obj)

    def namespace_object(self) -> Object | None:
        """The namespace of what is written; None for a kind of the whole cluster."""
        if self.kind.resource.kind == "Namespace" and not self.kind.resource.group:
            return self.new or self.old
        server: ApiServer = self.server
        return server.peek(kinds.NAMESPACE, self.namespace) if self.namespace else None

    def request(self, kind: Kind, uid: str = "") -> Object:
        """The `request` of an AdmissionReview, without the objects."""
        call, resource, asked = self.call, kind.resource, self.kind.resource
        options: Object = {"kind": OPTIONS[self.operation], "apiVersion": "meta.k8s.io/v1"}
        options |= {name: call.query[name] for name in ("fieldManager", "fieldValidation") if call.query.get(name)}
        user = call.user
        information: Object = {"username": user.name, "groups": list(user.groups)}
        if user.uid:
            information["uid"] = user.uid
        if user.extra:
            information["extra"] = dict(user.extra)
        made = {
            "uid": uid,
            "kind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
            "resource": {"group": resource.group, "version": resource.version, "resource": resource.plural},
            "requestKind": {"group": asked.group, "version": asked.version, "kind": asked.kind},
            "requestResource": {"group": asked.group, "version": asked.version, "resource": asked.plural},
            "name": self.name,
            "namespace": self.namespace,
            "operation": self.operation,
            "userInfo": information,
            "dryRun": call.dry_run,
            "options": options,
        }
        if call.subresource and self.operation != "DELETE":
            made |= {"subResource": call.subresource, "requestSubResource": call.subresource}
        if not self.namespace:
            del made["namespace"]
        return made


def matched(attributes: Attributes, row: Object, rules: list[Object], *, wide: bool) -> Kind | None:
    """The kind in the version a rule asks for, where the rules and the selectors of `row` take the decision in.

    `wide`: a rule for another version of the kind counts too (`matchPolicy: Equivalent`).
    """
    kind = _by_rules(attributes, rules, wide=wide)
    if kind is None or not _selected(attributes, row):
        return None
    return kind


def _by_rules(attributes: Attributes, rules: list[Object], *, wide: bool) -> Kind | None:
    asked = attributes.kind
    if any(_rule_fits(attributes, asked, rule) for rule in rules):
        return asked
    if wide:
        for other in attributes.server.catalog:
            same = other.table == asked.table and other is not asked
            if same and any(_rule_fits(attributes, other, rule) for rule in rules):
                return other  # type: ignore[no-any-return]
    return None


def _rule_fits(attributes: Attributes, kind: Kind, rule: Object) -> bool:
    resource, sub = kind.resource, attributes.call.subresource
    if attributes.operation == "DELETE":
        sub = None
    scope = rule.get("scope") or "*"
    if scope != "*" and (scope == "Namespaced") != resource.namespaced:
        return False
    if not _any(rule.get("operations"), attributes.operation):
        return False
    if not _any(rule.get("apiGroups"), resource.group) or not _any(rule.get("apiVersions"), resource.version):
        return False
    names = rule.get("resourceNames")
    if names and attributes.name not in names:
        return False
    wanted = (
        {f"{resource.plural}/{sub}", f"{resource.plural}/*", f"*/{sub}", "*/*"}
        if sub
        else {resource.plural, "*", "*/*"}
    )
    return bool(wanted & set(rule.get("resources") or ()))


def _any(allowed: list[str] | None, value: str) -> bool:
    return bool(allowed) and ("*" in allowed or value in allowed)  # type: ignore[operator]


def _selected(attributes: Attributes, row: Object) -> bool:
    if row.get("namespaceSelector"):
        namespace = attributes.namespace_object()
        if namespace is not None and not _labelled(row["namespaceSelector"], namespace):
            return False
    selector = row.get("objectSelector")
    if not selector:
        return True
    return any(obj is not None and _labelled(selector, obj) for obj in (attributes.new, attributes.old))


def _labelled(selector: Object, obj: Object) -> bool:
    return from_label_selector(selector).matches(obj["metadata"].get("labels"))
