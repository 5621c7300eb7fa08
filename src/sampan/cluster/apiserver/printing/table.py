"""Answers in another shape, by `Accept`: Table (what `kubectl get` prints) and PartialObjectMetadata."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from sampan.cluster.apiserver.call import Answer, Call, Frame
from sampan.cluster.apiserver.kind import Kind
from sampan.cluster.apiserver.versions import conversion
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object

SHAPES = {"Table", "PartialObjectMetadata", "PartialObjectMetadataList"}
ACCEPTED = {"application/json", "application/*", "*/*", "application/yaml", ""}


TEMPLATE_COUNT = "deprecated.daemonset.template.generation"


def accepted(accept: str) -> list[dict[str, str]]:
    """The media ranges of an Accept header in order, each with its parameters, the type under "type"."""
    ranges = []
    for part in accept.split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        row = dict(pair.split("=", 1) for pair in parameters if "=" in pair)
        row["type"] = media.lower()
        ranges.append(row)
    return ranges


def shape_of(call: Call) -> str:
    """`Table`, `PartialObjectMetadata`, or "" for the object itself. Raises ApiError 406 when nothing fits."""
    for row in accepted(call.accept):
        if row["type"] not in ACCEPTED:
            continue
        wanted = row.get("as", "")
        if not wanted:
            return ""
        if (
            wanted in SHAPES
            and row.get("g", "meta.k8s.io") == "meta.k8s.io"
            and row.get("v", "v1") in {"v1", "v1beta1"}
        ):
            return wanted
    raise ApiError(
        406, "NotAcceptable",
        "only the following media types are accepted: application/json, application/json;as=Table;g=meta.k8s.io;v=v1",
    )  # fmt: skip


def partial(obj: Object) -> Object:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": obj["metadata"],
    }


def _rows(kind: Kind, objects: list[Object], include: str) -> list[dict[str, Any]]:
    from sampan.cluster.apiserver.printing.columns import cells

    rows = []
    stored = (
        kind.storage if kind.crd is None and kind.storage is not kind.resource else None
    )  # whose metadata are shown
    for obj in objects:
        row: dict[str, Any] = {"cells": cells(kind.columns, obj)}
        if kind.builtin == "DaemonSet":
            obj = _without_count(obj)  # noqa: PLW2901
        if include == "Object":
            row["object"] = obj
        elif include != "None":
            row["object"] = partial(obj if stored is None else conversion.convert(obj, stored))
        rows.append(row)
    return rows


def _without_count(obj: Object) -> Object:
    """A DaemonSet without the count of its templates, which rows do not show."""
    metadata = dict(obj["metadata"])
    kept = {key: value for key, value in (metadata.pop("annotations", None) or {}).items() if key != TEMPLATE_COUNT}
    if kept:
        metadata["annotations"] = kept
    return {**obj, "metadata": metadata}


def table(kind: Kind, objects: list[Object], metadata: Object, include: str, *, columns: bool = True) -> Object:
    from sampan.cluster.apiserver.printing.columns import has_columns

    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [column.definition() for column in kind.columns] if columns else [],
        "rows": _rows(kind, objects, include) or ([] if kind.crd or has_columns(kind.resource) else None),
    }


def reshape(call: Call, answer: Answer) -> Answer:
    """The answer of get or list in the shape the client accepts."""
    shape = shape_of(call)
    if not shape or call.kind is None:
        return answer
    value = answer.value()
    if not isinstance(value, dict) or "metadata" not in value or value.get("kind") == "Status":
        return answer
    is_list = "items" in value
    resource = call.kind.resource
    named = {"kind": resource.kind, "apiVersion": resource.api_version}  # as items of a list are not, and rows are
    objects = [{**named, **item} for item in value["items"]] if is_list else [value]
    if shape == "Table":
        metadata = value["metadata"] if is_list else {"resourceVersion": value["metadata"].get("resourceVersion", "")}
        answer.obj = table(call.kind, objects, metadata, call.query.get("includeObject", "Metadata"))
    elif is_list:
        answer.obj = {
            "kind": "PartialObjectMetadataList",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": value["metadata"],
            "items": [partial(obj) for obj in objects],
        }
    else:
        answer.obj = partial(value)
    answer.encoded = None
    return answer


async def reshape_frames(call: Call, frames: AsyncIterator[Frame]) -> AsyncIterator[Frame]:
    """A watch in the shape the client accepts; column definitions come with the first Table only."""
    shape, first = shape_of(call), True
    include = call.query.get("includeObject", "Metadata")
    async for frame in frames:
        if not shape or frame.type == "ERROR":
            yield frame
            continue
        obj = frame.object
        if shape == "Table":
            objects = [] if frame.type == "BOOKMARK" else [obj]
            metadata = (
                obj["metadata"]
                if frame.type == "BOOKMARK"
                else {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            )
            made = table(call.served, objects, metadata, include, columns=first)
            if frame.type == "BOOKMARK":
                made["rows"] = [{"cells": [], "object": partial(obj)}]
            first = False
            yield Frame(frame.type, obj=made)
        else:
            yield Frame(frame.type, obj=partial(obj))
