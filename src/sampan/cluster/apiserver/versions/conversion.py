"""Kinds served in two versions and stored in one: HorizontalPodAutoscaler v1/v2, Event core/events.k8s.io.

Custom kinds convert themselves: not at all, or by `webhook.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from sampan.cluster.apiserver.versions import autoscaler
from sampan.kube import kinds
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object

if TYPE_CHECKING:
    from sampan.cluster.apiserver.call import Answer
    from sampan.cluster.apiserver.kind import Kind

_STORAGE = {
    kinds.HORIZONTAL_POD_AUTOSCALER_V1: kinds.HORIZONTAL_POD_AUTOSCALER,
    kinds.EVENTS_EVENT: kinds.CORE_EVENT,
}


class Converts(Protocol):
    """What converts the objects of a custom kind whose versions differ: `webhook.Converter`."""

    def known(self, obj: Object, to: str) -> Object:
        """A fresh copy of `obj` in the version `to`. Raises NeedsConversion."""

    def viewed(self, obj: Object, to: str) -> Object:
        """As `known`, to see who owns what. Raises Unconvertible, too, where it cannot be converted."""

    async def learn(self, obj: Object, to: str) -> None: ...

    async def attempt(self, obj: Object, to: str) -> None:
        """As `learn`; what fails is remembered for `viewed`."""

    async def convert(self, objects: Sequence[Object], to: str) -> list[Object]: ...

    async def answer(self, kind: Kind, answer: Answer) -> Answer: ...


class NeedsConversion(Exception):
    """A step that stops until an object has been converted, or with `to_view` until that has been tried."""

    def __init__(self, converter: Converts, obj: Object, to: str, *, to_view: bool = False) -> None:
        super().__init__(to)
        self.converter, self.obj, self.to, self.to_view = converter, obj, to, to_view

    async def satisfy(self) -> None:
        await (self.converter.attempt if self.to_view else self.converter.learn)(self.obj, self.to)


def storage_of(resource: Resource) -> Resource:
    return _STORAGE.get(resource, resource)


def has_versions(stored: Resource) -> bool:
    """Whether a kind that is stored so is served in another version, too."""
    return stored in _STORAGE.values()


def table_of(resource: Resource) -> str:
    stored = storage_of(resource)
    return f"{stored.group}/{stored.plural}"


def convert(obj: Object, to: Resource) -> Object:
    """A fresh object in the version `to`; only apiVersion changes where no conversion is known (CRD strategy None)."""
    convert_body = _CONVERT.get((obj.get("apiVersion", ""), to.api_version, to.kind))
    result = convert_body(obj) if convert_body else dict(obj)
    result["apiVersion"] = to.api_version
    return result


_EVENT_FIELDS = {
    # core/v1 -> events.k8s.io/v1
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_EVENT_BACK = {new: old for old, new in _EVENT_FIELDS.items()}


def _event_to_new(obj: Object) -> Object:
    unsaid = {name for name in ("reportingComponent", "reportingInstance") if not obj.get(name)}
    return {_EVENT_FIELDS.get(key, key): value for key, value in obj.items() if key not in unsaid}


def _event_to_core(obj: Object) -> Object:
    return {_EVENT_BACK.get(key, key): value for key, value in obj.items()}


_CONVERT: dict[tuple[str, str, str], Callable[[Object], Object]] = {
    ("autoscaling/v2", "autoscaling/v1", "HorizontalPodAutoscaler"): autoscaler.to_v1,
    ("autoscaling/v1", "autoscaling/v2", "HorizontalPodAutoscaler"): autoscaler.to_v2,
    ("v1", "events.k8s.io/v1", "Event"): _event_to_new,
    ("events.k8s.io/v1", "v1", "Event"): _event_to_core,
}
