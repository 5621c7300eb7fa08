"""What every compiler of this package is given, and what it gives back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from sampan.model import Bucket, Database, Handle

if TYPE_CHECKING:
    from sampan.kube.objects import Object
    from sampan.model import Application, Environment

MESSAGING = "messaging"
HTTP_PORT = 8080
"""The port at which a Service of ours is reached, whatever its container listens on."""
HTTPS_PORT = 8443
"""The same where it speaks TLS."""
GRPC_PORT = 9090
"""The same for gRPC."""


@dataclass(frozen=True)
class Backing:
    """Backing stores that run beside the services, as on a laptop.

    `engines` are the database servers this machine can run; a database of any other engine becomes SQLite on a shared
    volume. `storage` is the size of each volume. `issuer` is the URL of the development issuer, where one runs.
    """

    engines: frozenset[str] = frozenset({"mysql", "postgresql"})
    storage: str = "1Gi"
    issuer: str = ""


class Item(NamedTuple):
    """A compiled object and the declaration it belongs to; patches are matched by that."""

    owner: Any
    object: Object


@dataclass(frozen=True)
class Context:
    """One compilation."""

    app: Application
    environment: Environment
    images: Callable[[str], str]
    backing: Backing | None
    reference: str = ""

    @cached_property
    def namespace(self) -> str:
        declared = self.environment.namespace
        suffix = "" if self.environment.name == "dev" else f"-{self.environment.name}"
        return declared or self.app.name + suffix

    @property
    def local(self) -> bool:
        return self.backing is not None

    def overrides(self, thing: Any) -> Mapping[str, Any]:
        return self.environment.values.get(thing, {})

    def engine(self, database: Database) -> str:
        """The engine the database has here."""
        engine = str(self.overrides(database).get("engine", database.engine))
        if self.backing is not None and engine not in self.backing.engines:
            return "sqlite"
        return engine

    def on_volume(self, handle: Handle) -> bool:
        """Whether the resource is a file on the shared volume at /data."""
        if isinstance(handle, Database):
            return self.engine(handle) == "sqlite"
        return isinstance(handle, Bucket) and self.local

    def labels(self, component: str, name: str) -> dict[str, str]:
        return {
            "app.kubernetes.io/name": name,
            "app.kubernetes.io/component": component,
            "app.kubernetes.io/part-of": self.app.name,
            "app.kubernetes.io/managed-by": "sampan",
        }

    def object(
        self, api_version: str, kind: str, name: str, labels: Mapping[str, str], *, namespaced: bool = True, **body: Any
    ) -> Object:
        metadata: dict[str, Any] = {"name": name}
        if namespaced:
            metadata["namespace"] = self.namespace
        metadata["labels"] = dict(labels)
        return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}


def fresh(value: Any) -> Any:
    """A copy of JSON-shaped data that shares nothing with it; several times as fast as `deepcopy`."""
    if isinstance(value, dict):
        return {key: fresh(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [fresh(inner) for inner in value]
    return value


def selector(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels that never change for a workload."""
    return {key: value for key, value in labels.items() if key.endswith(("/name", "/component", "/part-of"))}


def version_of(image: str, otherwise: str) -> str:
    """The tag of an image reference, as a label value; `otherwise` when there is none."""
    last = image.partition("@")[0].rpartition("/")[2]
    tag = last.partition(":")[2] or otherwise
    return re.sub(r"[^A-Za-z0-9_.-]", "-", tag)[:63].strip("-_.") or "0"
