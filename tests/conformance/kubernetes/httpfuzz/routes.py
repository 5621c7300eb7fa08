"""Every route of a server, from its own discovery and OpenAPI documents, and those that neither of them names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.conformance.kubernetes.wire import Wire

NON_RESOURCE = (
    *("/", "/api", "/apis", "/api/v1", "/version", "/healthz", "/livez", "/readyz", "/livez/ping", "/healthz/etcd"),
    *(
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/api/v1",
        "/openapi/v3/apis/apps/v1",
        "/metrics",
        "/apis/apps",
        "/logs",
    ),
    *(
        "/apis/apps/v1",
        "/.well-known/openid-configuration",
        "/openid/v1/jwks",
        "/debug/pprof",
        "/api/v2",
        "/favicon.ico",
    ),
    *("/apis/nothing.example.com", "/apis/apps/v9", "/openapi/v3/apis/no/v1", "/swagger.json", "/ui", "/configz"),
)
STREAMS = tuple(
    f"/api/v1/namespaces/{{namespace}}/pods/{{name}}/{name}"
    for name in ("exec", "attach", "portforward", "log", "proxy")
)
METHODS = {
    "get": "GET", "list": "GET", "watch": "GET", "create": "POST", "update": "PUT", "patch": "PATCH",
    "delete": "DELETE", "deletecollection": "DELETE",
}  # fmt: skip


@dataclass(frozen=True)
class Route:
    """A path with `{namespace}` and `{name}` in it, the methods it serves, and the kind it takes."""

    path: str
    methods: tuple[str, ...]
    api_version: str = ""
    kind: str = ""
    listing: bool = False
    example: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)


def routes(wire: Wire) -> list[Route]:
    """All of them. Raises AssertionError when discovery names a path that OpenAPI lacks."""
    found: dict[str, Route] = {}
    versions = ["v1"]
    for group in wire.get("/apis")["groups"]:
        versions += [version["groupVersion"] for version in group["versions"]]
    for version in versions:
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        document = wire.get(f"/openapi{'/v3'}{root}").body
        for row in wire.get(root)["resources"]:
            for route in _of_resource(root, version, row):
                found[route.path] = route
        for path, operations in document["paths"].items():
            methods = tuple(name.upper() for name in operations if name in {"get", "put", "post", "patch", "delete"})
            if path not in found and methods:
                found[path] = Route(path, methods, version, "")
    for path in (*NON_RESOURCE, *STREAMS):
        found.setdefault(path, Route(path, ("GET", "POST")))
    return sorted(found.values(), key=lambda route: route.path)


def _of_resource(root: str, version: str, row: dict[str, Any]) -> list[Route]:
    plural, _, part = row["name"].partition("/")
    group = row.get("group")
    of = f"{group}/{row['version']}" if group else row.get("version") or version
    base = f"{root}/namespaces/{{namespace}}/{plural}" if row["namespaced"] else f"{root}/{plural}"
    verbs = row["verbs"]
    methods = {verb: METHODS[verb] for verb in verbs if verb in METHODS}
    if part:
        chosen = tuple(sorted(set(methods.values()))) or ("GET",)
        return [Route(f"{base}/{{name}}/{part}", chosen, of, row["kind"], example=EXAMPLES.get(row["kind"], {}))]
    many = tuple(sorted({methods[verb] for verb in ("list", "create", "deletecollection") if verb in methods}))
    one = tuple(sorted({methods[verb] for verb in ("get", "update", "patch", "delete") if verb in methods}))
    made = []
    example = EXAMPLES.get(row["kind"], {"spec": {}})
    if many:
        made.append(Route(base, many, version, row["kind"], "list" in verbs, example))
    if one:
        made.append(Route(f"{base}/{{name}}", one, version, row["kind"], False, example))
    if row["namespaced"] and "list" in verbs:
        made.append(Route(f"{root}/{plural}", ("GET",), version, row["kind"], True, example))
    return made


_WEBHOOK = {
    "name": "x.example.com", "clientConfig": {"url": "https://127.0.0.1:9/"}, "sideEffects": "None",
    "admissionReviewVersions": ["v1"], "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                                                  "resources": ["endpoints"]}],
}  # fmt: skip
EXAMPLES: dict[str, dict[str, Any]] = {
    "Scale": {"spec": {"replicas": 1}},
    "Binding": {"target": {"kind": "Node", "name": "none"}},
    "Eviction": {"deleteOptions": {"dryRun": ["All"]}},
    "TokenRequest": {"spec": {"audiences": ["x"], "expirationSeconds": 600}},
    "TokenReview": {"spec": {"token": "x"}},
    "SubjectAccessReview": {"spec": {"user": "u", "resourceAttributes": {"verb": "get", "resource": "pods"}}},
    "LocalSubjectAccessReview": {"spec": {"user": "u", "resourceAttributes": {"verb": "get", "namespace": "fuzz"}}},
    "SelfSubjectAccessReview": {"spec": {"nonResourceAttributes": {"verb": "get", "path": "/"}}},
    "SelfSubjectRulesReview": {"spec": {"namespace": "fuzz"}},
    "MutatingWebhookConfiguration": {"webhooks": [_WEBHOOK]},
    "ValidatingWebhookConfiguration": {"webhooks": [_WEBHOOK]},
    "ValidatingAdmissionPolicy": {
        "spec": {
            "matchConstraints": {"resourceRules": _WEBHOOK["rules"]},
            "validations": [{"expression": "object.metadata.name != 'x'", "message": "m"}],
            "variables": [{"name": "v", "expression": "1 + 1"}],
        }
    },
    "ValidatingAdmissionPolicyBinding": {"spec": {"policyName": "a", "validationActions": ["Deny"]}},
    "CustomResourceDefinition": {
        "spec": {
            "group": "x.example.com", "scope": "Namespaced", "names": {"plural": "as", "kind": "A"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-validations": [{"rule": "has(self.spec)", "message": "m"}],
                "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer", "default": 3}}}}}}}],
        }
    },
    "CSIDriver": {"spec": {"attachRequired": False}},
    "RuntimeClass": {"handler": "x"},
}  # fmt: skip
