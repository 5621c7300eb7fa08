"""The Kubernetes client: requests built here, carried by any `Transport`.

Every call is keyed by a `kinds.Resource`, so there is one method per verb and not one per kind. Objects handed out are
shared with caches: never mutate them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from msgspec import Struct

from sampan.kube.errors import ApiError
from sampan.kube.kinds import Resource, find
from sampan.kube.objects import Object, WatchEvent, name_of, namespace_of
from sampan.kube.transport import APPLY_PATCH, JSON, MERGE_PATCH, Request, Transport

__all__ = ["Client", "ObjectList", "resource_of"]

PAGE = 500


class ObjectList(Struct, frozen=True):
    """A list as of `resource_version`; `continue_token` is empty when it is complete."""

    items: list[Object]
    resource_version: str
    continue_token: str = ""


def resource_of(obj: Object) -> Resource:
    """The built-in resource of an object's apiVersion and kind. Raises ApiError 404 for an unknown kind."""
    resource = find(obj.get("apiVersion", ""), obj.get("kind", ""))
    if resource is None:
        raise ApiError(404, "NotFound", f"no resource for kind {obj.get('kind')!r} in {obj.get('apiVersion')!r}")
    return resource


class Client:
    """Typed by resource, not by kind. Every method raises `ApiError` when the server refuses, `OSError` or
    `TimeoutError` when it cannot be reached."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    async def get(
        self, resource: Resource, name: str, namespace: str | None = None, *, subresource: str | None = None
    ) -> Object:
        return await self.transport.send(Request("GET", resource.path(namespace, name, subresource)))

    async def list(
        self, resource: Resource, namespace: str | None = None, *, labels: str = "", fields: str = "", limit: int = 0
    ) -> ObjectList:
        """All objects, fetched in pages of `limit` when it is positive. `namespace=None` means all namespaces.
        Raises ApiError 410 when the snapshot expires between two pages."""
        items: list[Object] = []
        version = ""
        async for page in self.pages(resource, namespace, labels=labels, fields=fields, limit=limit):
            items += page.items
            version = page.resource_version
        return ObjectList(items, version)

    async def pages(
        self, resource: Resource, namespace: str | None = None, *, labels: str = "", fields: str = "", limit: int = 0
    ) -> AsyncIterator[ObjectList]:
        """`list`, a page at a time: for who keeps less than all of every object."""
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(limit) if limit else "", "continue": ""}
        while True:
            answer = await self.transport.send(
                Request("GET", resource.path(namespace, None, None), {k: v for k, v in query.items() if v})
            )
            metadata = answer.get("metadata") or {}
            query["continue"] = metadata.get("continue") or ""
            items = [_named(resource, item) for item in answer.get("items") or ()]
            yield ObjectList(items, metadata.get("resourceVersion") or "", query["continue"])
            if not query["continue"]:
                return

    async def create(
        self, resource: Resource, obj: Object, *, subresource: str | None = None, dry_run: bool = False
    ) -> Object:
        """Create `obj` in its own namespace. With a subresource (`binding`, `eviction`, `token`) its name is the
        parent's."""
        name = name_of(obj) if subresource else None
        path = resource.path(namespace_of(obj), name, subresource)
        return await self.transport.send(Request("POST", path, _dry(dry_run), obj))

    async def update(
        self, resource: Resource, obj: Object, *, subresource: str | None = None, dry_run: bool = False
    ) -> Object:
        """Replace. ApiError 409 when the object's resourceVersion is no longer the stored one."""
        path = resource.path(namespace_of(obj), name_of(obj), subresource)
        return await self.transport.send(Request("PUT", path, _dry(dry_run), obj))

    async def patch(
        self,
        resource: Resource,
        name: str,
        namespace: str | None,
        patch: Any,
        *,
        content_type: str = MERGE_PATCH,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> Object:
        path = resource.path(namespace, name, subresource)
        return await self.transport.send(Request("PATCH", path, _dry(dry_run), patch, content_type))

    async def apply(
        self,
        resource: Resource,
        obj: Object,
        *,
        field_manager: str,
        force: bool = True,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> Object:
        """Server-side apply: `obj` holds exactly the fields that `field_manager` wants to own."""
        query = {"fieldManager": field_manager, "force": "true" if force else "false", **_dry(dry_run)}
        path = resource.path(namespace_of(obj), name_of(obj), subresource)
        return await self.transport.send(Request("PATCH", path, query, obj, APPLY_PATCH))

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        propagation: str = "Background",
        grace_seconds: int | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
    ) -> Object:
        """Delete, or begin to: the answer is the object when it still has finalizers or a grace period, else what the
        server sends last. `uid` and `resource_version` are preconditions (ApiError 409)."""
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        conditions = {"uid": uid, "resourceVersion": resource_version}
        if preconditions := {key: value for key, value in conditions.items() if value}:
            body["preconditions"] = preconditions
        return await self.transport.send(Request("DELETE", resource.path(namespace, name, None), {}, body, JSON))

    async def delete_collection(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        propagation: str = "Background",
    ) -> Object:
        query = {k: v for k, v in {"labelSelector": labels, "fieldSelector": fields}.items() if v}
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        return await self.transport.send(Request("DELETE", resource.path(namespace, None, None), query, body, JSON))

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str = "",
        labels: str = "",
        fields: str = "",
        bookmarks: bool = True,
        timeout_seconds: int | None = None,
    ) -> AsyncIterator[WatchEvent]:
        """Events after `resource_version` until the server ends the stream, which is ordinary: watch again from the
        last version seen. An ERROR event is raised as the `ApiError` it carries (410: list again)."""
        query = {
            "watch": "true",
            "resourceVersion": resource_version,
            "labelSelector": labels,
            "fieldSelector": fields,
            "allowWatchBookmarks": "true" if bookmarks else "",
            "timeoutSeconds": str(timeout_seconds) if timeout_seconds else "",
        }
        request = Request("GET", resource.path(namespace, None, None), {k: v for k, v in query.items() if v})
        stream = self.transport.watch(request)
        async with aclosing(stream) as events:  # type: ignore[type-var]
            async for event in events:
                if event["type"] == "ERROR":
                    raise ApiError.from_status(event["object"])
                yield event

    async def close(self) -> None:
        await self.transport.close()


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}


def _named(resource: Resource, item: Object) -> Object:
    """Items of a typed list carry no apiVersion and kind on the wire; everywhere else we rely on them."""
    if "kind" in item and "apiVersion" in item:
        return item
    return {"apiVersion": resource.api_version, "kind": resource.kind, **item}
