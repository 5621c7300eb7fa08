"""Namespace and ConfigMaps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.compile.context import Item
from sampan.model import Config, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.compile.context import Context

LEVELS = ("enforce", "audit", "warn")


def namespace(context: Context) -> Iterator[Item]:
    """The namespace, which admits only pods that keep to Pod Security `restricted`."""
    labels = context.labels("application", context.app.name)
    labels |= {"sampan.dev/environment": context.environment.name}
    labels |= {f"pod-security.kubernetes.io/{level}": "restricted" for level in LEVELS}
    yield Item(context.app, context.object("v1", "Namespace", context.namespace, labels, namespaced=False))


def config_maps(context: Context) -> Iterator[Item]:
    for handle in context.app.handles:
        if isinstance(handle, Config):
            labels = context.labels("config", handle.name)
            data = settings.as_text(handle, context.overrides(handle))
            yield Item(handle, context.object("v1", "ConfigMap", f"config-{handle.name}", labels, data=data))
