"""The table of built-in kinds: names, scope, subresources and verbs, as discovery shows them."""

from __future__ import annotations

from msgspec import Struct

ALL = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
READ = ("get", "list")
CREATE = ("create",)


class Resource(Struct, frozen=True):
    """One kind as the API serves it. `group` is empty for core; `subresources` are the last parts of paths."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str = ""
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_plural(self) -> str:
        """`deployments.apps`, or `pods` for the core group: how messages and RBAC name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def list_kind(self) -> str:
        return self.kind + "List"

    @property
    def base(self) -> str:
        """The path of the group and version: `/api/v1` or `/apis/apps/v1`."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The unquoted request path of the collection, of an object in it, or of one of its subresources."""
        parts = [self.base]
        if namespace and self.namespaced:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


def _row(
    api_version: str,
    kind: str,
    plural: str,
    short: str = "",
    subresources: str = "",
    *,
    namespaced: bool = True,
    categories: str = "",
    verbs: tuple[str, ...] = ALL,
) -> Resource:
    group, _, version = api_version.rpartition("/")
    return Resource(
        group, version, kind, plural, kind.lower(), namespaced,
        tuple(short.split()), tuple(categories.split()), tuple(subresources.split()), verbs,
    )  # fmt: skip


_POD_SUB = "attach binding ephemeralcontainers eviction exec log portforward proxy resize status"

# core
NAMESPACE = _row(
    "v1", "Namespace", "namespaces", "ns", "finalize status", namespaced=False,
    verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
)  # fmt: skip
POD = _row("v1", "Pod", "pods", "po", _POD_SUB, categories="all")
SERVICE = _row("v1", "Service", "services", "svc", "proxy status", categories="all")
ENDPOINTS = _row("v1", "Endpoints", "endpoints", "ep")
CONFIG_MAP = _row("v1", "ConfigMap", "configmaps", "cm")
SECRET = _row("v1", "Secret", "secrets")
SERVICE_ACCOUNT = _row("v1", "ServiceAccount", "serviceaccounts", "sa", "token")
CORE_EVENT = _row("v1", "Event", "events", "ev")
EVENT = CORE_EVENT
PERSISTENT_VOLUME = _row("v1", "PersistentVolume", "persistentvolumes", "pv", "status", namespaced=False)
PERSISTENT_VOLUME_CLAIM = _row("v1", "PersistentVolumeClaim", "persistentvolumeclaims", "pvc", "status")
NODE = _row("v1", "Node", "nodes", "no", "proxy status", namespaced=False)
REPLICATION_CONTROLLER = _row(
    "v1", "ReplicationController", "replicationcontrollers", "rc", "scale status", categories="all"
)
LIMIT_RANGE = _row("v1", "LimitRange", "limitranges", "limits")
RESOURCE_QUOTA = _row("v1", "ResourceQuota", "resourcequotas", "quota", "status")
POD_TEMPLATE = _row("v1", "PodTemplate", "podtemplates")
BINDING = _row("v1", "Binding", "bindings", verbs=CREATE)

# apps
DEPLOYMENT = _row("apps/v1", "Deployment", "deployments", "deploy", "scale status", categories="all")
REPLICA_SET = _row("apps/v1", "ReplicaSet", "replicasets", "rs", "scale status", categories="all")
STATEFUL_SET = _row("apps/v1", "StatefulSet", "statefulsets", "sts", "scale status", categories="all")
DAEMON_SET = _row("apps/v1", "DaemonSet", "daemonsets", "ds", "status", categories="all")
CONTROLLER_REVISION = _row("apps/v1", "ControllerRevision", "controllerrevisions")

# batch, autoscaling, policy
JOB = _row("batch/v1", "Job", "jobs", "", "status", categories="all")
CRON_JOB = _row("batch/v1", "CronJob", "cronjobs", "cj", "status", categories="all")
HORIZONTAL_POD_AUTOSCALER = _row(
    "autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa", "status", categories="all"
)
HORIZONTAL_POD_AUTOSCALER_V1 = _row(
    "autoscaling/v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa", "status", categories="all"
)
POD_DISRUPTION_BUDGET = _row("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", "pdb", "status")

# networking
INGRESS = _row("networking.k8s.io/v1", "Ingress", "ingresses", "ing", "status")
INGRESS_CLASS = _row("networking.k8s.io/v1", "IngressClass", "ingressclasses", namespaced=False)
NETWORK_POLICY = _row("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", "netpol")
ENDPOINT_SLICE = _row("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")

# coordination, access, storage, scheduling, events
LEASE = _row("coordination.k8s.io/v1", "Lease", "leases")
_RBAC = "rbac.authorization.k8s.io/v1"
ROLE = _row(_RBAC, "Role", "roles")
ROLE_BINDING = _row(_RBAC, "RoleBinding", "rolebindings")
CLUSTER_ROLE = _row(_RBAC, "ClusterRole", "clusterroles", namespaced=False)
CLUSTER_ROLE_BINDING = _row(_RBAC, "ClusterRoleBinding", "clusterrolebindings", namespaced=False)
STORAGE_CLASS = _row("storage.k8s.io/v1", "StorageClass", "storageclasses", "sc", namespaced=False)
PRIORITY_CLASS = _row("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", "pc", namespaced=False)
RUNTIME_CLASS = _row("node.k8s.io/v1", "RuntimeClass", "runtimeclasses", namespaced=False)
EVENTS_EVENT = _row("events.k8s.io/v1", "Event", "events", "ev")

