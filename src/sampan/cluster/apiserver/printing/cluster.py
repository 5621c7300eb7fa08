"""Columns of nodes, storage, configuration, scaling, access and the rest."""

from __future__ import annotations

from typing import Any

from sampan.cluster.apiserver.printing.base import (
    AGE,
    CREATED_AT,
    NAME,
    NONE,
    UNKNOWN,
    UNSET,
    Column,
    Value,
    at,
    human_duration,
    number,
    since,
    text,
    wide,
)
from sampan.kube import quantity
from sampan.kube.objects import Object


def _node_status(node: Object) -> str:
    conditions = {c.get("type"): c.get("status") for c in at(node, "status", "conditions") or ()}
    ready = {"True": "Ready", None: "Unknown"}.get(conditions.get("Ready"), "NotReady")
    return f"{ready},SchedulingDisabled" if at(node, "spec", "unschedulable") else ready


def _node_roles(node: Object) -> str:
    roles = set()
    for key, value in (node["metadata"].get("labels") or {}).items():
        if key.startswith("node-role.kubernetes.io/"):
            roles.add(key.partition("/")[2])
        elif key == "kubernetes.io/role" and value:
            roles.add(value)
    return ",".join(sorted(role for role in roles if role)) or NONE


def _node_address(type: str) -> Any:
    def value(node: Object) -> str:
        found = (a.get("address") for a in at(node, "status", "addresses") or () if a.get("type") == type)
        return next(found, None) or NONE

    return value


def _node_info(key: str) -> Any:
    return text("status", "nodeInfo", key, default=UNKNOWN)


_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def _modes(modes: Any) -> str:
    return ",".join(short for mode, short in _MODES.items() if mode in (modes or ()))


def _phase(obj: Object) -> str:
    return "Terminating" if obj["metadata"].get("deletionTimestamp") else at(obj, "status", "phase") or ""


def _bound(value: Any) -> Any:
    return lambda claim: value(claim) if at(claim, "spec", "volumeName") else ""


def _claim(volume: Object) -> str:
    claim = at(volume, "spec", "claimRef")
    return f"{claim.get('namespace')}/{claim.get('name')}" if claim else ""


def _storage_class_name(obj: Object) -> str:
    name: str = obj["metadata"]["name"]
    default = (obj["metadata"].get("annotations") or {}).get("storageclass.kubernetes.io/is-default-class") == "true"
    return f"{name} (default)" if default else name


def _metric(spec: Object, current: Object | None) -> str:
    """One HPA metric as `current/target`, with the resource's name where it has one."""
    type = spec.get("type") or ""
    field = type[:1].lower() + type[1:]
    source = spec.get(field) or {}
    now, target = at(current, field, "current") or {}, source.get("target") or {}
    prefix = f"{source.get('name')}: " if type in ("Resource", "ContainerResource") else ""
    if type not in ("Resource", "ContainerResource", "Pods", "Object", "External"):
        return "<unknown type>"
    if target.get("averageUtilization") is not None:
        used = now.get("averageUtilization")
        return f"{prefix}{UNKNOWN if used is None else f'{used}%'}/{target['averageUtilization']}%"
    if target.get("averageValue") is not None:
        suffix = " (avg)" if type in ("Object", "External") else ""
        return f"{prefix}{now.get('averageValue') or UNKNOWN}/{target['averageValue']}{suffix}"
    if target.get("value") is not None:
        return f"{prefix}{now.get('value') or UNKNOWN}/{target['value']}"
    return f"{prefix}{UNKNOWN}/<auto>"


def _same_metric(spec: Object, current: Object) -> bool:
    field = (spec.get("type") or "")[:1].lower() + (spec.get("type") or "")[1:]
    mine, theirs = spec.get(field) or {}, current.get(field) or {}
    keys = ("name", "container", "metric", "describedObject")
    return spec.get("type") == current.get("type") and all(mine.get(key) == theirs.get(key) for key in keys)


