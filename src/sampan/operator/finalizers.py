"""Finalizers: work that must be done before an object may go.

Flow: `ensure` before doing anything outside the cluster; when the object is deleting, clean up, then `remove`.
Guarantees: neither overwrites another's finalizers (both carry the resourceVersion; ApiError 409 means look again),
and both are no-ops when there is nothing to change. Caveat: an object that is already deleting takes no new
finalizers; `ensure` says False.
"""

from __future__ import annotations

from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object, is_deleting, name_of, namespace_of


def has(obj: Object, finalizer: str) -> bool:
    return finalizer in (obj["metadata"].get("finalizers") or ())


async def ensure(client: Client, resource: Resource, obj: Object, finalizer: str) -> bool:
    """Whether the object now has the finalizer."""
    if has(obj, finalizer):
        return True
    if is_deleting(obj):
        return False
    await _write(client, resource, obj, [*(obj["metadata"].get("finalizers") or ()), finalizer])
    return True


async def remove(client: Client, resource: Resource, obj: Object, finalizer: str) -> None:
    """Let go of the object. An object that is gone already is no error."""
    if has(obj, finalizer):
        try:
            await _write(client, resource, obj, [f for f in obj["metadata"]["finalizers"] if f != finalizer])
        except ApiError as error:
            if error.code != 404:
                raise


async def _write(client: Client, resource: Resource, obj: Object, finalizers: list[str]) -> None:
    metadata = {
        "finalizers": finalizers,
        "resourceVersion": obj["metadata"]["resourceVersion"],
        "uid": obj["metadata"]["uid"],
    }
    await client.patch(resource, name_of(obj), namespace_of(obj), {"metadata": metadata})
