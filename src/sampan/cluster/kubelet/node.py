"""What all pods of the node share: services of the kubelet, pod addresses, and the Node object itself."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from sampan.cluster.kubelet.cgroups import Groups
from sampan.cluster.kubelet.environment import total_memory
from sampan.cluster.kubelet.images import Images
from sampan.cluster.kubelet.source import Source
from sampan.cluster.kubelet.zygote import Capabilities, Zygote
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, now, now_micro
from sampan.operator.events import Recorder

if TYPE_CHECKING:
    from sampan.cluster.kubelet.pods import PodWorker
    from sampan.cluster.network.pods import PodNetwork

log = logging.getLogger(__name__)

NODE_NAME = "sampan"
VERSION = "v1.36.0"
HEARTBEAT = 60.0

Drained = Callable[[Object], Awaitable[None]]
"""Resolves once nothing sends the pod new requests any more."""


class Addresses:
    """Pod addresses of one slice, handed out in a circle, so that a freed one is not used again for long."""

    def __init__(self, prefix: str, node: str = "") -> None:
        """`prefix`: the first two numbers of pods' addresses. `node`: the machine's own."""
        self.prefix = prefix
        self.node = node or f"{prefix}.0.1"
        self._used: set[str] = set()
        self._next = 0

    def take(self, wanted: str = "") -> str:
        """An address; `wanted` if it is ours and free. Raises RuntimeError when all 32,000 are taken."""
        if wanted and wanted not in self._used and self._ours(wanted):
            self._used.add(wanted)
            return wanted
        for _ in range(127 * 254):
            third, fourth = divmod(self._next, 254)
            self._next = (self._next + 1) % (127 * 254)
            address = f"{self.prefix}.{third + 1}.{fourth + 1}"
            if address not in self._used:
                self._used.add(address)
                return address
        raise RuntimeError("no pod address is free")

    def reserve(self, address: str) -> None:
        """Do not hand out what an existing pod has; go on after it."""
        if self._ours(address):
            third, fourth = (int(part) for part in address.split(".")[2:])
            self._next = max(self._next, ((third - 1) * 254 + fourth) % (127 * 254))

    def free(self, address: str) -> None:
        self._used.discard(address)

    def _ours(self, address: str) -> bool:
        head, _, tail = address.rpartition(".")
        return (
            head.rpartition(".")[0] == self.prefix and tail.isdigit() and int(head.rpartition(".")[2]) in range(1, 128)
        )


class Services(Struct):
    """Handed to every pod worker."""

    client: Client
    recorder: Recorder
    source: Source
    images: Images
    zygote: Zygote
    addresses: Addresses
    directory: Path
    authority: Path
    capabilities: Capabilities
    api_address: str
    hosts: Callable[[str], list[str]]
    groups: Groups | None = None  # None: limits are watched, not enforced
    network: PodNetwork | None = None  # None: pods share the machine's
    admit: Callable[[Object, str], Awaitable[None]] | None = None  # a pod has this address: before its containers start
    forget: Callable[[Object], None] | None = None  # it has it no more
    drained: Drained | None = None
    finished: Callable[[PodWorker], None] | None = None


def node_object(address: str) -> Object:
    resources = {
        "cpu": str(os.cpu_count() or 1),
        "memory": f"{total_memory() // 1024}Ki",
        "pods": "500",
        "ephemeral-storage": f"{_disk() // 1024}Ki",
    }
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": NODE_NAME,
            "labels": {
                "kubernetes.io/hostname": NODE_NAME,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": machine,
                "node-role.kubernetes.io/control-plane": "",
            },
        },
        "spec": {},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "addresses": [
                {"type": "InternalIP", "address": address},
                {"type": "Hostname", "address": NODE_NAME},
            ],
            "conditions": conditions(),
            "nodeInfo": {
                "architecture": machine,
                "bootID": "",
                "containerRuntimeVersion": "sampan://processes",
                "kernelVersion": platform.release(),
                "kubeProxyVersion": VERSION,
                "kubeletVersion": VERSION,
                "machineID": "",
                "operatingSystem": "linux",
                "osImage": _os_name(),
                "systemUUID": "",
            },
        },
    }


def conditions() -> list[Object]:
    when = now()
    rows = (
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    )
    return [
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": when,
            "lastTransitionTime": when,
        }
        for kind, status, reason, message in rows
    ]


async def register(client: Client, address: str) -> None:
    """Make the Node object what it should be: Ready, with this machine's capacity."""
    node = node_object(address)
    try:
        await client.create(kinds.NODE, node)
    except ApiError as error:
        if error.code != 409:
            raise
    await client.patch(kinds.NODE, NODE_NAME, None, {"status": node["status"]}, subresource="status")


async def heartbeat(client: Client) -> None:
    """Renew the node's lease for ever."""
    lease: Object = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": NODE_NAME, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": NODE_NAME, "leaseDurationSeconds": int(HEARTBEAT * 2)},
    }
    while True:
        lease["spec"]["renewTime"] = now_micro()
        try:
            await client.patch(kinds.LEASE, NODE_NAME, "kube-node-lease", {"spec": lease["spec"]})
        except ApiError as error:
            if error.code == 404:
                try:
                    await client.create(kinds.LEASE, lease)
                except ApiError as refused:
                    log.debug("node lease: %s", refused)
        except OSError as error:
            log.debug("node lease: %s", error)
        await asyncio.sleep(HEARTBEAT)


def _disk() -> int:
    info = os.statvfs("/")
    return info.f_blocks * info.f_frsize


def _os_name() -> str:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return "Linux"
    return next((line.split("=", 1)[1].strip('"') for line in lines if line.startswith("PRETTY_NAME=")), "Linux")
