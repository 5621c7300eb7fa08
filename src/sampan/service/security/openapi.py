"""Puts what is declared into an application's OpenAPI document: security schemes, and the scopes of each operation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from sampan.model.security import Introspection, Oidc, Password, PeerIdentity, Security
from sampan.service.security.require import Require
from sampan.service.security.rules import Rules

_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


def schemes(security: Security, issuers: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Scheme objects by name (OpenAPI 3.1, 4.8.27). `issuers` says what issuers such as "dev" stand for."""
    found: dict[str, dict[str, Any]] = {}
    for one in security.authenticate:
        if isinstance(one, Oidc):
            issuer = issuers.get(one.issuer, one.issuer).rstrip("/")
            url = f"{issuer}/.well-known/openid-configuration"
            name = "oidc" if "oidc" not in found else f"oidc{len(found)}"
            found[name] = {"type": "openIdConnect", "openIdConnectUrl": url}
        elif isinstance(one, Introspection):
            found["bearer"] = {"type": "http", "scheme": "bearer"}
        elif isinstance(one, Password):
            found["password"] = {"type": "http", "scheme": "basic"}
        elif isinstance(one, PeerIdentity):
            found["mutualTLS"] = {"type": "mutualTLS"}
    return found


def enrich(
    document: dict[str, Any], security: Security, issuers: dict[str, str], required: dict[tuple[str, str], set[str]]
) -> dict[str, Any]:
    """`document` with its security. `required` are the scopes that dependencies ask for, by (path, METHOD)."""
    known = schemes(security, issuers)
    if not known:
        return document
    rules = Rules(security.public, security.scopes)
    document.setdefault("components", {}).setdefault("securitySchemes", {}).update(known)
    for path, item in (document.get("paths") or {}).items():
        for method in _METHODS:
            operation = item.get(method)
            if operation is None or operation.get("security"):
                continue
            example = re.sub(r"\{[^}]*\}", "x", path)
            scopes = required.get((path, method.upper()), set()) | rules.scopes(method.upper(), example)
            if rules.is_public(example, b"") and (path, method.upper()) not in required:
                operation["security"] = []
                continue
            operation["security"] = [
                {name: sorted(scopes) if kind["type"] != "mutualTLS" else []} for name, kind in known.items()
            ]
            operation.setdefault("responses", {}).setdefault("401", {"description": "Nobody known asks."})
            if scopes or security.authorize is not None:
                operation["responses"].setdefault("403", {"description": "The caller may not."})
    return document


def install(app: Any, security: Security, issuers: dict[str, str]) -> None:
    """Have FastAPI's or Litestar's own document bear the security; other applications have none of ours."""
    if callable(getattr(app, "openapi", None)) and hasattr(app, "openapi_schema") and hasattr(app, "router"):
        original = app.openapi

        def openapi() -> dict[str, Any]:
            fresh = app.openapi_schema is None
            document: dict[str, Any] = original()
            return enrich(document, security, issuers, dict(_required(app.routes, ""))) if fresh else document

        app.openapi = openapi
        app.openapi_schema = None
    elif type(app).__module__.partition(".")[0] == "litestar" and getattr(app, "openapi_config", None) is not None:
        _install_litestar(app, security, issuers)


def _required(routes: Any, prefix: str) -> Iterator[tuple[tuple[str, str], set[str]]]:
    for route in routes:
        dependant = getattr(route, "dependant", None)
        scopes = _asked(dependant) if dependant is not None else None
        if scopes is not None:
            for method in route.methods or ():
                yield (prefix + route.path_format, method), scopes


def _asked(dependant: Any) -> set[str] | None:
    """The scopes of every `require` in a tree of dependencies; None without any."""
    found = set(dependant.call.scopes) if isinstance(dependant.call, Require) else None
    for one in dependant.dependencies:
        if (below := _asked(one)) is not None:
            found = (found or set()) | below
    return found


def _install_litestar(app: Any, security: Security, issuers: dict[str, str]) -> None:
    from litestar.openapi.spec import SecurityScheme

    known = schemes(security, issuers)
    components = app.openapi_schema.components
    made = {
        name: SecurityScheme(
            type=kind["type"],
            scheme=kind.get("scheme"),
            open_id_connect_url=kind.get("openIdConnectUrl"),
        )
        for name, kind in known.items()
    }
    components.security_schemes = {**(components.security_schemes or {}), **made}
    rules = Rules(security.public, security.scopes)
    for path, item in (app.openapi_schema.paths or {}).items():
        example = re.sub(r"\{[^}]*\}", "x", path)
        for method in _METHODS:
            operation = getattr(item, method, None)
            if operation is None or operation.security:
                continue
            scopes = sorted(rules.scopes(method.upper(), example))
            public = rules.is_public(example, b"")
            operation.security = [] if public else [{name: scopes} for name in known]
