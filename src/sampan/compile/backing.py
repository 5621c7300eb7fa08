"""Backing stores beside the services: a row of data for each, as a StatefulSet and a Service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sampan.compile.bindings import PORTS, bindings, own_secret, server_name
from sampan.compile.containers import CONTAINER_SECURITY, POD_SECURITY
from sampan.compile.context import MESSAGING, Item, selector
from sampan.compile.network import store_policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.compile.bindings import Binding
    from sampan.compile.context import Context


@dataclass(frozen=True)
class Server:
    """A store: how it is started, where it listens, what it keeps. `uid` is the user its image has for it."""

    image: str
    args: tuple[str, ...]
    uid: int
    probe: Mapping[str, Any]
    data: str = ""  # where it keeps what must survive; empty: nothing
    scratch: tuple[str, ...] = ()  # further directories it writes to
    from_binding: Mapping[str, str] = field(default_factory=dict)  # environment variable -> key of its binding
    from_own: Mapping[str, str] = field(default_factory=dict)  # likewise, from the Secret that only the server sees
    env: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)  # besides its own
    memory: str = "64Mi"


TCP = {"tcpSocket": {"port": "main"}}
SERVERS: dict[str, Server] = {
    "mysql": Server(
        image="mariadb:11.4",
        args=("--bind-address=$(POD_IP)", "--skip-name-resolve", "--character-set-server=utf8mb4"),
        uid=999,
        probe=TCP,
        data="/var/lib/mysql",
        scratch=("/run/mysqld",),
        from_binding={
            "MARIADB_DATABASE": "database",
            "MARIADB_USER": "username",
            "MARIADB_PASSWORD": "password",
        },
        from_own={"MARIADB_ROOT_PASSWORD": "root-password"},
        memory="192Mi",
    ),
    "postgresql": Server(
        image="postgres:17",
        args=("-c", "listen_addresses=$(POD_IP)"),
        uid=999,
        probe=TCP,
        data="/var/lib/postgresql/data",
        scratch=("/run/postgresql",),
        from_binding={"POSTGRES_DB": "database", "POSTGRES_USER": "username", "POSTGRES_PASSWORD": "password"},
        env={"PGDATA": "/var/lib/postgresql/data/pgdata"},
    ),
    "redis": Server(
        image="valkey/valkey:8",
        args=("--bind", "$(POD_IP)", "--protected-mode", "no", "--save", "", "--dir", "/data"),
        uid=999,
        probe=TCP,
        scratch=("/data",),
    ),
    "nats": Server(
        image="nats:2.11",
        args=("--addr", "$(POD_IP)", "--jetstream", "--store_dir", "/data", "--http_port", "8222"),
        uid=1000,
        probe={"httpGet": {"path": "/healthz", "port": "monitor"}},
        data="/data",
        ports={"monitor": 8222},
    ),
}


def stores(context: Context) -> Iterator[Item]:
    """The servers behind the resources that are used, the volume of those that are files, and their policies."""
    bound = bindings(context)
    if any(context.on_volume(binding.handle) for binding in bound):
        yield _shared_volume(context)
    if not context.local:
        return
    for binding in bound:
        if binding.type not in SERVERS:
            continue
        name = server_name(binding.handle)
        using = [
            workload
            for workload in context.app.workloads
            if any(handle.directory == binding.handle.directory for handle in workload.handles)
        ]
        component = "messaging" if name == MESSAGING else binding.handle.kind
        labels = context.labels(component, name)
        port = PORTS[binding.type]
        yield Item(
            binding.handle,
            context.object(
                "apps/v1",
                "StatefulSet",
                name,
                labels,
                spec=_stateful_set(context, binding, name, labels),
            ),
        )
        listed = [{"name": "main", "port": port, "targetPort": "main", "protocol": "TCP"}]
        spec = {"type": "ClusterIP", "selector": selector(labels), "ports": listed}
        yield Item(binding.handle, context.object("v1", "Service", name, labels, spec=spec))
        yield store_policy(context, binding.handle, name, using, port)


def _shared_volume(context: Context) -> Item:
    size = context.backing.storage if context.backing else "1Gi"
    mode = "ReadWriteOnce" if context.local else "ReadWriteMany"
    labels = context.labels("application", context.app.name)
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": size}}}
    return Item(context.app, context.object("v1", "PersistentVolumeClaim", "data", labels, spec=spec))


def _stateful_set(context: Context, binding: Binding, name: str, labels: dict[str, str]) -> dict[str, Any]:
    server, port = SERVERS[binding.type], PORTS[binding.type]
    env: list[dict[str, Any]] = [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    env += [{"name": key, "value": value} for key, value in server.env.items()]
    env += [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
        for secret, keys in ((binding.name, server.from_binding), (own_secret(name), server.from_own))
        for variable, key in keys.items()
    ]
    scratch = {f"scratch-{number}": path for number, path in enumerate((*server.scratch, "/tmp"))}  # noqa: S108
    mounts = [{"name": volume, "mountPath": path} for volume, path in scratch.items()]
    if server.data:
        mounts.insert(0, {"name": "data", "mountPath": server.data})
    container = {
        "name": name,
        "image": server.image,
        "imagePullPolicy": "IfNotPresent",
        "args": list(server.args),
        "env": env,
        "ports": [
            {"name": label, "containerPort": number, "protocol": "TCP"}
            for label, number in {"main": port, **server.ports}.items()
        ],
        "startupProbe": {**server.probe, "periodSeconds": 1, "failureThreshold": 120},
        "readinessProbe": {**server.probe, "periodSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {**server.probe, "periodSeconds": 10, "failureThreshold": 6},
        "resources": {
            "requests": {"cpu": "50m", "memory": server.memory},
            "limits": {"cpu": "2", "memory": "1Gi"},
        },
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": mounts,
    }
    spec: dict[str, Any] = {
        "serviceName": name,
        "replicas": 1,
        "selector": {"matchLabels": selector(labels)},
        "template": {
            "metadata": {"labels": labels},
            "spec": {
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": 30,
                "securityContext": {**POD_SECURITY, "runAsUser": server.uid, "fsGroup": server.uid},
                "containers": [container],
                "volumes": [{"name": volume, "emptyDir": {}} for volume in scratch],
            },
        },
    }
    if server.data:
        assert context.backing is not None
        claim = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": context.backing.storage}},
        }
        spec["volumeClaimTemplates"] = [{"metadata": {"name": "data"}, "spec": claim}]
    return spec
