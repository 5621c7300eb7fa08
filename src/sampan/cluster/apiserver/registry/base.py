"""The strategy that most kinds need: defaults from rows, one validation for create and update, immutable fields."""

from __future__ import annotations

from typing import Any, ClassVar

from sampan.cluster.apiserver.registry.defaulting import Rows, compile_rows
from sampan.cluster.apiserver.registry.faults import Faults, sub
from sampan.cluster.apiserver.strategy import Strategy
from sampan.kube import selectors
from sampan.kube.errors import Cause
from sampan.kube.objects import Object


class TableStrategy(Strategy):
    """Reads its `rows` (defaults), `fields` (field selectors: path -> value when absent), `immutable` (paths)."""

    rows: ClassVar[Rows] = ()
    fields: ClassVar[dict[str, str]] = {}
    immutable: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self._default = compile_rows(self.rows)

    def default(self, obj: Object) -> None:
        self._default(obj)

    def validate(self, faults: Faults, obj: Object) -> None:
        """Faults of an object, however it came about."""

    def validate_change(self, faults: Faults, new: Object, old: Object) -> None:
        """Faults of a change."""

    def validate_create(self, obj: Object) -> list[Cause]:
        faults = Faults()
        self.validate(faults, obj)
        return faults.causes

    def validate_update(self, new: Object, old: Object) -> list[Cause]:
        if unchanged(new, old):
            return []  # a status write, or one of metadata alone, which the pipeline has checked
        faults = Faults()
        self.validate(faults, new)
        for path in self.immutable:
            now, before = lookup(new, path), lookup(old, path)
            if now != before:
                faults.immutable(path, "" if now is None and isinstance(before, str) else now, before)
        self.validate_change(faults, new, old)
        return faults.causes

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        return {path: as_text(lookup(obj, path), absent) for path, absent in self.fields.items()}


def unchanged(new: Object, old: Object) -> bool:
    """Whether two objects differ in metadata and status at most."""
    apart = ("metadata", "status", "apiVersion")
    return all(new.get(key) == old.get(key) for key in {*new, *old}.difference(apart))


def default_phase(obj: Object, phase: str) -> None:
    """What an object that is there is in when its status says nothing: none is without."""
    if obj["metadata"].get("resourceVersion") and isinstance(obj.setdefault("status", {}), dict):
        obj["status"]["phase"] = obj["status"].get("phase") or phase


def lookup(obj: Any, path: str) -> Any:
    """The value at a dotted path, None when any step is missing."""
    for step in path.split("."):
        obj = obj.get(step) if isinstance(obj, dict) else None
    return obj


def as_text(value: Any, absent: str = "") -> str:
    """A field's value as a field selector compares it."""
    if value is None:
        return absent
    return str(value).lower() if isinstance(value, bool) else str(value)


def validate_selector(faults: Faults, obj: Object, noun: str, *, required: bool = True) -> None:
    """`spec.selector` of a workload: there, not empty, and matching the labels of its template."""
    selector, labels = sub(obj, "spec").get("selector"), sub(obj, "spec", "template", "metadata").get("labels") or {}
    if selector is None:
        if required:
            faults.required("spec.selector")
        faults.invalid("spec.template.metadata.labels", labels or None, "`selector` does not match template `labels`")
        return
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        faults.invalid("spec.selector", selector, f"empty selector is invalid for {noun}")
        return
    before = len(faults.causes)
    faults.label_selector("spec.selector", selector)
    if len(faults.causes) == before and not selectors.from_label_selector(selector).matches(labels):
        faults.invalid("spec.template.metadata.labels", labels or None, "`selector` does not match template `labels`")
