"""A write as the pipeline makes it, without a store: default, prepare, validate."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import yaml

from sampan.cluster.apiserver.registry import strategy_for
from sampan.cluster.apiserver.strategy import Context, User
from sampan.kube import kinds
from sampan.kube.errors import Cause
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object


class Registry:
    """Objects in memory, and writes to them. `create` and `update` return what is stored, or the causes."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str | None, str], Object] = {}

    def context(self, resource: Resource, obj: Object, subresource: str | None = None) -> Context:
        def get(resource: Resource, name: str, namespace: str | None) -> Object | None:
            return self.objects.get((resource.kind, namespace, name))

        def every(resource: Resource, namespace: str | None) -> list[Object]:
            return [o for (kind, ns, _), o in self.objects.items() if kind == resource.kind and namespace in (None, ns)]

        metadata = obj["metadata"]
        settings = {"service_cidr": "127.70.128.0/17"}
        return Context(
            resource, metadata.get("namespace"), metadata["name"], User("me"), get, every, subresource, False, settings
        )

    def create(self, manifest: str | Object) -> Object:
        obj, causes = self.try_create(manifest)
        assert causes == []
        return obj

    def try_create(self, manifest: str | Object) -> tuple[Object, list[Cause]]:
        obj = deepcopy(yaml.safe_load(manifest) if isinstance(manifest, str) else manifest)
        resource = kinds.find(obj["apiVersion"], obj["kind"])
        assert resource is not None
        if resource.namespaced:
            obj["metadata"].setdefault("namespace", "default")
        strategy = strategy_for(resource)
        strategy.default(obj)
        strategy.prepare_create(obj, self.context(resource, obj))
        causes = strategy.validate_create(obj)
        once = deepcopy(obj)
        strategy.default(once)
        assert once == obj, "defaults are not idempotent"
        if not causes:
            self.objects[obj["kind"], obj["metadata"].get("namespace"), obj["metadata"]["name"]] = obj
        return obj, causes

    def try_update(self, obj: Object, change: Callable[[Any], None]) -> tuple[Object, list[Cause]]:
        new = deepcopy(obj)
        change(new)
        resource = kinds.find(obj["apiVersion"], obj["kind"])
        assert resource is not None
        strategy = strategy_for(resource)
        strategy.default(new)
        strategy.prepare_update(new, obj, self.context(resource, obj))
        causes = strategy.validate_update(new, obj)
        if not causes:
            self.objects[obj["kind"], obj["metadata"].get("namespace"), obj["metadata"]["name"]] = new
        return new, causes


@pytest.fixture
def registry() -> Registry:
    return Registry()
