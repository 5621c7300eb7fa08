"""What is served: `/api`, `/apis` in their legacy and aggregated forms, `/version`, and OpenAPI v3."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from sampan.cluster.apiserver.call import Answer, Call
from sampan.cluster.apiserver.catalog import Catalog
from sampan.cluster.apiserver.kind import Kind
from sampan.cluster.apiserver.printing.table import accepted
from sampan.kube import kinds
from sampan.kube.errors import path_not_found
from sampan.kube.kinds import Resource

VERSION = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.0+sampan",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2026-11-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/amd64",
}
SUB_VERBS = ("get", "patch", "update")


GROUPS = (
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
)
"""The order in which groups are told of, which is that of `kubectl get all`; others come after."""


class Discovery:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._made: dict[Any, bytes] = {}
        self._generation = -1

    def _cached(self, key: Any, make: Any) -> bytes:
        if self._generation != self._catalog.generation:
            self._made.clear()
            self._generation = self._catalog.generation
        if key not in self._made:
            self._made[key] = msgspec.json.encode(make())
        return self._made[key]

    def answer(self, call: Call) -> Answer | None:
        """The answer for a discovery path, None for any other path. Raises ApiError 404 for an unknown group."""
        parts = call.path.strip("/").split("/")
        match parts:
            case ["api"] | ["apis"]:
                return self._root(call, core=parts[0] == "api")
            case ["api", version]:
                return self._resources("", version)
            case ["apis", group]:
                return self._group(group)
            case ["apis", group, version]:
                return self._resources(group, version)
            case ["openapi", "v2"]:
                return self._openapi_v2(call)
            case ["openapi", "v3"]:
                return Answer(encoded=self._cached("openapi", self._openapi_index))
            case ["openapi", "v3", "api", version]:
                return self._openapi(call, "", version)
            case ["openapi", "v3", "apis", group, version]:
                return self._openapi(call, group, version)
            case ["version"]:
                return Answer(obj=VERSION)
            case [""]:
                return Answer(
                    obj={"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"]}
                )
        return None

    def _groups(self) -> dict[str, dict[str, list[Kind]]]:
        """group -> version -> kinds, the preferred version first."""
        found: dict[str, dict[str, list[Kind]]] = {}
        for kind in self._catalog:
            resource = kind.resource
            found.setdefault(resource.group, {}).setdefault(resource.version, []).append(kind)
        known = {group: place for place, group in enumerate(GROUPS)}
        return {
            group: dict(sorted(found[group].items(), key=lambda item: priority(item[0]), reverse=True))
            for group in sorted(found, key=lambda group: known.get(group, len(known)))
        }

    # -- the roots

    def _root(self, call: Call, *, core: bool) -> Answer:
        for row in accepted(call.accept):
            if row.get("g") == "apidiscovery.k8s.io" and row.get("as") == "APIGroupDiscoveryList":
                version = row.get("v", "")
                if version in {"v2", "v2beta1"}:
                    body = self._cached(("aggregated", core, version), lambda: self._aggregated(core, version))  # noqa: B023
                    content = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
                    return Answer(encoded=body, content_type=content, headers=[("Vary", "Accept")])
            elif row["type"] in {"application/json", "*/*", "application/*"} and "as" not in row:
                break
        if core:
            return Answer(
                obj={
                    "kind": "APIVersions",
                    "versions": ["v1"],
                    "serverAddressByClientCIDRs": [],
                }
            )
        return Answer(encoded=self._cached("groups", self._group_list))

    def _group_row(self, group: str, versions: dict[str, list[Kind]]) -> dict[str, Any]:
        rows = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
        return {"name": group, "versions": rows, "preferredVersion": rows[0]}

    def _group_list(self) -> dict[str, Any]:
        rows = [self._group_row(group, versions) for group, versions in self._groups().items() if group]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": rows}

    def _group(self, group: str) -> Answer:
        versions = self._groups().get(group)
        if not versions or not group:
            raise path_not_found()
        return Answer(obj={"kind": "APIGroup", "apiVersion": "v1", **self._group_row(group, versions)})

    def _aggregated(self, core: bool, version: str) -> dict[str, Any]:
        items = []
        for group, versions in self._groups().items():
            if core != (group == ""):
                continue
            rows = [
                {"version": name, "resources": [_aggregated_row(kind) for kind in served], "freshness": "Current"}
                for name, served in versions.items()
            ]
            items.append({"metadata": {"name": group or None, "creationTimestamp": None}, "versions": rows})
            if not group:
                items[-1]["metadata"] = {"creationTimestamp": None}
        return {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": f"apidiscovery.k8s.io/{version}",
            "metadata": {},
            "items": items,
        }

    def _resources(self, group: str, version: str) -> Answer:
        served = self._groups().get(group, {}).get(version)
        if not served:
            raise path_not_found()
        rows: list[dict[str, Any]] = []
        for kind in served:
            resource = kind.resource
            row: dict[str, Any] = {
                "name": resource.plural,
                "singularName": resource.singular,
                "namespaced": resource.namespaced,
                "kind": resource.kind,
                "verbs": list(resource.verbs),
            }
            if resource.short_names:
                row["shortNames"] = list(resource.short_names)
            if resource.categories:
                row["categories"] = list(resource.categories)
            if not kind.virtual:
                row["storageVersionHash"] = _hash(f"{kind.storage.api_version}/{kind.storage.kind}")
            rows.append(row)
            for name in resource.subresources:
                sub_group, sub_version, sub_kind = _sub_kind(resource, name)
                row = {
                    "name": f"{resource.plural}/{name}",
                    "singularName": "",
                    "namespaced": resource.namespaced,
                    "kind": sub_kind,
                    "verbs": list(kinds.SUBRESOURCE_VERBS.get(name, SUB_VERBS)),
                }
                if (sub_group, sub_version) != (resource.group, resource.version):
                    row |= {"group": sub_group, "version": sub_version}
                rows.append(row)
        group_version = f"{group}/{version}" if group else version
        return Answer(
            obj={"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": rows}
        )

    # -- OpenAPI

    def _openapi_index(self) -> dict[str, Any]:
        paths = {}
        for group, versions in self._groups().items():
            for version in versions:
                path = f"apis/{group}/{version}" if group else f"api/{version}"
                # The document depends on the built-in table and on the CRDs: both are in the catalog's rows.
                stamp = _hash(repr([(k.resource, k.crd_version) for k in versions[version]]))
                paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={stamp}"}
        return {"paths": paths}

    def _openapi_v2(self, call: Call) -> Answer:
        from sampan.cluster.apiserver import openapi_v2

        if openapi_v2.ACCEPTED not in call.accept and openapi_v2.MEDIA_TYPE not in call.accept:
            raise path_not_found()
        body = openapi_v2.document(kind.resource for kind in self._catalog if kind.crd is None)
        return Answer(encoded=body, content_type=openapi_v2.MEDIA_TYPE)

    def _openapi(self, call: Call, group: str, version: str) -> Answer:
        from sampan.kube import openapi

        served = self._groups().get(group, {}).get(version)
        if not served:
            raise path_not_found()

        def make() -> Any:
            raw = {
                kind.resource.plural: (kind.crd_version.get("schema") or {}).get("openAPIV3Schema") or {}
                for kind in served
                if kind.crd is not None
            }
            return openapi.document(group, version, [kind.resource for kind in served], raw)

        body = self._cached(("document", group, version), make)
        tag = f'"{hashlib.sha256(body).hexdigest()[:32].upper()}"'
        headers = [("ETag", tag), ("Vary", "Accept")]
        if call.query.get("hash"):
            headers.append(("Cache-Control", "public, immutable"))
        return Answer(encoded=body, headers=headers)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32].upper()


def _sub_kind(resource: Resource, name: str) -> tuple[str, str, str]:
    return kinds.SUBRESOURCE_KINDS.get(name, (resource.group, resource.version, resource.kind))


def _aggregated_row(kind: Kind) -> dict[str, Any]:
    resource = kind.resource
    row: dict[str, Any] = {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        row["shortNames"] = list(resource.short_names)
    if resource.categories:
        row["categories"] = list(resource.categories)
    if resource.subresources:
        row["subresources"] = [
            {
                "subresource": name,
                "responseKind": dict(zip(("group", "version", "kind"), _sub_kind(resource, name), strict=True)),
                "verbs": list(kinds.SUBRESOURCE_VERBS.get(name, SUB_VERBS)),
            }
            for name in resource.subresources
        ]
    return row


def priority(version: str) -> tuple[int, int, int]:
    """The order of versions: v2 over v1 over v1beta2 over v1alpha1 over anything else."""
    import re

    match = re.fullmatch(r"v(\d+)(?:(alpha|beta)(\d+))?", version)
    if match is None:
        return (0, 0, 0)
    major, stage, minor = match.groups()
    return ({None: 3, "beta": 2, "alpha": 1}[stage], int(major), int(minor or 0))
