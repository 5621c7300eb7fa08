"""EndpointSlices and Endpoints: which addresses stand behind a Service, and in what state.

The proxy follows the slices, so this controller reacts to each change of a pod at once and writes only what differs.
A pod that is terminating stays listed with `ready: false`, `terminating: true`, and `serving` as its readiness says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence

from sampan.cluster.controllers import pods
from sampan.kube import kinds
from sampan.kube.errors import ApiError
from sampan.kube.objects import (
    Object,
    is_deleting,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    owner_reference,
    split_key,
    uid_of,
)
from sampan.operator import Controller, Maps, Owns, Result, Watch
from sampan.operator.cache import OWNER

SERVICE = "kubernetes.io/service-name"
MANAGED = "endpointslice.kubernetes.io/managed-by"
OURS = "endpointslice-controller.k8s.io"
MIRROR = "endpointslicemirroring-controller.k8s.io"
NOT_MIRRORED = ("control-plane.alpha.kubernetes.io/leader",)
SLICE_SIZE = 100
ENDPOINTS_SIZE = 1000

Port = tuple[str, str, int | None, str | None]
"""name, protocol, number, appProtocol"""


class EndpointController(Controller):
    name, resource = "endpointslice", kinds.SERVICE
    workers = 8

    def watches(self) -> tuple[Watch, ...]:
        self.services = self.cache.informer(kinds.SERVICE)
        self.pods = self.cache.informer(kinds.POD, indexes={"namespace": _namespace})
        self.slices = self.cache.informer(kinds.ENDPOINT_SLICE)
        self.endpoints = self.cache.informer(kinds.ENDPOINTS)
        return (
            Maps(kinds.POD, self._selecting),
            Owns(kinds.ENDPOINT_SLICE),
            Maps(kinds.ENDPOINTS, lambda e: [key_of(e)]),
        )

    def _selecting(self, pod: Object) -> Iterable[str]:
        labels = labels_of(pod).items()
        for service in self.services.list(namespace_of(pod)):
            selector = service["spec"].get("selector")
            if selector and selector.items() <= labels:
                yield key_of(service)

    async def reconcile(self, key: str) -> Result | None:
        service = self.services.get(key)
        if service is None or is_deleting(service):
            await self._forget(key)
            return None
        if service["spec"].get("type") == "ExternalName":
            return None
        selector = service["spec"].get("selector")
        if not selector:
            await self._mirror(service)
            return None
        chosen = [
            pod
            for pod in self.pods.by_index("namespace", namespace_of(service) or "")
            if selector.items() <= labels_of(pod).items() and _addressable(pod)
        ]
        chosen.sort(key=name_of)
        await asyncio.gather(
            self._write_slices(service, OURS, _groups(service, chosen)), self._write_endpoints(service, chosen)
        )
        return None

    async def _forget(self, key: str) -> None:
        """Endpoints have no owner reference: they go with their service."""
        endpoints = self.endpoints.get(key)
        if endpoints is not None and "endpoints.kubernetes.io/managed-by" in labels_of(endpoints):
            namespace, name = split_key(key)
            await self._gone(self.client.delete(kinds.ENDPOINTS, name, namespace, uid=uid_of(endpoints)))

    async def _mirror(self, service: Object) -> None:
        """A Service without selector: Endpoints written by hand are mirrored into slices; slices by hand are left
        alone."""
        endpoints = self.endpoints.get(key_of(service))
        groups: dict[tuple[Port, ...], list[Object]] = {}
        skipped = endpoints is None or labels_of(endpoints).get("endpointslice.kubernetes.io/skip-mirror") == "true"
        if endpoints is not None and not skipped and not _is_leader_record(endpoints):
            for subset in endpoints.get("subsets") or ():
                ports = tuple(
                    (p.get("name") or "", p.get("protocol") or "TCP", p["port"], p.get("appProtocol"))
                    for p in subset.get("ports") or ()
                )
                for field, ready in (("addresses", True), ("notReadyAddresses", False)):
                    groups.setdefault(ports, []).extend(_mirrored(a, ready) for a in subset.get(field) or ())
        await self._write_slices(service, MIRROR, groups)

    async def _write_slices(self, service: Object, manager: str, groups: dict[tuple[Port, ...], list[Object]]) -> None:
        """Make the managed slices say `groups`; slices are reused in order, so that a steady state writes nothing."""
        mine = [s for s in self.slices.by_index(OWNER, uid_of(service)) if labels_of(s).get(MANAGED) == manager]
        wanted = [
            (ports, endpoints[start : start + SLICE_SIZE])
            for ports, endpoints in groups.items()
            for start in range(0, max(1, len(endpoints)), SLICE_SIZE)
        ]
        free = sorted(mine, key=lambda s: (pods.created(s), name_of(s)))
        writes: list[Awaitable[Object | None]] = []
        for ports, endpoints in wanted:
            body = self._slice(service, manager, ports, endpoints)
            same = next((s for s in free if s.get("ports") == body["ports"]), free[0] if free else None)
            if same is None:
                writes.append(self.client.create(kinds.ENDPOINT_SLICE, body))
                continue
            free.remove(same)
            labels = {**labels_of(same), **body["metadata"]["labels"]}
            if not _is_headless(service):
                labels.pop("service.kubernetes.io/headless", None)
            if (
                (same.get("endpoints") or []) != endpoints
                or same.get("ports") != body["ports"]
                or labels != labels_of(same)
            ):
                metadata = {**same["metadata"], "labels": labels}
                changed = {**same, "metadata": metadata, "endpoints": endpoints, "ports": body["ports"]}
                writes.append(self.client.update(kinds.ENDPOINT_SLICE, changed))
        writes.extend(self._gone(self._delete(extra)) for extra in free)
        if writes:
            await asyncio.gather(*writes)

    def _slice(self, service: Object, manager: str, ports: Sequence[Port], endpoints: list[Object]) -> Object:
        headless = {"service.kubernetes.io/headless": ""} if _is_headless(service) else {}
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "generateName": f"{name_of(service)}-",
                "namespace": namespace_of(service),
                "labels": {**labels_of(service), SERVICE: name_of(service), MANAGED: manager, **headless},
                "ownerReferences": [owner_reference(service)],
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [
                {
                    "name": name,
                    "protocol": protocol,
                    **({"port": number} if number is not None else {}),
                    **({"appProtocol": application} if application else {}),
                }
                for name, protocol, number, application in ports
            ],
        }

    async def _write_endpoints(self, service: Object, chosen: list[Object]) -> None:
        subsets = _subsets(service, chosen)
        name, namespace = name_of(service), namespace_of(service)
        present = self.endpoints.get(key_of(service))
        labels = {**labels_of(service), "endpoints.kubernetes.io/managed-by": "endpoint-controller"}
        body: Object = {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            **({"subsets": subsets} if subsets else {}),
        }
        if present is None:
            await self.client.create(kinds.ENDPOINTS, body)
        elif (present.get("subsets") or []) != subsets or labels_of(present) != labels:
            metadata = {**present["metadata"], "labels": labels}
            await self.client.update(kinds.ENDPOINTS, {**body, "metadata": metadata})

    async def _delete(self, stale: Object) -> Object:
        return await self.client.delete(kinds.ENDPOINT_SLICE, name_of(stale), namespace_of(stale), uid=uid_of(stale))

    async def _gone(self, call: Awaitable[Object]) -> None:
        try:
            await call
        except ApiError as error:
            if error.code not in (404, 409):
                raise


def _namespace(obj: Object) -> list[str]:
    return [namespace_of(obj) or ""]


def _is_leader_record(endpoints: Object) -> bool:
    return any(key in (endpoints["metadata"].get("annotations") or {}) for key in NOT_MIRRORED)


def _is_headless(service: Object) -> bool:
    return bool(service["spec"].get("clusterIP") == "None")


def _addressable(pod: Object) -> bool:
    return bool((pod.get("status") or {}).get("podIP")) and pods.phase(pod) not in pods.FINISHED


def _ports(service: Object, pod: Object) -> tuple[Port, ...]:
    """The service's ports as this pod has them; a named target port may differ from pod to pod, or be missing."""
    found: list[Port] = []
    for port in service["spec"].get("ports") or ():
        target, protocol = port.get("targetPort") or port["port"], port.get("protocol") or "TCP"
        number = target if isinstance(target, int) else _named(pod, target, protocol)
        if number is not None:
            found.append((port.get("name") or "", protocol, number, port.get("appProtocol")))
    return tuple(found)


