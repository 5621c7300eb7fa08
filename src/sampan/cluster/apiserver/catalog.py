"""Every kind the server serves, built-in and custom alike: its names, schema, strategy, columns, table in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from sampan.cluster.apiserver.strategy import Strategy
from sampan.cluster.apiserver.versions import conversion
from sampan.kube import kinds
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object

if TYPE_CHECKING:
    from sampan.cluster.apiserver.cel.rules import RuleTree
    from sampan.cluster.apiserver.printing.columns import Column
    from sampan.kube.patch.managed_fields import View
    from sampan.kube.schema import Schema

WHO_AM_I_BETA = Resource(
    "authentication.k8s.io", "v1beta1", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview", False,
    verbs=kinds.CREATE,
)  # fmt: skip
"""What kubectl 1.27 asks for `auth whoami`."""

GENERATION = {
    ("", "Pod"), ("", "PodTemplate"), ("", "ReplicationController"), ("discovery.k8s.io", "EndpointSlice"),
    ("apps", "Deployment"), ("apps", "ReplicaSet"), ("apps", "StatefulSet"), ("apps", "DaemonSet"),
    ("batch", "Job"), ("batch", "CronJob"), ("policy", "PodDisruptionBudget"),
    ("networking.k8s.io", "Ingress"), ("networking.k8s.io", "IngressClass"), ("networking.k8s.io", "NetworkPolicy"),
    ("scheduling.k8s.io", "PriorityClass"), ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy"),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding"),
}  # fmt: skip
"""Built-in kinds that count their `metadata.generation`; custom ones all do."""

SCALED = {
    ("apps", "Deployment"), ("apps", "ReplicaSet"), ("apps", "StatefulSet"), ("", "ReplicationController"),
}  # fmt: skip


class ScalePaths:
    """Where `/scale` finds its numbers in an object, as in a CRD's `subresources.scale`."""

    def __init__(self, spec: str = ".spec.replicas", status: str = ".status.replicas", selector: str = "") -> None:
        self.spec = tuple(spec.strip(".").split("."))
        self.status = tuple(status.strip(".").split("."))
        self.selector = tuple(selector.strip(".").split(".")) if selector else ()


