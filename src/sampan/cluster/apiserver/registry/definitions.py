"""CustomResourceDefinition: its defaults, and what is refused when one is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import urlsplit

from sampan.cluster.apiserver.printing.definitions import compile_path
from sampan.cluster.apiserver.registry import structural
from sampan.cluster.apiserver.registry.base import TableStrategy
from sampan.cluster.apiserver.registry.defaulting import Rows
from sampan.cluster.apiserver.registry.faults import DNS_1035_LABEL, DNS_SUBDOMAIN, Faults, maps, sub
from sampan.cluster.apiserver.strategy import Context
from sampan.kube.errors import Cause
from sampan.kube.objects import Object
from sampan.kube.schema import Schema

COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
COLUMN_FORMATS = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")
SELECTABLE = ("string", "boolean", "integer")
PROTECTED = (".k8s.io", ".kubernetes.io")
APPROVED = "api-approved.kubernetes.io"
STORED = (
    "missing from spec.versions; {0} was previously a storage version, and must remain in spec.versions until a storage"
    " migration ensures no data remains persisted in {0} and removes {0} from status.storedVersions"
)
CONVERSION = "spec.conversion"


class Definition(TableStrategy):
    rows: ClassVar[Rows] = (
        (CONVERSION, {}),
        ("spec.conversion.strategy", "None"),
        ("spec.conversion.webhook.clientConfig.service.port", 443),
        ("spec.names", {}),
    )
    immutable = ("spec.group", "spec.scope", "spec.names.plural", "spec.names.kind")

    def default(self, obj: Object) -> None:
        super().default(obj)
        names = sub(obj, "spec", "names")
        kind = names.get("kind")
        if isinstance(kind, str) and kind:
            if not names.get("singular"):
                names["singular"] = kind.lower()
            if not names.get("listKind"):
                names["listKind"] = f"{kind}List"

    def prepare_create(self, obj: Object, ctx: Context) -> None:
        stored = [version.get("name") for version in maps(sub(obj, "spec").get("versions")) if version.get("storage")]
        obj["status"] = {"conditions": [], "acceptedNames": {"kind": "", "plural": ""}, "storedVersions": stored[:1]}

    def validate_create(self, obj: Object) -> list[Cause]:
        faults, metadata, spec = Faults(), sub(obj, "metadata"), sub(obj, "spec")
        group = spec.get("group") or ""
        if metadata.get("name") != f"{sub(spec, 'names').get('plural') or ''}.{group}":
            faults.invalid("metadata.name", metadata.get("name"), 'must be spec.names.plural+"."+spec.group')
        if group.endswith(PROTECTED) and not (metadata.get("annotations") or {}).get(APPROVED):
            faults.required(
                f"metadata.annotations[{APPROVED}]",
                f'protected groups must have approval annotation "{APPROVED}", see'
                " https://github.com/kubernetes/enhancements/pull/1111",
            )
        return faults.causes + super().validate_create(obj)

    def validate(self, faults: Faults, obj: Object) -> None:
        spec = sub(obj, "spec")
        names, group = sub(spec, "names"), spec.get("group") or ""
        faults.name("spec.group", group, DNS_SUBDOMAIN)
        if group and "." not in group:
            faults.invalid("spec.group", group, "should be a domain with at least one dot")
        faults.one_of("spec.scope", spec.get("scope"), ("Cluster", "Namespaced"))
        _names(faults, names)
        if spec.get("preserveUnknownFields"):
            faults.invalid(
                "spec.preserveUnknownFields",
                True,
                "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema"
                " instead",
            )
        versions = maps(spec.get("versions"))
        _versions(faults, versions)
        _stored(faults, versions, sub(obj, "status").get("storedVersions"))
        _conversion(faults, sub(spec, "conversion"))
        for field, where, check in _PARTS:
            parts = [version.get(field) for version in versions]
            if parts and all(part == parts[0] for part in parts):  # one for all is told of once
                check(faults, parts[0], f"spec.{where}", versions[0])
                continue
            for index, part in enumerate(parts):
                check(faults, part, f"spec.versions[{index}].{field}", versions[index])


def _names(faults: Faults, names: Object) -> None:
    for key in ("plural", "singular"):
        faults.name(f"spec.names.{key}", names.get(key), DNS_1035_LABEL)
    for key in ("shortNames", "categories"):
        for index, value in enumerate(names.get(key) or ()):
            faults.name(f"spec.names.{key}[{index}]", value, DNS_1035_LABEL)
    for key in ("kind", "listKind"):
        value = names.get(key)
        if not value:
            faults.required(f"spec.names.{key}")
            continue
        if " " in value and key == "listKind":
            continue  # made of the kind, which has been told of
        for message in DNS_1035_LABEL(value.lower()):
            faults.invalid(f"spec.names.{key}", value, f"may have mixed case, but should otherwise match: {message}")
    if names.get("kind") and names.get("kind") == names.get("listKind"):
        faults.invalid("spec.names.listKind", names["listKind"], "kind and listKind may not be the same")


def _shown(versions: list[Object]) -> list[Object]:
    """Versions as Go shows them; what every version has alike is kept elsewhere there."""
    return [
        {
            "Name": version.get("name") or "",
            "Served": bool(version.get("served")),
            "Storage": bool(version.get("storage")),
            "Deprecated": bool(version.get("deprecated")),
            "DeprecationWarning": version.get("deprecationWarning"),
            "Schema": None,
            "Subresources": None,
            "AdditionalPrinterColumns": None,
            "SelectableFields": None,
        }
        for version in versions
    ]


def _versions(faults: Faults, versions: list[Object]) -> None:
    called = [version.get("name") or "" for version in versions]
    for index, name in enumerate(called):
        faults.name(f"spec.versions[{index}].name", name, DNS_1035_LABEL)
        if sub(versions[index], "schema").get("openAPIV3Schema") is None:
            faults.required(f"spec.versions[{index}].schema.openAPIV3Schema")
    if called:
        faults.name("spec.version", called[0], DNS_1035_LABEL)
    if len(set(called)) < len(called):
        faults.invalid("spec.versions", _shown(versions), "must contain unique version names")
    if sum(bool(version.get("storage")) for version in versions) != 1:
        faults.invalid("spec.versions", _shown(versions), "must have exactly one version marked as storage version")


def _stored(faults: Faults, versions: list[Object], stored: Any) -> None:
    where, called = "status.storedVersions", [version.get("name") for version in versions]
    if not stored:
        faults.invalid(where, None, "must have at least one stored version")
        return
    storage = [version.get("name") for version in versions if version.get("storage")]
    if storage and storage[-1] not in stored:
        faults.invalid(where, stored, f"must have the storage version {storage[-1]}")
    for index, name in enumerate(stored):
        if name not in called:
            faults.invalid(f"{where}[{index}]", name, STORED.format(name))


def _conversion(faults: Faults, conversion: Object) -> None:
    strategy, webhook = conversion.get("strategy"), conversion.get("webhook")
    faults.one_of(f"{CONVERSION}.strategy", strategy, ("None", "Webhook"))
    webhook = webhook if isinstance(webhook, dict) else {}
    reviews, config = webhook.get("conversionReviewVersions"), webhook.get("clientConfig")
    if strategy != "Webhook":
        for part, value in (("conversionReviewVersions", reviews), ("webhookClientConfig", config)):
            if strategy == "None" and value:
                faults.forbidden(f"{CONVERSION}.{part}", "should not be set when strategy is not set to Webhook")
        return
    if not reviews:
        faults.required(f"{CONVERSION}.conversionReviewVersions")
    elif not {"v1", "v1beta1"} & set(reviews):
        faults.invalid(f"{CONVERSION}.conversionReviewVersions", reviews, "must include at least one of v1, v1beta1")
    where = f"{CONVERSION}.webhookClientConfig"
    if config is None:
        faults.required(where, "required when strategy is set to Webhook")
        return
    url, service = config.get("url"), config.get("service")
    if bool(url) == (service is not None):
        faults.required(where, "exactly one of url or service is required")
    elif url:
        validate_url(faults, str(url), f"{where}.url")
    else:
        _service(faults, service, f"{where}.service")


def validate_url(faults: Faults, url: str, where: str) -> None:
    """Where a webhook is."""
    form = "; desired format: https://host[/path]"
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        faults.required(where, f"url must be a valid URL: {error}{form}")
        return
    if parts.scheme != "https":
        faults.invalid(where, parts.scheme, f"'https' is the only allowed URL scheme{form}")
    if not host:
        faults.invalid(where, parts.netloc, f"host must be specified{form}")
    if parts.username is not None:
        faults.invalid(where, parts.netloc.rpartition("@")[0], "user information is not permitted in the URL")
    if parts.fragment:
        faults.invalid(where, parts.fragment, "fragments are not permitted in the URL")
    if parts.query:
        faults.invalid(where, parts.query, "query parameters are not permitted in the URL")


def _service(faults: Faults, service: Object, where: str) -> None:
    for key in ("name", "namespace"):
        if not service.get(key):
            faults.required(f"{where}.{key}")
    port, path = service.get("port"), service.get("path")
    if isinstance(port, int) and not 0 < port < 65536:
        faults.invalid(f"{where}.port", port, "port is not valid: must be between 1 and 65535, inclusive")
    if path:
        if not path.startswith("/"):
            faults.invalid(f"{where}.path", path, "must start with a '/'")
        for index, segment in enumerate(path.removesuffix("/").split("/")[1:]):
            if not segment:
                faults.invalid(f"{where}.path", path, f"segment[{index}] may not be empty")
        if not path.startswith("/"):
            faults.invalid(f"{where}.path", path, "segment[0] may not be empty")


def _schema(faults: Faults, part: Any, where: str, _: Object) -> None:
    raw = sub({"schema": part or {}}, "schema").get("openAPIV3Schema")
    place = f"{where}.openAPIV3Schema"
    if raw is None:
        return  # told with its version
    faults.causes += structural.causes(raw, place)
    if raw.get("type") != "object":
        if raw.get("type"):
            faults.invalid(f"{place}.type", raw["type"], "must be object at the root")
        else:
            faults.required(f"{place}.type", "must not be empty at the root")


def _subresources(faults: Faults, part: Any, where: str, _: Object) -> None:
    scale = sub({"part": part or {}}, "part").get("scale")
    if scale is None:
        return
    rows = (("specReplicasPath", (".spec.",), True), ("statusReplicasPath", (".status.",), True),
            ("labelSelectorPath", (".spec.", ".status."), False))  # fmt: skip
    for key, prefixes, required in rows:
        path, at = scale.get(key) or "", f"{where}.scale.{key}"
        if not path:
            if required:
                faults.required(at)
        elif not path.startswith("."):
            faults.invalid(at, path, "must be a simple json path starting with .")
        elif not path.startswith(prefixes):
            places = " or ".join(prefix.rstrip(".") for prefix in prefixes)
            faults.invalid(at, path, f"should be a json path under {'either ' if len(prefixes) > 1 else ''}{places}")


def _columns(faults: Faults, part: Any, where: str, _: Object) -> None:
    for index, column in enumerate(maps(part)):
        at, path, kind = f"{where}[{index}]", column.get("jsonPath"), column.get("type")
        if not column.get("name"):
            faults.required(f"{at}.name")
        if not kind:
            faults.required(f"{at}.type", f"must be one of {','.join(COLUMN_TYPES)}")
        elif kind not in COLUMN_TYPES:
            faults.invalid(f"{at}.type", kind, f"must be one of {','.join(COLUMN_TYPES)}")
        if column.get("format") and column["format"] not in COLUMN_FORMATS:
            faults.invalid(f"{at}.format", column["format"], f"must be one of {','.join(COLUMN_FORMATS)}")
        if not path:
            faults.required(f"{at}.JSONPath")
        elif not path.startswith("."):
            faults.invalid(f"{at}.JSONPath", path, "must be a simple json path starting with .")
        else:
            try:
                compile_path(path)
            except ValueError:
                continue  # upstream takes it, and shows an empty column


def _selectable(faults: Faults, part: Any, where: str, version: Object) -> None:
    root = Schema.from_crd(sub(version, "schema").get("openAPIV3Schema"))
    seen: set[str] = set()
    for index, row in enumerate(maps(part)):
        path, at = row.get("jsonPath") or "", f"{where}[{index}].jsonPath"
        if not path:
            faults.required(at)
            continue
        if not path.startswith("."):
            faults.invalid(at, path, f"is an invalid path: expected [ or . but got: {path.partition('.')[0]}")
            continue
        node: Schema | None = root
        steps = path.strip(".").split(".")
        for step in steps:
            node = node.properties.get(step) if node is not None else None
        if node is None or steps[0] == "metadata":
            faults.invalid(at, path, "is an invalid path: does not refer to a valid field")
        elif node.type not in SELECTABLE:
            faults.invalid(
                at,
                path,
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats"
                " are allowed.",
            )
        if path in seen:
            faults.duplicate(at, path)
        seen.add(path)


_PARTS: tuple[tuple[str, str, Callable[[Faults, Any, str, Object], None]], ...] = (
    ("schema", "validation", _schema),
    ("subresources", "subresources", _subresources),
    ("additionalPrinterColumns", "additionalPrinterColumns", _columns),
    ("selectableFields", "selectableFields", _selectable),
)
"""A part of a version, and where one that all versions share is told of."""

STRATEGIES = {("apiextensions.k8s.io", "CustomResourceDefinition"): Definition()}
