"""ControllerRevisions: the history of a StatefulSet's or DaemonSet's template, as `kubectl rollout history|undo`
reads it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from msgspec import Struct

from sampan.cluster.controllers import pods
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.informer import Informer
from sampan.kube.objects import Object, annotations_of, labels_of, name_of, namespace_of, owner_reference, uid_of
from sampan.operator.cache import OWNER

LABEL = "controller-revision-hash"


class Revisions(Struct, frozen=True):
    """`update` is what pods should become, `current` what they were before; names, with their templates."""

    current: str
    update: str
    templates: dict[str, Object]
    number: int
    collisions: int


async def sync(client: Client, informer: Informer, owner: Object, current: str) -> Revisions:
    """Make sure that the owner's present template is the newest revision. `current` is the name in its status."""
    history = sorted(informer.by_index(OWNER, uid_of(owner)), key=lambda r: (r.get("revision", 0), name_of(r)))
    template = owner["spec"]["template"]
    data = {"spec": {"template": {**template, "$patch": "replace"}}}
    wanted = pods.template_without(template)
    collisions = (owner.get("status") or {}).get("collisionCount") or 0
    newest = history[-1].get("revision", 0) if history else 0
    found = next((r for r in reversed(history) if pods.template_without(_template(r)) == wanted), None)
    if found is None:
        found, collisions = await _create(client, owner, data, newest + 1, collisions)
        history.append(found)
    elif found.get("revision") != newest:
        patch = {"revision": newest + 1}
        raised = await client.patch(kinds.CONTROLLER_REVISION, name_of(found), namespace_of(found), patch)
        history = [*(r for r in history if r is not found), raised]
        found = raised
    templates = {name_of(revision): _template(revision) for revision in history}
    update = name_of(found)
    return Revisions(
        current if current in templates else update, update, templates, found.get("revision", 1), collisions
    )


async def prune(client: Client, informer: Informer, owner: Object, live: Collection[str]) -> None:
    """Delete the oldest revisions beyond revisionHistoryLimit that no pod has."""
    history = sorted(informer.by_index(OWNER, uid_of(owner)), key=lambda r: r.get("revision", 0))
    unused = [revision for revision in history if name_of(revision) not in live]
    for revision in unused[: max(0, len(unused) - owner["spec"].get("revisionHistoryLimit", 10))]:
        try:
            await client.delete(
                kinds.CONTROLLER_REVISION, name_of(revision), namespace_of(revision), uid=uid_of(revision)
            )
        except ApiError as error:
            if error.code not in (404, 409):
                raise


def _template(revision: Object) -> Any:
    template = ((revision.get("data") or {}).get("spec") or {}).get("template") or {}
    return {key: value for key, value in template.items() if key != "$patch"}


async def _create(client: Client, owner: Object, data: Object, number: int, collisions: int) -> tuple[Object, int]:
    while True:
        digest = pods.safe_hash(data, collisions)
        body: Object = {
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {
                "name": f"{name_of(owner)}-{digest}",
                "namespace": namespace_of(owner),
                "labels": {**_selector_labels(owner), LABEL: digest},
                "annotations": {
                    key: value
                    for key, value in annotations_of(owner).items()
                    if key != "kubectl.kubernetes.io/last-applied-configuration"
                },
                "ownerReferences": [owner_reference(owner)],
            },
            "data": data,
            "revision": number,
        }
        try:
            return await client.create(kinds.CONTROLLER_REVISION, body), collisions
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            collisions += 1


def _selector_labels(owner: Object) -> dict[str, str]:
    """What `kubectl rollout history` finds revisions by."""
    return (owner["spec"].get("selector") or {}).get("matchLabels") or labels_of(owner)
