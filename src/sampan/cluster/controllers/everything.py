"""Informers over every kind there is, custom ones included: what garbage collection and namespace deletion look
through."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable

from sampan.kube import kinds
from sampan.kube.informer import Informer
from sampan.kube.kinds import BUILTIN, Resource
from sampan.kube.objects import Object
from sampan.operator import Controller
from sampan.operator.cache import Cache
from sampan.operator.conditions import is_true
from sampan.operator.events import Recorder

Subscriber = Callable[[Resource, Object | None, Object | None], None]


def stored() -> list[Resource]:
    """Built-in kinds that are stored and have a life of their own, once each whatever the number of versions."""
    chosen: dict[tuple[str, str], Resource] = {}
    for resource in BUILTIN:
        if {"watch", "delete"} <= set(resource.verbs) and resource.kind not in ("Event", "APIService"):
            chosen.setdefault((resource.group, resource.plural), resource)
    return list(chosen.values())


def resource_of(definition: Object) -> Resource | None:
    """The resource that an established CustomResourceDefinition serves, in its storage version."""
    spec, status = definition["spec"], definition.get("status") or {}
    if not is_true(status.get("conditions"), "Established"):
        return None
    names = status.get("acceptedNames") or spec["names"]
    served = [v for v in spec["versions"] if v.get("served")]
    version = next((v for v in served if v.get("storage")), served[0] if served else None)
    if version is None:
        return None
    namespaced = spec.get("scope") == "Namespaced"
    return Resource(
        spec["group"], version["name"], names["kind"], names["plural"], names.get("singular", ""), namespaced
    )


class Everything:
    """One per manager. Subscribers hear of each change of any object; of a kind that ends, that its objects are
    gone."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []
        self._informers: dict[tuple[str, str], Informer] = {}
        self._drops: set[asyncio.Task[None]] = set()
        self._cache: Cache | None = None

    def bind(self, cache: Cache) -> None:
        """Start following; binding again is one binding."""
        if self._cache is None:
            self._cache = cache
            for resource in stored():
                self._follow(resource)
            cache.informer(kinds.CUSTOM_RESOURCE_DEFINITION).add_handler(self._definition)

    def subscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.append(subscriber)

    def informers(self) -> list[Informer]:
        return list(self._informers.values())

    def find(self, api_version: str, kind: str) -> Resource | None:
        group = api_version.rpartition("/")[0]
        for informer in self._informers.values():
            if informer.resource.group == group and informer.resource.kind == kind:
                return informer.resource
        return kinds.find(api_version, kind)

    def get(self, resource: Resource, key: str) -> Object | None:
        informer = self._informers.get((resource.group, resource.plural))
        return informer.get(key) if informer else None

    def _follow(self, resource: Resource) -> None:
        assert self._cache is not None
        informer = self._cache.informer(resource)
        self._informers[resource.group, resource.plural] = informer
        informer.add_handler(lambda old, new: self._tell(resource, old, new))

    def _tell(self, resource: Resource, old: Object | None, new: Object | None) -> None:
        for subscriber in self._subscribers:
            subscriber(resource, old, new)

    def _definition(self, old: Object | None, new: Object | None) -> None:
        definition = new or old
        assert definition is not None
        identity = (definition["spec"]["group"], definition["spec"]["names"]["plural"])
        present = self._informers.get(identity)
        wanted = resource_of(new) if new is not None else None
        if present is not None and wanted != present.resource:
            self._unfollow(identity, present)
            present = None
        if wanted is not None and present is None:
            self._follow(wanted)

    def _unfollow(self, identity: tuple[str, str], informer: Informer) -> None:
        assert self._cache is not None
        del self._informers[identity]
        for obj in informer.list():
            self._tell(informer.resource, obj, None)
        task = asyncio.get_running_loop().create_task(self._cache.drop(informer.resource))
        self._drops.add(task)
        task.add_done_callback(self._drops.discard)


class FollowsEverything(Controller):
    """A controller that hears of each change of any object, in `content`."""

    def __init__(self, everything: Everything) -> None:
        super().__init__()
        self.everything = everything

    def bind(self, cache: Cache, events: Recorder) -> None:
        self.everything.subscribe(self.content)
        self.everything.bind(cache)
        super().bind(cache, events)

    @abstractmethod
    def content(self, resource: Resource, old: Object | None, new: Object | None) -> None: ...
