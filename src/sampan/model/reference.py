"""Where an application can be imported from."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sampan.model.application import Application


def reference_of(app: Application) -> str:
    """`module:attribute`, when the application is a global of the module that declared it; empty otherwise."""
    for name, module in list(sys.modules.items()):
        if name != "__main__" and getattr(module, "__file__", None) == app.location.file:
            for attribute, value in vars(module).items():
                if value is app:
                    return f"{name}:{attribute}"
    return ""
