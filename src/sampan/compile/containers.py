"""The pod of a service or job: its container, what is mounted into it, and what it may not do."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sampan.compile import identity
from sampan.compile.context import version_of
from sampan.model import Config, Database, Service
from sampan.model.syntax import quantity

if TYPE_CHECKING:
    from sampan.compile.context import Context
    from sampan.model import Grant, Handle, Job, Probe, Resources
    from sampan.model.application import Workload

# Pod Security "restricted", and a read-only root besides.
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
POD_SECURITY = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
DOWNWARD = {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace", "POD_IP": "status.podIP"}
GRPC_PORT = 4317  # where collectors speak OTLP over gRPC; elsewhere it is HTTP
DRAIN_SECONDS = 5
"""Where endpoints and pods change at the same time, a pod goes on serving this long before it is told to stop."""
GRACE_SECONDS = 30


def environment(context: Context, workload: Workload, image: str) -> list[dict[str, Any]]:
    own = {"SAMPAN_APP": context.reference} if context.reference else {}
    own |= {
        "SAMPAN_ENVIRONMENT": context.environment.name,
        "SAMPAN_VERSION": version_of(image, context.app.version),
        "SERVICE_BINDING_ROOT": "/bindings",
        "SAMPAN_CONFIG_ROOT": "/config",
    }
    if context.environment.telemetry:
        own["OTEL_EXPORTER_OTLP_ENDPOINT"] = context.environment.telemetry
        if urlsplit(context.environment.telemetry).port == GRPC_PORT:
            own["OTEL_EXPORTER_OTLP_PROTOCOL"] = "grpc"
    if isinstance(workload, Service):
        own["PORT"] = str(workload.port)
        if workload.grpc is not None:
            own["GRPC_PORT"] = str(workload.grpc.port)
    own |= identity.variables(context, workload)
    result: list[dict[str, Any]] = [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in DOWNWARD.items()
    ]
    result += [{"name": name, "value": value} for name, value in sorted({**own, **workload.env}.items())]
    return result


def volumes(
    context: Context, handles: list[Handle], certificate: str = ""
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Volumes and mounts: bindings, configuration, shared data, the Secret `certificate`, and a writable /tmp."""
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for handle in handles:
        if isinstance(handle, Config):
            name, path = f"config-{handle.name}", f"/config/{handle.name}"
            source: dict[str, Any] = {"configMap": {"name": name}}
        else:
            name, path = f"binding-{handle.directory}", f"/bindings/{handle.directory}"
            source = {"secret": {"secretName": name}}
        found[name] = (source, {"mountPath": path, "readOnly": True})
    if certificate:
        found["tls"] = ({"secret": {"secretName": certificate}}, {"mountPath": identity.TLS_PATH, "readOnly": True})
    if any(map(context.on_volume, handles)):
        found["data"] = ({"persistentVolumeClaim": {"claimName": "data"}}, {"mountPath": "/data"})
    found["tmp"] = ({"emptyDir": {}}, {"mountPath": "/tmp"})  # noqa: S108 - the path inside the container
    names = sorted(found)
    return [{"name": n, **found[n][0]} for n in names], [{"name": n, **found[n][1]} for n in names]


def resources(asked: Resources) -> dict[str, Any]:
    """Requests and limits. Unless given, limits are twice the memory and four times the processor, at least one."""
    requests = {"cpu": asked.cpu, "memory": asked.memory}
    cpu, memory = quantity(asked.cpu) or Decimal(0), quantity(asked.memory) or Decimal(0)
    limits = {"cpu": _cpu(max(Decimal(1), cpu * 4)), "memory": _memory(memory * 2)}
    return {"requests": requests, "limits": {**limits, **(asked.limits or {})}}


def _cpu(cores: Decimal) -> str:
    return str(int(cores)) if cores == int(cores) else f"{int(cores * 1000)}m"


def _memory(size: Decimal) -> str:
    mebibytes = size / (1 << 20)
    return f"{int(mebibytes)}Mi" if mebibytes == int(mebibytes) else str(int(size))


def probe(declared: Probe, *, tls: bool = False) -> dict[str, Any]:
    asked: dict[str, Any] = {"path": declared.path, "port": "https" if tls else "http"}
    body: dict[str, Any] = {"httpGet": asked | ({"scheme": "HTTPS"} if tls else {})}
    if declared.delay:
        body["initialDelaySeconds"] = declared.delay
    return {
        **body,
        "periodSeconds": declared.period,
        "timeoutSeconds": declared.timeout,
        "failureThreshold": declared.failures,
    }


def listens(service: Service) -> dict[str, int]:
    """The ports of its container by name. HTTP is always there: probes and metrics are asked over it."""
    http, grpc = ("http", "grpc") if service.tls is None else ("https", "grpcs")
    return {http: service.port} | ({} if service.grpc is None else {grpc: service.grpc.port})


def migrated(grants: list[Grant]) -> list[Database]:
    """The databases whose migrations this workload runs before it starts: those it may write to."""
    found = [
        grant.handle
        for grant in grants
        if grant.access == "read_write" and isinstance(grant.handle, Database) and grant.handle.migrations
    ]
    return list(dict.fromkeys(found))


def pod(context: Context, workload: Service | Job, command: list[str]) -> dict[str, Any]:
    """The pod specification, without a restart policy."""
    image = context.images(workload.name)
    listed, mounts = volumes(context, workload.handles, identity.secret_name(workload) if workload.tls else "")
    common = {
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "env": environment(context, workload, image),
        "resources": resources(workload.resources),
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": mounts,
    }
    container: dict[str, Any] = {"name": workload.name, "command": command, **common}
    grace = GRACE_SECONDS
    if isinstance(workload, Service):
        container |= {
            "ports": [
                {"name": name, "containerPort": number, "protocol": "TCP"} for name, number in listens(workload).items()
            ],
            "startupProbe": probe(workload.startup, tls=workload.tls is not None),
            "readinessProbe": probe(workload.readiness, tls=workload.tls is not None),
            "livenessProbe": probe(workload.liveness, tls=workload.tls is not None),
        }
        if not context.local:
            container["lifecycle"] = {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}}
            grace += DRAIN_SECONDS
    spec: dict[str, Any] = {
        "serviceAccountName": workload.name,
        "automountServiceAccountToken": identity.reads_endpoints(workload),
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace,
        "securityContext": POD_SECURITY,
    }
    if databases := migrated(workload.grants):
        spec["initContainers"] = [
            {"name": f"migrate-{database.name}", "command": ["sampan", "migrate", database.name], **common}
            for database in databases
        ]
    return {**spec, "containers": [container], "volumes": listed}
