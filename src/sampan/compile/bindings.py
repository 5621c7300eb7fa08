"""What a service finds under `$SERVICE_BINDING_ROOT`: by whom each Secret is provided, and, locally, what is in it."""

from __future__ import annotations

import secrets
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sampan.compile.context import MESSAGING
from sampan.model import Bucket, Config, Database, Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    from sampan.compile.context import Context
    from sampan.kube.objects import Object
    from sampan.model import Handle

PORTS = {"mysql": 3306, "postgresql": 5432, "redis": 6379, "nats": 4222, "kafka": 9092, "rabbitmq": 5672, "s3": 443}
SUFFIX = {"database": "-db", "cache": "-cache"}
TYPES = {"cache": "redis", "secret": "opaque"}


@dataclass(frozen=True)
class Binding:
    """A Secret the workloads mount: `name` is binding-DIRECTORY, `type` as in the Service Binding Specification."""

    name: str
    handle: Handle
    type: str


def type_of(context: Context, handle: Handle) -> str:
    if isinstance(handle, Database):
        return context.engine(handle)
    if isinstance(handle, Bucket):
        return "file" if context.on_volume(handle) else "s3"
    if handle.kind == "topic":
        return "nats" if context.local else context.environment.messaging
    return TYPES.get(handle.kind, "")


def server_name(handle: Handle) -> str:
    """The name of the server behind a resource, where it runs beside the services: its host name."""
    return MESSAGING if handle.kind == "topic" else handle.name + SUFFIX.get(handle.kind, "")


def own_secret(server: str) -> str:
    """The Secret that only the server itself sees."""
    return f"server-{server}"


def bindings(context: Context) -> list[Binding]:
    """Every binding of the application, once, by name."""
    found = {
        handle.directory: Binding(f"binding-{handle.directory}", handle, type_of(context, handle))
        for handle in context.app.handles
        if not isinstance(handle, Config)
    }
    return [found[directory] for directory in sorted(found)]


def local_secrets(
    context: Context, existing: Container[str] = (), token: Callable[[], str] = lambda: secrets.token_urlsafe(24)
) -> Iterator[Object]:
    """The Secrets `up` creates for the backing stores beside the services, with passwords made up by `token`.

    Those named in `existing` are left out: a password is made once and kept, for the data behind it knows it.
    """
    for binding in bindings(context):
        server = server_name(binding.handle)
        if binding.type == "mysql" and own_secret(server) not in existing:
            root = {"root-password": b64encode(token().encode()).decode()}
            labels = context.labels("binding", server)
            yield context.object("v1", "Secret", own_secret(server), labels, type="Opaque", data=root)
        if binding.name in existing:
            continue
        labels = context.labels("binding", binding.handle.directory)
        data = {key: b64encode(text.encode()).decode() for key, text in _content(binding, token).items()}
        kind = f"servicebinding.io/{binding.type}"
        yield context.object("v1", "Secret", binding.name, labels, type=kind, data=data)


def _content(binding: Binding, token: Callable[[], str]) -> dict[str, str]:
    name, handle = binding.handle.name, binding.handle
    content = {"type": binding.type, "provider": "sampan"}
    if isinstance(handle, Secret):
        return content | {key: token() for key in handle.keys}
    if handle.kind == "topic":
        return content | {"uri": f"nats://{server_name(handle)}:{PORTS[binding.type]}"}
    if handle.kind == "cache":
        return content | {"uri": f"redis://{server_name(handle)}:{PORTS[binding.type]}/0"}
    if binding.type == "file":
        return content | {"uri": f"file:///data/{name}"}
    if binding.type == "sqlite":
        return content | {"uri": f"sqlite:////data/{name}.db"}
    host, port, user, password = server_name(handle), PORTS[binding.type], name.replace("-", "_"), token()
    return content | {
        "uri": f"{binding.type}://{user}:{password}@{host}:{port}/{user}",
        "host": host,
        "port": str(port),
        "username": user,
        "password": password,
        "database": user,
    }
