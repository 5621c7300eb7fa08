"""What every namespace is given: a ServiceAccount, and the cluster's CA; and the cluster its default StorageClass."""

from __future__ import annotations

from collections.abc import Callable

from sampan.cluster.controllers.volumes import STORAGE_CLASS
from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, is_deleting, name_of, namespace_of
from sampan.operator import Controller, Maps, Result, Watch

ROOT_CA = "kube-root-ca.crt"
WHY = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the"
    " internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes"
    " clusters."
)


class NamespaceDefaults(Controller):
    """`ca` is the certificate authority in PEM; without it no ConfigMap is made."""

    name, resource = "namespace-defaults", kinds.NAMESPACE

    def __init__(self, ca: str) -> None:
        super().__init__()
        self.ca = ca

    def watches(self) -> tuple[Watch, ...]:
        self.namespaces = self.cache.informer(kinds.NAMESPACE)
        self.accounts = self.cache.informer(kinds.SERVICE_ACCOUNT)
        self.classes = self.cache.informer(kinds.STORAGE_CLASS)
        self.maps = self.cache.informer(kinds.CONFIG_MAP)
        return Maps(kinds.SERVICE_ACCOUNT, _of("default")), Maps(kinds.CONFIG_MAP, _of(ROOT_CA))

    async def reconcile(self, key: str) -> Result | None:
        namespace = self.namespaces.get(key)
        if namespace is None or is_deleting(namespace):
            return None
        if self.accounts.get(f"{key}/default") is None:
            account: Object = {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": "default", "namespace": key},
            }
            await self._create(kinds.SERVICE_ACCOUNT, account)
        if key == "default" and self.classes.get(name_of(STORAGE_CLASS)) is None:
            await self._create(kinds.STORAGE_CLASS, STORAGE_CLASS)
        if not self.ca:
            return None
        present, data = self.maps.get(f"{key}/{ROOT_CA}"), {"ca.crt": self.ca}
        if present is None:
            metadata = {"name": ROOT_CA, "namespace": key, "annotations": {"kubernetes.io/description": WHY}}
            body: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
            await self._create(kinds.CONFIG_MAP, body)
        elif present.get("data") != data:
            await self.client.update(kinds.CONFIG_MAP, {**present, "data": data})
        return None

    async def _create(self, resource: kinds.Resource, body: Object) -> None:
        try:
            await self.client.create(resource, body)
        except ApiError as error:
            if error.reason != "AlreadyExists" and error.code not in (403, 404):  # or the namespace is going
                raise


def _of(name: str) -> Callable[[Object], list[str]]:
    return lambda obj: [namespace_of(obj) or ""] if name_of(obj) == name else []
