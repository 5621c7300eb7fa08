"""What differs from kind to kind in a write: the hooks of a `Strategy`, and what a hook may see, its `Context`.

The pipeline (`write.py`) is the same for every kind. The kinds' own rules live in `registry/`, found by
`registry.strategy_for(resource)`. Hooks are synchronous and run while no other write to the same object is under way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from sampan.kube.errors import Cause
from sampan.kube.objects import Object

if TYPE_CHECKING:
    from sampan.kube.kinds import Resource


class User(Struct, frozen=True):
    """Who makes a request, as authenticated."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: dict[str, list[str]] = {}


class Context(Struct, frozen=True):
    """One write: what is being done, by whom, and a view of everything stored.

    `get` and `list` also see writes that are still being made durable, so that an allocation (a cluster IP, a node
    port) is never handed out twice. `list` takes None for all namespaces. What they return is shared: do not mutate it.
    `settings` are the cluster's own: `service_cidr` (such as "127.64.128.0/17"), `node_name`, `node_ip`.
    """

    resource: Resource
    namespace: str | None
    name: str
    user: User
    get: Callable[[Resource, str, str | None], Object | None]
    list: Callable[[Resource, str | None], list[Object]]
    subresource: str | None = None
    dry_run: bool = False
    settings: dict[str, Any] = {}


class Strategy:
    """The rules of one kind. Every hook here does nothing; a kind overrides what it needs.

    Hooks get fresh copies and mutate them in place. The pipeline itself does names, uid, resourceVersion, generation
    (bumped when anything but metadata and status changes), managedFields, and keeps `status` apart: a main write
    carries the old status over, a status write the old everything else. `prepare_*` therefore need not.
    """

    optional: frozenset[str] = frozenset()
    """Fields the schema calls required that may be missing, or that the kind asks for itself; `[]` is any element."""

    def default(self, obj: Object) -> None:
        """Fill in defaults; runs on every write, before validation. Must be idempotent."""

    def prepare_create(self, obj: Object, ctx: Context) -> None:
        """Set what the server decides (allocate, set initial status). May raise `ApiError`."""

    def prepare_update(self, new: Object, old: Object, ctx: Context) -> None:
        """Carry over what the client may leave out; `ctx.subresource` is "status" for a status write."""

    def validate_create(self, obj: Object) -> list[Cause]:
        """Every fault beyond what the schema says; metadata has been checked already."""
        return []

    def validate_update(self, new: Object, old: Object) -> list[Cause]:
        """Faults of the change (immutable fields) and of the result."""
        return []

    def warnings(self, new: Object, old: Object | None) -> list[str]:
        """What a client should know of an object that is accepted nevertheless."""
        return []

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        """Field selectors beyond metadata.name and metadata.namespace, with this object's values."""
        return {}

    def graceful_delete(self, obj: Object, options: Object) -> int | None:
        """Seconds of grace before the object may be removed; None or 0: at once. `options`: DeleteOptions."""
        return None
