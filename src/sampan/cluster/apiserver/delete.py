"""Deletion in two phases: marked while a finalizer or a grace period holds an object, removed when nothing does."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sampan.cluster.apiserver import decode, definition_names, writeoptions
from sampan.cluster.apiserver.call import TRUE, Answer, Call
from sampan.cluster.apiserver.decode import json_copy
from sampan.cluster.apiserver.kind import Kind
from sampan.cluster.apiserver.update import finished
from sampan.cluster.store import Entry, Remove
from sampan.kube.errors import ApiError, Cause, bad_request, conflict, invalid, not_found
from sampan.kube.objects import Object, parse_time

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
POLICIES = {"Background": None, "Foreground": FOREGROUND, "Orphan": ORPHAN}
ORPHANING = {"Job", "ReplicationController"}
"""Kinds whose dependents stay unless the client says otherwise."""
LEFT = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set"
    " propagationPolicy=Orphan to suppress this warning"
)
RETURNED = {
    "Namespace",
    "Pod",
    "PodTemplate",
    "ResourceQuota",
    "Service",
    "ServiceAccount",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "StorageClass",
}
"""Kinds whose deletion answers with the object even when it is gone at once."""


def read_options(call: Call) -> Object:
    """DeleteOptions from the body or, without one, from the query. Raises ApiError 400 or 422."""
    options: Object = {}
    if call.body not in (None, b"", {}):
        body, _ = decode.read_body(call)
        if not isinstance(body, dict):
            raise bad_request("DeleteOptions must be an object")
        options = body
    for name in ("gracePeriodSeconds", "propagationPolicy", "orphanDependents"):
        text = call.query.get(name)
        if text and name not in options:
            options[name] = text
    options = {key: value for key, value in options.items() if value is not None}
    _check(options)
    if options.get("dryRun") and not call.query.get("dryRun"):
        call.query = {**call.query, "dryRun": ",".join(options["dryRun"])}
        if call.verb in writeoptions.OPTIONS:
            writeoptions.check(call)
    return options


def _check(options: Object) -> None:
    grace = options.get("gracePeriodSeconds")
    if grace is not None:
        try:
            options["gracePeriodSeconds"] = max(int(grace), 1 if int(grace) < 0 else 0)
        except (ValueError, TypeError):
            raise bad_request(f"gracePeriodSeconds: {grace!r} is not an integer") from None
        if isinstance(grace, bool) or options["gracePeriodSeconds"] > 10**9:
            raise bad_request(f"gracePeriodSeconds: {grace!r} is not a number of seconds")
    if isinstance(options.get("orphanDependents"), str):
        options["orphanDependents"] = options["orphanDependents"] in TRUE
    policy = options.get("propagationPolicy")
    causes = []
    if policy is not None and (not isinstance(policy, str) or policy not in POLICIES):
        message = f'Unsupported value: "{policy}": supported values: "Foreground", "Background", "Orphan", "nil"'
        causes.append(Cause("propagationPolicy", message, "FieldValueNotSupported"))
    if policy is not None and options.get("orphanDependents") is not None:
        message = "Invalid value: orphanDependents and deletionPropagation cannot be both set"
        causes.append(Cause("propagationPolicy", message))
    if causes:
        raise invalid("DeleteOptions", "", causes, "meta.k8s.io")
    for name, wanted in (("preconditions", dict), ("dryRun", list)):
        if not isinstance(options.get(name, wanted()), wanted):
            raise bad_request(f"DeleteOptions.{name} has the wrong type")
    if any(not isinstance(one, str) for one in options.get("dryRun", ())):
        raise bad_request("DeleteOptions.dryRun has the wrong type")


class Deleter:
    def __init__(self, server: ApiServer) -> None:
        self.server = server

    async def delete(self, call: Call) -> Answer:
        kind, options = call.served, read_options(call)
        self._advise(call, options)
        await self.server.gate.deletion(call, kind, self.server.store.table(kind.table).get(call.key))
        entry, removed = await self.remove(call, kind, call.key, options)
        if removed and kind.builtin not in RETURNED:
            return Answer(200, obj=_success(kind, entry.object))
        return Answer(200, obj=kind.outward(entry.object))

    @staticmethod
    def _advise(call: Call, options: Object) -> None:
        if call.served.builtin == "Job" and not {"propagationPolicy", "orphanDependents"} & options.keys():
            call.warnings.append(LEFT)

    async def remove(self, call: Call, kind: Kind, key: str, options: Object) -> tuple[Entry, bool]:
        """Delete one object, now or as far as may be: (its last version, whether it is gone). Raises 404, 409."""
        name = key.rpartition("/")[2]
        gone = False

        def mutate(current: Entry | None) -> Object | Remove:
            nonlocal gone
            if current is None:
                raise not_found(kind.resource.plural, name, kind.resource.group)
            obj = json_copy(current.object)
            self._check_preconditions(kind, name, obj, options.get("preconditions") or {})
            if (
                kind.table == "/namespaces"
                and obj["metadata"].get("deletionTimestamp")
                and obj["spec"].get("finalizers")
            ):
                return current.object  # it is the finalizers' turn
            grace = kind.strategy.graceful_delete(obj, options) or 0
            marked = not obj["metadata"].get("deletionTimestamp")
            changed = _mark(kind, obj, options, grace)
            gone = finished(obj) and not (kind.table == "/namespaces" and marked)  # which goes the next time
            if gone and kind.builtin != "Pod":
                return Remove(json_copy(current.object))  # unmarked, since nothing had to wait
            if gone:
                return Remove(obj)
            as_is = kind.crd is None or kind.converter is not None or kind.storage is kind.resource
            if not changed and as_is:
                return current.object
            return obj if as_is else kind.inward(kind.seen(obj))  # in the version of the request

        if call.dry_run:
            current = self.server.store.table(kind.table).get(key)
            made = mutate(current)
            obj = made.object if isinstance(made, Remove) else made
            return Entry(key, 0, b"", obj), gone
        if kind.builtin == "Pod":
            # told of in two steps even where it goes at once: marked, then removed
            await self.server.store.write(kind.table, key, lambda current: _still(mutate(current)))
            options = {name: value for name, value in options.items() if name != "preconditions"}  # met already
        entry = await self.server.store.write(kind.table, key, mutate)
        assert entry is not None
        if gone:
            await self.removed(call, kind, key)
        return entry, gone

    async def removed(self, call: Call, kind: Kind, key: str) -> None:
        """What goes with an object within the request: the Endpoints of a Service."""
        endpoints = self.server.catalog.find("", "v1", "endpoints")
        if kind.builtin == "Service" and endpoints is not None:
            with contextlib.suppress(ApiError):
                await self.remove(call, endpoints, key, {})

    @staticmethod
    def _check_preconditions(kind: Kind, name: str, obj: Object, preconditions: dict[str, Any]) -> None:
        metadata = obj["metadata"]
        for field, label, fate in (
            ("uid", "UID", "deleted and then recreated"),
            ("resourceVersion", "ResourceVersion", "modified"),
        ):
            wanted = preconditions.get(field)
            if wanted and str(wanted) != metadata[field]:
                if kind.table == "/namespaces":
                    message = (
                        f"Precondition failed: {label} in precondition: {wanted}, {label} in object meta:"
                        f" {metadata[field]}"
                    )
                    raise conflict(kind.resource.plural, name, message)
                message = (
                    f"the {label} in the precondition ({wanted}) does not match the {label} in record"
                    f" ({metadata[field]}). The object might have been {fate}"
                )
                raise conflict(kind.resource.kind, name, message, kind.storage.group)

    async def delete_collection(self, call: Call) -> Answer:
        kind = call.served
        entries, _, _ = self.server.reader.select(call)  # what is wrong with the selectors is said first
        options = read_options(call)
        self._advise(call, options)
        revision = self.server.store.revision
        for entry in entries:
            try:
                await self.server.gate.deletion(call, kind, entry)
                await self.remove(call, kind, entry.key, json_copy(options))
            except ApiError as error:
                if error.code == 404:
                    continue
                raise
        # as they were listed, whatever became of them
        listed = [kind.outward(entry.object) for entry in entries]
        if kind.crd is None:
            listed = [{k: v for k, v in obj.items() if k not in ("apiVersion", "kind")} for obj in listed]
        resource = kind.resource
        return Answer(
            obj={
                "apiVersion": resource.api_version,
                "kind": resource.list_kind,
                "metadata": {"resourceVersion": str(revision)},
                "items": listed,
            }
        )


def _still(made: Object | Remove) -> Object:
    return made.object if isinstance(made, Remove) else made


def _mark(kind: Kind, obj: Object, options: Object, grace: int) -> bool:
    """Set the deletion timestamp, grace and finalizers the options ask for; whether that changed anything."""
    before = json_copy(obj["metadata"])
    metadata = obj["metadata"]
    finalizers = list(metadata.get("finalizers") or ())
    asked = kind.builtin != "Event" and (
        options.get("propagationPolicy") or options.get("orphanDependents") is not None
    )  # nothing depends on events
    wanted = POLICIES.get(options.get("propagationPolicy", "")) if asked else None
    decided = {ORPHAN, FOREGROUND} & set(finalizers)  # an earlier deletion did
    if (asked and options.get("orphanDependents")) or (not asked and not decided and kind.builtin in ORPHANING):
        wanted = ORPHAN
    if asked or wanted:
        finalizers = [one for one in finalizers if one not in {ORPHAN, FOREGROUND} or one == wanted]
        if wanted and wanted not in finalizers:
            finalizers.append(wanted)
    if finalizers:
        metadata["finalizers"] = finalizers
    else:
        metadata.pop("finalizers", None)
    present = datetime.now(UTC).replace(microsecond=0)
    if kind.builtin == "CustomResourceDefinition":
        definition_names.mark(obj, present.strftime("%Y-%m-%dT%H:%M:%SZ"))
        return bool(before != metadata)
    if not metadata.get("deletionTimestamp"):
        metadata["deletionTimestamp"] = (present + timedelta(seconds=grace)).strftime("%Y-%m-%dT%H:%M:%SZ")
        if kind.builtin != "Namespace":
            metadata["deletionGracePeriodSeconds"] = grace
        if kind.counts_generation:
            metadata["generation"] = int(metadata.get("generation") or 0) + 1
        if kind.builtin == "Namespace":
            obj.setdefault("status", {})["phase"] = "Terminating"
        return True
    held = int(metadata.get("deletionGracePeriodSeconds") or 0)
    if grace < held and ("gracePeriodSeconds" in options or grace == 0):
        # Grace only shortens, and counts from when the deletion was first asked for.
        began = parse_time(metadata["deletionTimestamp"]) - timedelta(seconds=held)
        metadata["deletionTimestamp"] = (began + timedelta(seconds=grace)).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata["deletionGracePeriodSeconds"] = grace
    if kind.builtin == "Namespace" and finalizers:  # the first deletion of one says nothing of grace
        metadata["deletionGracePeriodSeconds"] = 0
    return bool(before != metadata)


def _success(kind: Kind, obj: Object) -> Object:
    resource, metadata = kind.resource, obj["metadata"]
    details = {"name": metadata["name"], "kind": resource.plural, "uid": metadata.get("uid", "")}
    if resource.group:
        details["group"] = resource.group
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