# extension
CUSTOM_RESOURCE_DEFINITION = _row(
    "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", "crd crds", "status",
    namespaced=False, categories="api-extensions",
)  # fmt: skip
_ADMISSION = "admissionregistration.k8s.io/v1"
MUTATING_WEBHOOK_CONFIGURATION = _row(
    _ADMISSION, "MutatingWebhookConfiguration", "mutatingwebhookconfigurations",
    namespaced=False, categories="api-extensions",
)  # fmt: skip
VALIDATING_WEBHOOK_CONFIGURATION = _row(
    _ADMISSION, "ValidatingWebhookConfiguration", "validatingwebhookconfigurations",
    namespaced=False, categories="api-extensions",
)  # fmt: skip
MUTATING_ADMISSION_POLICY = _row(
    _ADMISSION, "MutatingAdmissionPolicy", "mutatingadmissionpolicies", namespaced=False, categories="api-extensions"
)
MUTATING_ADMISSION_POLICY_BINDING = _row(
    _ADMISSION, "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings",
    namespaced=False, categories="api-extensions",
)  # fmt: skip
VALIDATING_ADMISSION_POLICY = _row(
    _ADMISSION, "ValidatingAdmissionPolicy", "validatingadmissionpolicies", "", "status",
    namespaced=False, categories="api-extensions",
)  # fmt: skip
VALIDATING_ADMISSION_POLICY_BINDING = _row(
    _ADMISSION, "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings",
    namespaced=False, categories="api-extensions",
)  # fmt: skip
API_SERVICE = _row(
    "apiregistration.k8s.io/v1", "APIService", "apiservices", "", "status",
    namespaced=False, categories="api-extensions",
)  # fmt: skip

# measured use: served from the running system, not stored
NODE_METRICS = _row("metrics.k8s.io/v1beta1", "NodeMetrics", "nodes", namespaced=False, verbs=READ)
POD_METRICS = _row("metrics.k8s.io/v1beta1", "PodMetrics", "pods", verbs=READ)

# questions put to the server: answered, never stored
_AUTHN, _AUTHZ = "authentication.k8s.io/v1", "authorization.k8s.io/v1"
TOKEN_REVIEW = _row(_AUTHN, "TokenReview", "tokenreviews", namespaced=False, verbs=CREATE)
SELF_SUBJECT_REVIEW = _row(_AUTHN, "SelfSubjectReview", "selfsubjectreviews", namespaced=False, verbs=CREATE)
SUBJECT_ACCESS_REVIEW = _row(_AUTHZ, "SubjectAccessReview", "subjectaccessreviews", namespaced=False, verbs=CREATE)
SELF_SUBJECT_ACCESS_REVIEW = _row(
    _AUTHZ, "SelfSubjectAccessReview", "selfsubjectaccessreviews", namespaced=False, verbs=CREATE
)
SELF_SUBJECT_RULES_REVIEW = _row(
    _AUTHZ, "SelfSubjectRulesReview", "selfsubjectrulesreviews", namespaced=False, verbs=CREATE
)
LOCAL_SUBJECT_ACCESS_REVIEW = _row(_AUTHZ, "LocalSubjectAccessReview", "localsubjectaccessreviews", verbs=CREATE)

BUILTIN: tuple[Resource, ...] = tuple(
    dict.fromkeys(value for value in list(globals().values()) if isinstance(value, Resource))
)

SUBRESOURCE_KINDS: dict[str, tuple[str, str, str]] = {
    # subresource -> (group, version, kind) where it is not the kind of the object itself
    "attach": ("", "v1", "PodAttachOptions"),
    "binding": ("", "v1", "Binding"),
    "eviction": ("policy", "v1", "Eviction"),
    "exec": ("", "v1", "PodExecOptions"),
    "portforward": ("", "v1", "PodPortForwardOptions"),
    "proxy": ("", "v1", "PodProxyOptions"),
    "scale": ("autoscaling", "v1", "Scale"),
    "token": ("authentication.k8s.io", "v1", "TokenRequest"),
}

SUBRESOURCE_VERBS: dict[str, tuple[str, ...]] = {
    "attach": ("create", "get"),
    "binding": CREATE,
    "eviction": CREATE,
    "exec": ("create", "get"),
    "finalize": ("update",),
    "log": ("get",),
    "portforward": ("create", "get"),
    "proxy": ("create", "delete", "get", "patch", "update"),
    "token": CREATE,
}
"""Verbs of each subresource; what is not named here (status, scale, ephemeralcontainers...) has `get patch update`."""

_BY_KIND = {(resource.api_version, resource.kind): resource for resource in BUILTIN}
_BY_PLURAL = {(resource.group, resource.version, resource.plural): resource for resource in BUILTIN}


def find(api_version: str, kind: str) -> Resource | None:
    """The built-in kind `kind` of `api_version` (`apps/v1`), or None."""
    return _BY_KIND.get((api_version, kind))


def find_plural(group: str, version: str, plural: str) -> Resource | None:
    """The built-in kind served under this group, version and plural, or None."""
    return _BY_PLURAL.get((group, version, plural))
