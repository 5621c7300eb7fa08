"""API versions that Kubernetes has removed: what replaces each, so that an old manifest gets an answer that helps.

kubectl finds kinds by discovery before it sends anything, so of such a manifest it says `no matches for kind`; the
message here reaches clients that post to the path itself, and tools that look a manifest over before applying it.
"""

from __future__ import annotations

from msgspec import Struct

from sampan.kube.errors import ApiError


class Removed(Struct, frozen=True):
    """One kind of one version: its plural, the version that replaces it ("" without one), the release it went in."""

    kind: str
    plural: str
    replacement: str
    release: str


def _rows(*rows: tuple[str, str]) -> tuple[tuple[str, Removed], ...]:
    return tuple((version, Removed(*row.split("|"))) for version, row in rows)


_ROWS = _rows(
    ("extensions/v1beta1", "Deployment|deployments|apps/v1|1.16"),
    ("extensions/v1beta1", "DaemonSet|daemonsets|apps/v1|1.16"),
    ("extensions/v1beta1", "ReplicaSet|replicasets|apps/v1|1.16"),
    ("extensions/v1beta1", "NetworkPolicy|networkpolicies|networking.k8s.io/v1|1.16"),
    ("extensions/v1beta1", "PodSecurityPolicy|podsecuritypolicies||1.16"),
    ("extensions/v1beta1", "Ingress|ingresses|networking.k8s.io/v1|1.22"),
    ("apps/v1beta1", "Deployment|deployments|apps/v1|1.16"),
    ("apps/v1beta1", "StatefulSet|statefulsets|apps/v1|1.16"),
    ("apps/v1beta2", "Deployment|deployments|apps/v1|1.16"),
    ("apps/v1beta2", "DaemonSet|daemonsets|apps/v1|1.16"),
    ("apps/v1beta2", "ReplicaSet|replicasets|apps/v1|1.16"),
    ("apps/v1beta2", "StatefulSet|statefulsets|apps/v1|1.16"),
    ("networking.k8s.io/v1beta1", "Ingress|ingresses|networking.k8s.io/v1|1.22"),
    ("networking.k8s.io/v1beta1", "IngressClass|ingressclasses|networking.k8s.io/v1|1.22"),
    ("rbac.authorization.k8s.io/v1beta1", "Role|roles|rbac.authorization.k8s.io/v1|1.22"),
    ("rbac.authorization.k8s.io/v1beta1", "RoleBinding|rolebindings|rbac.authorization.k8s.io/v1|1.22"),
    ("rbac.authorization.k8s.io/v1beta1", "ClusterRole|clusterroles|rbac.authorization.k8s.io/v1|1.22"),
    ("rbac.authorization.k8s.io/v1beta1", "ClusterRoleBinding|clusterrolebindings|rbac.authorization.k8s.io/v1|1.22"),
    (
        "apiextensions.k8s.io/v1beta1",
        "CustomResourceDefinition|customresourcedefinitions|apiextensions.k8s.io/v1|1.22",
    ),
    ("apiregistration.k8s.io/v1beta1", "APIService|apiservices|apiregistration.k8s.io/v1|1.22"),
    (
        "admissionregistration.k8s.io/v1beta1",
        "MutatingWebhookConfiguration|mutatingwebhookconfigurations|admissionregistration.k8s.io/v1|1.22",
    ),
    (
        "admissionregistration.k8s.io/v1beta1",
        "ValidatingWebhookConfiguration|validatingwebhookconfigurations|admissionregistration.k8s.io/v1|1.22",
    ),
    ("certificates.k8s.io/v1beta1", "CertificateSigningRequest|certificatesigningrequests|certificates.k8s.io/v1|1.22"),
    ("coordination.k8s.io/v1beta1", "Lease|leases|coordination.k8s.io/v1|1.22"),
    ("scheduling.k8s.io/v1beta1", "PriorityClass|priorityclasses|scheduling.k8s.io/v1|1.22"),
    ("storage.k8s.io/v1beta1", "StorageClass|storageclasses|storage.k8s.io/v1|1.22"),
    ("authentication.k8s.io/v1beta1", "TokenReview|tokenreviews|authentication.k8s.io/v1|1.22"),
    ("batch/v1beta1", "CronJob|cronjobs|batch/v1|1.25"),
    ("batch/v2alpha1", "CronJob|cronjobs|batch/v1|1.21"),
    ("discovery.k8s.io/v1beta1", "EndpointSlice|endpointslices|discovery.k8s.io/v1|1.25"),
    ("events.k8s.io/v1beta1", "Event|events|events.k8s.io/v1|1.25"),
    ("node.k8s.io/v1beta1", "RuntimeClass|runtimeclasses|node.k8s.io/v1|1.25"),
    ("policy/v1beta1", "PodDisruptionBudget|poddisruptionbudgets|policy/v1|1.25"),
    ("policy/v1beta1", "PodSecurityPolicy|podsecuritypolicies||1.25"),
    ("autoscaling/v2beta1", "HorizontalPodAutoscaler|horizontalpodautoscalers|autoscaling/v2|1.25"),
    ("autoscaling/v2beta2", "HorizontalPodAutoscaler|horizontalpodautoscalers|autoscaling/v2|1.26"),
)
REMOVED: dict[tuple[str, str], Removed] = {(version, row.kind): row for version, row in _ROWS}
"""(api version, kind) -> what became of it."""

_BY_PLURAL = {(version, row.plural): (version, row) for version, row in _ROWS}


def removal_message(api_version: str, kind: str) -> str | None:
    """What to say of a kind in a version that is gone, None for one that is not known to be."""
    row = REMOVED.get((api_version, kind))
    return _message(api_version, row) if row else None


def removed_error(group: str, version: str, plural: str = "") -> ApiError | None:
    """404 with what to use instead, for a request to `/apis/GROUP/VERSION/PLURAL`; None for a path not in the table.

    Without `plural` (discovery of the group version) the message names the first kind it had.
    """
    api_version = f"{group}/{version}"
    found = _BY_PLURAL.get((api_version, plural))
    if found is None and not plural:
        found = next(((v, row) for v, row in _ROWS if v == api_version), None)
    return ApiError(404, "NotFound", _message(*found)) if found else None


def _message(api_version: str, row: Removed) -> str:
    advice = f"use {row.replacement}" if row.replacement else "use Pod Security Admission"
    return f"{api_version} {row.kind} was removed in Kubernetes {row.release}; {advice}"
