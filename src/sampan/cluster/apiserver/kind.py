"""A kind in one version, as the pipeline sees it: its names, schema, strategy, columns, and the versions it is kept in.

`Kind` is a built-in one; `custom.CustomKind` overrides what a definition decides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from sampan.cluster.apiserver.versions import conversion
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object
from sampan.kube.transport import APPLY_PATCH, JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH

if TYPE_CHECKING:
    from sampan.cluster.apiserver.cel.rules import RuleTree
    from sampan.cluster.apiserver.printing.columns import Column
    from sampan.cluster.apiserver.strategy import Strategy
    from sampan.kube.patch.managed_fields import View
    from sampan.kube.schema import Schema

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


CREATED_BY_UPDATE = {"Service", "LimitRange", "Lease", "Event", "Endpoints", "Role", "RoleBinding", "ClusterRole",
                    "ClusterRoleBinding"}  # fmt: skip
CREATED_BY_STATUS = {"ValidatingAdmissionPolicy"}
"""Built-in kinds that an apply to the status creates."""
ONLY_CONDITIONAL = {
    "CSIDriver", "CSINode", "CSIStorageCapacity", "CustomResourceDefinition", "Lease", "LeaseCandidate",
    "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding", "MutatingWebhookConfiguration",
    "PodDisruptionBudget", "RuntimeClass",
    "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ValidatingWebhookConfiguration",
    "VolumeAttachment",
}  # fmt: skip
"""Built-in kinds that are replaced only by who says which version was read."""


class ScalePaths:
    """Where `/scale` finds its numbers in an object, as in a CRD's `subresources.scale`."""

    def __init__(self, spec: str = ".spec.replicas", status: str = ".status.replicas", selector: str = "") -> None:
        self.spec = tuple(spec.strip(".").split("."))
        self.status = tuple(status.strip(".").split("."))
        self.selector = tuple(selector.strip(".").split(".")) if selector else ()


class Kind:
    """One built-in kind in one version. `virtual` kinds are answered, never stored."""

    patch_types: tuple[str, ...] = (JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, APPLY_PATCH)
    crd: Object | None = None
    converter: conversion.Converts | None = None
    """Of a custom kind whose versions a webhook converts."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.builtin = resource.kind
        """What the rules of single built-in kinds go by: "" of a custom kind, which may have the same name."""
        self.table = conversion.table_of(resource)
        self.has_status = "status" in resource.subresources
        self.counts_generation = (resource.group, resource.kind) in GENERATION
        self.virtual = "watch" not in resource.verbs
        self.crd_version: dict[str, Any] = {}  # the entry of a definition for this version

    # -- what the kind is

    @cached_property
    def storage(self) -> Resource:
        """The version objects are stored in."""
        return conversion.storage_of(self.resource)

    @cached_property
    def schema(self) -> Schema:
        from sampan.kube import schema

        return schema.for_kind(self.resource.api_version, self.resource.kind) or schema.ANYTHING

    @cached_property
    def written_schema(self) -> Schema:
        """Of the version in which a write is worked on, see `working`."""
        from sampan.kube import schema

        if self.storage is self.resource:
            return self.schema
        return schema.for_kind(self.storage.api_version, self.storage.kind) or schema.ANYTHING

    @property
    def rules(self) -> RuleTree | None:
        """The rules of a custom kind."""
        return None

    @cached_property
    def strategy(self) -> Strategy:
        from sampan.cluster.apiserver.registry import strategy_for

        return strategy_for(self.resource)

    @cached_property
    def columns(self) -> list[Column]:
        from sampan.cluster.apiserver.printing.columns import columns_for

        return columns_for(self.resource)

    @cached_property
    def scale(self) -> ScalePaths | None:
        return ScalePaths() if (self.resource.group, self.resource.kind) in SCALED else None

    @cached_property
    def fields(self) -> frozenset[str]:
        """Field selectors beyond metadata.name and metadata.namespace."""
        empty: Object = {"apiVersion": self.storage.api_version, "kind": self.storage.kind, "metadata": {}}
        return frozenset(self.strategy.selectable_fields(empty))

    def field_values(self, obj: Object) -> dict[str, str]:
        metadata = obj["metadata"]
        values = {"metadata.name": metadata["name"], "metadata.namespace": metadata.get("namespace", "")}
        return values | self.own_field_values(obj)

    def own_field_values(self, obj: Object) -> dict[str, str]:
        return self.strategy.selectable_fields(obj)

    # -- how it may be written

    @property
    def created_by_update(self) -> bool:
        return self.builtin in CREATED_BY_UPDATE

    @property
    def created_by_status(self) -> bool:
        """Whether an apply to its status creates it."""
        return self.created_by_update or self.builtin in CREATED_BY_STATUS

    @property
    def only_conditional(self) -> bool:
        """Whether it is replaced only by who says which version was read."""
        return self.builtin in ONLY_CONDITIONAL

    def warnings(self, new: Object, old: Object | None, *, status: bool = False) -> list[str]:
        """What to tell of a new object and the one it replaces; of a write to the `status`, of that alone."""
        from sampan.cluster.apiserver.registry.notices import notices

        told = [] if status else self.strategy.warnings(new, old)
        return told + notices(self.resource.group, self.resource.kind, new, old, status=status)

    # -- its versions

    def outward(self, obj: Object) -> Object:
        """A stored object as this version shows it. What a webhook converts stays as it is: `converter.answer` does."""
        return obj if obj.get("apiVersion") == self.resource.api_version else conversion.convert(obj, self.resource)

    def seen(self, obj: Object) -> Object:
        """As `outward`, within a write. Raises NeedsConversion."""
        return self.outward(obj)

    def inward(self, obj: Object) -> Object:
        """An object of this version as it is stored. Raises NeedsConversion."""
        if self.storage is self.resource:
            return obj
        from sampan.kube import schema

        if obj.get("apiVersion") == self.resource.api_version:
            obj = schema.prune(self.schema, obj)  # what the version of the request does not know is lost
        return conversion.convert(obj, self.storage)

    # A built-in kind is worked on as it is stored, a custom one in the version of the request.

    def present(self, stored: Object) -> Object:
        """What is stored, as a write works on it. Raises NeedsConversion."""
        return stored

    def working(self, obj: Object) -> Object:
        """An object of this version as a write works on it."""
        return self.inward(obj)

    def kept(self, worked: Object) -> Object:
        """What a write worked on, as it is stored. Raises NeedsConversion."""
        return worked

    def schema_at(self, api_version: str) -> Schema | None:
        """The schema of this kind in one of its versions; None for a version it does not have."""
        from sampan.kube import schema

        if api_version == self.resource.api_version:
            return self.schema
        return schema.for_kind(api_version, self.resource.kind)

    @cached_property
    def view(self) -> View | None:
        """How objects are seen in other versions of the kind, for who owns what; None where there are none."""
        return self.seen_at if conversion.has_versions(self.storage) else None

    def seen_at(self, api_version: str) -> tuple[Schema, Callable[[Object], Object]] | None:
        from sampan.kube import zeros

        node = self.schema_at(api_version)
        group, _, version = api_version.rpartition("/")
        if node is None or group != self.resource.group:  # events of another group are of no version of these
            return None
        other = replace(self.resource, group=group, version=version)
        return node, lambda obj: zeros.fill(node, _copy(conversion.convert(obj, other)))


def _copy(obj: Object) -> Object:
    made: Object = msgspec.json.decode(msgspec.json.encode(obj))
    return made
