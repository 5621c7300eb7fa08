"""What `kubectl get` shows: the columns of every kind, built-in ones from tables, custom ones from their CRD."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import structs

from sampan.cluster.apiserver.printing import cluster, network, workloads
from sampan.cluster.apiserver.printing.base import CREATED_AT, NAME, Column, Value, human_duration
from sampan.cluster.apiserver.printing.definitions import crd_columns
from sampan.cluster.apiserver.versions import conversion
from sampan.kube.objects import Object

if TYPE_CHECKING:
    from sampan.kube.kinds import Resource

__all__ = ["COLUMNS", "Column", "cells", "columns_for", "crd_columns", "has_columns", "human_duration"]

COLUMNS: dict[tuple[str, str], tuple[Column, ...]] = {
    **workloads.COLUMNS,
    **network.COLUMNS,
    **cluster.COLUMNS,
}
"""(group, kind) -> columns, whatever the version."""


def columns_for(resource: Resource) -> list[Column]:
    """The columns of a built-in kind; name and creation time for a kind without a row. They read what is stored."""
    found = list(COLUMNS.get((resource.group, resource.kind), (NAME, CREATED_AT)))
    stored = conversion.storage_of(resource)
    if stored is resource:
        return found
    return [structs.replace(column, value=_of_stored(column.value, stored)) for column in found]


def _of_stored(value: Value, stored: Resource) -> Value:
    return lambda obj: value(conversion.convert(obj, stored))


def has_columns(resource: Resource) -> bool:
    """Whether a built-in kind has columns of its own."""
    return (resource.group, resource.kind) in COLUMNS


def cells(columns: list[Column], obj: Object) -> list[Any]:
    """One row of a Table."""
    return [column.value(obj) for column in columns]
