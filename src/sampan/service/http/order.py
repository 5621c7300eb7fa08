"""The order in which the routes of an application are asked."""

from __future__ import annotations

from typing import Any, Final

_PATHS: Final = ("openapi_url", "docs_url", "redoc_url", "swagger_ui_oauth2_redirect_url")
_KNOWN: Final = ("fastapi.", "starlette.")


def documentation_last(app: Any) -> None:
    """Move the routes of FastAPI's own pages, which stand first and are asked in vain by every request, to the end.

    Nothing is moved where another route might answer one of their paths: what answers a path stays the same.
    """
    routes = getattr(getattr(app, "router", None), "routes", None)
    if not isinstance(routes, list):
        return
    paths = {getattr(app, name, None) for name in _PATHS} - {None}
    pages = [route for route in routes if type(route).__name__ == "Route" and route.path in paths]
    moved = {id(route) for route in pages}
    others = [route for route in routes if id(route) not in moved]
    if not any(_may_answer(route, page.path) for route in others for page in pages):
        routes[:] = [*others, *pages]


def _may_answer(route: Any, path: str) -> bool:
    """Whether `route` answers `path`, by any method; also where that cannot be known."""
    kind = type(route)
    if not kind.__module__.startswith(_KNOWN) or kind.__name__ == "Host":
        return True
    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": [], "path_params": {}}
    try:
        match, _ = route.matches(scope)
    except Exception:  # it wants to know more of a request than its path
        return True
    return bool(match.name != "NONE")
