"""What FastAPI need not do, taken from it as it is imported; what it answers stays the same.

At a start, a fifth of it:

- Its models of an OpenAPI document are built when a document is asked for. Pydantic has a setting for this
  (`defer_build`), which FastAPI does not make for its own models; it is made around their module. Models of
  applications are built when they are declared, as ever: what is wrong with one should be said then.
- To refuse models of `pydantic.v1` it imports all of `pydantic.v1`. While nobody has, there can be no such model.

At a request, a tenth:

- Whether a parameter's annotation is a sequence is found out twice for each parameter; once is enough.
- Its own OpenTelemetry is looked for some four times, where ours has silenced it (see `Middleware`).
- The answer that dependencies may set headers of is made as any, with a length that is taken out again; and the
  parameters of a query are parsed where there is no query.

A FastAPI that has not what is looked for here is left alone.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from sampan.imports import when_imported, while_imported

Function = Callable[..., Any]


class Telemetry:
    """FastAPI's own. `wanted` from when an application is served that has a TracerProvider of its own."""

    wanted = False


def relieve() -> None:
    """Nothing happens where FastAPI is imported already, or never is."""
    while_imported("fastapi.openapi.models", _built_when_used)
    _replace("fastapi._compat.shared", "is_pydantic_v1_model_class", _unless_v1)
    _replace("fastapi._compat.shared", "is_pydantic_v1_model_instance", _unless_v1)
    _replace("fastapi._compat.shared", "field_annotation_is_sequence", _remembered)
    _replace("fastapi.telemetry._api", "_get_request_telemetry", _unless_wanted)
    _replace("fastapi.dependencies.utils", "solve_dependencies", _given_its_answer)


def _replace(module: str, name: str, changed: Callable[[Function], Function]) -> None:
    def then(imported: ModuleType) -> None:
        function = getattr(imported, name, None)
        if function is not None:
            setattr(imported, name, functools.wraps(function)(changed(function)))

    when_imported(module, then)


@contextlib.contextmanager
def _built_when_used(_module: ModuleType) -> Iterator[None]:
    from pydantic import BaseModel

    base: Any = BaseModel
    settings, rebuild = base.model_config, base.__dict__["model_rebuild"]
    base.model_config = {**settings, "defer_build": True}
    base.model_rebuild = classmethod(lambda model, **_options: None)  # of three it asks for at the end of the module
    try:
        yield
    finally:
        base.model_config, base.model_rebuild = settings, rebuild


def _unless_v1(asked: Function) -> Function:
    return lambda value: "pydantic.v1" in sys.modules and asked(value)


def _remembered(asked: Function) -> Function:
    known = functools.lru_cache(4096)(asked)

    def field_annotation_is_sequence(annotation: Any) -> Any:
        try:
            return known(annotation)
        except TypeError:  # one that has no hash
            return asked(annotation)

    return field_annotation_is_sequence


def _unless_wanted(asked: Function) -> Function:
    return lambda context=None: asked(context) if Telemetry.wanted else None


def _given_its_answer(solve: Function) -> Function:
    from starlette.datastructures import QueryParams
    from starlette.responses import Response

    fields = {**vars(Response()), "status_code": None}
    no_query = QueryParams()  # it cannot be changed

    def solve_dependencies(*, request: Any, response: Any = None, **named: Any) -> Any:
        if response is None:
            response = Response.__new__(Response)
            response.__dict__.update(fields, raw_headers=[])
        if not request.scope.get("query_string"):
            request._query_params = no_query
        return solve(request=request, response=response, **named)

    return solve_dependencies
