"""Validation of pod specs and pod templates; container fields are in `containers.py`."""

from __future__ import annotations

from typing import Any

from sampan.cluster.apiserver.registry.addresses import ip_problem
from sampan.cluster.apiserver.registry.containers import field_reference, relative_path, validate_containers
from sampan.cluster.apiserver.registry.faults import (
    CONFIG_KEY,
    DNS_LABEL,
    DNS_SUBDOMAIN,
    LABEL_VALUE,
    Faults,
    maps,
    qualified_name_problems,
    sub,
)
from sampan.kube.objects import Object

_DNS_POLICIES = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
_RESTART_POLICIES = ("Always", "OnFailure", "Never")
_DOWNWARD_VOLUME_FIELDS = (
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
)
_SOURCE_NAMES = (
    ("secret", "secretName", "required"),
    ("persistentVolumeClaim", "claimName", "required"),
    ("hostPath", "path", "required"),
    ("configMap", "name", "required"),
    ("csi", "driver", "required"),
    ("nfs", "server", "required"),
    ("nfs", "path", "required"),
)


def _address(faults: Faults, path: str, text: Any) -> None:
    if problem := ip_problem(text):
        faults.invalid(path, text, problem)


def validate_pod_spec(faults: Faults, spec: Any, path: str) -> None:
    """Every fault of the pod spec at `path`."""
    if not isinstance(spec, dict):
        faults.required(f"{path}.containers")
        return
    validate_containers(faults, spec, path, _volumes(faults, spec, f"{path}.volumes"))
    faults.one_of(f"{path}.restartPolicy", spec.get("restartPolicy"), _RESTART_POLICIES)
    faults.one_of(f"{path}.dnsPolicy", spec.get("dnsPolicy"), _DNS_POLICIES)
    if spec.get("dnsPolicy") == "None" and not sub(spec, "dnsConfig").get("nameservers"):
        faults.required(
            f"{path}.dnsConfig.nameservers", "must provide at least one DNS nameserver when `dnsPolicy` is None"
        )
    for index, text in enumerate(sub(spec, "dnsConfig").get("nameservers") or ()):
        _address(faults, f"{path}.dnsConfig.nameservers[{index}]", text)
    for index, alias in enumerate(maps(spec.get("hostAliases"))):
        _address(faults, f"{path}.hostAliases[{index}].ip", alias.get("ip") or "")
    faults.labels(f"{path}.nodeSelector", spec.get("nodeSelector"))
    faults.name(f"{path}.serviceAccountName", spec.get("serviceAccountName"), DNS_SUBDOMAIN, required=False)
    faults.name(f"{path}.nodeName", spec.get("nodeName"), DNS_SUBDOMAIN, required=False)
    faults.name(f"{path}.hostname", spec.get("hostname"), DNS_LABEL, required=False)
    faults.name(f"{path}.subdomain", spec.get("subdomain"), DNS_LABEL, required=False)
    deadline = spec.get("activeDeadlineSeconds")
    if isinstance(deadline, int) and not 1 <= deadline <= 2**31 - 1:
        faults.invalid(f"{path}.activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive")
    for index, toleration in enumerate(maps(spec.get("tolerations"))):
        _toleration(faults, toleration, f"{path}.tolerations[{index}]")
    for index, constraint in enumerate(maps(spec.get("topologySpreadConstraints"))):
        _spread(faults, constraint, f"{path}.topologySpreadConstraints[{index}]")
    _affinity(faults, sub(spec, "affinity"), f"{path}.affinity")
    context = sub(spec, "securityContext")
    for key in ("runAsUser", "runAsGroup", "fsGroup"):
        value = context.get(key)
        if isinstance(value, int) and not 0 <= value <= 2**31 - 1:
            faults.invalid(f"{path}.securityContext.{key}", value, "must be between 0 and 2147483647, inclusive")


def validate_template(
    faults: Faults, obj: Object, path: str = "spec.template", restart_policies: tuple[str, ...] = ("Always",)
) -> None:
    """A pod template at `path` of `obj`."""
    template: Any = obj
    for step in path.split("."):
        template = sub(template, step)
    metadata = sub(template, "metadata")
    faults.labels(f"{path}.labels", metadata.get("labels"))
    for key in metadata.get("annotations") or ():
        for message in qualified_name_problems(key.lower()):
            faults.invalid(f"{path}.annotations", key, message)
    validate_pod_spec(faults, template.get("spec"), f"{path}.spec")
    policy = sub(template, "spec").get("restartPolicy")
    if policy and policy not in restart_policies:
        if policy == "Always":
            choices = ", ".join(f'"{choice}"' for choice in restart_policies)
            faults.required(f"{path}.spec.restartPolicy", f"valid values: {choices}")
        else:
            faults.one_of(f"{path}.spec.restartPolicy", policy, restart_policies)


_SOURCE_ORDER = (
    "hostPath",
    "emptyDir",
    "secret",
    "nfs",
    "persistentVolumeClaim",
    "downwardAPI",
    "configMap",
    "projected",
)
"""In which the sources of a volume are looked at: a second one is refused, the first checked."""


