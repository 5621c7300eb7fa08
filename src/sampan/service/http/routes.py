"""The route template of a request, which is what metrics and spans are named by: "/users/{id}", not "/users/42".

FastAPI and Starlette (mounted applications too) leave the route in the scope, Litestar the template; Django is asked
through its handler. Of these frameworks' applications what bears no route is "(unmatched)": redirects, preflights,
what a middleware answered. An application that names none has identifiers in its paths replaced, up to 200 paths.
"""

from __future__ import annotations

import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final

UNMATCHED: Final = "(unmatched)"
OTHER: Final = "(other)"
DJANGO: Final = "sampan.route"  # the key of the scope under which the template of a Django request is left
_IDENTIFIER: Final = re.compile(r"/(?:\d+|[0-9a-fA-F-]{8,}|[^/]{40,})(?=/|$)")
_NAMING: Final = {("starlette", "Starlette"), ("litestar", "Litestar"), ("django", "ASGIHandler")}
_MAX_PATHS: Final = 200
_MAX_ROUTES: Final = 10_000  # that are remembered


def names_routes(app: Any) -> bool:
    """Whether `app` belongs to a framework that tells the route of a request."""
    return any((kind.__module__.partition(".")[0], kind.__name__) in _NAMING for kind in type(app).__mro__)


class Routes:
    def __init__(self, app: Any = None) -> None:
        self._named = names_routes(app)
        self._paths: set[str] = set()
        self._plain: dict[int, tuple[Any, str]] = {}  # id of a route that is not mounted -> it, and its template

    def of(self, scope: MutableMapping[str, Any], status: int) -> str:
        """The template of the request in `scope`, which the application has answered with `status`."""
        route = scope.get("route")
        if route is not None:
            return self._templated(scope, route)
        template: str | None = scope.get("path_template") or scope.get(DJANGO)
        if template:
            return template
        if status == 404:
            return UNMATCHED
        mounted = _mounted(scope)
        if mounted or self._named:
            return mounted or UNMATCHED
        path = _IDENTIFIER.sub("/{id}", scope["path"])
        if path not in self._paths:
            if len(self._paths) >= _MAX_PATHS:
                return OTHER
            self._paths.add(path)
        return path

    def _templated(self, scope: MutableMapping[str, Any], route: Any) -> str:
        # a route of an included router bears its own path only; FastAPI's context of it has the whole
        context = scope.get("fastapi")
        if context is not None:
            context = context.get("effective_route_context")
        if "app_root_path" in scope:  # mounted
            return _starlette(scope, route, context)
        key = context if context is not None else route
        known = self._plain.get(id(key))
        if known is not None and known[0] is key:
            return known[1]
        template = _starlette(scope, route, context)
        if len(self._plain) < _MAX_ROUTES:
            self._plain[id(key)] = key, template
        return template


def _starlette(scope: MutableMapping[str, Any], route: Any, context: Any) -> str:
    if context is not None:
        route_or_inner = getattr(context, "starlette_route", None) or context
    else:
        route_or_inner = route
    template = str(getattr(route_or_inner, "path_format", "") or getattr(route, "path", ""))
    mounted, outer = scope.get("root_path", ""), scope.get("app_root_path")
    if outer is None or mounted == outer:
        return template
    if type(route).__name__ == "Mount":  # the application mounted there says no more; its own path is in root_path
        template = "/{path}"
    return _prefix(scope) + template


def _prefix(scope: MutableMapping[str, Any]) -> str:
    """Where an application of Starlette's is mounted, with the names of a mount such as /{tenant}."""
    prefix = str(scope.get("root_path", "")[len(scope.get("app_root_path", "")) :])
    values = {str(value): name for name, value in scope.get("path_params", {}).items()}
    return "/".join(f"{{{values[part]}}}" if part in values else part for part in prefix.split("/"))


def _mounted(scope: MutableMapping[str, Any]) -> str:
    """The template of what a mounted application answered that names no routes, such as one of files; else ""."""
    handler = scope.get("route_handler")  # of Litestar
    if getattr(handler, "is_mount", False):
        return f"{min(getattr(handler, 'paths', None) or ['']).rstrip('/')}/{{path}}"
    return f"{_prefix(scope)}/{{path}}" if "app_root_path" in scope and "endpoint" in scope else ""


def watch_django() -> None:
    """Have Django, where it is loaded, leave the template of each request in its scope."""
    handlers = sys.modules.get("django.core.handlers.base")
    if handlers is None or hasattr(handlers.BaseHandler, "sampan_watched"):
        return
    resolve = handlers.BaseHandler.resolve_request

    def resolve_request(self: Any, request: Any) -> Any:
        match = resolve(self, request)
        scope = getattr(request, "scope", None)
        if scope is not None:
            scope[DJANGO] = "/" + match.route.lstrip("^/").rstrip("$")
        return match

    handlers.BaseHandler.resolve_request = resolve_request
    handlers.BaseHandler.sampan_watched = True
