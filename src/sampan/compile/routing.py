"""The Ingress of a public service."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sampan.compile.context import Item

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.compile.context import Context
    from sampan.model import Route, Service

NGINX = "nginx.ingress.kubernetes.io/"


def ingress(context: Context, declared: Service) -> Iterator[Item]:
    """One Ingress for the plain paths, and one per rewrite: the annotation holds for a whole Ingress."""
    groups: dict[str | None, list[Route]] = {}
    for route in declared.public:
        groups.setdefault(route.rewrite, []).append(route)
    for number, (rewrite, routes) in enumerate(groups.items()):
        labels = context.labels("service", declared.name)
        name = declared.name if number == 0 else f"{declared.name}-{number + 1}"
        obj = context.object("networking.k8s.io/v1", "Ingress", name, labels, spec=_spec(context, declared, routes))
        annotations = {f"{NGINX}backend-protocol": "HTTPS"} if declared.tls is not None else {}
        if rewrite is not None:
            annotations[f"{NGINX}rewrite-target"] = f"{rewrite.rstrip('/')}/$2"
            annotations[f"{NGINX}use-regex"] = "true"
        if annotations:
            obj["metadata"]["annotations"] = annotations
        yield Item(declared, obj)


def _spec(context: Context, declared: Service, routes: list[Route]) -> dict[str, Any]:
    environment = context.environment
    spec: dict[str, Any] = {"ingressClassName": environment.ingress_class} if environment.ingress_class else {}
    hosts: dict[str | None, list[dict[str, Any]]] = {}
    for route in routes:
        path = {"path": route.path, "pathType": "Prefix"}
        if route.rewrite is not None:
            prefix = re.escape(route.path.rstrip("/")).replace("\\-", "-")
            path = {"path": f"{prefix}(/|$)(.*)", "pathType": "ImplementationSpecific"}
        backend = {"service": {"name": declared.name, "port": {"name": "https" if declared.tls else "http"}}}
        hosts.setdefault(route.host or environment.host, []).append({**path, "backend": backend})
    named = sorted(host for host in hosts if host)
    if environment.tls_secret and named:
        spec["tls"] = [{"hosts": named, "secretName": environment.tls_secret}]
    spec["rules"] = [{**({"host": host} if host else {}), "http": {"paths": paths}} for host, paths in hosts.items()]
    return spec
