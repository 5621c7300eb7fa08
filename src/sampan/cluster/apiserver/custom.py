"""A custom kind in one version: what its definition says of it, and how its versions become one another."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from sampan.cluster.apiserver.kind import Kind, ScalePaths
from sampan.cluster.apiserver.metadata import finalizer_warnings
from sampan.cluster.apiserver.strategy import Strategy
from sampan.cluster.apiserver.versions import conversion
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object
from sampan.kube.transport import APPLY_PATCH, JSON_PATCH, MERGE_PATCH

if TYPE_CHECKING:
    from sampan.cluster.apiserver.cel.rules import RuleTree
    from sampan.cluster.apiserver.printing.columns import Column
    from sampan.kube.patch.managed_fields import View
    from sampan.kube.schema import Schema


class CustomKind(Kind):
    """`version` is the definition's entry for this version."""

    patch_types = (JSON_PATCH, MERGE_PATCH, APPLY_PATCH)
    created_by_update = created_by_status = False
    only_conditional = True

    def __init__(self, resource: Resource, crd: Object, version: dict[str, Any]) -> None:
        super().__init__(resource)
        self.crd: Object = crd
        self.crd_version = version
        self.builtin = ""
        self.counts_generation, self.virtual = True, False
        self._schemas: dict[str, Schema | None] = {}

    @cached_property
    def storage(self) -> Resource:
        stored = next((v["name"] for v in self.crd["spec"]["versions"] if v.get("storage")), self.resource.version)
        return self.resource if stored == self.resource.version else replace(self.resource, version=stored)

    @cached_property
    def schema(self) -> Schema:
        return _schema_of(self.crd_version)

    @property
    def written_schema(self) -> Schema:
        return self.schema

    @cached_property
    def rules(self) -> RuleTree | None:
        """The engine is imported only for a kind that has any."""
        if b"x-kubernetes-validations" not in msgspec.json.encode(self.crd_version):
            return None
        from sampan.cluster.apiserver.cel.rules import tree_of

        return tree_of(self.schema)

    @cached_property
    def strategy(self) -> Strategy:
        return Strategy()

    @cached_property
    def columns(self) -> list[Column]:
        from sampan.cluster.apiserver.printing.columns import crd_columns

        return crd_columns(self.crd_version.get("additionalPrinterColumns"))

    @cached_property
    def scale(self) -> ScalePaths | None:
        row = (self.crd_version.get("subresources") or {}).get("scale")
        if not row:
            return None
        return ScalePaths(row["specReplicasPath"], row["statusReplicasPath"], row.get("labelSelectorPath") or "")

    @cached_property
    def fields(self) -> frozenset[str]:
        rows = self.crd_version.get("selectableFields") or ()
        return frozenset(row["jsonPath"].strip(".") for row in rows if "jsonPath" in row)

    def own_field_values(self, obj: Object) -> dict[str, str]:
        from sampan.kube.selectors import field_text

        return {path: field_text(obj, path) for path in self.fields}

    def warnings(self, new: Object, old: Object | None, *, status: bool = False) -> list[str]:
        return finalizer_warnings(new, old)

    def outward(self, obj: Object) -> Object:
        if obj.get("apiVersion") == self.resource.api_version or self.converter is not None:
            return obj
        from sampan.kube import schema

        return schema.without_nulls(self.schema, schema.prune(self.schema, conversion.convert(obj, self.resource)))  # type: ignore[no-any-return]

    def seen(self, obj: Object) -> Object:
        if self.converter is None or obj.get("apiVersion") == self.resource.api_version:
            return self.outward(obj)
        return self.converter.known(obj, self.resource.api_version)

    def inward(self, obj: Object) -> Object:
        if self.storage is self.resource:
            return obj
        if self.converter is not None:
            return self.converter.known(obj, self.storage.api_version)
        from sampan.kube import schema

        made = conversion.convert(obj, self.storage)
        node = self.schema_at(self.storage.api_version)
        if node is not None:  # what the stored version lacks is lost, what it adds is added
            made = schema.apply_defaults(node, schema.prune(node, made))
        return made

    def present(self, stored: Object) -> Object:
        return self.seen(stored)

    def working(self, obj: Object) -> Object:
        return obj

    def kept(self, worked: Object) -> Object:
        return self.inward(worked)

    def schema_at(self, api_version: str) -> Schema | None:
        if api_version == self.resource.api_version:
            return self.schema
        if api_version not in self._schemas:
            group, _, name = api_version.rpartition("/")
            found = next((v for v in self.crd["spec"]["versions"] if v["name"] == name), None)
            self._schemas[api_version] = _schema_of(found) if found and group == self.resource.group else None
        return self._schemas[api_version]

    @property
    def view(self) -> View:
        return self.seen_at

    def seen_at(self, api_version: str) -> tuple[Schema, Callable[[Object], Object]]:
        from sampan.kube.patch.managed_fields import Unconvertible

        node = self.schema_at(api_version)
        if node is None:
            raise Unconvertible(f"request to convert CR to an invalid group/version: {api_version}")
        if (converter := self.converter) is not None:
            return node, lambda obj: converter.viewed(obj, api_version)
        other = replace(self.resource, version=api_version.rpartition("/")[2])
        return node, lambda obj: conversion.convert(obj, other)


def _schema_of(version: dict[str, Any]) -> Schema:
    from sampan.kube import schema

    return schema.Schema.from_crd((version.get("schema") or {}).get("openAPIV3Schema"))
