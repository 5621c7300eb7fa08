"""What FastAPI need not do at a start; together a fifth of it.

- Its models of an OpenAPI document are built when a document is asked for. Pydantic has a setting for this
  (`defer_build`), which FastAPI does not make for its own models; it is made around their module. Models of
  applications are built when they are declared, as ever: what is wrong with one should be said then.
- To refuse models of `pydantic.v1` it imports all of `pydantic.v1`. While nobody has, there can be no such model.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from sampan.imports import when_imported, while_imported


def start_sooner() -> None:
    """Nothing happens where FastAPI is imported already, or never is."""
    while_imported("fastapi.openapi.models", _built_when_used)
    when_imported("fastapi._compat.shared", _without_v1)


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


def _without_v1(shared: Any) -> None:
    def unless_loaded(asked: Callable[[Any], bool]) -> Callable[[Any], bool]:
        return lambda value: "pydantic.v1" in sys.modules and asked(value)

    for name in ("is_pydantic_v1_model_class", "is_pydantic_v1_model_instance"):
        setattr(shared, name, unless_loaded(getattr(shared, name)))