def _targets(hpa: Object) -> str:
    if "targetCPUUtilizationPercentage" in (hpa.get("spec") or {}):
        used = at(hpa, "status", "currentCPUUtilizationPercentage")
        return f"cpu: {UNKNOWN if used is None else f'{used}%'}/{hpa['spec']['targetCPUUtilizationPercentage']}%"
    specs = at(hpa, "spec", "metrics") or []
    currents = at(hpa, "status", "currentMetrics") or []
    if not specs:
        return NONE
    shown = [_metric(spec, next((c for c in currents if _same_metric(spec, c)), None)) for spec in specs[:2]]
    more = f" + {len(specs) - 2} more..." if len(specs) > 2 else ""
    return ", ".join(shown) + more


def _reference(hpa: Object) -> str:
    target = at(hpa, "spec", "scaleTargetRef") or {}
    return f"{target.get('kind')}/{target.get('name')}"


def _subjects(kind: str) -> Any:
    def value(binding: Object) -> str:
        subjects = [s for s in binding.get("subjects") or () if s.get("kind") == kind]
        if kind == "ServiceAccount":
            return ", ".join(f"{s.get('namespace') or ''}/{s.get('name')}" for s in subjects)
        return ", ".join(str(s.get("name")) for s in subjects)

    return value


def _event_times(event: Object) -> tuple[str, str, int]:
    """When an event was first and last seen, and how often."""
    first = event.get("firstTimestamp") or event.get("eventTime")
    last, count = event.get("lastTimestamp") or first, event.get("count") or 1
    if event.get("series"):
        last, count = event["series"].get("lastObservedTime"), event["series"].get("count") or 0
    return since(first), since(last), count


def _event_object(event: Object) -> str:
    kind, name = at(event, "involvedObject", "kind") or "", at(event, "involvedObject", "name") or ""
    return f"{kind.lower()}/{name}" if name else kind.lower()


def _event_source(event: Object) -> str:
    component = at(event, "source", "component") or event.get("reportingComponent") or ""
    host = at(event, "source", "host") or event.get("reportingInstance") or ""
    return f"{component}, {host}" if host else component


def _quota(prefix: str) -> Any:
    def value(quota: Object) -> str:
        hard, used = at(quota, "status", "hard") or {}, at(quota, "status", "used") or {}
        keys = sorted(key for key in hard if key.startswith("limits.") == (prefix == "limits"))
        return ", ".join(f"{key}: {used.get(key, 0)}/{hard[key]}" for key in keys)

    return value


def _available(api_service: Object) -> str:
    for condition in at(api_service, "status", "conditions") or ():
        if condition.get("type") == "Available":
            status = condition.get("status") or "Unknown"
            return status if status == "True" else f"{status} ({condition.get('reason')})"
    return "Unknown"


def _api_service(obj: Object) -> str:
    service = at(obj, "spec", "service")
    return f"{service.get('namespace')}/{service.get('name')}" if service else "Local"


def _csr_condition(obj: Object) -> str:
    conditions = [c.get("type") for c in at(obj, "status", "conditions") or ()]
    found = [c for c in ("Approved", "Denied", "Failed") if c in conditions] or ["Pending"]
    return ",".join([*found, "Issued"] if at(obj, "status", "certificate") else found)


def _csr_duration(obj: Object) -> str:
    seconds = at(obj, "spec", "expirationSeconds")
    return human_duration(seconds) if seconds is not None else NONE


def _usage(resource: str) -> Any:
    """CPU in millicores or memory in MiB of a PodMetrics or NodeMetrics object, summed over its containers."""

    def value(obj: Object) -> str:
        holders = obj.get("containers") or [obj]
        total = sum(quantity.parse(str(at(holder, "usage", resource) or 0)) for holder in holders)
        return f"{int(total * 1000)}m" if resource == "cpu" else f"{int(total) // 2**20}Mi"

    return value


