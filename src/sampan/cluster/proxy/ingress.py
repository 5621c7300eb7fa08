"""Ingress objects -> one Envoy route table, by the matching rules of networking.k8s.io/v1. Pure.

Order within a host: exact paths, then longest first; a Prefix matches whole path segments; ImplementationSpecific is a
plain string prefix. A wildcard host stands for exactly one DNS label. What nothing matches is 404.
The annotations `rewrite-target` and `use-regex` of ingress-nginx are understood, with its meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from sampan.cluster.proxy import resources
from sampan.cluster.proxy.resources import Resource
from sampan.kube.objects import Object, annotations_of, key_of, namespace_of

CLASSES = frozenset({None, "", "nginx", "sampan"})
_ANNOTATION = "nginx.ingress.kubernetes.io/"

# Gives the cluster of (namespace, service, port number or name); None when the Service or its port does not exist.
Resolve = Callable[[str, str, int | str], str | None]


class Problem(Struct, frozen=True):
    """Something an Ingress asks for that cannot be had; becomes an Event on it."""

    ingress: Object
    message: str


class _Entry(Struct, frozen=True):
    rank: tuple[int, int]  # exact before the rest, then longest path
    routes: tuple[Resource, ...]


def is_ours(ingress: Object) -> bool:
    name = ingress["spec"].get("ingressClassName") or annotations_of(ingress).get("kubernetes.io/ingress.class")
    return name in CLASSES


def route_table(name: str, ingresses: Iterable[Object], resolve: Resolve) -> tuple[Resource, list[Problem]]:
    """The route configuration `name` for all Ingresses, oldest first (who was first keeps a contested path)."""
    hosts: dict[str, list[_Entry]] = {"*": []}
    fallbacks: dict[str, list[Resource]] = {}
    problems: list[Problem] = []
    for ingress in sorted(ingresses, key=lambda i: (i["metadata"].get("creationTimestamp", ""), key_of(i))):
        spec = ingress["spec"]
        default = spec.get("defaultBackend")
        own_hosts = [rule.get("host") or "*" for rule in spec.get("rules") or ()]
        for rule in spec.get("rules") or ():
            entries = hosts.setdefault(rule.get("host") or "*", [])
            for path in (rule.get("http") or {}).get("paths") or ():
                try:
                    entries.append(_entry(ingress, path, resolve))
                except ValueError as error:
                    problems.append(Problem(ingress, str(error)))
        if default:
            try:
                routes = _backend_routes(ingress, default, {"prefix": "/"}, None, resolve)
            except ValueError as error:
                problems.append(Problem(ingress, str(error)))
                continue
            for host in [*own_hosts, "*"]:
                fallbacks.setdefault(host, routes)
    table: dict[str, list[Resource]] = {}
    for host, entries in hosts.items():
        ordered = sorted(entries, key=lambda entry: entry.rank)
        table[host] = [route for entry in ordered for route in entry.routes] + fallbacks.get(host, [])
    return {
        "@type": resources.ROUTES,
        "name": name,
        "ignore_port_in_host_matching": True,
        "virtual_hosts": [_virtual_host(host, table) for host in sorted(table)],
    }, problems


def unknown_yet(name: str) -> Resource:
    """The route configuration `name` until the Ingresses are known: 503, which is asked again, not 404."""
    answer = {"status": 503, "body": {"inline_string": "the cluster is starting\n"}}
    routes = [{"match": {"prefix": "/"}, "direct_response": answer}]
    host = {"name": "*", "domains": ["*"], "routes": routes}
    return {"@type": resources.ROUTES, "name": name, "virtual_hosts": [host]}


def _virtual_host(host: str, table: dict[str, list[Resource]]) -> Resource:
    routes = table[host]
    if host.startswith("*."):
        # Envoy's wildcard stands for any number of labels, an Ingress's for one: ask for it, and send the rest to "*".
        one_label = rf"(?i)[^.]+{re.escape(host[1:])}(:\d+)?".replace(r"\-", "-")
        authority = {"name": ":authority", "string_match": {"safe_regex": {"regex": one_label}}}
        routes = [
            {**route, "match": {**route["match"], "headers": [*route["match"].get("headers", ()), authority]}}
            for route in routes
        ]
        foreign = {"name": ":authority", "string_match": {"safe_regex": {"regex": one_label}}, "invert_match": True}
        routes += [
            {**route, "match": {**route["match"], "headers": [*route["match"].get("headers", ()), foreign]}}
            for route in table["*"]
        ]
    return {"name": host, "domains": [host], "routes": routes or []}


def _entry(ingress: Object, path: dict[str, Any], resolve: Resolve) -> _Entry:
    kind = path.get("pathType", "ImplementationSpecific")
    text = path.get("path") or "/"
    annotations = annotations_of(ingress)
    target = annotations.get(_ANNOTATION + "rewrite-target")
    as_regex = (target is not None or annotations.get(_ANNOTATION + "use-regex") == "true") and kind != "Exact"
    rewrite: Resource | None = None
    if as_regex:
        pattern = _checked_regex(text)
        match: Resource = {"safe_regex": {"regex": f"(?i:{pattern}).*"}}
        if target is not None:
            rewrite = _rewrite(f"^(?i:{pattern}).*$", target)
    elif kind == "Exact":
        match = {"path": text}
        if target is not None:
            rewrite = _rewrite(f"^{re.escape(text)}$", target)
    elif kind == "Prefix":
        trimmed = text.rstrip("/")
        match = {"path_separated_prefix": trimmed} if trimmed else {"prefix": "/"}
    else:
        match = {"prefix": text}
    routes = _backend_routes(ingress, path["backend"], match, rewrite, resolve)
    return _Entry((0 if kind == "Exact" else 1, -len(text)), tuple(routes))


def _backend_routes(
    ingress: Object, backend: dict[str, Any], match: Resource, rewrite: Resource | None, resolve: Resolve
) -> list[Resource]:
    service = backend.get("service")
    if not service:
        raise ValueError("a backend of type resource is not supported: name a service")
    port = service.get("port") or {}
    wanted = port.get("number") or port.get("name") or ""
    found = resolve(namespace_of(ingress) or "default", service["name"], wanted)
    if found is None:
        # the rule stands, so that its path is not quietly taken over by a shorter one
        text = f'service "{service["name"]}" with port {wanted} does not exist\n'
        return [{"match": match, "direct_response": {"status": 503, "body": {"inline_string": text}}}]
    return resources.routes(match, found, rewrite=rewrite)


def _rewrite(pattern: str, target: str) -> Resource:
    substitution = re.sub(r"\$(\d)", r"\\\1", target.replace("\\", "\\\\"))
    return {"regex_rewrite": {"pattern": {"regex": pattern}, "substitution": substitution}}


def _checked_regex(text: str) -> str:
    """The pattern, if RE2 will take it: Envoy would refuse the whole table for one bad pattern. Raises ValueError."""
    text = text.removeprefix("^")
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"path {text!r} is not a regular expression: {error}") from error
    if re.search(r"\(\?(?:[=!>#(]|<[=!]|P[=>])|\\[1-9]|[*+?}]\+", text):
        raise ValueError(f"path {text!r} uses look-around or back-references, which RE2 does not have")
    return text


def tls_hosts(ingress: Object) -> list[tuple[str, list[str]]]:
    """(key of the Secret, hosts) of every `tls` entry."""
    namespace = namespace_of(ingress) or "default"
    return [
        (f"{namespace}/{entry['secretName']}", list(entry.get("hosts") or ()))
        for entry in ingress["spec"].get("tls") or ()
        if entry.get("secretName")
    ]
