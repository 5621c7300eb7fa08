"""Instances are the ready endpoints of a Service's EndpointSlices: a list and a watch with the pod's own account.

https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/ - the account needs `list` and
`watch` on `endpointslices` of the group `discovery.k8s.io`. `kubernetes` uses what every pod is given; `kubernetes://HOST:PORT/NAMESPACE`
with `?account=DIRECTORY` names another API server, another namespace, and the directory of `token` and `ca.crt`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import msgspec

from sampan.service.bindings import Binding, BindingError
from sampan.service.coordination.connection import lines, short
from sampan.service.discovery.port import Away, Instance, arranged
from sampan.service.discovery.static import StaticLease

_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_SILENCE_SECONDS: Final = 330.0
_WATCH_SECONDS: Final = 300  # the server ends a watch after so long, and it is taken up again


class _Gone(Exception):
    """The resource version to watch from is no longer kept."""


class KubernetesRegistry:
    def __init__(self, binding: Binding) -> None:
        parts = urlsplit(binding.uri if binding.uri.startswith("kubernetes:") else f"kubernetes:{binding.uri[10:]}")
        options = dict(parse_qsl(parts.query))
        self.account = Path(options.get("account", _ACCOUNT))
        host = parts.netloc
        if not host:
            name, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
            host = f"{f'[{name}]' if ':' in name else name}:{port}" if name else ""
        if not host:
            raise BindingError(
                "SAMPAN_DISCOVERY=kubernetes works in a pod; elsewhere name the API server: kubernetes://HOST:PORT/NAMESPACE"
            )
        self.namespace = parts.path.strip("/") or os.environ.get("POD_NAMESPACE", "") or self._read("namespace")
        self.place = f"kubernetes://{host}/{self.namespace}"
        self._url = f"https://{host}/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices"
        self._session: aiohttp.ClientSession | None = None

    def _read(self, name: str) -> str:
        try:
            return (self.account / name).read_text().strip()
        except OSError as error:
            raise BindingError(f"SAMPAN_DISCOVERY: {self.account / name}: {error.strerror}") from error

    async def register(self, instance: Instance) -> StaticLease:
        return StaticLease()

    async def watch(self, service: str) -> AsyncIterator[tuple[Instance, ...]]:
        query = {"labelSelector": f"kubernetes.io/service-name={service}"}
        while True:
            page = await self._list(query)
            slices = {item["metadata"]["name"]: item for item in page["items"]}
            version, before = page["metadata"]["resourceVersion"], _instances(service, slices)
            yield before
            try:
                while True:
                    async for event in self._events({**query, "resourceVersion": version}):
                        item = event["object"]
                        version = item["metadata"]["resourceVersion"]
                        if event["type"] == "DELETED":
                            slices.pop(item["metadata"]["name"], None)
                        elif event["type"] != "BOOKMARK":
                            slices[item["metadata"]["name"]] = item
                        now = _instances(service, slices)
                        if now != before:
                            before = now
                            yield now
            except _Gone:
                continue

    async def _list(self, query: dict[str, str]) -> Any:
        try:
            async with await self._get(query, 5.0) as response:
                return msgspec.json.decode(await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as error:
            raise Away(f"{self.place}: {short(error)}") from error

    async def _events(self, query: dict[str, str]) -> AsyncIterator[Any]:
        """Those of one watch, until the server ends it in its time."""
        asked = {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(_WATCH_SECONDS)}
        try:
            response = await self._get(asked, _SILENCE_SECONDS)
            try:
                async for line in lines(response):
                    event = msgspec.json.decode(line)
                    if event["type"] == "ERROR":
                        raise (
                            _Gone
                            if event["object"].get("code") == 410
                            else Away(f"{self.place}: {event['object'].get('message', 'the watch failed')}")
                        )
                    yield event
            finally:
                response.close()
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as error:
            raise Away(f"{self.place}: {short(error)}") from error

    async def _get(self, query: dict[str, str], silence: float) -> aiohttp.ClientResponse:
        if self._session is None:
            context = ssl.create_default_context(cadata=self._read("ca.crt"))
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))
        response = await self._session.get(
            self._url,
            params=query,
            headers={"authorization": f"Bearer {self._read('token')}"},  # read each time: it is rotated
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=2.0, sock_read=silence),
        )
        if response.status == 410:
            response.close()
            raise _Gone
        if response.status != 200:
            response.close()
            hint = "; its account needs list and watch on endpointslices" if response.status == 403 else ""
            raise Away(f"{self.place}: status {response.status}{hint}")
        return response

    async def close(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


def _instances(service: str, slices: dict[str, Any]) -> tuple[Instance, ...]:
    """The ready endpoints. Their HTTP is the port called http or https, or else the first that is no gRPC; their gRPC
    that called grpc, or grpcs (by TLS)."""
    found: dict[str, Instance] = {}
    for item in slices.values():
        ports = [port for port in item.get("ports") or () if port.get("port")]
        rpc = next((port for port in ports if port.get("name") in ("grpc", "grpcs")), None)
        others = [port for port in ports if port is not rpc]
        http = next((port for port in others if port.get("name") in ("http", "https")), others[0] if others else None)
        if http is None and rpc is None:
            continue
        for endpoint in item.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready") is False:  # absent means ready
                continue
            address = endpoint["addresses"][0]
            name = (endpoint.get("targetRef") or {}).get("name") or address
            host = f"[{address}]" if ":" in address else address
            metadata = {"zone": endpoint["zone"]} if endpoint.get("zone") else {}
            found[name] = Instance(service, name, _base(host, http), metadata, _base(host, rpc))
    return arranged(found)


def _base(host: str, port: dict[str, Any] | None) -> str:
    if port is None:
        return ""
    secure = not {"https", "grpcs"}.isdisjoint((port.get("name"), port.get("appProtocol")))
    return f"{'https' if secure else 'http'}://{host}:{port['port']}"