class Kind:
    """One kind in one version. `virtual` kinds are answered, never stored."""

    def __init__(self, resource: Resource, crd: Object | None = None, version: dict[str, Any] | None = None) -> None:
        self.resource = resource
        self.crd = crd
        self.crd_version = version or {}
        self.builtin = resource.kind if crd is None else ""
        """What the rules of single built-in kinds go by: a custom kind may have the same name."""
        self.table = conversion.table_of(resource)
        self.has_status = "status" in resource.subresources
        self.counts_generation = crd is not None or (resource.group, resource.kind) in GENERATION
        self.converter: conversion.Converts | None = None
        """Of a custom kind whose versions a webhook converts."""
        self.virtual = "watch" not in resource.verbs and crd is None
        self._schemas: dict[str, Schema | None] = {}

    @cached_property
    def storage(self) -> Resource:
        """The version objects are stored in."""
        if self.crd is None:
            return conversion.storage_of(self.resource)
        stored = next((v["name"] for v in self.crd["spec"]["versions"] if v.get("storage")), self.resource.version)
        return self.resource if stored == self.resource.version else replace(self.resource, version=stored)

    @cached_property
    def schema(self) -> Schema:
        from sampan.kube import schema

        if self.crd is not None:
            return schema.Schema.from_crd((self.crd_version.get("schema") or {}).get("openAPIV3Schema"))
        return schema.for_kind(self.resource.api_version, self.resource.kind) or schema.ANYTHING

    @cached_property
    def rules(self) -> RuleTree | None:
        """The rules of a custom kind; the engine is imported only for one that has any."""
        if self.crd is None or b"x-kubernetes-validations" not in msgspec.json.encode(self.crd_version):
            return None
        from sampan.cluster.apiserver.cel.rules import tree_of

        return tree_of(self.schema)

    @cached_property
    def strategy(self) -> Strategy:
        from sampan.cluster.apiserver.registry import strategy_for

        return Strategy() if self.crd is not None else strategy_for(self.resource)

    @cached_property
    def columns(self) -> list[Column]:
        from sampan.cluster.apiserver.printing.columns import columns_for, crd_columns

        if self.crd is not None:
            return crd_columns(self.crd_version.get("additionalPrinterColumns"))
        return columns_for(self.resource)

    @cached_property
    def scale(self) -> ScalePaths | None:
        if self.crd is not None:
            row = (self.crd_version.get("subresources") or {}).get("scale")
            if not row:
                return None
            return ScalePaths(row["specReplicasPath"], row["statusReplicasPath"], row.get("labelSelectorPath") or "")
        return ScalePaths() if (self.resource.group, self.resource.kind) in SCALED else None

    @cached_property
    def fields(self) -> frozenset[str]:
        """Field selectors beyond metadata.name and metadata.namespace."""
        if self.crd is not None:
            return frozenset(
                row["jsonPath"].strip(".")
                for row in self.crd_version.get("selectableFields") or ()
                if "jsonPath" in row
            )
        empty: Object = {"apiVersion": self.storage.api_version, "kind": self.storage.kind, "metadata": {}}
        return frozenset(self.strategy.selectable_fields(empty))

    def field_values(self, obj: Object) -> dict[str, str]:
        from sampan.kube.selectors import field_text

        metadata = obj["metadata"]
        values = {"metadata.name": metadata["name"], "metadata.namespace": metadata.get("namespace", "")}
        if self.crd is not None:
            return values | {path: field_text(obj, path) for path in self.fields}
        return values | self.strategy.selectable_fields(obj)

    def outward(self, obj: Object) -> Object:
        """A stored object as this version shows it. What a webhook converts stays as it is: `converter.answer` does."""
        if obj.get("apiVersion") == self.resource.api_version or self.converter is not None:
            return obj
        if self.crd is not None:
            from sampan.kube import schema

            return schema.without_nulls(self.schema, schema.prune(self.schema, conversion.convert(obj, self.resource)))  # type: ignore[no-any-return]
        return conversion.convert(obj, self.resource)

    def seen(self, obj: Object) -> Object:
        """As `outward`, within a write. Raises NeedsConversion."""
        if self.converter is None or obj.get("apiVersion") == self.resource.api_version:
            return self.outward(obj)
        return self.converter.known(obj, self.resource.api_version)

    def inward(self, obj: Object) -> Object:
        """An object of this version as it is stored. Raises NeedsConversion."""
        if self.storage is self.resource:
            return obj
        if self.converter is not None:
            return self.converter.known(obj, self.storage.api_version)
        from sampan.kube import schema

        if self.crd is None and obj.get("apiVersion") == self.resource.api_version:
            obj = schema.prune(self.schema, obj)  # what the version of the request does not know is lost
        made = conversion.convert(obj, self.storage)
        node = self.schema_at(self.storage.api_version)
        if self.crd is not None and node is not None:  # what the stored version lacks is lost, what it adds is added
            made = schema.apply_defaults(node, schema.prune(node, made))
        return made

    def schema_at(self, api_version: str) -> Schema | None:
        """The schema of this kind in one of its versions; None for a version it does not have."""
        from sampan.kube import schema

        if api_version == self.resource.api_version:
            return self.schema
        if self.crd is None:
            return schema.for_kind(api_version, self.resource.kind)
        if api_version not in self._schemas:
            group, _, name = api_version.rpartition("/")
            found = next((v for v in self.crd["spec"]["versions"] if v["name"] == name), None)
            self._schemas[api_version] = None
            if found is not None and group == self.resource.group:
                given = (found.get("schema") or {}).get("openAPIV3Schema")
                self._schemas[api_version] = schema.Schema.from_crd(given)
        return self._schemas[api_version]

    @cached_property
    def view(self) -> View | None:
        """How objects are seen in other versions of the kind, for who owns what; None where there are none."""
        if self.crd is None and not conversion.has_versions(self.storage):
            return None
        from sampan.kube.patch.managed_fields import Unconvertible

        def seen(api_version: str) -> tuple[Schema, Callable[[Object], Object]] | None:
            node = self.schema_at(api_version)
            group, _, version = api_version.rpartition("/")
            if node is None and self.crd is not None:
                raise Unconvertible(f"request to convert CR to an invalid group/version: {api_version}")
            if node is None or group != self.resource.group:  # events of another group are of no version of these
                return None
            if self.converter is not None:  # which is not asked for this: all versions are taken for the present one
                return self.schema, lambda obj: obj
            other = replace(self.resource, group=group, version=version)
            if self.crd is not None:
                return node, lambda obj: conversion.convert(obj, other)
            from sampan.kube import zeros

            return node, lambda obj: zeros.fill(node, _copy(conversion.convert(obj, other)))

        return seen


def _copy(obj: Object) -> Object:
    made: Object = msgspec.json.decode(msgspec.json.encode(obj))
    return made


class Catalog:
    """Lookup by path. Custom kinds come and go with `set_custom`."""

    def __init__(self) -> None:
        self._kinds = {(r.group, r.version, r.plural): Kind(r) for r in (*kinds.BUILTIN, WHO_AM_I_BETA)}
        self._custom: dict[str, list[Kind]] = {}
        self.generation = 0
        """Changes when the catalog does; discovery and OpenAPI are remade then."""

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        return self._kinds.get((group, version, plural))

    def of(self, resource: Resource) -> Kind:
        return self._kinds.get((resource.group, resource.version, resource.plural)) or Kind(resource)

    def by_kind(self, api_version: str, name: str) -> Kind | None:
        group, _, version = api_version.rpartition("/")
        for kind in self._kinds.values():
            resource = kind.resource
            if resource.kind == name and resource.group == group and resource.version == version:
                return kind
        return None

    def __iter__(self) -> Iterator[Kind]:
        return iter(list(self._kinds.values()))

    def set_custom(self, name: str, served: list[Kind]) -> None:
        """Serve these versions of the CRD called `name`, and no others of it."""
        for kind in self._custom.pop(name, []):
            self._kinds.pop((kind.resource.group, kind.resource.version, kind.resource.plural), None)
        if served:
            self._custom[name] = served
        for kind in served:
            self._kinds[kind.resource.group, kind.resource.version, kind.resource.plural] = kind
        self.generation += 1
