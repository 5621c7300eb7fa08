"""Validation of containers: names, images, ports, environment, mounts, probes, resources."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from sampan.cluster.apiserver.registry.faults import (
    CONFIG_KEY,
    DNS_LABEL,
    DNS_SUBDOMAIN,
    ENVIRONMENT_NAME,
    Faults,
    maps,
    port_name_problems,
    port_or_name,
    qualified_name_problems,
    sub,
)
from sampan.kube import quantity
from sampan.kube.objects import Object

_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_LIFECYCLE_HANDLERS = ("exec", "httpGet", "tcpSocket", "sleep")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_PROBE_NUMBERS = ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold")
_FIELD_PATHS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
)
_RESOURCE_FIELDS = tuple(
    f"{kind}.{name}" for kind in ("limits", "requests") for name in ("cpu", "ephemeral-storage", "memory")
)


def validate_containers(faults: Faults, spec: Object, path: str, volumes: set[Any]) -> None:
    """`containers` and `initContainers` of the pod spec at `path`."""
    containers = maps(spec.get("containers"))
    if not containers:
        faults.required(f"{path}.containers")
    seen: set[str] = set()
    ports: set[tuple[Any, ...]] = set()
    for group in ("containers", "initContainers"):
        for index, container in enumerate(maps(spec.get(group))):
            where = f"{path}.{group}[{index}]"
            name = container.get("name") or ""
            faults.name(f"{where}.name", name, DNS_LABEL)
            if name in seen:
                faults.duplicate(f"{where}.name", name)
            if name or group == "containers":  # upstream counts the nameless, too
                seen.add(name)
            sidecar = container.get("restartPolicy") == "Always"
            _container(faults, container, where, volumes)
            if group == "initContainers" and not sidecar:
                for key in ("lifecycle", *_PROBES):
                    if container.get(key):
                        faults.forbidden(
                            f"{where}.{key}", "may not be set for init containers without restartPolicy=Always"
                        )
            elif group == "containers":
                _host_ports(faults, container, where, ports)
    _ephemeral(faults, spec, f"{path}.ephemeralContainers", volumes)


EPHEMERAL_FIELDS = frozenset((
    "name", "image", "command", "args", "workingDir", "envFrom", "env", "volumeMounts", "volumeDevices",
    "terminationMessagePath", "terminationMessagePolicy", "imagePullPolicy", "securityContext", "stdin", "stdinOnce",
    "tty", "targetContainerName",
))  # fmt: skip
_NOT_EPHEMERAL = "cannot be set for an Ephemeral Container"


def _ephemeral(faults: Faults, spec: Object, path: str, volumes: set[Any]) -> None:
    """Ephemeral containers look at a pod and are no part of its work: no ports, probes, resources or hooks."""
    others = {one.get("name") for group in ("containers", "initContainers") for one in maps(spec.get(group))}
    seen = set(others)
    for index, container in enumerate(maps(spec.get("ephemeralContainers"))):
        where, name = f"{path}[{index}]", container.get("name")
        faults.name(f"{where}.name", name, DNS_LABEL)
        _container(faults, container, where, volumes)
        if name and name in seen:
            faults.duplicate(f"{where}.name", name)
        seen.add(name)
        target = container.get("targetContainerName")
        if target and target not in others:
            faults.not_found(f"{where}.targetContainerName", target)
        for field, value in container.items():
            if field not in EPHEMERAL_FIELDS and value not in (None, {}, []):
                faults.forbidden(f"{where}.{field}", _NOT_EPHEMERAL)
        for position, mount in enumerate(maps(container.get("volumeMounts"))):
            for field in ("subPath", "subPathExpr"):
                if mount.get(field):
                    faults.forbidden(f"{where}.volumeMounts[{position}].{field}", _NOT_EPHEMERAL)


def _container(faults: Faults, container: Object, where: str, volumes: set[Any]) -> None:
    image = container.get("image")
    if not image:
        faults.required(f"{where}.image")
    elif image != image.strip():
        faults.invalid(f"{where}.image", image, "must not have leading or trailing whitespace")
    faults.one_of(f"{where}.imagePullPolicy", container.get("imagePullPolicy"), _PULL_POLICIES)
    faults.one_of(
        f"{where}.terminationMessagePolicy",
        container.get("terminationMessagePolicy"),
        ("File", "FallbackToLogsOnError"),
    )
    _ports(faults, container, f"{where}.ports")
    _environment(faults, container, where)
    _mounts(faults, container, f"{where}.volumeMounts", volumes)
    for probe in _PROBES:
        if container.get(probe) is not None:
            _probe(faults, container[probe], f"{where}.{probe}", probe)
    for hook in ("postStart", "preStop"):
        handler = sub(container, "lifecycle").get(hook)
        if handler is not None:
            _handler(faults, handler, f"{where}.lifecycle.{hook}", _LIFECYCLE_HANDLERS)
    validate_resources(faults, container.get("resources"), f"{where}.resources")
    _security(faults, sub(container, "securityContext"), f"{where}.securityContext")


def _ports(faults: Faults, container: Object, path: str) -> None:
    names: set[str] = set()
    for index, port in enumerate(maps(container.get("ports"))):
        where, name = f"{path}[{index}]", port.get("name")
        if name:
            problems = list(port_name_problems(name))
            for message in problems:
                faults.invalid(f"{where}.name", name, message)
            if not problems and name in names:
                faults.duplicate(f"{where}.name", name)
            names.add(name)
        if not port.get("containerPort"):
            faults.required(f"{where}.containerPort")
        else:
            faults.port(f"{where}.containerPort", port["containerPort"])
        if port.get("hostPort"):
            faults.port(f"{where}.hostPort", port["hostPort"])
        faults.one_of(f"{where}.protocol", port.get("protocol"), _PROTOCOLS, required="containerPort" in port)


def _host_ports(faults: Faults, container: Object, where: str, seen: set[tuple[Any, ...]]) -> None:
    for index, port in enumerate(maps(container.get("ports"))):
        if port.get("hostPort"):
            key = (port.get("protocol"), port.get("hostIP") or "", port["hostPort"])
            if key in seen:
                faults.duplicate(f"{where}.ports[{index}].hostPort", "/".join(str(part) for part in key))
            seen.add(key)


def _environment(faults: Faults, container: Object, where: str) -> None:
    for index, variable in enumerate(maps(container.get("env"))):
        path = f"{where}.env[{index}]"
        faults.name(f"{path}.name", variable.get("name"), ENVIRONMENT_NAME)
        source = variable.get("valueFrom")
        if source is None:
            continue
        at = f"{path}.valueFrom"
        given = [key for key in ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef") if source.get(key)]
        if variable.get("value"):
            faults.invalid(at, "", "may not be specified when `value` is not empty")
        if not given:
            faults.invalid(
                at,
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef`"
                " or `fileKeyRef`",
            )
        elif len(given) > 1:
            faults.invalid(at, "", "may not have more than one field specified at a time")
        for key in ("configMapKeyRef", "secretKeyRef"):
            if reference := source.get(key):
                faults.name(f"{at}.{key}.name", reference.get("name"), DNS_SUBDOMAIN)
                faults.name(f"{at}.{key}.key", reference.get("key"), CONFIG_KEY)
        if source.get("fieldRef"):
            field_reference(faults, source["fieldRef"], f"{at}.fieldRef", _FIELD_PATHS)
        if source.get("resourceFieldRef"):
            resource = source["resourceFieldRef"].get("resource")
            faults.one_of(f"{at}.resourceFieldRef.resource", resource, _RESOURCE_FIELDS)
    for index, source in enumerate(maps(container.get("envFrom"))):
        path = f"{where}.envFrom[{index}]"
        given = [key for key in ("configMapRef", "secretRef") if source.get(key)]
        if source.get("prefix"):
            faults.name(f"{path}.prefix", source["prefix"], ENVIRONMENT_NAME)
        if not given:
            faults.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")
        elif len(given) > 1:
            faults.invalid(path, "", "may not have more than one field specified at a time")
        for key in given:
            faults.name(f"{path}.{key}.name", source[key].get("name"), DNS_SUBDOMAIN)


def field_reference(faults: Faults, reference: Object, path: str, allowed: tuple[str, ...]) -> None:
    """A downward API `fieldRef`: a plain path, or one label or annotation by subscript."""
    field = reference.get("fieldPath") or ""
    if not field:
        faults.required(f"{path}.fieldPath")
        return
    base, bracket, key = field.partition("['")
    if bracket:
        if base not in ("metadata.annotations", "metadata.labels"):
            faults.invalid(
                f"{path}.fieldPath", field, "error converting fieldPath: field label does not support subscript"
            )
            return
        for message in qualified_name_problems(key.removesuffix("']").lower()):
            faults.invalid(path, key.removesuffix("']"), message)
    else:
        faults.one_of(f"{path}.fieldPath", field, allowed)


def _mounts(faults: Faults, container: Object, path: str, volumes: set[Any]) -> None:
    paths: set[str] = set()
    for index, mount in enumerate(maps(container.get("volumeMounts"))):
        where, name, target = f"{path}[{index}]", mount.get("name"), mount.get("mountPath")
        if not name:
            faults.required(f"{where}.name")
        if (name or "") not in volumes:
            faults.not_found(f"{where}.name", name or "")
        if not target:
            faults.required(f"{where}.mountPath")
        elif target in paths:
            faults.invalid(f"{where}.mountPath", target, "must be unique")
        paths.add(target or "")
        for key in ("subPath", "subPathExpr"):
            relative_path(faults, f"{where}.{key}", mount.get(key))
        if mount.get("subPath") and mount.get("subPathExpr"):
            faults.invalid(
                f"{where}.subPathExpr", mount["subPathExpr"], "subPathExpr and subPath are mutually exclusive"
            )


def relative_path(faults: Faults, path: str, value: Any) -> None:
    """A path below a volume: relative, without `..`."""
    if not value:
        return
    if value.startswith("/"):
        faults.invalid(path, value, "must be a relative path")
    if ".." in value.split("/"):
        faults.invalid(path, value, "must not contain '..'")


def _handler(faults: Faults, handler: Object, path: str, kinds: tuple[str, ...]) -> None:
    given = [kind for kind in kinds if handler.get(kind) is not None]
    if not given:
        faults.required(path, "must specify a handler type")
    for kind in given[1:]:
        faults.forbidden(f"{path}.{kind}", "may not specify more than 1 handler type")
    for kind in given[:1]:
        body, where = handler[kind], f"{path}.{kind}"
        if kind == "exec" and not body.get("command"):
            faults.required(f"{where}.command")
        if kind == "httpGet":
            if not body.get("path"):
                faults.required(f"{where}.path")
            faults.one_of(f"{where}.scheme", body.get("scheme"), ("HTTP", "HTTPS"))
        if kind in ("httpGet", "tcpSocket"):
            port_or_name(faults, f"{where}.port", 0 if body.get("port") is None else body["port"])
        if kind == "grpc":
            faults.port(f"{where}.port", body.get("port"))


def _probe(faults: Faults, probe: Object, path: str, kind: str) -> None:
    _handler(faults, probe, path, _HANDLERS)
    for key in _PROBE_NUMBERS:
        faults.non_negative(f"{path}.{key}", probe.get(key))
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None:
        if kind == "readinessProbe":
            faults.invalid(f"{path}.terminationGracePeriodSeconds", grace, "must not be set for readinessProbes")
        else:
            faults.positive(f"{path}.terminationGracePeriodSeconds", grace)
    threshold = probe.get("successThreshold")
    if kind != "readinessProbe" and threshold not in (None, 1):
        faults.invalid(f"{path}.successThreshold", threshold, "must be 1")


def validate_resources(faults: Faults, resources: Any, path: str) -> None:
    """ResourceRequirements: quantities that are numbers, not negative, and requests within limits."""
    if not isinstance(resources, Mapping):
        return
    limits = _quantities(faults, resources.get("limits"), f"{path}.limits")
    requests = _quantities(faults, resources.get("requests"), f"{path}.requests")
    for name, amount in requests.items():
        limit = limits.get(name)
        if limit is not None and amount > limit:
            shown, most = resources["requests"][name], resources["limits"][name]
            faults.invalid(
                f"{path}.requests",
                str(shown),
                f"must be less than or equal to {name} limit of {quantity.canonical(str(most))}",
            )


def _quantities(faults: Faults, amounts: Any, path: str) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for name, text in (amounts or {}).items():
        where = f"{path}[{name}]" if "/" in name else f"{path}.{name}"
        if (
            not {"cpu", "memory", "ephemeral-storage"} & {name}
            and "/" not in name
            and not name.startswith("hugepages-")
        ):
            faults.invalid(f"{path}[{name}]", name, "must be a standard resource type or fully qualified")
            faults.invalid(f"{path}[{name}]", name, "must be a standard resource for containers")
        try:
            found[name] = quantity.parse(str(text))
        except ValueError:
            faults.invalid(
                where,
                str(text),
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            )
            continue
        if found[name] < 0:
            faults.invalid(f"{path}[{name}]", str(text), "must be greater than or equal to 0")
    return found


def _security(faults: Faults, context: Object, path: str) -> None:
    for key in ("runAsUser", "runAsGroup"):
        value = context.get(key)
        if isinstance(value, int) and not 0 <= value <= 2**31 - 1:
            faults.invalid(f"{path}.{key}", value, "must be between 0 and 2147483647, inclusive")
    if context.get("allowPrivilegeEscalation") is False and context.get("privileged"):
        faults.invalid(path, context, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
