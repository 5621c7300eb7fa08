"""The resources of a system. A handle is a declaration, a source of grants, and, once bound, the client."""

from __future__ import annotations

from sampan.model.handles.base import Access, Grant, Handle
from sampan.model.handles.bucket import (
    Bucket,
    ObjectConflict,
    ObjectCorrupt,
    ObjectDenied,
    ObjectError,
    ObjectInfo,
    ObjectMissing,
    ObjectTimeout,
)
from sampan.model.handles.cache import Cache, Local
from sampan.model.handles.configuration import Config, Secret
from sampan.model.handles.database import Database
from sampan.model.handles.topic import Topic

__all__ = [
    "Access",
    "Bucket",
    "Cache",
    "Config",
    "Database",
    "Grant",
    "Handle",
    "Local",
    "ObjectConflict",
    "ObjectCorrupt",
    "ObjectDenied",
    "ObjectError",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectTimeout",
    "Secret",
    "Topic",
]