def _volumes(faults: Faults, spec: Object, path: str) -> set[Any]:
    """The names of the volumes without fault, which containers may mount."""
    seen: set[str] = set()
    sound: set[Any] = set()
    for index, volume in enumerate(maps(spec.get("volumes"))):
        where, name, before = f"{path}[{index}]", volume.get("name"), len(faults.causes)
        faults.name(f"{where}.name", name, DNS_LABEL)
        if name in seen:
            faults.duplicate(f"{where}.name", name)
        sources = [key for key, value in volume.items() if key != "name" and value is not None]
        if not sources:
            faults.required(where, "must specify a volume type")
        sources.sort(key=lambda one: _SOURCE_ORDER.index(one) if one in _SOURCE_ORDER else len(_SOURCE_ORDER))
        for extra in sources[1:]:
            faults.forbidden(f"{where}.{extra}", "may not specify more than 1 volume type")
        for source, field, _ in _SOURCE_NAMES:
            if source not in sources[1:] and volume.get(source) is not None and not sub(volume, source).get(field):
                faults.required(f"{where}.{source}.{field}")
        for source in ("secret", "configMap", "downwardAPI", "projected"):
            if source not in sources[1:] and volume.get(source) is not None:
                _files(faults, sub(volume, source), f"{where}.{source}", source)
        if len(faults.causes) == before:
            seen.add(name or "")
            sound.add(name)
    return sound


def _files(faults: Faults, source: Object, path: str, kind: str) -> None:
    mode(faults, f"{path}.defaultMode", source.get("defaultMode"))
    for index, item in enumerate(maps(source.get("items"))):
        where = f"{path}.items[{index}]"
        if kind != "downwardAPI":
            faults.name(f"{where}.key", item.get("key"), CONFIG_KEY)
        elif item.get("fieldRef"):
            field_reference(faults, item["fieldRef"], f"{where}.fieldRef", _DOWNWARD_VOLUME_FIELDS)
        elif not item.get("resourceFieldRef"):
            faults.required(where, "one of fieldRef and resourceFieldRef is required")
        if not item.get("path"):
            faults.required(f"{where}.path")
        relative_path(faults, f"{where}.path", item.get("path"))
        mode(faults, f"{where}.mode", item.get("mode"))
    for index, projection in enumerate(maps(source.get("sources"))):
        where = f"{path}.sources[{index}]"
        given = [key for key, value in projection.items() if value is not None]
        if not given:
            faults.required(where, "must specify a projection type")
        for extra in given[1:]:
            faults.forbidden(f"{where}.{extra}", "may not specify more than 1 volume type")
        for key in given[:1]:
            if key in ("secret", "configMap") and not sub(projection, key).get("name"):
                faults.required(f"{where}.{key}.name")
            _files(faults, sub(projection, key), f"{where}.{key}", key)


def mode(faults: Faults, path: str, value: Any) -> None:
    if isinstance(value, int) and not 0 <= value <= 0o777:
        faults.invalid(path, value, "must be a number between 0 and 0777 (octal), both inclusive")


def _toleration(faults: Faults, toleration: Object, path: str) -> None:
    key, operator = toleration.get("key") or "", toleration.get("operator") or "Equal"
    if key:
        for message in qualified_name_problems(key):
            faults.invalid(f"{path}.key", key, message)
    elif operator != "Exists":
        faults.invalid(
            f"{path}.operator",
            toleration.get("operator") or "",
            'operator must be Exists when `key` is empty, which means "match all values and all keys"',
        )
    if toleration.get("tolerationSeconds") is not None and toleration.get("effect") != "NoExecute":
        faults.invalid(
            f"{path}.effect",
            toleration.get("effect") or "",
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
        )
    if operator == "Equal":
        for message in LABEL_VALUE(toleration.get("value") or ""):
            faults.invalid(f"{path}.operator", toleration.get("value"), message)
    elif operator == "Exists":
        if toleration.get("value"):
            faults.invalid(f"{path}.operator", toleration, "value must be empty when `operator` is 'Exists'")
    else:
        faults.one_of(f"{path}.operator", operator, ("Equal", "Exists"))
    faults.one_of(
        f"{path}.effect", toleration.get("effect"), ("NoSchedule", "PreferNoSchedule", "NoExecute"), required=False
    )


def _spread(faults: Faults, constraint: Object, path: str) -> None:
    skew = constraint.get("maxSkew")
    if not isinstance(skew, int) or skew <= 0:
        faults.invalid(f"{path}.maxSkew", skew or 0, "must be greater than zero")
    if not constraint.get("topologyKey"):
        faults.required(f"{path}.topologyKey", "can not be empty")
    faults.one_of(f"{path}.whenUnsatisfiable", constraint.get("whenUnsatisfiable"), ("DoNotSchedule", "ScheduleAnyway"))
    faults.label_selector(f"{path}.labelSelector", constraint.get("labelSelector"))


def _affinity(faults: Faults, affinity: Object, path: str) -> None:
    for kind in ("podAffinity", "podAntiAffinity"):
        where = f"{path}.{kind}"
        terms = [
            (f"{where}.requiredDuringSchedulingIgnoredDuringExecution[{i}]", term)
            for i, term in enumerate(maps(sub(affinity, kind).get("requiredDuringSchedulingIgnoredDuringExecution")))
        ]
        for i, weighted in enumerate(maps(sub(affinity, kind).get("preferredDuringSchedulingIgnoredDuringExecution"))):
            at = f"{where}.preferredDuringSchedulingIgnoredDuringExecution[{i}]"
            if not 1 <= (weighted.get("weight") or 0) <= 100:
                faults.invalid(f"{at}.weight", weighted.get("weight") or 0, "must be in the range 1-100")
            terms.append((f"{at}.podAffinityTerm", sub(weighted, "podAffinityTerm")))
        for at, term in terms:
            if not term.get("topologyKey"):
                faults.required(f"{at}.topologyKey", "can not be empty")
            faults.label_selector(f"{at}.labelSelector", term.get("labelSelector"))