_BINDING = (
    NAME,
    Column("Role", lambda obj: f"{at(obj, 'roleRef', 'kind')}/{at(obj, 'roleRef', 'name')}"),
    AGE,
    wide("Users", _subjects("User")),
    wide("Groups", _subjects("Group")),
    wide("ServiceAccounts", _subjects("ServiceAccount")),
)


def _pair(row: Object | None, before: str, name: str) -> str:
    """`v1/ConfigMap`, `team/limits`; `*` for a namespace or name that is left open."""
    return f"{row.get(before) or '*'}/{row.get(name) or '*'}" if row else "<unset>"


_WEBHOOKS = (NAME, Column("Webhooks", lambda obj: len(obj.get("webhooks") or ()), "integer"), AGE)
_POLICIES = (
    NAME,
    Column("Validations", lambda obj: len((obj.get("spec") or {}).get("validations") or ()), "integer"),
    Column("ParamKind", lambda obj: _pair((obj.get("spec") or {}).get("paramKind"), "apiVersion", "kind")),
    AGE,
)
_MUTATIONS = (
    NAME,
    Column("Mutations", lambda obj: len((obj.get("spec") or {}).get("mutations") or ()), "integer"),
    *_POLICIES[2:],
)
_BINDINGS = (
    NAME,
    Column("PolicyName", text("spec", "policyName")),
    Column("ParamRef", lambda obj: _pair((obj.get("spec") or {}).get("paramRef"), "namespace", "name")),
    AGE,
)
_METRICS = (
    NAME,
    Column("CPU", _usage("cpu")),
    Column("Memory", _usage("memory")),
    Column("Window", text("window")),
)
_TITLE_BOOL = {True: "true", False: "false"}


def _as_text(value: Value) -> Value:
    return lambda obj: str(value(obj))


