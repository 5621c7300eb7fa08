"""One write to an object that is there: from what is wanted to what is stored, step by step, in upstream's order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from sampan.cluster.apiserver import carry, decode, patching
from sampan.cluster.apiserver.call import Call
from sampan.cluster.apiserver.decode import json_copy
from sampan.cluster.apiserver.literal import given as literal_lists
from sampan.cluster.apiserver.metadata import causes_of, change_causes, uid_conflict
from sampan.cluster.apiserver.refusal import all_causes
from sampan.cluster.store import Entry, Remove
from sampan.kube import zeros
from sampan.kube.errors import Cause, conflict, invalid, not_found
from sampan.kube.objects import Object
from sampan.kube.patch import last_applied, managed_fields

if TYPE_CHECKING:
    from sampan.cluster.apiserver.write import Writer

STALE = "the object has been modified; please apply your changes to the latest version and try again"
Change = Callable[[Object], Object]
"""From a fresh copy of the present object, in the version of the request, to the wanted one."""


class Update:
    """Makes of the present entry the new object; called anew where another write came first.

    `change` gives what is wanted; with `tracked` it saw to the owners; `note` is what `kubectl apply` notes then.
    `gone` is the last the client sees of an object that had only waited for this write to go.
    """

    def __init__(self, writer: Writer, call: Call, change: Change, *, tracked: bool, note: str) -> None:
        self.writer, self.call, self.kind = writer, call, call.served
        self.change, self.tracked, self.note = change, tracked, note
        self.on_status = call.subresource == "status"
        self.gone: Object | None = None

    def __call__(self, current: Entry | None) -> Object | Remove:
        """Raises ApiError 404, 409, 422, NeedsConversion, NeedsReview."""
        call, kind, self.gone = self.call, self.kind, None
        if current is None:
            raise not_found(kind.resource.plural, call.name, kind.resource.group)
        old = kind.present(current.object)
        wanted = self.change(kind.seen(msgspec.json.decode(current.encoded)))
        if call.verb != "patch":
            decode.check_owners(call, wanted)
        check_versions(call, wanted, old)
        marks = carry.marks(wanted)
        emptied, literal = carry.emptied(kind, wanted, old), carry.gives_empty(kind, wanted) and not call.subresource
        new = self._settled(wanted, old, marks)
        if call.verb == "patch":  # last: an owner that was given twice is owned as such
            decode.check_owners(call, new)
        zeros.close(kind.written_schema, new)
        self._admit(new, old, marks, emptied, literal=literal)
        self.writer.server.gate.validate(call, new, old)
        if self.tracked and managed_fields.only_time_differs(new, old):
            if kind.crd is None or kind.storage is kind.resource:
                return current.object
            new = old  # written all the same, without what this version does not know
        made = kind.kept(new)
        if not finished(made):
            return made
        self.gone = made if kind.crd is None else new
        zeros.reopen(kind.written_schema, self.gone, wanted)  # which is not read from what is stored
        return Remove(json_copy(current.object))  # what watchers are told is what there was

    def _settled(self, wanted: Object, old: Object, marks: Object) -> Object:
        """What is wanted with all that the server adds and keeps, and its owners."""
        call, kind, tracked = self.call, self.kind, self.tracked
        bare = tracked and kind.crd is not None and carry.alike(wanted, old)  # which adds no defaults
        if self.note:
            last_applied.renew(wanted, self.note)
        rewritten = literal_lists(call, kind, wanted)
        new, readable = kind.working(wanted), tracked or patching.is_readable(kind, wanted)
        sent = self._sent(new, old)
        if self.on_status and kind.builtin in carry.LABELLED:
            kind.strategy.default(new)
        carry.carry_over(call, kind, new, old)
        if not bare:
            new = self.writer.settle(kind, new, applied=tracked)
        if kind.crd is not None and self.on_status:  # changes nothing else, nor by defaults
            kept = {key: value for key, value in old.items() if key not in {"metadata", "status"}}
            new = {**{key: new[key] for key in ("metadata", "status") if key in new}, **json_copy(kept)}
        if not readable or (sent is not None and not sent["metadata"].get("managedFields")):
            new["metadata"].pop("managedFields", None)
        elif sent is not None and kind.crd is None:
            carry.own(new, sent, readable=True)
        elif not tracked:
            told, track = carry.marked(new, marks), patching.track
            track(old, told, kind.written_schema, call.field_manager, call.subresource, kind, rewritten)
            carry.own(new, told, readable=True)
        return new

    def _sent(self, new: Object, old: Object) -> Object | None:
        """All that a write of the status was sent with, and its owners, for kinds that are owned so."""
        if self.tracked or not self.on_status or not carry.is_owned_as_sent(self.kind):
            return None
        sent = self.writer.settle(self.kind, json_copy(new))
        patching.track(old, sent, self.kind.written_schema, self.call.field_manager, self.call.subresource, self.kind)
        return sent

    def _admit(self, new: Object, old: Object, marks: Object, emptied: list[Cause], *, literal: bool) -> None:
        """Strategy, admission and validation."""
        call, kind, writer = self.call, self.kind, self.writer
        kind.strategy.prepare_update(new, old, writer.context(call, call.name))
        writer.server.gate.mutate(call, new, old)
        for admit in writer.admission:
            admit(call, new, old)
        if call.subresource != "binding":  # where a pod runs is no change of what it is
            carry.bump(call, kind, new, old, literal=literal)
        metadata_causes = causes_of(kind, new, call.name) + change_causes(call, new, old, marks)
        causes = writer.schema_causes(kind, new, old) + patching.scale_causes(kind, new)

        def more() -> list[Cause]:
            return kind.strategy.validate_update(new, old) + emptied

        writer.refuse(kind, call.name, all_causes(kind, metadata_causes, causes, more, fresh=False))
        call.warnings.extend(kind.warnings(new, old, status=self.on_status))


def check_versions(call: Call, wanted: Object, old: Object) -> None:
    """ApiError 409 or 422 for an object that was read in another version, or is another one of the same name."""
    resource = call.served.resource
    metadata, present = wanted["metadata"], old["metadata"]
    version = metadata.get("resourceVersion")
    if version and version != "0" and version != present["resourceVersion"]:
        raise conflict(resource.plural, call.name, STALE, resource.group)
    if metadata.get("uid") and metadata["uid"] != present["uid"]:
        if call.verb == "patch":
            cause = Cause("metadata.uid", f'Invalid value: "{metadata["uid"]}": field is immutable')
            raise invalid(resource.kind, call.name, [cause], resource.group)
        raise uid_conflict(call, metadata["uid"], present["uid"])


def finished(obj: Object) -> bool:
    """Whether an object marked for deletion has nothing left to wait for."""
    metadata = obj["metadata"]
    if not metadata.get("deletionTimestamp") or metadata.get("finalizers"):
        return False
    if obj["kind"] == "Namespace" and obj["apiVersion"] == "v1" and (obj.get("spec") or {}).get("finalizers"):
        return False
    return not metadata.get("deletionGracePeriodSeconds")