def _named(pod: Object, name: str, protocol: str) -> int | None:
    sidecars = [c for c in pod["spec"].get("initContainers") or () if c.get("restartPolicy") == "Always"]
    for container in [*pod["spec"]["containers"], *sidecars]:
        for port in container.get("ports") or ():
            if port.get("name") == name and (port.get("protocol") or "TCP") == protocol:
                return int(port["containerPort"])
    return int(name) if name.isdigit() else None


def _groups(service: Object, chosen: Sequence[Object]) -> dict[tuple[Port, ...], list[Object]]:
    """Endpoints by the ports they share. A service nothing stands behind still has one empty slice."""
    groups: dict[tuple[Port, ...], list[Object]] = {}
    for pod in chosen:
        groups.setdefault(_ports(service, pod), []).append(_endpoint(service, pod))
    return groups or {(): []}


def _endpoint(service: Object, pod: Object) -> Object:
    publish = bool(service["spec"].get("publishNotReadyAddresses"))
    serving, terminating = pods.is_ready(pod), is_deleting(pod)
    hostname = pod["spec"].get("hostname")
    named = hostname and pod["spec"].get("subdomain") == name_of(service)
    return {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {
            "ready": publish or (serving and not terminating),
            "serving": serving,
            "terminating": terminating,
        },
        **({"hostname": hostname} if named else {}),
        "targetRef": {"kind": "Pod", "namespace": namespace_of(pod), "name": name_of(pod), "uid": uid_of(pod)},
        **({"nodeName": pod["spec"]["nodeName"]} if pod["spec"].get("nodeName") else {}),
    }


