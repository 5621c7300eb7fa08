"""OpenAPI v3 documents, one per group and version: what `kubectl explain`, `apply` and client generators ask for.

Pure: kinds and schemas in, a document out. The API server caches and serves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sampan.kube import kinds, schema
from sampan.kube.kinds import Resource
from sampan.kube.transport import APPLY_PATCH, JSON, JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH

_REF = "#/components/schemas/"
_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
_PATCHES = (APPLY_PATCH, JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH)
_ANSWERS = (JSON, "application/yaml")


def _query(name: str, kind: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": {"type": kind, "uniqueItems": True}}


_LIST = [
    _query("allowWatchBookmarks", "boolean", "Send BOOKMARK events on a watch."),
    _query("continue", "string", "The token of the next page."),
    _query("fieldSelector", "string", "Restrict the list by fields."),
    _query("labelSelector", "string", "Restrict the list by labels."),
    _query("limit", "integer", "The most items a page may hold."),
    _query("resourceVersion", "string", "The version to read at."),
    _query("resourceVersionMatch", "string", "How resourceVersion is applied: Exact or NotOlderThan."),
    _query("sendInitialEvents", "boolean", "Begin a watch with the present objects."),
    _query("timeoutSeconds", "integer", "How long a list or watch may take."),
    _query("watch", "boolean", "Stream changes instead of listing."),
]
_WRITE = [
    _query("dryRun", "string", "`All` runs every stage and stores nothing."),
    _query("fieldManager", "string", "The name of who makes the change."),
    _query("fieldValidation", "string", "What to do about unknown and duplicate fields: Ignore, Warn or Strict."),
]
_FORCE = [_query("force", "boolean", "Take fields that others own. Only for apply patches.")]
_DELETE = [
    _query("dryRun", "string", "`All` runs every stage and stores nothing."),
    _query("gracePeriodSeconds", "integer", "Seconds before the object is removed."),
    _query("propagationPolicy", "string", "Orphan, Background or Foreground."),
]
_TEXT = {"200": {"description": "OK", "content": {"text/plain": {"schema": {"type": "string"}}}}}
_PRETTY = _query("pretty", "string", "Print indented.")

# verb -> (HTTP method, x-kubernetes-action, on one object, parameters, has the object as body)
_VERBS: dict[str, tuple[str, str, bool, list[dict[str, Any]], bool]] = {
    "list": ("get", "list", False, _LIST, False),
    "create": ("post", "post", False, _WRITE, True),
    "deletecollection": ("delete", "deletecollection", False, [*_DELETE, *_LIST], False),
    "get": ("get", "get", True, [], False),
    "update": ("put", "put", True, _WRITE, True),
    "patch": ("patch", "patch", True, [*_WRITE, *_FORCE], False),
    "delete": ("delete", "delete", True, _DELETE, False),
}


def component_name(resource: Resource) -> str:
    """The name of a custom kind's schema: `com.example.stable.v1.CronTab`."""
    return ".".join([*reversed(resource.group.split(".")), resource.version, resource.kind])


def _gvk(group: str, version: str, kind: str) -> dict[str, str]:
    return {"group": group, "version": version, "kind": kind}


def _path_parameter(name: str) -> dict[str, Any]:
    return {
        "name": name, "in": "path", "required": True, "description": f"{name} of the object",
        "schema": {"type": "string", "uniqueItems": True},
    }  # fmt: skip


def _body(name: str, types: Iterable[str]) -> dict[str, Any]:
    return {"content": {kind: {"schema": {"$ref": _REF + name}} for kind in types}, "required": True}


def _operation(
    resource: Resource, verb: str, *, scope: str, subresource: str, gvk: dict[str, str], name: str
) -> dict[str, Any]:
    _, action, _, parameters, has_body = _VERBS[verb]
    answer = name
    if verb == "list":
        answer += "List"
    elif verb in ("delete", "deletecollection"):
        answer = _META + "Status"
    words = f"{scope}{resource.kind}{subresource.title()}"
    operation: dict[str, Any] = {
        "tags": ["_".join(filter(None, (resource.group.partition(".")[0] or "core", resource.version)))],
        "description": f"{verb} {resource.kind} {subresource}".strip(),
        "operationId": f"{verb}{resource.group.title().replace('.', '')}{resource.version.title()}{words}",
        "parameters": [*parameters],
        "responses": {
            "200": {
                "description": "OK",
                "content": {kind: {"schema": {"$ref": _REF + answer}} for kind in _ANSWERS},
            },
            "401": {"description": "Unauthorized"},
        },
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk,
    }
    if verb == "patch":
        # clients choose how they patch by this list; custom kinds have no merge keys
        operation["requestBody"] = _body(
            _META + "Patch", _PATCHES[:3] if name == component_name(resource) else _PATCHES
        )
    elif verb == "delete":
        operation["requestBody"] = _body(_META + "DeleteOptions", ("*/*",)) | {"required": False}
    elif has_body:
        operation["requestBody"] = _body(name, ("*/*",))
    return operation


