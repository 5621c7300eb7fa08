"""Sampan: declare a system once in typed Python; run it on a laptop; ship it to any Kubernetes.

The names of the model are importable from here and loaded on first use, so that `import sampan` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sampan.model import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    from importlib import import_module

    model = import_module("sampan.model")
    if name == "__all__" or name in model.__all__:
        return getattr(model, name)
    raise AttributeError(f"module 'sampan' has no attribute {name!r}")
