"""Event: of the core group, and of events.k8s.io, which is stored as the same and looked into more strictly."""

from __future__ import annotations

from typing import Any, ClassVar

from sampan.cluster.apiserver.registry.base import TableStrategy, as_text, lookup
from sampan.cluster.apiserver.registry.faults import Faults, Structure, qualified_name_problems, sub
from sampan.kube.errors import Cause
from sampan.kube.objects import Object


class Event(TableStrategy):
    controller: ClassVar[str] = "reportingComponent"
    """What the version of the request calls who reports."""

    fields: ClassVar[dict[str, str]] = {
        **{
            f"involvedObject.{key}": ""
            for key in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
        },
        "reason": "",
        "type": "",
        "reportingComponent": "",
    }

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        found = super().selectable_fields(obj)
        regarding = sub(obj, "regarding")  # the name events.k8s.io/v1 has for it
        for key, value in regarding.items():
            if f"involvedObject.{key}" in found and not found[f"involvedObject.{key}"]:
                found[f"involvedObject.{key}"] = as_text(value)
        for key in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"):
            found[f"regarding.{key}"] = found[f"involvedObject.{key}"]
        component = lookup(obj, "source.component") or lookup(obj, "deprecatedSource.component")
        found["source"] = as_text(component or obj.get("reportingComponent") or obj.get("reportingController"))
        found["reportingController"] = as_text(obj.get("reportingController") or obj.get("reportingComponent"))
        return found

    def validate(self, faults: Faults, obj: Object) -> None:
        namespace, about = sub(obj, "metadata").get("namespace"), sub(obj, "involvedObject").get("namespace") or ""
        if not obj.get("eventTime"):
            if about != namespace and not (about == "" and namespace == "default"):
                faults.invalid("involvedObject.namespace", about, "does not match event.namespace")
            return
        if not about and namespace not in ("default", "kube-system"):
            faults.invalid("involvedObject.namespace", about, "does not match event.namespace")
        component = obj.get("reportingComponent") or ""
        if not component:
            faults.required(self.controller)
        for problem in qualified_name_problems(component):
            faults.invalid(self.controller, component, problem)
        for field, most in (("reportingInstance", 128), ("action", 128), ("reason", 128), ("message", 1024)):
            text = obj.get(field) or ""
            if not text and field != "message":
                faults.required(field)
            if len(text) > most:
                faults.invalid(field, "", f"can have at most {most} characters")


_UNSET: dict[str, Any] = {"firstTimestamp": None, "lastTimestamp": None, "count": 0, "source": {}}
_FIXED = (
    "involvedObject", "reason", "message", "source", "firstTimestamp", "lastTimestamp", "count", "type", "eventTime",
    "action", "related", "reportingComponent", "reportingInstance",
)  # fmt: skip
"""Fields that an update by way of events.k8s.io leaves as they are."""


class StrictEvent(Event):
    controller = "reportingController"

    def validate_create(self, obj: Object) -> list[Cause]:
        faults = Faults()
        self.validate(faults, obj)
        self._series(faults, obj)
        if not obj.get("eventTime"):
            faults.required("eventTime")
        if obj.get("type") not in ("Normal", "Warning"):
            faults.invalid("type", "", f"has invalid value: {obj.get('type') or ''}")
        for field in _UNSET:
            if obj.get(field):
                faults.invalid(field, "", "needs to be unset")
        return faults.causes

    def validate_change(self, faults: Faults, new: Object, old: Object) -> None:
        if new.get("series") != old.get("series"):
            self._series(faults, new)
        for field in _FIXED:
            after, before = new.get(field), old.get(field)
            if (after or None) != (before or None) or (field == "related" and (after is None) != (before is None)):
                where = self.controller if field == Event.controller else field
                faults.invalid(where, _shown(field, new.get(field)), "field is immutable")

    @staticmethod
    def _series(faults: Faults, obj: Object) -> None:
        series = sub(obj, "series")
        if obj.get("series") is not None:
            if (series.get("count") or 0) < 2:
                faults.invalid("series.count", "", "should be at least 2")
            if not series.get("lastObservedTime"):
                faults.required("series.lastObservedTime")


_REFERENCE = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
_STRUCTURES = {"involvedObject": _REFERENCE, "related": _REFERENCE, "source": ("component", "host")}
_GO = {"uid": "UID", "apiVersion": "APIVersion"}
_NOTHING = {"count": 0, "related": None, "eventTime": None, "firstTimestamp": None, "lastTimestamp": None}


def _shown(field: str, value: Any) -> Any:
    """A field as upstream shows it: structures by Go's names, with all that is in them."""
    if field in _STRUCTURES and (value is not None or field not in _NOTHING):
        names = _STRUCTURES[field]
        return Structure({_GO.get(name, name[0].upper() + name[1:]): (value or {}).get(name) or "" for name in names})
    return _NOTHING.get(field, "") if value is None else value


STRATEGIES = {("", "Event"): Event(), ("events.k8s.io", "Event"): StrictEvent()}
