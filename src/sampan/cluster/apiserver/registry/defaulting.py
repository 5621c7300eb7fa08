"""Defaults as data: rows of (path, value), and the small engine that walks them.

A row fills its field in when the field is absent or null and its parent exists: `spec` `{}` before `spec.replicas`
makes the parent. `[]` in a path means every item of a list. Values come from the Kubernetes API reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

Rule = Callable[[dict[str, Any]], None]
Rows = tuple[tuple[str, Any], ...]


def compile_rows(rows: Rows) -> Rule:
    """A function that applies `rows`, outer fields before inner ones. It never fails, whatever it is given."""
    root = _Node()
    for path, value in rows:
        *steps, last = path.split(".")
        node = root
        for step in steps:
            node = node.children.setdefault((step.removesuffix("[]"), step.endswith("[]")), _Node())
        node.fields.append((last, value, isinstance(value, dict | list)))

    return root.apply


class _Node:
    """The rows of one mapping, and of the mappings and lists below it: each part of an object is visited once."""

    __slots__ = ("children", "fields")

    def __init__(self) -> None:
        self.fields: list[tuple[str, Any, bool]] = []
        self.children: dict[tuple[str, bool], _Node] = {}

    def apply(self, obj: Any) -> None:
        for name, value, shared in self.fields:
            if obj.get(name) is None:
                obj[name] = deepcopy(value) if shared else value
        for (name, many), node in self.children.items():
            below = obj.get(name)
            if many and isinstance(below, list):
                for item in below:
                    if isinstance(item, dict):
                        node.apply(item)
            elif not many and isinstance(below, dict):
                node.apply(below)


def parents(obj: Any, path: list[str]) -> Iterator[dict[str, Any]]:
    """Every mapping reached by `path`, through lists where a step ends in `[]`."""
    if not isinstance(obj, dict):
        return
    if not path:
        yield obj
        return
    step, rest = path[0], path[1:]
    if step.endswith("[]"):
        items = obj.get(step[:-2])
        if isinstance(items, list):
            for item in items:
                yield from parents(item, rest)
    else:
        yield from parents(obj.get(step), rest)


def _container_rows() -> Rows:
    rows: list[tuple[str, Any]] = []
    for group in ("containers", "initContainers", "ephemeralContainers"):
        at = f"{group}[]."
        rows += [
            (at + "resources", {}),
            (at + "terminationMessagePath", "/dev/termination-log"),
            (at + "terminationMessagePolicy", "File"),
            (at + "ports[].protocol", "TCP"),
            (at + "env[].valueFrom.fieldRef.apiVersion", "v1"),
        ]
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            rows += [
                (f"{at}{probe}.timeoutSeconds", 1),
                (f"{at}{probe}.periodSeconds", 10),
                (f"{at}{probe}.successThreshold", 1),
                (f"{at}{probe}.failureThreshold", 3),
                (f"{at}{probe}.grpc.service", ""),
            ]
        for handler in ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle.postStart", "lifecycle.preStop"):
            rows += [(f"{at}{handler}.httpGet.path", "/"), (f"{at}{handler}.httpGet.scheme", "HTTP")]
    return tuple(rows)


POD_SPEC_ROWS: Rows = (
    ("restartPolicy", "Always"),
    ("terminationGracePeriodSeconds", 30),
    ("dnsPolicy", "ClusterFirst"),
    ("securityContext", {}),
    ("schedulerName", "default-scheduler"),
    *_container_rows(),
    ("volumes[].secret.defaultMode", 420),
    ("volumes[].configMap.defaultMode", 420),
    ("volumes[].downwardAPI.defaultMode", 420),
    ("volumes[].downwardAPI.items[].fieldRef.apiVersion", "v1"),
    ("volumes[].projected.defaultMode", 420),
    ("volumes[].projected.sources[].serviceAccountToken.expirationSeconds", 3600),
    ("volumes[].projected.sources[].downwardAPI.items[].fieldRef.apiVersion", "v1"),
    ("volumes[].hostPath.type", ""),
    ("volumes[].iscsi.iscsiInterface", "default"),
    ("volumes[].rbd.pool", "rbd"),
    ("volumes[].rbd.user", "admin"),
    ("volumes[].rbd.keyring", "/etc/ceph/keyring"),
    ("volumes[].azureDisk.cachingMode", "ReadWrite"),
    ("volumes[].azureDisk.kind", "Shared"),
    ("volumes[].azureDisk.fsType", "ext4"),
    ("volumes[].azureDisk.readOnly", False),
    ("volumes[].scaleIO.storageMode", "ThinProvisioned"),
    ("volumes[].scaleIO.fsType", "xfs"),
    ("volumes[].ephemeral.volumeClaimTemplate.spec.volumeMode", "Filesystem"),
)
_pod_spec = compile_rows(POD_SPEC_ROWS)


_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_IMAGE = re.compile(
    rf"(?:(?=[^/]*[.:A-Z][^/]*/|localhost/){_HOST}(?:\.{_HOST})*(?::\d+)?/)?{_PART}(?:/{_PART})*"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?P<digest>@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)
"""The name of an image: a registry where it looks like a host, a path, a tag, a digest."""


def pull_policy(image: str) -> str:
    """Always for the image tagged `latest`, or of no tag and digest; IfNotPresent for others, and for no image name."""
    found = _IMAGE.fullmatch(image)
    newest = found is not None and (found["tag"] or ("" if found["digest"] else "latest")) == "latest"
    return "Always" if newest else "IfNotPresent"


def default_pod_spec(spec: Any) -> None:
    """Defaults of a PodSpec, in a pod or in a template."""
    if not isinstance(spec, dict):
        return
    for volume in spec.get("volumes") or () if isinstance(spec.get("volumes"), list) else ():
        if isinstance(volume, dict) and not [k for k, v in volume.items() if k != "name" and v is not None]:
            volume["emptyDir"] = {}
    _pod_spec(spec)
    for group in ("containers", "initContainers", "ephemeralContainers"):
        for container in parents(spec, [f"{group}[]"]):
            image = container.get("image")
            if container.get("imagePullPolicy") is None:
                container["imagePullPolicy"] = pull_policy(image if isinstance(image, str) else "")
            if spec.get("hostNetwork"):
                for port in parents(container, ["ports[]"]):
                    if not port.get("hostPort") and port.get("containerPort"):
                        port["hostPort"] = port["containerPort"]
    account, deprecated = spec.get("serviceAccountName"), spec.get("serviceAccount")
    if account or deprecated:
        spec["serviceAccountName"] = spec["serviceAccount"] = account or deprecated


def default_requests(spec: Any) -> None:
    """A request that is not given equals the limit. For pods only, not for templates."""
    for group in ("containers", "initContainers"):
        for resources in parents(spec, [f"{group}[]", "resources"]):
            limits = resources.get("limits")
            if isinstance(limits, dict) and limits:
                requests = resources.get("requests")
                if requests is None:
                    requests = resources["requests"] = {}
                if isinstance(requests, dict):
                    for name, quantity in limits.items():
                        requests.setdefault(name, quantity)
