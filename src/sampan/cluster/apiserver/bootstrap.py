"""What every cluster has from its first moment: namespaces, the `kubernetes` Service, classes, basic roles."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_RBAC = "rbac.authorization.k8s.io"
_READ, _WRITE = ["get", "list", "watch"], ["create", "delete", "deletecollection", "patch", "update"]
_USERS_GROUPS = [
    "", "apps", "autoscaling", "batch", "policy", "networking.k8s.io", "discovery.k8s.io", "events.k8s.io",
]  # fmt: skip


def _role(name: str, rules: list[Object]) -> Object:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
        "rules": rules,
    }


_ROLES = [
    _role(
        "cluster-admin",
        [
            {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
            {"nonResourceURLs": ["*"], "verbs": ["*"]},
        ],
    ),
    _role(
        "admin",
        [
            {"apiGroups": [*_USERS_GROUPS, _RBAC], "resources": ["*"], "verbs": [*_READ, *_WRITE]},
        ],
    ),
    _role("edit", [{"apiGroups": _USERS_GROUPS, "resources": ["*"], "verbs": [*_READ, *_WRITE]}]),
    _role("view", [
        {
            "apiGroups": [""],
            "resources": ["configmaps", "endpoints", "events", "limitranges", "namespaces", "persistentvolumeclaims",
                          "pods", "pods/log", "pods/status", "replicationcontrollers", "resourcequotas",
                          "serviceaccounts", "services"],
            "verbs": _READ,
        },
        {"apiGroups": _USERS_GROUPS[1:], "resources": ["*"], "verbs": _READ},
    ]),
]  # fmt: skip


def _objects(server: ApiServer) -> list[Object]:
    port = {"name": "https", "port": 443, "protocol": "TCP", "targetPort": server.settings.get("port") or 6443}
    return [
        *_ROLES,
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "cluster-admin"},
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": _RBAC, "kind": "Group", "name": "system:masters"}],
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": {"component": "apiserver", "provider": "kubernetes"},
            },
            "spec": {"ports": [port], "type": "ClusterIP", "sessionAffinity": "None"},
        },
    ]


async def bootstrap(server: ApiServer) -> None:
    """Create what is missing; what is there is left as it is."""
    client = Client(server.transport())

    async def ensure(obj: Object) -> None:
        kind = server.catalog.by_kind(obj["apiVersion"], obj["kind"])
        assert kind is not None
        name, namespace = obj["metadata"]["name"], obj["metadata"].get("namespace")
        if server.peek(kind.resource, name, namespace) is not None:
            return
        try:
            await client.create(kind.resource, obj)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise

    await asyncio.gather(
        *(ensure({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}) for name in NAMESPACES)
    )
    await asyncio.gather(*(ensure(obj) for obj in _objects(server)))
