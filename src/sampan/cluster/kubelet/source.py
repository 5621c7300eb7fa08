"""ConfigMaps, Secrets and claims as pods use them: read through informers, so that a change is known at once."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Protocol

from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.informer import Informer
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object


class ConfigError(Exception):
    """A pod refers to something that is not there (yet); tried again."""


class Source(Protocol):
    async def data(self, kind: str, namespace: str, name: str, optional: bool) -> dict[str, bytes] | None:
        """A ConfigMap's or Secret's entries; None if it is missing and `optional`. Raises ConfigError."""

    async def claim_path(self, namespace: str, claim: str) -> str:
        """The host directory behind a PersistentVolumeClaim. Raises ConfigError."""

    async def token(self, namespace: str, account: str, audience: str, seconds: int, pod: Object) -> str: ...


class ClusterSource:
    """`Source` over a cluster's client."""

    def __init__(self, client: Client, changed: Callable[[str, str, str], None]) -> None:
        """`changed(kind, namespace, name)` is called when a ConfigMap or Secret changes."""
        self._client = client
        self.informers = {
            "ConfigMap": Informer(client, kinds.CONFIG_MAP, trim=_identity),
            "Secret": Informer(client, kinds.SECRET, trim=_identity),
        }
        """Which there are and when they change; what is in them is read when a container wants it."""
        for kind, informer in self.informers.items():
            informer.add_handler(self._handler(kind, changed))

    @staticmethod
    def _handler(kind: str, changed: Callable[[str, str, str], None]) -> Callable[[Object | None, Object | None], None]:
        def handle(old: Object | None, new: Object | None) -> None:
            obj = new or old
            assert obj is not None
            changed(kind, obj["metadata"]["namespace"], obj["metadata"]["name"])

        return handle

    async def start(self) -> None:
        for informer in self.informers.values():
            informer.start()
        await asyncio.gather(*(informer.wait_synced() for informer in self.informers.values()))

    async def stop(self) -> None:
        for informer in self.informers.values():
            await informer.stop()

    async def data(self, kind: str, namespace: str, name: str, optional: bool) -> dict[str, bytes] | None:
        obj = await self._get(kinds.CONFIG_MAP if kind == "ConfigMap" else kinds.SECRET, name, namespace)
        if obj is None:
            if optional:
                return None
            raise ConfigError(f'{kind.lower()} "{name}" not found')
        return entries(obj)

    async def _get(self, resource: Resource, name: str, namespace: str | None) -> Object | None:
        try:
            return await self._client.get(resource, name, namespace)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def claim_path(self, namespace: str, claim: str) -> str:
        obj = await self._get(kinds.PERSISTENT_VOLUME_CLAIM, claim, namespace)
        if obj is None:
            raise ConfigError(f'persistentvolumeclaim "{claim}" not found')
        volume = (obj.get("spec") or {}).get("volumeName")
        if not volume or (obj.get("status") or {}).get("phase") != "Bound":
            raise ConfigError(f'persistentvolumeclaim "{claim}" is not bound')
        pv = await self._get(kinds.PERSISTENT_VOLUME, volume, None)
        spec = (pv or {}).get("spec") or {}
        path = (spec.get("hostPath") or spec.get("local") or {}).get("path")
        if not path:
            raise ConfigError(f'persistentvolume "{volume}" has neither a hostPath nor a local directory')
        return str(path)

    async def token(self, namespace: str, account: str, audience: str, seconds: int, pod: Object) -> str:
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {"name": account, "namespace": namespace},
            "spec": {
                "audiences": [audience] if audience else [],
                "expirationSeconds": seconds,
                "boundObjectRef": {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": pod["metadata"]["name"],
                    "uid": pod["metadata"]["uid"],
                },
            },
        }
        try:
            answer = await self._client.create(kinds.SERVICE_ACCOUNT, request, subresource="token")
        except ApiError as error:
            raise ConfigError(f'no token for serviceaccount "{account}": {error.message}') from error
        return str(answer["status"]["token"])


def entries(obj: Object) -> dict[str, bytes]:
    """The entries of a ConfigMap (`data`, `binaryData`) or Secret (`data`) as bytes."""
    if obj.get("kind") == "Secret" or "type" in obj:
        return {key: base64.b64decode(value) for key, value in (obj.get("data") or {}).items()}
    found = {key: str(value).encode() for key, value in (obj.get("data") or {}).items()}
    return found | {key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()}


def _identity(obj: Object) -> Object:
    """An object without all but who it is and of which version."""
    metadata = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion")
    return {"kind": obj["kind"], "metadata": {name: metadata[name] for name in kept if name in metadata}}
