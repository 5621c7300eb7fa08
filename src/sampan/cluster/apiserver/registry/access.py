"""Role, ClusterRole and their bindings."""

from __future__ import annotations

from sampan.cluster.apiserver.registry.base import TableStrategy
from sampan.cluster.apiserver.registry.faults import DNS_SUBDOMAIN, Faults, maps, sub
from sampan.kube.objects import Object

GROUP = "rbac.authorization.k8s.io"
_SUBJECTS = ("ServiceAccount", "User", "Group")


class Role(TableStrategy):
    namespaced = True

    def validate(self, faults: Faults, obj: Object) -> None:
        for index, rule in enumerate(maps(obj.get("rules"))):
            _rule(faults, rule, f"rules[{index}]", self.namespaced)
        selectors = maps(sub(obj, "aggregationRule").get("clusterRoleSelectors"))
        if obj.get("aggregationRule") is not None and not selectors:
            where = "aggregationRule.clusterRoleSelectors"
            faults.required(where, "at least one clusterRoleSelector required if aggregationRule is non-nil")
        for index, selector in enumerate(selectors):
            faults.label_selector(f"aggregationRule.clusterRoleSelectors[{index}]", selector)


class ClusterRole(Role):
    namespaced = False


def _rule(faults: Faults, rule: Object, path: str, namespaced: bool) -> None:
    if not rule.get("verbs"):
        faults.required(f"{path}.verbs", "verbs must contain at least one value")
    urls = rule.get("nonResourceURLs") or ()
    if urls:
        if namespaced:
            faults.invalid(f"{path}.nonResourceURLs", urls, "namespaced rules cannot apply to non-resource URLs")
        if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
            faults.invalid(
                f"{path}.nonResourceURLs", urls, "rules cannot apply to both regular resources and non-resource URLs"
            )
        return
    if not rule.get("apiGroups"):
        faults.required(f"{path}.apiGroups", "resource rules must supply at least one api group")
    if not rule.get("resources"):
        faults.required(f"{path}.resources", "resource rules must supply at least one resource")


class Binding(TableStrategy):
    roles: tuple[str, ...] = ("Role", "ClusterRole")
    namespaced = True

    def default(self, obj: Object) -> None:
        if obj.get("roleRef") is None:
            obj["roleRef"] = {}
        reference = obj["roleRef"]
        if isinstance(reference, dict) and not reference.get("apiGroup"):
            reference["apiGroup"] = GROUP
        for subject in maps(obj.get("subjects")):
            if subject.get("kind") in ("User", "Group") and not subject.get("apiGroup"):
                subject["apiGroup"] = GROUP

    def validate(self, faults: Faults, obj: Object) -> None:
        reference = sub(obj, "roleRef")
        faults.one_of("roleRef.apiGroup", reference.get("apiGroup"), (GROUP,))
        faults.one_of("roleRef.kind", reference.get("kind") or "", self.roles, required=None)
        if not reference.get("name"):
            faults.required("roleRef.name")
        for index, subject in enumerate(maps(obj.get("subjects"))):
            where, kind = f"subjects[{index}]", subject.get("kind")
            if not subject.get("name"):
                faults.required(f"{where}.name")
            if kind == "ServiceAccount":
                if subject.get("name"):
                    faults.name(f"{where}.name", subject["name"], DNS_SUBDOMAIN)
                faults.one_of(f"{where}.apiGroup", subject.get("apiGroup"), ("",), required=False)
                if not self.namespaced and not subject.get("namespace"):
                    faults.required(f"{where}.namespace")
            elif kind in _SUBJECTS:
                faults.one_of(f"{where}.apiGroup", subject.get("apiGroup"), (GROUP,))
            else:
                faults.one_of(f"{where}.kind", kind or "", _SUBJECTS, required=None)

    def validate_change(self, faults: Faults, new: Object, old: Object) -> None:
        if new.get("roleRef") != old.get("roleRef"):
            after = sub(new, "roleRef")  # shown as Go names its fields
            shown = {name: after.get(name[0].lower() + name[1:]) or "" for name in ("APIGroup", "Kind", "Name")}
            faults.invalid("roleRef", shown | {"APIGroup": after.get("apiGroup") or ""}, "cannot change roleRef")


class ClusterBinding(Binding):
    roles = ("ClusterRole",)
    namespaced = False


STRATEGIES = {
    (GROUP, "Role"): Role(),
    (GROUP, "ClusterRole"): ClusterRole(),
    (GROUP, "RoleBinding"): Binding(),
    (GROUP, "ClusterRoleBinding"): ClusterBinding(),
}
