"""The roles and bindings a cluster is born with, as the Kubernetes RBAC reference lists them.

A rule is one line: `verbs | groups | resources`, words separated by spaces, `core` for the group without a name.
Upstream keeps `edit` and `view` apart from the secrets and roles of a namespace; so do we.
"""

from __future__ import annotations

from typing import Any

from sampan.cluster.authorization.bootstrap_system import SYSTEM
from sampan.cluster.authorization.rbac import MASTERS, effective_rules
from sampan.kube.objects import Object

API_VERSION = "rbac.authorization.k8s.io/v1"
_GROUP = "rbac.authorization.k8s.io"
_BOOTSTRAP = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_AUTOUPDATE = {"rbac.authorization.kubernetes.io/autoupdate": "true"}

_WRITE = "create delete deletecollection patch update"
_READ = "get list watch"

_EDIT = f"""
{_READ} | core | pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy
impersonate | core | serviceaccounts
{_WRITE} | core | pods pods/attach pods/exec pods/portforward pods/proxy
create | core | pods/eviction
{_WRITE} | core | configmaps persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy
create | core | serviceaccounts/token
{_WRITE} | core events.k8s.io | events
{_WRITE} | apps | daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale
{_WRITE} | autoscaling | horizontalpodautoscalers
{_WRITE} | batch | cronjobs jobs
{_WRITE} | extensions | daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets replicasets/scale replicationcontrollers/scale
{_WRITE} | policy | poddisruptionbudgets
{_WRITE} | networking.k8s.io | ingresses networkpolicies
{_WRITE} {_READ} | coordination.k8s.io | leases
{_WRITE} | resource.k8s.io | resourceclaims resourceclaimtemplates
"""  # noqa: E501 - one rule, one line
_VIEW = f"""
{_READ} | core | configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status
{_READ} | core | bindings limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status
{_READ} | core | namespaces
{_READ} | core events.k8s.io | events
{_READ} | discovery.k8s.io | endpointslices
{_READ} | apps | controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status
{_READ} | autoscaling | horizontalpodautoscalers horizontalpodautoscalers/status
{_READ} | batch | cronjobs cronjobs/status jobs jobs/status
{_READ} | extensions | daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale
{_READ} | policy | poddisruptionbudgets poddisruptionbudgets/status
{_READ} | networking.k8s.io | ingresses ingresses/status networkpolicies
{_READ} | resource.k8s.io | resourceclaims resourceclaims/status resourceclaimtemplates
"""  # noqa: E501 - one rule, one line
_ADMIN = f"""
create | authorization.k8s.io | localsubjectaccessreviews
{_WRITE} {_READ} | {_GROUP} | rolebindings roles
"""
_BASIC_USER = """
create | authorization.k8s.io | selfsubjectaccessreviews selfsubjectrulesreviews
create | authentication.k8s.io | selfsubjectreviews
"""
_AUTH_DELEGATOR = """
create | authentication.k8s.io | tokenreviews
create | authorization.k8s.io | subjectaccessreviews
"""
_DISCOVERY = (
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
    "/version/",
)
_MONITORING = (
    "/flagz",
    "/healthz",
    "/healthz/*",
    "/livez",
    "/livez/*",
    "/metrics",
    "/metrics/slis",
    "/readyz",
    "/readyz/*",
    "/statusz",
)
_ISSUER = (
    "/.well-known/openid-configuration",
    "/.well-known/openid-configuration/",
    "/openid/v1/jwks",
    "/openid/v1/jwks/",
)
_METRICS = f"{_READ} | metrics.k8s.io | pods nodes"
_PUBLIC = ("/healthz", "/livez", "/readyz", "/version", "/version/")


def _rules(text: str) -> list[Object]:
    rules: list[Object] = []
    for line in text.strip().splitlines():
        verbs, groups, resources, *names = (part.split() for part in line.split("|"))
        named = ["" if group == "core" else group for group in groups]
        rule: Object = {"verbs": sorted(set(verbs)), "apiGroups": named, "resources": resources}
        rules.append({**rule, "resourceNames": names[0]} if names else rule)
    return rules


def _urls(paths: tuple[str, ...]) -> list[Object]:
    return [{"verbs": ["get"], "nonResourceURLs": list(paths)}]


def _role(name: str, rules: list[Object], labels: dict[str, str] | None = None, **rest: Any) -> Object:
    metadata = {"name": name, "labels": {**_BOOTSTRAP, **(labels or {})}, "annotations": dict(_AUTOUPDATE)}
    return {"apiVersion": API_VERSION, "kind": "ClusterRole", "metadata": metadata, **rest, "rules": rules}


def _aggregate(*names: str) -> Object:
    return {"clusterRoleSelectors": [{"matchLabels": _into(name)} for name in names]}


def _into(name: str) -> dict[str, str]:
    return {f"rbac.authorization.k8s.io/aggregate-to-{name}": "true"}


def _binding(name: str, role: str, *groups: str) -> Object:
    return {
        "apiVersion": API_VERSION,
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name, "labels": dict(_BOOTSTRAP), "annotations": dict(_AUTOUPDATE)},
        "roleRef": {"apiGroup": _GROUP, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": _GROUP, "kind": "Group", "name": group} for group in groups],
    }


def bootstrap_objects() -> list[Object]:
    """ClusterRoles, aggregation already done, then ClusterRoleBindings. Fresh copies, ready to be created."""
    everything: list[Object] = [
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
        {"verbs": ["*"], "nonResourceURLs": ["*"]},
    ]
    roles = [
        _role("cluster-admin", everything),
        _role("admin", [], aggregationRule=_aggregate("admin")),
        _role("edit", [], _into("admin"), aggregationRule=_aggregate("edit")),
        _role("view", [], _into("edit"), aggregationRule=_aggregate("view")),
        _role("system:aggregate-to-admin", _rules(_ADMIN), _into("admin")),
        _role("system:aggregate-to-edit", _rules(_EDIT), _into("edit")),
        _role("system:aggregate-to-view", _rules(_VIEW), _into("view")),
        _role("system:basic-user", _rules(_BASIC_USER)),
        _role("system:discovery", _urls(_DISCOVERY)),
        _role("system:public-info-viewer", _urls(_PUBLIC)),
        _role("system:auth-delegator", _rules(_AUTH_DELEGATOR)),
        _role("system:monitoring", _urls(_MONITORING) + _rules("get | core | nodes/metrics")),
        _role("system:aggregated-metrics-reader", _rules(_METRICS), _into("view") | _into("edit") | _into("admin")),
        *(_role(name, _rules(rules)) for name, rules in SYSTEM.items()),
        _role("system:service-account-issuer-discovery", _urls(_ISSUER)),
    ]
    filled = [{**role, "rules": effective_rules(role, roles)} for role in roles]
    return [
        *filled,
        _binding("cluster-admin", "cluster-admin", MASTERS),
        _binding("system:basic-user", "system:basic-user", "system:authenticated"),
        _binding("system:discovery", "system:discovery", "system:authenticated"),
        _binding(
            "system:public-info-viewer", "system:public-info-viewer", "system:authenticated", "system:unauthenticated"
        ),
        _binding("system:monitoring", "system:monitoring", "system:monitoring"),
        _binding(
            "system:service-account-issuer-discovery",
            "system:service-account-issuer-discovery",
            "system:serviceaccounts",
        ),
    ]
