"""FastAPI's models of an OpenAPI document, built when a document is asked for: at import they are a seventh of a start.

Pydantic knows the setting (`defer_build`); FastAPI does not make it for its own models, so it is made around their
module. Models of applications are built when they are declared, as ever: what is wrong with one should be said then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from sampan.imports import while_imported


def build_when_used() -> None:
    """Have FastAPI's models built late, if ever it is imported."""
    while_imported("fastapi.openapi.models", _deferred)


@contextlib.contextmanager
def _deferred(_module: ModuleType) -> Iterator[None]:
    from pydantic import BaseModel

    base: Any = BaseModel
    settings, rebuild = base.model_config, base.__dict__["model_rebuild"]
    base.model_config = {**settings, "defer_build": True}
    base.model_rebuild = classmethod(lambda model, **_options: None)  # of three it asks for at the end of the module
    try:
        yield
    finally:
        base.model_config, base.model_rebuild = settings, rebuild