def _paths(resource: Resource, name: str) -> dict[str, Any]:
    gvk = _gvk(resource.group, resource.version, resource.kind)
    library = schema.load()
    paths: dict[str, Any] = {}

    def add(path: str, verb: str, *, scope: str, subresource: str, gvk: dict[str, str], name: str) -> None:
        parameters = [_PRETTY]
        if "{name}" in path:
            parameters.insert(0, _path_parameter("name"))
        if "{namespace}" in path:
            parameters.insert(0, _path_parameter("namespace"))
        entry = paths.setdefault(path, {"parameters": parameters})
        entry[_VERBS[verb][0]] = _operation(resource, verb, scope=scope, subresource=subresource, gvk=gvk, name=name)

    namespace = "{namespace}" if resource.namespaced else None
    scope = "Namespaced" if namespace else ""
    for verb in resource.verbs:
        if verb in _VERBS:
            one = _VERBS[verb][2]
            add(
                resource.path(namespace, "{name}" if one else None),
                verb,
                scope=scope,
                subresource="",
                gvk=gvk,
                name=name,
            )
            if verb == "list" and namespace:
                add(resource.path(), verb, scope="", subresource="", gvk=gvk, name=name)
    for subresource in resource.subresources:
        row = kinds.SUBRESOURCE_KINDS.get(subresource)
        api_version = "/".join(filter(None, row[:2])) if row else ""
        sub_name = library.definition_name(api_version, row[2]) if row else name
        if sub_name is None:
            continue  # streams (exec, attach, port-forward, proxy) speak no document
        for verb in kinds.SUBRESOURCE_VERBS.get(subresource, ("get", "patch", "update")):
            path = resource.path(namespace, "{name}", subresource)
            sub_gvk = _gvk(*row) if row else gvk
            if verb == "create":
                add(path, verb, scope=scope, subresource=subresource, gvk=sub_gvk, name=sub_name)
            elif subresource == "log":
                paths[path] = {"parameters": [_path_parameter("namespace"), _path_parameter("name")], "get": {
                    "description": "read the log of a container", "x-kubernetes-action": "get",
                    "x-kubernetes-group-version-kind": gvk, "parameters": [],
                    "responses": _TEXT,
                }}  # fmt: skip
            else:
                add(path, verb, scope=scope, subresource=subresource, gvk=sub_gvk, name=sub_name)
    return paths


def _wrapped(node: dict[str, Any], prose: str) -> dict[str, Any]:
    """A node in the document's form: a reference with siblings becomes `allOf`."""
    node = _linked(node)
    if not prose and "$ref" not in node:
        return node
    siblings = {key: value for key, value in node.items() if key != "$ref"}
    if prose:
        siblings["description"] = prose
    if "$ref" not in node:
        return siblings
    return {**siblings, "allOf": [{"$ref": node["$ref"]}], "default": {}} if siblings else node


def _linked(node: Any) -> Any:
    if isinstance(node, list):
        return [_linked(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _REF + value if key == "$ref" and isinstance(value, str) else _linked(value) for key, value in node.items()
    }


def _references(node: Any, found: set[str]) -> set[str]:
    if isinstance(node, list):
        for item in node:
            _references(item, found)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref" and isinstance(value, str) and value.startswith(_REF):
                found.add(value[len(_REF) :])
            else:
                _references(value, found)
    return found


def _component(name: str, prose: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    node = schema.load().document(name)
    texts = prose.get(name, {})
    properties = {field: _wrapped(raw, texts.get(field, "")) for field, raw in node.get("properties", {}).items()}
    node = _linked({key: value for key, value in node.items() if key != "properties"})
    if texts.get(""):
        node["description"] = texts[""]
    if properties:
        node["properties"] = properties
    return dict(node)


def _custom(resource: Resource, raw: dict[str, Any]) -> dict[str, Any]:
    """The components of a custom kind: the object and its list."""
    gvk = _gvk(resource.group, resource.version, resource.kind)
    text = {"type": "string"}
    own = {
        **(raw.get("properties") or {}),
        "apiVersion": {**text, "description": "The versioned schema of this representation of an object."},
        "kind": {**text, "description": "The kind of resource this object represents."},
        "metadata": {
            "description": "Standard object's metadata.",
            "allOf": [{"$ref": _REF + _META + "ObjectMeta"}],
            "default": {},
        },
    }
    name = component_name(resource)
    listed = {
        "type": "object",
        "required": ["items"],
        "description": f"{resource.kind}List is a list of {resource.kind}",
        "properties": {
            "apiVersion": text,
            "kind": text,
            "metadata": {"$ref": _REF + _META + "ListMeta"},
            "items": {"type": "array", "items": {"$ref": _REF + name}},
        },
        "x-kubernetes-group-version-kind": [_gvk(resource.group, resource.version, resource.kind + "List")],
    }
    node = {**raw, "type": "object", "properties": own, "x-kubernetes-group-version-kind": [gvk]}
    return {name: node, name + "List": listed}


def document(
    group: str, version: str, resources: Iterable[Resource], schemas: Mapping[str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The OpenAPI v3 document of one group and version.

    `schemas` maps the plural of a custom kind to its `openAPIV3Schema`; kinds not in it are built in. A kind with no
    schema at all is described as an open object. Costs some 20 ms for the core group (descriptions are read from disk).
    """
    library = schema.load()
    prose = library.descriptions()
    components: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for resource in resources:
        if (resource.group, resource.version) != (group, version):
            continue
        name = library.definition_name(resource.api_version, resource.kind)
        custom = (schemas or {}).get(resource.plural)
        if custom is not None or name is None:
            name = component_name(resource)
            raw = custom or {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            components |= _custom(resource, raw)
        paths |= _paths(resource, name)
    queue = [*_references(paths, set()), *_references(components, set())]
    while queue:
        name = queue.pop()
        if name in components:
            continue
        try:
            components[name] = _component(name, prose)
        except KeyError:
            components[name] = {"type": "object"}  # a list of a kind that is only served, never listed by schema
            continue
        queue += _references(components[name], set()) - components.keys()
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": f"v{library.version}.0"},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": dict(sorted(components.items()))},
    }
