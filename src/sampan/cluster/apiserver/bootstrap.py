"""What every cluster has from its first moment: namespaces, the `kubernetes` Service, the basic roles."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING

from sampan.cluster.apiserver import seed
from sampan.cluster.apiserver.registry.allocation import DEFAULT_CIDR
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


def _address(server: ApiServer) -> str:
    """The first of the range, as everywhere: the serving certificate names it."""
    return str(ipaddress.IPv4Network(server.settings.get("service_cidr") or DEFAULT_CIDR)[1])


def _port(server: ApiServer) -> int:
    return int(server.settings.get("port") or 6443)


def _objects(server: ApiServer) -> list[Object]:
    from sampan.cluster.apiserver.admission.defaults import system_classes
    from sampan.cluster.authorization.bootstrap import bootstrap_objects

    port = {"name": "https", "port": 443, "protocol": "TCP", "targetPort": _port(server)}
    return [
        *bootstrap_objects(),
        *system_classes(),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": {"component": "apiserver", "provider": "kubernetes"},
            },
            "spec": {"clusterIP": _address(server), "ports": [port], "type": "ClusterIP", "sessionAffinity": "None"},
        },
    ]


async def bootstrap(server: ApiServer) -> None:
    """Create what is missing; what is there is left as it is."""
    if server.store.revision == 0:
        await seed.plant(server.store, _address(server), _port(server))
    else:
        await complete(server)


async def complete(server: ApiServer) -> None:
    """`bootstrap` through the pipeline."""
    from sampan.kube.client import Client

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
