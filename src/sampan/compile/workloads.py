"""A service as Deployment, Service and ServiceAccount."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sampan.compile import identity
from sampan.compile.containers import pod
from sampan.compile.context import GRPC_PORT, HTTP_PORT, HTTPS_PORT, Item, selector, version_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.compile.context import Context
    from sampan.model import Service
    from sampan.model.application import Workload

SPREAD_OVER = ("topology.kubernetes.io/zone", "kubernetes.io/hostname")


def service(context: Context, declared: Service) -> Iterator[Item]:
    labels = context.labels("service", declared.name)
    yield service_account(context, declared, labels)
    yield from identity.access(context, declared)
    yield Item(
        declared, context.object("apps/v1", "Deployment", declared.name, labels, spec=_deployment(context, declared))
    )
    # appProtocol tells meshes and proxies to speak HTTP/2, and to balance each call instead of each connection
    secure = declared.tls is not None
    served: dict[str, tuple[int, str]] = {}
    if declared.asgi is not None:
        served |= {"https": (HTTPS_PORT, "https")} if secure else {"http": (HTTP_PORT, "http")}
    if declared.grpc is not None:
        served |= {"grpcs": (GRPC_PORT, "tls")} if secure else {"grpc": (GRPC_PORT, "grpc")}
    if served:
        spec = {
            "type": "ClusterIP",
            "selector": selector(labels),
            "ports": [
                {"name": name, "port": port, "targetPort": name, "protocol": "TCP", "appProtocol": protocol}
                for name, (port, protocol) in served.items()
            ],
        }
        yield Item(declared, context.object("v1", "Service", declared.name, labels, spec=spec))


def service_account(context: Context, declared: Workload, labels: dict[str, str]) -> Item:
    account = context.object("v1", "ServiceAccount", declared.name, labels, automountServiceAccountToken=False)
    return Item(declared, account)


def _deployment(context: Context, declared: Service) -> dict[str, Any]:
    labels = context.labels("service", declared.name)
    chosen = selector(labels)
    spec: dict[str, Any] = {}
    # Where an autoscaler owns the count, stating it here would take it back at every deployment. On a laptop the
    # quick start is worth that.
    if context.local or declared.scale.most <= declared.scale.minimum:
        spec["replicas"] = declared.scale.minimum
    template = pod(context, declared, ["sampan", "serve", declared.name])
    if not context.local and declared.scale.most > 1:
        template["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": chosen},
                "matchLabelKeys": ["pod-template-hash"],
            }
            for key in SPREAD_OVER
        ]
    version = version_of(context.images(declared.name), context.app.version)
    return {
        **spec,
        "revisionHistoryLimit": 10,
        "selector": {"matchLabels": chosen},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
        "template": {
            "metadata": {
                "labels": {**labels, "app.kubernetes.io/version": version},
                "annotations": {
                    "kubectl.kubernetes.io/default-container": declared.name,
                    "prometheus.io/path": "/metrics",
                    "prometheus.io/port": str(declared.port),
                    **({"prometheus.io/scheme": "https"} if declared.tls is not None else {}),
                    "prometheus.io/scrape": "true",
                },
            },
            "spec": template,
        },
    }
