"""Schemas of kinds: built-in ones from the data beside this module, custom ones from their CRD, one shape for both.

A `Schema` is a node of a tree that is parsed as it is walked, so that loading costs what is used. Checks over objects
are in `sampan.kube.validation` and offered here too: `validate`, `unknown_fields`, `prune`, `apply_defaults`,
`canonical`.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

_DATA = Path(__file__).parent / "data"
_META = "io.k8s.apimachinery.pkg.apis.meta.v1."

# Definitions whose JSON form their name says better than their schema does.
_SCALARS: dict[str, dict[str, Any]] = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": "string", "format": "quantity"},
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"x-kubernetes-int-or-string": True},
    _META + "Time": {"type": "string", "format": "date-time"},
    _META + "MicroTime": {"type": "string", "format": "micro-time"},
}
# Any JSON value, owned as one.
_OPEN = {
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
    "io.k8s.apimachinery.pkg.runtime.RawExtension",
    _META + "FieldsV1",
    _META + "Patch",
}


_NONE: frozenset[str] = frozenset()


class Schema:
    """One node: what is known of the value at a path.

    `type` is a JSON type or "" (anything). `properties` are named fields, `values` the schema of a map's values,
    `items` that of a list's. `list_type` (atomic, set, map), `list_map_keys`, `map_type` (granular, atomic) steer
    server-side apply; `merge_key` and `patch_strategy` steer strategic merge. `open` nodes take any field.
    """

    __slots__ = (
        "_items", "_library", "_properties", "_values", "default", "definition", "embedded", "enum", "format",
        "int_or_string", "list_map_keys", "list_type", "map_type", "merge_key", "nullable", "open", "patch_strategy",
        "raw", "required", "structural", "type",
    )  # fmt: skip

    def __init__(self, raw: dict[str, Any], library: Library | None = None) -> None:
        self._library = library
        self.structural = library is None
        self.definition: str = raw.get("$ref", "")
        if self.definition and library is not None:
            raw = {**library.raw(self.definition), **{k: v for k, v in raw.items() if k != "$ref"}}
        self.raw = raw
        self._properties: dict[str, Schema] | None = None
        self._items: Schema | None = None
        self._values: Schema | None = None
        self.type: str = raw.get("type", "")
        self.format: str = raw.get("format", "")
        self.int_or_string: bool = raw.get("x-kubernetes-int-or-string", False)
        self.embedded: bool = raw.get("x-kubernetes-embedded-resource", False)
        self.nullable: bool = raw.get("nullable", False)
        self.enum: list[Any] | None = raw.get("enum")
        self.required: list[str] = raw.get("required") or []
        self.default: Any = raw.get("default", UNSET)
        self.list_type: str = raw.get("x-kubernetes-list-type", "atomic")
        self.list_map_keys: list[str] = raw.get("x-kubernetes-list-map-keys") or []
        self.map_type: str = raw.get("x-kubernetes-map-type", "granular")
        self.merge_key: str = raw.get("x-kubernetes-patch-merge-key", "")
        self.patch_strategy: tuple[str, ...] = tuple(
            filter(None, raw.get("x-kubernetes-patch-strategy", "").split(","))
        )
        if self.structural:
            self.open = bool(raw.get("x-kubernetes-preserve-unknown-fields")) or (
                not self.type and not self.int_or_string and "properties" not in raw
            )
            if self.type == "object" and self.embedded and "metadata" not in raw.get("properties", {}):
                self.open = self.open or "properties" not in raw
        else:
            self.open = self.definition in _OPEN or (
                self.type == "object" and "properties" not in raw and "additionalProperties" not in raw
            )
            if self.definition in _OPEN:
                self.type = ""
            if self.definition.endswith(("Status", "Condition")):
                self.required = []  # written by controllers; their zero values are left out

    @property
    def properties(self) -> dict[str, Schema]:
        found = self._properties
        if found is None:
            if self.definition and self._library is not None:
                found = self._library.children(self.definition)
            else:
                found = {name: Schema(raw, self._library) for name, raw in (self.raw.get("properties") or {}).items()}
                if self.embedded and self.structural:
                    found = _object_fields(found)
            self._properties = found
        return found

    @property
    def items(self) -> Schema:
        if self._items is None:
            raw = self.raw.get("items")
            self._items = Schema(raw, self._library) if isinstance(raw, dict) else ANYTHING
        return self._items

    @property
    def values(self) -> Schema | None:
        """The schema of a map's values; None for an object of fixed fields."""
        if self._values is None:
            raw = self.raw.get("additionalProperties")
            if isinstance(raw, dict):
                self._values = Schema(raw, self._library)
            elif raw is True or self.open:
                self._values = ANYTHING
        return self._values

    def child(self, name: str) -> Schema | None:
        """The node of field `name`: a property, else the map's values, else None (the field is unknown)."""
        return self.properties.get(name) or self.values

    @classmethod
    def from_crd(cls, schema: dict[str, Any] | None) -> Schema:
        """The `openAPIV3Schema` of a version of a CustomResourceDefinition. None is a schema that takes anything."""
        raw = dict(schema) if schema else {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        raw.setdefault("type", "object")
        node = cls(raw)
        node._properties = _object_fields(node.properties)
        return node

    @property
    def omitted(self) -> frozenset[str]:
        """The fields of a built-in structure that are left out when they are "", 0 or false."""
        library = self._library
        return _NONE if library is None else library.empties.omitted.get(self.definition, _NONE)

    @property
    def nulls(self) -> tuple[str, ...]:
        """The fields of a built-in structure that are null, and not left out, where they are missing."""
        return () if self._library is None else self._library.empties.nulls.get(self.definition, ())

    def __repr__(self) -> str:
        return f"<Schema {self.definition or self.type or 'any'}>"


ANYTHING = Schema({"x-kubernetes-preserve-unknown-fields": True})
"""A value of any shape: maps in it are granular, lists atomic."""


@cache
def no_fields() -> Schema:
    """Of it nothing is known but what every object has."""
    return Schema.from_crd({"type": "object"})


def _object_fields(properties: dict[str, Schema]) -> dict[str, Schema]:
    """Fields of a custom object: its own, and the three every object has, which a CRD cannot redefine."""
    text = {"type": "string"}
    metadata = Schema({"$ref": _META + "ObjectMeta"}, load())
    return {**properties, "apiVersion": Schema(text), "kind": Schema(text), "metadata": metadata}


class Library:
    """The definitions of one Kubernetes version, each decoded when it is first asked for."""

    def __init__(self, version: str) -> None:
        self.version = version
        text = gzip.decompress((_DATA / f"schemas-{version}.json.gz").read_bytes())
        self._texts = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        self._raws: dict[str, dict[str, Any]] = {}
        self._children: dict[str, dict[str, Schema]] = {}
        self._kinds: dict[tuple[str, str], Schema | None] = {}
        self._names: dict[tuple[str, str], str] | None = None
        self._empties: _Empties | None = None

    @property
    def empties(self) -> _Empties:
        """What the definitions do with what is empty."""
        if self._empties is None:
            text = gzip.decompress((_DATA / f"empties-{self.version}.json.gz").read_bytes())
            self._empties = msgspec.json.decode(text, type=_Empties)
        return self._empties

    def raw(self, name: str) -> dict[str, Any]:
        found = self._raws.get(name)
        if found is None:
            found = self._raws[name] = {**msgspec.json.decode(self._texts[name]), **_SCALARS.get(name, {})}
        return found

    def document(self, name: str) -> dict[str, Any]:
        """The definition as it is in the data, references by bare name."""
        found: dict[str, Any] = msgspec.json.decode(self._texts[name])
        return found

    def children(self, name: str) -> dict[str, Schema]:
        found = self._children.get(name)
        if found is None:
            properties = self.raw(name).get("properties") or {}
            found = self._children[name] = {field: Schema(raw, self) for field, raw in properties.items()}
        return found

    def definition(self, name: str) -> Schema:
        return Schema({"$ref": name}, self)

    def definition_name(self, api_version: str, kind: str) -> str | None:
        """`io.k8s.api.apps.v1.Deployment` for `apps/v1` and `Deployment`."""
        if self._names is None:
            rows = msgspec.json.decode(
                gzip.decompress((_DATA / f"schemas-{self.version}.json.gz").read_bytes()), type=dict[str, _Kinds]
            )
            self._names = {}
            for name, row in rows.items():
                for kind_row in row.kinds:
                    group = kind_row.get("group", "")
                    key = (f"{group}/{kind_row['version']}" if group else kind_row["version"], kind_row["kind"])
                    self._names.setdefault(key, name)
        return self._names.get((api_version, kind))

    def for_kind(self, api_version: str, kind: str) -> Schema | None:
        key = (api_version, kind)
        if key not in self._kinds:
            name = self.definition_name(api_version, kind)
            self._kinds[key] = self.definition(name) if name else None
        return self._kinds[key]

    def names(self) -> list[str]:
        return list(self._texts)

    def descriptions(self) -> dict[str, dict[str, str]]:
        """Definition -> field -> prose (the definition's own under the empty name). Read from disk at each call."""
        text = gzip.decompress((_DATA / f"descriptions-{self.version}.json.gz").read_bytes())
        return msgspec.json.decode(text, type=dict[str, dict[str, str]])


class _Empties(msgspec.Struct):
    """Definition -> fields left out when "", 0 or false; definition -> fields that are null where they are missing."""

    omitted: dict[str, frozenset[str]]
    nulls: dict[str, tuple[str, ...]]


class _Kinds(msgspec.Struct):
    kinds: list[dict[str, str]] = msgspec.field(name="x-kubernetes-group-version-kind", default_factory=list)


@cache
def load(version: str = "1.36") -> Library:
    """The built-in definitions of a Kubernetes version. Raises FileNotFoundError for one that is not carried."""
    return Library(version)


def for_kind(api_version: str, kind: str) -> Schema | None:
    """The schema of a built-in kind, or None."""
    return load().for_kind(api_version, kind)


from sampan.kube.validation import (  # noqa: E402 - the checks need the class above
    apply_defaults,
    canonical,
    prune,
    unknown_fields,
    validate,
    without_nulls,
)

__all__ = [
    "ANYTHING", "UNSET", "Library", "Schema", "UnsetType", "apply_defaults", "canonical", "for_kind",
    "load", "prune", "unknown_fields", "validate", "without_nulls",
]  # fmt: skip