COLUMNS: dict[tuple[str, str], tuple[Column, ...]] = {
    ("", "Node"): (
        NAME,
        Column("Status", _node_status),
        Column("Roles", _node_roles),
        AGE,
        Column("Version", text("status", "nodeInfo", "kubeletVersion")),
        wide("Internal-IP", _node_address("InternalIP")),
        wide("External-IP", _node_address("ExternalIP")),
        wide("OS-Image", _node_info("osImage")),
        wide("Kernel-Version", _node_info("kernelVersion")),
        wide("Container-Runtime", _node_info("containerRuntimeVersion")),
    ),
    ("", "Namespace"): (NAME, Column("Status", text("status", "phase")), AGE),
    ("", "ConfigMap"): (
        NAME,
        Column("Data", lambda obj: len(obj.get("data") or ()) + len(obj.get("binaryData") or ())),
        AGE,
    ),
    ("", "Secret"): (
        NAME,
        Column("Type", text("type")),
        Column("Data", lambda obj: len(obj.get("data") or ())),
        AGE,
    ),
    ("", "ServiceAccount"): (NAME, AGE),
    ("", "Event"): (
        Column("Last Seen", lambda obj: _event_times(obj)[1]),
        Column("Type", text("type")),
        Column("Reason", text("reason")),
        Column("Object", _event_object),
        wide("Subobject", text("involvedObject", "fieldPath")),
        wide("Source", _event_source),
        Column("Message", lambda obj: (obj.get("message") or "").strip()),
        wide("First Seen", lambda obj: _event_times(obj)[0]),
        wide("Count", lambda obj: _event_times(obj)[2]),
        Column("Name", text("metadata", "name"), format="name", priority=1),
    ),
    ("", "PersistentVolume"): (
        NAME,
        Column("Capacity", text("spec", "capacity", "storage")),
        Column("Access Modes", lambda obj: _modes(at(obj, "spec", "accessModes"))),
        Column("Reclaim Policy", text("spec", "persistentVolumeReclaimPolicy")),
        Column("Status", _phase),
        Column("Claim", _claim),
        Column("StorageClass", text("spec", "storageClassName")),
        Column("VolumeAttributesClass", text("spec", "volumeAttributesClassName", default=UNSET)),
        Column("Reason", text("status", "reason")),
        AGE,
        wide("VolumeMode", text("spec", "volumeMode", default=UNSET)),
    ),
    ("", "PersistentVolumeClaim"): (
        NAME,
        Column("Status", _phase),
        Column("Volume", text("spec", "volumeName")),
        Column("Capacity", _bound(text("status", "capacity", "storage"))),
        Column("Access Modes", _bound(lambda obj: _modes(at(obj, "status", "accessModes")))),
        Column("StorageClass", text("spec", "storageClassName")),
        Column("VolumeAttributesClass", text("spec", "volumeAttributesClassName", default=UNSET)),
        AGE,
        wide("VolumeMode", text("spec", "volumeMode", default=UNSET)),
    ),
    ("", "ResourceQuota"): (
        NAME,
        Column("Request", _quota("requests")),
        Column("Limit", _quota("limits")),
        AGE,
    ),
    ("autoscaling", "HorizontalPodAutoscaler"): (
        NAME,
        Column("Reference", _reference),
        Column("Targets", _targets),
        Column("MinPods", lambda obj: str((obj.get("spec") or {}).get("minReplicas", UNSET))),
        Column("MaxPods", number("spec", "maxReplicas")),
        Column("Replicas", number("status", "currentReplicas")),
        AGE,
    ),
    ("policy", "PodDisruptionBudget"): (
        NAME,
        Column("Min Available", _as_text(text("spec", "minAvailable", default="N/A"))),
        Column("Max Unavailable", _as_text(text("spec", "maxUnavailable", default="N/A"))),
        Column("Allowed Disruptions", number("status", "disruptionsAllowed"), "integer"),
        AGE,
    ),
    ("coordination.k8s.io", "Lease"): (NAME, Column("Holder", text("spec", "holderIdentity")), AGE),
    ("rbac.authorization.k8s.io", "RoleBinding"): _BINDING,
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): _BINDING,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): (NAME, CREATED_AT),
    ("apiregistration.k8s.io", "APIService"): (
        NAME,
        Column("Service", _api_service),
        Column("Available", _available),
        AGE,
    ),
    ("storage.k8s.io", "StorageClass"): (
        Column("Name", _storage_class_name, format="name"),
        Column("Provisioner", text("provisioner")),
        Column("ReclaimPolicy", text("reclaimPolicy", default="Delete")),
        Column("VolumeBindingMode", text("volumeBindingMode", default="Immediate")),
        Column("AllowVolumeExpansion", lambda obj: bool(obj.get("allowVolumeExpansion"))),
        AGE,
    ),
    ("scheduling.k8s.io", "PriorityClass"): (
        NAME,
        Column("Value", number("value"), "integer"),
        Column("Global-Default", lambda obj: bool(obj.get("globalDefault")), "boolean"),
        AGE,
        Column("PreemptionPolicy", text("preemptionPolicy", default="PreemptLowerPriority")),
    ),
    ("node.k8s.io", "RuntimeClass"): (NAME, Column("Handler", text("handler")), AGE),
    ("certificates.k8s.io", "CertificateSigningRequest"): (
        NAME,
        AGE,
        Column("SignerName", text("spec", "signerName")),
        Column("Requestor", text("spec", "username")),
        Column("RequestedDuration", _csr_duration),
        Column("Condition", _csr_condition),
    ),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"): _WEBHOOKS,
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): _WEBHOOKS,
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy"): _MUTATIONS,
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding"): _BINDINGS,
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"): _POLICIES,
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding"): _BINDINGS,
    ("metrics.k8s.io", "PodMetrics"): _METRICS,
    ("metrics.k8s.io", "NodeMetrics"): _METRICS,
}
COLUMNS["events.k8s.io", "Event"] = COLUMNS["", "Event"]