def _mirrored(address: Object, ready: bool) -> Object:
    kept = {key: address[key] for key in ("hostname", "targetRef", "nodeName") if address.get(key)}
    return {"addresses": [address["ip"]], "conditions": {"ready": ready}, **kept}


def _subsets(service: Object, chosen: Sequence[Object]) -> list[Object]:
    """The older Endpoints form; terminating pods are left out of it altogether."""
    publish = bool(service["spec"].get("publishNotReadyAddresses"))
    groups: dict[tuple[Port, ...], tuple[list[Object], list[Object]]] = {}
    for pod in [pod for pod in chosen if publish or not is_deleting(pod)][:ENDPOINTS_SIZE]:
        ports = _ports(service, pod)
        if not ports and not _is_headless(service):
            continue
        named = pod["spec"].get("hostname") and pod["spec"].get("subdomain") == name_of(service)
        address = {
            "ip": pod["status"]["podIP"],
            **({"hostname": pod["spec"]["hostname"]} if named else {}),
            **({"nodeName": pod["spec"]["nodeName"]} if pod["spec"].get("nodeName") else {}),
            "targetRef": {"kind": "Pod", "namespace": namespace_of(pod), "name": name_of(pod), "uid": uid_of(pod)},
        }
        ready, waiting = groups.setdefault(ports, ([], []))
        (ready if publish or pods.is_ready(pod) else waiting).append(address)
    return [
        {
            **({"addresses": ready} if ready else {}),
            **({"notReadyAddresses": waiting} if waiting else {}),
            **({"ports": [_plain_port(port) for port in ports]} if ports else {}),
        }
        for ports, (ready, waiting) in groups.items()
    ]


def _plain_port(port: Port) -> Object:
    name, protocol, number, application = port
    return {
        **({"name": name} if name else {}),
        "port": number,
        "protocol": protocol,
        **({"appProtocol": application} if application else {}),
    }
