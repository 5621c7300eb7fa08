"""What every registry offers. etcd, Consul, Kubernetes and a static list implement it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sampan.service.coordination.away import Away


@dataclass(frozen=True)
class Instance:
    """One process of a service. `id` is unique within the service; `url` is its base, without a slash at the end, and
    `grpc` that of its gRPC port (https: by TLS). Either is empty where it does not answer so, or nobody says so."""

    service: str
    id: str
    url: str
    metadata: Mapping[str, str] = field(default_factory=dict, compare=False)
    grpc: str = ""


class Lease(Protocol):
    """A registration, which ends when it is not renewed: a process that dies is gone by itself."""

    seconds: float  # after which it ends unless renewed; 0: it is not ours to renew

    async def renew(self) -> bool:
        """Whether it is still held. False: it was lost, register again. Away when that cannot be told."""
        ...

    async def end(self) -> None:
        """Remove the instance now. Away."""
        ...


class Registry(Protocol):
    place: str  # for messages; without credentials

    async def register(self, instance: Instance) -> Lease:
        """List `instance`, in place of an earlier one of its id. Away."""
        ...

    def watch(self, service: str) -> AsyncIterator[tuple[Instance, ...]]:
        """All instances, sorted by id: at once, and after each change. Raises Away when the registry is lost."""
        ...

    async def close(self) -> None: ...


def arranged(instances: Mapping[str, Instance]) -> tuple[Instance, ...]:
    return tuple(instances[key] for key in sorted(instances))


__all__ = ["Away", "Instance", "Lease", "Registry", "arranged"]
